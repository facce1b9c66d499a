//! relay-mio and relay-tokio, told the same scripts.

use std::num::NonZeroUsize;

use proptest::prelude::*;
use relay_differential::{Kind, Road, Script, Side, Step, record, scripts};
use relay_mio::Mio;
use relay_tokio::Tokio;

/// So many scripts, or what `RELAY_DIFFERENTIAL_RUNS` says.
const RUNS: u32 = 300;

fn runs() -> ProptestConfig {
    let runs = std::env::var("RELAY_DIFFERENTIAL_RUNS").ok();
    let cases = runs.map_or(RUNS, |runs| runs.parse().expect("RELAY_DIFFERENTIAL_RUNS is a number"));
    ProptestConfig { cases, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(runs())]

    #[test]
    fn the_same_script_has_the_same_end(script in scripts()) {
        let one = NonZeroUsize::MIN;
        let (mio, tokio) = (Mio::with_threads(one), Tokio::with_threads(one));
        let expected = record(&script, &mio);
        prop_assert_eq!(record(&script, &tokio), expected);
    }
}

/// A record that says the same of every script would hold any two runtimes equal.
#[test]
fn what_is_done_differently_is_recorded_differently() {
    let road = Road { front: Kind::Tcp, back: Kind::Tcp, middle: Some(true) };
    let ends = [
        Step::HalfClose(Side::Server),
        Step::Close(Side::Client),
        Step::Reset(Side::Client),
        Step::Reset(Side::Server),
        Step::End(false),
        Step::Abort(true),
        Step::Transfer(Side::Client, 1_000_000, true),
    ];
    let records = ends.map(|end| {
        let steps = vec![Step::Send(Side::Client, 1000, 2), Step::Receive(Side::Server), end];
        record(&Script { road, threads: 2, steps }, &Mio::default())
    });
    for (at, record) in records.iter().enumerate() {
        assert!(!records[..at].contains(record), "{:?}: {record:?}", ends[at]);
    }
}
