//! The one loop that all runtimes share: moves bytes between a [`Relay`] and its two transports for
//! as long as they let it.
//!
//! Decided here, once: a write that takes nothing is a failure, a read that gives nothing is an end
//! of file, an interrupted call is made again, and a turn has a budget, which that costs something of,
//! too. Out of budget means "stay in the run queue", never "wait for readiness".

mod piped;

use crate::bandwidth::Throttle;
use crate::codec::Codec;
use crate::error::Failure;
use crate::flow::Phase;
use crate::leg::{Leg, PerLeg};
use crate::link::{BATCH, Step};
use crate::pool::{LARGEST, Pool};
use crate::relay::Relay;
use crate::session::{Input, Session};
use crate::time::Instant;

pub(crate) use piped::Lane;

/// Slices that one [`Transport::try_write`] is given at most.
pub const WRITE_SLICES: usize = 64;

/// Slices that one [`Transport::try_read`] is given at most.
pub const READ_SLICES: usize = BATCH;

/// What an interrupted call takes of a turn's budget, in bytes: nothing was moved, but a transport that
/// says so for ever must not keep a whole loop.
const INTERRUPTION: usize = 4 << 10;

/// Why a transport did nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TryError {
    /// Not now; the runtime will see a fresh readiness edge when it is worth another try.
    WouldBlock,
    /// A signal came first (EINTR): try again.
    Interrupted,
    /// It never will again.
    Failed(Failure),
}

/// What came of filling a pipe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filled {
    /// So many bytes went in. None: the source's end of file.
    Moved(usize),
    /// Not from this source, or not on this system (splice(2), EINVAL): nothing was moved.
    Unsupported,
}

/// Two connected byte streams that do not block.
///
/// One that has **pipes** of the kernel's (splice(2)) can move bytes between two plain legs without
/// taking them to user space. The defaults say that there are none.
pub trait Transport {
    /// A plain flow whose reads are offered so many bytes, because they fill what they are offered, is
    /// to have a pipe if there is one.
    const PIPE_FROM: usize = usize::MAX;

    /// Fills `slices` in order, as readv(2) does. `Ok(0)` is the end of file; there is always room
    /// for at least one byte.
    ///
    /// # Errors
    /// See [`TryError`].
    fn try_read(&mut self, leg: Leg, slices: &mut [&mut [u8]]) -> Result<usize, TryError>;

    /// Takes bytes of `slices` in order, as writev(2) does. There is always at least one.
    ///
    /// What it takes counts as delivered: nobody asks again. A transport that only puts bytes by, to be
    /// flushed later, has not taken them before that is done.
    ///
    /// # Errors
    /// See [`TryError`].
    fn try_write(&mut self, leg: Leg, slices: &[&[u8]]) -> Result<usize, TryError>;

    /// Sends the FIN, as shutdown(2) with `SHUT_WR` does. Called once per leg at most.
    ///
    /// # Errors
    /// See [`TryError`]; `WouldBlock` means that a WRITABLE edge will follow.
    fn shut_write(&mut self, leg: Leg) -> Result<(), TryError>;

    /// Lends an empty pipe to the flow that is read from `source`; whether there was one to lend. Asked
    /// before each read of a flow that is to have one, so a refusal must cost little.
    fn open_pipe(&mut self, source: Leg) -> bool {
        let _ = source;
        false
    }

    /// Moves up to `most` bytes from `source` into its flow's pipe.
    ///
    /// # Errors
    /// See [`TryError`]. `WouldBlock` also if the pipe takes no more; while there is something in it
    /// nobody can tell.
    fn fill_pipe(&mut self, source: Leg, most: usize) -> Result<Filled, TryError> {
        let _ = (source, most);
        Ok(Filled::Unsupported)
    }

    /// Moves up to `most` bytes from the pipe of the flow that is read from `source` into the opposite
    /// leg. The pipe holds as many, and at least one.
    ///
    /// # Errors
    /// See [`TryError`].
    fn drain_pipe(&mut self, source: Leg, most: usize) -> Result<usize, TryError> {
        let _ = (source, most);
        Ok(0)
    }

    /// Takes the pipe back. `left` bytes are in it, for nobody; it can be lent again if that is none.
    fn close_pipe(&mut self, source: Leg, left: usize) {
        let _ = (source, left);
    }

    /// Whether a read would give bytes, as recv(2) with `MSG_PEEK` tells. Only asked once the leg has
    /// [`hung_up`](Ready::hung_up); whoever never says so need not answer.
    ///
    /// # Errors
    /// See [`TryError`].
    fn has_unread(&mut self, _leg: Leg) -> Result<bool, TryError> {
        Ok(true)
    }

    /// Why the connection is dead (`SO_ERROR`), if it is for a failure. Only asked once the leg has
    /// [`hung_up`](Ready::hung_up) and everything from it was read; whoever never says so need not
    /// answer.
    fn take_error(&mut self, _leg: Leg) -> Option<Failure> {
        None
    }
}

/// What is known of a transport's readiness. A runtime sets a bit when it sees the edge (and both at
/// the start, to be on the safe side); the pump clears it when the transport would block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ready {
    /// A read may give something, an end of file or an error included.
    pub readable: bool,
    /// A write may take something.
    pub writable: bool,
    /// **Both** directions are over (EPOLLHUP, EPOLLERR): what has come can still be read, and nobody
    /// is there to write to. Not to be set for a peer that has only ended its own direction
    /// (EPOLLRDHUP): it waits for its answer. A runtime that can't tell the difference leaves it
    /// unset; then a hang-up is noticed by the next write.
    pub hung_up: bool,
}

impl Ready {
    /// Nothing is known to block.
    pub const BOTH: Self = Self { readable: true, writable: true, hung_up: false };
}

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
pub fn pump<C: Codec, T: Transport>(
    relay: &mut Relay<C>,
    io: &mut T,
    ready: &mut PerLeg<Ready>,
    pool: &mut Pool,
    now: Instant,
    budget: usize,
) -> Pumped {
    Turn { relay, io, ready, pool, now, throttle: None, moved: 0, held: false }.run(budget)
}

/// The same, reading no more than `throttle` grants. If only that stands in the way it is idle, and to be
/// pumped again at [`Throttle::ready_at`].
pub fn pump_throttled<C: Codec, T: Transport>(
    relay: &mut Relay<C>,
    io: &mut T,
    ready: &mut PerLeg<Ready>,
    pool: &mut Pool,
    now: Instant,
    budget: usize,
    throttle: &mut Throttle,
) -> Pumped {
    Turn { relay, io, ready, pool, now, throttle: Some(throttle), moved: 0, held: false }.run(budget)
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
        match self.io.try_write(leg, &[link.outbound.wire()]) {
            Ok(count) if count > 0 => {
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
        match self.io.try_write(leg, &slices[..gathered]) {
            Ok(count) if count > 0 => {
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
            Ok(true) | Err(TryError::WouldBlock | TryError::Interrupted) => return false,
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

/// Receiving. Each method says whether anything changed.
impl<C: Codec, T: Transport> Turn<'_, C, T> {
    fn receive(&mut self, leg: Leg) -> bool {
        let demand = self.session().demand(leg);
        let link = &self.relay.links[leg];
        if link.codec.is_none() || !(demand.secure || demand.read > 0) {
            return false;
        }
        if !link.layout().is_transparent() {
            self.receive_secure(leg)
        } else if self.session().phase(leg) == Phase::Discarding {
            self.receive_and_discard(leg, demand.read)
        } else {
            self.receive_plain(leg, demand.read)
        }
    }

    /// From a plain source straight to where the sink sends it from.
    fn receive_plain(&mut self, leg: Leg, wanted: usize) -> bool {
        if !self.ready[leg].readable {
            return false;
        }
        let Some(wanted) = self.granted(leg, wanted) else { return false };
        if self.goes_by_pipe(leg) {
            return self.fill_pipe(leg, wanted);
        }
        let (link, sink) = self.relay.links.split_mut(leg);
        let layout = sink.layout();
        let batch = layout.payload_max.saturating_mul(BATCH);
        let size = sink.outbound.payload_room(layout, wanted.min(link.appetite).min(batch));
        if size == 0 {
            return false;
        }
        let mut places: [&mut [u8]; BATCH] = Default::default();
        let count = sink.outbound.lay_out(layout, size, self.pool, &mut places);
        match self.io.try_read(leg, &mut places[..count]) {
            Ok(0) => self.tell(Input::Eof(leg)),
            Ok(count) => {
                self.moved += count;
                spend(&mut self.throttle, leg, count);
                link.on_read(size, count);
                let sealed = match &mut sink.codec {
                    Some(codec) => sink.outbound.seal(codec, count, self.pool),
                    None => Ok(()), // nothing is read before both legs are up
                };
                self.tell(Input::Read(leg, count));
                if let Err(failure) = sealed {
                    self.codec_failed(leg.other(), failure);
                }
            }
            Err(error) => return self.on_read_refused(leg, error),
        }
        true
    }

    /// The sink is gone; the source is read so that it comes to read what is on its way to it.
    fn receive_and_discard(&mut self, leg: Leg, wanted: usize) -> bool {
        if !self.ready[leg].readable {
            return false;
        }
        let inbound = &mut self.relay.links[leg].inbound;
        let Some(scratch) = inbound.room(1, wanted.min(LARGEST), self.pool) else { return false };
        match self.io.try_read(leg, &mut [scratch]) {
            Ok(0) => self.tell(Input::Eof(leg)),
            Ok(count) => {
                self.moved += count;
                self.tell(Input::Read(leg, count));
            }
            Err(error) => return self.on_read_refused(leg, error),
        }
        true
    }

    /// How many of the bytes `wanted` the throttle lets come from `leg`; `None` is none for now. It is
    /// no matter for handshakes, and not for what is only read to be thrown away: that is bounded by a
    /// timer, and an answer depends on it.
    fn granted(&mut self, leg: Leg, wanted: usize) -> Option<usize> {
        let session = &self.relay.session;
        if !session.is_up(leg) || session.phase(leg) == Phase::Discarding {
            return Some(wanted);
        }
        let Some(throttle) = &mut self.throttle else { return Some(wanted) };
        let granted = usize::try_from(throttle.grant(self.now)).unwrap_or(usize::MAX);
        self.held |= granted == 0;
        (granted > 0).then(|| wanted.min(granted))
    }

    fn on_read_refused(&mut self, leg: Leg, error: TryError) -> bool {
        match error {
            TryError::WouldBlock => {
                self.ready[leg].readable = false;
                self.relay.links[leg].on_dry();
                false
            }
            TryError::Interrupted => self.on_interrupted(),
            TryError::Failed(failure) => {
                self.tell(Input::ReadFailed(leg, failure));
                true
            }
        }
    }

    fn receive_secure(&mut self, leg: Leg) -> bool {
        let mut progress = false;
        loop {
            match self.open_one(leg) {
                Opening::Moved => progress = true,
                Opening::Blocked => return progress,
                Opening::Starved(need) => return self.receive_wire(leg, need) || progress,
            }
        }
    }

    /// Opens the next record, if the session and the sink have room for it.
    fn open_one(&mut self, leg: Leg) -> Opening {
        let session = &self.relay.session;
        let demand = session.demand(leg);
        let (link, sink) = self.relay.links.split_mut(leg);
        let Some(codec) = &mut link.codec else { return Opening::Blocked };
        let secured = codec.is_secured();
        let room = if demand.secure {
            usize::MAX // a handshake message is not told from data before it is opened
        } else if sink.layout().is_transparent() || session.phase(leg) == Phase::Discarding {
            demand.read
        } else {
            sink.outbound.payload_room(sink.layout(), demand.read)
        };
        if room == 0 {
            return Opening::Blocked;
        }
        match link.inbound.open_next(codec, room) {
            Err(failure) => self.codec_failed(leg, failure),
            Ok(Step::NeedRoom) => return Opening::Blocked,
            Ok(Step::NeedBytes(need)) => match link.inbound.end {
                Some(end) => {
                    let end = end.and_then(|()| codec.transport_eof());
                    self.tell(
                        end.map_or_else(|failure| Input::ReadFailed(leg, failure), |()| Input::Eof(leg)),
                    );
                }
                None => return Opening::Starved(need),
            },
            Ok(Step::Data(_)) if !secured => self.codec_failed(leg, Failure::Protocol),
            Ok(Step::Data(payload)) => self.on_payload(leg, payload),
            Ok(Step::Control) => {
                if !secured && codec.is_secured() {
                    self.tell(Input::Secured(leg));
                }
            }
            Ok(Step::Closed) => self.tell(Input::Eof(leg)),
        }
        Opening::Moved
    }

    fn on_payload(&mut self, leg: Leg, payload: core::ops::Range<usize>) {
        let count = payload.len();
        let discarding = self.session().phase(leg) == Phase::Discarding;
        let (link, sink) = self.relay.links.split_mut(leg);
        let mut sealed = Ok(());
        if !discarding && sink.layout().is_transparent() {
            link.inbound.keep(payload);
        } else if !discarding && let Some(codec) = &mut sink.codec {
            sealed = sink.outbound.copy_in(codec, link.inbound.payload(payload), self.pool);
        }
        link.inbound.drop_opened();
        self.tell(Input::Read(leg, count));
        if let Err(failure) = sealed {
            self.codec_failed(leg.other(), failure);
        }
    }

    /// Wire bytes of a secure leg, to where its records are opened.
    fn receive_wire(&mut self, leg: Leg, need: usize) -> bool {
        if !self.ready[leg].readable {
            return false;
        }
        if !self.relay.links[leg].inbound.has_room(need) {
            return false;
        }
        let Some(granted) = self.granted(leg, LARGEST) else { return false };
        let link = &mut self.relay.links[leg];
        let Some(room) = link.inbound.room(need, link.appetite, self.pool) else { return false };
        let size = room.len().min(granted);
        match self.io.try_read(leg, &mut [&mut room[..size]]) {
            Ok(0) => link.inbound.end = Some(Ok(())),
            Ok(count) => {
                self.moved += count;
                spend(&mut self.throttle, leg, count);
                link.on_read(size, count);
                link.inbound.fill(count);
            }
            Err(TryError::Failed(failure)) => link.inbound.end = Some(Err(failure)),
            Err(error @ (TryError::WouldBlock | TryError::Interrupted)) => {
                return self.on_read_refused(leg, error);
            }
        }
        true
    }

    /// The codec gave up: its alert goes out if the transport takes it now, and neither direction of
    /// the leg goes on.
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
        self.tell(Input::ReadFailed(leg, failure));
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

/// Bytes were read from `leg`. Of handshakes none are granted, and none are counted.
fn spend(throttle: &mut Option<&mut Throttle>, leg: Leg, count: usize) {
    if let Some(throttle) = throttle {
        throttle.spend(leg, count as u64);
    }
}

/// What became of trying to open a record.
enum Opening {
    /// Something changed.
    Moved,
    /// There is no room, or nothing is wanted.
    Blocked,
    /// More wire bytes are needed, so many in all.
    Starved(usize),
}
