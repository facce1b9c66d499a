//! How long a closed session's socket is kept for the bytes still in it.

use core::time::Duration;

use super::backoff::Range;
use crate::time::Instant;

/// Between two looks at the send queue.
const PAUSE: Range = Range::millis(5, 50);

/// What to do with the socket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Linger {
    /// Look again then.
    Wait {
        /// When.
        until: Instant,
    },
    /// Close it.
    CloseNow,
}

/// A TCP socket that is reset ([`Close::Reset`](crate::Close::Reset)), or closed with input unread,
/// loses what the kernel has not delivered yet (RFC 1122 section 4.2.2.13; tcp(7), SO_LINGER). So
/// it is kept until its send queue (SIOCOUTQ, tcp(7)) is empty: everything acknowledged by the peer.
/// No event tells when that is, hence the looking.
///
/// It is given up [`STALL`](Self::STALL) after the queue last became shorter, and in any case
/// [`BOUND`](Self::BOUND) after the beginning. Not needed by a socket that is closed in good order
/// with nothing unread: the kernel goes on delivering by itself.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Lingering {
    since: Instant,
    /// When the queue last became shorter.
    progress: Instant,
    /// Bytes, at the last look.
    unsent: Option<usize>,
    looks: u32,
}

impl Lingering {
    /// How long a peer may take nothing at all.
    pub const STALL: Duration = Duration::from_secs(5);
    /// How long a peer may take in all.
    pub const BOUND: Duration = Duration::from_secs(30);

    /// The session closed just now.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { since: now, progress: now, unsent: None, looks: 0 }
    }

    /// So many bytes are in the send queue now. To be called at once after the session has closed,
    /// and then when told to; earlier calls are harmless.
    pub fn look(&mut self, now: Instant, unsent: usize) -> Linger {
        if self.unsent.is_none_or(|before| unsent < before) {
            self.progress = now;
            self.unsent = Some(unsent);
        }
        let end = (self.progress + Self::STALL).min(self.since + Self::BOUND);
        if unsent == 0 || now >= end {
            return Linger::CloseNow;
        }
        let pause = PAUSE.pause(self.looks);
        self.looks = self.looks.saturating_add(1);
        Linger::Wait { until: (now + pause).min(end) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks whenever told to; how long until it is closed.
    fn run(mut unsent: impl FnMut(Duration) -> usize) -> (Duration, u32) {
        let mut lingering = Lingering::new(Instant::ZERO);
        let mut now = Instant::ZERO;
        for looks in 1.. {
            match lingering.look(now, unsent(now.since(Instant::ZERO))) {
                Linger::CloseNow => return (now.since(Instant::ZERO), looks),
                Linger::Wait { until } => {
                    assert!(until > now, "time goes on");
                    assert!(until.since(now) <= PAUSE.last);
                    now = until;
                }
            }
        }
        unreachable!()
    }

    #[test]
    fn an_empty_queue_is_closed_at_once() {
        assert_eq!(run(|_| 0), (Duration::ZERO, 1));
    }

    #[test]
    fn what_is_delivered_within_a_moment_costs_few_looks() {
        let (took, looks) = run(|at| if at < Duration::from_millis(100) { 1000 } else { 0 });
        assert!(took < Duration::from_millis(150) && looks < 8, "{took:?}, {looks} looks");
    }

    #[test]
    fn a_peer_that_takes_nothing_is_given_up_after_the_stall() {
        assert_eq!(run(|_| 7).0, Lingering::STALL);
    }

    #[test]
    fn a_slow_peer_is_given_its_time_and_no_more_than_the_bound() {
        let slow = |at: Duration| 20_000_usize.saturating_sub(at.as_millis() as usize);
        let (took, _) = run(slow);
        assert!(took >= Duration::from_secs(20) && took < Duration::from_millis(20_100), "{took:?}");
        let (took, _) = run(|at| 90_000 - at.as_millis() as usize);
        assert_eq!(took, Lingering::BOUND);
    }
}
