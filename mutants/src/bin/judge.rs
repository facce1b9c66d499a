//! Holds relay-core to its rules: the checkers that ordinary tests run, in one small program that
//! can be built against a mutant in seconds. Says which rule is broken and ends with 1, or with 0.
//!
//! `judge CHECKER…` runs these and no others, in this order; see [`CHECKERS`]. `quick` and `slow` stand for several.
#![expect(clippy::print_stdout, reason = "it talks to whoever runs it")]

use std::process::ExitCode;

use relay_core::testing::admission::{DialScene, GateScene, LingerScene, Mutant, OrderScene, Scene, explore};
use relay_core::testing::bandwidth;
use relay_core::testing::explorer::{self, cases};
use relay_core::testing::lane::{LanePlan, lane};
use relay_core::testing::sim::{CrowdPlan, Plan, ToyFamily, crowd, run, run_at_any_time};

type Verdict = Result<(), String>;
type Checker = (&'static str, fn() -> Verdict);

/// So many of them are quick. Most mutants fall to these, and those that spin do so in these.
const QUICK: usize = 6;

/// Quickest first.
const CHECKERS: [Checker; 11] = [
    ("dial", || {
        (0..16).try_for_each(|seed| (1..=2).try_for_each(|count| admission(DialScene::new(count, seed))))
    }),
    ("linger", || [2, 20].into_iter().try_for_each(|unsent| admission(LingerScene::new(unsent)))),
    ("bandwidth", || (0..200).try_for_each(bandwidth::scene)),
    ("lane", lanes),
    ("simulation", simulation),
    ("crowd", crowds),
    ("order", || admission(OrderScene::new(Mutant::None))),
    ("calm-gate", || admission(GateScene::calm(Mutant::None))),
    ("crowded-gate", || admission(GateScene::crowded(Mutant::None))),
    ("gate", || admission(GateScene::new(Mutant::None))),
    ("explorer", sessions),
];

fn main() -> ExitCode {
    let names = |of: &[Checker]| of.iter().map(|(name, _)| (*name).to_string()).collect::<Vec<_>>();
    let all = names(&CHECKERS);
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .flat_map(|name| match name.as_str() {
            "quick" => names(&CHECKERS[..QUICK]),
            "slow" => names(&CHECKERS[QUICK..]),
            _ => vec![name],
        })
        .collect();
    for name in if wanted.is_empty() { &all } else { &wanted } {
        let Some((_, checker)) = CHECKERS.iter().find(|(known, _)| known == name) else {
            println!("there is no checker called {name}, only {all:?}");
            return ExitCode::from(2);
        };
        if let Err(story) = checker() {
            println!("{name}: {story}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn sessions() -> Verdict {
    for case in cases() {
        explorer::explore(&case).map_err(|finding| finding.to_string())?;
    }
    Ok(())
}

fn admission(scene: impl Scene) -> Verdict {
    explore(scene).map(|_| ()).map_err(|violation| violation.to_string())
}

fn simulation() -> Verdict {
    (0..runs(6000)).try_for_each(|seed| run(&mut ToyFamily, Plan::new(seed)).map(|_| ()))?;
    (0..runs(300)).try_for_each(|seed| run_at_any_time(&mut ToyFamily, Plan::new(seed)))
}

fn lanes() -> Verdict {
    (0..runs(2000)).try_for_each(|seed| lane(LanePlan::new(seed)).map(|_| ()))
}

fn crowds() -> Verdict {
    (0..runs(300)).try_for_each(|seed| crowd(&mut ToyFamily, CrowdPlan::new(seed)).map(|_| ()))
}

/// So many seeds, or as many percent of them as `RELAY_SIM_PERCENT` says.
fn runs(usual: u64) -> u64 {
    let percent = std::env::var("RELAY_SIM_PERCENT").ok().and_then(|text| text.parse().ok());
    percent.map_or(usual, |percent: u64| usual * percent / 100)
}
