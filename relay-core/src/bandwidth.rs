//! How fast bytes may come: a [`Bucket`] that any number of threads share, and a session's
//! [`Throttle`] on one or several of them.
//!
//! Bytes are given out in **slices**, and a slice is a piece of time: at 100 MiB/s, 256 KiB are 2.5 ms.
//! Who wants to read takes the next free piece of the bucket's time, and may read when that piece
//! begins; that is one atomic operation, no lock, and a timer instead of polling. Since whoever wants
//! more has to take another piece behind those of all others, they have turns, and nobody starves.
//! Pieces follow each other without overlap, so that nothing adds up: not the rounding (a nanosecond
//! for each slice, to the limit's side), and not the lateness of a timer, because a piece that begins up to
//! [`Bucket::BURST`] ago is still to be had.
//!
//! What a session took and did not need it gives back, and the next one to ask has it at once.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::num::NonZeroU64;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use crate::leg::Leg;
use crate::time::Instant;

/// Slices a second at rates that allow for some of a useful size.
const SLICES: u64 = 128;
/// The least slice: below, calls cost more than they bring.
const LEAST_SLICE: u64 = 1 << 10;
/// The largest slice, and what a session moves in one turn.
const LARGEST_SLICE: u64 = 256 << 10;
/// Slices that may lie ready because they were given back. What is beyond is forgone.
const SPARE_SLICES: u64 = 8;

/// Bytes a second for all who share it. Sharing needs no lock.
#[derive(Debug)]
pub struct Bucket {
    rate: NonZeroU64,
    slice: u64,
    /// Nanoseconds of a slice, rounded up.
    cost: u64,
    /// All time before this is given out, in nanoseconds.
    given: AtomicU64,
    /// Bytes that were given out and came back.
    spare: AtomicU64,
}

impl Bucket {
    /// How much time may be made up for: what was not used of it, or was used late.
    pub const BURST: Duration = Duration::from_millis(50);
    const BURST_NANOS: u64 = Self::BURST.as_nanos() as u64;

    /// So many bytes a second, from now on.
    #[must_use]
    pub fn new(rate: NonZeroU64, now: Instant) -> Self {
        let slice = (rate.get() / SLICES).clamp(LEAST_SLICE, LARGEST_SLICE);
        let nanos = (u128::from(slice) * 1_000_000_000).div_ceil(u128::from(rate.get()));
        let cost = u64::try_from(nanos).unwrap_or(u64::MAX);
        let given = now.as_nanos().saturating_sub(Self::BURST_NANOS);
        Self { rate, slice, cost, given: AtomicU64::new(given), spare: AtomicU64::new(0) }
    }

    /// Bytes a second.
    #[must_use]
    pub const fn rate(&self) -> NonZeroU64 {
        self.rate
    }

    /// What a session gets at once.
    #[must_use]
    pub const fn slice(&self) -> u64 {
        self.slice
    }

    /// What may be read in any time beyond the rate times that time, if every grant is used at once.
    /// One that is used late is still paid for: a session has one slice at most to be late with.
    #[must_use]
    pub const fn burst(&self) -> u64 {
        let unused = (self.rate.get() as u128 * Self::BURST_NANOS as u128).div_ceil(1_000_000_000);
        // cannot exceed the rate
        unused as u64 + (1 + SPARE_SLICES) * self.slice
    }

    /// Takes some bytes, a slice at most, and says from when on they may be read.
    fn take(&self, now: Instant) -> (Instant, u64) {
        let spare = self.spare.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |spare| {
            (spare >= self.slice / 4).then(|| spare.saturating_sub(self.slice))
        });
        if let Ok(spare) = spare {
            return (now, spare.min(self.slice));
        }
        let earliest = now.as_nanos().saturating_sub(Self::BURST_NANOS);
        let next = |given: u64| given.max(earliest).saturating_add(self.cost);
        let given = self.given.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |given| Some(next(given)));
        let (Ok(given) | Err(given)) = given;
        (Instant::from_nanos(given.max(earliest)), self.slice)
    }

    /// Takes back what was given out and is not needed.
    fn give_back(&self, bytes: u64) {
        let most = SPARE_SLICES * self.slice;
        let added = |spare: u64| Some(spare.saturating_add(bytes).min(most));
        // It never declines.
        let _ = self.spare.fetch_update(Ordering::Relaxed, Ordering::Relaxed, added);
    }
}

/// A session's part of a bucket.
#[derive(Debug)]
struct Share {
    bucket: Arc<Bucket>,
    /// To be read now.
    credit: u64,
    /// To be read from then on.
    coming: Option<(Instant, u64)>,
}

/// A session's parts of the buckets that hold it back. It reads what all of them allow.
#[derive(Debug)]
pub struct Throttle {
    shares: Vec<Share>,
    /// The leg whose turn to be read from it is, so that neither uses up what both may.
    first: Leg,
}

impl Throttle {
    /// Nothing is taken from the buckets yet. Without any there is no limit.
    pub fn new(buckets: impl IntoIterator<Item = Arc<Bucket>>) -> Self {
        let share = |bucket| Share { bucket, credit: 0, coming: None };
        Self { shares: buckets.into_iter().map(share).collect(), first: Leg::Front }
    }

    /// How many bytes may be read now. To be asked only when there may be some to read, because if it is none
    /// a place in line is taken for them: from [`ready_at`](Self::ready_at) on there will be some.
    pub fn grant(&mut self, now: Instant) -> u64 {
        self.shares.iter_mut().map(|share| share.grant(now)).min().unwrap_or(u64::MAX)
    }

    /// So many were read from `leg`, of those granted.
    pub fn spend(&mut self, leg: Leg, bytes: u64) {
        for share in &mut self.shares {
            share.credit = share.credit.saturating_sub(bytes);
        }
        self.first = leg.other();
    }

    /// The leg that is to be read from first.
    #[must_use]
    pub const fn first(&self) -> Leg {
        self.first
    }

    /// There is nothing to read (any more): gives back what is left, and leaves the line.
    pub fn settle(&mut self) {
        for share in &mut self.shares {
            share.coming = None;
            if share.credit > 0 {
                share.bucket.give_back(core::mem::take(&mut share.credit));
            }
        }
    }

    /// When something will be granted to one who was granted nothing.
    #[must_use]
    pub fn ready_at(&self) -> Option<Instant> {
        self.shares.iter().filter_map(|share| share.coming.map(|(at, _)| at)).max()
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.settle();
    }
}

impl Share {
    fn grant(&mut self, now: Instant) -> u64 {
        if self.credit == 0 {
            let (at, bytes) = *self.coming.get_or_insert_with(|| self.bucket.take(now));
            if at <= now {
                (self.credit, self.coming) = (bytes, None);
            }
        }
        self.credit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The checkers take a bucket's word for these, so here they are in figures.
    #[test]
    fn slices_and_bursts_in_figures() {
        for (rate, slice, burst) in [
            (1, 1 << 10, 1 + (9 << 10)),
            (1 << 20, 8 << 10, 52_429 + (72 << 10)),
            (100 << 20, 256 << 10, (5 << 20) + (2304 << 10)),
        ] {
            let rate = NonZeroU64::new(rate).expect("a rate");
            let bucket = Bucket::new(rate, Instant::ZERO);
            assert_eq!((bucket.rate(), bucket.slice(), bucket.burst()), (rate, slice, burst));
        }
    }

    #[test]
    fn who_asks_next_has_what_somebody_leaves() {
        let leave: [fn(&mut Option<Throttle>); 2] =
            [|throttle| throttle.as_mut().expect("there").settle(), |throttle| *throttle = None];
        for leave in leave {
            let rate = NonZeroU64::new(1 << 20).expect("a rate");
            let bucket = Arc::new(Bucket::new(rate, Instant::ZERO));
            let [mut first, mut last] = [(); 2].map(|()| Some(Throttle::new([Arc::clone(&bucket)])));
            let grant =
                |throttle: &mut Option<Throttle>| throttle.as_mut().expect("there").grant(Instant::ZERO);
            assert_eq!(grant(&mut first), bucket.slice());
            first.as_mut().expect("there").spend(Leg::Front, 1000);
            assert_eq!(grant(&mut last), 0, "it waits in line");
            let mut other = Some(Throttle::new([Arc::clone(&bucket)]));
            leave(&mut first);
            assert_eq!(grant(&mut other), bucket.slice() - 1000);
        }
    }
}
