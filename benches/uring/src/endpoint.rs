//! `unix:PATH` and `tcp:ADDRESS:PORT`.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use socket2::{Domain, SockAddr, Socket, Type};

/// Where to listen, or to connect to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// A socket in the file system.
    Unix(PathBuf),
    /// An address and a port.
    Tcp(SocketAddr),
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("unix", path)) => Ok(Self::Unix(path.into())),
            Some(("tcp", address)) => {
                address.parse().map(Self::Tcp).map_err(|error| format!("{text}: {error}"))
            }
            _ => Err(format!("{text}: neither unix:PATH nor tcp:ADDRESS:PORT")),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

impl Endpoint {
    pub(crate) fn is_tcp(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    pub(crate) fn address(&self) -> io::Result<SockAddr> {
        match self {
            Self::Unix(path) => SockAddr::unix(path),
            Self::Tcp(address) => Ok((*address).into()),
        }
    }

    /// A socket of its kind. It blocks, or the kernel would give operations back rather than wait.
    pub(crate) fn socket(&self) -> io::Result<Socket> {
        let socket = Socket::new(self.address()?.domain(), Type::STREAM, None)?;
        if self.is_tcp() {
            socket.set_tcp_nodelay(true)?;
        }
        Ok(socket)
    }

    /// Listens here; and where that turned out to be.
    ///
    /// # Errors
    /// As bind(2) and listen(2).
    pub fn listen(&self) -> io::Result<(Socket, Self)> {
        let socket = self.socket()?;
        if socket.domain()? != Domain::UNIX {
            socket.set_reuse_address(true)?;
        }
        socket.bind(&self.address()?)?;
        socket.listen(1024)?;
        let at = socket.local_addr()?.as_socket().map_or_else(|| self.clone(), Self::Tcp);
        Ok((socket, at))
    }
}
