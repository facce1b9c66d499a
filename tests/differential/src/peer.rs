//! A peer: a blocking socket, bytes that can be told apart, and what was read.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use relay_node::endpoint::Endpoint;
use socket2::Socket;

use crate::script::{Kind, Side};

/// Against hanging for ever; nothing is expected to take that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What a peer saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// So many bytes, the right ones.
    Bytes(u64),
    /// The end of file.
    End,
    /// An error instead.
    Failed(ErrorKind),
}

/// One end of the road.
#[derive(Debug)]
pub(crate) struct Peer {
    socket: Socket,
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
    pub(crate) fn new(socket: Socket, side: Side) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).expect("option");
        socket.set_write_timeout(Some(PATIENCE)).expect("option");
        Self { socket, side, sent: 0, received: 0, has_ended: false }
    }

    pub(crate) fn dial(at: &Endpoint) -> Self {
        let socket = match at {
            Endpoint::Unix(path) => UnixStream::connect(path).expect("connect").into(),
            Endpoint::Tcp(at) => TcpStream::connect(("127.0.0.1", at.port)).expect("connect").into(),
            Endpoint::Abstract(_) | Endpoint::Tls(_) | Endpoint::Fd(_) => panic!("no client dials these"),
        };
        Self::new(socket, Side::Client)
    }

    pub(crate) fn send(&mut self, len: usize, writes: usize) {
        let bytes = bytes(self.side, self.sent, len);
        for piece in bytes.chunks(len.div_ceil(writes)) {
            (&self.socket).write_all(piece).expect("taken");
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
            match (&self.socket).read(&mut buffer[..left]) {
                Ok(0) => break Some(Seen::End),
                Ok(count) => {
                    assert!(buffer[..count] == bytes(self.side.other(), self.received, count), "wrong bytes");
                    self.received += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break Some(Seen::Failed(error.kind())),
            }
        };
        trace.push((self.side, Seen::Bytes(self.received - before)));
        trace.extend(end.map(|seen| (self.side, seen)));
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
        self.socket.shutdown(Shutdown::Write).expect("shut down");
    }

    pub(crate) fn reset_when_closed(&self) -> io::Result<()> {
        relay_node::socket::reset_on_close(&self.socket)
    }
}

/// Where the server is.
#[derive(Debug)]
pub(crate) struct Sink(Socket);

impl Sink {
    pub(crate) fn new(kind: Kind, path: &Path) -> (Self, String) {
        match kind {
            Kind::Unix => {
                let listener = UnixListener::bind(path).expect("bind");
                (Self(listener.into()), format!("unix:{}", path.display()))
            }
            Kind::Tcp => {
                let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
                let at = format!("tcp:{}", listener.local_addr().expect("address"));
                (Self(listener.into()), at)
            }
        }
    }

    pub(crate) fn accept(&self) -> Peer {
        let (socket, _) = self.0.accept().expect("the relay connects");
        Peer::new(socket, Side::Server)
    }
}
