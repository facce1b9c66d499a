//! Paths of unix sockets: what they are called, how long they may be, what in them is trusted.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::str::FromStr;

use crate::channel::Channel;
use crate::invalid::{Invalid, invalid, shown};
use crate::key::Key;

/// Bytes a unix socket's path may have: unix(7) gives `sun_path` 108, one of which ends it.
pub const SUN_PATH_MAX: usize = 107;

/// Bytes a path may have at all: Linux' `PATH_MAX`, less the one that ends it.
pub const PATH_MAX: usize = 4095;

/// Bytes a file's or directory's own name may have (`NAME_MAX`).
const NAME_MAX: usize = 255;

/// Bytes a base directory may have, so that the longest socket below it still is a path.
const BASE_MAX: usize = PATH_MAX - "/migrationproxy/-49152-source.sock".len() - Key::MAX;

/// The directory below a base directory that has the sockets of migrations, on either side.
pub const DIRECTORY: &str = "migrationproxy";

/// An absolute path without `.`, `..`, double or trailing slashes.
///
/// A base directory is the operator's, and trusted as far as a path can be: see
/// [`pod_root`](Self::pod_root). One that lies [`beneath`](Self::beneath) another is trusted up to that one
/// only.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BaseDir {
    path: String,
    /// Bytes that are trusted, without the slash behind them.
    trusted: usize,
}

impl BaseDir {
    /// The directory itself.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(&self.path)
    }

    /// The same as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.path
    }

    /// A directory below this one, by a path without a slash in front. It is not trusted itself, for
    /// somebody else, a pod, may have put it there: no link is followed on the way.
    ///
    /// # Errors
    /// If the result is none; see [`FromStr`].
    pub fn beneath(&self, below: &str) -> Result<Self, Invalid> {
        let whole: Self = format!("{}/{below}", self.path).parse()?;
        Ok(Self { trusted: self.trusted, ..whole })
    }

    fn trusted(path: String) -> Self {
        let trusted = if path == "/" { 0 } else { path.len() };
        Self { path, trusted }
    }

    /// `/proc/PID/root` and what comes after it, if the directory lies in another process' file
    /// system.
    ///
    /// What lies beyond such a magic link (proc(5)) belongs to the pod, symbolic links included: it is
    /// to be resolved with openat2(2) and `RESOLVE_IN_ROOT` from the link's own descriptor. Else a link
    /// `/var/run` that the pod made would be followed in *our* file system.
    #[must_use]
    pub fn pod_root(&self) -> Option<(&str, &str)> {
        let after_proc = self.path.strip_prefix("/proc/")?;
        let (pid, rest) = after_proc.split_once('/')?;
        let below = rest.strip_prefix("root")?;
        let is_pid = pid.bytes().all(|b| b.is_ascii_digit()) && !pid.is_empty();
        let root_end = self.path.len() - below.len();
        match below.strip_prefix('/') {
            Some(below) if is_pid => Some((&self.path[..root_end], below)),
            None if is_pid && below.is_empty() => Some((&self.path[..], "")),
            _ => None,
        }
    }
}

impl fmt::Display for BaseDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

impl FromStr for BaseDir {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        normal("directory", text, BASE_MAX).map(Self::trusted)
    }
}

/// How a socket can be bound or connected to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Route {
    /// The path fits into `sun_path` as it is.
    Direct,
    /// It does not: only `/proc/self/fd/N/NAME` with a descriptor of its directory does.
    ByDescriptor,
}

/// The path of a unix socket: a trusted directory, and what lies beneath it, in which no symbolic
/// link is followed. Two are the same if the whole paths are.
#[derive(Clone, Debug)]
pub struct SocketPath {
    whole: String,
    /// Bytes of the directory, without the slash behind it.
    base: usize,
}

impl SocketPath {
    /// Where the source's proxy listens, and, on the target, QEMU: `BASE/migrationproxy/NAME`, as
    /// KubeVirt's `SourceUnixFile`. libvirt wants the same path on both hosts for UNIX migration URIs.
    #[must_use]
    pub fn of_source(base: &BaseDir, key: &Key, channel: Channel) -> Self {
        let directory = if base.path == "/" { "" } else { &base.path };
        let whole = format!("{directory}/{DIRECTORY}/{}", source_file_name(key, channel));
        Self { whole, base: base.trusted }
    }

    /// A socket below a directory, by a path without a slash in front, of which nothing is trusted.
    ///
    /// # Errors
    /// If the result is none; see [`FromStr`].
    pub fn beneath_dir(base: &BaseDir, below: &str) -> Result<Self, Invalid> {
        let whole: Self = format!("{base}/{below}").parse()?;
        Ok(Self { base: base.trusted, ..whole })
    }

    /// The whole path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.whole
    }

    /// The whole path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(&self.whole)
    }

    /// The trusted directory.
    #[must_use]
    pub fn base(&self) -> BaseDir {
        BaseDir::trusted(if self.base == 0 { "/".to_owned() } else { self.whole[..self.base].to_owned() })
    }

    /// The rest, without a slash in front.
    #[must_use]
    pub fn beneath(&self) -> &str {
        &self.whole[self.base + 1..]
    }

    /// The socket's own name, without any directory.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.whole.rsplit('/').next().unwrap_or(&self.whole)
    }

    /// Whether it can be used as it is.
    #[must_use]
    pub const fn route(&self) -> Route {
        if self.whole.len() <= SUN_PATH_MAX { Route::Direct } else { Route::ByDescriptor }
    }
}

impl PartialEq for SocketPath {
    fn eq(&self, other: &Self) -> bool {
        self.whole == other.whole
    }
}

impl Eq for SocketPath {}

impl PartialOrd for SocketPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SocketPath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.whole.cmp(&other.whole)
    }
}

impl Hash for SocketPath {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.whole.hash(state);
    }
}

/// The whole path.
impl fmt::Display for SocketPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.whole)
    }
}

/// Takes the directory as written for trusted, and the file name not.
impl FromStr for SocketPath {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.ends_with('/') {
            return invalid(format!(
                "{} is a directory's name; a socket needs a file name, as in /run/x.sock",
                shown(text)
            ));
        }
        let whole = normal("socket's path", text, PATH_MAX)?;
        match whole.rfind('/') {
            Some(base) if whole.len() > base + 1 => Ok(Self { whole, base }),
            _ => invalid(format!("{} has no file name, as /run/x.sock has", shown(text))),
        }
    }
}

/// `KEY-source.sock`, `KEY-49152-source.sock`, `KEY-49153-source.sock`.
#[must_use]
pub fn source_file_name(key: &Key, channel: Channel) -> String {
    format!("{}-source.sock", key.of_channel(channel))
}

fn normal(what: &str, text: &str, max: usize) -> Result<String, Invalid> {
    if text.is_empty() {
        return invalid(format!("the {what} is empty; write it from the root, as in /run/x"));
    }
    if !text.starts_with('/') {
        return invalid(format!(
            "the {what} {} does not begin with '/'; write it from the root",
            shown(text)
        ));
    }
    if let Some(c) = text.chars().find(|c| c.is_control()) {
        return invalid(format!("the {what} {} contains the control character {c:?}", shown(text)));
    }
    if text.len() > max {
        return invalid(format!("the {what} {} has {} bytes; it may have {max}", shown(text), text.len()));
    }
    let names: Vec<&str> = text.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    if names.contains(&"..") {
        return invalid(format!("the {what} {} contains '..'; write where it leads to", shown(text)));
    }
    if let Some(name) = names.iter().find(|name| name.len() > NAME_MAX) {
        return invalid(format!(
            "the name {} in the {what} has {} bytes; a name may have {NAME_MAX}",
            shown(name),
            name.len()
        ));
    }
    Ok(format!("/{}", names.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(text: &str) -> Key {
        text.parse().expect("key")
    }

    fn base(text: &str) -> BaseDir {
        text.parse().expect("base")
    }

    #[test]
    fn upstreams_names() {
        let base = base("/proc/4711/root/var/run/kubevirt");
        let path = |channel| SocketPath::of_source(&base, &key("mykey"), channel).to_string();
        assert_eq!(path(Channel::Control), format!("{base}/migrationproxy/mykey-source.sock"));
        assert_eq!(path(Channel::Memory), format!("{base}/migrationproxy/mykey-49152-source.sock"));
        assert_eq!(path(Channel::Disks), format!("{base}/migrationproxy/mykey-49153-source.sock"));
        assert_eq!(base.pod_root(), Some(("/proc/4711/root", "var/run/kubevirt")));
    }

    /// The longest real one: a process id of seven digits.
    #[test]
    fn the_longest_real_path_is_direct_and_the_limit_is_exact() {
        let uid = key("d62c2a6f-d8f3-4cc5-a22e-4cffb7d5eac1");
        let path = |pid: &str| {
            SocketPath::of_source(&base(&format!("/proc/{pid}/root/var/run/kubevirt")), &uid, Channel::Memory)
        };
        assert_eq!((path("4194304").as_str().len(), path("4194304").route()), (105, Route::Direct));
        assert_eq!((path("123456789").as_str().len(), path("123456789").route()), (107, Route::Direct));
        assert_eq!(
            (path("1234567890").as_str().len(), path("1234567890").route()),
            (108, Route::ByDescriptor)
        );
    }

    #[test]
    fn the_longest_key_fits_by_descriptor() {
        let name = source_file_name(&key(&"k".repeat(Key::MAX)), Channel::Disks);
        assert_eq!(format!("/proc/self/fd/{}/{name}", i32::MAX).len(), SUN_PATH_MAX);
    }

    #[test]
    fn the_longest_directory_leaves_room_for_the_longest_socket() {
        let longest = "/x".repeat(BASE_MAX / 2);
        let path = SocketPath::of_source(&base(&longest), &key(&"k".repeat(Key::MAX)), Channel::Disks);
        assert!((PATH_MAX - 1..=PATH_MAX).contains(&path.as_str().len()));
        assert!(format!("{longest}/xx").parse::<BaseDir>().is_err());
    }

    #[test]
    fn only_a_process_root_is_a_pod_root() {
        assert_eq!(base("/proc/1/root").pod_root(), Some(("/proc/1/root", "")));
        for text in ["/proc/self/root/x", "/proc/1/rootx/y", "/proc//root/x", "/proc/1/cwd", "/run", "/proc"]
        {
            assert_eq!(base(text).pod_root(), None, "{text}");
        }
    }

    /// What lies beneath a trusted directory is not trusted, however deep.
    #[test]
    fn what_is_beneath_stays_untrusted() {
        for (root, below) in [("/run/pod", "/run/pod"), ("/", ""), ("/proc/7/root/run", "/proc/7/root/run")] {
            let kubevirt = base(root).beneath("kubevirt").expect("directory");
            assert_eq!(kubevirt.as_str(), format!("{below}/kubevirt"));
            let socket = SocketPath::of_source(&kubevirt, &key("k"), Channel::Control);
            assert_eq!(socket.base(), base(root));
            assert_eq!(socket.beneath(), "kubevirt/migrationproxy/k-source.sock");
            let socket = SocketPath::beneath_dir(&base(root), "libvirt/sock").expect("socket");
            assert_eq!((socket.base(), socket.beneath()), (base(root), "libvirt/sock"));
            assert_eq!(socket.as_str(), format!("{below}/libvirt/sock"));
        }
    }

    #[test]
    fn paths_are_made_plain_or_refused() {
        assert_eq!("//run/./x//y.sock".parse::<SocketPath>().expect("path").to_string(), "/run/x/y.sock");
        let at_root: SocketPath = "/x".parse().expect("path");
        assert_eq!((at_root.as_str(), at_root.base().as_str(), at_root.beneath()), ("/x", "/", "x"));
        let of_root = SocketPath::of_source(&base("/"), &key("k"), Channel::Control);
        assert_eq!(
            (of_root.as_str(), of_root.file_name()),
            ("/migrationproxy/k-source.sock", "k-source.sock")
        );
        assert_eq!(of_root.beneath(), "migrationproxy/k-source.sock");
        assert_eq!(of_root.as_str().parse(), Ok(of_root), "whatever of it is trusted");
        for (text, says) in [
            ("", "is empty"),
            ("run/x", "does not begin with '/'"),
            ("/run/../x", "contains '..'"),
            ("/run/", "needs a file name"),
            ("/.", "has no file name"),
            ("/a\0", "control character"),
            ("/a\nb", "control character"),
            (&format!("/{}", "x".repeat(256)), "a name may have 255"),
            (&"/x".repeat(2100), "it may have 4095"),
        ] {
            let error = text.parse::<SocketPath>().expect_err(text).to_string();
            assert!(error.contains(says) && !error.contains('\n'), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read(text in "/[a-z./@%é ]{1,60}[a-z]") {
            if let Ok(path) = text.parse::<SocketPath>() {
                let whole = format!("{}/{}", path.base(), path.beneath()).replace("//", "/");
                prop_assert_eq!(&whole, path.as_str());
                prop_assert_eq!(whole.parse::<SocketPath>(), Ok(path));
            }
        }
    }
}
