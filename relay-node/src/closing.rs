//! Sockets of a session that is over, kept for the bytes still in them.

use std::io::Read;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use relay_core::admission::{Linger, Lingering, Stranger};
use relay_core::{Close, Instant, Leg, Outcome, PerLeg, Stop};
use socket2::Socket;

use crate::sessions::Seat;
use crate::socket;

/// What is read and thrown away at one look, at most: 64 times a scratch buffer.
const DISCARDS: usize = 64;
const SCRATCH: usize = 4 << 10;

/// After the operator's deadline, how long closed sessions' sockets are kept for the bytes in them.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// When everything is to be closed once the operator has said stop.
#[must_use]
pub fn end(stop: Stop, now: Instant) -> Instant {
    match stop {
        Stop::Drain { until } => until + LAST_BYTES,
        Stop::Abort => now,
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct Closing {
    /// Until its descriptors are free.
    _seat: Arc<Seat>,
    /// The session's front had to prove who it is, and never did.
    pub stranger: Option<Stranger>,
    legs: PerLeg<Option<Leaving>>,
}

#[derive(Debug)]
struct Leaving {
    socket: Arc<Socket>,
    lingering: Lingering,
    reset: bool,
}

impl Closing {
    /// Closes what can be closed at once.
    pub fn new(
        seat: Arc<Seat>,
        stranger: Option<Stranger>,
        mut sockets: PerLeg<Option<Arc<Socket>>>,
        outcome: Option<&Outcome>,
        now: Instant,
    ) -> Self {
        let legs = PerLeg::new(Leg::Front, Leg::Back).map(|leg| {
            let socket = sockets[leg].take()?;
            let close = outcome.map_or(Close::Reset, |outcome| outcome.close[leg]);
            // What the peer sent to the end was read to the end; otherwise something may be unread,
            // and closing on top of that destroys what is on its way to the peer.
            let read_to_the_end = outcome.is_some_and(|outcome| outcome.flows[leg].reason.is_clean());
            let reset = match close {
                Close::Dead => return None,
                Close::Orderly if read_to_the_end => return None,
                Close::Orderly => false,
                Close::Reset => true,
            };
            if !socket::is_tcp(&socket).unwrap_or(false) {
                if !reset {
                    refuse_input(&socket);
                }
                return None;
            }
            if !reset {
                // The peer may be gone: then there is nobody to tell.
                let _ = socket.shutdown(Shutdown::Write);
            }
            Some(Leaving { socket, lingering: Lingering::new(now), reset })
        });
        Self { _seat: seat, stranger, legs }
    }

    /// Closes what need not be kept any longer; all of it once `end` has come. Says when to look
    /// again, `None` once all is closed.
    pub fn look(&mut self, now: Instant, end: Option<Instant>) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for leg in Leg::BOTH {
            if let Some(leaving) = &mut self.legs[leg] {
                match leaving.look(now).filter(|_| end.is_none_or(|end| now < end)) {
                    Some(until) => {
                        let until = end.map_or(until, |end| until.min(end));
                        next = Some(next.map_or(until, |known| known.min(until)));
                    }
                    None => self.legs[leg] = None,
                }
            }
        }
        next
    }
}

impl Leaving {
    fn look(&mut self, now: Instant) -> Option<Instant> {
        if !self.reset && discard(&self.socket) {
            return None;
        }
        // The peer's kernel may have answered our last bytes with a reset. Then they go nowhere, and
        // SIOCOUTQ counts them for ever.
        if !matches!(self.socket.take_error(), Ok(None)) {
            return None;
        }
        // Whoever can't tell has nothing to wait for.
        let unsent = relay_sys::unsent(self.socket.as_fd()).unwrap_or(0);
        match self.lingering.look(now, unsent) {
            Linger::Wait { until } => Some(until),
            Linger::CloseNow => None,
        }
    }
}

/// Reads some of what has come and throws it away; whether nothing more will come.
fn discard(mut socket: &Socket) -> bool {
    let mut scratch = [0; SCRATCH];
    for _ in 0..DISCARDS {
        match socket.read(&mut scratch) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
    false
}

/// A unix socket that is closed with input unread shows its peer ECONNRESET where the end of file
/// belongs. After `SHUT_RD` no more can come in (the peer's writes fail with EPIPE), so what is
/// there can be read to its end.
fn refuse_input(socket: &Socket) {
    // The peer may be gone: then there is nobody to be kind to.
    let _ = socket.shutdown(Shutdown::Read);
    while !discard(socket) {}
}

impl Drop for Leaving {
    fn drop(&mut self) {
        // If it can't be set, the peer sees an orderly end where something may be missing.
        if self.reset
            && let Err(error) = socket::reset_on_close(&self.socket)
        {
            log::warn!("could not reset a connection: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    /// A peer that was killed: its kernel sends a FIN, and a reset for whatever comes after.
    #[test]
    fn nothing_is_waited_for_once_the_peer_has_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let mut ours = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (peer, _) = listener.accept().expect("accept");
        ours.set_nonblocking(true).expect("flag");
        let chunk = [0; 1 << 16];
        while ours.write(&chunk).is_ok() {}
        drop(peer); // with unread input: a reset
        let lingering = Lingering::new(Instant::ZERO);
        let mut leaving = Leaving { socket: Arc::new(ours.into()), lingering, reset: true };
        let start = std::time::Instant::now();
        // at one moment of the clock it is given: no stall can be the reason
        while leaving.look(Instant::ZERO).is_some() {
            assert!(start.elapsed() < std::time::Duration::from_secs(10), "it is waited for");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    #[test]
    fn a_unix_peer_sees_the_end_of_file_though_it_was_still_uploading() {
        use std::io::ErrorKind;
        use std::os::unix::net::UnixStream;
        let (ours, mut peer) = UnixStream::pair().expect("pair");
        peer.set_nonblocking(true).expect("flag");
        while peer.write(&[0; 1000]).is_ok() {}
        peer.set_nonblocking(false).expect("flag");
        let ours = Socket::from(ours);
        ours.set_nonblocking(true).expect("flag");
        (&ours).write_all(b"answer").expect("taken");
        refuse_input(&ours);
        assert_eq!(peer.write(b"more").expect_err("refused").kind(), ErrorKind::BrokenPipe);
        drop(ours);
        let mut answer = Vec::new();
        peer.read_to_end(&mut answer).expect("an orderly end");
        assert_eq!(answer, b"answer");
    }
}
