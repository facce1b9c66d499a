//! A simulated peer: sends a known stream, checks the one it gets, sees how it ends.

use alloc::vec::Vec;
use std::{format, string::String};

use super::super::rng::{Rng, stream_byte};
use super::net::Wire;
use super::plan::Ends;
use crate::codec::{Codec, Frame, Opened, Sealed};
use crate::error::Failure;

/// How what came from the relay ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Seen {
    Orderly,
    Truncated,
}

#[derive(Debug)]
pub(super) struct Peer<C> {
    codec: C,
    /// Names the stream this peer sends.
    sends: u64,
    /// Names the stream it is to get.
    gets: u64,
    ends: Ends,
    to_send: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
    out: Vec<u8>,
    inn: Vec<u8>,
    closing: bool,
    babbled: bool,
    pub(super) fin_sent: bool,
    pub(super) seen: Option<Seen>,
    /// Something came that was not sent.
    pub(super) wrong: Option<String>,
    /// The codec gave up.
    failed: bool,
    /// The relay's codec said why it gave up.
    pub(super) alerted: bool,
    /// Ended in good order, after everything it had to send.
    pub(super) ended_well: bool,
    /// Does not read for the moment.
    pub(super) deaf: bool,
    /// Does not write for the moment.
    pub(super) mute: bool,
    /// Will be mute as soon as it has said something.
    pub(super) falters: bool,
    /// Nobody takes what it sends, and it knows no end.
    floods: bool,
}

impl<C> Peer<C> {
    /// What a failure report says of it.
    pub(super) fn describe(&self) -> String {
        format!(
            "sent {} of {}, received {}, {} to go out, {} unopened, closing {}, fin {}, seen {:?}, failed {}",
            self.sent,
            self.to_send,
            self.received,
            self.out.len(),
            self.inn.len(),
            self.closing,
            self.fin_sent,
            self.seen,
            self.failed
        )
    }

    /// Listens and speaks again; whether it did not before.
    pub(super) const fn wake(&mut self) -> bool {
        let slept = self.deaf || self.mute;
        (self.deaf, self.mute) = (false, false);
        slept
    }

    /// Does not wait for the other one's end any longer; whether it did.
    pub(super) fn lose_patience(&mut self) -> bool {
        core::mem::replace(&mut self.ends, Ends::Early) == Ends::Late
    }

    /// Whether nothing that came is still to be looked at.
    pub(super) const fn has_read_all(&self) -> bool {
        self.inn.is_empty() && !self.failed
    }
}

impl<C: Codec> Peer<C> {
    /// Whether its handshake is complete, if it has one.
    pub(super) fn is_secured(&self) -> bool {
        self.codec.is_secured()
    }

    pub(super) fn new(codec: C, sends: u64, gets: u64, to_send: u64, ends: Ends) -> Self {
        Self {
            codec,
            sends,
            gets,
            ends,
            to_send,
            sent: 0,
            received: 0,
            out: Vec::new(),
            inn: Vec::new(),
            closing: false,
            babbled: false,
            fin_sent: false,
            seen: None,
            wrong: None,
            failed: false,
            alerted: false,
            ended_well: false,
            deaf: false,
            mute: false,
            falters: false,
            floods: false,
        }
    }

    /// Does something if it can; whether it did.
    pub(super) fn act(&mut self, wire: &mut Wire, rng: &mut Rng, most: usize) -> bool {
        if wire.gone {
            return false;
        }
        let took = !self.deaf && self.take(wire, rng, most);
        let gave = !self.mute && self.give(wire, rng, most);
        if gave && core::mem::take(&mut self.falters) {
            self.mute = true;
        }
        took || gave
    }

    fn take(&mut self, wire: &mut Wire, rng: &mut Rng, most: usize) -> bool {
        let count = wire.from_relay.take(1 + rng.below(most), &mut self.inn);
        if count > 0 {
            wire.peer_took();
            self.open_all();
        }
        let over = self.seen.is_none() && wire.from_relay.fin && wire.from_relay.bytes.is_empty();
        if over {
            let orderly = self.codec.layout().is_transparent() || self.codec.transport_eof().is_ok();
            self.seen = Some(if orderly { Seen::Orderly } else { Seen::Truncated });
        }
        count > 0 || over
    }

    /// The relay closed: what is in the pipe is read, and then how it ended.
    pub(super) fn finish(&mut self, wire: &mut Wire, reset: bool) {
        wire.from_relay.take(usize::MAX, &mut self.inn);
        self.open_all();
        if self.seen.is_none() {
            let codec_done = self.codec.layout().is_transparent() || self.codec.transport_eof().is_ok();
            let orderly = !reset && wire.from_relay.fin && codec_done;
            self.seen = Some(if orderly { Seen::Orderly } else { Seen::Truncated });
        }
    }

    fn open_all(&mut self) {
        let mut at = 0;
        while !self.failed && at < self.inn.len() {
            let wire = match self.codec.frame(&self.inn[at..]) {
                Ok(Frame::Whole { wire, .. }) => wire,
                Ok(Frame::Partial { .. }) => break,
                Err(_) => {
                    self.failed = true;
                    break;
                }
            };
            match self.codec.open(&mut self.inn[at..at + wire]) {
                Ok(Opened::Data(range)) => self.check(at + range.start..at + range.end),
                Ok(Opened::Control | Opened::Closed) => {}
                Err(failure) => {
                    self.failed = true;
                    self.alerted = matches!(failure, Failure::Alert(_));
                }
            }
            at += wire;
        }
        self.inn.drain(..at);
    }

    fn check(&mut self, range: core::ops::Range<usize>) {
        for (byte, position) in self.inn[range].iter().zip(self.received..) {
            let due = stream_byte(self.gets, position);
            if *byte != due && self.wrong.is_none() {
                self.wrong = Some(format!("byte {position} is {byte}, sent was {due}"));
            }
            self.received = position + 1;
        }
    }

    fn may_end(&self) -> bool {
        self.ends == Ends::Early || self.seen.is_some()
    }

    /// Has so much more to send, unless it is about to end.
    pub(super) const fn say_more(&mut self, bytes: u64) {
        if !self.closing && !self.failed {
            self.to_send = self.to_send.saturating_add(bytes);
        }
    }

    /// Goes on sending for as long as anybody reads it, unless it is about to end; whether it does.
    pub(super) const fn flood(&mut self) -> bool {
        if !self.closing && !self.failed {
            self.floods = true;
            self.to_send = u64::MAX;
        }
        self.floods
    }

    fn give(&mut self, wire: &mut Wire, rng: &mut Rng, most: usize) -> bool {
        self.take_control();
        let idle = self.codec.is_secured() && self.out.is_empty() && !self.failed;
        if idle && self.sent < self.to_send {
            self.seal_some(rng, most);
        } else if idle && !self.closing && self.may_end() && rng.chance(50) {
            self.closing = true;
            self.codec.close();
            self.take_control();
        }
        let room = wire.to_relay.capacity - wire.to_relay.bytes.len();
        let count = room.min(self.out.len()).min(1 + rng.below(most));
        wire.to_relay.bytes.extend(self.out.drain(..count));
        let fin = self.closing && self.out.is_empty() && !self.fin_sent;
        if fin {
            self.fin_sent = true;
            self.ended_well = !self.babbled;
            wire.to_relay.fin = true;
        }
        if count > 0 || fin {
            wire.peer_sent();
        }
        let ready = self.codec.is_secured() && self.out.is_empty() && !self.failed && !self.closing;
        count > 0 || fin || (ready && (self.sent < self.to_send || self.may_end()))
    }

    fn seal_some(&mut self, rng: &mut Rng, most: usize) {
        let layout = self.codec.layout();
        let left = usize::try_from(self.to_send - self.sent).unwrap_or(usize::MAX);
        let count = left.min(layout.payload_max).min(1 + rng.below(most));
        let at = self.out.len();
        self.out.resize(at + layout.record(count), 0);
        let payload = &mut self.out[at + layout.header..][..count];
        for (byte, position) in payload.iter_mut().zip(self.sent..) {
            *byte = stream_byte(self.sends, position);
        }
        loop {
            let slot = self.out.len() - layout.record(count);
            match self.codec.seal(&mut self.out[slot..], count) {
                Ok(Sealed::Record(wire)) => break self.out.truncate(slot + wire),
                Ok(Sealed::ControlFirst) => {
                    let waiting = self.out.split_off(slot);
                    self.take_control();
                    self.out.extend(waiting);
                }
                Err(_) => {
                    self.out.truncate(slot);
                    return self.failed = true;
                }
            }
        }
        self.sent += count as u64;
    }

    fn take_control(&mut self) {
        let at = self.out.len();
        let count = self.codec.control_pending();
        if count > 0 {
            self.out.resize(at + count, 0);
            let taken = self.codec.take_control(&mut self.out[at..]);
            assert_eq!(taken, count, "take_control fills the room given");
        }
    }

    /// Leaves without its orderly end.
    pub(super) fn vanish(&mut self, wire: &mut Wire) {
        // On a plain leg nobody can tell that from an orderly end.
        self.ended_well = self.codec.layout().is_transparent();
        self.fin_sent = true;
        self.closing = true;
        self.out.clear();
        self.to_send = self.sent;
        wire.to_relay.fin = true;
        wire.peer_sent();
    }

    /// Sends what nobody can open, on a secure leg, and nothing after it.
    pub(super) fn babble(&mut self, rng: &mut Rng) {
        if !self.codec.layout().is_transparent() && !self.closing {
            let bytes = 1 + rng.below(40);
            self.out.extend((0..bytes).map(|_| rng.next() as u8));
            self.closing = true;
            self.babbled = true;
            self.to_send = self.sent;
        }
    }
}
