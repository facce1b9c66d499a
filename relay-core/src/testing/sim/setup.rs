//! How the legs come up, and when that must be given up: what is known beside the session, from what happened.

use std::format;

use super::super::rules::{Rule, Violation, demand_that};
use crate::config::Config;
use crate::leg::{Leg, PerLeg};
use crate::session::Timer;
use crate::time::Instant;

/// What is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Handshake(Leg),
    Dial,
    Up,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Setup {
    stage: Stage,
    /// When that began; of a dial `None` while others are dialed first.
    since: Option<Instant>,
    /// Which legs have a handshake.
    secure: PerLeg<bool>,
}

impl Setup {
    /// Front was accepted.
    pub(super) const fn new(secure: PerLeg<bool>, now: Instant) -> Self {
        let stage = if secure.front { Stage::Handshake(Leg::Front) } else { Stage::Dial };
        Self { stage, since: Some(now), secure }
    }

    /// A leg's codec says that its handshake is complete.
    pub(super) fn secured(&mut self, leg: Leg, now: Instant) {
        if self.stage == Stage::Handshake(leg) {
            self.stage = if leg == Leg::Front { Stage::Dial } else { Stage::Up };
            self.since = Some(now);
        }
    }

    /// Others are dialed first, or it is Back's turn since then.
    pub(super) const fn turn(&mut self, since: Option<Instant>) {
        self.since = since;
    }

    /// Back took the call.
    pub(super) const fn connected(&mut self, now: Instant) {
        self.stage = if self.secure.back { Stage::Handshake(Leg::Back) } else { Stage::Up };
        self.since = Some(now);
    }

    /// When it is too late for what is under way.
    fn due(&self, config: &Config) -> Option<(Instant, Timer)> {
        let (timeout, timer) = match self.stage {
            Stage::Handshake(leg) => (config.secure_timeout, Timer::Secure(leg)),
            Stage::Dial => (config.dial_timeout, Timer::Dial),
            Stage::Up => (None, Timer::Dial),
        };
        self.since.zip(timeout).map(|(since, timeout)| (since + timeout, timer))
    }

    /// S8: an open session's `next` timer is the one for what is under way, or another that is due before it.
    pub(super) fn check(&self, config: &Config, next: Option<(Instant, Timer)>) -> Result<(), Violation> {
        let due = self.due(config);
        let fits = match next {
            Some((_, Timer::Dial | Timer::Secure(_))) => next == due,
            Some((at, _)) => due.is_none_or(|(due, _)| at <= due),
            None => due.is_none(),
        };
        demand_that(Rule::S8, fits, || format!("{self:?}: next is {next:?}, by the facts {due:?}"))
    }
}
