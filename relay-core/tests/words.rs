//! The words that logs and metrics are made of: each thing has its own, and it stays.
use std::collections::BTreeMap;
use std::fmt::{Debug, Display};

use relay_core::admission::Shut;
use relay_core::codec::Layout;
use relay_core::{Close, Distrust, EndReason, Failure, FlowEnd, Leg, Outcome, PerLeg, Timer};

const FAILURES: [(Failure, &str); 19] = [
    (Failure::Reset, "reset"),
    (Failure::BrokenPipe, "broken-pipe"),
    (Failure::TimedOut, "unresponsive"),
    (Failure::Refused, "refused"),
    (Failure::NotFound, "not-found"),
    (Failure::Unreachable, "unreachable"),
    (Failure::Denied, "denied"),
    (Failure::Busy, "busy"),
    (Failure::Exhausted, "exhausted"),
    (Failure::Truncated, "truncated"),
    (Failure::Protocol, "protocol"),
    (Failure::Rejected, "rejected"),
    (Failure::Alert(42), "alert-42"),
    (Failure::KeyExhausted, "key-exhausted"),
    (Failure::WriteZero, "write-zero"),
    (Failure::Evicted, "evicted"),
    (Failure::HungUp, "hung-up"),
    (Failure::Os(-7), "errno--7"),
    (Failure::Other, "other-error"),
];

const TIMERS: [(Timer, &str); 8] = [
    (Timer::Dial, "dial"),
    (Timer::Secure(Leg::Front), "handshake-front"),
    (Timer::Secure(Leg::Back), "handshake-back"),
    (Timer::Idle, "idle"),
    (Timer::HalfOpen, "half-open"),
    (Timer::Linger, "linger"),
    (Timer::Lifetime, "lifetime"),
    (Timer::Drain, "drain"),
];

const REASONS: [(EndReason, &str); 11] = [
    (EndReason::Eof, "eof"),
    (EndReason::CloseNotify, "close-notify"),
    (EndReason::SourceFailed(Failure::Reset), "source-reset"),
    (EndReason::SinkFailed(Failure::BrokenPipe), "sink-broken-pipe"),
    (EndReason::Severed, "severed"),
    (EndReason::SetupFailed(Leg::Back, Failure::Refused), "back-setup-refused"),
    (EndReason::TimedOut(Timer::HalfOpen), "timeout-half-open"),
    (EndReason::Aborted, "aborted"),
    (EndReason::Distrusted(Leg::Front, Distrust::Revoked), "front-revoked"),
    (EndReason::Distrusted(Leg::Back, Distrust::Expired), "back-expired"),
    (EndReason::Distrusted(Leg::Back, Distrust::Unverified), "back-unverified"),
];

const SHUTS: [(Shut, &str); 4] = [
    (Shut::Stopped, "stopped"),
    (Shut::Exhausted, "out-of-descriptors"),
    (Shut::Full, "max-sessions"),
    (Shut::Strangers, "max-unauthenticated"),
];

fn check<T: Display + Debug>(words: &[(T, &str)]) {
    let mut seen = BTreeMap::new();
    for (thing, word) in words {
        assert_eq!(thing.to_string(), *word);
        assert!(seen.insert(*word, thing).is_none(), "{word} means two things");
    }
}

#[test]
fn every_word_means_one_thing() {
    check(&FAILURES);
    check(&TIMERS);
    check(&REASONS);
    check(&SHUTS);
    check(&[(Leg::Front, "front"), (Leg::Back, "back")]);
}

/// What the peer or our own rules ended is said over a connection that still works, so that it can be
/// told; what the kernel reports is the connection's own end.
#[test]
fn a_connection_is_dead_only_if_the_kernel_says_so() {
    let dead = ["reset", "broken-pipe", "unresponsive", "refused", "not-found", "unreachable", "hung-up"];
    for (failure, word) in FAILURES {
        assert_eq!(failure.is_of_transport(), dead.contains(&word), "{word}");
    }
}

#[test]
fn a_layout_is_transparent_if_it_adds_nothing_at_either_end() {
    let layout = |header, trailer| Layout { header, trailer, payload_max: 10 };
    assert!(layout(0, 0).is_transparent() && Layout::TRANSPARENT.is_transparent());
    assert!(!layout(1, 0).is_transparent() && !layout(0, 1).is_transparent());
    assert_eq!(layout(5, 17).record(100), 122);
}

#[test]
fn only_what_passed_a_fin_on_is_clean() {
    let clean = |(reason, _): &(EndReason, &str)| reason.is_clean();
    assert!(REASONS[..2].iter().all(clean) && !REASONS[2..].iter().any(clean));
}

#[test]
fn an_outcome_is_clean_if_both_directions_are() {
    let outcome = |front, back| Outcome {
        flows: PerLeg::new(front, back).map(|reason| FlowEnd { reason, read: 1, delivered: 1 }),
        close: PerLeg::both(Close::Orderly),
    };
    assert!(outcome(EndReason::Eof, EndReason::CloseNotify).is_clean());
    for (front, back) in [(EndReason::Eof, EndReason::Aborted), (EndReason::Severed, EndReason::Eof)] {
        assert!(!outcome(front, back).is_clean());
    }
}
