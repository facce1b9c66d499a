//! Deadlines, earliest first.

use std::collections::BTreeSet;
use std::time::Duration;

use relay_core::Instant;

/// A deadline that moves away by less keeps its place.
const SLACK: Duration = Duration::from_secs(1);

/// Deadlines, one for each owner at most, which keeps in an [`Armed`] when it is going to be looked at.
///
/// **Progress costs next to nothing**: a deadline that moves away a little, as an idle timer does with
/// every byte, is noticed, and armed anew, when the old one fires. One that is over for good, or far
/// off now, leaves at once: nobody is woken for a dial timer once it is connected.
#[derive(Debug)]
pub struct Timers<K> {
    queue: BTreeSet<(Instant, K)>,
}

/// When its owner is to be looked at, as far as the queue knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Armed(Option<Instant>);

impl Armed {
    /// An entry of the owner's came up: whether it is the one that counts.
    pub fn fires(&mut self, at: Instant) -> bool {
        let counts = self.0 == Some(at);
        if counts {
            self.0 = None;
        }
        counts
    }
}

impl<K: Ord> Default for Timers<K> {
    fn default() -> Self {
        Self { queue: BTreeSet::new() }
    }
}

impl<K: Ord + Copy> Timers<K> {
    /// None armed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sees to it that `key` comes up at `deadline`, or less than a second earlier; without one, not at
    /// all. To be called without one before an owner goes.
    pub fn arm(&mut self, key: K, armed: &mut Armed, deadline: Option<Instant>) {
        if let (Some(known), Some(deadline)) = (armed.0, deadline)
            && known <= deadline
            && deadline < known + SLACK
        {
            return;
        }
        if let Some(known) = armed.0 {
            self.queue.remove(&(known, key));
        }
        armed.0 = deadline;
        if let Some(deadline) = deadline {
            self.queue.insert((deadline, key));
        }
    }

    /// The next entry that is due, if any. Its owner may look at it and find it void.
    pub fn pop(&mut self, now: Instant) -> Option<(Instant, K)> {
        if self.next()? > now {
            return None;
        }
        self.queue.pop_first()
    }

    /// When the first entry is due.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn a_deadline_that_moves_away_a_little_costs_nothing_until_it_fires() {
        let (mut timers, mut armed) = (Timers::new(), Armed::default());
        for deadline in 10..1000 {
            timers.arm('a', &mut armed, Some(at(deadline)));
        }
        assert_eq!((timers.queue.len(), timers.next()), (1, Some(at(10))));
        assert_eq!(timers.pop(at(9)), None);
        let (due, key) = timers.pop(at(10)).expect("due");
        assert!(key == 'a' && armed.fires(due));
        timers.arm('a', &mut armed, Some(at(999)));
        assert_eq!(timers.next(), Some(at(999)));
    }

    #[test]
    fn a_deadline_that_comes_closer_or_is_far_off_now_takes_the_place_of_the_old_one() {
        let (mut timers, mut armed) = (Timers::new(), Armed::default());
        let far = at(100) + SLACK;
        for deadline in [at(100), at(50), far] {
            timers.arm(1, &mut armed, Some(deadline));
            assert_eq!((timers.queue.len(), timers.next()), (1, Some(deadline)));
        }
        assert_eq!(timers.pop(far), Some((far, 1)));
        assert!(armed.fires(far) && !armed.fires(far));
        assert_eq!(timers.pop(far), None);
    }

    #[test]
    fn a_deadline_that_is_over_leaves_nothing_behind() {
        let (mut timers, mut one, mut other) = (Timers::new(), Armed::default(), Armed::default());
        timers.arm(1, &mut one, Some(at(50)));
        timers.arm(2, &mut other, Some(at(50)));
        timers.arm(1, &mut one, None);
        assert_eq!((one, timers.pop(at(50))), (Armed::default(), Some((at(50), 2))));
        assert_eq!(timers.next(), None);
    }
}
