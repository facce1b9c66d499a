//! The ledger of one relayed connection: two legs, two flows, timers. No bytes, no I/O, no clock.
//!
//! Methods come in three kinds:
//! - **handlers** take a fact and the present time: [`Session::handle`], [`Session::handle_timeout`];
//! - **demands** are pure functions of the state, so nothing can be forgotten in a queue:
//!   [`Session::demand`], [`Session::next_timeout`];
//! - **getters** tell what happened: [`Session::outcome`], [`Session::stats`], …
//!
//! A runtime performs what is demanded, when the transport lets it, and reports what came of it.
//! It may do so in any order. A report that was not demanded is a bug of the runtime and panics
//! with the rule that was broken, as far as the ledger can tell: a failure may be reported of any leg
//! that is there. Nothing that a peer does can panic here.

mod outcome;

use core::fmt;
use core::time::Duration;

use crate::config::Config;
use crate::error::Failure;
use crate::flow::{Event, Flow, Phase};
use crate::leg::{Leg, PerLeg};
use crate::time::Instant;

pub use outcome::{Close, Distrust, EndReason, FlowEnd, Outcome};

/// A fact, in the past tense.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Input {
    /// The leg is connected ([`Demand::connect`]). Back's only: Front was accepted.
    Connected(Leg),
    /// Others are dialed before Back is: the dial clock stands until its turn ([`Demand::connect`]).
    Queued,
    /// It is Back's turn to be dialed, and it counts as so since then: the dial clock's beginning
    /// ([`Demand::connect`]).
    Turn(Instant),
    /// The leg's handshake is complete and its peer authenticated ([`Demand::secure`]).
    Secured(Leg),
    /// So many bytes were read, 1 to [`Demand::read`].
    Read(Leg, usize),
    /// The peer's own, orderly end: EOF on a plain leg, close_notify on a secure one.
    Eof(Leg),
    /// The leg took so many bytes, 1 to [`Demand::write`].
    Wrote(Leg, usize),
    /// The FIN was passed on ([`Demand::shutdown`]).
    ShutDown(Leg),
    /// What is read from the leg can't be stored although there is room by count: a kernel pipe out
    /// of slots. Only while something is buffered; a write lifts it.
    Full(Leg),
    /// What there may be to read is left unread for now, because a limit of the rate has it wait
    /// ([`Demand::read`]). Idle and half-open clocks stand until it is [`Released`](Self::Released): the
    /// peers can't help it.
    Held,
    /// It waits no more.
    Released,
    /// Reading, or bringing the leg up (dial, handshake), failed.
    ReadFailed(Leg, Failure),
    /// Writing, shutting down, or bringing the leg up failed.
    WriteFailed(Leg, Failure),
    /// The operator's wish. A second one is harmless; an abort overrides a drain.
    Stop(Stop),
    /// The peer of a leg that is secured would not be let in any more. Nothing more of it is taken, nor
    /// given to it: both directions end at once.
    Distrusted(Leg, Distrust),
}

/// How to end early.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stop {
    /// Go on until the session ends by itself, but no longer than this.
    Drain {
        /// The deadline; of several the earliest counts.
        until: Instant,
    },
    /// At once.
    Abort,
}

/// Which clock is running.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Timer {
    /// Back is not connected in time, counted from its turn.
    Dial,
    /// The leg's handshake takes too long.
    Secure(Leg),
    /// No progress for too long.
    Idle,
    /// One direction is over, everything is flushed, and the other makes no progress.
    HalfOpen,
    /// An answered peer was given its time to stop uploading.
    Linger,
    /// The session's greatest age.
    Lifetime,
    /// The drain's deadline.
    Drain,
}

impl fmt::Display for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dial => "dial",
            Self::Secure(Leg::Front) => "handshake-front",
            Self::Secure(Leg::Back) => "handshake-back",
            Self::Idle => "idle",
            Self::HalfOpen => "half-open",
            Self::Linger => "linger",
            Self::Lifetime => "lifetime",
            Self::Drain => "drain",
        })
    }
}

/// What may be done on a leg now. Everything that is demanded may be done; nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Demand {
    /// Dial it.
    pub connect: bool,
    /// Go on with its handshake.
    pub secure: bool,
    /// Read up to so many plaintext bytes.
    pub read: usize,
    /// Write up to so many.
    pub write: usize,
    /// Pass the FIN on.
    pub shutdown: bool,
}

impl Demand {
    /// Nothing at all.
    pub const NONE: Self = Self { connect: false, secure: false, read: 0, write: 0, shutdown: false };
}

/// Counts of a session, at any time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Stats {
    /// Plaintext bytes read, by the leg read from.
    pub read: PerLeg<u64>,
    /// Plaintext bytes delivered, by the leg **read from**.
    pub delivered: PerLeg<u64>,
}

/// How far a leg has come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Reach {
    /// Back, while Front is not authenticated: it must not be touched.
    Held,
    Dialing {
        /// When the dial clock began; it stands while others are dialed first.
        since: Option<Instant>,
    },
    Securing {
        since: Instant,
    },
    Up,
}

/// See the [module](self).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Session {
    config: Config,
    born: Instant,
    /// When something last moved that matters to somebody.
    progress: Instant,
    legs: PerLeg<Reach>,
    /// By the leg read from.
    flows: PerLeg<Flow>,
    /// A write to the leg failed in a way that consumes the socket's pending error; the zero that a
    /// later read returns is then no end of file (tcp(7): the error is reported once).
    doomed: PerLeg<Option<Failure>>,
    /// The leg's connection is dead.
    dead: PerLeg<bool>,
    drain_until: Option<Instant>,
    /// A limit of the rate has the peers wait.
    held: bool,
    outcome: Option<Outcome>,
}

/// Handlers.
impl Session {
    /// A session whose Front was accepted just now and whose Back is not dialed yet.
    ///
    /// # Panics
    /// If a capacity is zero.
    #[must_use]
    pub fn new(config: Config, now: Instant) -> Self {
        assert!(config.capacity.front > 0 && config.capacity.back > 0, "contract: capacity is at least 1");
        let legs = if config.secure.front {
            PerLeg::new(Reach::Securing { since: now }, Reach::Held)
        } else {
            PerLeg::new(Reach::Up, Reach::Dialing { since: Some(now) })
        };
        Self {
            config,
            born: now,
            progress: now,
            legs,
            flows: config.capacity.map(Flow::new),
            doomed: PerLeg::both(None),
            dead: PerLeg::both(false),
            drain_until: None,
            held: false,
            outcome: None,
        }
    }

    /// What is read from `leg` comes in records of up to `payload` bytes, which are read whole or not at
    /// all: its flow has room for one at least.
    ///
    /// # Panics
    /// If something may have been read from the leg already.
    pub(crate) fn reads_records(&mut self, leg: Leg, payload: usize) {
        let begun = Leg::BOTH.into_iter().all(|leg| self.is_up(leg));
        assert!(!begun, "contract: how a leg is read is known before anything is");
        self.flows[leg].hold_at_least(payload);
        self.config.capacity[leg] = self.config.capacity[leg].max(payload);
    }

    /// Takes note of a fact. Ignored once the session is closed.
    ///
    /// # Panics
    /// If the fact breaks the contract between runtime and session, with the rule's name.
    pub fn handle(&mut self, now: Instant, input: Input) {
        if self.outcome.is_some() {
            return;
        }
        assert!(now >= self.progress, "contract: time never runs back");
        match input {
            Input::Connected(leg) => self.on_connected(now, leg),
            Input::Queued => self.on_dial_clock(None),
            Input::Turn(since) => {
                assert!(since <= now, "contract: a turn begins in the past");
                self.on_dial_clock(Some(since));
            }
            Input::Secured(leg) => self.on_secured(now, leg),
            Input::Read(leg, count) => self.on_read(now, leg, count),
            Input::Eof(leg) => self.on_eof(now, leg),
            Input::Wrote(leg, count) => self.on_wrote(now, leg, count),
            Input::ShutDown(leg) => self.on_shut_down(now, leg),
            Input::Full(leg) => self.on_full(leg),
            Input::Held => self.on_held(),
            Input::Released => self.on_released(now),
            Input::ReadFailed(leg, failure) => self.on_read_failed(leg, failure),
            Input::WriteFailed(leg, failure) => self.on_write_failed(now, leg, failure),
            Input::Stop(Stop::Drain { until }) => {
                self.drain_until = Some(self.drain_until.map_or(until, |known| known.min(until)));
            }
            Input::Stop(Stop::Abort) => self.give_up(EndReason::Aborted),
            Input::Distrusted(leg, why) => self.on_distrusted(leg, why),
        }
        self.settle();
    }

    /// Lets a timer fire whose time has come. Harmless when called early.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some((deadline, timer)) = self.next_timeout()
            && now >= deadline
        {
            self.give_up(EndReason::TimedOut(timer));
            self.settle();
        }
    }

    fn on_connected(&mut self, now: Instant, leg: Leg) {
        assert!(self.demand(leg).connect, "contract: Connected only when demanded, and once");
        self.legs[leg] = if self.config.secure[leg] { Reach::Securing { since: now } } else { Reach::Up };
        self.progress = now;
    }

    fn on_dial_clock(&mut self, since: Option<Instant>) {
        assert!(self.demand(Leg::Back).connect, "contract: Queued and Turn only while Back is to be dialed");
        self.legs.back = Reach::Dialing { since };
    }

    fn on_secured(&mut self, now: Instant, leg: Leg) {
        assert!(self.demand(leg).secure, "contract: Secured only when demanded, and once");
        self.legs[leg] = Reach::Up;
        if self.legs.back == Reach::Held {
            self.legs.back = Reach::Dialing { since: Some(now) };
        }
        self.progress = now;
    }

    fn on_read(&mut self, now: Instant, leg: Leg, count: usize) {
        assert!((1..=self.demand(leg).read).contains(&count), "contract: Read within the demand");
        if self.flows[leg].phase() == Phase::Open {
            self.progress = now;
        }
        self.flows[leg].on_read(count);
    }

    fn on_wrote(&mut self, now: Instant, leg: Leg, count: usize) {
        assert!((1..=self.demand(leg).write).contains(&count), "contract: Wrote within the demand");
        self.flows[leg.other()].on_written(count);
        self.progress = now;
    }

    fn on_eof(&mut self, now: Instant, leg: Leg) {
        let reads = matches!(self.flows[leg].phase(), Phase::Open | Phase::Discarding);
        assert!(reads && self.is_connected(leg), "contract: Eof only of a leg that is read from, and once");
        if let Some(failure) = self.doomed[leg] {
            return self.on_read_failed(leg, failure);
        }
        if self.legs[leg] != Reach::Up {
            return self.on_read_failed(leg, Failure::Truncated);
        }
        let reason = if self.config.secure[leg] { EndReason::CloseNotify } else { EndReason::Eof };
        if self.flows[leg].phase() == Phase::Open {
            self.progress = now;
        }
        self.flows[leg].apply(Event::SourceEnded, Some(reason));
    }

    fn on_shut_down(&mut self, now: Instant, leg: Leg) {
        assert!(self.demand(leg).shutdown, "contract: ShutDown only when demanded, and once");
        self.flows[leg.other()].apply(Event::FinPassed, None);
        self.progress = now;
    }

    fn on_full(&mut self, leg: Leg) {
        assert!(self.flows[leg].may_fill(), "contract: Full only while something is buffered, and once");
        self.flows[leg].on_full();
    }

    fn on_held(&mut self) {
        let reads = Leg::BOTH.into_iter().any(|leg| self.demand(leg).read > 0);
        assert!(reads && !self.held, "contract: Held only while something is to be read, and once");
        self.held = true;
    }

    fn on_released(&mut self, now: Instant) {
        assert!(self.held, "contract: Released only while held");
        self.held = false;
        // Nobody could move anything meanwhile.
        self.progress = now;
    }

    fn on_read_failed(&mut self, leg: Leg, failure: Failure) {
        assert!(self.legs[leg] != Reach::Held, "contract: Back is not touched before Front is authenticated");
        self.dead[leg] |= failure.is_of_transport();
        if self.legs[leg] == Reach::Up {
            self.flows[leg].apply(Event::SourceFailed, Some(EndReason::SourceFailed(failure)));
        } else {
            self.give_up(EndReason::SetupFailed(leg, failure));
        }
    }

    fn on_write_failed(&mut self, now: Instant, leg: Leg, failure: Failure) {
        assert!(self.is_connected(leg), "contract: WriteFailed only of a leg that is connected");
        self.dead[leg] |= failure.is_of_transport();
        if self.legs[leg] != Reach::Up {
            return self.give_up(EndReason::SetupFailed(leg, failure));
        }
        // EPIPE leaves the socket's error, if there is one, for the next read; others consume it.
        if failure != Failure::BrokenPipe && self.doomed[leg].is_none() {
            self.doomed[leg] = Some(failure);
        }
        if self.flows[leg.other()].phase() == Phase::Open {
            // the half-open clock of the other direction starts here
            self.progress = now;
        }
        self.flows[leg.other()].apply(Event::SinkFailed, Some(EndReason::SinkFailed(failure)));
        if !failure.is_of_transport() {
            // Its peer has noticed nothing and may wait for us for ever, as we would for it.
            self.flows[leg].apply(Event::SourceFailed, Some(EndReason::SourceFailed(failure)));
        }
    }

    fn is_connected(&self, leg: Leg) -> bool {
        matches!(self.legs[leg], Reach::Securing { .. } | Reach::Up)
    }

    fn on_distrusted(&mut self, leg: Leg, why: Distrust) {
        let proven = self.config.secure[leg] && self.legs[leg] == Reach::Up;
        assert!(proven, "contract: Distrusted only of a peer that has proved who it is");
        self.give_up(EndReason::Distrusted(leg, why));
    }

    fn give_up(&mut self, reason: EndReason) {
        for leg in Leg::BOTH {
            self.flows[leg].apply(Event::GivenUp, Some(reason));
        }
    }

    /// Draws the conclusions that need no further fact.
    fn settle(&mut self) {
        // Front, Back, and Front again: Back's end may have severed it.
        for leg in [Leg::Front, Leg::Back, Leg::Front] {
            if self.flows[leg].phase() == Phase::Cut && self.flows[leg].buffered() == 0 {
                self.flows[leg].apply(Event::Drained, None);
                // Its sink is to be reset, so nothing more can come from there.
                self.flows[leg.other()].apply(Event::SourceFailed, Some(EndReason::Severed));
            }
        }
        for leg in Leg::BOTH {
            if self.discards_in_vain(leg) {
                self.flows[leg].apply(Event::GivenUp, None);
            }
        }
        if self.flows.front.phase().is_final() && self.flows.back.phase().is_final() {
            self.close();
        }
    }

    /// Whether what `leg` uploads is thrown away for nobody's good: there is no answer on its way.
    fn discards_in_vain(&self, leg: Leg) -> bool {
        let answer = self.flows[leg.other()].phase();
        self.flows[leg].phase() == Phase::Discarding
            && match answer {
                Phase::Open | Phase::Ended | Phase::Cut => false,
                Phase::Shut => self.config.linger[leg] == Duration::ZERO,
                Phase::Broken | Phase::Discarding => true,
            }
    }

    fn close(&mut self) {
        let end = |flow: &Flow| FlowEnd {
            // A final flow always has its reason; should one not, it was cut short.
            reason: flow.reason().unwrap_or(EndReason::Aborted),
            read: flow.bytes_read(),
            delivered: flow.bytes_written(),
        };
        let close = |leg: Leg| {
            let complete = self.flows[leg.other()].phase() == Phase::Shut;
            if complete || self.legs[leg] != Reach::Up {
                Close::Orderly
            } else if self.dead[leg] {
                Close::Dead
            } else {
                Close::Reset
            }
        };
        self.outcome = Some(Outcome {
            flows: PerLeg::new(end(&self.flows.front), end(&self.flows.back)),
            close: PerLeg::new(close(Leg::Front), close(Leg::Back)),
        });
    }
}

/// Demands.
impl Session {
    /// What may be done on `leg` now.
    #[must_use]
    pub fn demand(&self, leg: Leg) -> Demand {
        if self.outcome.is_some() {
            return Demand::NONE;
        }
        match self.legs[leg] {
            Reach::Held => Demand::NONE,
            Reach::Dialing { .. } => Demand { connect: true, ..Demand::NONE },
            Reach::Securing { .. } => Demand { secure: true, ..Demand::NONE },
            // Nothing is taken from a peer that could not be passed on.
            Reach::Up if self.legs[leg.other()] != Reach::Up => Demand::NONE,
            Reach::Up => Demand {
                read: self.flows[leg].room(),
                write: self.flows[leg.other()].buffered(),
                shutdown: self.flows[leg.other()].fin_due(),
                ..Demand::NONE
            },
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is next to be called, and which timer that is.
    /// Changes with every input.
    #[must_use]
    pub fn next_timeout(&self) -> Option<(Instant, Timer)> {
        if self.outcome.is_some() {
            return None;
        }
        let config = &self.config;
        let after = |since: Instant, timeout: Option<Duration>, timer| timeout.map(|t| (since + t, timer));
        let leg_timer = |leg| match self.legs[leg] {
            Reach::Dialing { since } => after(since?, config.dial_timeout, Timer::Dial),
            Reach::Securing { since } => after(since, config.secure_timeout, Timer::Secure(leg)),
            Reach::Held | Reach::Up => None,
        };
        let up = self.legs.front == Reach::Up && self.legs.back == Reach::Up;
        [
            leg_timer(Leg::Front),
            leg_timer(Leg::Back),
            if up && !self.held { after(self.progress, config.idle_timeout, Timer::Idle) } else { None },
            if self.is_half_open() && !self.held {
                after(self.progress, config.half_open_timeout, Timer::HalfOpen)
            } else {
                None
            },
            self.lingering().and_then(|leg| after(self.progress, Some(config.linger[leg]), Timer::Linger)),
            after(self.born, config.max_lifetime, Timer::Lifetime),
            self.drain_until.map(|until| (until, Timer::Drain)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// One direction is over, or its source is gone, and the other one has nothing under way: whoever
    /// takes his time with what is buffered for him is slow, and not gone.
    fn is_half_open(&self) -> bool {
        let over = Leg::BOTH.iter().any(|leg| match self.flows[*leg].phase() {
            Phase::Open | Phase::Ended => false,
            Phase::Cut | Phase::Discarding | Phase::Shut | Phase::Broken => true,
        });
        over && Leg::BOTH.iter().all(|leg| self.flows[*leg].buffered() == 0)
    }

    /// The leg that has its answer and its FIN and still uploads.
    fn lingering(&self) -> Option<Leg> {
        Leg::BOTH.into_iter().find(|leg| {
            self.flows[*leg].phase() == Phase::Discarding && self.flows[leg.other()].phase() == Phase::Shut
        })
    }
}

/// Getters.
impl Session {
    /// `Some` once the session is closed; from then on constant, and nothing is demanded any more.
    #[must_use]
    pub const fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// Bytes so far.
    #[must_use]
    pub const fn stats(&self) -> Stats {
        Stats {
            read: PerLeg::new(self.flows.front.bytes_read(), self.flows.back.bytes_read()),
            delivered: PerLeg::new(self.flows.front.bytes_written(), self.flows.back.bytes_written()),
        }
    }

    /// Bytes read from `leg` and not yet taken by the opposite one.
    #[must_use]
    pub fn buffered(&self, leg: Leg) -> usize {
        self.flows[leg].buffered()
    }

    /// The phase of the flow read from `leg`.
    #[must_use]
    pub fn phase(&self, leg: Leg) -> Phase {
        self.flows[leg].phase()
    }

    /// Whether `leg` is connected and, if it has a handshake, secured.
    #[must_use]
    pub fn is_up(&self, leg: Leg) -> bool {
        self.legs[leg] == Reach::Up
    }

    /// Whether a limit of the rate has the peers wait.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        self.held
    }

    /// When something last moved.
    #[must_use]
    pub const fn last_progress(&self) -> Instant {
        self.progress
    }

    /// What the session was told at its start; the capacity of a flow that is read in records is at least
    /// one of them.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }
}
