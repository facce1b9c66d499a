//! What a node counts besides its sessions: what its loops and its acceptor meet. Written at the rate of
//! connections, or by one loop each, so that nobody waits for anybody; read when somebody asks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use relay_core::Failure;
use relay_core::admission::Shut;

use crate::words;

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Tally {
    /// Attempts to dial that failed, by why.
    dials: Mutex<BTreeMap<String, u64>>,
    /// How often somebody had to wait because of a limit, by which.
    held_up: Mutex<BTreeMap<String, u64>>,
    pauses: AtomicU64,
    evicted: AtomicU64,
    disordered: AtomicU64,
    listeners: AtomicU64,
    draining: AtomicBool,
    /// Bytes that each loop keeps for reuse.
    kept: Mutex<Vec<Arc<AtomicU64>>>,
    laps: Mutex<Vec<Arc<Laps>>>,
}

impl Tally {
    /// An attempt to dial failed.
    pub fn dial_failed(&self, why: Failure) {
        *lock(&self.dials).entry(words::of_failure(why)).or_default() += 1;
    }

    /// Accepting pauses for want of descriptors or memory.
    pub(crate) fn paused(&self) {
        self.pauses.fetch_add(1, Ordering::Relaxed);
    }

    /// Somebody has to wait because of this limit.
    pub(crate) fn held_up(&self, limit: Shut) {
        *lock(&self.held_up).entry(limit.to_string()).or_default() += 1;
    }

    /// Somebody had to make room before he had proved who he is.
    pub(crate) fn evicted(&self) {
        self.evicted.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection is dialed after one that was taken later.
    pub(crate) fn disordered(&self) {
        self.disordered.fetch_add(1, Ordering::Relaxed);
    }

    /// One more listener is open.
    pub(crate) fn opened(&self) {
        self.listeners.fetch_add(1, Ordering::Relaxed);
    }

    /// One fewer.
    pub(crate) fn closed(&self) {
        self.listeners.fetch_sub(1, Ordering::Relaxed);
    }

    /// Nothing new is taken from here on.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// A place for one loop to say how many bytes it keeps for reuse.
    pub(crate) fn keeper(&self) -> Arc<AtomicU64> {
        let keeper = Arc::default();
        lock(&self.kept).push(Arc::clone(&keeper));
        keeper
    }

    /// A place for one loop to say how long it takes to go round.
    #[must_use]
    pub fn laps(&self) -> Arc<Laps> {
        let laps = Arc::default();
        lock(&self.laps).push(Arc::clone(&laps));
        laps
    }

    /// All of it, at the moment.
    pub(crate) fn count(&self) -> Counts {
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut lag = Lag::default();
        for laps in lock(&self.laps).iter() {
            laps.add_to(&mut lag);
        }
        Counts {
            dials: lock(&self.dials).clone(),
            held_up: lock(&self.held_up).clone(),
            pauses: number(&self.pauses),
            evicted: number(&self.evicted),
            disordered: number(&self.disordered),
            listeners: number(&self.listeners),
            kept: lock(&self.kept).iter().map(|kept| number(kept)).sum(),
            lag,
        }
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever panicked has left it whole.
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A [`Tally`] at a moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) dials: BTreeMap<String, u64>,
    pub(crate) held_up: BTreeMap<String, u64>,
    pub(crate) pauses: u64,
    pub(crate) evicted: u64,
    pub(crate) disordered: u64,
    pub(crate) listeners: u64,
    pub(crate) kept: u64,
    pub(crate) lag: Lag,
}

/// Up to how long, in microseconds, each class of laps is.
const CLASSES: [u64; 6] = [100, 1_000, 5_000, 25_000, 100_000, 1_000_000];

/// How long one loop was busy each time, which is how long an event may have had to wait.
#[derive(Debug, Default)]
pub struct Laps {
    classes: [AtomicU64; CLASSES.len() + 1],
    nanoseconds: AtomicU64,
}

impl Laps {
    /// It went round once, in this time. By its own loop only.
    pub fn note(&self, time: Duration) {
        let micros = time.as_micros();
        let class = CLASSES.iter().position(|class| micros <= u128::from(*class)).unwrap_or(CLASSES.len());
        // Nobody else writes, so nothing is lost between the two.
        let add = |to: &AtomicU64, more: u64| {
            to.store(to.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
        };
        add(&self.classes[class], 1);
        add(&self.nanoseconds, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    fn add_to(&self, lag: &mut Lag) {
        for (sum, class) in lag.classes.iter_mut().zip(&self.classes) {
            *sum += class.load(Ordering::Relaxed);
        }
        lag.seconds += Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)).as_secs_f64();
    }
}

/// The laps of all loops.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Lag {
    classes: [u64; CLASSES.len() + 1],
    /// In all.
    pub(crate) seconds: f64,
}

impl Lag {
    /// How many took up to so many seconds, for each bound; the last has none.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = CLASSES.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
        let upto = self.classes.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        bounds.zip(upto.collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn laps_of_all_loops_are_one_histogram() {
        let tally = Tally::default();
        let loops = [tally.laps(), tally.laps()];
        for (of, micros) in [(0, 100), (1, 101), (0, 2_000_000), (1, 0)] {
            loops[of].note(Duration::from_micros(micros));
        }
        let lag = tally.count().lag;
        let counts: Vec<_> = lag.buckets().map(|(_, count)| count).collect();
        assert_eq!(counts, [2, 3, 3, 3, 3, 3, 4]);
        assert!((lag.seconds - 2.000_201).abs() < 1e-9);
        assert_eq!(lag.buckets().next().map(|(bound, _)| bound), Some(0.0001));
    }
}
