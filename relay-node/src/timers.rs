//! Deadlines, earliest first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use relay_core::Instant;

/// A heap of deadlines. **Progress costs no heap operation**: each owner keeps in an [`Armed`] when
/// it is going to be looked at, and a deadline that moved away is noticed, and armed anew, when the
/// old one fires. An entry that was overtaken by an earlier one is recognised and dropped when it
/// comes up.
#[derive(Debug)]
pub struct Timers<K> {
    heap: BinaryHeap<Reverse<(Instant, K)>>,
}

/// When its owner is to be looked at, as far as the heap knows.
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
        Self { heap: BinaryHeap::new() }
    }
}

impl<K: Ord + Copy> Timers<K> {
    /// None armed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sees to it that `key` comes up at `deadline` or earlier.
    pub fn arm(&mut self, key: K, armed: &mut Armed, deadline: Option<Instant>) {
        if let Some(deadline) = deadline
            && armed.0.is_none_or(|known| deadline < known)
        {
            armed.0 = Some(deadline);
            self.heap.push(Reverse((deadline, key)));
        }
    }

    /// The next entry that is due, if any. Its owner may be gone, or look at it and find it void.
    pub fn pop(&mut self, now: Instant) -> Option<(Instant, K)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }

    /// When the first entry is due.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn a_deadline_that_moves_away_costs_nothing_until_it_fires() {
        let (mut timers, mut armed) = (Timers::new(), Armed::default());
        for deadline in 10..1000 {
            timers.arm('a', &mut armed, Some(at(deadline)));
        }
        assert_eq!(timers.heap.len(), 1);
        assert_eq!(timers.pop(at(9)), None);
        let (due, key) = timers.pop(at(10)).expect("due");
        assert!(key == 'a' && armed.fires(due));
        timers.arm('a', &mut armed, Some(at(999)));
        assert_eq!(timers.next(), Some(at(999)));
    }

    #[test]
    fn a_deadline_that_comes_closer_counts_and_the_old_one_is_void() {
        let (mut timers, mut armed) = (Timers::new(), Armed::default());
        timers.arm(1, &mut armed, Some(at(100)));
        timers.arm(1, &mut armed, Some(at(50)));
        timers.arm(1, &mut armed, None);
        assert_eq!(timers.pop(at(200)), Some((at(50), 1)));
        assert!(armed.fires(at(50)));
        assert_eq!(timers.pop(at(200)), Some((at(100), 1)));
        assert!(!armed.fires(at(100)));
        assert_eq!(timers.pop(at(200)), None);
    }
}
