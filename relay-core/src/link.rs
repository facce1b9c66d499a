//! One leg's bytes: its codec, what came in on the wire, what is to go out on it.
//!
//! A link does no I/O; [`pump`](crate::pump) moves bytes between it and a transport.

use alloc::collections::VecDeque;
use core::ops::Range;

use crate::codec::{Codec, Frame, Layout, Opened, Sealed};
use crate::error::Failure;
use crate::pool::{LARGEST, Pool};
use crate::pump::Lane;
use crate::queue::Queue;

/// Records that one read from a plain source is spread over, at most.
pub(crate) const BATCH: usize = 16;

/// Payloads up to this size are moved next to their predecessor rather than sent from where they
/// were opened: a flood of tiny records then costs no slice each.
const SMALL_PAYLOAD: usize = 512;

/// Marks kept apart; beyond, neighbours are merged and delivery is counted a little later.
const MARKS: usize = 64;

/// How the transport's receiving side ended.
pub(crate) type TransportEnd = Result<(), Failure>;

/// Wire bytes of a secure leg, received: first payloads opened where they lie, waiting for the
/// sink, then what is not opened yet.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    queue: Queue,
    /// Opened payloads, as places in the queue's filled part.
    pub(crate) payloads: VecDeque<Range<usize>>,
    /// How much of the filled part is opened.
    opened: usize,
    /// The transport's end of file or failure, until all before it is opened.
    pub(crate) end: Option<TransportEnd>,
}

/// What opening one record gave.
pub(crate) enum Step {
    /// Nothing can be opened: more bytes are needed, so many in all.
    NeedBytes(usize),
    /// The next record may hold so much plaintext, more than the sink has room for.
    NeedRoom,
    /// Plaintext at this place in the filled part; not remembered as a payload.
    Data(Range<usize>),
    /// Nothing for the flow.
    Control,
    /// The peer's orderly end.
    Closed,
}

impl Inbound {
    /// Looks at the next record and opens it if its plaintext surely fits `room`.
    pub(crate) fn open_next<C: Codec>(&mut self, codec: &mut C, room: usize) -> Result<Step, Failure> {
        let rest = &mut self.queue.filled_mut()[self.opened..];
        if rest.is_empty() {
            return Ok(Step::NeedBytes(1));
        }
        let (wire, payload) = match codec.frame(rest)? {
            Frame::Partial { need } => return Ok(Step::NeedBytes(need)),
            Frame::Whole { wire, payload } => (wire, payload),
        };
        if payload > room {
            return Ok(Step::NeedRoom);
        }
        let opened = codec.open(&mut rest[..wire])?;
        let start = self.opened;
        self.opened += wire;
        let step = match opened {
            Opened::Data(range) if range.is_empty() => Step::Control,
            Opened::Data(range) => Step::Data(start + range.start..start + range.end),
            Opened::Control => Step::Control,
            Opened::Closed => Step::Closed,
        };
        if !matches!(step, Step::Data(_)) {
            self.drop_opened();
        }
        Ok(step)
    }

    /// Keeps an opened payload for a sink that takes it as it is.
    pub(crate) fn keep(&mut self, payload: Range<usize>) {
        if payload.len() <= SMALL_PAYLOAD
            && let Some(last) = self.payloads.back_mut()
        {
            let to = last.end;
            last.end += payload.len();
            self.queue.filled_mut().copy_within(payload, to);
        } else {
            self.payloads.push_back(payload);
        }
    }

    /// The bytes of an opened payload.
    pub(crate) fn payload(&self, payload: Range<usize>) -> &[u8] {
        &self.queue.filled()[payload]
    }

    pub(crate) fn has_payloads(&self) -> bool {
        !self.payloads.is_empty()
    }

    /// The first kept payloads, as many as `slices` holds; returns how many.
    pub(crate) fn gather<'a>(&'a self, slices: &mut [&'a [u8]]) -> usize {
        let mut count = 0;
        for (slice, payload) in slices.iter_mut().zip(&self.payloads) {
            *slice = &self.queue.filled()[payload.clone()];
            count += 1;
        }
        count
    }

    /// The sink took so many bytes of the kept payloads.
    pub(crate) fn take_payload(&mut self, mut count: usize) {
        while let Some(first) = self.payloads.front_mut()
            && count > 0
        {
            let part = count.min(first.len());
            first.start += part;
            count -= part;
            if Range::is_empty(first) {
                self.payloads.pop_front();
            }
        }
        self.drop_opened();
    }

    /// Forgets what is opened once nobody waits for it.
    pub(crate) fn drop_opened(&mut self) {
        if self.payloads.is_empty() && self.opened > 0 {
            self.queue.take(self.opened);
            self.opened = 0;
        }
    }

    /// Forgets the payloads kept: their sink is gone.
    pub(crate) fn discard_payloads(&mut self) {
        self.payloads.clear();
        self.drop_opened();
    }

    /// Room for at least `need` more wire bytes, and for `wish` if that is cheap. `None` if there
    /// is none until the sink has taken what is opened.
    pub(crate) fn room(&mut self, need: usize, wish: usize, pool: &mut Pool) -> Option<&mut [u8]> {
        let unopened = self.queue.len() - self.opened;
        let need = need.saturating_sub(unopened).max(1);
        let wish = wish.min(LARGEST.saturating_sub(unopened));
        if self.payloads.is_empty() {
            self.queue.make_room(need.max(wish), pool);
        } else if self.queue.room() < need {
            return None; // moving would leave the payloads' places wrong
        }
        let room = self.queue.free_mut();
        let length = room.len().min(need.max(wish));
        Some(&mut room[..length])
    }

    /// Whether [`room`](Self::room) will have any.
    pub(crate) fn has_room(&self, need: usize) -> bool {
        let unopened = self.queue.len() - self.opened;
        self.payloads.is_empty() || self.queue.room() >= need.saturating_sub(unopened).max(1)
    }

    pub(crate) fn fill(&mut self, count: usize) {
        self.queue.fill(count);
    }

    /// Throws everything away: nothing that comes in matters any more.
    pub(crate) fn clear(&mut self) {
        self.payloads.clear();
        self.opened = 0;
        self.queue.clear();
    }

    pub(crate) fn release(&mut self, pool: &mut Pool) {
        self.queue.release_if_empty(pool);
        if self.payloads.is_empty() {
            self.payloads = VecDeque::new();
        }
    }

    pub(crate) const fn held(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn lent(&self) -> usize {
        self.queue.lent()
    }
}

/// Wire bytes to be sent on a leg, and how much plaintext of the flow is in which of them.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    queue: Queue,
    /// Where records end, counted from the front of the queue, and the plaintext in them. Empty for
    /// a transparent layout, where a byte is a byte.
    pub(crate) marks: VecDeque<(usize, usize)>,
}

impl Outbound {
    pub(crate) const fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn wire(&self) -> &[u8] {
        self.queue.filled()
    }

    /// How much plaintext, `wish` at most, can be taken in now.
    pub(crate) fn payload_room(&self, layout: Layout, wish: usize) -> usize {
        let room = self.queue.possible_room();
        if layout.is_transparent() {
            return wish.min(room);
        }
        let whole = room / layout.record(layout.payload_max);
        let rest = (room % layout.record(layout.payload_max)).saturating_sub(layout.record(0));
        wish.min((whole * layout.payload_max).saturating_add(rest))
    }

    /// Makes room for `payload` bytes of plaintext, [`BATCH`] records at most, in records laid end to end, and shows the places
    /// where the plaintext goes; returns how many there are.
    pub(crate) fn lay_out<'a>(
        &'a mut self,
        layout: Layout,
        payload: usize,
        pool: &mut Pool,
        places: &mut [&'a mut [u8]; BATCH],
    ) -> usize {
        if layout.is_transparent() {
            self.queue.make_room(payload, pool);
            places[0] = &mut self.queue.free_mut()[..payload];
            return 1;
        }
        let records = payload.div_ceil(layout.payload_max);
        self.queue.make_room(payload + records * layout.record(0), pool);
        let mut free = self.queue.free_mut();
        let mut left = payload;
        for place in &mut places[..records] {
            let length = left.min(layout.payload_max);
            let (record, rest) = free.split_at_mut(layout.record(length));
            *place = &mut record[layout.header..layout.header + length];
            left -= length;
            free = rest;
        }
        records
    }

    /// Seals `payload` bytes that lie where [`lay_out`](Self::lay_out) showed.
    ///
    /// # Errors
    /// The codec's.
    pub(crate) fn seal<C: Codec>(
        &mut self,
        codec: &mut C,
        payload: usize,
        pool: &mut Pool,
    ) -> Result<(), Failure> {
        let layout = codec.layout();
        if layout.is_transparent() {
            self.queue.fill(payload);
            return Ok(());
        }
        let mut left = payload;
        while left > 0 {
            let length = left.min(layout.payload_max);
            let start = self.queue.tail();
            let slot = self.queue.slice_mut(start..start + layout.record(length));
            match codec.seal(slot, length)? {
                Sealed::Record(wire) => {
                    assert_eq!(wire, layout.record(length), "contract: a record is as long as its layout");
                    self.queue.fill(wire);
                    self.mark(length);
                    left -= length;
                }
                Sealed::ControlFirst => {
                    let records = left.div_ceil(layout.payload_max);
                    self.insert_control(codec, left + records * layout.record(0), pool);
                }
            }
        }
        Ok(())
    }

    /// Copies plaintext in and seals it: for a source that could not read to here.
    ///
    /// # Errors
    /// The codec's.
    pub(crate) fn copy_in<C: Codec>(
        &mut self,
        codec: &mut C,
        plaintext: &[u8],
        pool: &mut Pool,
    ) -> Result<(), Failure> {
        let layout = codec.layout();
        for batch in plaintext.chunks(layout.payload_max.saturating_mul(BATCH)) {
            let mut places: [&mut [u8]; BATCH] = Default::default();
            let records = self.lay_out(layout, batch.len(), pool, &mut places);
            let mut rest = batch;
            for place in &mut places[..records] {
                let (now, later) = rest.split_at(place.len());
                place.copy_from_slice(now);
                rest = later;
            }
            self.seal(codec, batch.len(), pool)?;
        }
        Ok(())
    }

    /// Puts the codec's own bytes behind what is sealed and before the `waiting` bytes of slots
    /// whose plaintext is already in place.
    fn insert_control<C: Codec>(&mut self, codec: &mut C, waiting: usize, pool: &mut Pool) {
        let control = codec.control_pending();
        assert!(control > 0, "contract: ControlFirst has control bytes");
        // Growing copies only what is filled, so count the slots as filled meanwhile.
        self.queue.fill(waiting);
        self.queue.make_room(control, pool);
        let end = self.queue.tail();
        self.queue.insert_gap(end - waiting, end, control);
        self.queue.unfill(waiting);
        self.stage(codec, control);
    }

    /// Queues the codec's own bytes, if any; whether there were.
    pub(crate) fn stage_control<C: Codec>(&mut self, codec: &mut C, pool: &mut Pool) -> bool {
        let control = codec.control_pending();
        if control > 0 {
            self.queue.make_room(control, pool);
            self.stage(codec, control);
        }
        control > 0
    }

    fn stage<C: Codec>(&mut self, codec: &mut C, control: usize) {
        let taken = codec.take_control(&mut self.queue.free_mut()[..control]);
        assert_eq!(taken, control, "contract: take_control fills the room given");
        self.queue.fill(control);
    }

    fn mark(&mut self, payload: usize) {
        let end = self.queue.len();
        let many = self.marks.len() >= MARKS;
        match self.marks.back_mut() {
            Some(last) if many => *last = (end, last.1 + payload),
            Some(_) | None => self.marks.push_back((end, payload)),
        }
    }

    /// The transport took so many wire bytes; returns the plaintext that is delivered by that.
    pub(crate) fn take(&mut self, count: usize, layout: Layout) -> usize {
        self.queue.take(count);
        if layout.is_transparent() {
            return count;
        }
        let mut delivered = 0;
        while let Some((end, payload)) = self.marks.front()
            && *end <= count
        {
            delivered += payload;
            self.marks.pop_front();
        }
        for (end, _) in &mut self.marks {
            *end -= count;
        }
        delivered
    }

    pub(crate) fn clear(&mut self) {
        self.queue.clear();
        self.marks.clear();
    }

    pub(crate) fn release(&mut self, pool: &mut Pool) {
        self.queue.release_if_empty(pool);
        if self.marks.is_empty() {
            self.marks = VecDeque::new();
        }
    }

    pub(crate) const fn held(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn lent(&self) -> usize {
        self.queue.lent()
    }
}

/// A leg's codec with both its queues.
#[derive(Debug)]
pub(crate) struct Link<C> {
    /// None for Back until it is connected.
    pub(crate) codec: Option<C>,
    pub(crate) inbound: Inbound,
    pub(crate) outbound: Outbound,
    /// The orderly end was queued.
    pub(crate) closing: bool,
    /// Nothing more is sent: the FIN is out, or sending failed.
    pub(crate) write_over: bool,
    /// How much to offer the next read; grows when reads fill it, shrinks when they do not.
    pub(crate) appetite: usize,
    /// Read since the source last ran dry.
    pub(crate) burst: usize,
    /// Where the flow that is read from here has its bytes.
    pub(crate) lane: Lane,
    /// Something has come.
    pub(crate) heard: bool,
}

/// The first read's size, and the least.
const LEAST_APPETITE: usize = 4 << 10;

impl<C: Codec> Link<C> {
    pub(crate) fn new(codec: Option<C>) -> Self {
        Self {
            codec,
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            closing: false,
            write_over: false,
            appetite: LEAST_APPETITE,
            burst: 0,
            lane: Lane::Queue,
            heard: false,
        }
    }

    pub(crate) fn layout(&self) -> Layout {
        self.codec.as_ref().map_or(Layout::TRANSPARENT, Codec::layout)
    }

    /// A read was offered `offered` bytes and got `count`.
    pub(crate) fn on_read(&mut self, offered: usize, count: usize) {
        self.burst += count;
        self.heard = true;
        if count == offered {
            self.appetite = (self.appetite * 4).min(LARGEST);
        }
    }

    /// The source ran dry.
    pub(crate) fn on_dry(&mut self) {
        if self.burst < self.appetite / 4 {
            self.appetite = LEAST_APPETITE.max(self.appetite / 2);
        }
        self.burst = 0;
    }
}

#[cfg(test)]
mod tests;
