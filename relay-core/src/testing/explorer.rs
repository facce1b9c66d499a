//! Visits every reachable state of a session in a small world, checks every step, and then looks
//! at the graph as a whole.

use core::fmt;
use core::time::Duration;
use std::collections::HashMap;
use std::string::String;
use std::vec::Vec;
use std::{format, vec};

use super::rules::{Rule, Violation, check_step};
use super::world::{Action, Scope, World};
use crate::config::Config;
use crate::leg::PerLeg;

/// One exploration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Case {
    /// What it shows, in a word.
    pub name: &'static str,
    /// The session's limits.
    pub config: Config,
    /// What may happen.
    pub scope: Scope,
}

/// How much was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Explored {
    /// Distinct states.
    pub states: usize,
    /// Steps between them.
    pub edges: usize,
    /// Of the states, closed ones.
    pub closed: usize,
}

/// A broken rule and the shortest way there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The case's name.
    pub case: &'static str,
    /// The rule.
    pub violation: Violation,
    /// From a fresh session.
    pub trace: Vec<Action>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "case {}: {}", self.case, self.violation)?;
        for (step, action) in self.trace.iter().enumerate() {
            writeln!(f, "  {step}: {action:?}")?;
        }
        Ok(())
    }
}

/// The cases that every test run explores.
#[must_use]
pub fn cases() -> Vec<Case> {
    let nanos = |n| Some(Duration::from_nanos(n));
    let plain = Config::new(2);
    let secure = Config { secure: PerLeg::both(true), ..plain };
    let linger = PerLeg::new(Duration::from_nanos(7), Duration::from_nanos(5));
    let lingering = Config { linger, ..plain };
    let timed = Config {
        dial_timeout: nanos(10),
        secure_timeout: nanos(11),
        idle_timeout: nanos(12),
        half_open_timeout: nanos(9),
        max_lifetime: nanos(60),
        ..secure
    };
    let lopsided = Config { capacity: PerLeg::new(1, 3), secure: PerLeg::new(true, false), ..lingering };
    let quiet = Scope {
        bytes: PerLeg::both(3),
        faults: false,
        unnoticed: false,
        full: false,
        stops: false,
        ticks: 0,
        queues: false,
        holds: 0,
    };
    let faulty = Scope { faults: true, unnoticed: true, ..quiet };
    let all = Scope {
        bytes: PerLeg::both(2),
        faults: true,
        unnoticed: false,
        full: true,
        stops: true,
        ticks: 1,
        queues: true,
        holds: 0,
    };
    let case = |name, config, scope| Case { name, config, scope };
    vec![
        case("plain", plain, quiet),
        case("secure", secure, quiet),
        case("plain-faults", plain, faulty),
        case("secure-faults", secure, faulty),
        case("pipe-slots", plain, Scope { full: true, ..faulty }),
        case("lopsided", lopsided, faulty),
        case("linger", lingering, Scope { stops: true, ..faulty }),
        case("timers", timed, Scope { bytes: PerLeg::both(1), ticks: 2, queues: true, ..faulty }),
        case(
            "held",
            Config { linger, ..timed },
            Scope { bytes: PerLeg::both(1), ticks: 1, holds: 2, ..faulty },
        ),
        case("lifetime", Config { max_lifetime: nanos(15), ..timed }, Scope { ticks: 2, ..quiet }),
        case("everything", Config { linger: lingering.linger, ..timed }, all),
    ]
}

struct Graph {
    worlds: Vec<World>,
    /// How each state was first reached.
    parents: Vec<Option<(usize, Action)>>,
    successors: Vec<Vec<usize>>,
}

/// Visits everything that `case` can reach.
///
/// # Errors
/// The first broken rule, with a trace that replays.
pub fn explore(case: &Case) -> Result<Explored, Finding> {
    let graph = visit(case)?;
    check_acyclic(case, &graph)?;
    check_closable(case, &graph)?;
    Ok(Explored {
        states: graph.worlds.len(),
        edges: graph.successors.iter().map(Vec::len).sum(),
        closed: graph.worlds.iter().filter(|world| world.is_closed()).count(),
    })
}

fn visit(case: &Case) -> Result<Graph, Finding> {
    let start = World::new(case.config, case.scope);
    let mut known = HashMap::from([(start.clone(), 0)]);
    let mut graph = Graph { worlds: vec![start], parents: vec![None], successors: vec![] };
    let mut at = 0;
    while at < graph.worlds.len() {
        let world = graph.worlds[at].clone();
        let mut successors = vec![];
        for action in world.actions() {
            let next = world.after(action);
            if let Err(violation) = check_step(&world, action, &next) {
                let mut trace = trace_to(&graph, at);
                trace.push(action);
                return Err(Finding { case: case.name, violation, trace });
            }
            let index = *known.entry(next).or_insert_with_key(|next| {
                graph.worlds.push(next.clone());
                graph.parents.push(Some((at, action)));
                graph.worlds.len() - 1
            });
            successors.push(index);
        }
        graph.successors.push(successors);
        at += 1;
    }
    Ok(graph)
}

fn trace_to(graph: &Graph, mut at: usize) -> Vec<Action> {
    let mut trace = vec![];
    while let Some((parent, action)) = graph.parents[at] {
        trace.push(action);
        at = parent;
    }
    trace.reverse();
    trace
}

fn finding(case: &Case, graph: &Graph, at: usize, rule: Rule, detail: String) -> Finding {
    Finding { case: case.name, violation: Violation { rule, detail }, trace: trace_to(graph, at) }
}

/// L2: no way leads back to where it began (Kahn's algorithm removes every state).
fn check_acyclic(case: &Case, graph: &Graph) -> Result<(), Finding> {
    let mut incoming = vec![0_usize; graph.worlds.len()];
    for next in graph.successors.iter().flatten() {
        incoming[*next] += 1;
    }
    let mut ready: Vec<usize> = (0..incoming.len()).filter(|at| incoming[*at] == 0).collect();
    let mut removed = 0;
    while let Some(at) = ready.pop() {
        removed += 1;
        for next in &graph.successors[at] {
            incoming[*next] -= 1;
            if incoming[*next] == 0 {
                ready.push(*next);
            }
        }
    }
    match incoming.iter().position(|count| *count > 0) {
        None => Ok(()),
        Some(at) => {
            let left = incoming.len() - removed;
            Err(finding(case, graph, at, Rule::L2, format!("{left} states lie on or behind a cycle")))
        }
    }
}

/// L4: from every state a closed one can be reached.
fn check_closable(case: &Case, graph: &Graph) -> Result<(), Finding> {
    let mut predecessors = vec![vec![]; graph.worlds.len()];
    for (at, successors) in graph.successors.iter().enumerate() {
        for next in successors {
            predecessors[*next].push(at);
        }
    }
    let mut closable: Vec<bool> = graph.worlds.iter().map(World::is_closed).collect();
    let mut todo: Vec<usize> = (0..closable.len()).filter(|at| closable[*at]).collect();
    while let Some(at) = todo.pop() {
        for before in &predecessors[at] {
            if !closable[*before] {
                closable[*before] = true;
                todo.push(*before);
            }
        }
    }
    match closable.iter().position(|can| !can) {
        None => Ok(()),
        Some(at) => Err(finding(case, graph, at, Rule::L4, format!("stuck: {:?}", graph.worlds[at].session))),
    }
}
