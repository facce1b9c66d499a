//! Everything that can happen to one migration, in any order, within a budget.

use std::collections::HashMap;
use std::time::Duration;

use super::rules::{self, Rule, Violation, demand_that};
use super::world::World;
use crate::registry::{Event, ListenerId, Request};

/// What can happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// The request of this number is made.
    Ask(usize),
    /// The demand at this place is done.
    Perform(usize),
    /// The demand at this place fails.
    Fail(usize),
    /// This listener closes by itself.
    Lose(ListenerId),
    /// This listener accepts a connection.
    OpenSession(ListenerId),
    /// The session ends.
    CloseSession,
    /// Time passes until the next timer.
    Expire,
}

/// How much may happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Budget {
    /// Requests.
    pub requests: u8,
    /// Failures of what is demanded.
    pub failures: u8,
    /// Listeners lost.
    pub losses: u8,
    /// Sessions.
    pub sessions: u8,
}

/// A world and what may still happen to it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Scene {
    /// The world.
    pub world: World,
    budget: Budget,
}

impl Scene {
    /// To begin with.
    #[must_use]
    pub const fn new(world: World, budget: Budget) -> Self {
        Self { world, budget }
    }

    fn actions(&self, requests: usize) -> Vec<Action> {
        let mut actions = vec![];
        if self.budget.requests > 0 {
            actions.extend((0..requests).map(Action::Ask));
        }
        for index in 0..self.world.registry.demands().count() {
            actions.push(Action::Perform(index));
            if self.budget.failures > 0 {
                actions.push(Action::Fail(index));
            }
        }
        if self.budget.losses > 0 {
            actions.extend(self.world.sockets.keys().map(|id| Action::Lose(*id)));
        }
        if self.budget.sessions > 0 {
            actions.extend(self.world.sockets.keys().map(|id| Action::OpenSession(*id)));
        }
        if !self.world.sessions.is_empty() {
            actions.push(Action::CloseSession);
        }
        if self.world.registry.next_timeout().is_some() {
            actions.push(Action::Expire);
        }
        actions
    }

    fn after(&self, action: Action, requests: &[Request]) -> Result<Self, Violation> {
        let mut next = self.clone();
        let demand = |index| self.world.registry.demands().nth(index);
        match action {
            Action::Ask(index) => {
                next.budget.requests -= 1;
                next.world.ask(requests[index].clone());
            }
            Action::Perform(index) => {
                if let Some(demand) = demand(index) {
                    next.world.perform(demand);
                }
            }
            Action::Fail(index) => {
                next.budget.failures -= 1;
                if let Some(demand) = demand(index) {
                    next.world.fail(demand);
                }
            }
            Action::Lose(id) => {
                next.budget.losses -= 1;
                next.world.lose(id);
            }
            Action::OpenSession(id) => {
                next.budget.sessions -= 1;
                next.world.open_session(id);
            }
            Action::CloseSession => next.world.close_session(),
            Action::Expire => next.expire()?,
        }
        next.world.failed.clear();
        Ok(next)
    }

    fn expire(&mut self) -> Result<(), Violation> {
        let Some((until, timer)) = self.world.registry.next_timeout() else { return Ok(()) };
        let wait = until.since(self.world.now);
        if let Some(early) = wait.checked_sub(Duration::from_nanos(1)) {
            let before = self.world.registry.clone();
            let events = self.world.pass(early);
            demand_that(Rule::R8, events.is_empty() && before == self.world.registry, || {
                format!("{timer:?} fired early: {events:?}")
            })?;
            self.world.pass(Duration::from_nanos(1));
        } else {
            let events = self.world.pass(wait);
            let expired = |event: &Event| matches!(event, Event::Expired(_));
            let fired = events.iter().any(expired) || timer == crate::registry::Timer::Shutdown;
            demand_that(Rule::R8, fired, || format!("{timer:?} did not fire"))?;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Violation> {
        if self.world.registry.demands().next().is_none() {
            rules::at_rest(&self.world)
        } else {
            rules::always(&self.world)?;
            // wherever we are, doing what is demanded leads to rest
            let mut rest = self.world.clone();
            rest.settle();
            rules::at_rest(&rest)
        }
    }
}

/// Visits everything that can come of `start` and `requests`, breadth first, and counts it.
///
/// # Errors
/// The first rule that is broken, with the shortest way there.
pub fn explore(start: Scene, requests: &[Request]) -> Result<usize, String> {
    let mut known = HashMap::from([(start.clone(), ())]);
    let mut scenes = vec![(start, None::<(usize, Action)>)];
    let mut at = 0;
    while at < scenes.len() {
        let scene = scenes[at].0.clone();
        let mut broken = scene.check().err();
        for action in scene.actions(requests.len()) {
            if broken.is_some() {
                break;
            }
            match scene.after(action, requests) {
                Ok(next) => {
                    if known.insert(next.clone(), ()).is_none() {
                        scenes.push((next, Some((at, action))));
                    }
                }
                Err(violation) => broken = Some(violation),
            }
        }
        if let Some(violation) = broken {
            let mut trace = vec![];
            let mut step = at;
            while let Some((parent, action)) = scenes[step].1 {
                trace.push(action);
                step = parent;
            }
            trace.reverse();
            return Err(format!("{violation}\n  after {trace:?}\n  {scene:?}"));
        }
        at += 1;
    }
    Ok(scenes.len())
}
