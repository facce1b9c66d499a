//! The one loop that all runtimes share: moves bytes between a [`Relay`] and its two transports for
//! as long as they let it.
//!
//! Decided here, once: a write that takes nothing is a failure, a read that gives nothing is an end
//! of file, an interrupted call is made again, and a turn has a budget, which that costs something of,
//! too. Out of budget means "stay in the run queue", never "wait for readiness".

mod piped;
mod receiving;
mod transport;

use crate::bandwidth::Throttle;
use crate::codec::Codec;
use crate::error::Failure;
use crate::flow::Phase;
use crate::leg::{Leg, PerLeg};
use crate::link::BATCH;
use crate::pool::Pool;
use crate::relay::Relay;
use crate::session::{Input, Session};
use crate::time::Instant;

pub(crate) use piped::Lane;
pub use transport::{Filled, Ready, Transport, TryError};

/// Slices that one [`Transport::try_write`] is given at most.
pub const WRITE_SLICES: usize = 64;

/// Slices that one [`Transport::try_read`] is given at most.
pub const READ_SLICES: usize = BATCH;

/// What an interrupted call takes of a turn's budget, in bytes: nothing was moved, but a transport that
/// says so for ever must not keep a whole loop.
const INTERRUPTION: usize = 4 << 10;

/// Why the pump stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pumped {
    /// Nothing can be done before a readiness edge, a timer or a call of the runtime's.
    Idle,
    /// The budget is used up: pump again, after others had their turn.
    Again,
    /// The session is closed.
    Done,
}

/// Moves what can be moved, about `budget` bytes at most.
///
/// # Panics
/// If the transport says that it moved more than it was offered.
pub fn pump<C: Codec, T: Transport>(
    relay: &mut Relay<C>,
    io: &mut T,
    ready: &mut PerLeg<Ready>,
    pool: &mut Pool,
    now: Instant,
    budget: usize,
) -> Pumped {
    pump_throttled(relay, io, ready, pool, now, budget, None)
}

/// The same, reading no more than `throttle` grants, if there is one. If only that stands in the way it is
/// idle, and to be pumped again at [`Throttle::ready_at`].
///
/// # Panics
/// As [`pump`].
pub fn pump_throttled<C: Codec, T: Transport>(
    relay: &mut Relay<C>,
    io: &mut T,
    ready: &mut PerLeg<Ready>,
    pool: &mut Pool,
    now: Instant,
    budget: usize,
    throttle: Option<&mut Throttle>,
) -> Pumped {
    Turn { relay, io, ready, pool, now, throttle, moved: 0, held: false }.run(budget)
}

/// What was not offered is another connection's, or nobody's.
fn check_moved(count: usize, offered: usize) {
    assert!(count <= offered, "contract: a transport moves no more than it is offered");
}

/// One call of [`pump`].
struct Turn<'a, C, T> {
    relay: &'a mut Relay<C>,
    io: &'a mut T,
    ready: &'a mut PerLeg<Ready>,
    pool: &'a mut Pool,
    now: Instant,
    throttle: Option<&'a mut Throttle>,
    moved: usize,
    /// Something could be read if the throttle let it.
    held: bool,
}

impl<C: Codec, T: Transport> Turn<'_, C, T> {
    fn run(&mut self, budget: usize) -> Pumped {
        let pumped = self.go_on(budget);
        let held = self.held && pumped == Pumped::Idle;
        if held != self.session().is_held() && pumped != Pumped::Done {
            self.tell(if held { Input::Held } else { Input::Released });
        }
        if let Some(throttle) = &mut self.throttle
            && !held
            && pumped != Pumped::Again
        {
            throttle.settle();
        }
        pumped
    }

    fn go_on(&mut self, budget: usize) -> Pumped {
        loop {
            self.held = false;
            let mut progress = false;
            for leg in Leg::BOTH {
                progress |= self.look_at_hang_up(leg);
            }
            for leg in Leg::BOTH {
                progress |= self.send(leg);
            }
            let first = self.throttle.as_ref().map_or(Leg::Front, |throttle| throttle.first());
            for leg in [first, first.other()] {
                progress |= self.receive(leg);
            }
            if self.relay.outcome().is_some() {
                Leg::BOTH.into_iter().for_each(|leg| self.close_pipe(leg));
                return Pumped::Done;
            }
            if !progress {
                self.relay.release_idle(self.pool);
                self.close_idle_pipes();
                return Pumped::Idle;
            }
            if self.moved >= budget {
                return Pumped::Again;
            }
        }
    }
}

/// Sending. Each method says whether anything changed.
impl<C: Codec, T: Transport> Turn<'_, C, T> {
    fn send(&mut self, leg: Leg) -> bool {
        let demand = self.session().demand(leg);
        let (link, other) = self.relay.links.split_mut(leg);
        let Some(codec) = &mut link.codec else { return false };
        if link.write_over || self.relay.session.outcome().is_some() {
            return false;
        }
        let mut progress = false;
        if demand.shutdown && !link.closing {
            link.closing = true;
            codec.close();
            progress = true;
        }
        progress |= link.outbound.stage_control(codec, self.pool);
        if !self.ready[leg].writable {
            return progress;
        }
        if !link.outbound.is_empty() {
            progress | self.send_wire(leg)
        } else if other.inbound.has_payloads() {
            progress | self.send_payloads(leg)
        } else if other.lane.holds() > 0 {
            progress | self.drain_pipe(leg)
        } else if demand.shutdown {
            progress | self.send_fin(leg)
        } else {
            progress
        }
    }

    fn send_wire(&mut self, leg: Leg) -> bool {
        let link = &mut self.relay.links[leg];
        let offered = link.outbound.wire().len();
        match self.io.try_write(leg, &[link.outbound.wire()]) {
            Ok(count) if count > 0 => {
                check_moved(count, offered);
                self.moved += count;
                let delivered = link.outbound.take(count, link.layout());
                if delivered > 0 {
                    self.tell(Input::Wrote(leg, delivered));
                }
                true
            }
            refused => self.on_write_refused(leg, refused),
        }
    }

    /// Payloads opened where they lie, straight to a plain sink.
    fn send_payloads(&mut self, leg: Leg) -> bool {
        let inbound = &mut self.relay.links[leg.other()].inbound;
        let mut slices: [&[u8]; WRITE_SLICES] = [&[]; WRITE_SLICES];
        let gathered = inbound.gather(&mut slices);
        let offered = slices[..gathered].iter().map(|slice| slice.len()).sum();
        match self.io.try_write(leg, &slices[..gathered]) {
            Ok(count) if count > 0 => {
                check_moved(count, offered);
                self.moved += count;
                inbound.take_payload(count);
                self.tell(Input::Wrote(leg, count));
                true
            }
            refused => self.on_write_refused(leg, refused),
        }
    }

    fn send_fin(&mut self, leg: Leg) -> bool {
        match self.io.shut_write(leg) {
            Ok(()) => {
                self.relay.links[leg].write_over = true;
                self.tell(Input::ShutDown(leg));
                true
            }
            Err(error) => self.on_write_refused(leg, Err(error)),
        }
    }

    fn on_write_refused(&mut self, leg: Leg, refused: Result<usize, TryError>) -> bool {
        match refused {
            Err(TryError::WouldBlock) => {
                self.ready[leg].writable = false;
                false
            }
            Err(TryError::Interrupted) => self.on_interrupted(),
            Err(TryError::Failed(failure)) => self.write_failed(leg, failure),
            Ok(_) => self.write_failed(leg, Failure::WriteZero),
        }
    }

    fn write_failed(&mut self, leg: Leg, failure: Failure) -> bool {
        let (link, other) = self.relay.links.split_mut(leg);
        link.write_over = true;
        link.outbound.clear();
        other.inbound.discard_payloads();
        self.close_pipe(leg.other());
        self.tell(Input::WriteFailed(leg, failure));
        true
    }
}

/// Hanging up. What a peer sent before it hung up is read like everything else, and then its end or
/// its failure; here is what reading does not tell.
impl<C: Codec, T: Transport> Turn<'_, C, T> {
    /// Whether anything changed.
    fn look_at_hang_up(&mut self, leg: Leg) -> bool {
        if !self.ready[leg].hung_up || !self.session().is_up(leg) {
            return false;
        }
        if self.session().is_up(leg.other()) { self.look_for_reset(leg) } else { self.look_for_nobody(leg) }
    }

    /// The backend is not there yet, and perhaps need not be: nothing came, and nobody is there to
    /// take an answer.
    fn look_for_nobody(&mut self, leg: Leg) -> bool {
        if self.relay.links[leg].inbound.held() > 0 {
            return false;
        }
        let failure = match self.io.has_unread(leg) {
            Ok(false) => Failure::HungUp,
            Err(TryError::Failed(failure)) => failure,
            Err(TryError::Interrupted) => return self.on_interrupted(),
            Ok(true) | Err(TryError::WouldBlock) => return false,
        };
        self.tell(Input::ReadFailed(leg, failure));
        true
    }

    /// Everything from the leg was read, its end included, and nothing is to be written to it now that
    /// would show that it was reset since.
    fn look_for_reset(&mut self, leg: Leg) -> bool {
        let reads = matches!(self.session().phase(leg), Phase::Open | Phase::Discarding);
        if reads || self.relay.links[leg].write_over || self.relay.session.outcome().is_some() {
            return false;
        }
        self.ready[leg].hung_up = false;
        match self.io.take_error(leg) {
            Some(failure) => self.write_failed(leg, failure),
            None => false,
        }
    }
}

impl<C: Codec, T: Transport> Turn<'_, C, T> {
    /// The codec gave up: its alert goes out if the transport takes it now, and neither direction of
    /// the leg goes on, for that is what a failed write means that is not of the transport.
    fn codec_failed(&mut self, leg: Leg, failure: Failure) {
        let link = &mut self.relay.links[leg];
        if let Some(codec) = &mut link.codec
            && !link.write_over
        {
            link.outbound.stage_control(codec, self.pool);
            if !link.outbound.is_empty() {
                // Whether it arrives is up to the network; there is nothing else to be done.
                self.moved += self.io.try_write(leg, &[link.outbound.wire()]).unwrap_or(0);
            }
        }
        self.write_failed(leg, failure);
    }
}

impl<C: Codec, T> Turn<'_, C, T> {
    /// The call is made again, within the turn's budget.
    const fn on_interrupted(&mut self) -> bool {
        self.moved += INTERRUPTION;
        true
    }

    const fn session(&self) -> &Session {
        &self.relay.session
    }

    fn tell(&mut self, input: Input) {
        self.relay.session.handle(self.now, input);
    }
}
