//! A peer: a blocking socket, bytes that can be told apart, and what was read.

use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use relay_conformance::peer::{client_connection, patient};
use relay_conformance::{Endpoint as At, Peer as Stream, TlsEnd};
use relay_node::endpoint::Endpoint;
use socket2::{SockAddr, Socket, Type};

use crate::certificates::{Authorities, ClientConfig};
use crate::script::{Kind, Side};

/// What a socket with little room is asked to hold, in bytes; the kernel doubles it (socket(7)).
const LITTLE: usize = 4096;

/// What a peer saw.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    /// So many bytes, the right ones.
    Bytes(u64),
    /// These bytes, of the relay's own.
    Raw(Vec<u8>),
    /// The end of file.
    End,
    /// An error instead.
    Failed(ErrorKind),
}

/// One end of the road.
#[derive(Debug)]
pub(crate) struct Peer {
    stream: Stream,
    side: Side,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) has_ended: bool,
}

/// The byte at a place of a side's stream.
const fn byte(side: Side, at: u64) -> u8 {
    let seed = match side {
        Side::Client => 0x9E37_79B9_7F4A_7C15,
        Side::Server => 0xC2B2_AE3D_27D4_EB4F,
    };
    ((at / 7 + 1).wrapping_mul(seed) >> 40) as u8 ^ at as u8
}

fn bytes(side: Side, at: u64, len: usize) -> Vec<u8> {
    (at..).take(len).map(|at| byte(side, at)).collect()
}

impl Peer {
    const fn new(stream: Stream, side: Side) -> Self {
        Self { stream, side, sent: 0, received: 0, has_ended: false }
    }

    /// Connects, with little room if so wished.
    pub(crate) fn dial(at: &Endpoint, little: bool) -> Self {
        let stream = match at {
            Endpoint::Tls(_) => secure(connect(at, little), &Authorities::common().client()).expect("TLS"),
            Endpoint::Unix(_) | Endpoint::Tcp(_) | Endpoint::Abstract(_) | Endpoint::Fd(_) => {
                Stream::Plain(connect(at, little))
            }
        };
        Self::new(stream, Side::Client)
    }

    /// Connects to a TLS front, and says nothing or something else.
    pub(crate) fn dial_plain(at: &Endpoint) -> Self {
        Self::new(Stream::Plain(connect(at, false)), Side::Client)
    }

    /// Connects as this one. Its handshake is complete before the relay has judged its certificate.
    pub(crate) fn dial_as(at: &Endpoint, config: &Arc<ClientConfig>) -> io::Result<Self> {
        secure(connect(at, false), config).map(|stream| Self::new(stream, Side::Client))
    }

    pub(crate) fn send_raw(&self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("taken");
    }

    /// Reads whatever it is up to the end, whatever that is.
    pub(crate) fn receive_raw(&self) -> (Vec<u8>, Seen) {
        let (mut bytes, mut buffer) = (Vec::new(), [0; 1000]);
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return (bytes, Seen::End),
                Ok(count) => bytes.extend(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return (bytes, Seen::Failed(error.kind())),
            }
        }
    }

    pub(crate) fn send(&mut self, len: usize, writes: usize) {
        let bytes = bytes(self.side, self.sent, len);
        for piece in bytes.chunks(len.div_ceil(writes)) {
            self.stream.write_all(piece).expect("taken");
        }
        self.sent += len as u64;
    }

    /// Reads up to the `until`th byte that the other side has sent, or to the end of all.
    pub(crate) fn receive(&mut self, until: u64, trace: &mut Vec<(Side, Seen)>) {
        let (mut buffer, before) = (vec![0; 64 << 10], self.received);
        let end = loop {
            let left = usize::try_from(until - self.received).unwrap_or(usize::MAX).min(buffer.len());
            if left == 0 {
                break None;
            }
            match self.stream.read(&mut buffer[..left]) {
                Ok(0) => {
                    self.wait_for_fin();
                    break Some(Seen::End);
                }
                Ok(count) => {
                    assert!(buffer[..count] == bytes(self.side.other(), self.received, count), "wrong bytes");
                    self.received += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    panic!("{:?}: neither bytes nor an end for minutes", self.side);
                }
                Err(error) => break Some(Seen::Failed(error.kind())),
            }
        };
        trace.push((self.side, Seen::Bytes(self.received - before)));
        trace.extend(end.map(|seen| (self.side, seen)));
    }

    /// The FIN comes behind the close_notify. Who resets its connection between the two decides by its speed
    /// alone whether the relay can send it (ENOTCONN).
    fn wait_for_fin(&self) {
        if self.is_written_to_at_the_end() {
            let mut socket = self.stream.socket();
            while matches!(socket.read(&mut [0; 16]), Ok(1..)) {}
        }
    }

    /// Reads to the end, whatever that is.
    pub(crate) fn receive_to_the_end(&mut self, trace: &mut Vec<(Side, Seen)>) {
        self.receive(u64::MAX, trace);
    }

    /// Sends while another reads; that one begins once `begin` returns.
    pub(crate) fn transfer(
        &mut self,
        to: &mut Self,
        len: usize,
        trace: &mut Vec<(Side, Seen)>,
        begin: impl FnOnce(),
    ) {
        let until = self.sent + len as u64;
        thread::scope(|scope| {
            scope.spawn(|| self.send(len, len.div_ceil(50_000)));
            begin();
            to.receive(until, trace);
        });
    }

    pub(crate) fn half_close(&mut self) {
        self.has_ended = true;
        self.stream.finish().expect("shut down");
    }

    /// A unix socket is just closed.
    pub(crate) fn reset_when_closed(&self) {
        if self.stream.knows_resets() {
            relay_node::socket::reset_on_close(self.stream.socket()).expect("option");
        }
    }

    /// Whether a relay that has read its end is told of a reset if it goes now: if it asks for one, or has
    /// left some of these bytes unread.
    pub(crate) fn goes_with_reset(&self, resets: bool, sent_to_it: u64) -> bool {
        resets && self.stream.knows_resets() || self.received < sent_to_it
    }

    /// Whether a relay that has read its end and then writes to it when it is gone is told of a reset, or
    /// not, depending on who is faster: the last word of TLS is such bytes.
    pub(crate) const fn is_written_to_at_the_end(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }
}

fn connect(at: &Endpoint, little: bool) -> Socket {
    let address: SockAddr = match at {
        Endpoint::Unix(path) => SockAddr::unix(path).expect("it fits"),
        Endpoint::Tcp(at) | Endpoint::Tls(at) => SocketAddr::from(([127, 0, 0, 1], at.port)).into(),
        Endpoint::Abstract(_) | Endpoint::Fd(_) => panic!("no client dials these"),
    };
    let socket = patient(Socket::new(address.domain(), Type::STREAM, None).expect("a socket"));
    if little {
        socket.set_recv_buffer_size(LITTLE).expect("option");
    }
    socket.connect(&address).expect("connected");
    socket
}

fn secure(socket: Socket, config: &Arc<ClientConfig>) -> io::Result<Stream> {
    let at = At::Tls(SocketAddr::from(([127, 0, 0, 1], 0)));
    Ok(Stream::Tls(Box::new(TlsEnd::client(socket, client_connection(&at, config))?)))
}

/// Where the server is.
#[derive(Debug)]
pub(crate) struct Sink {
    socket: Socket,
    pub(crate) at: String,
}

impl Sink {
    /// With little room for each connection, if so wished.
    pub(crate) fn new(kind: Kind, path: &Path, little: bool) -> Self {
        let address: SockAddr = match kind {
            Kind::Unix => SockAddr::unix(path).expect("it fits"),
            Kind::Tcp | Kind::Tls => SocketAddr::from(([127, 0, 0, 1], 0)).into(),
        };
        let socket = patient(Socket::new(address.domain(), Type::STREAM, None).expect("a socket"));
        if little {
            socket.set_recv_buffer_size(LITTLE).expect("option");
        }
        socket.bind(&address).expect("bound");
        socket.listen(16).expect("listening");
        let bound = socket.local_addr().expect("address");
        let at = match bound.as_socket() {
            Some(at) => format!("tcp:{at}"),
            None => format!("unix:{}", path.display()),
        };
        Self { socket, at }
    }

    /// Where nobody is.
    pub(crate) fn nowhere(kind: Kind, path: PathBuf) -> String {
        match kind {
            Kind::Unix => format!("unix:{}", path.display()),
            Kind::Tcp | Kind::Tls => "tcp:127.0.0.1:1".to_owned(),
        }
    }

    pub(crate) fn accept(&self) -> Peer {
        let (socket, _) = self.socket.accept().expect("the relay connects");
        Peer::new(Stream::Plain(patient(socket)), Side::Server)
    }

    /// Whether nobody has come.
    pub(crate) fn is_untouched(&self) -> bool {
        self.socket.set_nonblocking(true).expect("flag");
        self.socket.accept().is_err()
    }
}
