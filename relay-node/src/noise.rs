//! Strangers whose handshakes fail may come by the thousand: a port scan, a probe, a node with an old
//! certificate that tries again and again. The first few of a kind have a line each, the others are counted.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use relay_core::{EndReason, Leg, Outcome, Timer};

use crate::words;

/// How long a kind is remembered from its first.
const WINDOW: Duration = Duration::from_secs(60);

/// Of each kind and window, lines of their own.
const WHOLE: u64 = 5;

/// What is to be written of a failed handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tell {
    /// All there is to say.
    Whole,
    /// How many there were of this kind, and within how long, instead.
    Count(u64, Duration),
    /// Nothing.
    Nothing,
}

/// What has been seen of one kind.
#[derive(Clone, Copy, Debug)]
struct Window {
    /// When its first came.
    began: Duration,
    count: u64,
    /// Of these, how many have been told of.
    told: u64,
}

/// Counts by kind; there are as many kinds as words for why a handshake fails.
#[derive(Debug, Default)]
pub(crate) struct Noise {
    windows: BTreeMap<String, Window>,
}

impl Noise {
    /// One more of this kind has failed. What to write of it; and what is still to be told of the window
    /// before, if this one begins another.
    pub(crate) fn hear(&mut self, now: Duration, kind: String) -> (Option<(u64, Duration)>, Tell) {
        let window = self.windows.entry(kind).or_insert(Window { began: now, count: 0, told: 0 });
        let mut rest = None;
        if now.saturating_sub(window.began) > WINDOW {
            rest = (window.count > window.told).then_some((window.count, WINDOW));
            *window = Window { began: now, count: 0, told: 0 };
        }
        window.count += 1;
        let tell = match window.count {
            ..=WHOLE => Tell::Whole,
            count if is_power_of_ten(count) => Tell::Count(count, now.saturating_sub(window.began)),
            _ => Tell::Nothing,
        };
        if tell != Tell::Nothing {
            window.told = window.count;
        }
        (rest, tell)
    }
}

/// 1, 10, 100 and so on: so a flood has a few lines, whatever its size.
fn is_power_of_ten(count: u64) -> bool {
    count.checked_ilog10().is_some_and(|power| 10_u64.pow(power) == count)
}

/// The kind of failure, if whoever connected never proved who he is.
pub(crate) fn kind(outcome: &Outcome) -> Option<String> {
    let reason = outcome.flows.front.reason;
    let is_setup = matches!(
        reason,
        EndReason::SetupFailed(Leg::Front, _) | EndReason::TimedOut(Timer::Secure(Leg::Front))
    );
    is_setup.then(|| words::of_end(reason))
}

/// The log's, of which there is one in a process.
pub(crate) fn hear(kind: String) -> (Option<(u64, Duration)>, Tell) {
    static NOISE: Mutex<Noise> = Mutex::new(Noise { windows: BTreeMap::new() });
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let now = BEGAN.get_or_init(Instant::now).elapsed();
    NOISE.lock().unwrap_or_else(PoisonError::into_inner).hear(now, kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_that_fail_in_a_row_are_a_few_lines_and_a_count() {
        let mut noise = Noise::default();
        let at = Duration::from_millis;
        let mut hear = |millis, kind: &str| noise.hear(at(millis), kind.to_owned());
        let told: Vec<_> =
            (0..123_456).map(|n| hear(n / 10, "rejected")).filter(|(_, t)| *t != Tell::Nothing).collect();
        let counts =
            [10, 100, 1000, 10_000, 100_000].map(|count| (None, Tell::Count(count, at((count - 1) / 10))));
        assert_eq!(told[..5], [(None, Tell::Whole); 5]);
        assert_eq!(told[5..], counts);
        // Another kind is told as if nothing had been.
        assert_eq!(hear(13_000, "timeout"), (None, Tell::Whole));
        // The next window begins with what was not told of the last, and is told as the first was.
        assert_eq!(hear(60_001, "rejected"), (Some((123_456, WINDOW)), Tell::Whole));
        assert_eq!(hear(60_002, "rejected"), (None, Tell::Whole));
        assert_eq!(hear(130_000, "rejected"), (None, Tell::Whole), "all of it was told");
    }

    #[test]
    fn only_those_who_never_proved_who_they_are_make_noise() {
        use relay_core::{Close, Failure, FlowEnd, PerLeg};
        let kind_of = |reason| {
            let end = FlowEnd { reason, read: 0, delivered: 0 };
            kind(&Outcome { flows: PerLeg::both(end), close: PerLeg::both(Close::Orderly) })
        };
        let rejected = kind_of(EndReason::SetupFailed(Leg::Front, Failure::Alert(42)));
        assert_eq!(rejected.as_deref(), Some("front-setup-alert"));
        let late = kind_of(EndReason::TimedOut(Timer::Secure(Leg::Front)));
        assert_eq!(late.as_deref(), Some("timeout-handshake-front"));
        for reason in [
            EndReason::Eof,
            EndReason::SetupFailed(Leg::Back, Failure::Rejected),
            EndReason::TimedOut(Timer::Secure(Leg::Back)),
            EndReason::SourceFailed(Failure::Reset),
        ] {
            assert_eq!(kind_of(reason), None, "{reason}");
        }
    }
}
