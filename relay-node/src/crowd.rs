//! What the limits keep out, told in a line now and then: a flood of connections must not become a
//! flood of lines.

use std::time::Duration;

use relay_core::Instant;
use relay_core::admission::Shut;

/// Between two lines, at least.
const PAUSE: Duration = Duration::from_secs(10);

/// What happened since the last line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Crowded {
    /// Which limit was reached last.
    pub limit: Shut,
    /// How often somebody had to wait because of a limit.
    pub held_up: u64,
    /// Peers who were sent away before they had proved who they are, for others.
    pub evicted: u64,
}

/// Counts until there is something to tell.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    /// Which limit keeps somebody waiting at the moment.
    now: Option<Shut>,
    limit: Option<Shut>,
    held_up: u64,
    pub(crate) evicted: u64,
    last: Option<Instant>,
}

impl Crowd {
    /// This limit keeps somebody waiting now, if one does; says so again if it did not before.
    pub(crate) fn look(&mut self, held_up: Option<Shut>) -> Option<Shut> {
        let new = held_up.filter(|_| self.now != held_up);
        if new.is_some() {
            self.limit = new;
            self.held_up += 1;
        }
        self.now = held_up;
        new
    }

    /// What to tell now, if anything.
    pub(crate) fn report(&mut self, now: Instant) -> Option<Crowded> {
        if self.next_report().is_none_or(|at| now < at) {
            return None;
        }
        self.last = Some(now);
        let (held_up, evicted) = (std::mem::take(&mut self.held_up), std::mem::take(&mut self.evicted));
        Some(Crowded { limit: self.limit.take().unwrap_or(Shut::Strangers), held_up, evicted })
    }

    /// When there will be something to tell.
    pub(crate) fn next_report(&self) -> Option<Instant> {
        let any = self.held_up > 0 || self.evicted > 0;
        any.then(|| self.last.map_or(Instant::ZERO, |last| last + PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_time_is_told_at_once_and_the_next_thousand_in_one_line() {
        let mut crowd = Crowd::default();
        assert_eq!((crowd.report(at(1)), crowd.next_report()), (None, None));
        assert_eq!(crowd.look(Some(Shut::Strangers)), Some(Shut::Strangers));
        assert_eq!(crowd.look(Some(Shut::Strangers)), None);
        let first = Crowded { limit: Shut::Strangers, held_up: 1, evicted: 0 };
        assert_eq!(crowd.report(at(1)), Some(first));
        for _ in 0..1000 {
            crowd.look(None);
            crowd.look(Some(Shut::Full));
            crowd.evicted += 1;
            assert_eq!(crowd.report(at(10)), None);
        }
        assert_eq!(crowd.next_report(), Some(at(11)));
        let rest = Crowded { limit: Shut::Full, held_up: 1000, evicted: 1000 };
        assert_eq!((crowd.report(at(11)), crowd.next_report()), (Some(rest), None));
    }
}
