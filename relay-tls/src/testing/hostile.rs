//! A session between two ends of ours, over a network that does what a script says: it carries and
//! cuts, changes, repeats and loses, puts in what it likes. And an end may turn hostile itself once it
//! has keys.

use std::sync::OnceLock;

use relay_core::codec::{Codec, Frame, Opened, Sealed};
use relay_core::error::Failure;
use relay_core::testing::rng::stream_byte;

use super::pki::Authority;
use crate::frame::{HEADER, PAYLOAD_MAX};
use crate::{ClientTls, DataPath, Identity, Material, ServerTls, TlsCodec};

/// More says nothing new, and a finding in many is hard to read.
const OPERATIONS: usize = 400;
/// An unfinished handshake message, a record, a flight of ours.
const HELD_MAX: usize = (64 + 17 + 8) << 10;
/// On its way at once, before a network repeats it once more.
const REPEATED_MAX: usize = 64 << 10;
/// A sentence, even one that quotes names of a certificate's.
const SENTENCE_MAX: usize = 16 << 10;

/// What is left of the input.
pub(super) struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    pub(super) const fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn small(&mut self) -> Option<usize> {
        self.byte().map(usize::from)
    }

    fn word(&mut self) -> Option<usize> {
        Some(self.small()? << 8 | self.small()?)
    }

    /// A length and so many bytes, as far as there are any.
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.small()?.min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        Some(bytes)
    }
}

struct Pki {
    client: Material,
    server: Material,
    stranger: Material,
}

fn pki() -> &'static Pki {
    static PKI: OnceLock<Pki> = OnceLock::new();
    PKI.get_or_init(|| {
        let (ours, other) = (Authority::new("ca"), Authority::new("other ca"));
        Pki {
            client: ours.issue("client").trusting(&ours),
            server: ours.issue("server").trusting(&ours),
            stranger: other.issue("client").trusting(&ours),
        }
    })
}

fn identity(rule: &str) -> Identity {
    rule.parse().expect("an identity")
}

struct End {
    codec: TlsCodec,
    data_path: DataPath,
    /// Names the stream that it sends.
    stream: u64,
    /// On its way to the other end.
    out: Vec<u8>,
    /// Arrived and not opened.
    arrived: Vec<u8>,
    sent: u64,
    received: u64,
    /// It does not send what it should.
    forges: bool,
    /// Nor did the other one.
    doubts: bool,
    closed: bool,
    peer_closed: bool,
    was_secured: bool,
    /// Why nothing is received any more, and whether nothing is sent any more either.
    over: Option<Failure>,
    mute: bool,
}

/// A script being played.
pub(super) struct Scene<'a> {
    script: Script<'a>,
    /// The client, the server.
    ends: [End; 2],
    strangers: [bool; 2],
}

impl<'a> Scene<'a> {
    /// The first byte of the script says who is there.
    pub(super) fn new(mut script: Script<'a>) -> Option<Self> {
        let header = script.byte()?;
        let bit = |at: u8| header >> at & 1 == 1;
        let path = |rustls| if rustls { DataPath::Rustls } else { DataPath::InPlace };
        let paths = [path(bit(0)), path(bit(1))];
        let records_per_key = [1, 3, 40, u64::MAX][usize::from(header >> 2 & 3)];
        let strangers = [bit(4), bit(5)];
        let pki = pki();
        let material = |stranger, material| if stranger { &pki.stranger } else { material };
        let client = ClientTls::builder(material(strangers[0], &pki.client))
            .peers([identity("cn:server")])
            .data_path(paths[0])
            .records_per_key(records_per_key)
            .build()
            .expect("a client")
            .codec("192.0.2.1")
            .expect("a host");
        let server = ServerTls::builder(material(strangers[1], &pki.server))
            .peers([identity("uri:spiffe://example.org/*")])
            .data_path(paths[1])
            .records_per_key(records_per_key)
            .build()
            .expect("a server")
            .codec();
        let ends = [End::new(client, paths[0], 1), End::new(server, paths[1], 2)];
        Some(Self { script, ends, strangers })
    }

    /// Plays all of it.
    pub(super) fn play(mut self) {
        for _ in 0..OPERATIONS {
            if self.operation().is_none() {
                break;
            }
            self.check();
        }
    }

    /// The next operation: what the network does on the way to one end, or what the other end does.
    fn operation(&mut self) -> Option<()> {
        let operation = self.script.byte()?;
        let script = &mut self.script;
        let [client, server] = &mut self.ends;
        let (from, to) = if operation >> 7 == 0 { (client, server) } else { (server, client) };
        from.flush();
        match operation & 15 {
            0 => carry(from, to, usize::MAX),
            1 => carry(from, to, script.small()?),
            2 => to.arrive(script.bytes()?),
            3 => to.arrive(&record(script)?),
            4 => {
                let (at, change) = (script.word()?, script.byte()?);
                let length = from.out.len().max(1);
                if let Some(byte) = from.out.get_mut(at % length) {
                    *byte ^= change;
                }
            }
            5 => from.out.truncate(from.out.len().saturating_sub(script.small()?)),
            6 => drop(from.out.drain(..script.small()?.min(from.out.len()))),
            7 if from.out.len() <= REPEATED_MAX => from.out.extend_from_within(..),
            8 => from.send((script.small()? + 1).pow(2).min(PAYLOAD_MAX)),
            9 => from.close(),
            10 => to.eof(),
            11 => {
                let (kind, padding, bytes) = (script.byte()?, script.small()?, script.bytes()?);
                from.forge(|codec| codec.forge(kind, bytes, padding * padding));
            }
            12 => {
                let requested = script.byte()? & 1 == 1;
                from.forge(|codec| codec.forge_key_update(requested));
            }
            13 => to.open_as_it_is(script.bytes()?),
            14 => {
                for _ in 0..4 {
                    carry(from, to, usize::MAX);
                    carry(to, from, usize::MAX);
                }
            }
            _ => {}
        }
        Some(())
    }

    fn check(&mut self) {
        for end in &mut self.ends {
            end.check();
        }
        let [client, server] = &self.ends;
        assert!(!(self.strangers[0] && server.was_secured), "the server takes a stranger for a client");
        assert!(!(self.strangers[1] && client.was_secured), "the client takes a stranger for a server");
        if let (Some(one), Some(other)) = (client.codec.info(), server.codec.info()) {
            assert_eq!(one.correlation, other.correlation, "both are secured, but not with each other");
            assert_eq!(one.peer.common_name(), Some("server"));
            assert_eq!(other.peer.common_name(), Some("client"));
        }
        for (from, to) in [(client, server), (server, client)] {
            assert!(to.received <= from.sent || from.forges, "{} of {} bytes", to.received, from.sent);
        }
    }
}

/// A record that claims to be of some kind and length, with a body that may be shorter.
fn record(script: &mut Script<'_>) -> Option<Vec<u8>> {
    let (kind, length, body) = (script.byte()?, script.word()?, script.bytes()?);
    let mut record = vec![kind, 3, 3, (length >> 8) as u8, length as u8];
    record.extend_from_slice(body);
    // Zeros as far as a record may reach, so that large ones need no large script.
    record.resize(HEADER + body.len().max(length.min(PAYLOAD_MAX + 256)), 0);
    Some(record)
}

fn carry(from: &mut End, to: &mut End, most: usize) {
    from.flush();
    let count = most.min(from.out.len());
    let bytes: Vec<u8> = from.out.drain(..count).collect();
    to.doubts |= from.forges;
    to.arrive(&bytes);
}

impl End {
    const fn new(codec: TlsCodec, data_path: DataPath, stream: u64) -> Self {
        Self {
            codec,
            data_path,
            stream,
            out: Vec::new(),
            arrived: Vec::new(),
            sent: 0,
            received: 0,
            forges: false,
            doubts: false,
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

    /// Seals bytes of the stream, if it may.
    fn send(&mut self, payload: usize) {
        if self.mute || self.closed || !self.codec.is_secured() {
            return;
        }
        let layout = self.codec.layout();
        let mut slot = vec![0; layout.record(payload)];
        for (byte, position) in slot[layout.header..].iter_mut().zip(self.sent..).take(payload) {
            *byte = stream_byte(self.stream, position);
        }
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
                self.sent += payload as u64;
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
            self.closed = true;
            self.flush();
        }
    }

    /// Turns hostile.
    fn forge(&mut self, record: impl FnOnce(&mut TlsCodec) -> Vec<u8>) {
        self.forges = true;
        let record = record(&mut self.codec);
        self.out.extend(record);
    }

    fn arrive(&mut self, bytes: &[u8]) {
        if self.over.is_none() {
            self.arrived.extend_from_slice(bytes);
            self.open_all();
        }
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
                for &byte in &record[range] {
                    assert!(
                        self.doubts || byte == stream_byte(3 - self.stream, self.received),
                        "a wrong byte"
                    );
                    self.received += 1;
                }
            }
            Ok(Opened::Control) => {}
            Ok(Opened::Closed) => {
                assert!(!over, "an end comes once");
                self.peer_closed = true;
            }
            Err(failure) => self.end(failure),
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

    /// Nothing more is received: an error stays, and there is a sentence for it.
    fn end(&mut self, failure: Failure) {
        (self.over, self.mute) = (Some(failure), true);
        assert_eq!(self.codec.frame(b"\x16\x03\x03"), Err(failure));
        assert_eq!(self.codec.open(&mut [23, 3, 3, 0, 17]), Err(failure));
        assert_eq!(self.codec.transport_eof(), Err(failure));
        let sentence = self.codec.error_text().unwrap_or_default();
        assert!(!sentence.is_empty() && sentence.len() <= SENTENCE_MAX, "{sentence:?}");
        assert!(!sentence.chars().any(char::is_control), "{sentence:?}");
    }

    fn check(&mut self) {
        let held = self.codec.held();
        assert!(held <= HELD_MAX, "{held} bytes are held");
        let secured = self.codec.is_secured();
        assert!(secured || !self.was_secured, "never goes back");
        assert_eq!(secured, self.codec.info().is_some());
        self.was_secured = secured;
    }
}
