//! Ending sessions from outside, in good order or at once.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// What is wished for so far. The greater one prevails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wish {
    /// Nothing.
    Continue,
    /// To end by itself, but no later than this.
    Drain(Instant),
    /// To end at once.
    Abort,
}

impl Wish {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Abort, _) | (_, Self::Abort) => Self::Abort,
            (Self::Drain(a), Self::Drain(b)) => Self::Drain(a.min(b)),
            (Self::Continue, wish) | (wish, Self::Continue) => wish,
        }
    }
}

/// The end that wishes. Clones wish for the same sessions; dropping them all wishes for nothing.
#[derive(Clone, Debug)]
pub struct Stopper(watch::Sender<Wish>);

/// The end that sessions listen to; clone it for each. Also those that begin after a wish obey it.
///
/// The default is one that nobody ever wishes anything through.
#[derive(Clone, Debug, Default)]
pub struct StopSignal(Option<watch::Receiver<Wish>>);

/// A pair of ends.
#[must_use]
pub fn stopper() -> (Stopper, StopSignal) {
    let (sender, receiver) = watch::channel(Wish::Continue);
    (Stopper(sender), StopSignal(Some(receiver)))
}

impl Stopper {
    /// Sessions may go on until they end by themselves, but no longer than `within` from now: then
    /// they end as [`Timer::Drain`](relay_core::Timer::Drain) says. Of several deadlines the
    /// earliest counts.
    pub fn drain(&self, within: Duration) {
        // what no clock can show is for ever
        let now = Instant::now();
        let until = now.checked_add(within).or_else(|| now.checked_add(Duration::from_secs(u32::MAX.into())));
        self.wish(until.map_or(Wish::Continue, Wish::Drain));
    }

    /// Sessions end at once, as [`EndReason::Aborted`](relay_core::EndReason::Aborted). What is in
    /// their buffers is lost.
    pub fn abort(&self) {
        self.wish(Wish::Abort);
    }

    fn wish(&self, wish: Wish) {
        self.0.send_if_modified(|present| {
            let before = *present;
            *present = before.and(wish);
            *present != before
        });
    }
}

impl StopSignal {
    /// One that nobody ever wishes anything through.
    #[must_use]
    pub const fn never() -> Self {
        Self(None)
    }

    /// What is wished for now.
    pub(crate) fn present(&mut self) -> Wish {
        self.0.as_mut().map_or(Wish::Continue, |receiver| *receiver.borrow_and_update())
    }

    /// Waits for the next wish, for ever if there can't be one.
    pub(crate) async fn next(&mut self) -> Wish {
        if let Some(receiver) = &mut self.0 {
            if receiver.changed().await.is_ok() {
                return *receiver.borrow_and_update();
            }
            self.0 = None;
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_earliest_deadline_counts_and_an_abort_is_final() {
        let (stopper, mut signal) = stopper();
        let start = Instant::now();
        assert_eq!(signal.present(), Wish::Continue);
        stopper.drain(Duration::from_secs(5));
        stopper.clone().drain(Duration::from_secs(9));
        assert_eq!(signal.next().await, Wish::Drain(start + Duration::from_secs(5)));
        stopper.drain(Duration::from_secs(1));
        assert_eq!(signal.clone().next().await, Wish::Drain(start + Duration::from_secs(1)));
        stopper.abort();
        stopper.drain(Duration::MAX);
        assert_eq!(signal.next().await, Wish::Abort);
        assert_eq!(signal.clone().present(), Wish::Abort, "who comes late");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_left_to_wish_is_no_wish() {
        let (stopper, mut signal) = stopper();
        drop(stopper);
        for signal in [&mut signal, &mut StopSignal::never()] {
            assert!(tokio::time::timeout(Duration::from_secs(1), signal.next()).await.is_err());
            assert_eq!(signal.present(), Wish::Continue);
        }
    }

    #[test]
    fn a_drain_for_ever_is_no_abort() {
        let (stopper, mut signal) = stopper();
        stopper.drain(Duration::MAX);
        assert!(matches!(signal.present(), Wish::Drain(_)));
    }
}
