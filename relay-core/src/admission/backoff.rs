//! Pauses that grow, with jitter from a seed.

use core::time::Duration;

/// Pseudo-random numbers for jitter: SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom
/// Number Generators", OOPSLA 2014). Not for secrets.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct SplitMix(u64);

impl SplitMix {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to `max`, both included.
    const fn up_to(&mut self, max: u64) -> u64 {
        // The bias of a 128-bit product's upper half is below 2^-64 per value: nothing to jitter.
        ((self.next() as u128 * (max as u128 + 1)) >> 64) as u64
    }
}

/// How far pauses grow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Range {
    /// The first pause, at most.
    pub first: Duration,
    /// Every pause, at most.
    pub last: Duration,
}

impl Range {
    /// From `first` to `last` milliseconds.
    #[must_use]
    pub const fn millis(first: u64, last: u64) -> Self {
        Self { first: Duration::from_millis(first), last: Duration::from_millis(last) }
    }

    /// The pause after so many others, without jitter.
    #[must_use]
    pub fn pause(&self, attempt: u32) -> Duration {
        self.first.saturating_mul(1_u32.checked_shl(attempt).unwrap_or(u32::MAX)).min(self.last)
    }
}

/// Exponential backoff: each pause's upper bound is twice the one before; the pause is between half
/// of that bound and all of it, so that those that failed together do not come back together.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Backoff {
    /// Pauses since the last success.
    attempt: u32,
    random: SplitMix,
}

impl Backoff {
    /// No pause yet.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { attempt: 0, random: SplitMix(seed) }
    }

    /// The next pause, within `range`.
    pub fn pause(&mut self, range: Range) -> Duration {
        let bound = range.pause(self.attempt);
        self.attempt = self.attempt.saturating_add(1);
        let half = bound / 2;
        let span = u64::try_from((bound - half).as_nanos()).unwrap_or(u64::MAX);
        half + Duration::from_nanos(self.random.up_to(span))
    }

    /// It worked: the next pause is a first one again.
    pub const fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_last_and_stay_within_half_of_their_bound() {
        let range = Range::millis(10, 1000);
        for seed in 0..100 {
            let mut backoff = Backoff::new(seed);
            for bound in [10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000] {
                let (bound, pause) = (Duration::from_millis(bound), backoff.pause(range));
                assert!(bound / 2 <= pause && pause <= bound, "seed {seed}: {pause:?} for {bound:?}");
            }
            backoff.reset();
            assert!(backoff.pause(range) <= range.first);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_pauses_and_another_one_others() {
        let pauses = |seed| {
            let mut backoff = Backoff::new(seed);
            [(); 8].map(|()| backoff.pause(Range::millis(1, 50)))
        };
        assert_eq!(pauses(7), pauses(7));
        assert_ne!(pauses(7), pauses(8));
    }

    #[test]
    fn nothing_overflows() {
        let range = Range { first: Duration::MAX, last: Duration::MAX };
        assert_eq!(range.pause(u32::MAX), Duration::MAX);
        let mut backoff = Backoff { attempt: u32::MAX, random: SplitMix(u64::MAX) };
        assert!(backoff.pause(Range::millis(1, 5)) <= Duration::from_millis(5));
        assert!(SplitMix(1).up_to(0) == 0);
    }

    /// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", as java.util.SplittableRandom
    /// and others have it.
    #[test]
    fn the_numbers_are_split_mix_s() {
        let mut random = SplitMix(1_234_567);
        let numbers = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([(); 3].map(|()| random.next()), numbers);
        let mut random = SplitMix(1_234_567);
        assert_eq!([(); 3].map(|()| random.up_to(99)), [35, 17, 53]);
    }
}
