//! relay-mio and relay-tokio, told the same scripts.

use std::num::NonZeroUsize;

use proptest::prelude::*;
use relay_differential::{
    Absence, Kind, Plot, Road, Script, Side, Step, Stranger, record, record_joined, scripts,
    scripts_among_peers,
};
use relay_mio::Mio;
use relay_tokio::Tokio;

/// So many scripts, or what `RELAY_DIFFERENTIAL_RUNS` says.
const RUNS: u32 = 300;

fn runs() -> ProptestConfig {
    let runs = std::env::var("RELAY_DIFFERENTIAL_RUNS").ok();
    let cases = runs.map_or(RUNS, |runs| runs.parse().expect("RELAY_DIFFERENTIAL_RUNS is a number"));
    // what hangs takes minutes, and is not to be tried two hundred times
    let max_shrink_time = 60_000;
    ProptestConfig {
        cases,
        max_shrink_iters: 200,
        max_shrink_time,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
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

    /// What a node does beside relaying makes no difference to a session's own story.
    #[test]
    fn the_function_tells_it_as_a_node_does(script in scripts_among_peers()) {
        let node = record(&script, &Mio::with_threads(NonZeroUsize::MIN));
        let outcomes = node.relays.into_iter().map(|(ended, _)| ended.outcome).collect();
        prop_assert_eq!(record_joined(&script), (node.trace, outcomes));
    }
}

/// Every plot at least once, whatever the generator does.
#[test]
fn every_plot_has_the_same_end() {
    let kinds = [Kind::Unix, Kind::Tcp, Kind::Tls];
    let mut plots = vec![Plot::Deadline(false), Plot::Deadline(true), Plot::Idle, Plot::HalfOpen(50_000)];
    plots.extend([Side::Client, Side::Server].map(|side| Plot::LastBytes(side, 60_000)));
    let absences = [Absence::Timeout, Absence::Drain, Absence::End, Absence::Abort];
    plots.extend(absences.map(Plot::Absent));
    let strangers = [Stranger::Nameless, Stranger::Foreign, Stranger::Plaintext, Stranger::Silent];
    plots.extend(strangers.map(Plot::Refused));
    for (number, plot) in plots.into_iter().enumerate() {
        for middle in [None, Some(false), Some(true)] {
            let (front, back) = (kinds[number % 3], kinds[number % 2]);
            let script = Script { road: Road { front, back, middle }, threads: 2, plot, steps: Vec::new() };
            let script = script.fitting();
            assert_eq!(record(&script, &Tokio::default()), record(&script, &Mio::default()), "{script:?}");
        }
    }
}

/// Of who has ended already, and then goes for good.
#[test]
fn who_goes_after_its_end_makes_no_difference() {
    for front in [Kind::Unix, Kind::Tcp, Kind::Tls] {
        for side in [Side::Client, Side::Server] {
            for middle in [None, Some(false), Some(true)] {
                let back = if middle.is_none() { Kind::Tcp } else { Kind::Unix };
                let road = Road { front, back, middle };
                let steps = vec![Step::HalfClose(side), Step::Reset(side)];
                let script = Script { road, threads: 1, plot: Plot::Steps, steps };
                assert_eq!(
                    record(&script, &Tokio::default()),
                    record(&script, &Mio::default()),
                    "{script:?}"
                );
            }
        }
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
        record(&Script { road, threads: 2, plot: Plot::Steps, steps }, &Mio::default())
    });
    for (at, record) in records.iter().enumerate() {
        assert!(!records[..at].contains(record), "{:?}: {record:?}", ends[at]);
    }
}
