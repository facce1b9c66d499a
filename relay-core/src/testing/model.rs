//! The reference model: the same session told a second time, as facts kept apart and formulas over
//! them, where [`Session`](crate::Session) keeps a phase per flow. Slow and plain on purpose.

use core::time::Duration;
use std::vec::Vec;

use crate::config::Config;
use crate::error::Failure;
use crate::leg::{Leg, PerLeg};
use crate::session::{Demand, EndReason, Input, Stop, Timer};
use crate::time::Instant;

/// How a flow's source ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SourceEnd {
    /// By its own orderly end.
    Eof,
    /// By a failure, or because the opposite direction took it along.
    Failed,
}

/// What happened to one flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowFacts {
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub wrote: u64,
    /// How the source ended, if it did.
    pub source: Option<SourceEnd>,
    /// The sink failed.
    pub sink_failed: bool,
    /// FINs passed on.
    pub fins: u32,
    /// Storage is out of slots.
    pub full: bool,
    /// A timer or the operator ended it.
    pub given_up: bool,
    /// Why it ended, or will end.
    pub why: Option<EndReason>,
}

impl FlowFacts {
    const fn buffered(&self) -> u64 {
        if self.sink_failed || self.given_up { 0 } else { self.read - self.wrote }
    }

    /// Over, as far as this flow alone can tell.
    fn is_over(&self) -> bool {
        self.given_up
            || self.fins > 0
            || (self.sink_failed && self.source.is_some())
            || (self.source == Some(SourceEnd::Failed) && self.buffered() == 0)
    }

    /// Something ends it. What went wrong first stays; a good end that turns bad is a bad one.
    fn ends(&mut self, why: EndReason) {
        if !self.is_over() && self.why.is_none_or(EndReason::is_clean) {
            self.why = Some(why);
        }
    }

    /// Its source failed, or was severed: what it said of its end before is not changed by that.
    fn source_ends(&mut self, end: SourceEnd, why: EndReason) {
        if self.source.is_none() {
            self.ends(why);
            self.source = Some(end);
        }
    }

    /// Ended well.
    pub fn is_complete(&self) -> bool {
        self.fins > 0
    }
}

/// Everything that was reported about a session.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Model {
    config: Config,
    /// Which legs are connected.
    pub connected: PerLeg<bool>,
    /// Which legs are secured.
    pub secured: PerLeg<bool>,
    /// By the leg read from.
    pub flows: PerLeg<FlowFacts>,
    /// The socket's error, which a write consumed.
    pub doomed: PerLeg<Option<Failure>>,
    /// Since when each leg's dial or handshake could be under way.
    pub since: PerLeg<Instant>,
    /// Others are dialed first.
    pub queued: bool,
    /// A limit of the rate has the peers wait.
    pub held: bool,
    born: Instant,
    /// The connection itself failed.
    pub dead: PerLeg<bool>,
    /// The earliest drain deadline.
    pub drain_until: Option<Instant>,
    /// When something moved for somebody's good.
    pub last_progress: Instant,
}

impl Model {
    /// Front accepted, nothing else.
    pub fn new(config: Config, now: Instant) -> Self {
        Self {
            config,
            connected: PerLeg::new(true, false),
            secured: config.secure.map(|secure| !secure),
            flows: PerLeg::default(),
            doomed: PerLeg::both(None),
            dead: PerLeg::both(false),
            since: PerLeg::both(now),
            queued: false,
            held: false,
            born: now,
            drain_until: None,
            last_progress: now,
        }
    }

    /// The session's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Connected and secured.
    pub fn is_up(&self, leg: Leg) -> bool {
        self.connected[leg] && self.secured[leg]
    }

    fn both_up(&self) -> bool {
        self.is_up(Leg::Front) && self.is_up(Leg::Back)
    }

    fn in_vain(&self, leg: Leg) -> bool {
        let (flow, answer) = (&self.flows[leg], &self.flows[leg.other()]);
        let uploads_to_nobody = flow.sink_failed && flow.source.is_none();
        let answered = answer.is_complete() && self.config.linger[leg] == Duration::ZERO;
        let no_answer = answer.sink_failed || (answer.is_over() && !answer.is_complete());
        uploads_to_nobody && (answered || no_answer)
    }

    /// Both directions are over.
    pub fn is_closed(&self) -> bool {
        Leg::BOTH.into_iter().all(|leg| self.flows[leg].is_over() || self.in_vain(leg))
    }

    /// The formula for what may be done.
    pub fn demand(&self, leg: Leg) -> Demand {
        if self.is_closed() {
            return Demand::NONE;
        }
        let may_connect = leg == Leg::Back && self.is_up(Leg::Front) && !self.connected.back;
        if !self.both_up() {
            let secure = self.connected[leg] && !self.secured[leg];
            return Demand { connect: may_connect, secure, ..Demand::NONE };
        }
        let (from, into) = (&self.flows[leg], &self.flows[leg.other()]);
        let capacity = self.config.capacity[leg] as u64;
        let read = match from.source {
            Some(_) => 0,
            None if from.sink_failed => capacity,
            None if from.full => 0,
            None => capacity - from.buffered(),
        };
        let write = if into.is_over() { 0 } else { into.buffered() };
        let shutdown = into.source == Some(SourceEnd::Eof) && !into.is_over() && into.buffered() == 0;
        Demand { connect: false, secure: false, read: read as usize, write: write as usize, shutdown }
    }

    /// The formula for the next timer, and for which one it is.
    pub fn next_timeout(&self) -> Option<(Instant, Timer)> {
        if self.is_closed() {
            return None;
        }
        let config = &self.config;
        let mut due = Vec::new();
        let mut run = |condition: bool, since: Instant, timeout: Option<Duration>, timer| {
            if let (true, Some(timeout)) = (condition, timeout) {
                due.push((since + timeout, timer));
            }
        };
        let dialing = self.is_up(Leg::Front) && !self.connected.back && !self.queued;
        run(dialing, self.since.back, config.dial_timeout, Timer::Dial);
        for leg in Leg::BOTH {
            let securing = self.connected[leg] && !self.secured[leg];
            run(securing, self.since[leg], config.secure_timeout, Timer::Secure(leg));
            let (upload, answer) = (&self.flows[leg], &self.flows[leg.other()]);
            let lingers = answer.is_complete() && upload.sink_failed && upload.source.is_none();
            run(lingers, self.last_progress, Some(config.linger[leg]), Timer::Linger);
        }
        let half_open = Leg::BOTH.into_iter().any(|leg| {
            let flow = &self.flows[leg];
            flow.given_up || flow.is_complete() || flow.sink_failed || flow.source == Some(SourceEnd::Failed)
        });
        run(self.both_up() && !self.held, self.last_progress, config.idle_timeout, Timer::Idle);
        let flushed = Leg::BOTH.into_iter().all(|leg| self.flows[leg].buffered() == 0);
        run(
            half_open && flushed && !self.held,
            self.last_progress,
            config.half_open_timeout,
            Timer::HalfOpen,
        );
        run(true, self.born, config.max_lifetime, Timer::Lifetime);
        run(
            self.drain_until.is_some(),
            self.drain_until.unwrap_or_default(),
            Some(Duration::ZERO),
            Timer::Drain,
        );
        due.into_iter().min()
    }

    /// Takes note of a fact. The caller sees to it that it was demanded.
    pub fn handle(&mut self, now: Instant, input: Input) {
        if self.is_closed() {
            return;
        }
        if let Input::ReadFailed(leg, failure) | Input::WriteFailed(leg, failure) = input {
            self.dead[leg] |= is_known_to_peer(failure);
        }
        match input {
            Input::Connected(leg) => {
                self.connected[leg] = true;
                self.since[leg] = now;
                self.last_progress = now;
            }
            Input::Queued => self.queued = true,
            Input::Turn(since) => {
                self.queued = false;
                self.since.back = since;
            }
            Input::Secured(leg) => {
                self.secured[leg] = true;
                if leg == Leg::Front {
                    self.since.back = now;
                }
                self.last_progress = now;
            }
            Input::Read(leg, count) => {
                self.flows[leg].read += count as u64;
                if !self.flows[leg].sink_failed {
                    self.last_progress = now;
                }
            }
            Input::Wrote(leg, count) => {
                let flow = &mut self.flows[leg.other()];
                flow.wrote += count as u64;
                flow.full = false;
                self.last_progress = now;
            }
            Input::Eof(leg) if self.is_up(leg) && self.doomed[leg].is_none() => {
                let why = if self.config.secure[leg] { EndReason::CloseNotify } else { EndReason::Eof };
                self.flows[leg].source_ends(SourceEnd::Eof, why);
                if !self.flows[leg].sink_failed {
                    self.last_progress = now;
                }
            }
            Input::Eof(leg) => self.source_failed(leg, self.doomed[leg].unwrap_or(Failure::Truncated)),
            Input::ReadFailed(leg, failure) => self.source_failed(leg, failure),
            Input::WriteFailed(leg, failure) => self.sink_failed(now, leg, failure),
            Input::ShutDown(leg) => {
                self.flows[leg.other()].fins += 1;
                self.last_progress = now;
            }
            Input::Full(leg) => self.flows[leg].full = true,
            Input::Held => self.held = true,
            Input::Released => {
                self.held = false;
                self.last_progress = now;
            }
            Input::Stop(Stop::Abort) => self.give_up(EndReason::Aborted),
            Input::Distrusted(leg, why) => self.give_up(EndReason::Distrusted(leg, why)),
            Input::Stop(Stop::Drain { until }) => {
                self.drain_until = Some(self.drain_until.map_or(until, |known| known.min(until)));
            }
        }
        self.sever();
    }

    /// All of it ended at once.
    pub fn give_up(&mut self, why: EndReason) {
        for leg in Leg::BOTH {
            self.flows[leg].ends(why);
            self.flows[leg].given_up |= !self.flows[leg].is_over();
        }
    }

    fn source_failed(&mut self, leg: Leg, failure: Failure) {
        if self.is_up(leg) {
            self.flows[leg].source_ends(SourceEnd::Failed, EndReason::SourceFailed(failure));
        } else {
            self.give_up(EndReason::SetupFailed(leg, failure));
        }
    }

    fn sink_failed(&mut self, now: Instant, leg: Leg, failure: Failure) {
        if !self.is_up(leg) {
            return self.give_up(EndReason::SetupFailed(leg, failure));
        }
        // EPIPE leaves the socket's error for the next read
        if failure != Failure::BrokenPipe {
            self.doomed[leg].get_or_insert(failure);
        }
        let flow = &mut self.flows[leg.other()];
        if flow.source.is_none() && !flow.sink_failed {
            self.last_progress = now;
        }
        flow.ends(EndReason::SinkFailed(failure));
        flow.sink_failed |= !flow.is_over();
        if !is_known_to_peer(failure) {
            self.source_failed(leg, failure);
        }
    }

    /// A flow whose source failed and which has delivered what it had takes its sink's leg along.
    fn sever(&mut self) {
        for _ in Leg::BOTH {
            for leg in Leg::BOTH {
                let flow = &self.flows[leg];
                let cut = flow.source == Some(SourceEnd::Failed) && !flow.sink_failed && !flow.given_up;
                if cut && flow.buffered() == 0 {
                    self.flows[leg.other()].source_ends(SourceEnd::Failed, EndReason::Severed);
                }
            }
        }
    }
}

/// Whether the peer, if there still is one, cannot take what it got for the whole, however the
/// connection is closed.
const fn is_known_to_peer(failure: Failure) -> bool {
    matches!(
        failure,
        Failure::Reset
            | Failure::BrokenPipe
            | Failure::TimedOut
            | Failure::Unreachable
            | Failure::HungUp
            | Failure::Refused
            | Failure::NotFound
    )
}
