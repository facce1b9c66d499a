//! Whatever the pieces in which two streams give and take: the bytes are the same, and what is
//! said about them is true.

use std::io::ErrorKind;

use proptest::collection::vec;
use proptest::prelude::*;
use relay_tokio::{Close, Config, EndReason, FlowEnd, Leg, Side, relay};

use crate::scripted::Scripted;
use crate::{patient, pattern};

fn script() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![2 => Just(0), 3 => 1..9_usize, 1 => 1..9_000_usize], 0..40)
}

fn bad_end() -> impl Strategy<Value = ErrorKind> {
    prop_oneof![Just(ErrorKind::ConnectionReset), Just(ErrorKind::BrokenPipe), Just(ErrorKind::WriteZero)]
}

fn stream(seed: u64) -> impl Strategy<Value = Scripted> {
    let len = prop_oneof![0..20_usize, 0..70_000_usize];
    let read_error = proptest::option::weighted(0.2, bad_end());
    let write_error = proptest::option::weighted(0.2, (0..40_000_usize, bad_end()));
    let flush_error = proptest::option::weighted(0.1, bad_end());
    (len, script(), read_error, script(), write_error, script(), flush_error).prop_map(
        move |(len, reads, read_error, writes, write_error, flushes, flush_error)| Scripted {
            reads: reads.into(),
            read_error,
            writes: writes.into(),
            write_error,
            flushes: flushes.into(),
            flush_error,
            ..Scripted::new(&pattern(seed, len))
        },
    )
}

/// One direction: from `source`, as it was, to `sink`, as it is now.
fn judge(source: &Scripted, sink: &Scripted, end: FlowEnd, close: Close) -> Result<(), TestCaseError> {
    let sent: Vec<u8> = source.input.iter().copied().collect();
    prop_assert_eq!(sink.flushed as u64, end.delivered, "what the sink let go is what was counted");
    prop_assert!(end.delivered <= end.read && end.read <= sent.len() as u64);
    prop_assert!(sent.starts_with(&sink.output), "a prefix of what was sent");
    prop_assert_eq!(sink.shut, end.reason.is_clean(), "an orderly end for a clean flow only");
    prop_assert_eq!(sink.shut, close == Close::Orderly);
    if sink.shut {
        prop_assert_eq!(&sink.output, &sent);
        prop_assert_eq!(sink.flushed, sent.len());
    }
    if end.reason == EndReason::Eof {
        prop_assert!(source.read_error.is_none() && sink.flush_error.is_none());
    } else if source.read_error.is_none() && sink.can_be_written() {
        // Nothing is wrong with these two; but after a failed write an end of file is none.
        let consumed = !source.can_be_written() && matches!(end.reason, EndReason::SourceFailed(_));
        prop_assert!(consumed || end.reason == EndReason::Severed, "{:?}", end);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn bytes_and_words_agree(front in stream(1), back in stream(2), capacity in 1..70_000_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime");
        let (was_front, was_back) = (front.clone(), back.clone());
        let relaying = relay(Side::plain(front), Side::plain(back), Config::new(capacity));
        let over = runtime.block_on(patient(relaying));
        judge(&was_front, &over.back, over.outcome.flows.front, over.outcome.close.back)?;
        judge(&was_back, &over.front, over.outcome.flows.back, over.outcome.close.front)?;
        let healthy = |stream: &Scripted| stream.read_error.is_none() && stream.can_be_written();
        if healthy(&was_front) && healthy(&was_back) {
            prop_assert!(over.outcome.is_clean());
            prop_assert!(Leg::BOTH.iter().all(|leg| over.io_error(*leg).is_none()));
        }
    }
}
