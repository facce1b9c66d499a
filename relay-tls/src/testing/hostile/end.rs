//! An end that is a bare codec, driven record by record. It may turn hostile once it has keys.

use relay_core::codec::{Codec, Frame, Opened, Sealed};
use relay_core::error::Failure;
use relay_core::testing::rng::stream_byte;

use super::{HELD_MAX, Party, Tally, checked_sentence};
use crate::frame::{HEADER, PAYLOAD_MAX};
use crate::{DataPath, TlsCodec};

/// See the [module](self).
pub(super) struct End {
    codec: TlsCodec,
    data_path: DataPath,
    tally: Tally,
    /// On its way to the other end.
    out: Vec<u8>,
    /// Arrived and not opened.
    arrived: Vec<u8>,
    closed: bool,
    peer_closed: bool,
    was_secured: bool,
    /// Why nothing is received any more, and whether nothing is sent any more either.
    over: Option<Failure>,
    mute: bool,
}

impl Party for End {
    fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }

    fn codec(&self) -> &TlsCodec {
        &self.codec
    }

    fn out(&mut self) -> &mut Vec<u8> {
        self.flush();
        &mut self.out
    }

    /// Seals bytes of the stream, if it may.
    fn send(&mut self, payload: usize) {
        if self.mute || self.closed || !self.codec.is_secured() {
            return;
        }
        let layout = self.codec.layout();
        let mut slot = vec![0; layout.record(payload)];
        let bytes = slot[layout.header..].iter_mut().zip(self.tally.sent..).take(payload);
        bytes.for_each(|(byte, position)| *byte = stream_byte(self.tally.stream, position));
        let mut sealed = self.codec.seal(&mut slot, payload);
        if sealed == Ok(Sealed::ControlFirst) {
            assert!(self.codec.control_pending() > 0, "there is something to go first");
            self.flush();
            sealed = self.codec.seal(&mut slot, payload);
        }
        match sealed {
            Ok(Sealed::Record(length)) => {
                assert_eq!(length, layout.record(payload), "a record is as long as its layout");
                self.out.extend_from_slice(&slot);
                self.tally.sent += payload as u64;
            }
            Ok(Sealed::ControlFirst) => panic!("a second time, although nothing waits"),
            Err(failure) => panic!("keys can be renewed for ever, and yet {failure}"),
        }
    }

    fn close(&mut self) {
        // In builds with assertions rustls' own record layer panics over anything wrong after that.
        let fragile = cfg!(debug_assertions) && self.data_path == DataPath::Rustls;
        if !fragile && !self.mute && self.codec.is_secured() {
            self.codec.close();
            (self.closed, self.tally.closed) = (true, true);
            self.flush();
        }
    }

    /// Turns hostile.
    fn forge(&mut self, record: &mut dyn FnMut(&mut TlsCodec) -> Vec<u8>) {
        self.tally.forges = true;
        let record = record(&mut self.codec);
        self.out.extend(record);
    }

    fn arrive(&mut self, bytes: &[u8]) {
        if self.over.is_none() {
            self.arrived.extend_from_slice(bytes);
            self.open_all();
        }
    }

    /// Asked without having been asked first what stands there: an error then, if it is not a record.
    fn open_as_it_is(&mut self, bytes: &[u8]) {
        if self.over.is_none() {
            self.open(&mut bytes.to_vec(), PAYLOAD_MAX);
        }
    }

    fn eof(&mut self) {
        if self.over.is_some() {
            return;
        }
        match self.codec.transport_eof() {
            Ok(()) => assert!(self.peer_closed, "an end that nobody announced"),
            Err(failure) => {
                assert_eq!(failure, Failure::Truncated);
                assert!(!self.peer_closed, "it was announced");
                let sends = self.codec.is_secured();
                self.end(failure);
                self.mute = !sends;
            }
        }
    }

    fn check(&mut self) {
        let held = self.codec.held();
        assert!(held <= HELD_MAX, "{held} bytes are held");
        let secured = self.codec.is_secured();
        assert!(secured || !self.was_secured, "never goes back");
        assert_eq!(secured, self.codec.info().is_some());
        self.was_secured = secured;
    }

    fn is_over(&self) -> bool {
        self.over.is_some() || (self.closed && self.peer_closed)
    }

    fn heard_end(&self) -> bool {
        self.peer_closed
    }
}

impl End {
    pub(super) const fn new(codec: TlsCodec, data_path: DataPath, stream: u64) -> Self {
        Self {
            codec,
            data_path,
            tally: Tally::new(stream),
            out: Vec::new(),
            arrived: Vec::new(),
            closed: false,
            peer_closed: false,
            was_secured: false,
            over: None,
            mute: false,
        }
    }

    fn flush(&mut self) {
        let (pending, at) = (self.codec.control_pending(), self.out.len());
        self.out.resize(at + pending, 0);
        assert_eq!(self.codec.take_control(&mut self.out[at..]), pending, "it fills the room given");
        assert_eq!(self.codec.control_pending(), 0);
    }

    /// Opens every whole record; in the end asks for more, or is over.
    fn open_all(&mut self) {
        let mut arrived = core::mem::take(&mut self.arrived);
        let mut at = 0;
        while self.over.is_none() {
            let rest = &mut arrived[at..];
            match self.codec.frame(rest) {
                Ok(Frame::Partial { need }) => {
                    assert!(need > rest.len(), "more than were given");
                    assert!(need <= HEADER + PAYLOAD_MAX + 256, "no record is so long: {need}");
                    break;
                }
                Ok(Frame::Whole { wire, payload }) => {
                    assert!(wire > 0 && wire <= rest.len() && payload <= rest.len());
                    at += wire;
                    self.open(&mut rest[..wire], payload);
                }
                Err(failure) => self.end(failure),
            }
        }
        arrived.drain(..at);
        self.arrived = arrived;
    }

    fn open(&mut self, record: &mut [u8], payload: usize) {
        let over = self.peer_closed;
        match self.codec.open(record) {
            Ok(Opened::Data(range)) => {
                assert!(self.codec.is_secured(), "nothing before the peer is authenticated");
                assert!(!over, "nothing after its end");
                assert!(range.len() <= payload, "an upper bound");
                self.tally.receive(&record[range]);
            }
            Ok(Opened::Control) => {}
            Ok(Opened::Closed) => {
                assert!(!over, "an end comes once");
                self.peer_closed = true;
            }
            Err(failure) => self.end(failure),
        }
    }

    /// Nothing more is received: an error stays, and there is a sentence for it.
    fn end(&mut self, failure: Failure) {
        (self.over, self.mute) = (Some(failure), true);
        assert_eq!(self.codec.frame(b"\x16\x03\x03"), Err(failure));
        assert_eq!(self.codec.open(&mut [23, 3, 3, 0, 17]), Err(failure));
        assert_eq!(self.codec.transport_eof(), Err(failure));
        checked_sentence(&self.codec);
    }
}
