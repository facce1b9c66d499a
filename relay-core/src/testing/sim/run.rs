//! One simulated connection from accept to close, with a clock.

use core::time::Duration;
use std::format;
use std::string::String;

use super::super::rng::Rng;
use super::super::rules::{Rule, Violation, demand_that};
use super::Family;
use super::batch::words;
use super::conn::Conn;
use super::plan::Plan;
use crate::admission::Dialer;
use crate::bandwidth::Bucket;
use crate::error::Failure;
use crate::leg::Leg;
use crate::pool::Pool;
use crate::session::{EndReason, Outcome, Stop};
use crate::time::Instant;

/// Healing must be over after so many rounds, and so many more for each byte that is sent: in the
/// worst plans a record of four bytes crosses a pipe of three.
const HEALING_ROUNDS: u64 = 10_000;
const HEALING_ROUNDS_PER_BYTE: u64 = 20;

/// How long the kernel goes on with a dial that nobody answers (tcp(7), `tcp_syn_retries`), about.
const KERNEL_PATIENCE: Duration = Duration::from_secs(130);

/// How a run went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary {
    /// The session's result.
    pub outcome: Outcome,
    /// Calls of the transport.
    pub calls: u64,
    /// Simulated time.
    pub took: Duration,
}

pub(super) struct Sim<'a, F: Family> {
    family: &'a mut F,
    plan: Plan,
    pub(super) conn: Conn<F::Codec>,
    dialer: Dialer,
    /// Dials that are refused before one is not.
    refusals: usize,
    /// Dials that nobody answers before one is.
    holes: usize,
    pub(super) pool: Pool,
    pub(super) rng: Rng,
    pub(super) now: Instant,
    stops: u8,
    draining: bool,
    /// How long a piece of an upload takes that nobody takes, about.
    pace_millis: u64,
    /// For what was thought of later: what the other seeds tell stays as it is.
    asides: Rng,
}

/// Simulates one connection.
///
/// # Errors
/// The rule that was broken, with the plan, which replays it.
pub fn run<F: Family>(family: &mut F, plan: Plan) -> Result<Summary, String> {
    let mut sim = Sim::new(family, plan);
    guarded(|| sim.play()).map_err(|violation| format!("{violation}\n  {}", sim.conn.describe()))
}

/// Tells the story of `plan` by two clocks of which one shows a century more: only they may know the difference.
///
/// # Errors
/// As [`run`], and S8 if the stories differ.
pub fn run_at_any_time<F: Family>(family: &mut F, plan: Plan) -> Result<(), String> {
    // Before that a bucket has no unused time to make up for.
    let early = Instant::ZERO + Bucket::BURST;
    let late = early + Duration::from_secs(100 * 365 * 86_400);
    let mut told = |epoch| run(family, Plan { epoch, ..plan });
    let (first, second) = (told(early)?, told(late)?);
    let story = || format!("told as {first:?}, and at {late:?} as {second:?}");
    demand_that(Rule::S8, first == second, story).map_err(|violation| format!("{violation}\n  {plan:?}"))
}

/// A codec whose keys are used up can't be helped by anybody.
const fn is_of_worn_keys(reason: EndReason) -> bool {
    matches!(
        reason,
        EndReason::SourceFailed(Failure::KeyExhausted) | EndReason::SinkFailed(Failure::KeyExhausted)
    )
}

/// Runs `play`; a panic in it breaks C1, unless it names its rule itself.
pub(super) fn guarded<T>(play: impl FnOnce() -> Result<T, Violation>) -> Result<T, Violation> {
    // What is left behind is only described, and then thrown away.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(play))
        .unwrap_or_else(|panic| Err(Violation { rule: Rule::C1, detail: words(panic.as_ref()) }))
}

impl<'a, F: Family> Sim<'a, F> {
    pub(super) fn new(family: &'a mut F, plan: Plan) -> Self {
        let mut rng = Rng::new(plan.seed ^ 0x5eed);
        let now = plan.epoch;
        let conn = Conn::new(family, plan, &mut rng, now);
        let mut asides = Rng::new(plan.seed ^ 0xa51de);
        Self {
            family,
            plan,
            conn,
            dialer: Dialer::new(1 + rng.below(3), plan.config().dial_timeout, rng.next()),
            holes: if plan.faults.dial { rng.below(4) } else { 0 },
            refusals: if plan.faults.dial { rng.below(20) } else { 0 },
            pool: Pool::default(),
            rng,
            now,
            stops: 0,
            draining: false,
            pace_millis: 1 << asides.below(9),
            asides,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.conn.outcome().is_none()
    }

    fn play(&mut self) -> Result<Summary, Violation> {
        for _ in 0..self.plan.chaos {
            if !self.is_open() {
                break;
            }
            self.disturb()?;
            self.round()?;
        }
        self.heal();
        let summary = self.finish()?;
        let flows = summary.outcome.flows;
        let is_worn = Leg::BOTH.into_iter().any(|leg| is_of_worn_keys(flows[leg].reason));
        demand_that(
            Rule::L3,
            summary.outcome.is_clean() || is_worn || !self.plan.faults.are_harmless(),
            || format!("nothing went wrong, and yet it ended as {flows:?}"),
        )?;
        Ok(summary)
    }

    /// Without more trouble it must end by itself.
    pub(super) fn finish(&mut self) -> Result<Summary, Violation> {
        let bytes = self.plan.bytes.front + self.plan.bytes.back;
        let bound = HEALING_ROUNDS + HEALING_ROUNDS_PER_BYTE * bytes;
        let mut rounds = 0;
        while self.is_open() {
            rounds += 1;
            demand_that(Rule::L3, rounds < bound, || {
                "the peers make progress, the relay does not close".into()
            })?;
            self.round()?;
        }
        self.judge()
    }

    fn disturb(&mut self) -> Result<(), Violation> {
        self.conn.disturb(&mut self.rng);
        let faults = self.plan.faults;
        if faults.stop && self.stops < 3 && self.rng.below(self.plan.calm) == 0 {
            self.stops += 1;
            let until = self.now + Duration::from_secs(self.rng.next() % 100);
            let stop = if self.rng.chance(30) { Stop::Abort } else { Stop::Drain { until } };
            self.stop(stop);
        } else if faults.stop && self.stops < 3 && self.conn.relay.wants_connect() && self.asides.chance(15) {
            // Back is being dialed, or waited for.
            self.stops += 1;
            let until = self.now + Duration::from_millis(1 << self.asides.below(18));
            self.stop(Stop::Drain { until });
        }
        if faults.distrust && self.rng.below(self.plan.calm) == 0 {
            let leg = if self.rng.chance(50) { Leg::Front } else { Leg::Back };
            self.conn.distrust(leg, self.now)?;
        }
        if faults.late && self.rng.chance(2) {
            self.now = self.now + Duration::from_millis(self.rng.next() % 3000);
            self.dialer.handle_timeout(self.now);
            self.conn.on_time(self.now)?;
            self.give_up_the_dial();
        }
        Ok(())
    }

    /// The operator's wish.
    pub(super) fn stop(&mut self, stop: Stop) {
        self.conn.stop(stop, self.now);
        self.dialer.drain();
        self.draining = true;
        self.give_up_the_dial();
    }

    /// Tells the session if there is no sense in dialing any longer.
    fn give_up_the_dial(&mut self) {
        if let Some(failure) = self.dialer.given_up()
            && self.conn.relay.wants_connect()
        {
            self.conn.unreachable(failure, self.now);
        }
    }

    pub(super) fn heal(&mut self) {
        self.conn.heal();
        (self.refusals, self.holes) = (0, 0);
    }

    /// Everybody gets a chance; if nobody can do anything, time passes.
    pub(super) fn round(&mut self) -> Result<(), Violation> {
        let mut active = self.conn.turn(&mut self.pool, &mut self.rng, self.now)?;
        active |= self.dial();
        self.check_dial()?;
        let idle = self.is_open() && !self.conn.runnable && self.conn.relay.held() == 0;
        demand_that(Rule::S2, !idle || self.pool.lent() == 0, || {
            format!("{} bytes of buffers are kept for nothing", self.pool.lent())
        })?;
        if !active && self.is_open() && !self.conn.runnable && !self.conn.has_edges() {
            self.pass_time()?;
        }
        // An upload that nobody takes, and that knows no end, takes its time: it is for the relay to end it.
        if self.plan.faults.flood && self.is_open() && self.conn.flood() {
            let most = if self.conn.relay.session().is_held() { 10_000 } else { self.pace_millis };
            self.now = self.now + Duration::from_millis(1 + self.asides.next() % most);
            self.conn.on_time(self.now)?;
        }
        Ok(())
    }

    pub(super) fn dial(&mut self) -> bool {
        if self.dialer.trying().is_some() && self.conn.relay.wants_connect() {
            let answered = self.holes == 0;
            if answered {
                self.conn.connect(self.family, &mut self.rng, self.now);
            }
            return answered;
        }
        if !self.may_dial() {
            return false;
        }
        if self.rng.chance(50) {
            return true; // not yet
        }
        self.dialer.started(self.now);
        if self.holes > 0 && self.rng.chance(50) {
            return true;
        }
        if self.refusals == 0 {
            self.conn.connect(self.family, &mut self.rng, self.now);
            return true;
        }
        self.refusals -= 1;
        let reasons = [Failure::Refused, Failure::NotFound, Failure::Busy, Failure::Unreachable];
        let reason = reasons[self.rng.below(reasons.len())];
        self.refuse(reason);
        true
    }

    /// A dial fails.
    pub(super) fn refuse(&mut self, failure: Failure) {
        self.dialer.failed(self.now, failure);
        self.give_up_the_dial();
    }

    /// Whom nobody waits for while draining, and who is dialed.
    fn check_dial(&self) -> Result<(), Violation> {
        let wanted = self.conn.relay.wants_connect();
        let dialed = self.dialer.wants_dial().is_some() || self.dialer.trying().is_some();
        demand_that(Rule::D1, !wanted || !self.draining || dialed, || {
            format!("draining, and a backend that is not there is waited for: {:?}", self.dialer)
        })
    }

    /// A dial may be begun now.
    pub(super) fn may_dial(&self) -> bool {
        self.conn.relay.wants_connect() && self.dialer.wants_dial().is_some()
    }

    /// Nothing can happen before the next timer: exactly there goes the clock. Peers that sleep are
    /// woken instead, or not: then the timer fires for a reason.
    fn pass_time(&mut self) -> Result<(), Violation> {
        if self.rng.chance(80) && self.conn.wake_peers() {
            return Ok(());
        }
        let redial = self.dialer.next_timeout().filter(|_| self.conn.relay.wants_connect());
        let timeout = self.conn.next_timeout();
        let Some(at) = redial.into_iter().chain(timeout).min() else {
            let woken = self.conn.wake_peers() || self.conn.lose_patience() || self.lose_the_dial();
            return demand_that(Rule::L1, woken, || "nothing can happen and no timer runs".into());
        };
        self.now = self.now.max(at);
        let tried = self.dialer.trying();
        self.dialer.handle_timeout(self.now);
        self.holes -= usize::from(tried.is_some() && self.dialer.trying().is_none() && self.holes > 0);
        demand_that(Rule::D1, redial != Some(at) || self.dialer.next_timeout() != Some(at), || {
            format!("the pause before the next dial, or the try, is over: {:?}", self.dialer)
        })?;
        self.conn.on_time(self.now)?;
        self.give_up_the_dial();
        Ok(())
    }

    /// The kernel gives up a dial that nobody answers, if nobody else does; whether there was one.
    fn lose_the_dial(&mut self) -> bool {
        let hangs = self.dialer.trying().is_some() && self.conn.relay.wants_connect();
        if hangs {
            self.now = self.now + KERNEL_PATIENCE;
            self.holes = self.holes.saturating_sub(1);
            self.refuse(Failure::TimedOut);
        }
        hangs
    }

    fn judge(&mut self) -> Result<Summary, Violation> {
        let outcome = self.conn.judge(&mut self.pool)?;
        let lent = self.pool.lent();
        demand_that(Rule::S2, lent == 0, || format!("{lent} bytes of buffers not given back"))?;
        let gave_up = self.dialer.given_up();
        for leg in Leg::BOTH {
            if let EndReason::SetupFailed(Leg::Back, failure) = outcome.flows[leg].reason
                && self.conn.relay.codec(Leg::Back).is_none()
            {
                demand_that(Rule::D1, gave_up == Some(failure), || {
                    format!("the dial ended with {failure}: {:?}", self.dialer)
                })?;
            }
        }
        Ok(Summary { outcome, calls: self.conn.net.calls, took: self.now.since(self.plan.epoch) })
    }
}
