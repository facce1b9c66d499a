//! The one clock of a process: its loops, its sessions and those who ask about them agree.

use std::time::Instant as StdInstant;

use relay_core::Instant;

/// Tells the time since it was made. Copies agree, so an instant may go from one thread to another.
#[derive(Clone, Copy, Debug)]
pub struct Clock(StdInstant);

impl Clock {
    /// It is zero now.
    #[must_use]
    pub fn start() -> Self {
        Self(StdInstant::now())
    }

    /// What it shows now.
    #[must_use]
    pub fn now(self) -> Instant {
        // 584 years fit
        Instant::from_nanos(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}
