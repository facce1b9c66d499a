//! Tokio's clock as a session sees it: paused and moved on by tests as tokio's own timers are.

use std::time::Duration;

use relay_core::Instant;
use tokio::time::Instant as TokioInstant;

/// Tells the time since it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(TokioInstant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(TokioInstant::now())
    }

    /// One that shows the time of another.
    #[cfg(feature = "server")]
    pub(crate) fn like(other: relay_node::clock::Clock) -> Self {
        let now = TokioInstant::now();
        Self(now.checked_sub(Duration::from_nanos(other.now().as_nanos())).unwrap_or(now))
    }

    pub(crate) fn now(self) -> Instant {
        self.at(TokioInstant::now())
    }

    /// A point of tokio's time; what was before the session is its beginning.
    pub(crate) fn at(self, at: TokioInstant) -> Instant {
        Instant::ZERO + at.saturating_duration_since(self.0)
    }

    /// The other way around; `None` for what no clock can show.
    pub(crate) fn to_tokio(self, at: Instant) -> Option<TokioInstant> {
        self.0.checked_add(Duration::from_nanos(at.as_nanos()))
    }
}
