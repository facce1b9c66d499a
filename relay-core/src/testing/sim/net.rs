//! The simulated transport: two byte pipes a leg, with the manners of a kernel's sockets.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use std::format;

use super::super::rng::Rng;
use super::super::rules::{Rule, Violation};
use super::piping::Offer;
use super::plan::Faults;
use crate::error::Failure;
use crate::leg::{Leg, PerLeg};
use crate::pump::{Filled, Ready, Transport, TryError};
use crate::session::Input;

/// A turn of the pump that calls the transport more often than this spins.
const CALLS_PER_TURN: u32 = 1_000_000;

/// One direction of one connection.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    pub(super) bytes: VecDeque<u8>,
    pub(super) capacity: usize,
    /// Lengths of the writes in it, if their number is limited, too.
    slots: VecDeque<usize>,
    pub(super) slot_limit: Option<usize>,
    /// The writer is done.
    pub(super) fin: bool,
}

impl Pipe {
    fn room(&self) -> usize {
        let no_slot = self.slot_limit.is_some_and(|limit| self.slots.len() >= limit);
        if no_slot { 0 } else { self.capacity - self.bytes.len() }
    }

    fn put(&mut self, slices: &[&[u8]], count: usize) {
        let mut left = count;
        for slice in slices {
            let part = left.min(slice.len());
            self.bytes.extend(&slice[..part]);
            left -= part;
        }
        if self.slot_limit.is_some() {
            self.slots.push_back(count);
        }
    }

    /// Moves up to `count` bytes behind `out`; returns how many.
    pub(super) fn take(&mut self, count: usize, out: &mut Vec<u8>) -> usize {
        let count = count.min(self.bytes.len());
        out.extend(self.bytes.drain(..count));
        let mut left = count;
        while let Some(first) = self.slots.front_mut()
            && left > 0
        {
            let part = left.min(*first);
            *first -= part;
            left -= part;
            if *first == 0 {
                self.slots.pop_front();
            }
        }
        count
    }
}

/// One connection of the relay's.
#[derive(Debug, Default)]
pub(super) struct Wire {
    pub(super) to_relay: Pipe,
    pub(super) from_relay: Pipe,
    /// The peer reset; the first call that meets it is told, later ones are not (tcp(7)).
    pub(super) reset: Option<Failure>,
    /// The peer takes nothing more.
    pub(super) gone: bool,
    /// Writes take nothing any more, without a word.
    pub(super) dead_end: bool,
    /// The peer takes nothing more, says so, and goes on sending: shutdown(2) with `SHUT_RD` on a unix socket.
    pub(super) refuses: bool,
    /// The relay found no room to write and waits for an edge.
    wants_room: bool,
    /// Edges that the runtime has not seen yet.
    pub(super) edges: Ready,
    /// What the relay must take for ready: an edge was seen and no call would have blocked since.
    pub(super) known: Ready,
    /// It was written to without that. Excusable only as a last word.
    pub(super) written_early: bool,
    /// Something of the peer's was given to the relay.
    pub(super) heard: bool,
    /// The last write took all that it was offered.
    pub(super) took_all: bool,
}

impl Wire {
    pub(super) const fn peer_sent(&mut self) {
        self.edges.readable = true;
    }

    pub(super) const fn peer_took(&mut self) {
        if self.wants_room {
            self.wants_room = false;
            self.edges.writable = true;
        }
    }

    /// After its FIN a peer's reset shows as EPIPE, and reading still gives the end (tcp(7)).
    pub(super) const fn peer_reset(&mut self) {
        self.reset = Some(if self.to_relay.fin { Failure::BrokenPipe } else { Failure::Reset });
        self.gone = true;
        self.edges = Ready { hung_up: true, ..Ready::BOTH };
    }

    /// The peer closes, as on a unix socket: what it sent can be read, then the end.
    pub(super) const fn peer_closed(&mut self) {
        self.to_relay.fin = true;
        self.gone = true;
        self.edges = Ready { hung_up: true, ..Ready::BOTH };
    }

    /// The peer takes nothing more: who waits for room is woken.
    pub(super) const fn peer_refuses(&mut self) {
        self.refuses = true;
        self.edges.writable = true;
    }

    /// Nobody is there any more, and nothing of what there was is left to be read.
    pub(super) fn is_over(&self) -> bool {
        self.known.hung_up && self.to_relay.bytes.is_empty()
    }
}

/// Both connections.
#[derive(Debug)]
pub(super) struct Net {
    pub(super) wires: PerLeg<Wire>,
    pub(super) faults: Faults,
    pub(super) storming: bool,
    pub(super) rng: Rng,
    /// Calls of the transport so far.
    pub(super) calls: u64,
    pub(super) calls_this_turn: u32,
    /// Bytes that this turn may move, but for what was begun before it had.
    pub(super) budget: usize,
    moved_this_turn: usize,
    reads_beyond: u32,
    /// What calls on plain legs amount to, for the reference model.
    pub(super) told: Vec<Input>,
    pub(super) broken: Option<Violation>,
    /// Pipes that are lent, by the leg that fills them.
    pub(super) pipes: PerLeg<Option<Pipe>>,
    /// Whether there are more to lend. Others take and give back, but not during a turn.
    pub(super) lends: bool,
    /// For which flows pipes are: those whose reads are offered so many bytes. `None` if a leg is secure.
    pub(super) pipe_from: Option<usize>,
    offers: PerLeg<Offer>,
    /// What is known of a flow that goes by no pipe: it asked for one and got none.
    asked: PerLeg<bool>,
    /// Its source can't fill one, or its sink is gone.
    needs_none: PerLeg<bool>,
}

impl Net {
    pub(super) fn new(faults: Faults, rng: Rng) -> Self {
        Self {
            wires: PerLeg::default(),
            faults,
            storming: false,
            rng,
            calls: 0,
            calls_this_turn: 0,
            budget: 0,
            moved_this_turn: 0,
            reads_beyond: 0,
            told: Vec::new(),
            broken: None,
            pipes: PerLeg::default(),
            lends: false,
            pipe_from: None,
            offers: PerLeg::both(Offer::new()),
            asked: PerLeg::both(false),
            needs_none: PerLeg::both(false),
        }
    }

    fn breaks(&mut self, rule: Rule, detail: &str) {
        if self.broken.is_none() {
            self.broken = Some(Violation { rule, detail: detail.into() });
        }
    }

    fn tell(&mut self, input: Input) {
        if let Input::WriteFailed(leg, _) = input {
            self.needs_none[leg.other()] = true;
        }
        self.told.push(input);
    }

    /// A turn of the pump begins.
    pub(super) const fn begin_turn(&mut self, budget: usize) {
        self.budget = budget;
        (self.calls_this_turn, self.moved_this_turn, self.reads_beyond) = (0, 0, 0);
    }

    /// Bytes were read or written. Each leg may be read from once more in the round in which the budget
    /// is used up.
    fn moved(&mut self, count: usize, reading: bool) {
        if reading && self.moved_this_turn >= self.budget {
            self.reads_beyond += 1;
            if self.reads_beyond > 2 {
                self.breaks(Rule::L5, "a turn goes on beyond its budget");
            }
        }
        self.moved_this_turn = self.moved_this_turn.saturating_add(count);
    }

    /// Counts the call and holds it to L5; then what may come before its own result.
    fn begin(&mut self, leg: Leg, reading: bool) -> Result<(), TryError> {
        self.called();
        let known = self.wires[leg].known;
        if reading && !known.readable {
            self.breaks(Rule::L5, &format!("{leg}: read again without a fresh edge"));
        }
        self.wires[leg].written_early |= !reading && !known.writable;
        self.interrupt()?;
        let blocks = if self.storming { 90 } else { 20 };
        if (self.faults.would_block || self.storming) && self.rng.chance(blocks) {
            return Err(self.block(leg, reading, true));
        }
        Ok(())
    }

    fn called(&mut self) {
        self.calls += 1;
        self.calls_this_turn += 1;
        assert!(self.calls_this_turn < CALLS_PER_TURN, "{:?} broken: the pump spins", Rule::L5);
    }

    /// Any call may be.
    fn interrupt(&mut self) -> Result<(), TryError> {
        let signals = if self.storming { 100 } else { 5 };
        let interrupted = self.faults.interrupted && self.rng.chance(signals);
        if interrupted { Err(TryError::Interrupted) } else { Ok(()) }
    }

    fn block(&mut self, leg: Leg, reading: bool, edge_follows: bool) -> TryError {
        let wire = &mut self.wires[leg];
        if reading {
            wire.known.readable = false;
            wire.edges.readable |= edge_follows;
            self.offers[leg].on_dry();
        } else {
            wire.known.writable = false;
            wire.edges.writable |= edge_follows;
        }
        TryError::WouldBlock
    }

    fn shorten(&mut self, count: usize) -> usize {
        if self.faults.short && self.rng.chance(60) { 1 + self.rng.below(count.min(9)) } else { count }
            .min(count)
    }
}

impl Transport for Net {
    const PIPE_FROM: usize = 0;

    fn try_read(&mut self, leg: Leg, slices: &mut [&mut [u8]]) -> Result<usize, TryError> {
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        assert!(offered > 0, "{:?} broken: the pump reads into nothing", Rule::L2);
        self.check_size(leg, offered);
        self.begin(leg, true)?;
        let wire = &mut self.wires[leg];
        let there = wire.to_relay.bytes.len();
        if there == 0 {
            return match self.source_end(leg) {
                Some(end) => end.map(|()| 0).map_err(TryError::Failed),
                None => Err(self.block(leg, true, false)),
            };
        }
        self.check_lane(leg);
        let count = self.shorten(there.min(offered));
        self.offers[leg].on_read(offered, count);
        self.wires[leg].heard = true;
        let bytes = &mut self.wires[leg].to_relay.bytes;
        let mut left = count;
        for slice in slices {
            let part = left.min(slice.len());
            for (to, from) in slice[..part].iter_mut().zip(bytes.drain(..part)) {
                *to = from;
            }
            left -= part;
        }
        self.told.push(Input::Read(leg, count));
        self.moved(count, true);
        Ok(count)
    }

    fn try_write(&mut self, leg: Leg, slices: &[&[u8]]) -> Result<usize, TryError> {
        if self.wires[leg].from_relay.fin {
            self.breaks(Rule::S3, &format!("{leg}: written to after its FIN"));
        }
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        assert!(offered > 0, "{:?} broken: the pump writes nothing", Rule::L2);
        self.wires[leg].took_all = false;
        self.begin(leg, false)?;
        let room = self.room_to_write(leg)?;
        if room == 0 {
            return Ok(0);
        }
        let count = self.shorten(room.min(offered));
        self.wires[leg].from_relay.put(slices, count);
        self.wires[leg].took_all = count == offered;
        self.told.push(Input::Wrote(leg, count));
        self.moved(count, false);
        Ok(count)
    }

    fn shut_write(&mut self, leg: Leg) -> Result<(), TryError> {
        self.begin(leg, false)?;
        let wire = &mut self.wires[leg];
        if wire.from_relay.fin {
            self.breaks(Rule::S3, &format!("{leg}: a second FIN"));
            return Ok(());
        }
        if let Some(failure) = wire.reset.take() {
            self.tell(Input::WriteFailed(leg, failure));
            return Err(TryError::Failed(failure));
        }
        wire.from_relay.fin = true;
        self.told.push(Input::ShutDown(leg));
        Ok(())
    }

    fn open_pipe(&mut self, source: Leg) -> bool {
        let most = self.offers[source].most;
        if self.pipe_from.is_none_or(|from| most < from) {
            self.breaks(
                Rule::P1,
                &format!("{source}: asks for a pipe, and its reads are offered {most} bytes"),
            );
        }
        self.asked[source] = !self.lends;
        if !self.lends {
            return false;
        }
        if self.pipes[source].is_some() {
            self.breaks(Rule::S2, &format!("{source}: a second pipe"));
        }
        let slots = 1 + self.rng.below(16);
        self.pipes[source] = Some(Pipe { slot_limit: Some(slots), ..Pipe::default() });
        true
    }

    fn fill_pipe(&mut self, source: Leg, most: usize) -> Result<Filled, TryError> {
        assert!(most > 0, "{:?} broken: the pump moves nothing", Rule::L2);
        let Some(mut pipe) = self.pipes[source].take() else {
            self.breaks(Rule::S2, &format!("{source}: filled a pipe that it has not"));
            return Ok(Filled::Unsupported);
        };
        let filled = self.fill(source, &mut pipe, most);
        self.pipes[source] = Some(pipe);
        filled
    }

    fn drain_pipe(&mut self, source: Leg, most: usize) -> Result<usize, TryError> {
        let leg = source.other();
        let Some(mut pipe) = self.pipes[source].take() else {
            self.breaks(Rule::S2, &format!("{source}: drained a pipe that it has not"));
            return Ok(0);
        };
        if most == 0 || most != pipe.bytes.len() {
            self.breaks(Rule::S2, &format!("{source}: {most} bytes of {pipe:?} are asked for"));
        }
        if self.wires[leg].from_relay.fin {
            self.breaks(Rule::S3, &format!("{leg}: written to after its FIN"));
        }
        self.wires[leg].took_all = false;
        let drained = self.begin(leg, false).and_then(|()| self.room_to_write(leg)).map(|room| {
            let count = if room == 0 { 0 } else { self.shorten(room.min(most)) };
            let mut bytes = Vec::new();
            pipe.take(count, &mut bytes);
            if count > 0 {
                self.wires[leg].from_relay.put(&[&bytes], count);
                self.told.push(Input::Wrote(leg, count));
                self.moved(count, false);
            }
            count
        });
        self.pipes[source] = Some(pipe);
        drained
    }

    fn close_pipe(&mut self, source: Leg, left: usize) {
        let there = self.pipes[source].take().map(|pipe| pipe.bytes.len());
        if there != Some(left) {
            self.breaks(Rule::S2, &format!("{source}: gives back a pipe with {left} bytes, of {there:?}"));
        }
    }

    fn has_unread(&mut self, leg: Leg) -> Result<bool, TryError> {
        if !self.wires[leg].known.hung_up {
            self.breaks(Rule::L5, &format!("{leg}: looked at before it hung up"));
            return Ok(true);
        }
        // one that is answered costs nothing, and may be made in every turn
        self.interrupt().inspect_err(|_| self.called())?;
        let wire = &mut self.wires[leg];
        if !wire.to_relay.bytes.is_empty() {
            return Ok(true);
        }
        match wire.reset.take_if(|_| !wire.to_relay.fin) {
            Some(failure) => {
                wire.to_relay.fin = true;
                self.told.push(Input::ReadFailed(leg, failure));
                Err(TryError::Failed(failure))
            }
            None => {
                self.told.push(Input::ReadFailed(leg, Failure::HungUp));
                Ok(false)
            }
        }
    }

    fn take_error(&mut self, leg: Leg) -> Option<Failure> {
        let wire = &mut self.wires[leg];
        wire.known.hung_up = false;
        let failure = wire.reset.take();
        if let Some(failure) = failure {
            self.tell(Input::WriteFailed(leg, failure));
        }
        failure
    }
}

/// What reading and filling, writing and draining have in common.
impl Net {
    /// The end of a source that has no bytes left, and says it.
    fn source_end(&mut self, leg: Leg) -> Option<Result<(), Failure>> {
        let wire = &mut self.wires[leg];
        if let Some(failure) = wire.reset.take_if(|_| !wire.to_relay.fin) {
            wire.to_relay.fin = true;
            self.told.push(Input::ReadFailed(leg, failure));
            return Some(Err(failure));
        }
        let over = wire.to_relay.fin || wire.gone;
        if over {
            self.told.push(Input::Eof(leg));
        }
        over.then_some(Ok(()))
    }

    /// How much the sink takes: at least one byte, or none because it is a dead end.
    fn room_to_write(&mut self, leg: Leg) -> Result<usize, TryError> {
        let wire = &mut self.wires[leg];
        if let Some(failure) = write_failure(wire) {
            self.tell(Input::WriteFailed(leg, failure));
            return Err(TryError::Failed(failure));
        }
        if wire.dead_end {
            let failure = [Failure::WriteZero, Failure::Exhausted, Failure::Os(5)][self.rng.below(3)];
            self.tell(Input::WriteFailed(leg, failure));
            return if failure == Failure::WriteZero { Ok(0) } else { Err(TryError::Failed(failure)) };
        }
        match wire.from_relay.room() {
            0 => {
                wire.wants_room = true;
                Err(self.block(leg, false, false))
            }
            room => Ok(room),
        }
    }

    /// P1 and S2: how much is read to a buffer at once, and whether it was to go by a pipe.
    fn check_size(&mut self, leg: Leg, offered: usize) {
        let (most, asked) = (self.offers[leg].most, core::mem::take(&mut self.asked[leg]));
        let Some(from) = self.pipe_from.filter(|_| !self.needs_none[leg]) else { return };
        if offered > most {
            self.breaks(Rule::S2, &format!("{leg}: a read is offered {offered} bytes instead of {most}"));
        }
        if most >= from && !asked {
            self.breaks(Rule::P1, &format!("{leg}: reads of {most} bytes, and no pipe is asked for"));
        }
    }

    /// S1: what is read to a buffer must not overtake what is in the pipe.
    fn check_lane(&mut self, leg: Leg) {
        if self.pipes[leg].as_ref().is_some_and(|pipe| !pipe.bytes.is_empty()) {
            self.breaks(Rule::S1, &format!("{leg}: read past the bytes in its pipe"));
        }
    }

    fn fill(&mut self, leg: Leg, pipe: &mut Pipe, most: usize) -> Result<Filled, TryError> {
        let (known, holds) = (self.wires[leg].known.readable, !pipe.bytes.is_empty());
        let offer = self.offers[leg];
        let began = self.begin(leg, true);
        let full = pipe.slot_limit.is_some_and(|limit| pipe.slots.len() >= limit);
        if holds && (began == Err(TryError::WouldBlock) || (began.is_ok() && full)) {
            // it may be the pipe that takes no more: the source may have more all the same
            self.wires[leg].known.readable = known;
            self.offers[leg] = offer;
            self.told.push(Input::Full(leg));
            return Err(TryError::WouldBlock);
        }
        began?;
        if self.faults.no_splice {
            self.needs_none[leg] = !holds;
            return Ok(Filled::Unsupported);
        }
        if self.wires[leg].to_relay.bytes.is_empty() {
            return match self.source_end(leg) {
                Some(end) => end.map(|()| Filled::Moved(0)).map_err(TryError::Failed),
                None if holds => {
                    self.told.push(Input::Full(leg));
                    Err(TryError::WouldBlock)
                }
                None => Err(self.block(leg, true, false)),
            };
        }
        let mut moved = 0;
        while moved < most && pipe.slot_limit.is_none_or(|limit| pipe.slots.len() < limit) {
            let segment = self.shorten(most - moved);
            let mut bytes = Vec::new();
            let count = self.wires[leg].to_relay.take(segment, &mut bytes);
            if count == 0 {
                break;
            }
            pipe.put(&[&bytes], count);
            moved += count;
        }
        self.offers[leg].on_read(most, moved);
        self.told.push(Input::Read(leg, moved));
        self.moved(moved, true);
        Ok(Filled::Moved(moved))
    }
}

/// The reset once, EPIPE from then on (send(2)).
const fn write_failure(wire: &mut Wire) -> Option<Failure> {
    match wire.reset.take() {
        Some(failure) => Some(failure),
        None if wire.gone || wire.refuses => Some(Failure::BrokenPipe),
        None => None,
    }
}
