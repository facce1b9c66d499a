//! A simulated peer: sends a known stream, checks the one it gets, sees how it ends.

use alloc::vec::Vec;
use std::{format, string::String};

use super::super::rng::{Rng, stream_byte};
use super::net::Wire;
use crate::codec::{Codec, Frame, Opened, Sealed};

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
    pub(super) to_send: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
    out: Vec<u8>,
    inn: Vec<u8>,
    closing: bool,
    pub(super) fin_sent: bool,
    pub(super) seen: Option<Seen>,
    /// Something came that was not sent.
    pub(super) wrong: Option<String>,
    /// The codec gave up.
    pub(super) failed: bool,
    pub(super) stalled: bool,
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
}

impl<C: Codec> Peer<C> {
    pub(super) fn new(codec: C, sends: u64, gets: u64, to_send: u64) -> Self {
        Self {
            codec,
            sends,
            gets,
            to_send,
            sent: 0,
            received: 0,
            out: Vec::new(),
            inn: Vec::new(),
            closing: false,
            fin_sent: false,
            seen: None,
            wrong: None,
            failed: false,
            stalled: false,
        }
    }

    /// Does something if it can; whether it did.
    pub(super) fn act(&mut self, wire: &mut Wire, rng: &mut Rng, most: usize) -> bool {
        if wire.gone {
            return false;
        }
        let took = !self.stalled && self.take(wire, rng, most);
        let gave = self.give(wire, rng, most);
        took || gave
    }

    fn take(&mut self, wire: &mut Wire, rng: &mut Rng, most: usize) -> bool {
        let count = wire.from_relay.bytes.len().min(1 + rng.below(most));
        self.inn.extend(wire.from_relay.bytes.drain(..count));
        if count > 0 {
            wire.peer_took();
        }
        self.open_all();
        let over = self.seen.is_none() && wire.from_relay.fin && wire.from_relay.bytes.is_empty();
        if over {
            let orderly = self.codec.layout().is_transparent() || self.codec.transport_eof().is_ok();
            self.seen = Some(if orderly { Seen::Orderly } else { Seen::Truncated });
        }
        count > 0 || over
    }

    /// The relay closed: what is in the pipe is read, and then how it ended.
    pub(super) fn finish(&mut self, wire: &mut Wire, reset: bool) {
        self.inn.extend(wire.from_relay.bytes.drain(..));
        self.open_all();
        if self.seen.is_none() {
            let codec_done = self.codec.layout().is_transparent() || self.codec.transport_eof().is_ok();
            let orderly = !reset && wire.from_relay.fin && codec_done;
            self.seen = Some(if orderly { Seen::Orderly } else { Seen::Truncated });
        }
    }

    fn open_all(&mut self) {
        while !self.failed && !self.inn.is_empty() {
            let wire = match self.codec.frame(&self.inn) {
                Ok(Frame::Whole { wire, .. }) => wire,
                Ok(Frame::Partial { .. }) => return,
                Err(_) => return self.failed = true,
            };
            match self.codec.open(&mut self.inn[..wire]) {
                Ok(Opened::Data(range)) => self.check(range),
                Ok(Opened::Control | Opened::Closed) => {}
                Err(_) => self.failed = true,
            }
            self.inn.drain(..wire);
        }
    }

    fn check(&mut self, range: core::ops::Range<usize>) {
        for byte in &self.inn[range] {
            let due = stream_byte(self.gets, self.received);
            if *byte != due && self.wrong.is_none() {
                self.wrong = Some(format!("byte {} is {byte}, sent was {due}", self.received));
            }
            self.received += 1;
        }
    }

    fn give(&mut self, wire: &mut Wire, rng: &mut Rng, most: usize) -> bool {
        self.take_control();
        if self.codec.is_secured() && self.out.is_empty() && !self.failed {
            if self.sent < self.to_send {
                self.seal_some(rng, most);
            } else if !self.closing && rng.chance(50) {
                self.closing = true;
                self.codec.close();
                self.take_control();
            }
        }
        let room = wire.to_relay.capacity - wire.to_relay.bytes.len();
        let count = room.min(self.out.len()).min(1 + rng.below(most));
        wire.to_relay.bytes.extend(self.out.drain(..count));
        let fin = self.closing && self.out.is_empty() && !self.fin_sent;
        if fin {
            self.fin_sent = true;
            wire.to_relay.fin = true;
        }
        if count > 0 || fin {
            wire.peer_sent();
        }
        count > 0 || fin || (!self.closing && self.codec.is_secured() && !self.failed)
    }

    fn seal_some(&mut self, rng: &mut Rng, most: usize) {
        let layout = self.codec.layout();
        let left = usize::try_from(self.to_send - self.sent).unwrap_or(usize::MAX);
        let count = left.min(layout.payload_max).min(1 + rng.below(most));
        let mut slot = alloc::vec![0; layout.record(count)];
        for (byte, at) in slot[layout.header..layout.header + count].iter_mut().zip(self.sent..) {
            *byte = stream_byte(self.sends, at);
        }
        loop {
            match self.codec.seal(&mut slot, count) {
                Ok(Sealed::Record(wire)) => break self.out.extend(&slot[..wire]),
                Ok(Sealed::ControlFirst) => self.take_control(),
                Err(_) => return self.failed = true,
            }
        }
        self.sent += count as u64;
    }

    fn take_control(&mut self) {
        let at = self.out.len();
        let count = self.codec.control_pending();
        self.out.resize(at + count, 0);
        let taken = self.codec.take_control(&mut self.out[at..]);
        assert_eq!(taken, count, "take_control fills the room given");
    }

    /// Leaves without its orderly end.
    pub(super) fn vanish(&mut self, wire: &mut Wire) {
        self.fin_sent = true;
        self.closing = true;
        self.out.clear();
        self.to_send = self.sent;
        wire.to_relay.fin = true;
        wire.peer_sent();
    }
}
