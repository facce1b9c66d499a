//! The one clock of all loops.

use std::time::Instant as StdInstant;

use relay_core::Instant;

/// Tells the time since it was made. Copies agree, so an instant may go from one loop to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(StdInstant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(StdInstant::now())
    }

    pub(crate) fn now(self) -> Instant {
        // 584 years fit
        Instant::from_nanos(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}
