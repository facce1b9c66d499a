//! How libvirt gets to a daemon.

use std::fmt;
use std::str::FromStr;

use crate::host::Host;
use crate::invalid::{Invalid, invalid, shown};

/// A transport of libvirt's remote driver.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Transport {
    /// A unix socket on this machine.
    Unix,
    /// TLS over TCP; the default if there is a host.
    Tls,
    /// TCP, not encrypted.
    Tcp,
    /// The `ssh` program.
    Ssh,
    /// The library libssh.
    Libssh,
    /// The library libssh2.
    Libssh2,
    /// A program of the user's that carries the protocol on its standard input and output.
    Ext,
}

impl Transport {
    /// All there are.
    pub const ALL: [Self; 7] =
        [Self::Unix, Self::Tls, Self::Tcp, Self::Ssh, Self::Libssh, Self::Libssh2, Self::Ext];

    /// As it is written behind the `+`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unix => "unix",
            Self::Tls => "tls",
            Self::Tcp => "tcp",
            Self::Ssh => "ssh",
            Self::Libssh => "libssh",
            Self::Libssh2 => "libssh2",
            Self::Ext => "ext",
        }
    }

    /// The one in use: TLS if there is only a host, none for what is local.
    pub(super) fn in_use(given: Option<Self>, host: Option<&Host>) -> Option<Self> {
        given.or_else(|| host.map(|_| Self::Tls))
    }

    /// The TCP port dialed if none is given; none for what dials no port.
    #[must_use]
    pub const fn default_port(self) -> Option<u16> {
        match self {
            Self::Tls => Some(16514),
            Self::Tcp => Some(16509),
            Self::Ssh | Self::Libssh | Self::Libssh2 => Some(22),
            Self::Unix | Self::Ext => None,
        }
    }

    /// The parameters it understands, by name. Any other is passed to the driver.
    #[must_use]
    pub const fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::Unix => &["name", "mode", "socket"],
            Self::Tls => &["name", "tls_priority", "no_verify", "pkipath"],
            Self::Tcp => &["name"],
            Self::Ssh => {
                &["name", "mode", "proxy", "command", "socket", "netcat", "keyfile", "no_verify", "no_tty"]
            }
            Self::Libssh | Self::Libssh2 => &[
                "name",
                "mode",
                "proxy",
                "socket",
                "netcat",
                "keyfile",
                "known_hosts",
                "known_hosts_verify",
                "sshauth",
            ],
            Self::Ext => &["name", "command"],
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// In any case, as libvirt.
impl FromStr for Transport {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match Self::ALL.into_iter().find(|transport| transport.name().eq_ignore_ascii_case(text)) {
            Some(transport) => Ok(transport),
            None => invalid(format!(
                "{} is no transport; it is one of unix, tls, tcp, ssh, libssh, libssh2, ext",
                shown(text)
            )),
        }
    }
}
