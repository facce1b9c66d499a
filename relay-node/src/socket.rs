//! Stream sockets, unix and TCP alike: their options, dialing without waiting, and closing hard.
//!
//! Every socket made here is non-blocking and close-on-exec from its first system call on.
//! TCP's send and receive buffers are left to the kernel: setting them switches its autotuning off
//! (tcp(7), `tcp_moderate_rcvbuf`; socket(7), SO_RCVBUF). Unix sockets have none to switch off.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use relay_core::error::Failure;
use relay_migration::SocketPath;
use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};

use crate::failure::failure;
use crate::live::BUDGET;
use crate::place;
use crate::server::Label;

/// Keepalive as Go's net package sets it on every TCP connection, which is what KubeVirt's proxy
/// therefore has: first probe after 15 s, then every 15 s, dead after 9 without an answer.
const KEEPALIVE_TIME: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 9;

/// What else TCP sockets are given.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TcpOptions {
    /// For how long a peer may acknowledge nothing, or take nothing that waits for it, before the
    /// connection is given up (tcp(7), TCP_USER_TIMEOUT). `None` leaves that to the kernel's count of
    /// retransmissions, a quarter of an hour.
    pub user_timeout: Option<Duration>,
}

impl Default for TcpOptions {
    /// As long as keepalive takes, 15 s and nine more times 15 s: a machine that is gone is noticed
    /// after 150 s whether something was on its way to it or not. Neither shorter nor longer makes
    /// sense while keepalive is on, for this time then ends its probes, too (tcp(7)).
    fn default() -> Self {
        Self { user_timeout: Some(KEEPALIVE_TIME * (1 + KEEPALIVE_RETRIES)) }
    }
}

/// Lets the kernel hold a whole turn of ours ([`BUDGET`]) of what was sent to a local peer, so that it goes in one call, and
/// the peer is woken once. Otherwise that is net.core.wmem_default, 208 KiB; the kernel doubles what it is asked for,
/// for its own needs, after it bounded it by net.core.wmem_max (socket(7)). TCP finds the size of its buffers itself.
pub(crate) fn widen(socket: &Socket) {
    static IS_NARROW: OnceLock<bool> = OnceLock::new();
    // Whoever gave the whole machine more is to have it.
    let is_narrow = || socket.send_buffer_size().is_ok_and(|size| size < 2 * BUDGET);
    if *IS_NARROW.get_or_init(is_narrow) {
        // With less of it all goes on, only slower.
        let _ = socket.set_send_buffer_size(BUDGET);
    }
}

/// A non-blocking, close-on-exec stream socket with the options that its kind is to have.
pub(crate) fn new(domain: Domain, options: TcpOptions) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None)?;
    if domain != Domain::UNIX {
        options.set(&socket)?;
    }
    Ok(socket)
}

/// A unix one.
pub(crate) fn new_unix() -> io::Result<Socket> {
    new(Domain::UNIX, TcpOptions::default())
}

impl TcpOptions {
    /// These, TCP_NODELAY and keepalive. Linux hands all of them down from a listening socket to those
    /// it accepts (a test of this crate holds it to that), which saves six system calls for each.
    pub(crate) fn set(self, socket: &Socket) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_TIME)
            .with_interval(KEEPALIVE_TIME)
            .with_retries(KEEPALIVE_RETRIES);
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_user_timeout(self.user_timeout)
    }
}

/// The address of a unix socket in the abstract namespace.
pub(crate) fn abstract_address(name: &str) -> io::Result<SockAddr> {
    SockAddr::unix(format!("\0{name}"))
}

/// One address to dial, ready for connect(2): no name left to look up.
#[derive(Clone, Debug)]
pub struct Target {
    address: SockAddr,
    options: TcpOptions,
    /// A path and the socket found there, if the address is not the path itself.
    through: Option<Arc<(PathBuf, OwnedFd)>>,
    /// Who must be listening there, if it is a unix socket.
    holder: Option<Holder>,
    /// For whom it is dialed.
    label: Option<Arc<Label>>,
    /// The address to dial from, for TCP.
    from: Option<IpAddr>,
}

/// Who must be listening at a unix socket that is dialed: the credentials that the kernel took note of
/// when the listener called listen(2) (unix(7), SO_PEERCRED), not the owner of a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Holder {
    /// User.
    pub uid: u32,
    /// Group; `None` for any.
    pub gid: Option<u32>,
}

impl Holder {
    /// Whether the one at the other end is the one.
    fn check(self, socket: &Socket, label: Option<&Label>) -> Result<(), Failure> {
        let found = rustix::net::sockopt::socket_peercred(socket).map_err(|e| failure(&e.into()))?;
        let (uid, gid) = (found.uid.as_raw(), found.gid.as_raw());
        if uid == self.uid && self.gid.is_none_or(|wanted| wanted == gid) {
            return Ok(());
        }
        let (key, channel) = Label::words(label);
        log::warn!(key = key.as_str(), channel = channel.as_str(), listener = format!("{uid}:{gid}").as_str(), expected:% = self; "not dialed: somebody else listens at the backend");
        Err(Failure::Denied)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.gid {
            Some(gid) => write!(f, "{}:{gid}", self.uid),
            None => self.uid.fmt(f),
        }
    }
}

impl Target {
    fn new(address: SockAddr) -> Self {
        Self { address, options: TcpOptions::default(), through: None, holder: None, label: None, from: None }
    }

    /// A unix socket in the file system.
    ///
    /// # Errors
    /// If the path is longer than [`UNIX_NAME_MAX`](crate::endpoint::UNIX_NAME_MAX) bytes.
    pub fn unix(path: &Path) -> io::Result<Self> {
        SockAddr::unix(path).map(Self::new)
    }

    /// A unix socket beneath a directory, found without following any link there. The path may be of
    /// any length. What is dialed is what was found now, whatever its name stands for later.
    ///
    /// # Errors
    /// As openat2(2); `PermissionDenied` if a link is in the way, or it is no socket.
    pub fn unix_beneath(path: &SocketPath) -> io::Result<Self> {
        let socket = place::open_socket(path)?;
        let address = SockAddr::unix(place::through(&socket))?;
        let through = Some(Arc::new((path.as_path().to_owned(), socket)));
        Ok(Self { through, ..Self::new(address) })
    }

    /// The same, to be dialed only if this one listens there. Means nothing for TCP.
    #[must_use]
    pub fn held_by(self, holder: Option<Holder>) -> Self {
        Self { holder, ..self }
    }

    /// The same, for this channel of a migration.
    #[must_use]
    pub(crate) fn of(self, label: Option<Arc<Label>>) -> Self {
        Self { label, ..self }
    }

    /// A unix socket in the abstract namespace.
    ///
    /// # Errors
    /// If the name is longer than [`UNIX_NAME_MAX`](crate::endpoint::UNIX_NAME_MAX) bytes.
    pub fn unix_abstract(name: &str) -> io::Result<Self> {
        abstract_address(name).map(Self::new)
    }

    /// A TCP address.
    #[must_use]
    pub fn tcp(address: SocketAddr, options: TcpOptions) -> Self {
        Self { options, ..Self::new(address.into()) }
    }

    /// The same, to be dialed from this address of ours. Means nothing for a unix socket.
    #[must_use]
    pub fn from(self, from: Option<IpAddr>) -> Self {
        Self { from, ..self }
    }

    /// Whether it is TCP; a unix socket otherwise.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        !self.address.is_unix()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.address.as_socket() {
            write!(f, "{address}")
        } else if let Some(through) = &self.through {
            write!(f, "{}", through.0.display())
        } else if let Some(path) = self.address.as_pathname() {
            write!(f, "{}", path.display())
        } else {
            let name = self.address.as_abstract_namespace().unwrap_or_default();
            write!(f, "@{}", String::from_utf8_lossy(name))
        }
    }
}

/// A dialed socket.
#[derive(Debug)]
pub enum Dialing {
    /// Connected already. Always so for unix sockets.
    Connected(Socket),
    /// Under way: wait for writability, then ask [`finish_connect`].
    InProgress(Socket),
}

/// Begins to connect, without waiting.
///
/// # Errors
/// What keeps it from even beginning. [`Failure::Busy`] for a unix socket whose backlog is full
/// (connect(2), EAGAIN): no event will tell when to try again.
pub fn start_connect(target: &Target) -> Result<Dialing, Failure> {
    let socket = new(target.address.domain(), target.options).map_err(|e| failure(&e))?;
    if let Some(from) = target.from.filter(|_| target.is_tcp()) {
        // An address that is gone meanwhile (EADDRNOTAVAIL) leaves no way to the target.
        socket.bind(&SocketAddr::new(from, 0).into()).map_err(|e| failure(&e))?;
    }
    if target.address.is_unix() {
        widen(&socket);
    }
    match socket.connect(&target.address) {
        Ok(()) => {
            refuse_self(&socket)?;
            if let Some(holder) = target.holder.filter(|_| target.address.is_unix()) {
                holder.check(&socket, target.label.as_deref())?;
            }
            Ok(Dialing::Connected(socket))
        }
        // EINTR: POSIX has the connection go on being made, as after EINPROGRESS.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINPROGRESS | libc::EINTR)) => {
            Ok(Dialing::InProgress(socket))
        }
        // The kernel's word for a file that is no socket, too, which no waiting will make one.
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused && is_no_socket(&target.address) => {
            Err(Failure::Os(libc::ENOTSOCK))
        }
        Err(e) => Err(failure(&e)),
    }
}

fn is_no_socket(address: &SockAddr) -> bool {
    let found = address.as_pathname().and_then(|path| std::fs::metadata(path).ok());
    found.is_some_and(|found| !found.file_type().is_socket())
}

/// Asks a socket that became writable what came of connecting: `true` if it is connected, `false`
/// if it is still under way (readiness may be spurious).
///
/// # Errors
/// Why it is not and will not be connected.
pub fn finish_connect(socket: &Socket) -> Result<bool, Failure> {
    if let Some(error) = socket.take_error().map_err(|e| failure(&e))? {
        return Err(failure(&error));
    }
    match socket.peer_addr() {
        Ok(_) => refuse_self(socket).map(|()| true),
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => Ok(false),
        Err(e) => Err(failure(&e)),
    }
}

/// A TCP socket that dials a local port at which nobody listens may be given that very port as its
/// own and connect to itself (RFC 9293 section 3.5, simultaneous open). Retrying against a backend
/// that is not there yet makes this likely, and it would relay our bytes back to us.
fn refuse_self(socket: &Socket) -> Result<(), Failure> {
    let ends = || Ok((socket.local_addr()?, socket.peer_addr()?));
    let (own, peer): (SockAddr, SockAddr) = ends().map_err(|e: io::Error| failure(&e))?;
    if !own.is_unix() && own == peer { Err(Failure::Refused) } else { Ok(()) }
}

/// Makes the next close(2) of a TCP socket a reset (socket(7), SO_LINGER with zero): the peer then
/// cannot take what it got for the whole. Bytes that the kernel has not delivered yet are lost; the
/// runtime waits first if they matter. Does nothing to a unix socket, which has no reset.
///
/// # Errors
/// As setsockopt(2).
pub fn reset_on_close(socket: &Socket) -> io::Result<()> {
    if is_tcp(socket)? { socket.set_linger(Some(Duration::ZERO)) } else { Ok(()) }
}

/// Whether a socket is TCP; a unix socket otherwise.
///
/// # Errors
/// As getsockopt(2).
pub fn is_tcp(socket: &Socket) -> io::Result<bool> {
    socket.domain().map(|domain| domain != Domain::UNIX)
}

/// Who is at the other end of an accepted connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Peer {
    /// A process of this machine, by a unix socket.
    Local,
    /// A TCP address. IPv4 is shown as such even if it came in by a dual-stack listener.
    Remote(SocketAddr),
}

impl Peer {
    /// Whose address this is; a unix socket's is none.
    pub(crate) fn of(address: Option<SocketAddr>) -> Self {
        match address {
            Some(SocketAddr::V6(v6)) => Self::Remote(match v6.ip().to_ipv4_mapped() {
                Some(v4) => SocketAddr::new(IpAddr::V4(v4), v6.port()),
                None => SocketAddr::V6(v6),
            }),
            Some(v4) => Self::Remote(v4),
            None => Self::Local,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Remote(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::is_cloexec;
    use std::io::Read;
    use std::net::TcpListener;

    fn tcp(address: SocketAddr) -> Target {
        Target::tcp(address, TcpOptions::default())
    }

    #[test]
    fn a_dialed_tcp_socket_is_non_blocking_and_has_its_options() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let target = tcp(listener.local_addr().expect("address"));
        let socket = match start_connect(&target).expect("connect") {
            Dialing::Connected(socket) => socket,
            Dialing::InProgress(socket) => {
                listener.accept().expect("accept");
                assert_eq!(finish_connect(&socket), Ok(true));
                socket
            }
        };
        assert!(socket.nonblocking().expect("flags") && is_cloexec(&socket));
        assert!(socket.tcp_nodelay().expect("option"));
        assert!(socket.keepalive().expect("option"));
        assert_eq!(socket.tcp_keepalive_time().expect("option"), KEEPALIVE_TIME);
        assert_eq!(socket.tcp_keepalive_interval().expect("option"), KEEPALIVE_TIME);
        assert_eq!(socket.tcp_keepalive_retries().expect("option"), KEEPALIVE_RETRIES);
        assert_eq!(socket.tcp_user_timeout().expect("option"), Some(Duration::from_secs(150)));
        let address = listener.local_addr().expect("address");
        match start_connect(&Target::tcp(address, TcpOptions { user_timeout: None })).expect("connect") {
            Dialing::Connected(socket) | Dialing::InProgress(socket) => {
                assert_eq!(socket.tcp_user_timeout().expect("option"), None);
            }
        }
    }

    #[test]
    fn a_target_beneath_a_directory_is_dialed_through_it_and_shown_as_written() {
        let dir = crate::testing::Scratch::new();
        let deep = dir.path(&"long-directory-name/".repeat(10));
        std::fs::create_dir_all(&deep).expect("mkdir");
        let path: SocketPath = deep.join("x").display().to_string().parse().expect("path");
        let place = place::Place::make(&path).expect("there");
        let listener = std::os::unix::net::UnixListener::bind(place.path()).expect("bind");
        let target = Target::unix_beneath(&path).expect("found");
        assert_eq!(target.to_string(), path.to_string());
        assert!(matches!(start_connect(&target.clone()), Ok(Dialing::Connected(_))) && !target.is_tcp());
        listener.accept().expect("a connection");
        drop(listener);
        assert_eq!(start_connect(&target).err(), Some(Failure::Refused));
        let gone = format!("{}/none/x", dir.root().display()).parse().expect("path");
        assert_eq!(failure(&Target::unix_beneath(&gone).expect_err("gone")), Failure::NotFound);
    }

    #[test]
    fn only_whom_we_expect_is_dialed() {
        let dir = crate::testing::Scratch::new();
        let path = dir.path("x");
        let _listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
        let us = std::fs::metadata(dir.root()).expect("stat");
        let (uid, gid) = (std::os::unix::fs::MetadataExt::uid(&us), std::os::unix::fs::MetadataExt::gid(&us));
        let dial = |holder| start_connect(&Target::unix(&path).expect("path").held_by(holder)).map(drop);
        assert_eq!(dial(None), Ok(()));
        assert_eq!(dial(Some(Holder { uid, gid: None })), Ok(()));
        assert_eq!(dial(Some(Holder { uid, gid: Some(gid) })), Ok(()));
        assert_eq!(dial(Some(Holder { uid: uid + 1, gid: None })), Err(Failure::Denied));
        assert_eq!(dial(Some(Holder { uid, gid: Some(gid + 1) })), Err(Failure::Denied));
        assert_eq!(Holder { uid: 107, gid: Some(107) }.to_string(), "107:107");
    }

    #[test]
    fn a_refused_dial_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let target = tcp(listener.local_addr().expect("address"));
        drop(listener);
        match start_connect(&target) {
            Err(e) => assert_eq!(e, Failure::Refused),
            Ok(Dialing::Connected(_)) => panic!("connected to nobody"),
            Ok(Dialing::InProgress(socket)) => {
                std::thread::sleep(Duration::from_millis(50));
                assert_eq!(finish_connect(&socket), Err(Failure::Refused));
            }
        }
    }

    #[test]
    fn a_dial_to_its_own_port_is_refused_rather_than_connected_to_itself() {
        let socket = new(Domain::IPV4, TcpOptions::default()).expect("socket");
        let any: SocketAddr = "127.0.0.1:0".parse().expect("address");
        socket.bind(&any.into()).expect("bind");
        let own = socket.local_addr().expect("address");
        let _ = socket.connect(&own);
        assert_eq!(socket.peer_addr().expect("connected to itself"), own);
        assert_eq!(finish_connect(&socket), Err(Failure::Refused));
    }

    #[test]
    fn a_full_backlog_is_busy_and_a_missing_socket_not_found() {
        let name = format!("relay-node-backlog-{}", std::process::id());
        let target = Target::unix_abstract(&name).expect("address");
        assert_eq!(start_connect(&target).err(), Some(Failure::Refused), "abstract names have no file");
        let listener = new_unix().expect("socket");
        listener.bind(&abstract_address(&name).expect("address")).expect("bind");
        listener.listen(0).expect("listen");
        let mut waiting = Vec::new();
        let busy = (0..64).find_map(|_| match start_connect(&target) {
            Ok(Dialing::Connected(socket)) => {
                waiting.push(socket);
                None
            }
            Ok(Dialing::InProgress(_)) => panic!("unix sockets are never in progress"),
            Err(failure) => Some(failure),
        });
        assert_eq!(busy, Some(Failure::Busy));
        let gone = Target::unix(Path::new("/nonexistent/relay.sock")).expect("address");
        assert_eq!(start_connect(&gone).err(), Some(Failure::NotFound));
        assert!(Target::unix(Path::new(&"x".repeat(108))).is_err());
    }

    #[test]
    fn reset_on_close_resets_tcp_and_leaves_unix_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let ours =
            Socket::from(std::net::TcpStream::connect(listener.local_addr().expect("a")).expect("dial"));
        let (mut peer, _) = listener.accept().expect("accept");
        reset_on_close(&ours).expect("option");
        drop(ours);
        let error = peer.read(&mut [0; 1]).expect_err("a reset");
        assert_eq!(failure(&error), Failure::Reset);

        let (a, _b) = std::os::unix::net::UnixStream::pair().expect("pair");
        let a = Socket::from(a);
        assert!(!is_tcp(&a).expect("domain"));
        reset_on_close(&a).expect("nothing to do");
    }

    #[test]
    fn targets_and_peers_are_printed_as_people_write_them() {
        assert_eq!(Target::unix_abstract("x").expect("address").to_string(), "@x");
        assert_eq!(Target::unix(Path::new("/run/x")).expect("address").to_string(), "/run/x");
        let v6: SocketAddr = "[::1]:5".parse().expect("address");
        assert_eq!(tcp(v6).to_string(), "[::1]:5");
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:5".parse().expect("address");
        assert_eq!(Peer::of(Some(mapped)).to_string(), "10.0.0.1:5");
        assert_eq!(Peer::of(None).to_string(), "local");
    }
}
