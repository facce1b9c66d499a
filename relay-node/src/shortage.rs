//! That accepting pauses for want of descriptors, told once for as long as it lasts: whoever is let in
//! meanwhile, because somebody else went, must not make two lines of it each time.

use std::time::Duration;

use relay_core::Instant;

use crate::endpoint::Endpoint;

/// So long nothing must have failed before it counts as over; longer than the gate's pauses, so that it
/// has looked again.
const CALM: Duration = Duration::from_secs(3);

/// Whether there is one, as far as has been told.
#[derive(Debug, Default)]
pub(crate) struct Shortage {
    /// Where it was told of.
    told: Option<Endpoint>,
    /// When accepting failed last.
    last: Instant,
    /// There was a descriptor for whoever came since, if anybody did.
    eased: bool,
}

impl Shortage {
    /// Accepting failed at a listener; whether that is to be told.
    pub(crate) fn failed(&mut self, now: Instant, listen: &Endpoint) -> bool {
        (self.last, self.eased) = (now, false);
        let new = self.told.is_none();
        if new {
            self.told = Some(listen.clone());
        }
        new
    }

    /// Somebody was let in, or could have been if anybody had come.
    pub(crate) const fn ease(&mut self) {
        self.eased = true;
    }

    /// Where accepting goes on, if that is to be told now.
    pub(crate) fn over(&mut self, now: Instant) -> Option<Endpoint> {
        self.next_report().filter(|at| *at <= now).and_then(|_| self.told.take())
    }

    /// When it will be over, if nothing fails until then.
    pub(crate) fn next_report(&self) -> Option<Instant> {
        (self.told.is_some() && self.eased).then(|| self.last + CALM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_shortage_of_an_hour_is_two_lines() {
        let listen: Endpoint = "unix:/run/a.sock".parse().expect("an endpoint");
        let mut shortage = Shortage::default();
        assert_eq!((shortage.over(at(9)), shortage.next_report()), (None, None));
        assert!(shortage.failed(at(10), &listen));
        for second in 10..3610 {
            shortage.ease();
            assert_eq!(shortage.over(at(second)), None);
            assert!(!shortage.failed(at(second), &listen));
        }
        assert_eq!(shortage.next_report(), None, "nobody could have been let in since");
        assert_eq!(shortage.over(at(9999)), None);
        shortage.ease();
        assert_eq!((shortage.over(at(3611)), shortage.next_report()), (None, Some(at(3612))));
        assert_eq!((shortage.over(at(3612)), shortage.next_report()), (Some(listen.clone()), None));
        assert!(shortage.failed(at(3613), &listen), "another");
    }
}
