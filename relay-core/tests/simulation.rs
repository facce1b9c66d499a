//! Simulated connections, thousands per run, on every core. `RELAY_SIM_SEED=N` replays one,
//! `RELAY_SIM_RUNS=N` runs more of them, `RELAY_SIM_FROM=N` says where the seeds begin (a commit's
//! hash will do: `0x1a2b3c`). A million takes a few minutes with `cargo test --release`.
#![cfg(feature = "testing")]

use std::time::Instant;

use relay_core::testing::lane::{LanePlan, lane};
use relay_core::testing::sim::{CrowdPlan, Plan, Seeds, ToyFamily, crowd, run, run_at_any_time, tell_all};

const USUAL: u64 = 20_000;

#[test]
fn every_simulated_connection_keeps_every_rule() {
    let (seeds, start) = (Seeds::from_environment(USUAL), Instant::now());
    let summaries = tell_all(seeds, |seed| run(&mut ToyFamily, Plan::new(seed)));
    // A simulation in which nothing succeeds, or nothing fails, would prove little.
    let (runs, clean) = (summaries.len(), summaries.iter().filter(|told| told.outcome.is_clean()).count());
    assert!(runs < 100 || (clean > runs / 10 && clean < runs * 95 / 100), "{clean} of {runs} ended well");
    let calls: u64 = summaries.iter().map(|told| told.calls).sum();
    println!("{runs} connections, {clean} ended well, {calls} calls of the transport, {:?}", start.elapsed());
}

#[test]
fn a_connection_does_not_know_what_the_clock_shows() {
    let (seeds, start) = (Seeds::from_environment(USUAL).one_in(20), Instant::now());
    let told = tell_all(seeds, |seed| run_at_any_time(&mut ToyFamily, Plan::new(seed)));
    println!("{} connections, each now and in a century, {:?}", told.len(), start.elapsed());
}

#[test]
fn every_connection_over_kernel_pipes_keeps_every_rule() {
    let (seeds, start) = (Seeds::from_environment(USUAL), Instant::now());
    let outcomes = tell_all(seeds, |seed| lane(LanePlan::new(seed)));
    let clean = outcomes.iter().filter(|outcome| outcome.is_clean()).count();
    println!("{} connections over pipes, {clean} ended well, {:?}", outcomes.len(), start.elapsed());
}

#[test]
fn every_crowd_is_served_within_the_limits_and_in_order() {
    let (seeds, start) = (Seeds::from_environment(USUAL).one_in(20), Instant::now());
    let summaries = tell_all(seeds, |seed| crowd(&mut ToyFamily, CrowdPlan::new(seed)));
    let served: usize = summaries.iter().map(|told| told.served).sum();
    let most = summaries.iter().map(|told| told.most).max();
    println!("{} crowds, {served} sessions, {most:?} at once, {:?}", summaries.len(), start.elapsed());
}
