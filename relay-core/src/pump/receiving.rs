//! Receiving: from a plain leg straight to where the sink sends from, from a secure leg to where its records are
//! opened.

use super::{Transport, TryError, Turn, check_moved};
use crate::bandwidth::Throttle;
use crate::codec::Codec;
use crate::error::Failure;
use crate::flow::Phase;
use crate::leg::Leg;
use crate::link::{BATCH, Step};
use crate::pool::LARGEST;
use crate::session::Input;

/// Receiving. Each method says whether anything changed.
impl<C: Codec, T: Transport> Turn<'_, C, T> {
    pub(super) fn receive(&mut self, leg: Leg) -> bool {
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
                check_moved(count, size);
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
        let size = scratch.len();
        match self.io.try_read(leg, &mut [scratch]) {
            Ok(0) => self.tell(Input::Eof(leg)),
            Ok(count) => {
                check_moved(count, size);
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

    pub(super) fn on_read_refused(&mut self, leg: Leg, error: TryError) -> bool {
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
        let discarding = self.session().phase(leg) == Phase::Discarding;
        let link = &mut self.relay.links[leg];
        let Some(room) = link.inbound.room(need, link.appetite, self.pool) else { return false };
        let size = room.len().min(granted);
        match self.io.try_read(leg, &mut [&mut room[..size]]) {
            Ok(0) => link.inbound.end = Some(Ok(())),
            Ok(count) => {
                check_moved(count, size);
                self.moved += count;
                if !discarding {
                    spend(&mut self.throttle, leg, count);
                }
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
}

/// Bytes were read from `leg`. Of handshakes none are granted, and none are counted.
pub(super) fn spend(throttle: &mut Option<&mut Throttle>, leg: Leg, count: usize) {
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
