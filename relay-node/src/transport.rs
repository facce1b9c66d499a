//! The two sockets of a session as the pump wants them.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::sync::Arc;

use relay_core::pump::{Filled, READ_SLICES, Transport, TryError, WRITE_SLICES};
use relay_core::{Failure, Leg, PerLeg};
use socket2::Socket;

use crate::failure::failure;
use crate::pipes::{self, Pipe, Pipes};

/// How a TLS record begins that begins a handshake: its type, and a version of old (RFC 8446 section 5.1).
const HANDSHAKE: [u8; 2] = [22, 3];

/// Non-blocking sockets, unix or TCP; Back's is missing until it is connected.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Both.
    pub legs: PerLeg<Option<Arc<Socket>>>,
    /// By the leg that fills them.
    pipes: PerLeg<Option<Pipe>>,
    /// Whether what Front said first was the header of a TLS handshake record, once it said something.
    tls: Option<bool>,
}

impl Sockets {
    /// Of a session whose Front was accepted.
    #[must_use]
    pub fn new(front: Arc<Socket>) -> Self {
        Self { legs: PerLeg::new(Some(front), None), ..Self::default() }
    }

    /// Whether the first bytes that were read from Front are those of a TLS handshake.
    #[must_use]
    pub fn began_with_tls(&self) -> bool {
        self.tls.unwrap_or_default()
    }

    /// Looks at what was read first, and at nothing after it.
    fn note(&mut self, leg: Leg, read: &Result<usize, TryError>, slices: &[&mut [u8]]) {
        if leg == Leg::Front
            && self.tls.is_none()
            && let Ok(count @ 1..) = *read
        {
            let mut bytes = slices.iter().flat_map(|slice| slice.iter()).take(count);
            self.tls = Some(HANDSHAKE.iter().all(|byte| bytes.next() == Some(byte)));
        }
    }

    fn leg(&self, leg: Leg) -> Result<&Socket, TryError> {
        // The session demands nothing of a leg that is not up.
        self.legs[leg].as_deref().ok_or(TryError::Failed(Failure::Os(libc::ENOTCONN)))
    }
}

fn sorted<T>(result: io::Result<T>) -> Result<T, TryError> {
    result.map_err(|error| {
        if error.kind() == ErrorKind::WouldBlock {
            TryError::WouldBlock
        } else if error.kind() == ErrorKind::Interrupted {
            TryError::Interrupted
        } else {
            TryError::Failed(failure(&error))
        }
    })
}

/// A session's sockets, and the pipes of its loop, for a turn.
#[derive(Debug)]
pub struct Turn<'a> {
    /// The session's.
    pub sockets: &'a mut Sockets,
    /// The loop's.
    pub pipes: &'a mut Pipes,
}

impl Turn<'_> {
    fn pipe(&self, source: Leg) -> Result<&Pipe, TryError> {
        // The pump fills and drains what it was lent.
        self.sockets.pipes[source].as_ref().ok_or(TryError::Failed(Failure::Os(libc::EBADF)))
    }
}

impl Transport for Turn<'_> {
    const PIPE_FROM: usize = 64 << 10;

    fn try_read(&mut self, leg: Leg, slices: &mut [&mut [u8]]) -> Result<usize, TryError> {
        let mut socket = self.sockets.leg(leg)?;
        if let [only] = slices {
            let read = sorted(socket.read(only));
            self.sockets.note(leg, &read, slices);
            return read;
        }
        let count = slices.len().min(READ_SLICES);
        let mut rest = slices.iter_mut();
        let mut vector: [IoSliceMut<'_>; READ_SLICES] =
            std::array::from_fn(|_| IoSliceMut::new(rest.next().map_or(&mut [], |slice| &mut **slice)));
        let read = sorted(socket.read_vectored(&mut vector[..count]));
        self.sockets.note(leg, &read, slices);
        read
    }

    fn try_write(&mut self, leg: Leg, slices: &[&[u8]]) -> Result<usize, TryError> {
        let mut socket = self.sockets.leg(leg)?;
        if let [only] = slices {
            return sorted(socket.write(only));
        }
        let count = slices.len().min(WRITE_SLICES);
        let mut vector = [IoSlice::new(&[]); WRITE_SLICES];
        for (place, slice) in vector.iter_mut().zip(slices) {
            *place = IoSlice::new(slice);
        }
        sorted(socket.write_vectored(&vector[..count]))
    }

    fn shut_write(&mut self, leg: Leg) -> Result<(), TryError> {
        sorted(self.sockets.leg(leg)?.shutdown(Shutdown::Write))
    }

    fn open_pipe(&mut self, source: Leg) -> bool {
        let pipe = self.pipes.take();
        let lent = pipe.is_some();
        self.sockets.pipes[source] = pipe;
        lent
    }

    fn fill_pipe(&mut self, source: Leg, most: usize) -> Result<Filled, TryError> {
        match self.pipe(source)?.fill(self.sockets.leg(source)?, most) {
            Err(error) if pipes::is_unsupported(&error) => Ok(Filled::Unsupported),
            result => sorted(result).map(Filled::Moved),
        }
    }

    fn drain_pipe(&mut self, source: Leg, most: usize) -> Result<usize, TryError> {
        sorted(self.pipe(source)?.drain(self.sockets.leg(source.other())?, most))
    }

    fn close_pipe(&mut self, source: Leg, left: usize) {
        if let Some(pipe) = self.sockets.pipes[source].take() {
            self.pipes.give(pipe, left);
        }
    }

    fn has_unread(&mut self, leg: Leg) -> Result<bool, TryError> {
        let mut byte = [MaybeUninit::uninit()];
        sorted(self.sockets.leg(leg)?.peek(&mut byte)).map(|count| count > 0)
    }

    fn take_error(&mut self, leg: Leg) -> Option<Failure> {
        let error = self.sockets.legs[leg].as_ref()?.take_error();
        // a socket that cannot even be asked is no good either
        error.unwrap_or_else(Some).map(|error| failure(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn pair() -> (Sockets, UnixStream) {
        let (ours, peer) = UnixStream::pair().expect("pair");
        ours.set_nonblocking(true).expect("flag");
        (Sockets::new(Arc::new(ours.into())), peer)
    }

    #[test]
    fn scatters_gathers_and_says_what_stopped_it() {
        let (mut sockets, mut peer) = pair();
        let mut sockets = Turn { sockets: &mut sockets, pipes: &mut Pipes::default() };
        let leg = Leg::Front;
        assert_eq!(sockets.try_write(leg, &[b"ab", b"", b"cde"]), Ok(5));
        let mut got = [0; 5];
        peer.read_exact(&mut got).expect("read");
        assert_eq!(&got, b"abcde");
        peer.write_all(b"12345").expect("write");
        let (mut a, mut b) = ([0; 2], [0; 8]);
        assert_eq!(sockets.try_read(leg, &mut [&mut a, &mut b]), Ok(5));
        assert_eq!((&a, &b[..3]), (b"12", &b"345"[..]));
        assert_eq!(sockets.try_read(leg, &mut [&mut a]), Err(TryError::WouldBlock));
        sockets.shut_write(leg).expect("shutdown");
        assert_eq!(peer.read(&mut got).expect("end of file"), 0);
        drop(peer);
        assert_eq!(sockets.try_read(leg, &mut [&mut a, &mut b]), Ok(0));
        assert_eq!(sockets.try_write(leg, &[b"x"]), Err(TryError::Failed(Failure::BrokenPipe)));
        assert!(matches!(sockets.try_read(Leg::Back, &mut [&mut a]), Err(TryError::Failed(_))));
    }

    #[test]
    fn only_what_comes_first_is_a_handshake() {
        for (said, expected) in
            [(&b"\x16\x03\x01"[..], true), (b"\x16\x02", false), (b"\x16", false), (b"x\x16\x03", false)]
        {
            let (mut sockets, mut peer) = pair();
            assert!(!sockets.began_with_tls());
            for said in [said, b"\x16\x03\x01"] {
                peer.write_all(said).expect("write");
                let (mut a, mut b) = ([0; 1], [0; 8]);
                let mut turn = Turn { sockets: &mut sockets, pipes: &mut Pipes::default() };
                turn.try_read(Leg::Front, &mut [&mut a, &mut b]).expect("read");
                assert_eq!(sockets.began_with_tls(), expected, "{said:?}");
            }
        }
    }

    #[test]
    fn takes_as_many_slices_as_the_pump_gives() {
        let (mut sockets, mut peer) = pair();
        let mut sockets = Turn { sockets: &mut sockets, pipes: &mut Pipes::default() };
        let bytes: Vec<u8> = (0..WRITE_SLICES as u8).collect();
        let slices: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(sockets.try_write(Leg::Front, &slices), Ok(WRITE_SLICES));
        let mut got = vec![0; WRITE_SLICES];
        peer.read_exact(&mut got).expect("read");
        assert_eq!(got, bytes);
        peer.write_all(&bytes[..READ_SLICES]).expect("write");
        let mut read = [0; READ_SLICES];
        let mut places: Vec<&mut [u8]> = read.chunks_mut(1).collect();
        assert_eq!(sockets.try_read(Leg::Front, &mut places), Ok(READ_SLICES));
        assert_eq!(read, bytes[..READ_SLICES]);
    }
}
