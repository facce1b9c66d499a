//! A session and everything around it that can happen: peers with so many bytes to send, faults,
//! the operator, time. A value like the session itself, so that worlds can be enumerated.

use core::time::Duration;
use std::vec::Vec;

use super::model::{Model, SourceEnd};
use crate::config::Config;
use crate::error::Failure;
use crate::leg::{Leg, PerLeg};
use crate::session::{Distrust, EndReason, Input, Session, Stop};
use crate::time::Instant;

/// What may happen beyond what is demanded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Scope {
    /// Bytes that each peer sends at most.
    pub bytes: PerLeg<u8>,
    /// Operations fail.
    pub faults: bool,
    /// And some writes for a reason that the peer knows nothing of.
    pub unnoticed: bool,
    /// The storage runs out of slots.
    pub full: bool,
    /// The operator drains and aborts, and peers that were let in are trusted no longer.
    pub stops: bool,
    /// Timers may be looked at early this often before the last expires.
    pub ticks: u8,
    /// Others are dialed before Back is.
    pub queues: bool,
    /// How often a limit of the rate has the peers wait.
    pub holds: u8,
}

/// One thing that happens.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// The runtime reports this.
    Do(Input),
    /// Time passes until the next timer is due, and it fires.
    Expire,
    /// Time passes until just before; the timer is called, which must do nothing.
    AlmostExpire,
}

/// A session, its model, and the peers.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    /// The thing tested.
    pub session: Session,
    /// What it is compared with.
    pub model: Model,
    /// The present.
    pub now: Instant,
    scope: Scope,
    stops_left: u8,
    /// Back's place in a line: not in it yet, in it, its turn.
    line: Line,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Line {
    Outside,
    Waiting,
    First,
}

impl World {
    /// A fresh session in this scope.
    #[must_use]
    pub fn new(config: Config, scope: Scope) -> Self {
        let now = Instant::ZERO;
        let (session, model) = (Session::new(config, now), Model::new(config, now));
        Self { session, model, now, scope, stops_left: if scope.stops { 2 } else { 0 }, line: Line::Outside }
    }

    /// Whether the session has its outcome.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.session.outcome().is_some()
    }

    /// Everything that can happen now. What a healthy pair of peers would do comes first.
    #[must_use]
    pub fn actions(&self) -> Vec<Action> {
        let mut inputs = Vec::new();
        for leg in Leg::BOTH {
            self.progress_on(leg, &mut inputs);
        }
        if self.scope.faults {
            for leg in Leg::BOTH {
                self.faults_on(leg, &mut inputs);
            }
        }
        if self.scope.queues && self.session.demand(Leg::Back).connect {
            match self.line {
                Line::Outside => inputs.push(Input::Queued),
                Line::Waiting => {
                    // the one before it was connected just now, or nobody was since this one came
                    inputs.push(Input::Turn(self.now));
                    inputs.push(Input::Turn(self.model.since.back));
                }
                Line::First => {}
            }
        }
        let reads = Leg::BOTH.into_iter().any(|leg| self.session.demand(leg).read > 0);
        if self.model.held && !self.is_closed() {
            inputs.push(Input::Released);
        } else if self.scope.holds > 0 && reads {
            inputs.push(Input::Held);
        }
        if self.stops_left > 0 && !self.is_closed() {
            inputs.push(Input::Stop(Stop::Drain { until: self.now + Duration::from_nanos(5) }));
            inputs.push(Input::Stop(Stop::Abort));
            for leg in Leg::BOTH {
                if self.model.config().secure[leg] && self.model.is_up(leg) {
                    inputs.push(Input::Distrusted(leg, Distrust::Revoked));
                }
            }
        }
        let mut actions: Vec<_> = inputs.into_iter().map(Action::Do).collect();
        if let Some((at, _)) = self.session.next_timeout() {
            actions.push(Action::Expire);
            if self.scope.ticks > 0 && at.since(self.now) > Duration::from_nanos(1) {
                actions.push(Action::AlmostExpire);
            }
        }
        actions
    }

    fn progress_on(&self, leg: Leg, inputs: &mut Vec<Input>) {
        let demand = self.session.demand(leg);
        if demand.connect {
            inputs.push(Input::Connected(leg));
        }
        if demand.secure {
            inputs.push(Input::Secured(leg));
        }
        for count in 1..=demand.write {
            inputs.push(Input::Wrote(leg, count));
        }
        if demand.shutdown {
            inputs.push(Input::ShutDown(leg));
        }
        if demand.read > 0 {
            let left = usize::from(self.scope.bytes[leg]) - self.model.flows[leg].read as usize;
            for count in 1..=demand.read.min(left) {
                inputs.push(Input::Read(leg, count));
            }
            inputs.push(Input::Eof(leg));
            let flow = &self.model.flows[leg];
            if self.scope.full && !flow.sink_failed && flow.read > flow.wrote {
                inputs.push(Input::Full(leg));
            }
        }
    }

    fn faults_on(&self, leg: Leg, inputs: &mut Vec<Input>) {
        let demand = self.session.demand(leg);
        if demand.connect {
            inputs.push(Input::ReadFailed(leg, Failure::Refused));
        }
        if self.model.is_up(leg) && !self.model.is_up(leg.other()) && !self.is_closed() {
            inputs.push(Input::ReadFailed(leg, Failure::HungUp));
        }
        if demand.secure {
            inputs.push(Input::ReadFailed(leg, Failure::Rejected));
            inputs.push(Input::WriteFailed(leg, Failure::Reset));
            inputs.push(Input::Eof(leg));
        }
        if demand.read > 0 {
            inputs.push(Input::ReadFailed(leg, Failure::Truncated));
            inputs.push(Input::ReadFailed(leg, Failure::Reset));
        }
        let flow = &self.model.flows[leg.other()];
        let writable = self.model.is_up(leg) && !flow.sink_failed && flow.fins == 0;
        let alive = writable && !(flow.source == Some(SourceEnd::Failed) && flow.read == flow.wrote);
        if alive && self.model.is_up(leg.other()) && !self.is_closed() {
            // also when nothing is demanded: the codec's own bytes can fail to go out
            inputs.push(Input::WriteFailed(leg, Failure::BrokenPipe));
            if self.scope.unnoticed {
                inputs.push(Input::WriteFailed(leg, Failure::Exhausted));
            }
            inputs.push(Input::WriteFailed(leg, Failure::Reset));
        }
    }

    /// The world after `action`.
    #[must_use]
    pub fn after(&self, action: Action) -> Self {
        let mut next = self.clone();
        match action {
            Action::Do(input) => {
                if let Input::Stop(_) = input {
                    next.stops_left = next.stops_left.saturating_sub(1);
                }
                if input == Input::Held {
                    next.scope.holds = next.scope.holds.saturating_sub(1);
                }
                if input == Input::Queued {
                    next.line = Line::Waiting;
                } else if let Input::Turn(_) = input {
                    next.line = Line::First;
                }
                next.model.handle(next.now, input);
                next.session.handle(next.now, input);
            }
            Action::Expire => {
                if let Some((at, timer)) = self.session.next_timeout() {
                    next.now = next.now.max(at);
                    next.session.handle_timeout(next.now);
                    next.model.give_up(EndReason::TimedOut(timer));
                }
            }
            Action::AlmostExpire => {
                if let Some((at, _)) = self.session.next_timeout() {
                    next.now = Instant::from_nanos(at.as_nanos().saturating_sub(1));
                    next.scope.ticks = next.scope.ticks.saturating_sub(1);
                    next.session.handle_timeout(next.now);
                }
            }
        }
        next
    }
}
