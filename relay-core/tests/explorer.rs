//! Every reachable state of several small sessions.
#![cfg(feature = "testing")]

use std::time::Instant;

use relay_core::testing::explorer::{cases, explore};

#[test]
fn every_reachable_state_keeps_every_rule() {
    for case in cases() {
        let start = Instant::now();
        match explore(&case) {
            Ok(seen) => println!(
                "{:14} {:7} states {:8} edges {:6} closed {:6.2} s",
                case.name,
                seen.states,
                seen.edges,
                seen.closed,
                start.elapsed().as_secs_f64()
            ),
            Err(finding) => panic!("{finding}"),
        }
    }
}
