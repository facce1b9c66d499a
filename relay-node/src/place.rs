//! The place of a unix socket beneath a directory that we trust, in a tree that we need not trust.
//!
//! A pod owns its file system, and we reach it through `/proc/PID/root` (proc(5)) with more rights
//! than the pod has. So nothing in there may lead us elsewhere:
//! - up to the pod's root the path is the operator's;
//! - from there on to the base directory links are followed as the pod itself would, never out of its
//!   root (openat2(2), `RESOLVE_IN_ROOT`): `/var/run` is a link in most images;
//! - beneath the base directory none is followed at all.
//!
//! What is found is kept as a descriptor, and the socket is named through it: `/proc/self/fd/N/NAME` to
//! make one, for bind(2) follows no link at the end of a path. connect(2) does, so a socket that is to be
//! dialed is opened itself ([`open_socket`]) and named `/proc/self/fd/N`: nothing that happens to its
//! name afterwards matters. Both make paths possible that are longer than the 107 bytes of unix(7).

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use relay_migration::{BaseDir, SocketPath};
use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, open, openat2};
use rustix::io::Errno;

use crate::sandbox;

/// The mode of directories made here, as upstream's: everybody may pass, only we may write.
const DIRECTORY_MODE: u32 = 0o755;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Place {
    directory: OwnedFd,
    path: PathBuf,
}

impl Place {
    /// Finds the socket's directory, and makes what is missing of it beneath the base.
    ///
    /// # Errors
    /// One line each. `NotFound`, `NotADirectory` or `InvalidInput` if the base is none;
    /// `AlreadyExists` if something else is where a directory beneath it was to be.
    pub(crate) fn make(at: &SocketPath) -> io::Result<Self> {
        let (names, name) = split(at);
        let base = at.base();
        let mut directory = open_base(&base).map_err(|error| no_base(&base, error))?;
        let mut whole = base.as_path().to_owned();
        for below in names {
            whole.push(below);
            directory = make_beneath(&directory, below).map_err(|error| no_room(&whole, error))?;
        }
        Ok(Self::new(directory, name))
    }

    fn new(directory: OwnedFd, name: &str) -> Self {
        let path = through(&directory).join(name);
        Self { directory, path }
    }

    /// How to name the socket, for as long as this lives.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory alone: what keeps the name good.
    pub(crate) fn into_directory(self) -> OwnedFd {
        self.directory
    }
}

/// Opens the socket itself, for dialing: its inode, and no link to it.
///
/// # Errors
/// `NotFound` if it is not there; `PermissionDenied` if there is a link anywhere beneath the base, or
/// something that is no socket.
pub(crate) fn open_socket(at: &SocketPath) -> io::Result<OwnedFd> {
    let denied = |what: &str| io::Error::new(io::ErrorKind::PermissionDenied, what);
    let open = || -> io::Result<OwnedFd> {
        let (names, name) = split(at);
        let mut directory = open_base(&at.base())?;
        for below in names {
            directory = open_beneath(&directory, below)?;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat2(&directory, name, flags, Mode::empty(), RESOLVE)?)
    };
    let socket = open().map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => denied("a symbolic link is in its path, which is not followed"),
        _ => error,
    })?;
    let file = File::from(socket);
    match file.metadata()?.file_type() {
        kind if kind.is_socket() => Ok(file.into()),
        kind if kind.is_symlink() => Err(denied("it is a symbolic link, which is not followed")),
        _ => Err(denied("it is no socket")),
    }
}

/// Why a base directory is none, in words.
fn no_base(base: &BaseDir, error: io::Error) -> io::Error {
    let (kind, what) = match error.raw_os_error() {
        Some(libc::ENOENT) => (io::ErrorKind::NotFound, "does not exist; make it, or name another"),
        Some(libc::ENOTDIR) => {
            (io::ErrorKind::NotADirectory, "is not a directory; name the one that the sockets are to be in")
        }
        Some(libc::ELOOP) => (
            io::ErrorKind::InvalidInput,
            "leads through a link that is not followed, for it leaves the pod or leads in a circle",
        ),
        Some(libc::EACCES) => (
            io::ErrorKind::PermissionDenied,
            "can't be entered by this process; that takes root, CAP_DAC_OVERRIDE, or the right to look into that pod (CAP_SYS_PTRACE)",
        ),
        _ => return error,
    };
    io::Error::new(kind, format!("the base directory {base} {what}{}", sandbox::hint(&error)))
}

/// Why there can't be a directory beneath the base, in words.
fn no_room(directory: &Path, error: io::Error) -> io::Error {
    let (kind, what) = match error.raw_os_error() {
        Some(libc::ENOTDIR) => (io::ErrorKind::AlreadyExists, "is there and no directory; it was left alone"),
        Some(libc::ELOOP) => {
            (io::ErrorKind::AlreadyExists, "is a symbolic link, which is not followed; it was left alone")
        }
        Some(libc::EACCES | libc::EPERM) => (
            io::ErrorKind::PermissionDenied,
            "can't be made or entered by this process; that takes root, or CAP_DAC_OVERRIDE",
        ),
        Some(libc::EROFS) => {
            (io::ErrorKind::ReadOnlyFilesystem, "can't be made: the file system is read-only")
        }
        _ => return error,
    };
    io::Error::new(kind, format!("{} {what}", directory.display()))
}

/// The directories beneath the base, and the socket's own name.
fn split(at: &SocketPath) -> (impl Iterator<Item = &str>, &str) {
    let (above, name) = at.beneath().rsplit_once('/').unwrap_or_else(|| ("", at.beneath()));
    (above.split('/').filter(|name| !name.is_empty()), name)
}

/// The magic link that names the very file that is open.
pub(crate) fn through(directory: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

const AS_DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Beneath the base: no link, and never out of it.
const RESOLVE: ResolveFlags =
    ResolveFlags::IN_ROOT.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

fn open_base(base: &BaseDir) -> io::Result<OwnedFd> {
    let Some((root, below)) = base.pod_root() else {
        return Ok(open(base.as_path(), AS_DIRECTORY, Mode::empty())?);
    };
    let root = open(root, AS_DIRECTORY, Mode::empty())?;
    let below = if below.is_empty() { "." } else { below };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(&root, below, AS_DIRECTORY, Mode::empty(), resolve)?)
}

fn open_beneath(directory: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    openat2(directory, name, AS_DIRECTORY, Mode::empty(), RESOLVE)
}

fn make_beneath(directory: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    match mkdirat(directory, name, Mode::from_raw_mode(DIRECTORY_MODE)) {
        Ok(()) => {
            let made = open_beneath(directory, name)?;
            // Whatever the umask: whom the sockets are for must be able to get there. The magic link
            // names the very directory that was opened; only its owner could have put it there.
            fs::set_permissions(through(&made), Permissions::from_mode(DIRECTORY_MODE))?;
            Ok(made)
        }
        Err(Errno::EXIST) => Ok(open_beneath(directory, name)?),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;
    use relay_migration::{Channel, Key};
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    fn source(base: &Path) -> SocketPath {
        let base: BaseDir = base.display().to_string().parse().expect("directory");
        let key: Key = "vm".parse().expect("key");
        SocketPath::of_source(&base, &key, Channel::Memory)
    }

    fn is_there(place: &Place) -> bool {
        fs::symlink_metadata(place.path()).is_ok()
    }

    #[test]
    fn what_is_missing_beneath_the_base_is_made_and_the_base_is_not() {
        let dir = Scratch::new();
        let at = source(dir.root());
        assert_eq!(open_socket(&at).expect_err("nothing there").kind(), io::ErrorKind::NotFound);
        let place = Place::make(&at).expect("made");
        let mode = fs::metadata(dir.path("migrationproxy")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "whatever the umask");
        let _listener = UnixListener::bind(place.path()).expect("bind");
        assert!(dir.path("migrationproxy/vm-49152-source.sock").exists());
        open_socket(&at).expect("there");
        assert!(is_there(&Place::make(&at).expect("there already")));

        let error = Place::make(&source(&dir.path("nobase"))).expect_err("no base").to_string();
        assert!(error.contains("nobase does not exist"), "{error}");
        fs::write(dir.path("file"), "").expect("write");
        let error = Place::make(&source(&dir.path("file"))).expect_err("a file").to_string();
        assert!(error.contains("file is not a directory"), "{error}");
        fs::create_dir(dir.path("base")).expect("mkdir");
        fs::write(dir.path("base/migrationproxy"), "").expect("write");
        let error = Place::make(&source(&dir.path("base"))).expect_err("in the way");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(error.to_string().contains("base/migrationproxy is there and no directory"), "{error}");
    }

    #[test]
    fn no_link_is_followed_beneath_the_base() {
        let dir = Scratch::new();
        fs::create_dir(dir.path("base")).expect("mkdir");
        fs::create_dir(dir.path("elsewhere")).expect("mkdir");
        symlink(dir.path("elsewhere"), dir.path("base/migrationproxy")).expect("symlink");
        let at = source(&dir.path("base"));
        assert_eq!(open_socket(&at).expect_err("a link").kind(), io::ErrorKind::PermissionDenied);
        let error = Place::make(&at).expect_err("a link");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(error.to_string().contains("migrationproxy is a symbolic link"), "{error}");
        // The base itself is the operator's: links are as good as anything.
        symlink(dir.path("base"), dir.path("link")).expect("symlink");
        fs::remove_file(dir.path("base/migrationproxy")).expect("remove");
        Place::make(&source(&dir.path("link"))).expect("made");
        assert!(dir.path("base/migrationproxy").is_dir());
    }

    /// The run directory is the operator's, what is in it the pod's: a link to somewhere on the node is
    /// neither dialed through nor made anything in.
    #[test]
    fn a_pods_directories_may_be_links_and_lead_nowhere() {
        let dir = Scratch::new();
        let run: BaseDir = dir.root().display().to_string().parse().expect("directory");
        let key: Key = "vm".parse().expect("key");
        fs::create_dir_all(dir.path("precious/migrationproxy")).expect("mkdir");
        symlink(dir.path("precious"), dir.path("kubevirt")).expect("symlink");
        symlink(dir.path("precious"), dir.path("libvirt")).expect("symlink");
        let _one = UnixListener::bind(dir.path("precious/virtqemud-sock")).expect("bind");
        let name = "precious/migrationproxy/vm-49152-source.sock";
        let _other = UnixListener::bind(dir.path(name)).expect("bind");
        let backends = relay_migration::Backends::of_pod(&run, &key, false).expect("backends");
        for (_, backend) in backends.iter() {
            assert_eq!(open_socket(backend).expect_err("a link").kind(), io::ErrorKind::PermissionDenied);
        }
        let base = relay_migration::pod_base_dir(&run).expect("directory");
        let error = Place::make(&SocketPath::of_source(&base, &key, Channel::Control)).expect_err("a link");
        assert!(error.to_string().contains("kubevirt is a symbolic link"), "{error}");
    }

    /// Our own root stands for a pod's: a link in it that begins with a slash, or climbs, stays in.
    #[test]
    fn a_pods_links_lead_nowhere_but_into_the_pod() {
        let dir = Scratch::new();
        fs::create_dir(dir.path("run")).expect("mkdir");
        let run = dir.path("run").display().to_string();
        symlink(format!("{}{run}", "../".repeat(20)), dir.path("climbs")).expect("symlink");
        symlink("/proc/self/root/etc", dir.path("magic")).expect("symlink");
        let through_root = |name: &str| {
            let base = format!("/proc/{}/root{}", std::process::id(), dir.path(name).display());
            source(Path::new(&base))
        };
        Place::make(&through_root("climbs")).expect("the same root, so it is found");
        assert!(dir.path("run/migrationproxy").is_dir());
        let error = Place::make(&through_root("magic")).expect_err("a magic link");
        assert!(error.to_string().contains("a link that is not followed"), "{error}");
        let gone: SocketPath = "/proc/4194304/root/run/x".parse().expect("path");
        assert_eq!(open_socket(&gone).expect_err("no such process").kind(), io::ErrorKind::NotFound);
    }

    /// CVE-2026-13622 of the proxy that this replaces: whoever owns the pod puts a link where QEMU's
    /// socket should be, and a privileged relay dials what it names on the node.
    #[test]
    fn a_link_in_the_place_of_a_socket_is_not_followed_nor_anything_but_a_socket_dialed() {
        let dir = Scratch::new();
        let at = source(dir.root());
        fs::create_dir(dir.path("migrationproxy")).expect("mkdir");
        let name = dir.path("migrationproxy/vm-49152-source.sock");
        let precious = UnixListener::bind(dir.path("precious")).expect("bind");
        assert_eq!(open_socket(&at).expect_err("nothing there").kind(), io::ErrorKind::NotFound);

        symlink(dir.path("precious"), &name).expect("symlink");
        let error = open_socket(&at).expect_err("a link");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("symbolic link"), "{error}");
        fs::remove_file(&name).expect("remove");

        fs::write(&name, "a file").expect("write");
        let error = open_socket(&at).expect_err("a file");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("no socket"), "{error}");
        fs::remove_file(&name).expect("remove");

        // One that is swapped for a link after it was looked at: the one that was looked at is dialed.
        let real = UnixListener::bind(&name).expect("bind");
        let socket = open_socket(&at).expect("a socket");
        fs::remove_file(&name).expect("remove");
        symlink(dir.path("precious"), &name).expect("symlink");
        std::os::unix::net::UnixStream::connect(through(&socket)).expect("connect");
        real.accept().expect("the real one");
        precious.set_nonblocking(true).expect("option");
        assert_eq!(precious.accept().expect_err("nobody").kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn long_paths_have_short_names() {
        let dir = Scratch::new();
        let deep = dir.path(&"long-directory-name/".repeat(10));
        fs::create_dir_all(&deep).expect("mkdir");
        let at = source(&deep);
        assert!(at.as_str().len() > 200);
        let place = Place::make(&at).expect("made");
        let _listener = UnixListener::bind(place.path()).expect("a short name");
        assert!(at.as_path().exists());
    }
}
