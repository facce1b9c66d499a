//! A dial, what is known about it, and everything that can happen to it.

use core::time::Duration;
use std::vec::Vec;
use std::{format, vec};

use super::super::rules::{Rule, Violation, demand_that};
use super::Scene;
use crate::admission::Dialer;
use crate::error::Failure;
use crate::time::Instant;

/// What can happen to a dial.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AtDial {
    /// It is begun.
    Start,
    /// It fails, begun or not.
    Fail(Failure),
    /// The pause is over.
    Expire,
    /// The operator drains.
    Drain,
}

/// First and last pause, in milliseconds.
type Pauses = (u64, u64);

/// A dialer and what is known about it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct DialScene {
    dialer: Dialer,
    addresses: usize,
    now: Instant,
    /// Which address is next; none during a pause or a try, and in the end.
    due: Option<usize>,
    trying: Option<usize>,
    /// The quickest pauses that a failure of this round asks for.
    patience: Option<Pauses>,
    last_patience: Option<Pauses>,
    /// Pauses in a row for the same reason.
    pauses: u32,
    /// The present pause's bound.
    bound: Option<Duration>,
    given_up: Option<Failure>,
    last_failure: Option<Failure>,
    draining: bool,
    failures_left: u8,
    /// What each address has in this round.
    share: Duration,
    /// When the try is over.
    try_ends: Option<Instant>,
}

/// Of which two addresses have two each in the first round.
const TIMEOUT: Duration = Duration::from_secs(8);

impl DialScene {
    /// So many addresses, not dialed yet.
    #[must_use]
    pub fn new(addresses: usize, seed: u64) -> Self {
        Self {
            dialer: Dialer::new(addresses, Some(TIMEOUT), seed),
            addresses,
            now: Instant::from_nanos(1_000_000),
            due: Some(0),
            trying: None,
            patience: None,
            last_patience: None,
            pauses: 0,
            bound: None,
            given_up: None,
            last_failure: None,
            draining: false,
            failures_left: 8,
            share: TIMEOUT / (2 * u32::try_from(addresses).unwrap_or(u32::MAX)),
            try_ends: None,
        }
    }

    const fn pauses_for(failure: Failure) -> Option<Pauses> {
        if matches!(failure, Failure::Busy) {
            Some((1, 50))
        } else if matches!(failure, Failure::Refused | Failure::Unreachable | Failure::TimedOut) {
            Some((5, 200))
        } else if matches!(failure, Failure::Exhausted) {
            Some((10, 1000))
        } else {
            None
        }
    }

    fn on_failure(&mut self, failure: Failure) {
        self.last_failure = Some(failure);
        self.try_ends = None;
        let Some(at) = self.trying.take().or_else(|| self.due.take()) else { return };
        let asked = Self::pauses_for(failure);
        self.patience = self.patience.into_iter().chain(asked).min_by_key(|pauses| pauses.1);
        if at + 1 < self.addresses {
            self.due = Some(at + 1);
            return;
        }
        self.share *= 2;
        let Some((first, last)) = self.patience.take().filter(|_| !self.draining) else {
            self.given_up = Some(failure);
            return;
        };
        if self.last_patience != Some((first, last)) {
            self.pauses = 0;
        }
        self.last_patience = Some((first, last));
        self.bound = Some(Duration::from_millis((first << self.pauses).min(last)));
        self.pauses += 1;
    }
}

impl Scene for DialScene {
    type Action = AtDial;

    fn actions(&self) -> Vec<AtDial> {
        let mut actions = vec![];
        if self.dialer.wants_dial().is_some() {
            actions.push(AtDial::Start);
        }
        if self.failures_left > 0 && (self.due.is_some() || self.trying.is_some()) {
            let failures = [Failure::Busy, Failure::Unreachable, Failure::Exhausted, Failure::Denied];
            actions.extend(failures.map(AtDial::Fail));
        }
        if self.dialer.next_timeout().is_some() && (self.trying.is_none() || self.failures_left > 0) {
            actions.push(AtDial::Expire);
        }
        if !self.draining {
            actions.push(AtDial::Drain);
        }
        actions
    }

    fn after(&self, action: AtDial) -> Self {
        let mut next = self.clone();
        match action {
            AtDial::Start => {
                next.dialer.started(next.now);
                next.trying = next.due.take();
                // the only one has all the time there is
                next.try_ends = (next.addresses > 1).then(|| next.now + next.share);
            }
            AtDial::Fail(failure) => {
                next.dialer.failed(next.now, failure);
                next.on_failure(failure);
                next.failures_left -= 1;
            }
            AtDial::Drain => {
                next.dialer.drain();
                next.draining = true;
                if next.bound.take().is_some() {
                    next.given_up = next.last_failure;
                }
            }
            AtDial::Expire => {
                if let Some(until) = self.dialer.next_timeout() {
                    next.dialer.handle_timeout(Instant::from_nanos(until.as_nanos() - 1));
                    assert_eq!(next.dialer, self.dialer, "D2 broken: a pause was over early");
                    next.dialer.handle_timeout(until);
                    next.now = until;
                    if self.trying.is_some() {
                        next.on_failure(Failure::TimedOut);
                        next.failures_left = next.failures_left.saturating_sub(1);
                    } else {
                        (next.due, next.bound) = (Some(0), None);
                    }
                }
            }
        }
        next
    }

    fn check(&self) -> Result<(), Violation> {
        let dialer = &self.dialer;
        demand_that(Rule::D1, dialer.wants_dial() == self.due, || {
            format!("wants to dial {:?}, by the facts {:?}", dialer.wants_dial(), self.due)
        })?;
        demand_that(Rule::D1, dialer.given_up() == self.given_up, || {
            format!("given up: {:?}, by the facts {:?}", dialer.given_up(), self.given_up)
        })?;
        demand_that(Rule::D1, dialer.trying() == self.trying, || {
            format!("tries {:?}, by the facts {:?}", dialer.trying(), self.trying)
        })?;
        if self.trying.is_some() {
            return demand_that(Rule::D1, dialer.next_timeout() == self.try_ends, || {
                format!("the try ends at {:?}, by the facts {:?}", dialer.next_timeout(), self.try_ends)
            });
        }
        let pause = dialer.next_timeout().map(|until| until.since(self.now));
        let fits = match (pause, self.bound) {
            (Some(pause), Some(bound)) => bound / 2 <= pause && pause <= bound,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        demand_that(Rule::D2, fits, || format!("a pause of {pause:?}, its bound is {:?}", self.bound))
    }
}
