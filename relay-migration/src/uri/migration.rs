//! The three URIs that a migration through a source proxy needs.

use std::fmt;
use std::str::FromStr;

use super::escape::{Place, escape, unescape};
use super::{Parameter, Parts, Transport, Uri};
use crate::channel::Channel;
use crate::invalid::{Invalid, invalid, shown};
use crate::key::Key;
use crate::socket_path::{BaseDir, Route, SUN_PATH_MAX, SocketPath};

/// Which of libvirt's daemons runs the virtual machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Daemon {
    /// A user's own: what KubeVirt's launcher has, unless it runs as root.
    #[default]
    Session,
    /// The machine's.
    System,
}

impl Daemon {
    const fn path(self) -> &'static str {
        match self {
            Self::Session => "/session",
            Self::System => "/system",
        }
    }
}

/// `unix://PATH`, as `migrate_uri` and `disks_uri` are for a migration over unix sockets.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SocketUri(SocketPath);

impl SocketUri {
    /// For that socket.
    ///
    /// # Errors
    /// If the path is longer than [`SUN_PATH_MAX`]: QEMU and libvirt have no other way to it.
    pub fn new(path: SocketPath) -> Result<Self, Invalid> {
        match path.route() {
            Route::Direct => Ok(Self(path)),
            Route::ByDescriptor => invalid(format!(
                "{} has {} bytes, and libvirt can connect to {SUN_PATH_MAX} (unix(7)); use a shorter directory or key",
                shown(path.as_str()),
                path.as_str().len()
            )),
        }
    }

    /// The socket.
    #[must_use]
    pub const fn path(&self) -> &SocketPath {
        &self.0
    }
}

impl fmt::Display for SocketUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", escape(self.0.as_str(), Place::Path))
    }
}

impl FromStr for SocketUri {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.strip_prefix("unix://") {
            Some(path) if path.contains(['?', '#']) => invalid(format!(
                "{} has more than a path; '?' and '#' in one are written %3F and %23",
                shown(text)
            )),
            Some(path) => Self::new(unescape(path)?.parse()?),
            None => invalid(format!("{} is no unix:///PATH", shown(text))),
        }
    }
}

/// What libvirt's `virDomainMigrateToURI3` is given, as KubeVirt's launcher builds it.
///
/// ```
/// use relay_migration::uri::{Daemon, MigrationUris};
/// let uris = MigrationUris::new(&"/var/run/kubevirt".parse()?, &"uid".parse()?, Daemon::Session, true)?;
/// let sockets = "/var/run/kubevirt/migrationproxy/uid";
/// assert_eq!(uris.dconnuri.to_string(), format!("qemu+unix:///session?socket={sockets}-source.sock"));
/// assert_eq!(uris.migrate_uri.to_string(), format!("unix://{sockets}-49152-source.sock"));
/// assert_eq!(uris.disks_uri.map(|uri| uri.to_string()), Some(format!("unix://{sockets}-49153-source.sock")));
/// # Ok::<(), relay_migration::Invalid>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct MigrationUris {
    /// The destination's daemon: channel 0.
    pub dconnuri: Uri,
    /// The memory: channel 49152.
    pub migrate_uri: SocketUri,
    /// The disks, if they are copied: channel 49153.
    pub disks_uri: Option<SocketUri>,
}

impl MigrationUris {
    /// For the sockets of `key` below `base`, as the launcher sees it (KubeVirt's is
    /// `/var/run/kubevirt`). libvirt wants the very same paths on both hosts.
    ///
    /// # Errors
    /// If a socket's path is longer than [`SUN_PATH_MAX`].
    pub fn new(base: &BaseDir, key: &Key, daemon: Daemon, copies_disks: bool) -> Result<Self, Invalid> {
        let socket = |channel| SocketUri::new(SocketPath::of_source(base, key, channel));
        let control = socket(Channel::Control)?;
        Ok(Self {
            dconnuri: Uri::new(Parts {
                driver: "qemu".into(),
                transport: Some(Transport::Unix),
                path: daemon.path().into(),
                parameters: vec![Parameter::Socket(control.path().as_str().into())],
                ..Parts::default()
            })?,
            migrate_uri: socket(Channel::Memory)?,
            disks_uri: copies_disks.then(|| socket(Channel::Disks)).transpose()?,
        })
    }
}
