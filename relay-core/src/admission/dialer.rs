//! One session's dial: which address, when to try again, when to give up.

use core::time::Duration;

use super::backoff::{Backoff, Range};
use crate::error::Failure;
use crate::time::Instant;

/// Nobody listens there yet, or there is no way to it: a link that is down for a second, a route that
/// is being replaced. A backend appears at any moment, and asking costs one system call.
const ABSENT: Range = Range::millis(5, 200);
/// The backend's queue is full (connect(2), EAGAIN on a unix socket): it is there and will take us
/// within a moment, but no readiness event will say so.
const BUSY: Range = Range::millis(1, 50);
/// We have no descriptor or memory left; somebody else has to end first.
const EXHAUSTED: Range = Range::millis(10, 1000);

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum State {
    /// To be dialed now.
    Due,
    /// Dialed; what came of it is not known yet. The next address has its turn then.
    Trying {
        until: Option<Instant>,
    },
    /// To be dialed again then.
    Waiting {
        until: Instant,
    },
    GivenUp,
}

/// Tries the addresses of one backend in turn, round after round, for as long as it makes sense.
///
/// Of several addresses one may be a black hole, which neither answers nor refuses. So each has a
/// **share** of the dial timeout: half of it is divided among them in the first round, and each
/// further round gives twice as much to each, for the sake of a network that is only slow. The only
/// address there is has all the time there is.
///
/// A round in which every address failed for good ends the dial; one in which at least one of them
/// may be there in a moment is followed by a pause. There is no deadline here: the session's
/// [`Timer::Dial`](crate::Timer::Dial) ends it, and then nobody asks this any more.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Dialer {
    addresses: usize,
    /// How long a try may take in this round; of several addresses only.
    share: Option<Duration>,
    /// The one whose turn it is, below `addresses`.
    at: usize,
    state: State,
    /// The quickest pause that a failure of this round asks for.
    patience: Option<Range>,
    /// What the last pause was within: another reason begins with short pauses again.
    last_patience: Option<Range>,
    last_failure: Option<Failure>,
    backoff: Backoff,
    /// No pause is made any more.
    draining: bool,
}

/// Handlers.
impl Dialer {
    /// What each of several addresses gets at least, and with it a lost SYN or a slow network.
    pub const LEAST_SHARE: Duration = Duration::from_millis(250);
    /// What each gets in the first round if there is no dial timeout.
    pub const USUAL_SHARE: Duration = Duration::from_secs(2);

    /// To be dialed at once; there are so many addresses to choose from, and the session gives up
    /// after `timeout` ([`Config::dial_timeout`](crate::Config::dial_timeout)).
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn new(addresses: usize, timeout: Option<Duration>, seed: u64) -> Self {
        assert!(addresses > 0, "contract: at least one address");
        let among = u32::try_from(addresses).unwrap_or(u32::MAX).saturating_mul(2);
        let share = timeout.map_or(Self::USUAL_SHARE, |timeout| (timeout / among).max(Self::LEAST_SHARE));
        Self {
            addresses,
            share: (addresses > 1).then_some(share),
            at: 0,
            state: State::Due,
            patience: None,
            last_patience: None,
            last_failure: None,
            backoff: Backoff::new(seed),
            draining: false,
        }
    }

    /// The operator drains. Whatever is being tried may still succeed, but a backend that is not
    /// there by now is not waited for: nobody is to wait for a session that may never begin.
    pub fn drain(&mut self) {
        self.draining = true;
        if let State::Waiting { .. } = self.state {
            self.state = State::GivenUp;
        }
    }

    /// The dial was begun and its result is to come.
    ///
    /// # Panics
    /// If none was wanted.
    pub fn started(&mut self, now: Instant) {
        assert!(self.state == State::Due, "contract: a dial begins when wanted, and once");
        self.state = State::Trying { until: self.share.map(|share| now + share) };
    }

    /// The dial failed, at once or after [`started`](Self::started).
    ///
    /// # Panics
    /// If none was wanted or under way.
    pub fn failed(&mut self, now: Instant, failure: Failure) {
        let can_fail = matches!(self.state, State::Due | State::Trying { .. });
        assert!(can_fail, "contract: only a dial can fail");
        self.last_failure = Some(failure);
        if let Some(range) = patience(failure) {
            self.patience = Some(self.patience.map_or(range, |known| quicker(known, range)));
        }
        self.at += 1;
        if self.at < self.addresses {
            self.state = State::Due;
            return;
        }
        self.at = 0;
        self.share = self.share.map(|share| share.saturating_mul(2));
        self.state = match self.patience.take() {
            None => State::GivenUp,
            Some(_) if self.draining => State::GivenUp,
            Some(range) => {
                if self.last_patience != Some(range) {
                    self.backoff.reset();
                }
                self.last_patience = Some(range);
                State::Waiting { until: now + self.backoff.pause(range) }
            }
        };
    }

    /// Ends the pause, or the try, whose time has come; a try has failed then, and what was begun is
    /// to be dropped ([`trying`](Self::trying)). Harmless when called early.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_timeout().is_some_and(|until| now >= until) {
            match self.state {
                State::Trying { .. } => self.failed(now, Failure::TimedOut),
                State::Due | State::Waiting { .. } | State::GivenUp => self.state = State::Due,
            }
        }
    }
}

/// Demands.
impl Dialer {
    /// Which address to dial now, if any.
    #[must_use]
    pub const fn wants_dial(&self) -> Option<usize> {
        match self.state {
            State::Due => Some(self.at),
            State::Trying { .. } | State::Waiting { .. } | State::GivenUp => None,
        }
    }

    /// Which address is being tried, if any.
    #[must_use]
    pub const fn trying(&self) -> Option<usize> {
        match self.state {
            State::Trying { .. } => Some(self.at),
            State::Due | State::Waiting { .. } | State::GivenUp => None,
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is next to be called.
    #[must_use]
    pub const fn next_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until } => Some(until),
            State::Trying { until } => until,
            State::Due | State::GivenUp => None,
        }
    }

    /// Why there is no sense in going on. Final.
    #[must_use]
    pub const fn given_up(&self) -> Option<Failure> {
        match self.state {
            State::GivenUp => self.last_failure,
            State::Due | State::Trying { .. } | State::Waiting { .. } => None,
        }
    }

    /// Why the last dial failed: the reason behind a dial that times out.
    #[must_use]
    pub const fn last_failure(&self) -> Option<Failure> {
        self.last_failure
    }
}

/// How patient to be, or `None` if the failure will not go away by itself.
const fn patience(failure: Failure) -> Option<Range> {
    match failure {
        Failure::Busy => Some(BUSY),
        Failure::NotFound | Failure::Refused | Failure::Unreachable | Failure::TimedOut => Some(ABSENT),
        Failure::Exhausted => Some(EXHAUSTED),
        Failure::Reset
        | Failure::BrokenPipe
        | Failure::Denied
        | Failure::Truncated
        | Failure::Protocol
        | Failure::Rejected
        | Failure::Alert(_)
        | Failure::KeyExhausted
        | Failure::WriteZero
        | Failure::Evicted
        | Failure::HungUp
        | Failure::Os(_)
        | Failure::Other => None,
    }
}

fn quicker(a: Range, b: Range) -> Range {
    if b.last < a.last { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_ends_the_waiting_and_lets_the_present_round_finish() {
        let mut waiting = Dialer::new(1, None, 7);
        waiting.failed(Instant::ZERO, Failure::Refused);
        waiting.drain();
        assert_eq!(waiting.given_up(), Some(Failure::Refused));
        let mut trying = Dialer::new(2, None, 7);
        trying.started(NOW);
        trying.drain();
        trying.failed(Instant::ZERO, Failure::NotFound);
        assert_eq!((trying.wants_dial(), trying.given_up()), (Some(1), None));
        trying.failed(Instant::ZERO, Failure::NotFound);
        assert_eq!(trying.given_up(), Some(Failure::NotFound));
    }
    use core::time::Duration;

    const NOW: Instant = Instant::from_nanos(1_000_000_000);

    fn pause_after(dialer: &mut Dialer, failure: Failure) -> Duration {
        dialer.failed(NOW, failure);
        let until = dialer.next_timeout().expect("a pause");
        assert_eq!(dialer.wants_dial(), None);
        dialer.handle_timeout(Instant::from_nanos(until.as_nanos() - 1));
        assert_eq!(dialer.wants_dial(), None, "early");
        dialer.handle_timeout(until);
        assert_eq!(dialer.wants_dial(), Some(0));
        until.since(NOW)
    }

    #[test]
    fn what_is_not_there_yet_is_dialed_again_and_what_is_full_sooner() {
        for (failure, range) in [
            (Failure::NotFound, ABSENT),
            (Failure::Refused, ABSENT),
            (Failure::Unreachable, ABSENT),
            (Failure::TimedOut, ABSENT),
            (Failure::Busy, BUSY),
            (Failure::Exhausted, EXHAUSTED),
        ] {
            let mut dialer = Dialer::new(1, None, 3);
            for attempt in 0..12 {
                let pause = pause_after(&mut dialer, failure);
                assert!(pause <= range.pause(attempt) && pause >= range.pause(attempt) / 2, "{failure}");
            }
        }
    }

    #[test]
    fn what_will_not_change_ends_the_dial_at_once() {
        for failure in [Failure::Denied, Failure::Os(22)] {
            let mut dialer = Dialer::new(1, None, 0);
            dialer.started(NOW);
            assert_eq!(dialer.wants_dial(), None);
            dialer.failed(NOW, failure);
            assert_eq!(dialer.given_up(), Some(failure));
            assert_eq!((dialer.wants_dial(), dialer.next_timeout()), (None, None));
            dialer.handle_timeout(NOW + Duration::from_secs(60));
            assert_eq!(dialer.wants_dial(), None);
        }
    }

    #[test]
    fn a_backend_that_appears_and_is_full_is_retried_quickly_from_then_on() {
        let mut dialer = Dialer::new(1, None, 1);
        for _ in 0..10 {
            pause_after(&mut dialer, Failure::NotFound);
        }
        assert!(pause_after(&mut dialer, Failure::Busy) <= BUSY.first);
    }

    #[test]
    fn addresses_are_tried_in_turn_without_a_pause_between_them() {
        let mut dialer = Dialer::new(3, None, 1);
        for round in 0..4 {
            for at in 0..2 {
                assert_eq!(dialer.wants_dial(), Some(at), "round {round}");
                dialer.started(NOW);
                dialer.failed(NOW, if at == 1 { Failure::Refused } else { Failure::Denied });
            }
            assert_eq!(dialer.wants_dial(), Some(2));
            dialer.failed(NOW, Failure::Denied);
            assert_eq!(dialer.given_up(), None, "one of them may come up");
            dialer.handle_timeout(dialer.next_timeout().expect("a pause"));
        }
        for _ in 0..3 {
            dialer.failed(NOW, Failure::Denied);
        }
        assert_eq!(dialer.given_up(), Some(Failure::Denied));
    }

    #[test]
    #[should_panic(expected = "contract: only a dial can fail")]
    fn a_dial_that_was_given_up_cannot_fail_again() {
        let mut dialer = Dialer::new(1, None, 0);
        dialer.failed(NOW, Failure::Denied);
        dialer.failed(NOW, Failure::Denied);
    }

    #[test]
    fn a_black_hole_costs_its_share_and_the_next_address_has_its_turn() {
        let mut dialer = Dialer::new(2, Some(Duration::from_secs(10)), 1);
        let mut now = NOW;
        for share in [2500, 5000] {
            for at in 0..2 {
                assert_eq!(dialer.wants_dial(), Some(at));
                dialer.started(now);
                assert_eq!(dialer.trying(), Some(at));
                let until = now + Duration::from_millis(share);
                assert_eq!(dialer.next_timeout(), Some(until));
                dialer.handle_timeout(until);
                assert_eq!((dialer.trying(), dialer.last_failure()), (None, Some(Failure::TimedOut)));
                now = until;
            }
            now = dialer.next_timeout().expect("a pause between rounds");
            dialer.handle_timeout(now);
        }
    }

    #[test]
    fn the_only_address_has_all_the_time_and_many_have_enough() {
        let mut only = Dialer::new(1, Some(Duration::from_secs(10)), 1);
        only.started(NOW);
        assert_eq!(only.next_timeout(), None);
        for (addresses, timeout, share) in [
            (1000, Some(Duration::from_secs(1)), Dialer::LEAST_SHARE),
            (2, None, Dialer::USUAL_SHARE),
            (5, Some(Duration::MAX), Duration::MAX / 10),
        ] {
            let mut dialer = Dialer::new(addresses, timeout, 1);
            dialer.started(Instant::ZERO);
            assert_eq!(dialer.next_timeout(), Some(Instant::ZERO + share));
        }
    }
}
