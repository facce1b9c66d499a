//! A gate, what is known about it, and everything that can happen at it.

use std::vec::Vec;
use std::{format, vec};

use super::super::rules::{Rule, Violation, demand_that};
use super::{Mutant, Scene};
use crate::admission::{Gate, Limits, ListenerId, Peers};
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
    /// It had one that is gone already.
    Skip,
    /// It has none any more.
    Drain,
    /// There is no descriptor for it.
    Exhaust,
    /// A stranger proves who it is.
    Authenticate,
    /// A session that is a stranger's (or is not) ends.
    Close(bool),
    /// Time passes until the timer.
    Expire,
    /// The operator says stop.
    Stop,
}

/// A gate and what is known about it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct GateScene {
    gate: Gate,
    mutant: Mutant,
    now: Instant,
    sessions: usize,
    strangers: usize,
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
            gate.accepted(ListenerId(0));
        }
        gate.begin_turn();
        gate.drained(ListenerId(0));
        Self {
            gate,
            mutant,
            now: Instant::ZERO,
            sessions: OPEN,
            strangers: 0,
            full: false,
            exhausted: false,
            stopped: false,
            owed: [false; 3],
            passed_over: [0; 3],
            in_turn: 0,
            accepts_left: 3,
            exhaustions_left: 2,
            calm: false,
        }
    }

    /// The same with room for many more accepts and nothing else going on: who is passed over?
    #[must_use]
    pub fn calm(mutant: Mutant) -> Self {
        let mut scene = Self::new(mutant);
        for _ in 0..OPEN {
            scene.gate.closed(false);
        }
        Self { sessions: 0, accepts_left: 9, exhaustions_left: 0, calm: true, ..scene }
    }

    const fn peers(listener: usize) -> Peers {
        if listener == 2 { Peers::Strangers } else { Peers::Known }
    }

    fn may_accept(&self, listener: usize) -> bool {
        let known = self.mutant != Mutant::StrangersKeepOutKnown && Self::peers(listener) == Peers::Known;
        self.owed[listener]
            && !self.stopped
            && !self.exhausted
            && !self.full
            && (known || self.strangers < LIMITS.strangers)
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
        self.strangers -= usize::from(stranger);
        if self.sessions * 10 <= LIMITS.sessions * 9 || self.mutant == Mutant::NoHysteresis {
            self.full = false;
        }
        self.exhausted &= self.mutant == Mutant::WaitsForTheTimerOnly;
        self.stopped &= self.mutant != Mutant::AcceptsAfterStop;
    }

    fn on_accept_result(&mut self, action: AtGate, id: ListenerId) {
        let listener = id.0;
        if matches!(action, AtGate::Accept | AtGate::Skip) {
            self.on_turn_of(listener);
        }
        match action {
            AtGate::Accept => {
                self.gate.accepted(id);
                self.sessions += 1;
                self.strangers += usize::from(Self::peers(listener) == Peers::Strangers);
                self.full |= self.sessions == LIMITS.sessions;
                self.accepts_left -= 1;
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
            | AtGate::Turn
            | AtGate::Authenticate
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
        actions.extend((0..3).filter(|listener| !self.owed[*listener]).map(AtGate::Readable));
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
        if self.strangers > 0 {
            actions.push(AtGate::Authenticate);
            actions.extend((!self.calm).then_some(AtGate::Close(true)));
        }
        if self.sessions > self.strangers && !self.calm {
            actions.push(AtGate::Close(false));
        }
        if self.gate.next_timeout().is_some() {
            actions.push(AtGate::Expire);
        }
        if !self.stopped && !self.calm {
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
            AtGate::Authenticate => {
                next.gate.authenticated();
                next.strangers -= 1;
            }
            AtGate::Close(stranger) => {
                next.gate.closed(stranger);
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
        let timer = self.exhausted && !self.stopped;
        demand_that(Rule::A3, gate.next_timeout().is_some() == timer, || {
            format!("timer {:?}, out of descriptors: {timer}", gate.next_timeout())
        })
    }
}
