//! A session from accept to its last descriptor: while it is open, and then its sockets for as long as
//! there are bytes in them. What a loop tells it, and what it asks of the loop, in one place for all loops.

use std::hash::{BuildHasher, Hasher, RandomState};

use relay_core::admission::Stranger;
use relay_core::{Instant, Leg, Pumped, Ready, Stop};

use crate::acceptor::{Accepted, Which};
use crate::closing::{self, Closing};
use crate::live::{Desk, Live};

/// From the acceptor to a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message {
    /// It is this one's turn to be dialed, as it were since then.
    Dial(Instant),
    /// It has to make room for others.
    Evict,
    /// The limits of the rate have changed.
    Relimit,
    /// Of some peers it has come out that they would not be let in any more.
    Review,
    /// The operator's wish, for this one.
    Abort,
    /// The operator's wish, for every session.
    Stop(Stop),
}

/// What a session asks of its loop after a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Another turn, once others have had theirs.
    Again,
    /// Nothing until something happens to it, or its [`deadline`](Lifecycle::deadline) has come.
    Idle,
    /// All is closed; it is to be forgotten and [reported](crate::acceptor::Report::Closed).
    Closed {
        /// Its front had to prove who it is, and never did.
        stranger: Option<Stranger>,
    },
}

/// See the [module](self).
#[derive(Debug)]
pub struct Lifecycle {
    state: State,
    /// The latest time at which everything is closed, once the operator has said stop.
    end: Option<Instant>,
}

#[derive(Debug)]
enum State {
    Live(Box<Live>),
    /// Over, but for the bytes in its sockets, which are looked at again then.
    Closing(Closing, Option<Instant>),
}

impl Lifecycle {
    /// A session for a connection just accepted; it is to have a turn at once.
    pub fn new(accepted: Accepted, desk: &mut impl Desk) -> Self {
        Self { state: State::Live(Box::new(Live::new(accepted, desk))), end: None }
    }

    /// Whether this session is meant. One that is over is nobody's any more.
    #[must_use]
    pub fn is(&self, which: Which) -> bool {
        match &self.state {
            State::Live(live) => which.is(live.seat().id(), live.seat().route()),
            State::Closing(..) => false,
        }
    }

    /// What is known of a leg's readiness; nothing if it is not connected, or over.
    #[must_use]
    pub fn ready(&self, leg: Leg) -> Ready {
        match &self.state {
            State::Live(live) => live.ready(leg),
            State::Closing(..) => Ready::default(),
        }
    }

    /// When [`on_time`](Self::on_time) is next to be called. To be asked after each turn.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Live(live) => live.deadline(),
            State::Closing(_, look_at) => *look_at,
        }
    }

    /// Tells it what the acceptor has to say. Whether it then has a turn: of thousands of sessions a review
    /// is about a few.
    pub fn tell(&mut self, message: Message, desk: &mut impl Desk) -> bool {
        let now = desk.now();
        if let Message::Stop(stop) = message {
            let end = closing::end(stop, now);
            self.end = Some(self.end.map_or(end, |known| known.min(end)));
        }
        let State::Live(live) = &mut self.state else { return message != Message::Review };
        match message {
            Message::Review => return live.review(now),
            Message::Dial(since) => live.may_dial(since, desk),
            Message::Evict => live.evict(now),
            Message::Relimit => live.relimit(),
            Message::Abort => live.stop(now, Stop::Abort),
            Message::Stop(stop) => live.stop(now, stop),
        }
        true
    }

    /// Bytes have come, or there is room for some, or something is wrong. Whether it then has a turn: if it
    /// is over, what still comes is looked at when its time comes, however much it is.
    #[must_use]
    pub fn on_edge(&mut self, leg: Leg, edge: Ready, desk: &mut impl Desk) -> bool {
        match &mut self.state {
            State::Live(live) => {
                live.on_edge(leg, edge, desk);
                true
            }
            State::Closing(..) => false,
        }
    }

    /// Whatever timer is due fires; it then has a turn.
    pub fn on_time(&mut self, now: Instant, desk: &mut impl Desk) {
        if let State::Live(live) = &mut self.state {
            live.on_time(now, desk);
        }
    }

    /// Moves what can be moved, and closes what can be closed.
    pub fn turn(&mut self, desk: &mut impl Desk) -> Progress {
        if let State::Live(live) = &mut self.state {
            match live.turn(desk) {
                Pumped::Again => return Progress::Again,
                Pumped::Idle => return Progress::Idle,
                Pumped::Done => self.state = State::Closing(live.end(desk), None),
            }
        }
        let State::Closing(closing, look_at) = &mut self.state else { return Progress::Idle };
        *look_at = closing.look(desk.now(), self.end);
        if look_at.is_some() { Progress::Idle } else { Progress::Closed { stranger: closing.stranger } }
    }
}

/// Another number each time, for jitter.
#[must_use]
pub fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
