//! The file of a listening unix socket: whose it is, who may connect, and when it may be removed.
//!
//! - A stale one (nobody holds it) is replaced; a live one is never stolen; anything that is no
//!   socket is never touched.
//! - Nobody can connect before owner and mode are right: bind(2) on Linux gives the file the mode of
//!   the descriptor (less the umask), so the descriptor is closed to others *before* bind; then come
//!   the owner, the final mode, and only then listen.
//! - It is removed at the end only if it is still ours, by device and inode.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use relay_migration::SocketPath;
use relay_migration::registry::Owner;
use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::failure::in_words;
use crate::place::{self, Place};
use crate::socket;

/// How often a stale file may be found again before we give up: whoever keeps making them wins.
const ATTEMPTS: usize = 4;

/// Who may connect to a unix socket: whoever may write to its file (unix(7)).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rights {
    /// The file's permission bits.
    pub mode: u32,
    /// Whose it is; `None` leaves it this process'.
    pub owner: Option<Owner>,
}

impl Default for Rights {
    /// Its owner may connect, nobody else. So may upstream's, whose files have the mode 755 and
    /// belong to QEMU's user.
    fn default() -> Self {
        Self { mode: 0o600, owner: None }
    }
}

/// A socket file that we made. Dropping it removes the file if it is still ours.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    id: FileId,
    /// What the path goes through, if it does.
    _directory: Option<OwnedFd>,
    /// It belongs to a successor by now.
    left: Arc<AtomicBool>,
}

/// Which file it is, whatever its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl SocketFile {
    pub(crate) const fn id(&self) -> FileId {
        self.id
    }

    /// Once it is set, the file is not removed: it is somebody else's.
    pub(crate) fn left(&self) -> &Arc<AtomicBool> {
        &self.left
    }

    /// The file that a predecessor made at this place, from now on ours to remove.
    ///
    /// # Errors
    /// `NotFound` if it is not there (any more).
    pub(crate) fn adopt(place: Place, id: FileId) -> io::Result<Self> {
        let mut file = Self::adopt_at(place.path(), id)?;
        file._directory = Some(place.into_directory());
        Ok(file)
    }

    /// The same by its name.
    ///
    /// # Errors
    /// As [`adopt`](Self::adopt).
    pub(crate) fn adopt_at(path: &Path, id: FileId) -> io::Result<Self> {
        if FileId::of(&fs::symlink_metadata(path)?) != id {
            return Err(io::Error::new(io::ErrorKind::NotFound, "somebody put another file in its place"));
        }
        Ok(Self { path: path.to_owned(), id, _directory: None, left: Arc::default() })
    }
}

impl FileId {
    /// Gives the socket file that was made there to another owner, if it is still this one.
    ///
    /// # Errors
    /// As openat2(2) and chown(2); `NotFound` if it is another one by now.
    pub(crate) fn give(self, at: &SocketPath, owner: Owner) -> io::Result<()> {
        let file = File::from(place::open_socket(at)?);
        if Self::of(&file.metadata()?) != self {
            return Err(io::Error::new(io::ErrorKind::NotFound, "somebody put another socket in its place"));
        }
        chown(place::through(&file), Some(owner.uid), Some(owner.gid)).map_err(not_given)
    }

    /// To be told to another process.
    pub(crate) const fn numbers(self) -> [u64; 2] {
        [self.device, self.inode]
    }

    /// As another process told it.
    pub(crate) fn of_numbers(value: &Value) -> Option<Self> {
        Some(Self { device: value[0].as_u64()?, inode: value[1].as_u64()? })
    }

    fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.left.load(Ordering::Relaxed) {
            return;
        }
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|found| FileId::of(&found) == self.id);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            log::warn!(path:% = self.path.display(), error:%; "socket file left behind");
        }
    }
}

/// A socket bound to `path`, not listening yet, whose file has these rights.
///
/// # Errors
/// `AddrInUse` if another process holds a socket there, or if what is there is no socket at all;
/// else as bind(2), chown(2) and chmod(2).
pub(crate) fn bind(path: &Path, rights: Rights) -> io::Result<(Socket, SocketFile)> {
    let address = SockAddr::unix(path)?;
    let closed = closed_socket()?;
    for _ in 0..ATTEMPTS {
        match closed.bind(&address) {
            Ok(()) => {
                let file = settle(path, rights)?;
                sweep(path);
                return Ok((closed, file));
            }
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => clear_stale(path, &address)?,
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "another process keeps making a socket there"))
}

/// The same in a directory that is held open.
///
/// # Errors
/// As [`bind`].
pub(crate) fn bind_at(place: Place, rights: Rights) -> io::Result<(Socket, SocketFile)> {
    let (socket, mut file) = bind(place.path(), rights)?;
    file._directory = Some(place.into_directory());
    Ok((socket, file))
}

/// A socket whose file, once bound, nobody but its owner can connect to.
fn closed_socket() -> io::Result<Socket> {
    let file = File::from(OwnedFd::from(socket::new_unix()?));
    file.set_permissions(Permissions::from_mode(0o600))?; // fchmod(2)
    Ok(Socket::from(OwnedFd::from(file)))
}

/// Takes note of the file just made and gives it its owner and mode: by a descriptor, so that it is the
/// same file even if somebody who may write to the directory has put another in its place.
fn settle(path: &Path, rights: Rights) -> io::Result<SocketFile> {
    let replaced = || io::Error::other("the socket file was replaced while it was being made");
    // Before anything that takes a descriptor: there may be none left, and then the file is to go again.
    let found = fs::symlink_metadata(path)?;
    if !found.file_type().is_socket() {
        return Err(replaced());
    }
    let made =
        SocketFile { path: path.to_owned(), id: FileId::of(&found), _directory: None, left: Arc::default() };
    let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)?;
    if FileId::of(&file.metadata()?) != made.id {
        return Err(replaced());
    }
    // O_PATH descriptors take no fchmod(2); the magic link names the very same inode (proc(5)).
    let same = format!("/proc/self/fd/{}", file.as_raw_fd());
    if let Some(owner) = rights.owner {
        chown(&same, Some(owner.uid), Some(owner.gid)).map_err(|error| {
            io::Error::new(error.kind(), format!("it can't be given to {owner}: {}", not_given(error)))
        })?;
    }
    fs::set_permissions(&same, Permissions::from_mode(rights.mode))?;
    Ok(made)
}

/// With what it takes.
fn not_given(error: io::Error) -> io::Error {
    let hint = "; that takes root, or CAP_CHOWN";
    if error.kind() == io::ErrorKind::PermissionDenied {
        io::Error::new(error.kind(), format!("{}{hint}", in_words(&error)))
    } else {
        error
    }
}

/// Makes way at `path` if what is there is a socket that nobody holds any more.
fn clear_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()), // gone meanwhile
        Err(e) => return Err(e),
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "a file that is no socket is there; it was left alone",
        ));
    }
    if is_held(address)? {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"));
    }
    displace(path, FileId::of(&found))
}

/// Whether any process holds the socket bound at `address`. Asked with a *datagram* socket: the
/// kernel looks the name up, then compares types, so that a live stream listener answers with
/// EPROTOTYPE and never sees a connection (which a relay would dial its backend for).
fn is_held(address: &SockAddr) -> io::Result<bool> {
    match Socket::new(Domain::UNIX, Type::DGRAM.nonblocking().cloexec(), None)?.connect(address) {
        Ok(()) => Ok(true),
        Err(e) => match e.raw_os_error() {
            Some(libc::ECONNREFUSED | libc::ENOENT) => Ok(false),
            Some(libc::EPROTOTYPE | libc::EAGAIN) => Ok(true),
            _ => Err(e),
        },
    }
}

/// What follows the name of a socket that was moved aside, before the number of the process that did.
const ASIDE: &str = ".stale-";

/// Removes the stale file `id`, and only that one: it is moved aside first, so that a live socket
/// which another process put there meanwhile can be put back. Another process may
/// [`sweep`] it away under our hands.
fn displace(path: &Path, id: FileId) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!("{ASIDE}{}", std::process::id()));
    let moved = fs::rename(path, &aside).and_then(|()| fs::symlink_metadata(&aside));
    let removed = moved.and_then(|moved| {
        if FileId::of(&moved) != id {
            // link(2) does not overwrite: if a third one took the place, that one stays.
            let _ = fs::hard_link(&aside, path);
        }
        fs::remove_file(&aside)
    });
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Removes what predecessors at `path` moved aside and were killed before they could remove it: sockets
/// that nobody holds, by that name.
fn sweep(path: &Path) {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let mut prefix = name.as_bytes().to_vec();
    prefix.extend(ASIDE.as_bytes());
    // A directory that can't be read, or a name too long to ask about, is no reason not to listen.
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().as_bytes().starts_with(&prefix)) {
        let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
        let aside = entry.path();
        if is_socket && SockAddr::unix(&aside).and_then(|address| is_held(&address)).is_ok_and(|held| !held) {
            let _ = fs::remove_file(&aside);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;
    use std::os::unix::net::{UnixListener, UnixStream};

    const fn open_to_all() -> Rights {
        Rights { mode: 0o666, owner: None }
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("stat").mode() & 0o777
    }

    #[test]
    fn the_file_is_closed_to_others_at_bind_and_has_its_mode_before_listen() {
        let dir = Scratch::new();
        let path = dir.path("x");
        let closed = closed_socket().expect("socket");
        closed.bind(&SockAddr::unix(&path).expect("address")).expect("bind");
        assert_eq!(mode(&path) & 0o077, 0, "before any chmod of the file");
        drop(closed);
        fs::remove_file(&path).expect("remove");

        let (socket, file) = bind(&path, open_to_all()).expect("bind");
        assert_eq!(mode(&path), 0o666, "whatever the umask");
        assert!(UnixStream::connect(&path).is_err(), "not listening yet");
        socket.listen(1).expect("listen");
        UnixStream::connect(&path).expect("listening");
        drop(file);
        assert!(!path.exists());
    }

    /// As root the file changes hands; as anybody else it does not, and nothing is left behind.
    #[test]
    fn the_owner_is_right_before_listen_or_there_is_no_socket() {
        let dir = Scratch::new();
        let path = dir.path("x");
        let us = fs::metadata(dir.root()).expect("stat").uid();
        match bind(&path, Rights { owner: Some(Owner::QEMU), ..Rights::default() }) {
            Ok((_socket, _file)) => {
                let found = fs::symlink_metadata(&path).expect("stat");
                assert_eq!((us, found.uid(), found.gid(), mode(&path)), (0, 107, 107, 0o600));
                assert!(UnixStream::connect(&path).is_err(), "not listening yet");
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
                assert!(us != 0 && error.to_string().contains("107:107"), "{error}");
            }
        }
        assert!(!path.exists(), "gone with its owner's guard, or never left");
        let ours = Owner { uid: us, gid: fs::metadata(dir.root()).expect("stat").gid() };
        bind(&path, Rights { owner: Some(ours), ..Rights::default() }).expect("it is ours already");
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not_even_touched() {
        let dir = Scratch::new();
        let path = dir.path("x");
        let live = UnixListener::bind(&path).expect("bind");
        live.set_nonblocking(true).expect("option");
        let error = bind(&path, Rights::default()).expect_err("live");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains("another process listens there"), "{error}");
        assert_eq!(live.accept().expect_err("no connection was made").kind(), io::ErrorKind::WouldBlock);
        UnixStream::connect(&path).expect("still there");
        drop(live);
        assert!(path.exists(), "stale");
        let (_socket, _file) = bind(&path, Rights::default()).expect("replaced");
        assert_eq!(fs::read_dir(dir.root()).expect("dir").count(), 1, "nothing left aside");
    }

    #[test]
    fn one_bound_but_not_yet_listening_counts_as_live() {
        let dir = Scratch::new();
        let (_socket, _file) = bind(&dir.path("x"), Rights::default()).expect("bind");
        assert!(bind(&dir.path("x"), Rights::default()).is_err());
    }

    /// A predecessor was killed between moving a stale socket aside and removing it.
    #[test]
    fn what_was_moved_aside_and_forgotten_is_removed_by_the_next_one() {
        let dir = Scratch::new();
        let path = dir.path("x");
        drop(UnixListener::bind(dir.path("x.stale-1")).expect("bind"));
        drop(UnixListener::bind(dir.path("y.stale-1")).expect("bind"));
        let _live = UnixListener::bind(dir.path("x.stale-2")).expect("bind");
        fs::write(dir.path("x.stale-3"), "no socket").expect("write");
        let (_socket, _file) = bind(&path, open_to_all()).expect("bind");
        let mut names: Vec<_> =
            fs::read_dir(dir.root()).expect("dir").map(|e| e.expect("entry").file_name()).collect();
        names.sort();
        assert_eq!(names, ["x", "x.stale-2", "x.stale-3", "y.stale-1"]);
    }

    #[test]
    fn files_directories_and_links_are_left_alone() {
        let dir = Scratch::new();
        let (file, link, sub) = (dir.path("file"), dir.path("link"), dir.path("dir"));
        fs::write(&file, "precious").expect("write");
        std::os::unix::fs::symlink(&file, &link).expect("symlink");
        fs::create_dir(&sub).expect("mkdir");
        for path in [&file, &link, &sub] {
            let error = bind(path, Rights::default()).expect_err("occupied");
            assert!(error.to_string().contains("left alone"), "{error}");
        }
        assert_eq!(fs::read_to_string(&link).expect("read"), "precious");
        assert!(sub.is_dir());
    }

    #[test]
    fn only_our_own_file_is_removed_at_the_end() {
        let dir = Scratch::new();
        let path = dir.path("x");
        let (_socket, file) = bind(&path, Rights::default()).expect("bind");
        fs::remove_file(&path).expect("remove");
        let _theirs = UnixListener::bind(&path).expect("bind");
        drop(file);
        UnixStream::connect(&path).expect("theirs is still there");
    }

    #[test]
    fn a_live_socket_moved_aside_by_mistake_is_put_back() {
        let dir = Scratch::new();
        let path = dir.path("x");
        let _live = UnixListener::bind(&path).expect("bind");
        displace(&path, FileId { device: 0, inode: 0 }).expect("displace");
        UnixStream::connect(&path).expect("back in its place");
        assert_eq!(fs::read_dir(dir.root()).expect("dir").count(), 1);
    }
}
