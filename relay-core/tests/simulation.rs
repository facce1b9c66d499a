//! Simulated connections, thousands per run. `RELAY_SIM_SEED=N` replays one,
//! `RELAY_SIM_RUNS=N` runs more of them, `RELAY_SIM_FROM=N` says where the seeds begin.
#![cfg(feature = "testing")]

use relay_core::testing::sim::{Plan, ToyFamily, run};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn every_simulated_connection_keeps_every_rule() {
    let seeds = match number("RELAY_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let from = number("RELAY_SIM_FROM").unwrap_or(0);
            from..from + number("RELAY_SIM_RUNS").unwrap_or(3000)
        }
    };
    let mut clean = 0;
    for seed in seeds.clone() {
        let plan = Plan::new(seed, if seed % 10 == 0 { 300_000 } else { 3000 });
        match run(&mut ToyFamily, plan) {
            Ok(summary) => clean += u64::from(summary.outcome.is_clean()),
            Err(story) => panic!("RELAY_SIM_SEED={seed} replays this: {story}"),
        }
    }
    // A simulation in which nothing succeeds, or nothing fails, would prove little.
    let runs = seeds.end - seeds.start;
    assert!(runs < 100 || (clean > runs / 10 && clean < runs * 95 / 100), "{clean} of {runs} ended well");
    println!("{runs} simulated connections, {clean} ended well in both directions");
}
