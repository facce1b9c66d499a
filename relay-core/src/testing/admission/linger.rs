//! A closed session's socket, and how its peer takes what is in it.

use core::time::Duration;
use std::vec::Vec;
use std::{format, vec};

use super::super::rules::{Rule, Violation, demand_that};
use super::Scene;
use crate::admission::{Linger, Lingering};
use crate::time::Instant;

/// What a look at the send queue finds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AtLook {
    /// As much as before.
    Same,
    /// Less.
    Less,
    /// Nothing any more.
    Empty,
}

/// A socket and what is known about it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct LingerScene {
    lingering: Lingering,
    now: Instant,
    unsent: usize,
    /// When there was last less in it.
    progress: Instant,
    said: Option<Linger>,
}

impl LingerScene {
    /// Closed just now, with so many bytes to deliver; more than seven is more than there is time for.
    #[must_use]
    pub fn new(unsent: usize) -> Self {
        let now = Instant::from_nanos(1_000);
        Self { lingering: Lingering::new(now), now, unsent, progress: now, said: None }
    }

    fn end(&self) -> Instant {
        let began = Instant::from_nanos(1_000);
        (self.progress + Lingering::STALL).min(began + Lingering::BOUND)
    }
}

impl Scene for LingerScene {
    type Action = AtLook;

    fn actions(&self) -> Vec<AtLook> {
        if self.said == Some(Linger::CloseNow) {
            return vec![];
        }
        // A peer that takes something just before it is given up, or nothing, or all.
        let stalled = self.now.since(self.progress);
        let mut actions = vec![AtLook::Same];
        if stalled > Lingering::STALL - Duration::from_millis(120) {
            actions.push(AtLook::Less);
        }
        if self.said.is_none() || stalled > Lingering::STALL - Duration::from_millis(60) {
            actions.push(AtLook::Empty);
        }
        actions
    }

    fn after(&self, action: AtLook) -> Self {
        let mut next = self.clone();
        if let Some(Linger::Wait { until }) = self.said {
            next.now = until;
        }
        match action {
            AtLook::Same => {}
            AtLook::Less => next.unsent -= 1,
            AtLook::Empty => next.unsent = 0,
        }
        if action != AtLook::Same {
            next.progress = next.now;
        }
        next.said = Some(next.lingering.look(next.now, next.unsent));
        next
    }

    fn check(&self) -> Result<(), Violation> {
        let over = self.unsent == 0 || self.now >= self.end();
        let pause = Duration::from_millis(50);
        let fits = match self.said {
            None => true,
            Some(Linger::CloseNow) => over,
            Some(Linger::Wait { until }) => {
                !over && until > self.now && until <= (self.now + pause).min(self.end())
            }
        };
        demand_that(Rule::G1, fits, || {
            let (unsent, end) = (self.unsent, self.end());
            format!("{unsent} bytes left at {:?}, given up at {end:?}, said was {:?}", self.now, self.said)
        })
    }
}
