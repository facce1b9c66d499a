//! The limits of the rate that hold one connection back, and what it read under them: rules B1 and B2.

use alloc::sync::Arc;
use alloc::vec::Vec;
use std::format;

use super::super::rules::{Rule, Violation, demand_that};
use crate::bandwidth::{Bucket, Throttle};
use crate::leg::{Leg, PerLeg};
use crate::session::Input;
use crate::time::Instant;

/// A bucket rounds each slice up to a nanosecond.
const ROUNDING_NANOS: u128 = 10_000;

/// One bucket, and the reference for it.
#[derive(Debug)]
struct Limit {
    bucket: Arc<Bucket>,
    /// The time that was paid for, in nanoseconds, were every byte paid for as it is read.
    paid: u128,
}

#[derive(Debug)]
pub(super) struct Limits {
    limits: Vec<Limit>,
    pub(super) throttle: Throttle,
    /// Nobody else has a part of these buckets.
    alone: bool,
    born: Instant,
    /// Bytes read that are to be limited, or a few less.
    pub(super) counted: u64,
    /// Flows whose sink is known to be gone, by their source: what is read of them is thrown away.
    in_vain: PerLeg<bool>,
}

impl Limits {
    /// All of these hold it back.
    pub(super) fn new(buckets: impl IntoIterator<Item = Arc<Bucket>>, alone: bool, now: Instant) -> Self {
        let limit = |bucket| Limit { bucket, paid: 0 };
        let limits: Vec<_> = buckets.into_iter().map(limit).collect();
        Self {
            throttle: Throttle::new(limits.iter().map(|limit| Arc::clone(&limit.bucket))),
            limits,
            alone,
            born: now,
            counted: 0,
            in_vain: PerLeg::both(false),
        }
    }

    /// A turn is over. In it `told` happened, in this order, and `limited` says which legs' bytes were surely to
    /// be held back; before it the place in line was for `waited`; now the session says that it is `held`.
    pub(super) fn check(
        &mut self,
        told: &[Input],
        limited: PerLeg<bool>,
        waited: Option<Instant>,
        held: bool,
        now: Instant,
    ) -> Result<(), Violation> {
        let (mut moved, mut lost) = (0, 0);
        for input in told {
            if let Input::WriteFailed(leg, _) = *input {
                lost += u128::from(!self.in_vain[leg.other()]);
                self.in_vain[leg.other()] = true;
            } else if let Input::Read(leg, count) = *input {
                self.counted += if limited[leg] { count as u64 } else { 0 };
                moved += if self.in_vain[leg] { 0 } else { count as u128 };
            }
        }
        let waits = self.throttle.ready_at();
        // A place in line that was left, or taken and left in this turn, because its flow goes nowhere.
        lost += u128::from(waited.is_some_and(|at| at > now) && waits.is_none());
        for limit in &mut self.limits {
            let rate = u128::from(limit.bucket.rate().get());
            let time = now.since(self.born).as_nanos() * rate / 1_000_000_000;
            let most = u128::from(limit.bucket.burst()) + time;
            demand_that(Rule::B1, u128::from(self.counted) <= most, || {
                format!("{} bytes read by {now:?}, {most} are allowed", self.counted)
            })?;
            let earliest = u128::from(now.as_nanos()).saturating_sub(Bucket::BURST.as_nanos());
            let bytes = moved + lost * u128::from(limit.bucket.slice());
            limit.paid = limit.paid.max(earliest) + (bytes * 1_000_000_000).div_ceil(rate);
        }
        demand_that(Rule::B2, !held || waits.is_some_and(|at| at > now), || {
            format!("held at {now:?} until {waits:?}")
        })?;
        // Less than a quarter of a slice may have come back and lie there until there is more.
        let owed = |limit: &Limit| {
            let spare = u128::from(limit.bucket.slice()) * 1_000_000_000 / 4;
            limit.paid + spare / u128::from(limit.bucket.rate().get()) + ROUNDING_NANOS
        };
        let latest = self.limits.iter().map(owed).max().unwrap_or_default();
        let soon = waits.is_none_or(|at| u128::from(at.as_nanos()) <= latest);
        demand_that(Rule::B2, !self.alone || !held || soon, || {
            format!("held at {now:?} until {waits:?}, for what was read until {latest} ns at most")
        })
    }

    /// A flow is known to go nowhere.
    pub(super) fn is_in_vain(&mut self, leg: Leg) {
        self.in_vain[leg] = true;
    }
}
