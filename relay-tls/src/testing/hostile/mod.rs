//! A session between two ends of ours, over a network that does what a script says: it carries and
//! cuts, changes, repeats and loses, puts in what it likes. An end is a bare codec, which may turn
//! hostile itself once it has keys, or a whole relay with its link and its pump. If the network did
//! nothing of that, all arrives in the end.

mod end;
mod relayed;

use std::sync::OnceLock;

use relay_core::testing::rng::stream_byte;

use self::end::End;
use self::relayed::Relayed;
use super::pki::Authority;
use crate::frame::{HEADER, PAYLOAD_MAX};
use crate::{ClientTls, DataPath, Identity, Material, ServerTls, TlsCodec};

/// More says nothing new, and a finding in many is hard to read.
const OPERATIONS: usize = 400;
/// An unfinished handshake message, a record, a flight of ours.
const HELD_MAX: usize = (64 + 17 + 8) << 10;
/// On its way at once, before a network repeats it once more.
const REPEATED_MAX: usize = 64 << 10;
/// Of two ends that are left alone: carried to and fro more often than anything takes.
const CALM: usize = 2000;
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

/// What an end sent and got.
struct Tally {
    /// Names the stream that it sends; the other one's is 3 less it.
    stream: u64,
    sent: u64,
    received: u64,
    /// It does not send what it should.
    forges: bool,
    /// Nor did the other one.
    doubts: bool,
    /// It said that its stream is whole.
    closed: bool,
}

impl Tally {
    const fn new(stream: u64) -> Self {
        Self { stream, sent: 0, received: 0, forges: false, doubts: false, closed: false }
    }

    fn receive(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            assert!(self.doubts || byte == stream_byte(3 - self.stream, self.received), "a wrong byte");
            self.received += 1;
        }
    }
}

/// One end of the session, and what a script can have happen to it.
trait Party {
    fn tally(&mut self) -> &mut Tally;
    fn codec(&self) -> &TlsCodec;
    /// What it has for the other end, on its way.
    fn out(&mut self) -> &mut Vec<u8>;
    /// Sends so many bytes of its stream, if it can.
    fn send(&mut self, payload: usize);
    /// Ends its stream.
    fn close(&mut self);
    fn arrive(&mut self, bytes: &[u8]);
    /// The network's own end.
    fn eof(&mut self);
    fn check(&mut self);
    /// Nothing more comes of it.
    fn is_over(&self) -> bool;
    /// It took the other end's stream for whole.
    fn heard_end(&self) -> bool;
    /// Sends a record that it should not, if it can.
    fn forge(&mut self, _record: &mut dyn FnMut(&mut TlsCodec) -> Vec<u8>) {}
    /// Takes bytes for a record without a look at them, if it can.
    fn open_as_it_is(&mut self, _bytes: &[u8]) {}
    /// Whoever its bytes are for takes none for a while, if there is somebody.
    fn stall(&mut self, _stalled: bool) {}
}

fn checked_sentence(codec: &TlsCodec) {
    let sentence = codec.error_text().unwrap_or_default();
    assert!(!sentence.is_empty() && sentence.len() <= SENTENCE_MAX, "{sentence:?}");
    assert!(!sentence.chars().any(char::is_control), "{sentence:?}");
}

/// A script being played.
pub(super) struct Scene<'a> {
    script: Script<'a>,
    /// The client, the server.
    ends: [Box<dyn Party>; 2],
    strangers: [bool; 2],
    /// The network has done something else than carry.
    harmed: bool,
}

impl<'a> Scene<'a> {
    /// The first byte of the script says who is there.
    pub(super) fn new(mut script: Script<'a>) -> Option<Self> {
        let header = script.byte()?;
        let bit = |at: u8| header >> at & 1 == 1;
        let relayed = [bit(7), bit(6)];
        // In builds with assertions rustls' own record layer panics over anything wrong after our end,
        // and a relay ends when it should.
        let path = |rustls: bool, relayed: bool| match rustls && !(relayed && cfg!(debug_assertions)) {
            true => DataPath::Rustls,
            false => DataPath::InPlace,
        };
        let paths = [path(bit(0), relayed[0]), path(bit(1), relayed[1])];
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
        let mut party = |codec, at: usize| -> Option<Box<dyn Party>> {
            let stream = at as u64 + 1;
            Some(if relayed[at] {
                let capacity = [1, 100, PAYLOAD_MAX, 4 * PAYLOAD_MAX][script.small()? & 3];
                Box::new(Relayed::new(codec, at == 1, capacity, stream))
            } else {
                Box::new(End::new(codec, paths[at], stream))
            })
        };
        let ends = [party(client, 0)?, party(server, 1)?];
        Some(Self { script, ends, strangers, harmed: false })
    }

    /// Plays all of it.
    pub(super) fn play(mut self) {
        for _ in 0..OPERATIONS {
            if self.operation().is_none() {
                break;
            }
            self.check();
        }
        self.come_to_rest();
    }

    /// The next operation: what the network does on the way to one end, or what the other end does.
    fn operation(&mut self) -> Option<()> {
        let operation = self.script.byte()?;
        let script = &mut self.script;
        let [client, server] = &mut self.ends;
        let (from, to) = if operation >> 7 == 0 { (client, server) } else { (server, client) };
        self.harmed |= matches!(operation & 15, 2..=7 | 10..=13);
        let out = from.out();
        match operation & 15 {
            0 => carry(from, to, usize::MAX),
            1 => carry(from, to, script.small()?),
            2 => to.arrive(script.bytes()?),
            3 => to.arrive(&record(script)?),
            4 => {
                let (at, change) = (script.word()?, script.byte()?);
                let length = out.len().max(1);
                if let Some(byte) = out.get_mut(at % length) {
                    *byte ^= change;
                }
            }
            5 => out.truncate(out.len().saturating_sub(script.small()?)),
            6 => drop(out.drain(..script.small()?.min(out.len()))),
            7 if out.len() <= REPEATED_MAX => out.extend_from_within(..),
            8 => from.send((script.small()? + 1).pow(2).min(PAYLOAD_MAX)),
            9 => from.close(),
            10 => to.eof(),
            11 => {
                let (kind, padding, bytes) = (script.byte()?, script.small()?, script.bytes()?);
                from.forge(&mut |codec| codec.forge(kind, bytes, padding * padding));
            }
            12 => {
                let requested = script.byte()? & 1 == 1;
                from.forge(&mut |codec| codec.forge_key_update(requested));
            }
            13 => to.open_as_it_is(script.bytes()?),
            14 => {
                for _ in 0..4 {
                    carry(from, to, usize::MAX);
                    carry(to, from, usize::MAX);
                }
            }
            _ => to.stall(operation >> 4 & 1 == 1),
        }
        Some(())
    }

    fn check(&mut self) {
        self.ends.iter_mut().for_each(|end| end.check());
        let [client, server] = &mut self.ends;
        let [client_info, server_info] = [&client, &server].map(|end| end.codec().info());
        assert!(!(self.strangers[0] && server_info.is_some()), "the server takes a stranger for a client");
        assert!(!(self.strangers[1] && client_info.is_some()), "the client takes a stranger for a server");
        if let (Some(one), Some(other)) = (client_info, server_info) {
            assert_eq!(one.correlation, other.correlation, "both are secured, but not with each other");
            assert_eq!(one.peer.common_name(), Some("server"));
            assert_eq!(other.peer.common_name(), Some("client"));
        }
        check_flow(client.as_mut(), server.as_mut());
        check_flow(server.as_mut(), client.as_mut());
    }

    /// Left alone, all that was sent arrives, and so does the end, unless somebody meant harm.
    fn come_to_rest(mut self) {
        let forged = self.ends.iter_mut().any(|end| end.tally().forges);
        if self.harmed || forged || self.strangers.contains(&true) {
            return;
        }
        self.ends.iter_mut().for_each(|end| end.stall(false));
        self.carry_all();
        let [client, server] = &mut self.ends;
        assert_eq!(client.tally().received, server.tally().sent, "the client has not got all");
        assert_eq!(server.tally().received, client.tally().sent, "the server has not got all");
        self.ends.iter_mut().for_each(|end| end.close());
        self.carry_all();
        let closed = self.ends.each_mut().map(|end| end.tally().closed);
        for (at, end) in self.ends.iter().enumerate() {
            assert!(end.heard_end() || !closed[1 - at], "an end was said and not heard");
            assert!(end.is_over() || closed.contains(&false), "both have ended, and it goes on");
        }
    }

    /// Carries to and fro until nothing is on its way any more.
    fn carry_all(&mut self) {
        let [client, server] = &mut self.ends;
        for _ in 0..CALM {
            let waiting = client.out().len() + server.out().len();
            if waiting == 0 {
                return;
            }
            carry(client, server, usize::MAX);
            carry(server, client, usize::MAX);
        }
        panic!("it never comes to rest");
    }
}

/// Nobody gets what was not sent, nor an end that was not said.
fn check_flow(from: &mut dyn Party, to: &mut dyn Party) {
    let heard_end = to.heard_end();
    let (from, to) = (from.tally(), to.tally());
    assert!(to.received <= from.sent || from.forges, "{} of {} bytes", to.received, from.sent);
    assert!(!heard_end || from.closed || from.forges, "an end that nobody said");
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

fn carry(from: &mut Box<dyn Party>, to: &mut Box<dyn Party>, most: usize) {
    let out = from.out();
    let bytes: Vec<u8> = out.drain(..most.min(out.len())).collect();
    to.tally().doubts |= from.tally().forges;
    to.arrive(&bytes);
}
