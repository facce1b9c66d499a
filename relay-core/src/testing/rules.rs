//! The invariants, each a named checker over one step of a [`World`].

use core::fmt;
use core::time::Duration;
use std::format;
use std::string::String;

use super::model::Model;
use super::world::{Action, World};
use crate::error::Failure;
use crate::flow::Phase;
use crate::leg::Leg;
use crate::session::{Close, Demand, Distrust, EndReason, Input, Outcome, Stop, Timer};
use crate::time::Instant;

/// A rule's name. S is safety of a session, L its liveness, B its bandwidth, P its pipes, C its
/// courtesy; A is accepting, O the order of dialing,
/// D one dial, G a socket's last moments.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Rule {
    /// What was delivered is a prefix of what was sent, and all of it when the flow ended well.
    S1,
    /// Never more buffered than the capacity, which is one record at least where records are read.
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
    /// The next timer is the formula's, and it alone ends something, then and not before: idle and half-open never within
    /// their interval of the last progress, a drain by its deadline. Time never runs back.
    S8,
    /// A peer that is trusted no longer ends what is open at once, in both directions, with a reason that says
    /// whose peer it was.
    S9,
    /// Each direction's reason is what went wrong with it first, or its own good end.
    S10,
    /// Not closed: there is a demand or a timer.
    L1,
    /// A demanded operation changes the state, and no sequence of them leads back.
    L2,
    /// Once the peers make progress the relay closes within a bound.
    L3,
    /// A closed state can be reached from everywhere.
    L4,
    /// In the pump: no wake-up is lost and none is for nothing; a turn keeps to its budget.
    L5,
    /// Nobody is waited for who was told nothing: once a leg cannot be written to for a reason that its peer
    /// does not know, nothing more is read from it either.
    L6,
    /// Never more is read than the rate allows, and a burst.
    B1,
    /// Whom a limit has wait waits for a time that comes; nobody else does.
    B2,
    /// Of those who want more than there is each gets its share.
    B3,
    /// A flow asks for a pipe as soon as its reads are offered as many bytes as pipes are for, and not before.
    P1,
    /// Nothing that a peer does makes the relay panic.
    C1,
    /// A peer that is not accepted, or that sends what nobody can open, is told so by an alert, if its
    /// connection takes it.
    C2,
    /// Never more sessions or strangers than allowed, never more accepts in a turn, but of those who wait at a
    /// listener that goes.
    A1,
    /// Whom a readiness edge announced is accepted from as soon as nothing forbids it, without
    /// another edge; while something temporary forbids it, there is a timer or a session to end.
    A2,
    /// What forbids accepting is what the formula says: stop, want of descriptors, limits with
    /// hysteresis.
    A3,
    /// Listeners take turns: none is passed over more often than each other one of its kind has a
    /// turn and as many of the other kind (of three, three times).
    A4,
    /// At the cap on strangers the oldest makes room for one who waits, those who said nothing first,
    /// and none before its fair time is over.
    A5,
    /// Whoever is first in line is dialed, and nobody else; no silent one before it is overtaken
    /// early.
    O1,
    /// Nobody who is ready waits longer than the window for silent ones.
    O2,
    /// If anybody is ready, somebody may be dialed or a timer runs; and the dial clock of one who
    /// waits in line begins when it became ready, or anew whenever the line moves.
    O3,
    /// A dial goes on, address after address, for as long as one of them may be there in a moment;
    /// it ends as soon as none may.
    D1,
    /// Pauses between dials lie between half of their bound and all of it; the bound doubles up to
    /// the last one's and is a first one's again when the reason changes.
    D2,
    /// A closed session's socket is kept while its peer still takes what is in it, and neither
    /// longer than a stall or the bound, nor shorter.
    G1,
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
    check_reasons(&after.model, after.session.outcome())?;
    check_distrust(before, action, after)?;
    check_unnoticed(action, after)?;
    check_order(before, action)?;
    check_timers(before, action, after)?;
    check_demand(after)?;
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
        let (capacity, demand) = (after.session.config().capacity[leg], after.session.demand(leg));
        let most = if facts.sink_failed { demand.read } else { buffered + demand.read };
        demand_that(Rule::S2, buffered <= capacity && most <= capacity, || {
            format!("{leg}: {buffered} bytes buffered, then {demand:?}")
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
    if after.is_closed() && !before.is_closed() {
        for input in EVERY_INPUT {
            let mut later = after.session.clone();
            later.handle(after.now, input);
            later.handle_timeout(after.now + Duration::from_secs(3600));
            demand_that(Rule::S4, later == after.session, || format!("{input:?} after the end"))?;
        }
    }
    Ok(())
}

/// One of each kind, for a session that must ignore them all.
const EVERY_INPUT: [Input; 16] = [
    Input::Connected(Leg::Back),
    Input::Queued,
    Input::Turn(Instant::ZERO),
    Input::Secured(Leg::Front),
    Input::Read(Leg::Front, 1),
    Input::Eof(Leg::Back),
    Input::Wrote(Leg::Front, 1),
    Input::ShutDown(Leg::Back),
    Input::Full(Leg::Front),
    Input::Held,
    Input::Released,
    Input::ReadFailed(Leg::Front, Failure::Reset),
    Input::WriteFailed(Leg::Back, Failure::Reset),
    Input::Stop(Stop::Abort),
    Input::Stop(Stop::Drain { until: Instant::ZERO }),
    Input::Distrusted(Leg::Front, Distrust::Revoked),
];

fn check_distrust(before: &World, action: Action, after: &World) -> Result<(), Violation> {
    let Action::Do(Input::Distrusted(leg, why)) = action else { return Ok(()) };
    let expected = EndReason::Distrusted(leg, why);
    for flow in Leg::BOTH {
        // one that was over has its own end
        let is_over = before.session.phase(flow).is_final();
        let reason = after.session.outcome().map(|outcome| outcome.flows[flow].reason);
        let named = reason.is_some_and(|reason| is_over || reason == expected || !is_first(before, flow));
        demand_that(Rule::S9, named, || format!("{flow}: {expected} ends it as {reason:?}"))?;
    }
    let moved = before.session.stats() != after.session.stats();
    demand_that(Rule::S9, !moved, || "bytes were counted for a peer that is trusted no longer".into())
}

/// Whether nothing has gone wrong with a flow so far, so that what does now is the reason of its end.
fn is_first(before: &World, flow: Leg) -> bool {
    matches!(before.session.phase(flow), Phase::Open | Phase::Ended)
}

fn check_unnoticed(action: Action, after: &World) -> Result<(), Violation> {
    let Action::Do(Input::WriteFailed(leg, Failure::Exhausted)) = action else { return Ok(()) };
    let reads = after.session.demand(leg).read > 0 || after.session.phase(leg) == Phase::Open;
    demand_that(Rule::L6, !reads, || format!("{leg} is waited for: {:?}", after.session.phase(leg)))
}

/// S10.
///
/// # Errors
/// If it is broken.
pub fn check_reasons(model: &Model, outcome: Option<&Outcome>) -> Result<(), Violation> {
    let Some(outcome) = outcome else { return Ok(()) };
    for leg in Leg::BOTH {
        let (is, ought) = (outcome.flows[leg].reason, model.flows[leg].why);
        demand_that(Rule::S10, Some(is) == ought, || {
            format!("{leg}: ended as {is:?}, by the facts {ought:?}")
        })?;
    }
    Ok(())
}

fn check_resets(after: &World) -> Result<(), Violation> {
    let Some(outcome) = after.session.outcome() else { return Ok(()) };
    for leg in Leg::BOTH {
        let expected = if !after.model.is_up(leg) || after.model.flows[leg.other()].is_complete() {
            Close::Orderly
        } else if after.model.dead[leg] {
            Close::Dead
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
    demand_that(Rule::S6, after.is_closed() == after.model.is_closed(), || {
        format!("closed: {}, by the formula {}", after.is_closed(), after.model.is_closed())
    })?;
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
    let (is, ought) = (after.session.next_timeout(), after.model.next_timeout());
    demand_that(Rule::S8, is == ought, || format!("the next timer is {is:?}, by the formula {ought:?}"))?;
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
                | EndReason::Distrusted(..)
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
        Input::Held
        | Input::Released
        | Input::Queued
        | Input::Turn(_)
        | Input::Stop(_)
        | Input::Distrusted(..) => false,
    }
}
