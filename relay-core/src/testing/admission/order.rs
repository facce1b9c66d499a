//! An order, what is known about it, and everything that can happen to it.

use core::time::Duration;
use std::vec::Vec;
use std::{format, vec};

use super::super::rules::{Rule, Violation, demand_that};
use super::{Mutant, Scene};
use crate::admission::{Order, Ticket};
use crate::time::Instant;

/// What can happen to those who wait to be dialed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum InLine {
    /// One more is accepted.
    Accept,
    /// This one is ready to be dialed.
    Ready(usize),
    /// This one is closed.
    Leave(usize),
    /// The backend of this one is connected.
    Connect(usize),
    /// Time passes, less than the window.
    Wait,
    /// Time passes until the timer.
    Expire,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Front {
    ticket: Ticket,
    ready: Option<Instant>,
    left: bool,
    overtaken: bool,
}

/// An order and what is known about it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct OrderScene {
    order: Order,
    mutant: Mutant,
    now: Instant,
    fronts: Vec<Front>,
    /// When somebody was last overtaken ([`Mutant::WindowPerFollower`]).
    last_overtaking: Instant,
    waits_left: u8,
    /// When somebody was connected.
    moved: Instant,
    /// Whoever became ready just now came too late, and whether it was said so.
    late: Option<(bool, bool)>,
}

const WINDOW: Duration = Duration::from_nanos(10);
const WAIT: Duration = Duration::from_nanos(4);

impl OrderScene {
    /// Up to four fronts.
    #[must_use]
    pub fn new(mutant: Mutant) -> Self {
        Self {
            order: Order::new(WINDOW),
            mutant,
            now: Instant::ZERO,
            fronts: vec![],
            last_overtaking: Instant::ZERO,
            waits_left: 4,
            moved: Instant::ZERO,
            late: None,
        }
    }

    /// The earliest that is ready.
    fn first(&self) -> Option<usize> {
        self.fronts.iter().position(|front| front.ready.is_some() && !front.left)
    }

    /// Whether a silent one that was not overtaken is before it.
    fn is_held_up(&self, first: usize) -> bool {
        self.mutant != Mutant::OvertakesAtOnce
            && self.fronts[..first].iter().any(|f| f.ready.is_none() && !f.left && !f.overtaken)
    }

    fn turn(&self) -> Option<usize> {
        let first = self.first()?;
        if self.is_held_up(first) {
            return None;
        }
        let late =
            |front: &Front| !front.left && front.ready.is_some_and(|since| self.now.since(since) >= WINDOW);
        if self.mutant == Mutant::OvertakesTheReady && late(&self.fronts[first]) {
            return self.fronts.iter().rposition(late);
        }
        Some(first)
    }

    /// While the line is held up: whoever is ready for the longest overtakes all silent ones before
    /// it, when its window is over.
    fn on_time(&mut self) {
        while let Some(first) = self.first().filter(|first| self.is_held_up(*first)) {
            let since_and_index = |(index, front): (usize, &Front)| {
                front.ready.filter(|_| !front.left).map(|since| (since, index))
            };
            let longest = self.fronts.iter().enumerate().filter_map(since_and_index).min();
            let Some((mut since, mut index)) = longest else { return };
            if self.mutant == Mutant::WindowOfTheFirst {
                index = first;
                since = self.fronts[first].ready.unwrap_or(since);
            }
            if self.mutant == Mutant::WindowPerFollower {
                since = since.max(self.last_overtaking);
            }
            if self.now.since(since) < WINDOW || self.mutant == Mutant::WaitsForStrangers {
                return;
            }
            self.last_overtaking = self.now;
            for front in &mut self.fronts[..index] {
                front.overtaken |= front.ready.is_none();
            }
        }
    }
}

impl Scene for OrderScene {
    type Action = InLine;

    fn actions(&self) -> Vec<InLine> {
        let mut actions = vec![];
        if self.fronts.len() < 4 {
            actions.push(InLine::Accept);
        }
        for (index, front) in self.fronts.iter().enumerate() {
            if !front.left {
                actions.push(InLine::Leave(index));
                if front.ready.is_none() {
                    actions.push(InLine::Ready(index));
                }
                if self.order.turn() == Some(front.ticket) {
                    actions.push(InLine::Connect(index));
                }
            }
        }
        if self.waits_left > 0 {
            actions.push(InLine::Wait);
        }
        if self.order.next_timeout().is_some() {
            actions.push(InLine::Expire);
        }
        actions
    }

    fn after(&self, action: InLine) -> Self {
        let mut next = self.clone();
        next.late = None;
        match action {
            InLine::Accept => {
                let ticket = next.order.accepted();
                next.fronts.push(Front { ticket, ready: None, left: false, overtaken: false });
            }
            InLine::Ready(index) => {
                let said = next.order.ready(next.now, next.fronts[index].ticket);
                next.late = Some((next.fronts[index].overtaken, said));
                next.fronts[index].ready = Some(next.now);
            }
            InLine::Leave(index) => {
                next.order.left(next.fronts[index].ticket);
                next.fronts[index].left = true;
            }
            InLine::Connect(index) => {
                next.order.connected(next.now, next.fronts[index].ticket);
                next.fronts[index].left = true;
                next.moved = next.now;
            }
            InLine::Wait => {
                next.waits_left -= 1;
                next.now = next.now + WAIT;
            }
            InLine::Expire => {
                if let Some(until) = self.order.next_timeout() {
                    next.order.handle_timeout(Instant::from_nanos(until.as_nanos() - 1));
                    assert_eq!(next.order, self.order, "O1 broken: a timer fired early");
                    next.now = next.now.max(until);
                }
            }
        }
        // The runtime calls it whenever it looks at the clock; so does the scene.
        next.order.handle_timeout(next.now);
        next.on_time();
        next
    }

    fn check(&self) -> Result<(), Violation> {
        let (is, ought) = (self.order.turn(), self.turn().map(|index| self.fronts[index].ticket));
        let first = self.first();
        let late = |front: &Front| front.ready.is_some_and(|since| self.now.since(since) >= WINDOW);
        let any_late = self.fronts.iter().any(|front| !front.left && late(front));
        demand_that(Rule::O2, !any_late || is.is_some(), || {
            "somebody has waited for the window and nobody may be dialed".into()
        })?;
        demand_that(Rule::O1, is == ought, || format!("turn of {is:?}, by the facts {ought:?}"))?;
        for front in &self.fronts {
            let since = front.ready.filter(|_| !front.left).map(|since| since.max(self.moved));
            demand_that(Rule::O3, self.order.since(front.ticket) == since, || {
                format!(
                    "{front:?}: its clock counts from {:?}, by the facts {since:?}",
                    self.order.since(front.ticket)
                )
            })?;
        }
        demand_that(Rule::O1, self.late.is_none_or(|(is, said)| is == said), || {
            format!("came too late, and was said to: {:?}", self.late)
        })?;
        let hope = is.is_some() || self.order.next_timeout().is_some();
        demand_that(Rule::O3, first.is_none() || hope, || "waits for nothing".into())
    }
}
