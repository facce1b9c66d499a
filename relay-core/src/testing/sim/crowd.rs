//! Many simulated connections behind one [`Gate`]: listeners of both kinds, a kernel with queues and
//! too few descriptors, backends that appear late, strangers who say nothing. Everybody who connects
//! is served in the end, within the limits, and the backends of one listener are dialed in the order
//! in which their fronts were accepted.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::num::NonZeroU64;
use core::time::Duration;
use std::format;
use std::string::String;

use super::super::rng::Rng;
use super::super::rules::{Rule, Violation, demand_that};
use super::conn::Conn;
use super::plan::{Faults, Plan, USUAL_DIAL_TIMEOUT, USUAL_SECURE_TIMEOUT, epoch, key_limit, limit};
use super::{Family, guarded};
use crate::admission::{Dialer, Gate, Limits, ListenerId, Order, Peers, Stranger, Ticket};
use crate::bandwidth::Bucket;
use crate::error::Failure;
use crate::leg::{Leg, PerLeg};
use crate::pool::Pool;
use crate::session::{EndReason, Stop, Timer};
use crate::time::Instant;

/// Rounds in which healing must be over, for each client.
const HEALING_ROUNDS: usize = 10_000;
/// Descriptors that a session takes: its front's and its backend's.
const EACH: usize = 2;
/// Of these, the ones that it has as soon as it is let in. Were it only the front's, a crowd of fronts
/// could take all that there are, and nobody would find one for a backend.
const AT_ACCEPT: usize = EACH;
/// The even ones are for those who are known, the odd ones for strangers.
const LISTENERS: usize = 3;

/// What one run is about. All of it follows from the seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CrowdPlan {
    /// Tells the whole story.
    pub seed: u64,
    /// Who connects, in all.
    pub clients: usize,
    /// How much is let in.
    pub limits: Limits,
    /// Descriptors that there are until healing.
    pub descriptors: usize,
    /// The operator drains.
    pub stops: bool,
    /// Most who come do not say enough to be known, and only few of them are let in at once.
    pub besieged: bool,
    /// Bytes a second that all of them together may send, if there is a limit.
    pub limit: Option<NonZeroU64>,
    /// And those of one listener, beside that.
    pub key_limit: Option<NonZeroU64>,
    /// What the clock shows at the beginning.
    pub epoch: Instant,
}

impl CrowdPlan {
    /// The plan that `seed` stands for.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut limits =
            Limits { sessions: 1 + rng.below(15), strangers: 1 + rng.below(5), per_turn: 1 + rng.below(4) };
        let (clients, mut descriptors, stops) = (1 + rng.below(24), 1 + rng.below(20), rng.chance(20));
        let besieged = rng.chance(25);
        if besieged {
            limits.sessions += 2;
            limits.strangers = 1 + rng.below(2);
            descriptors = EACH * limits.sessions;
        }
        let (limit, epoch) = (limit(seed, false), epoch(seed));
        let key_limit = key_limit(seed, false, limit);
        Self { seed, clients, limits, descriptors, stops, besieged, limit, key_limit, epoch }
    }
}

/// How a run went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CrowdSummary {
    /// Sessions that there were.
    pub served: usize,
    /// The most at once.
    pub most: usize,
    /// Simulated time.
    pub took: Duration,
}

struct Entry<C> {
    conn: Conn<C>,
    listener: usize,
    ticket: Ticket,
    dialer: Dialer,
    refusals: usize,
    /// Has not proved yet who it is, or had not when it was sent away.
    stranger: Option<Stranger>,
    /// Was sent away, having been here so long.
    evicted: Option<Duration>,
    since: Instant,
    /// Holds up nobody any more.
    left: bool,
    /// Waits for its turn: `None` before it is ready, then whether it has come.
    turn: Option<bool>,
    /// Descriptors.
    holds: usize,
}

type Buckets = (Arc<Bucket>, [Option<Arc<Bucket>>; LISTENERS]);

struct Crowd<'a, F: Family> {
    family: &'a mut F,
    plan: CrowdPlan,
    gate: Gate,
    /// For all, and for those of each listener: a node's limit for its sessions, and for those of one key.
    buckets: Option<Buckets>,
    /// Bytes that the sessions of each listener read which are over.
    counted: [u64; LISTENERS],
    orders: [Order; LISTENERS],
    /// Who became ready to be dialed, and when.
    ready: [Vec<(Ticket, Instant)>; LISTENERS],
    /// When the line last moved.
    moved: [Instant; LISTENERS],
    /// Those that accept(2) has not given us yet.
    queues: [VecDeque<Plan>; LISTENERS],
    entries: Vec<Entry<F::Codec>>,
    to_come: usize,
    descriptors: usize,
    held: usize,
    pool: Pool,
    rng: Rng,
    now: Instant,
    stopped: bool,
    healing: bool,
    summary: CrowdSummary,
}

/// Simulates a crowd.
///
/// # Errors
/// The rule that was broken, with the plan, which replays it.
pub fn crowd<F: Family>(family: &mut F, plan: CrowdPlan) -> Result<CrowdSummary, String> {
    let mut crowd = Crowd::new(family, plan);
    guarded(|| crowd.play()).map_err(|violation| {
        let at = (crowd.now, crowd.held, crowd.queues.each_ref().map(VecDeque::len));
        let entries: Vec<_> = crowd.entries.iter().map(|entry| entry.conn.describe()).collect();
        let entries = entries.join("\n  ");
        format!("{violation}\n  {plan:?}\n  {at:?}\n  {:?}\n  {:?}\n  {entries}", crowd.gate, crowd.orders)
    })
}

const fn peers(listener: usize) -> Peers {
    if listener.is_multiple_of(2) { Peers::Known } else { Peers::Strangers }
}

impl<'a, F: Family> Crowd<'a, F> {
    fn new(family: &'a mut F, plan: CrowdPlan) -> Self {
        let bucket = |rate| Arc::new(Bucket::new(rate, plan.epoch));
        let mut gate = Gate::new(plan.limits, plan.seed);
        for listener in 0..LISTENERS {
            gate.add(ListenerId(listener), peers(listener));
        }
        Self {
            family,
            plan,
            gate,
            buckets: plan
                .limit
                .map(|rate| (bucket(rate), [(); LISTENERS].map(|()| plan.key_limit.map(bucket)))),
            counted: [0; LISTENERS],
            orders: [(); LISTENERS].map(|()| Order::new(Order::WINDOW)),
            ready: Default::default(),
            moved: [plan.epoch; LISTENERS],
            queues: Default::default(),
            entries: Vec::new(),
            to_come: plan.clients,
            descriptors: plan.descriptors,
            held: 0,
            pool: Pool::default(),
            rng: Rng::new(plan.seed ^ 0xc0d),
            now: plan.epoch,
            stopped: false,
            healing: false,
            summary: CrowdSummary { served: 0, most: 0, took: Duration::ZERO },
        }
    }

    fn play(&mut self) -> Result<CrowdSummary, Violation> {
        for _ in 0..self.rng.below(60 * self.plan.clients) {
            self.disturb();
            self.round()?;
        }
        self.heal();
        let mut rounds = 0;
        while self.to_come > 0 || !self.entries.is_empty() || self.is_awaited() {
            rounds += 1;
            demand_that(Rule::L3, rounds < HEALING_ROUNDS * self.plan.clients, || {
                format!("{} sessions do not close, {} are to come", self.entries.len(), self.to_come)
            })?;
            self.round()?;
        }
        let (lent, held) = (self.pool.lent(), self.held);
        demand_that(Rule::S2, lent == 0, || format!("{lent} bytes of buffers not given back"))?;
        demand_that(Rule::A1, held == 0, || format!("{held} descriptors not given back"))?;
        let all = self.summary.served == self.plan.clients || self.stopped;
        demand_that(Rule::A2, all, || format!("served {}", self.summary.served))?;
        self.summary.took = self.now.since(self.plan.epoch);
        Ok(self.summary)
    }

    /// Somebody waits for accept(2), and not in vain.
    fn is_awaited(&self) -> bool {
        !self.stopped && self.queues.iter().any(|queue| !queue.is_empty())
    }

    fn heal(&mut self) {
        self.healing = true;
        // No more than one session needs: whoever is let in has to get through, one after the other.
        self.descriptors = EACH;
        for entry in &mut self.entries {
            entry.conn.heal();
            entry.refusals = 0;
        }
        for plan in self.queues.iter_mut().flatten() {
            plan.faults = Faults::default();
        }
    }

    fn disturb(&mut self) {
        for entry in &mut self.entries {
            entry.conn.disturb(&mut self.rng);
        }
        let rare = 40 * self.plan.clients;
        if self.plan.stops && !self.stopped && self.rng.below(rare) == 0 {
            self.stopped = true;
            self.gate.stop();
            let stop = Stop::Drain { until: self.now + Duration::from_secs(self.rng.next() % 60) };
            for entry in &mut self.entries {
                entry.conn.stop(stop, self.now);
                entry.dialer.drain();
                if let Some(failure) = entry.dialer.given_up() {
                    entry.conn.unreachable(failure, self.now);
                }
            }
        }
        if self.rng.below(rare) == 0 {
            self.descriptors = 1 + self.rng.below(2 * self.plan.descriptors);
        }
    }

    fn round(&mut self) -> Result<(), Violation> {
        let mut active = self.arrive();
        active |= self.accept()?;
        let mut at = 0;
        while at < self.entries.len() {
            active |= self.turn_of(at)?;
            if self.entries[at].conn.outcome().is_some() {
                self.close(at)?;
                active = true;
            } else {
                at += 1;
            }
        }
        for listener in 0..LISTENERS {
            active |= self.dial(listener)?;
        }
        self.check()?;
        let runnable = self.entries.iter().any(|entry| entry.conn.runnable || entry.conn.has_edges());
        let over = self.to_come == 0 && self.entries.is_empty() && !self.is_awaited();
        if active || runnable || over || self.gate.is_owing() {
            return Ok(());
        }
        self.pass_time()
    }

    /// Somebody connects: an edge for each that joins a queue, as epoll gives.
    fn arrive(&mut self) -> bool {
        if self.to_come == 0 || self.rng.chance(70) {
            return self.to_come > 0;
        }
        self.to_come -= 1;
        let listener = self.rng.below(LISTENERS);
        let mut plan = Plan::new(self.rng.next());
        plan.secure.front = peers(listener) == Peers::Strangers;
        plan.most = plan.most.min(700);
        plan.bytes = PerLeg::new(plan.bytes.front % 300, plan.bytes.back % 300);
        (plan.faults.late, plan.limit, plan.key_limit) = (false, None, None);
        // Whoever is let in gets through: nobody waits for a turn that comes too late.
        (plan.dial_timeout, plan.secure_timeout) = (Some(USUAL_DIAL_TIMEOUT), Some(USUAL_SECURE_TIMEOUT));
        if self.healing {
            plan.faults = Faults::default();
        }
        self.queues[listener].push_back(plan);
        self.gate.readable(ListenerId(listener));
        true
    }

    fn accept(&mut self) -> Result<bool, Violation> {
        self.gate.begin_turn();
        let mut accepts = 0;
        while let Some(id) = self.gate.wants_accept() {
            demand_that(Rule::A3, !self.stopped, || format!("{id:?} is to accept after a stop"))?;
            accepts += 1;
            let most = self.plan.limits.per_turn + 2 * LISTENERS;
            demand_that(Rule::A1, accepts <= most, || format!("accept(2) {accepts} times in a turn"))?;
            if self.queues[id.0].is_empty() {
                self.gate.drained(id);
            } else if self.held + AT_ACCEPT > self.descriptors {
                self.gate.exhausted(self.now);
            } else if !self.healing && self.rng.chance(3) {
                self.gate.skipped(id); // ECONNABORTED: the next one is as good
            } else if let Some(plan) = self.queues[id.0].pop_front() {
                let stranger = self.gate.accepted(self.now, id);
                self.admit(id.0, plan, stranger);
            }
        }
        Ok(accepts > 0 || self.evict()?)
    }

    /// Whoever is to make room is sent away.
    fn evict(&mut self) -> Result<bool, Violation> {
        let Some(stranger) = self.gate.wants_evicted(self.now) else { return Ok(false) };
        self.gate.evicted(stranger);
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.stranger == Some(stranger)) else {
            return Err(Violation { rule: Rule::A5, detail: format!("{stranger:?} is nobody's") });
        };
        let age = self.now.since(entry.since);
        let fair = if entry.conn.net.wires[Leg::Front].heard { Gate::PATIENCE } else { Gate::SILENCE };
        demand_that(Rule::A5, age >= fair, || format!("{stranger:?} is sent away after {age:?}"))?;
        entry.evicted = Some(age);
        entry.conn.evict(self.now);
        Ok(true)
    }

    fn admit(&mut self, listener: usize, plan: Plan, stranger: Option<Stranger>) {
        let mut conn = Conn::new(self.family, plan, &mut self.rng, self.now);
        if let Some((all, keys)) = &self.buckets {
            conn.share([Some(all), keys[listener].as_ref()].into_iter().flatten().cloned(), self.now);
        }
        let taciturn = if self.plan.besieged { 40 } else { 15 };
        if !self.healing && self.rng.chance(taciturn) {
            conn.silence(Leg::Front);
        } else if !self.healing && self.rng.chance(taciturn) {
            conn.falter(Leg::Front);
        }
        let ticket = self.orders[listener].accepted();
        if stranger.is_none() {
            self.orders[listener].ready(self.now, ticket);
            self.ready[listener].push((ticket, self.now));
        }
        self.held += AT_ACCEPT;
        self.summary.served += 1;
        self.entries.push(Entry {
            conn,
            listener,
            ticket,
            dialer: Dialer::new(1, plan.config().dial_timeout, self.rng.next()),
            refusals: if plan.faults.dial { self.rng.below(6) } else { 0 },
            stranger,
            evicted: None,
            since: self.now,
            left: false,
            turn: None,
            holds: AT_ACCEPT,
        });
        self.summary.most = self.summary.most.max(self.entries.len());
    }

    fn turn_of(&mut self, at: usize) -> Result<bool, Violation> {
        let entry = &mut self.entries[at];
        let active = entry.conn.turn(&mut self.pool, &mut self.rng, self.now)?;
        if let Some(stranger) = entry.stranger
            && entry.conn.relay.has_heard(Leg::Front)
        {
            self.gate.spoke(stranger);
        }
        if let Some(stranger) = entry.stranger
            && entry.conn.relay.session().is_up(Leg::Front)
        {
            entry.stranger = None;
            self.gate.authenticated(stranger);
            self.orders[entry.listener].ready(self.now, entry.ticket);
            self.ready[entry.listener].push((entry.ticket, self.now));
        }
        let entry = &mut self.entries[at];
        if entry.turn.is_none() && entry.conn.relay.wants_connect() {
            entry.turn = Some(false);
            entry.conn.queued(self.now);
        }
        Ok(active)
    }

    fn close(&mut self, at: usize) -> Result<(), Violation> {
        let mut entry = self.entries.remove(at);
        self.gate.closed(entry.stranger);
        self.orders[entry.listener].left(entry.ticket);
        self.held -= entry.holds;
        let late = entry.conn.outcome().map(|outcome| outcome.flows.front.reason);
        let patience = self.now.since(self.moved[entry.listener]);
        let timeout = entry.conn.relay.session().config().dial_timeout;
        let impatient = late == Some(EndReason::TimedOut(Timer::Dial)) && Some(patience) < timeout;
        demand_that(Rule::O3, !impatient, || {
            format!("gave up {patience:?} after one before it was connected")
        })?;
        let starved = entry.dialer.last_failure() == Some(Failure::Exhausted);
        demand_that(Rule::A2, late != Some(EndReason::TimedOut(Timer::Dial)) || !starved, || {
            "let in, and no descriptor for its backend in time".into()
        })?;
        entry.conn.judge(&mut self.pool)?;
        self.counted[entry.listener] += entry.conn.counted();
        Ok(())
    }

    fn dial(&mut self, listener: usize) -> Result<bool, Violation> {
        let order = &mut self.orders[listener];
        if order.next_timeout().is_some_and(|at| at <= self.now) {
            order.handle_timeout(self.now);
            demand_that(Rule::O2, order.turn().is_some(), || {
                format!("listener {listener}: the window is over and nobody may be dialed")
            })?;
        }
        let Some(ticket) = order.turn() else { return Ok(false) };
        self.check_turn(listener, ticket)?;
        let Some(entry) = self.entries.iter_mut().find(|e| e.listener == listener && e.ticket == ticket)
        else {
            return Err(Violation { rule: Rule::O1, detail: format!("{ticket:?} is nobody's") });
        };
        if entry.dialer.wants_dial().is_none() || entry.conn.outcome().is_some() {
            return Ok(false);
        }
        demand_that(Rule::S7, entry.conn.relay.wants_connect(), || {
            format!("{ticket:?} may be dialed, but not by its session")
        })?;
        if entry.turn == Some(false) {
            let since = self.orders[listener].since(ticket).unwrap_or_default();
            entry.turn = Some(true);
            entry.conn.take_turn(since, self.now);
        }
        entry.dialer.started(self.now);
        let missing = EACH - entry.holds;
        if missing > 0 && self.held + missing > self.descriptors {
            self.gate.exhausted(self.now);
            entry.dialer.failed(self.now, Failure::Exhausted);
        } else if entry.refusals > 0 {
            entry.refusals -= 1;
            let reasons = [Failure::NotFound, Failure::Refused, Failure::Busy];
            entry.dialer.failed(self.now, reasons[self.rng.below(reasons.len())]);
        } else {
            entry.conn.connect(self.family, &mut self.rng, self.now);
            self.orders[listener].connected(self.now, ticket);
            self.moved[listener] = self.now;
            (entry.left, entry.holds) = (true, EACH);
            self.held += missing;
        }
        let given_up = entry.dialer.given_up();
        demand_that(Rule::D1, given_up.is_none() || self.stopped, || {
            format!("gave up although {given_up:?} will pass")
        })?;
        if let Some(failure) = given_up {
            entry.conn.unreachable(failure, self.now);
        }
        Ok(true)
    }

    /// O1: everybody who was accepted earlier is dialed already, gone, or was waited for.
    fn check_turn(&self, listener: usize, ticket: Ticket) -> Result<(), Violation> {
        let ready = &self.ready[listener];
        for entry in &self.entries {
            let before = entry.listener == listener && entry.ticket < ticket && !entry.left;
            let is_ready = ready.iter().any(|(who, _)| *who == entry.ticket);
            let waited =
                |(who, at): &(Ticket, Instant)| *who > entry.ticket && self.now.since(*at) >= Order::WINDOW;
            demand_that(Rule::O1, !before || (!is_ready && ready.iter().any(waited)), || {
                format!("listener {listener}: {ticket:?} is dialed before {:?}", entry.ticket)
            })?;
        }
        Ok(())
    }

    /// B1 for all of them together, and for those of each listener.
    fn check_rates(&self) -> Result<(), Violation> {
        let Some((all, keys)) = &self.buckets else { return Ok(()) };
        let mut counted = self.counted;
        for entry in &self.entries {
            counted[entry.listener] += entry.conn.counted();
        }
        let keys = keys.iter().zip(counted).filter_map(|(key, counted)| Some((key.as_ref()?, counted)));
        for (bucket, counted) in keys.chain([(all, counted.iter().sum())]) {
            let time = self.now.since(self.plan.epoch).as_nanos() * u128::from(bucket.rate().get());
            let most = time / 1_000_000_000 + u128::from(bucket.burst());
            demand_that(Rule::B1, u128::from(counted) <= most, || {
                format!("{counted} bytes read by {:?}, {most} are allowed", self.now)
            })?;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Violation> {
        self.check_rates()?;
        let (sessions, limits) = (self.entries.len(), self.plan.limits);
        let strangers =
            self.entries.iter().filter(|entry| entry.stranger.is_some() && entry.evicted.is_none()).count();
        demand_that(Rule::A1, sessions <= limits.sessions && strangers <= limits.strangers, || {
            format!("{sessions} sessions, {strangers} of strangers")
        })?;
        let counted = (self.gate.sessions(), self.gate.strangers());
        demand_that(Rule::A1, counted == (sessions, strangers), || format!("counts {counted:?}"))?;
        for listener in 0..LISTENERS {
            let late = self.entries.iter().any(|entry| {
                let waits = |(who, at): &(Ticket, Instant)| {
                    *who == entry.ticket && self.now.since(*at) >= Order::WINDOW
                };
                entry.listener == listener && !entry.left && self.ready[listener].iter().any(waits)
            });
            let order = &self.orders[listener];
            let soon = order.turn().is_some() || order.next_timeout().is_some_and(|at| at <= self.now);
            demand_that(Rule::O2, !late || soon, || {
                format!("listener {listener}: somebody waits longer than the window")
            })?;
        }
        Ok(())
    }

    /// Nothing can happen before the next timer: exactly there goes the clock.
    fn pass_time(&mut self) -> Result<(), Violation> {
        let chance = if self.healing { 100 } else { 50 };
        if self.rng.chance(chance) && self.wake() {
            return Ok(());
        }
        let mut timers: Vec<Instant> = self.gate.next_timeout().into_iter().collect();
        timers.extend(self.orders.iter().filter_map(Order::next_timeout));
        for entry in &self.entries {
            timers.extend(entry.conn.next_timeout());
            let is_first = self.orders[entry.listener].turn() == Some(entry.ticket);
            timers.extend(entry.dialer.next_timeout().filter(|_| is_first));
        }
        let Some(at) = timers.into_iter().min() else {
            let rule = if self.entries.is_empty() { Rule::A2 } else { Rule::L1 };
            let woken = self.wake();
            return demand_that(rule, woken, || "nothing can happen and no timer runs".into());
        };
        self.now = self.now.max(at);
        self.gate.handle_timeout(self.now);
        for entry in &mut self.entries {
            entry.dialer.handle_timeout(self.now);
            if entry.conn.next_timeout().is_some_and(|at| at <= self.now) {
                entry.conn.on_time(self.now)?;
            }
        }
        for order in &mut self.orders {
            order.handle_timeout(self.now);
        }
        Ok(())
    }

    fn wake(&mut self) -> bool {
        let mut woken = false;
        for entry in &mut self.entries {
            woken |= entry.conn.wake_peers() || entry.conn.lose_patience();
        }
        woken
    }
}
