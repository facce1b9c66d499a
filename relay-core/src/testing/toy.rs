//! A toy secure channel with all the edges of TLS 1.3 and none of its cryptography: a handshake in
//! fragments, records whose kind shows only when opened, records of nothing, key updates in both directions, alerts, an
//! orderly end, truncation. It keeps nothing secret; it notices a wrong byte, order or key.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::rng::mix;
use crate::codec::{Codec, Frame, Layout, Opened, Sealed};
use crate::error::Failure;

const HEADER: usize = 3;
/// Inner kind and a check over everything.
const TRAILER: usize = 1 + CHECK;
/// Wide enough that in a million simulations none of garbage passes by chance.
const CHECK: usize = 8;

const KIND_CLEAR: u8 = 1;
const KIND_SEALED: u8 = 2;

const INNER_HELLO: u8 = 1;
const INNER_FINISHED: u8 = 2;
const INNER_DATA: u8 = 3;
const INNER_KEY_UPDATE: u8 = 4;
const INNER_CLOSE: u8 = 5;
const INNER_ALERT: u8 = 6;
const INNER_TICKET: u8 = 7;

/// The alert for a credential that is not accepted.
pub const ALERT_BAD_CREDENTIAL: u8 = 42;
/// The alert for a record that does not open.
pub const ALERT_BAD_RECORD: u8 = 20;

/// The alert for a key that can't be renewed.
pub const ALERT_WORN: u8 = 80;

/// What a toy channel is made with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ToyConfig {
    /// Dials, and so speaks first.
    pub client: bool,
    /// What it shows.
    pub credential: u8,
    /// What the other one must show.
    pub expects: u8,
    /// The largest payload of a record, at least 4.
    pub payload_max: usize,
    /// Bytes of the hello, at least 1: a long one comes in many records.
    pub hello: usize,
    /// Records after which a key is renewed.
    pub rekey_after: u64,
    /// Records after which the other one is asked to renew its key too.
    pub ask_rekey: bool,
    /// Records of data after which no key is left.
    pub worn_after: u64,
    /// Sends a byte of data before its handshake is complete.
    pub hasty: bool,
    /// Takes such a byte for data, so that it is up to the caller to refuse it.
    pub lenient: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Key {
    secret: u64,
    sequence: u64,
}

impl Key {
    const fn next_generation(&self) -> Self {
        Self { secret: mix(self.secret ^ 0x6e65_7874), sequence: 0 }
    }

    fn apply(&self, bytes: &mut [u8]) {
        let base = mix(self.secret ^ mix(self.sequence));
        for (chunk, at) in bytes.chunks_mut(8).zip(0_u64..) {
            for (byte, pad) in chunk.iter_mut().zip(mix(base ^ at).to_le_bytes()) {
                *byte ^= pad;
            }
        }
    }

    fn check(&self, bytes: &[u8]) -> [u8; CHECK] {
        let sum = bytes.chunks(8).fold(mix(self.secret) ^ self.sequence, |sum, chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            (sum ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
        });
        mix(sum ^ bytes.len() as u64).to_le_bytes()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    AwaitHello,
    AwaitFinished,
    Secured,
    Failed,
}

/// One end of a toy channel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Toy {
    config: ToyConfig,
    state: State,
    hello_left: usize,
    send: Key,
    receive: Key,
    control: VecDeque<u8>,
    update_wanted: bool,
    asked: bool,
    closed: bool,
    peer_closed: bool,
    /// Key updates seen, of either side.
    pub key_updates: u64,
    /// Records of data sealed.
    sealed: u64,
}

impl Toy {
    /// A fresh end; a client has its hello ready.
    #[must_use]
    pub fn new(config: ToyConfig) -> Self {
        let (client, server) = (Key { secret: 11, sequence: 0 }, Key { secret: 12, sequence: 0 });
        let (send, receive) = if config.client { (client, server) } else { (server, client) };
        let mut toy = Self {
            config,
            state: State::AwaitHello,
            hello_left: 0,
            send,
            receive,
            control: VecDeque::new(),
            update_wanted: false,
            asked: false,
            closed: false,
            peer_closed: false,
            key_updates: 0,
            sealed: 0,
        };
        if config.client {
            toy.queue_hello();
        }
        toy
    }

    fn queue_hello(&mut self) {
        let total = self.config.hello;
        let mut left = total;
        while left > 0 {
            let part = left.min(self.config.payload_max - 1);
            left -= part;
            let length = (part + 1) as u16;
            self.control.push_back(KIND_CLEAR);
            self.control.extend(length.to_be_bytes());
            self.control.push_back(u8::from(left == 0));
            self.control.extend(core::iter::repeat_n(INNER_HELLO, part));
        }
    }

    fn queue_sealed(&mut self, inner: u8, payload: &[u8]) {
        let mut record: Vec<u8> = alloc::vec![0; HEADER + payload.len() + TRAILER];
        record[HEADER..HEADER + payload.len()].copy_from_slice(payload);
        self.seal_as(inner, &mut record, payload.len());
        self.control.extend(record);
    }

    fn seal_as(&mut self, inner: u8, slot: &mut [u8], payload: usize) -> usize {
        let length = payload + TRAILER;
        slot[0] = KIND_SEALED;
        slot[1..HEADER].copy_from_slice(&(length as u16).to_be_bytes());
        slot[HEADER + payload] = inner;
        let check = self.send.check(&slot[HEADER..=HEADER + payload]);
        slot[HEADER + payload + 1..HEADER + length].copy_from_slice(&check);
        self.send.apply(&mut slot[HEADER..HEADER + length]);
        self.send.sequence += 1;
        HEADER + length
    }

    fn queue_key_update(&mut self, ask: bool) {
        self.queue_sealed(INNER_KEY_UPDATE, &[u8::from(ask)]);
        self.send = self.send.next_generation();
        self.key_updates += 1;
    }

    fn fail(&mut self, alert: u8, failure: Failure) -> Failure {
        self.queue_sealed(INNER_ALERT, &[alert]);
        self.state = State::Failed;
        failure
    }

    fn on_hello(&mut self, record: &[u8]) -> Result<Opened, Failure> {
        if self.state != State::AwaitHello || record.len() < HEADER + 2 {
            return Err(self.fail(ALERT_BAD_RECORD, Failure::Protocol));
        }
        if record[HEADER] == 1 {
            if !self.config.client {
                self.queue_hello();
                if self.config.hasty {
                    self.queue_sealed(INNER_DATA, &[1]);
                }
                self.queue_sealed(INNER_FINISHED, &[self.config.credential]);
            }
            self.state = State::AwaitFinished;
        }
        Ok(Opened::Control)
    }

    fn on_finished(&mut self, credential: u8) -> Result<Opened, Failure> {
        if self.state != State::AwaitFinished {
            return Err(self.fail(ALERT_BAD_RECORD, Failure::Protocol));
        }
        if credential != self.config.expects {
            return Err(self.fail(ALERT_BAD_CREDENTIAL, Failure::Rejected));
        }
        if self.config.client {
            if self.config.hasty {
                self.queue_sealed(INNER_DATA, &[1]);
            }
            self.queue_sealed(INNER_FINISHED, &[self.config.credential]);
        } else {
            self.queue_sealed(INNER_TICKET, &[9, 9]);
        }
        self.state = State::Secured;
        Ok(Opened::Control)
    }

    fn on_key_update(&mut self, asks: bool) -> Opened {
        self.receive = self.receive.next_generation();
        self.key_updates += 1;
        // At most one answer waits at a time, however often the peer asks.
        self.update_wanted |= asks && !self.closed;
        Opened::Control
    }

    fn open_sealed(&mut self, record: &mut [u8]) -> Result<Opened, Failure> {
        let body = &mut record[HEADER..];
        self.receive.apply(body);
        let end = body.len() - CHECK;
        if self.receive.check(&body[..end]) != body[end..] {
            return Err(self.fail(ALERT_BAD_RECORD, Failure::Protocol));
        }
        self.receive.sequence += 1;
        let (inner, payload) = (body[end - 1], end - 1);
        let first = body[0];
        let secured = self.state == State::Secured;
        match inner {
            INNER_FINISHED => self.on_finished(first),
            INNER_DATA if (secured || self.config.lenient) && !self.peer_closed => {
                Ok(Opened::Data(HEADER..HEADER + payload))
            }
            INNER_KEY_UPDATE if secured => Ok(self.on_key_update(first == 1)),
            INNER_TICKET if secured => Ok(Opened::Control),
            INNER_CLOSE => {
                self.peer_closed = true;
                Ok(Opened::Closed)
            }
            INNER_ALERT => {
                self.state = State::Failed;
                Err(Failure::Alert(first))
            }
            _ => Err(self.fail(ALERT_BAD_RECORD, Failure::Protocol)),
        }
    }
}

impl Codec for Toy {
    fn layout(&self) -> Layout {
        Layout { header: HEADER, trailer: TRAILER, payload_max: self.config.payload_max }
    }

    fn is_secured(&self) -> bool {
        self.state == State::Secured
    }

    fn frame(&mut self, wire: &[u8]) -> Result<Frame, Failure> {
        assert_ne!(self.state, State::Failed, "contract: nothing is looked at after an error");
        let [kind, high, low, ..] = *wire else { return Ok(Frame::Partial { need: HEADER }) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let payload = match kind {
            KIND_CLEAR if (2..=self.config.payload_max).contains(&length) => 0,
            KIND_SEALED if (TRAILER..=self.config.payload_max + TRAILER).contains(&length) => {
                length - TRAILER
            }
            _ => return Err(self.fail(ALERT_BAD_RECORD, Failure::Protocol)),
        };
        if wire.len() < HEADER + length {
            return Ok(Frame::Partial { need: HEADER + length });
        }
        Ok(Frame::Whole { wire: HEADER + length, payload })
    }

    fn open(&mut self, record: &mut [u8]) -> Result<Opened, Failure> {
        assert_ne!(self.state, State::Failed, "contract: nothing is opened after an error");
        if record[0] == KIND_CLEAR { self.on_hello(record) } else { self.open_sealed(record) }
    }

    fn seal(&mut self, slot: &mut [u8], payload: usize) -> Result<Sealed, Failure> {
        assert!(self.is_secured() && !self.closed, "contract: sealed only while secured and open");
        assert!((1..=self.config.payload_max).contains(&payload), "contract: a payload fits a record");
        if self.send.sequence >= self.config.rekey_after {
            let ask = self.config.ask_rekey && !core::mem::replace(&mut self.asked, true);
            // As peers may that hide how much they say and when (RFC 8446 section 5.1).
            self.queue_sealed(INNER_DATA, &[]);
            self.queue_key_update(ask);
        }
        if self.control_pending() > 0 {
            return Ok(Sealed::ControlFirst);
        }
        self.sealed += 1;
        if self.sealed > self.config.worn_after {
            return Err(self.fail(ALERT_WORN, Failure::KeyExhausted));
        }
        Ok(Sealed::Record(self.seal_as(INNER_DATA, slot, payload)))
    }

    fn control_pending(&self) -> usize {
        // an answer owed is made when it is taken; its size is known
        self.control.len() + if self.update_wanted { HEADER + 1 + TRAILER } else { 0 }
    }

    fn take_control(&mut self, out: &mut [u8]) -> usize {
        if core::mem::take(&mut self.update_wanted) {
            self.queue_key_update(false);
        }
        let count = out.len().min(self.control.len());
        for (to, from) in out.iter_mut().zip(self.control.drain(..count)) {
            *to = from;
        }
        count
    }

    fn close(&mut self) {
        if self.is_secured() && !self.closed {
            if core::mem::take(&mut self.update_wanted) {
                self.queue_key_update(false);
            }
            self.queue_sealed(INNER_CLOSE, &[0]);
            self.closed = true;
        }
    }

    fn transport_eof(&mut self) -> Result<(), Failure> {
        if self.peer_closed { Ok(()) } else { Err(Failure::Truncated) }
    }
}
