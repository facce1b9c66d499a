//! Listening sockets of every kind of endpoint, behind one type.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use relay_migration::SocketPath;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::endpoint::{Endpoint, Host, HostPort};
use crate::handed::HandedSocket;
use crate::inherited::Inherited;
use crate::place::Place;
use crate::resolve;
use crate::socket::{self, Peer, TcpOptions};
pub use crate::socket_file::Rights;
use crate::socket_file::{self, FileId, SocketFile};

/// Connections that may wait to be accepted, unless `net.core.somaxconn` is lower (listen(2)).
const BACKLOG: i32 = 1024;

/// As many may be waiting at one that is to be closed.
pub(crate) const WAITING_MAX: usize = BACKLOG as usize + 1;

/// What a listening socket is to be like, each kind as far as it can be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ListenOptions {
    /// For the file of a `unix:PATH`.
    pub rights: Rights,
    /// For what is accepted by TCP.
    pub tcp: TcpOptions,
    /// Beside another listener of ours at that port, which allows it (`Listener::share`).
    pub beside: bool,
}

/// A non-blocking listening socket. Dropping it closes it and removes its file, if it has one that
/// is still ours.
#[derive(Debug)]
pub struct Listener {
    // Before the socket: the name goes first, so that nobody connects to what is being closed.
    _file: Option<SocketFile>,
    socket: Arc<Socket>,
    local: Endpoint,
    /// What those that are accepted are to be given. Only for an inherited socket: connections may have
    /// been made before the options were on it.
    accepted: Option<TcpOptions>,
    /// Somebody else has the socket, too, and goes on listening.
    left: Arc<AtomicBool>,
}

impl Listener {
    fn new(file: Option<SocketFile>, socket: Socket, local: Endpoint) -> Self {
        let left = file.as_ref().map_or_else(Arc::default, |file| Arc::clone(file.left()));
        Self { _file: file, socket: Arc::new(socket), local, accepted: None, left }
    }

    /// The same socket with a file of ours and another name.
    fn with(self, file: Option<SocketFile>, local: Endpoint) -> Self {
        let left = file.as_ref().map_or_else(Arc::default, |file| Arc::clone(file.left()));
        Self { _file: file, local, left, ..self }
    }

    /// To be called before it is closed: from now on nobody comes by its file, if it has one. Whether those who
    /// wait to be accepted would be lost with it: not if somebody else has the socket, too.
    pub(crate) fn withdraw(&mut self) -> bool {
        let lost = !self.left.load(Ordering::Relaxed);
        if lost {
            self._file = None;
        }
        lost
    }

    /// Where it listens, with the port that the kernel chose if it was asked to.
    #[must_use]
    pub const fn local(&self) -> &Endpoint {
        &self.local
    }

    /// The TCP port, if there is one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.local.host_port().map(|at| at.port)
    }

    /// Which file it has made, if it has made one.
    pub(crate) fn file_id(&self) -> Option<FileId> {
        self._file.as_ref().map(SocketFile::id)
    }

    /// What it takes to hand it over to a successor. Does not keep it open.
    pub(crate) fn hand(&self) -> Hand {
        Hand { socket: Arc::downgrade(&self.socket), left: Arc::clone(&self.left), file: self.file_id() }
    }

    /// What to wait at.
    #[must_use]
    pub const fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    /// Another descriptor of a TCP listener. As long as it is open, so is the listener.
    pub(crate) fn share(&self) -> Option<Shared> {
        self.local.host_port()?;
        self.socket.try_clone().ok().map(Shared)
    }

    /// Takes the next connection: non-blocking, close-on-exec, with its options set.
    ///
    /// # Errors
    /// As accept(2); see [`is_exhausted`](crate::failure::is_exhausted) and
    /// [`is_of_one_connection`](crate::failure::is_of_one_connection) for what to do about it.
    pub fn accept(&self) -> io::Result<(Socket, Peer)> {
        // By one system call where std and socket2 take three.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (socket, address) = acceptfrom_with(&*self.socket, flags)?;
        let socket = Socket::from(socket);
        if let Some(options) = self.accepted {
            options.set(&socket)?;
        }
        let peer = Peer::of(address.and_then(|address| address.try_into().ok()));
        if matches!(peer, Peer::Local) {
            socket::widen(&socket);
        }
        Ok((socket, peer))
    }
}

/// A listener that a loop has, to be handed over to a successor.
#[derive(Clone, Debug)]
pub(crate) struct Hand {
    socket: Weak<Socket>,
    left: Arc<AtomicBool>,
    file: Option<FileId>,
}

impl Hand {
    /// Another descriptor of it, and its file; none if it is closed by now.
    ///
    /// # Errors
    /// As dup(2).
    pub(crate) fn copy(&self) -> io::Result<Option<(OwnedFd, Option<FileId>)>> {
        let Some(socket) = self.socket.upgrade() else { return Ok(None) };
        Ok(Some((socket.try_clone()?.into(), self.file)))
    }

    /// It is the successor's, with its file and those who wait there.
    pub(crate) fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
    }
}

/// A TCP listener that may let a successor have its port at another address while it is still there: the
/// kernel takes `[::]:P` and `10.1.1.1:P` for the same port.
#[derive(Debug)]
pub(crate) struct Shared(Socket);

impl Shared {
    /// Lets a socket of ours that asks for it bind to the same port, or nobody any more (socket(7),
    /// SO_REUSEPORT). Only meanwhile: else a second relay would get half of our connections.
    pub(crate) fn allow(&self, another: bool) {
        // if it does not work, the successor finds another port
        let _ = self.0.set_reuse_port(another);
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Binds and listens. Looks a host name up at once, which may take a while: not for a loop.
///
/// # Errors
/// As bind(2), chown(2) and listen(2). `AddrInUse` also if what is at a unix path is no socket;
/// `NotFound` if nothing was inherited under an `fd:` name, or its host name has no address.
pub fn listen(
    endpoint: &Endpoint,
    options: &ListenOptions,
    inherited: &mut Inherited,
) -> io::Result<Listener> {
    match endpoint {
        Endpoint::Unix(path) => listen_unix(socket_file::bind(path, options.rights)?, endpoint.clone()),
        Endpoint::Abstract(name) => {
            let socket = socket::new_unix()?;
            socket.bind(&socket::abstract_address(name)?)?;
            socket.listen(BACKLOG)?;
            Ok(Listener::new(None, socket, endpoint.clone()))
        }
        Endpoint::Tcp(at) => listen_tcp(at, options, Endpoint::Tcp),
        Endpoint::Tls(at) => listen_tcp(at, options, Endpoint::Tls),
        Endpoint::Fd(name) => {
            let listener = adopt(inherited.take(name)?, options.tcp)?;
            // The service manager has it, too, and starts us again for who waits there (systemd.socket(5)).
            listener.left.store(true, Ordering::Relaxed);
            Ok(listener)
        }
    }
}

/// The same for a unix socket beneath a directory that is trusted, in a tree that need not be: no link
/// in there leads elsewhere. Makes directories that are missing beneath the trusted one. The path may
/// be of any length.
///
/// # Errors
/// As [`listen`], mkdir(2) and openat2(2).
pub fn listen_beneath(path: &SocketPath, options: &ListenOptions) -> io::Result<Listener> {
    let bound = socket_file::bind_at(Place::make(path)?, options.rights)?;
    listen_unix(bound, Endpoint::Unix(path.as_path().to_owned()))
}

fn listen_unix((socket, file): (Socket, SocketFile), local: Endpoint) -> io::Result<Listener> {
    socket.listen(BACKLOG)?;
    Ok(Listener::new(Some(file), socket, local))
}

fn listen_tcp(
    at: &HostPort,
    options: &ListenOptions,
    kind: fn(HostPort) -> Endpoint,
) -> io::Result<Listener> {
    let address = match &at.host {
        Host::Name(name) => resolve::look_up(name, at.port)?
            .first()
            .copied()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))?,
        Host::V4(_) | Host::V6(..) => resolve::literal(at)?,
    };
    let socket = socket::new(Domain::for_address(address), options.tcp)?;
    if options.beside {
        socket.set_reuse_port(true)?;
    }
    // A restarted node must not wait for its predecessor's TIME_WAIT (socket(7)).
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // Both families by [::], whatever net.ipv6.bindv6only says, as Go's listeners do.
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    if options.beside {
        socket.set_reuse_port(false)?;
    }
    let bound = bound_address(&socket)?;
    let local = match &at.host {
        // The kernel knows the zone by its number only.
        host @ Host::V6(_, Some(_)) => HostPort { host: host.clone(), port: bound.port() },
        Host::V4(_) | Host::V6(_, None) | Host::Name(_) => bound.into(),
    };
    Ok(Listener::new(None, socket, kind(local)))
}

/// Makes a TCP listener of one that a predecessor handed over.
///
/// # Errors
/// `InvalidInput` if it is none.
pub(crate) fn take_over_tcp(
    handed: HandedSocket,
    options: TcpOptions,
    kind: fn(HostPort) -> Endpoint,
) -> io::Result<Listener> {
    let listener = adopt(handed.fd, options)?;
    let local = kind(bound_address(&listener.socket)?.into());
    Ok(listener.with(None, local))
}

/// The same for a unix socket beneath a base directory, with its file.
///
/// # Errors
/// `NotFound` if another file has taken the place of its file.
pub(crate) fn take_over_beneath(handed: HandedSocket, path: &SocketPath) -> io::Result<Listener> {
    let file = handed.file.map(|id| SocketFile::adopt(Place::make(path)?, id)).transpose()?;
    let local = Endpoint::Unix(path.as_path().to_owned());
    Ok(adopt(handed.fd, TcpOptions::default())?.with(file, local))
}

/// The same for one whose name is taken as it is.
///
/// # Errors
/// As [`take_over_beneath`].
pub(crate) fn take_over(handed: HandedSocket, at: &Endpoint) -> io::Result<Listener> {
    let file = match (at, handed.file) {
        (Endpoint::Unix(path), Some(id)) => Some(SocketFile::adopt_at(path, id)?),
        _ => None,
    };
    Ok(adopt(handed.fd, TcpOptions::default())?.with(file, at.clone()))
}

fn bound_address(socket: &Socket) -> io::Result<SocketAddr> {
    // A TCP socket's own address is never anything else.
    Ok(socket.local_addr()?.as_socket().unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into()))
}

/// Makes a listener of an inherited descriptor, which may be anything. Its file, if it has one,
/// belongs to whoever made it and is not removed.
fn adopt(fd: OwnedFd, options: TcpOptions) -> io::Result<Listener> {
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
    let socket = Socket::from(fd);
    if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
        return Err(invalid("the inherited descriptor is no listening stream socket"));
    }
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    let local = match address.domain() {
        Domain::UNIX => inherited_unix(&address),
        Domain::IPV4 | Domain::IPV6 => Endpoint::Tcp(bound_address(&socket)?.into()),
        _ => return Err(invalid("the inherited socket is neither unix nor TCP")),
    };
    let accepted = matches!(local, Endpoint::Tcp(_)).then_some(options);
    Ok(Listener { accepted, ..Listener::new(None, socket, local) })
}

fn inherited_unix(address: &SockAddr) -> Endpoint {
    match address.as_abstract_namespace() {
        Some(name) => Endpoint::Abstract(String::from_utf8_lossy(name).into_owned()),
        None => Endpoint::Unix(address.as_pathname().map(PathBuf::from).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::BUDGET;
    use crate::testing::{Scratch, is_cloexec};
    use std::net::TcpStream;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn listen_at(text: &str) -> io::Result<Listener> {
        let endpoint: Endpoint = text.parse().map_err(io::Error::other)?;
        listen(&endpoint, &ListenOptions::default(), &mut Inherited::none())
    }

    #[test]
    fn an_accepted_tcp_connection_has_every_option_without_being_given_any() {
        let listener = listen_at("tcp:127.0.0.1:0").expect("listen");
        assert_eq!(listener.accept().expect_err("nobody").kind(), io::ErrorKind::WouldBlock);
        let port = listener.port().expect("port");
        assert_ne!(port, 0);
        assert_eq!(listener.local().to_string(), format!("tcp:127.0.0.1:{port}"));
        let client = TcpStream::connect(("127.0.0.1", port)).expect("connect");
        let (socket, peer) = listener.accept().expect("accept");
        assert_eq!(peer, Peer::Remote(client.local_addr().expect("address")));
        assert!(socket.nonblocking().expect("flags") && is_cloexec(&socket));
        assert!(socket.tcp_nodelay().expect("option") && socket.keepalive().expect("option"));
        assert_eq!(socket.tcp_keepalive_time().expect("option").as_secs(), 15);
        assert_eq!(socket.tcp_keepalive_interval().expect("option").as_secs(), 15);
        assert_eq!(socket.tcp_keepalive_retries().expect("option"), 9);
        assert_eq!(socket.tcp_user_timeout().expect("option").map(|t| t.as_secs()), Some(150));
    }

    #[test]
    fn a_turn_fits_into_a_local_socket_as_far_as_the_kernel_allows_it() {
        let scratch = Scratch::new();
        let path = scratch.path("s");
        let listener = listen_at(&format!("unix:{}", path.display())).expect("listen");
        let target = socket::Target::unix(&path).expect("target");
        let Ok(socket::Dialing::Connected(dialed)) = socket::start_connect(&target) else { panic!("dialed") };
        let (accepted, _) = listener.accept().expect("accept");
        let (wide, _) = UnixStream::pair().expect("pair");
        let wide = Socket::from(wide);
        let narrow = wide.send_buffer_size().expect("option");
        wide.set_send_buffer_size(BUDGET).expect("option");
        let wide = wide.send_buffer_size().expect("option");
        // A machine whose default is larger keeps it.
        let expected = if narrow < 2 * BUDGET { wide } else { narrow };
        for socket in [dialed, accepted] {
            assert_eq!(socket.send_buffer_size().expect("option"), expected);
        }
    }

    #[test]
    fn a_zone_is_told_by_the_name_it_was_given() {
        let listener = match listen_at("tcp:[::1%lo]:0") {
            Ok(listener) => listener,
            // a machine without IPv6
            Err(e) if e.raw_os_error().is_some() => return,
            Err(e) => panic!("{e}"),
        };
        let port = listener.port().expect("port");
        assert_eq!(listener.local().to_string(), format!("tcp:[::1%lo]:{port}"));
    }

    #[test]
    fn the_unspecified_v6_address_serves_both_families() {
        let listener = match listen_at("tls:[::]:0") {
            Ok(listener) => listener,
            // a machine without IPv6
            Err(e) if e.raw_os_error() == Some(libc::EAFNOSUPPORT) => return,
            Err(e) => panic!("{e}"),
        };
        let port = listener.port().expect("port");
        assert_eq!(listener.local().to_string(), format!("tls:[::]:{port}"));
        let client = TcpStream::connect(("127.0.0.1", port)).expect("connect");
        let (_, peer) = listener.accept().expect("accept");
        assert_eq!(peer.to_string(), client.local_addr().expect("address").to_string());
    }

    #[test]
    fn a_port_is_free_again_at_once_and_not_twice() {
        let first = listen_at("tcp:localhost:0").expect("listen");
        let text = first.local().to_string();
        let error = listen_at(&text).expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let client = TcpStream::connect(("127.0.0.1", first.port().expect("port")));
        drop(first.accept()); // our side closes first: TIME_WAIT is ours
        drop((first, client));
        listen_at(&text).expect("free");
    }

    #[test]
    fn unix_sockets_of_both_kinds() {
        let dir = Scratch::new();
        let path = dir.path("x");
        let listener = listen_at(&format!("unix:{}", path.display())).expect("listen");
        let _client = UnixStream::connect(&path).expect("connect");
        let (socket, peer) = listener.accept().expect("accept");
        assert_eq!(peer, Peer::Local);
        assert!(socket.nonblocking().expect("flags") && is_cloexec(&socket));
        drop(listener);
        assert!(!path.exists());

        let text = format!("unix:@relay-node-listen-{}", std::process::id());
        let listener = listen_at(&text).expect("listen");
        assert_eq!(listener.local().to_string(), text);
        assert_eq!(listen_at(&text).expect_err("taken").kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn beneath_a_directory_a_socket_of_any_length_and_gone_at_the_end() {
        let dir = Scratch::new();
        let deep = dir.path(&"long-directory-name/".repeat(10));
        std::fs::create_dir_all(&deep).expect("mkdir");
        let path: SocketPath = deep.join("x").display().to_string().parse().expect("path");
        let listener = listen_beneath(&path, &ListenOptions::default()).expect("listen");
        assert_eq!(listener.local(), &Endpoint::Unix(path.as_path().to_owned()));
        let error = listen_beneath(&path, &ListenOptions::default()).expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(path.as_path().exists());
        drop(listener);
        assert!(!path.as_path().exists());
    }

    #[test]
    fn an_inherited_socket_is_taken_as_it_is() {
        let dir = Scratch::new();
        let path = dir.path("x");
        let listener =
            adopt(UnixListener::bind(&path).expect("bind").into(), TcpOptions::default()).expect("adopt");
        assert_eq!(listener.local(), &Endpoint::Unix(path.clone()));
        let _client = UnixStream::connect(&path).expect("connect");
        listener.accept().expect("accept");
        drop(listener);
        assert!(path.exists(), "whoever made it removes it");

        let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let client = TcpStream::connect(tcp.local_addr().expect("address")).expect("connect");
        let listener = adopt(tcp.into(), TcpOptions::default()).expect("adopt");
        let (socket, _) = listener.accept().expect("accept");
        assert!(
            socket.tcp_nodelay().expect("option") && socket.tcp_user_timeout().expect("option").is_some()
        );
        assert!(adopt(client.into(), TcpOptions::default()).is_err(), "not listening");
        let (pair, _) = UnixStream::pair().expect("pair");
        assert!(adopt(pair.into(), TcpOptions::default()).is_err(), "not listening");
    }

    #[test]
    fn a_missing_directory_and_a_foreign_address_are_errors() {
        assert_eq!(listen_at("unix:/nonexistent/x").expect_err("no").kind(), io::ErrorKind::NotFound);
        // TEST-NET-1, RFC 5737: nobody's address
        assert_eq!(listen_at("tcp:192.0.2.1:0").expect_err("no").kind(), io::ErrorKind::AddrNotAvailable);
        assert_eq!(listen_at("fd:x").expect_err("no").kind(), io::ErrorKind::NotFound);
    }
}
