//! Two codecs and the bytes between them: a network that cuts wherever a seed says.

use relay_core::codec::{Codec, Frame, Opened, Sealed};
use relay_core::error::Failure;

use crate::TlsCodec;

/// xorshift64*: deterministic, and enough for choosing where to cut.
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From 1 to `most`, small numbers and `most` more often than the rest.
    pub(crate) fn up_to(&mut self, most: usize) -> usize {
        let scale = 1 << (self.next() % 18);
        1 + (self.next() as usize % scale).min(most - 1)
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// How a network cuts what it carries.
#[derive(Clone)]
pub(crate) enum Cut {
    /// All at once.
    Whole,
    /// A byte at a time.
    Bytes,
    Random(Random),
}

impl Cut {
    fn piece(&mut self, available: usize) -> usize {
        match self {
            Self::Whole => available,
            Self::Bytes => available.min(1),
            Self::Random(random) if available > 0 => random.up_to(available),
            Self::Random(_) => 0,
        }
    }
}

/// A codec with what a link would hold for it.
pub(crate) struct End {
    pub(crate) codec: TlsCodec,
    /// Arrived, not opened.
    pub(crate) incoming: Vec<u8>,
    /// Ready to be sent.
    pub(crate) outgoing: Vec<u8>,
    /// To be sealed once the session is secured.
    pub(crate) to_send: Vec<u8>,
    /// Close our direction once everything is sent.
    pub(crate) close: bool,
    pub(crate) received: Vec<u8>,
    pub(crate) closed: bool,
    pub(crate) failure: Option<Failure>,
    /// Of each record the lengths of its payload, in order.
    pub(crate) records: Vec<usize>,
    /// How often `seal` asked for control bytes to go first.
    pub(crate) control_first: usize,
    closing: bool,
}

impl End {
    pub(crate) fn new(codec: TlsCodec) -> Self {
        Self {
            codec,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            to_send: Vec::new(),
            close: false,
            received: Vec::new(),
            closed: false,
            failure: None,
            records: Vec::new(),
            control_first: 0,
            closing: false,
        }
    }

    pub(crate) fn flush_control(&mut self, cut: &mut Cut) {
        while self.codec.control_pending() > 0 {
            let pending = self.codec.control_pending();
            let mut piece = vec![0; cut.piece(pending)];
            assert_eq!(self.codec.take_control(&mut piece), piece.len());
            assert_eq!(self.codec.control_pending(), pending - piece.len());
            self.outgoing.extend_from_slice(&piece);
        }
    }

    /// Makes one record, or control bytes. Whether anything came of it.
    pub(crate) fn seal(&mut self, payload: usize) -> Result<bool, Failure> {
        let layout = self.codec.layout();
        let mut slot = vec![0; layout.record(payload)];
        slot[layout.header..layout.header + payload].copy_from_slice(&self.to_send[..payload]);
        let before = slot.clone();
        match self.codec.seal(&mut slot, payload)? {
            Sealed::Record(length) => {
                assert!(length <= slot.len());
                self.outgoing.extend_from_slice(&slot[..length]);
                self.to_send.drain(..payload);
                Ok(true)
            }
            Sealed::ControlFirst => {
                assert_eq!(slot, before, "the slot is as it was");
                assert!(self.codec.control_pending() > 0);
                self.control_first += 1;
                Ok(false)
            }
        }
    }

    /// Sends what there is to send.
    pub(crate) fn flush(&mut self, cut: &mut Cut) {
        self.flush_control(cut);
        while self.failure.is_none() && self.codec.is_secured() && !self.to_send.is_empty() {
            let most = self.to_send.len().min(self.codec.layout().payload_max);
            let payload = cut.piece(most);
            match self.seal(payload) {
                Ok(_) => self.flush_control(cut),
                Err(failure) => self.failure = Some(failure),
            }
        }
        let done = self.close && self.to_send.is_empty() && !self.closing;
        if done && self.failure.is_none() && self.codec.is_secured() {
            self.codec.close();
            let once = self.codec.control_pending();
            self.codec.close();
            assert_eq!(self.codec.control_pending(), once, "later calls do nothing");
            self.closing = true;
        }
        self.flush_control(cut);
    }

    /// Opens every whole record that has arrived.
    pub(crate) fn open(&mut self) {
        while self.failure.is_none() {
            match self.codec.frame(&self.incoming) {
                Ok(Frame::Partial { need }) => {
                    assert!(need > self.incoming.len(), "more than were given");
                    return;
                }
                Ok(Frame::Whole { wire, payload }) => {
                    let mut record: Vec<u8> = self.incoming.drain(..wire).collect();
                    match self.codec.open(&mut record) {
                        Ok(Opened::Data(range)) => {
                            assert!(self.codec.is_secured(), "nothing before the peer is authenticated");
                            assert!(range.len() <= payload, "an upper bound");
                            assert!(!self.closed, "nothing after the end");
                            self.records.push(range.len());
                            self.received.extend_from_slice(&record[range]);
                        }
                        Ok(Opened::Control) => {}
                        Ok(Opened::Closed) => {
                            assert!(!self.closed, "closed once");
                            self.closed = true;
                        }
                        Err(failure) => self.failure = Some(failure),
                    }
                }
                Err(failure) => self.failure = Some(failure),
            }
        }
    }

    pub(crate) fn eof(&mut self) -> Result<(), Failure> {
        assert!(self.incoming.is_empty() || self.closed || self.codec.frame(&self.incoming).is_ok());
        self.codec.transport_eof()
    }
}

/// Moves bytes one way; whether any moved.
pub(crate) fn carry(from: &mut End, to: &mut End, cut: &mut Cut) -> bool {
    let piece = cut.piece(from.outgoing.len());
    to.incoming.extend(from.outgoing.drain(..piece));
    to.open();
    piece > 0
}

/// Moves bytes both ways until there are none.
pub(crate) fn pump(a: &mut End, b: &mut End, cut: &mut Cut) {
    loop {
        a.flush(cut);
        b.flush(cut);
        let there = carry(a, b, cut);
        let back = carry(b, a, cut);
        if !there && !back {
            return;
        }
    }
}
