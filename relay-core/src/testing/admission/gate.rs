//! A gate, what is known about it, and everything that can happen at it.

use std::vec::Vec;
use std::{format, vec};

use super::super::rules::{Rule, Violation, demand_that};
use super::{Mutant, Scene};
use crate::admission::{Gate, Limits, ListenerId, Peers, Stranger};
use crate::time::Instant;

/// What can happen at a gate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AtGate {
    /// A readiness edge.
    Readable(usize),
    /// The next turn begins.
    Turn,
    /// Whoever's turn it is has a connection.
    Accept,
    /// This listener, which is about to be closed, has one.
    AcceptLast(usize),
    /// It had one that is gone already.
    Skip,
    /// It has none any more.
    Drain,
    /// There is no descriptor for it.
    Exhaust,
    /// A stranger says something.
    Speak,
    /// A stranger proves who it is.
    Authenticate,
    /// A stranger makes room.
    Evict,
    /// A session that is a stranger's (or is not) ends.
    Close(bool),
    /// Time passes until the timer.
    Expire,
    /// The operator says stop.
    Stop,
}

/// A stranger.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Guest {
    stranger: Stranger,
    since: Instant,
    spoke: bool,
}

/// A gate and what is known about it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct GateScene {
    gate: Gate,
    mutant: Mutant,
    now: Instant,
    sessions: usize,
    strangers: Vec<Guest>,
    /// Sent away, and not closed yet.
    evicted: Vec<Stranger>,
    /// Since the limit was reached, 90 % of it was not.
    full: bool,
    exhausted: bool,
    stopped: bool,
    /// By listener, of which the last one is for strangers.
    owed: [bool; 3],
    /// Accepts that others got since it is owed one and could have had it.
    passed_over: [u8; 3],
    in_turn: usize,
    accepts_left: u8,
    exhaustions_left: u8,
    /// Nobody leaves and nobody says stop.
    calm: bool,
    /// All who come are strangers, and time passes until one has to make room.
    crowded: bool,
}

/// The smallest limit of which 90 % is more than one below it.
const LIMITS: Limits = Limits { sessions: 11, strangers: 2, per_turn: 2 };
/// Sessions that are open from the beginning.
const OPEN: usize = 8;

impl GateScene {
    /// Three listeners, limits of eleven sessions and two strangers, two accepts per turn, and
    /// eight sessions open already.
    #[must_use]
    pub fn new(mutant: Mutant) -> Self {
        let mut gate = Gate::new(LIMITS, 1);
        for listener in 0..3 {
            gate.add(ListenerId(listener), Self::peers(listener));
        }
        gate.readable(ListenerId(0));
        for _ in 0..OPEN {
            gate.begin_turn();
            gate.accepted(Instant::ZERO, ListenerId(0));
        }
        gate.begin_turn();
        gate.drained(ListenerId(0));
        Self {
            gate,
            mutant,
            now: Instant::ZERO,
            sessions: OPEN,
            strangers: vec![],
            evicted: vec![],
            full: false,
            exhausted: false,
            stopped: false,
            owed: [false; 3],
            passed_over: [0; 3],
            in_turn: 0,
            accepts_left: 3,
            exhaustions_left: 1,
            calm: false,
            crowded: false,
        }
    }

    /// Strangers only, who speak, stay silent, and have to make room for others.
    #[must_use]
    pub fn crowded(mutant: Mutant) -> Self {
        Self { accepts_left: 5, exhaustions_left: 0, crowded: true, ..Self::new(mutant) }
    }

    /// The same with room for many more accepts and nothing else going on: who is passed over?
    #[must_use]
    pub fn calm(mutant: Mutant) -> Self {
        let mut scene = Self::new(mutant);
        for _ in 0..OPEN {
            scene.gate.closed(None);
        }
        Self { sessions: 0, accepts_left: 9, exhaustions_left: 0, calm: true, ..scene }
    }

    const fn peers(listener: usize) -> Peers {
        if listener == 2 { Peers::Strangers } else { Peers::Known }
    }

    fn may_accept(&self, listener: usize) -> bool {
        self.owed[listener] && self.may_accept_last(listener)
    }

    fn may_accept_last(&self, listener: usize) -> bool {
        let known = self.mutant != Mutant::StrangersKeepOutKnown && Self::peers(listener) == Peers::Known;
        !self.stopped && !self.exhausted && !self.full && (known || self.strangers.len() < LIMITS.strangers)
    }

    /// Who makes room next, and when.
    fn next_evicted(&self) -> Option<(Instant, Stranger)> {
        let waits = self.owed[2] && !self.stopped && !self.exhausted && !self.full;
        let silent = self.strangers.iter().find(|guest| !guest.spoke).map(|guest| (guest, Gate::SILENCE));
        let oldest = self.strangers.first().map(|guest| (guest, Gate::PATIENCE));
        let (guest, time) =
            silent.or(oldest).filter(|_| waits && self.strangers.len() == LIMITS.strangers)?;
        Some((guest.since + time, guest.stranger))
    }

    fn on_turn_of(&mut self, listener: usize) {
        for other in 0..3 {
            if other != listener && self.may_accept(other) {
                self.passed_over[other] += 1;
            }
        }
        self.passed_over[listener] = 0;
    }

    fn on_close(&mut self, stranger: bool) {
        self.sessions -= 1;
        let who = if stranger { Some(self.strangers.remove(0).stranger) } else { self.evicted.pop() };
        self.gate.closed(who);
        if self.sessions * 10 <= LIMITS.sessions * 9 || self.mutant == Mutant::NoHysteresis {
            self.full = false;
        }
        self.exhausted &= self.mutant == Mutant::WaitsForTheTimerOnly;
        self.stopped &= self.mutant != Mutant::AcceptsAfterStop;
    }

    /// Without a crowd nobody's age matters.
    const fn since(&self) -> Instant {
        if self.crowded { self.now } else { Instant::ZERO }
    }

    fn on_accepted(&mut self, stranger: Option<Stranger>) {
        let since = self.since();
        self.sessions += 1;
        self.strangers.extend(stranger.map(|stranger| Guest { stranger, since, spoke: false }));
        self.full |= self.sessions == LIMITS.sessions;
        self.accepts_left -= 1;
    }

    fn on_accept_result(&mut self, action: AtGate, id: ListenerId) {
        let listener = id.0;
        if matches!(action, AtGate::Accept | AtGate::Skip) {
            self.on_turn_of(listener);
        }
        match action {
            AtGate::Accept => {
                let stranger = self.gate.accepted(self.since(), id);
                self.on_accepted(stranger);
                self.in_turn += 1;
            }
            AtGate::Skip => {
                self.gate.skipped(id);
                self.accepts_left -= 1;
                self.in_turn += 1;
            }
            AtGate::Drain => {
                self.gate.drained(id);
                self.owed[listener] = false;
            }
            AtGate::Exhaust => {
                self.gate.exhausted(self.now);
                self.exhausted = true;
                self.exhaustions_left -= 1;
                self.owed[listener] &= self.mutant != Mutant::ForgetsOwedOnExhaustion;
            }
            AtGate::Readable(_)
            | AtGate::AcceptLast(_)
            | AtGate::Turn
            | AtGate::Speak
            | AtGate::Authenticate
            | AtGate::Evict
            | AtGate::Close(_)
            | AtGate::Expire
            | AtGate::Stop => {}
        }
    }
}

impl Scene for GateScene {
    type Action = AtGate;

    fn actions(&self) -> Vec<AtGate> {
        let mut actions = vec![];
        let comes = |listener: &usize| !self.owed[*listener] && (*listener == 2 || !self.crowded);
        actions.extend((0..3).filter(comes).map(AtGate::Readable));
        if self.in_turn > 0 {
            actions.push(AtGate::Turn);
        }
        if self.gate.wants_accept().is_some() {
            if self.accepts_left > 0 {
                actions.extend([AtGate::Accept, AtGate::Skip]);
            }
            if self.exhaustions_left > 0 {
                actions.push(AtGate::Exhaust);
            }
            actions.push(AtGate::Drain);
        }
        if self.accepts_left > 0 && !self.calm {
            let last = [0, 2].into_iter().filter(|listener| *listener == 2 || !self.crowded);
            let may = |listener: &usize| self.gate.may_accept_last(ListenerId(*listener));
            actions.extend(last.filter(may).map(AtGate::AcceptLast));
        }
        let passes = self.crowded || self.exhausted;
        if self.crowded && self.strangers.iter().any(|guest| !guest.spoke) {
            actions.push(AtGate::Speak);
        }
        if self.gate.wants_evicted(self.now).is_some() {
            actions.push(AtGate::Evict);
        }
        if !self.strangers.is_empty() {
            actions.push(AtGate::Authenticate);
            actions.extend((!self.calm).then_some(AtGate::Close(true)));
        }
        if self.sessions > self.strangers.len() && !self.calm {
            actions.push(AtGate::Close(false));
        }
        if passes && self.gate.next_timeout().is_some_and(|until| until > self.now) {
            actions.push(AtGate::Expire);
        }
        if !self.stopped && !self.calm && !self.crowded {
            actions.push(AtGate::Stop);
        }
        actions
    }

    fn after(&self, action: AtGate) -> Self {
        let mut next = self.clone();
        match action {
            AtGate::Readable(listener) => {
                next.gate.readable(ListenerId(listener));
                next.owed[listener] = true;
                next.passed_over[listener] = 0;
            }
            AtGate::Turn => {
                next.gate.begin_turn();
                next.in_turn = 0;
            }
            AtGate::Accept | AtGate::Skip | AtGate::Drain | AtGate::Exhaust => {
                if let Some(id) = self.gate.wants_accept() {
                    next.on_accept_result(action, id);
                }
            }
            AtGate::AcceptLast(listener) => {
                let stranger = next.gate.accepted_last(self.since(), ListenerId(listener));
                next.on_accepted(stranger);
            }
            AtGate::Authenticate => {
                if !next.strangers.is_empty() {
                    let guest = next.strangers.remove(0);
                    next.gate.authenticated(guest.stranger);
                }
            }
            AtGate::Speak => {
                if let Some(guest) = next.strangers.iter_mut().rfind(|guest| !guest.spoke) {
                    guest.spoke = true;
                    next.gate.spoke(guest.stranger);
                }
            }
            AtGate::Evict => {
                if let Some(stranger) = self.gate.wants_evicted(self.now) {
                    next.gate.evicted(stranger);
                    next.strangers.retain(|guest| guest.stranger != stranger);
                    next.evicted.push(stranger);
                }
            }
            AtGate::Close(stranger) => {
                next.on_close(stranger);
            }
            AtGate::Expire => {
                if let Some(until) = self.gate.next_timeout() {
                    next.gate.handle_timeout(Instant::from_nanos(until.as_nanos() - 1));
                    assert_eq!(next.gate, self.gate, "A3 broken: a timer fired early");
                    next.now = until;
                    next.gate.handle_timeout(until);
                    next.exhausted = false;
                }
            }
            AtGate::Stop => {
                next.gate.stop();
                next.stopped = true;
                next.exhausted = false;
            }
        }
        next
    }

    fn check(&self) -> Result<(), Violation> {
        let gate = &self.gate;
        demand_that(Rule::A1, gate.sessions() <= LIMITS.sessions, || "too many sessions".into())?;
        demand_that(Rule::A1, gate.strangers() <= LIMITS.strangers, || "too many strangers".into())?;
        let spent = self.in_turn >= LIMITS.per_turn;
        demand_that(Rule::A1, !spent || gate.wants_accept().is_none(), || "too many in a turn".into())?;
        for listener in 0..3 {
            let (is, ought) = (gate.wants_accept(), self.may_accept(listener));
            demand_that(Rule::A3, is != Some(ListenerId(listener)) || ought, || {
                format!("listener {listener} must not accept now")
            })?;
            let (is, ought) = (gate.may_accept_last(ListenerId(listener)), self.may_accept_last(listener));
            demand_that(Rule::A3, is == ought, || {
                format!("listener {listener} may accept its last: {is}, by the facts: {ought}")
            })?;
            demand_that(Rule::A4, self.passed_over[listener] <= 3, || {
                format!("listener {listener} was passed over too often")
            })?;
        }
        let any = (0..3).any(|listener| self.may_accept(listener));
        let rule = if gate.is_owing() { Rule::A3 } else { Rule::A2 };
        demand_that(rule, gate.is_owing() == any, || {
            format!("owing: {}, by the facts: {any}", gate.is_owing())
        })?;
        let now = any && self.in_turn < LIMITS.per_turn;
        demand_that(Rule::A2, gate.wants_accept().is_some() == now, || {
            format!("wants {:?}, by the facts: {now}", gate.wants_accept())
        })?;
        let waits = !self.stopped && !any && self.owed.contains(&true);
        let hope = gate.next_timeout().is_some() || self.sessions > 0;
        demand_that(Rule::A2, !waits || hope, || "waits for nothing".into())?;
        let evicted = self.next_evicted();
        let due = evicted.filter(|(at, _)| *at <= self.now).map(|(_, stranger)| stranger);
        demand_that(Rule::A5, gate.wants_evicted(self.now) == due, || {
            format!("{:?} is to make room, by the facts {due:?}", gate.wants_evicted(self.now))
        })?;
        let pause = self.exhausted && !self.stopped;
        let timer = gate.next_timeout();
        demand_that(Rule::A3, timer.is_some() == (pause || evicted.is_some()), || {
            format!("timer {timer:?}, out of descriptors: {pause}, makes room: {evicted:?}")
        })?;
        demand_that(Rule::A5, pause || timer == evicted.map(|(at, _)| at), || {
            format!("timer {timer:?}, by the facts {evicted:?}")
        })
    }
}
