//! For how long nothing has moved that matters to anybody, by what a session counts: S8 on legs of every kind. The
//! reference model says it exactly, but only where the transport's bytes are the flow's.

use std::format;

use super::super::rules::{Rule, Violation, demand_that};
use crate::flow::Phase;
use crate::leg::{Leg, PerLeg};
use crate::session::{Session, Timer};
use crate::time::Instant;

/// What was seen of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Sight {
    /// By source; of a flow that is not open any more what it was last.
    read: PerLeg<u64>,
    delivered: PerLeg<u64>,
    phases: PerLeg<Phase>,
    up: PerLeg<bool>,
    held: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Silence {
    sight: Sight,
    /// When a byte last moved for somebody's good: progress is not earlier.
    bytes: Instant,
    /// When anything last changed: progress is not later.
    anything: Instant,
}

impl Silence {
    pub(super) fn new(now: Instant) -> Self {
        let none = PerLeg::both(0);
        let (phases, up) = (PerLeg::both(Phase::Open), PerLeg::both(false));
        let sight = Sight { read: none, delivered: none, phases, up, held: false };
        Self { sight, bytes: now, anything: now }
    }

    /// After a turn.
    pub(super) fn look(&mut self, session: &Session, now: Instant) {
        let stats = session.stats();
        let mut sight = Sight {
            delivered: stats.delivered,
            phases: PerLeg::new(session.phase(Leg::Front), session.phase(Leg::Back)),
            up: PerLeg::new(session.is_up(Leg::Front), session.is_up(Leg::Back)),
            held: session.is_held(),
            ..self.sight
        };
        for leg in Leg::BOTH {
            if sight.phases[leg] == Phase::Open {
                sight.read[leg] = stats.read[leg];
            }
        }
        if (sight.read, sight.delivered) != (self.sight.read, self.sight.delivered) {
            self.bytes = now;
        }
        if sight != self.sight {
            (self.sight, self.anything) = (sight, now);
        }
    }

    /// The leg that has its whole answer and still uploads.
    fn answered(&self) -> Option<Leg> {
        let phases = self.sight.phases;
        let has = |leg: &Leg| phases[*leg] == Phase::Discarding && phases[leg.other()] == Phase::Shut;
        Leg::BOTH.into_iter().find(has)
    }

    /// S8: whom a timer `ended` was silent for long enough, and whoever is still there has not been for too long.
    pub(super) fn check(
        &self,
        session: &Session,
        ended: Option<Timer>,
        now: Instant,
    ) -> Result<(), Violation> {
        let config = session.config();
        if let Some(timer) = ended {
            let least = match timer {
                Timer::Idle => config.idle_timeout,
                Timer::HalfOpen => config.half_open_timeout,
                Timer::Linger => self.answered().map(|leg| config.linger[leg]),
                Timer::Dial | Timer::Secure(_) | Timer::Lifetime | Timer::Drain => None,
            };
            return demand_that(Rule::S8, least.is_none_or(|least| now >= self.bytes + least), || {
                format!("{timer:?} at {now:?}, and something moved at {:?}", self.bytes)
            });
        }
        let over = |phase: Phase| !matches!(phase, Phase::Open | Phase::Ended);
        let phases = self.sight.phases;
        let empty = Leg::BOTH.into_iter().all(|leg| session.buffered(leg) == 0);
        let half_open = (over(phases.front) || over(phases.back)) && empty && !self.sight.held;
        let both = self.sight.up.front && self.sight.up.back && !self.sight.held;
        let bounds = [
            config.idle_timeout.filter(|_| both),
            config.half_open_timeout.filter(|_| half_open),
            self.answered().map(|leg| config.linger[leg]),
        ];
        let bound = bounds.into_iter().flatten().min();
        demand_that(Rule::S8, bound.is_none_or(|bound| now < self.anything + bound), || {
            format!("open at {now:?}, and nothing has moved since {:?}: {:?}", self.anything, self.sight)
        })
    }
}
