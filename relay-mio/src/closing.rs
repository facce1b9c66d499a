//! Sockets of a session that is over, kept for the bytes still in them.

use std::io::Read;
use std::net::Shutdown;
use std::os::fd::AsFd;

use relay_core::admission::{Linger, Lingering};
use relay_core::{Close, Instant, Leg, Outcome, PerLeg};
use relay_node::socket;
use socket2::Socket;

use crate::sys;

/// What is read and thrown away at one look, at most: 64 times a scratch buffer.
const DISCARDS: usize = 64;
const SCRATCH: usize = 4 << 10;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Closing {
    /// The session's front never proved who it is.
    pub(crate) stranger: bool,
    legs: PerLeg<Option<Leaving>>,
}

#[derive(Debug)]
struct Leaving {
    socket: Socket,
    lingering: Lingering,
    reset: bool,
}

impl Closing {
    /// Closes what can be closed at once.
    pub(crate) fn new(
        stranger: bool,
        mut sockets: PerLeg<Option<Socket>>,
        outcome: Option<&Outcome>,
        now: Instant,
    ) -> Self {
        let legs = PerLeg::new(Leg::Front, Leg::Back).map(|leg| {
            let socket = sockets[leg].take()?;
            let reset = outcome.is_none_or(|outcome| outcome.close[leg] == Close::Reset);
            // What the peer sent to the end was read to the end; otherwise something may be unread,
            // and closing on top of that destroys what is on its way to the peer.
            let read_to_the_end = outcome.is_some_and(|outcome| outcome.flows[leg].reason.is_clean());
            if (!reset && read_to_the_end) || !socket::is_tcp(&socket).unwrap_or(false) {
                return None;
            }
            if !reset {
                // The peer may be gone: then there is nobody to tell.
                let _ = socket.shutdown(Shutdown::Write);
            }
            Some(Leaving { socket, lingering: Lingering::new(now), reset })
        });
        Self { stranger, legs }
    }

    /// Closes what need not be kept any longer; all of it once `end` has come. Says when to look
    /// again, `None` once all is closed.
    pub(crate) fn look(&mut self, now: Instant, end: Option<Instant>) -> Option<Instant> {
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
        if !self.reset && self.discard() {
            return None;
        }
        // Whoever can't tell has nothing to wait for.
        let unsent = sys::unsent(self.socket.as_fd()).unwrap_or(0);
        match self.lingering.look(now, unsent) {
            Linger::Wait { until } => Some(until),
            Linger::CloseNow => None,
        }
    }

    /// Reads what has come; whether nothing more will.
    fn discard(&self) -> bool {
        let mut scratch = [0; SCRATCH];
        for _ in 0..DISCARDS {
            match (&self.socket).read(&mut scratch) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
            }
        }
        false
    }
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
