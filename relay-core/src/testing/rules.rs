//! The invariants, each a named checker over one step of a [`World`].

use core::fmt;
use std::format;
use std::string::String;

use super::world::{Action, World};
use crate::leg::Leg;
use crate::session::{Close, Demand, EndReason, Input, Timer};

/// A rule's name, as docs/ARCHITECTURE.md lists them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Rule {
    /// What was delivered is a prefix of what was sent, and all of it when the flow ended well.
    S1,
    /// Never more buffered than the capacity.
    S2,
    /// At most one FIN per leg, with nothing buffered, after the source's own end.
    S3,
    /// After the outcome nothing changes.
    S4,
    /// The sink of a truncated flow is reset, never closed cleanly.
    S5,
    /// The demand is the model's formula.
    S6,
    /// Nothing moves on a leg before it is up; Back is not dialed before Front is authenticated.
    S7,
    /// Timers fire neither early nor late; time never runs back.
    S8,
    /// Not closed: there is a demand or a timer.
    L1,
    /// A demanded operation changes the state, and no sequence of them leads back.
    L2,
    /// Once the peers make progress the relay closes within a bound.
    L3,
    /// A closed state can be reached from everywhere.
    L4,
    /// In the pump: no wake-up is lost and none is for nothing.
    L5,
}

/// A rule and how it was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which one.
    pub rule: Rule,
    /// What was seen.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} broken: {}", self.rule, self.detail)
    }
}

/// Fails with `rule` unless `holds`.
///
/// # Errors
/// The violation.
pub fn demand_that(rule: Rule, holds: bool, detail: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { rule, detail: detail() }) }
}

/// Every rule that one step can break.
///
/// # Errors
/// The first that is broken.
pub fn check_step(before: &World, action: Action, after: &World) -> Result<(), Violation> {
    check_counts(after)?;
    check_fins(after)?;
    check_final(before, after)?;
    check_resets(after)?;
    check_demand(after)?;
    check_order(before, action)?;
    check_timers(before, action, after)?;
    demand_that(
        Rule::L1,
        after.is_closed() || has_demand(after) || after.session.next_timeout().is_some(),
        || format!("not closed, yet nothing is demanded and no timer runs: {after:?}"),
    )?;
    if let Action::Do(input) = action
        && is_operation(input)
    {
        demand_that(Rule::L2, before.session != after.session, || format!("{input:?} changed nothing"))?;
    }
    Ok(())
}

fn check_counts(after: &World) -> Result<(), Violation> {
    let stats = after.session.stats();
    for leg in Leg::BOTH {
        let facts = &after.model.flows[leg];
        demand_that(Rule::S1, stats.delivered[leg] <= stats.read[leg], || {
            format!("{leg}: delivered more than was read: {stats:?}")
        })?;
        demand_that(Rule::S1, stats.read[leg] == facts.read && stats.delivered[leg] == facts.wrote, || {
            format!("{leg}: counts {stats:?} differ from what was reported: {facts:?}")
        })?;
        if let Some(outcome) = after.session.outcome() {
            let end = outcome.flows[leg];
            demand_that(Rule::S1, !end.reason.is_clean() || end.read == end.delivered, || {
                format!("{leg}: ended well with bytes missing: {end:?}")
            })?;
            demand_that(Rule::S1, end.reason.is_clean() == facts.is_complete(), || {
                format!("{leg}: reason {:?} does not fit {facts:?}", end.reason)
            })?;
        }
        let buffered = after.session.buffered(leg);
        demand_that(Rule::S2, buffered <= after.session.config().capacity[leg], || {
            format!("{leg}: {buffered} bytes buffered")
        })?;
    }
    Ok(())
}

fn check_fins(after: &World) -> Result<(), Violation> {
    for leg in Leg::BOTH {
        let facts = &after.model.flows[leg];
        demand_that(Rule::S3, facts.fins <= 1, || format!("{}: {} FINs", leg.other(), facts.fins))?;
        let allowed = facts.source == Some(super::model::SourceEnd::Eof) && facts.read == facts.wrote;
        demand_that(Rule::S3, facts.fins == 0 || allowed, || {
            format!("{}: a FIN that the source did not send, or before its bytes: {facts:?}", leg.other())
        })?;
        let offered = after.session.demand(leg.other()).shutdown;
        demand_that(Rule::S3, !offered || (allowed && facts.fins == 0), || {
            format!("{}: a FIN is demanded too early or again: {facts:?}", leg.other())
        })?;
    }
    Ok(())
}

fn check_final(before: &World, after: &World) -> Result<(), Violation> {
    if before.is_closed() {
        demand_that(Rule::S4, before.session == after.session, || "a closed session changed".into())?;
    }
    let quiet = !has_demand(after) && after.session.next_timeout().is_none();
    demand_that(Rule::S4, !after.is_closed() || quiet, || {
        "a closed session demands something or runs a timer".into()
    })?;
    demand_that(Rule::S4, after.is_closed() == after.model.is_closed(), || {
        format!("closed: {}, by the model: {}", after.is_closed(), after.model.is_closed())
    })
}

fn check_resets(after: &World) -> Result<(), Violation> {
    let Some(outcome) = after.session.outcome() else { return Ok(()) };
    for leg in Leg::BOTH {
        let expected = if !after.model.is_up(leg) || after.model.flows[leg.other()].is_complete() {
            Close::Orderly
        } else {
            Close::Reset
        };
        demand_that(Rule::S5, outcome.close[leg] == expected, || {
            format!("{leg} closes {:?}, not {expected:?}: {outcome:?}", outcome.close[leg])
        })?;
    }
    Ok(())
}

fn check_demand(after: &World) -> Result<(), Violation> {
    for leg in Leg::BOTH {
        let (is, ought) = (after.session.demand(leg), after.model.demand(leg));
        demand_that(Rule::S6, is == ought, || format!("{leg}: demands {is:?}, by the formula {ought:?}"))?;
    }
    Ok(())
}

fn check_order(before: &World, action: Action) -> Result<(), Violation> {
    for leg in Leg::BOTH {
        let demand = before.session.demand(leg);
        let moves = demand.read > 0 || demand.write > 0 || demand.shutdown;
        demand_that(Rule::S7, !moves || before.model.is_up(leg), || {
            format!("{leg}: {demand:?} before it is up ({action:?})")
        })?;
    }
    let dials = before.session.demand(Leg::Back).connect;
    demand_that(Rule::S7, !dials || before.model.is_up(Leg::Front), || {
        "back is dialed before front is authenticated".into()
    })
}

fn check_timers(before: &World, action: Action, after: &World) -> Result<(), Violation> {
    match action {
        Action::Expire => demand_that(Rule::S8, after.is_closed(), || {
            format!("{:?} was due and did not close the session", before.session.next_timeout())
        })?,
        Action::AlmostExpire => demand_that(Rule::S8, before.session == after.session, || {
            format!("a timer fired early: {:?}", before.session.next_timeout())
        })?,
        Action::Do(_) => {}
    }
    if let Some((at, _)) = after.session.next_timeout() {
        let drain = after.model.drain_until;
        demand_that(Rule::S8, drain.is_none_or(|until| at <= until), || {
            format!("the drain is due at {drain:?}, the next timer is {at:?}")
        })?;
    }
    let config = after.model.config();
    if let (false, Some(outcome)) = (before.is_closed(), after.session.outcome()) {
        for leg in Leg::BOTH {
            let interval = match outcome.flows[leg].reason {
                EndReason::TimedOut(Timer::Idle) => config.idle_timeout,
                EndReason::TimedOut(Timer::HalfOpen) => config.half_open_timeout,
                EndReason::TimedOut(_)
                | EndReason::Eof
                | EndReason::CloseNotify
                | EndReason::SourceFailed(_)
                | EndReason::SinkFailed(_)
                | EndReason::Severed
                | EndReason::SetupFailed(..)
                | EndReason::Aborted => None,
            };
            let quiet = after.now.since(before.model.last_progress);
            demand_that(Rule::S8, interval.is_none_or(|interval| quiet >= interval), || {
                format!("timed out after {quiet:?} without progress, allowed are {interval:?}")
            })?;
        }
    }
    Ok(())
}

/// Whether anything is demanded on either leg.
#[must_use]
pub fn has_demand(world: &World) -> bool {
    Leg::BOTH.into_iter().any(|leg| world.session.demand(leg) != Demand::NONE)
}

/// Whether performing it is the answer to a demand.
const fn is_operation(input: Input) -> bool {
    match input {
        Input::Connected(_)
        | Input::Secured(_)
        | Input::Read(..)
        | Input::Eof(_)
        | Input::Wrote(..)
        | Input::ShutDown(_)
        | Input::Full(_)
        | Input::ReadFailed(..)
        | Input::WriteFailed(..) => true,
        Input::Stop(_) => false,
    }
}
