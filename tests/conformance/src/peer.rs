//! The two ends that a relay stands between: blocking sockets, plain or with TLS, and where they are
//! accepted.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::PATIENCE;
use crate::tls::TlsEnd;

/// Where something listens, as a relay's `listening` line or its `--connect` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// `unix:PATH`
    Unix(PathBuf),
    /// `unix:@NAME`
    Abstract(String),
    /// `tcp:ADDRESS:PORT`
    Tcp(SocketAddr),
    /// `tls:ADDRESS:PORT`
    Tls(SocketAddr),
}

impl Endpoint {
    /// Reads one.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let (kind, rest) = text.split_once(':').expect("KIND:WHERE");
        let address = || rest.parse().expect("ADDRESS:PORT");
        match (kind, rest.strip_prefix('@')) {
            ("unix", Some(name)) => Self::Abstract(name.to_owned()),
            ("unix", None) => Self::Unix(rest.into()),
            ("tcp", _) => Self::Tcp(address()),
            ("tls", _) => Self::Tls(address()),
            _ => panic!("no endpoint: {text}"),
        }
    }

    /// What connect(2) and bind(2) want.
    ///
    /// # Panics
    /// If it has no address: a path that is too long.
    #[must_use]
    pub fn address(&self) -> SockAddr {
        match self {
            Self::Unix(path) => SockAddr::unix(path).expect("a short path"),
            Self::Abstract(name) => SockAddr::unix(format!("\0{name}")).expect("a short name"),
            Self::Tcp(address) | Self::Tls(address) => (*address).into(),
        }
    }

    /// Whether anybody listens there in a process' network namespace, without connecting: a relay
    /// would dial its backend for that. Nobody does if the process is gone.
    #[must_use]
    pub fn is_listened_on(&self, process: u32) -> bool {
        let lines = |name: &str| {
            let text = std::fs::read_to_string(format!("/proc/{process}/net/{name}")).unwrap_or_default();
            let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
            text.lines().skip(1).map(words).collect::<Vec<Vec<String>>>()
        };
        // __SO_ACCEPTCON
        let unix = |name: &str| {
            lines("unix").iter().any(|line| line.len() > 7 && line[3] == "00010000" && line[7] == name)
        };
        match self {
            Self::Unix(path) => unix(&path.to_string_lossy()),
            Self::Abstract(name) => unix(&format!("@{name}")),
            Self::Tcp(address) | Self::Tls(address) => {
                let port = format!(":{:04X}", address.port());
                let sockets = lines("tcp").into_iter().chain(lines("tcp6"));
                // TCP_LISTEN
                sockets.into_iter().any(|line| line[3] == "0A" && line[1].ends_with(&port))
            }
        }
    }

    /// The TCP port.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp(address) | Self::Tls(address) => address.port(),
            Self::Unix(_) | Self::Abstract(_) => panic!("a unix socket has no port"),
        }
    }

    /// The path of a unix socket's file.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        match self {
            Self::Unix(path) => path,
            Self::Abstract(_) | Self::Tcp(_) | Self::Tls(_) => panic!("no path"),
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Tls(address) => write!(f, "tls:{address}"),
        }
    }
}

/// A blocking socket with a limit to its patience, so that a test fails rather than hangs.
///
/// # Panics
/// If the options can't be set.
#[must_use]
pub fn patient(socket: Socket) -> Socket {
    socket.set_read_timeout(Some(PATIENCE)).expect("option");
    socket.set_write_timeout(Some(PATIENCE)).expect("option");
    if socket.domain().expect("domain") != Domain::UNIX {
        socket.set_tcp_nodelay(true).expect("option");
    }
    socket
}

/// Connects, below TLS.
///
/// # Errors
/// As connect(2).
pub fn try_dial(at: &Endpoint) -> io::Result<Socket> {
    let address = at.address();
    let socket = patient(Socket::new(address.domain(), Type::STREAM, None)?);
    socket.connect(&address).map(|()| socket)
}

/// Connects, below TLS.
///
/// # Panics
/// If it can't.
#[must_use]
pub fn dial(at: &Endpoint) -> Socket {
    try_dial(at).unwrap_or_else(|error| panic!("{at}: {error}"))
}

/// A TLS client's connection to whoever listens at `at`, before its handshake.
///
/// # Panics
/// If there is no address to compare certificates with.
#[must_use]
pub fn client_connection(at: &Endpoint, config: &Arc<ClientConfig>) -> ClientConnection {
    let Endpoint::Tls(address) = at else { panic!("{at} is not TLS") };
    ClientConnection::new(Arc::clone(config), ServerName::IpAddress(address.ip().into()))
        .expect("a connection")
}

/// A TLS server's connection before its handshake.
///
/// # Panics
/// If rustls has no randomness.
#[must_use]
pub fn server_connection(config: &Arc<ServerConfig>) -> ServerConnection {
    ServerConnection::new(Arc::clone(config)).expect("a connection")
}

/// One end of a relayed connection. Everything takes it shared: one thread may read while another
/// writes.
#[derive(Debug)]
pub enum Peer {
    /// A unix or TCP socket.
    Plain(Socket),
    /// With TLS on it.
    Tls(Box<TlsEnd>),
}

impl Peer {
    /// Connects and, to a `tls:` endpoint, does the handshake.
    ///
    /// # Errors
    /// As connect(2), or the handshake's.
    pub fn try_connect(at: &Endpoint, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let socket = try_dial(at)?;
        match at {
            Endpoint::Tls(_) => {
                TlsEnd::client(socket, client_connection(at, config)).map(|end| Self::Tls(Box::new(end)))
            }
            Endpoint::Unix(_) | Endpoint::Abstract(_) | Endpoint::Tcp(_) => Ok(Self::Plain(socket)),
        }
    }

    /// The socket, or that below TLS.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(end) => end.socket(),
        }
    }

    /// TLS.
    ///
    /// # Panics
    /// If it is plain.
    #[must_use]
    pub fn tls(&self) -> &TlsEnd {
        match self {
            Self::Plain(_) => panic!("a plain connection"),
            Self::Tls(end) => end,
        }
    }

    /// Whether a reset can be told from an end on it: not on a unix socket.
    ///
    /// # Panics
    /// If the kernel does not know what it is.
    #[must_use]
    pub fn knows_resets(&self) -> bool {
        self.socket().domain().expect("domain") != Domain::UNIX
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// As write(2).
    pub fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(socket) => { socket }.write_all(bytes),
            Self::Tls(end) => end.write_all(bytes),
        }
    }

    /// Reads some; 0 at an orderly end.
    ///
    /// # Errors
    /// As read(2); for TLS, see [`TlsEnd::read`].
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => again(|| { socket }.read(buffer)),
            Self::Tls(end) => end.read(buffer),
        }
    }

    /// The orderly end of what it sends: close_notify if it has TLS, then the FIN.
    ///
    /// # Errors
    /// As shutdown(2).
    pub fn finish(&self) -> io::Result<()> {
        if let Self::Tls(end) = self {
            end.close_notify()?;
        }
        self.socket().shutdown(Shutdown::Write)
    }

    /// A FIN without the close_notify that should come before it.
    ///
    /// # Errors
    /// As shutdown(2).
    pub fn cut(&self) -> io::Result<()> {
        self.socket().shutdown(Shutdown::Write)
    }

    /// Closes it with a reset. A unix socket, which has none, is just closed.
    ///
    /// # Panics
    /// If the option can't be set.
    pub fn reset(self) {
        if self.knows_resets() {
            self.socket().set_linger(Some(Duration::ZERO)).expect("option");
        }
    }
}

/// Calls again what was interrupted: a call that has a timeout ends so once the process was stopped and goes on
/// (signal(7)), as happens when somebody looks at it, or the machine is moved.
///
/// # Errors
/// Whatever else the call says.
pub fn again<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Where a relay's sessions end.
#[derive(Debug)]
pub struct Sink {
    socket: Socket,
    at: Endpoint,
    tls: Option<Arc<ServerConfig>>,
}

impl Sink {
    /// Listens; port 0 is any. `tls` is for a `tls:` endpoint.
    ///
    /// # Panics
    /// If it can't.
    #[must_use]
    pub fn new(at: &Endpoint, tls: &Arc<ServerConfig>) -> Self {
        Self::with_backlog(at, tls, 1024)
    }

    /// The same with another backlog (listen(2)).
    ///
    /// # Panics
    /// If it can't.
    #[must_use]
    pub fn with_backlog(at: &Endpoint, tls: &Arc<ServerConfig>, backlog: i32) -> Self {
        let address = at.address();
        let socket = Socket::new(address.domain(), Type::STREAM, None).expect("socket");
        if address.domain() != Domain::UNIX {
            socket.set_reuse_address(true).expect("option");
        }
        socket.bind(&address).unwrap_or_else(|error| panic!("{at}: {error}"));
        socket.listen(backlog).expect("listen");
        let bound = || socket.local_addr().expect("address").as_socket().expect("TCP");
        let (at, tls) = match at {
            Endpoint::Tcp(_) => (Endpoint::Tcp(bound()), None),
            Endpoint::Tls(_) => (Endpoint::Tls(bound()), Some(Arc::clone(tls))),
            Endpoint::Unix(_) | Endpoint::Abstract(_) => (at.clone(), None),
        };
        Self { socket: patient(socket), at, tls }
    }

    /// Where it listens.
    #[must_use]
    pub const fn at(&self) -> &Endpoint {
        &self.at
    }

    /// Its descriptor, to be handed to a child.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.socket.into()
    }

    /// Listens no longer, as of now. Dropping it is not enough where that matters: what another test
    /// is about to start has inherited the descriptor until it calls execve(2), so clients would go on
    /// to be accepted, and be reset then.
    ///
    /// # Panics
    /// If it can't.
    pub fn close(self) {
        self.socket.shutdown(Shutdown::Both).expect("a listener can be shut down");
    }

    /// The next connection, below TLS.
    ///
    /// # Panics
    /// If none comes.
    #[must_use]
    pub fn accept_raw(&self) -> Socket {
        let (socket, _) = again(|| self.socket.accept()).expect("a connection comes");
        patient(socket)
    }

    /// The next connection; with TLS, after the handshake.
    ///
    /// # Errors
    /// The handshake's.
    ///
    /// # Panics
    /// If no connection comes.
    pub fn try_accept(&self) -> io::Result<Peer> {
        let socket = self.accept_raw();
        match &self.tls {
            None => Ok(Peer::Plain(socket)),
            Some(config) => {
                TlsEnd::server(socket, server_connection(config)).map(|end| Peer::Tls(Box::new(end)))
            }
        }
    }

    /// The next connection; with TLS, after the handshake.
    ///
    /// # Panics
    /// If none comes.
    #[must_use]
    pub fn accept(&self) -> Peer {
        self.try_accept().expect("a handshake")
    }

    /// Fails if somebody has connected. Of use only once an event says that whoever might have would
    /// have done so by now.
    ///
    /// # Panics
    /// If somebody has.
    pub fn assert_untouched(&self) {
        self.socket.set_nonblocking(true).expect("flag");
        let error = self.socket.accept().map(drop).expect_err("the backend was touched");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        self.socket.set_nonblocking(false).expect("flag");
    }
}
