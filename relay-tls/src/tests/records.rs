//! A peer that has the keys and breaks the rules (RFC 8446 section 5).

use relay_core::codec::{Codec, Frame, Opened};
use relay_core::error::Failure;

use super::pki::Pair;
use super::stream::secured;
use super::wire::{Cut, End, carry};
use crate::{DataPath, TlsCodec};

const OURS: (DataPath, DataPath) = (DataPath::InPlace, DataPath::InPlace);

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// A secured pair; what `forger` makes, `victim` opens.
struct Scene {
    forger: End,
    victim: End,
}

impl Scene {
    fn new(pair: &Pair, victim_is_client: bool) -> Self {
        let (client, server) = secured(pair, OURS, 1 << 20);
        if victim_is_client {
            Self { forger: server, victim: client }
        } else {
            Self { forger: client, victim: server }
        }
    }

    fn forge(&mut self, kind: u8, bytes: &[u8], padding: usize) -> &mut Self {
        let record = self.forger.codec.forge(kind, bytes, padding);
        self.victim.incoming.extend(record);
        self.victim.open();
        self
    }

    /// The victim ended the session, said so to the forger, and has words for it.
    #[track_caller]
    fn ended(&mut self, alert: u8, words: &str) {
        assert_eq!(self.victim.failure, Some(Failure::Protocol));
        let text = self.victim.codec.error_text().unwrap();
        assert!(text.contains(words), "{text}");
        self.victim.flush_control(&mut Cut::Whole);
        carry(&mut self.victim, &mut self.forger, &mut Cut::Whole);
        assert_eq!(self.forger.failure, Some(Failure::Alert(alert)), "{words}");
    }

    #[track_caller]
    fn goes_on(&mut self) {
        self.forge(DATA, b"fine", 0);
        assert_eq!(self.victim.failure, None, "{:?}", self.victim.codec.error_text());
        assert!(self.victim.received.ends_with(b"fine"));
    }
}

#[test]
fn what_has_no_place_ends_the_session() {
    let pair = Pair::new();
    let update = [24, 0, 0, 1, 0];
    let cases: &[(u8, &[u8], u8, &str)] = &[
        (0, b"", 10, "nothing but padding"),
        (20, &[1], 10, "a type that has no place here (20)"),
        (24, b"heartbeat", 10, "a type that has no place here (24)"),
        (0xff, b"x", 10, "a type that has no place here (255)"),
        (ALERT, b"", 50, "malformed alert"),
        (ALERT, &[1], 50, "malformed alert"),
        (ALERT, &[1, 0, 1, 0], 50, "malformed alert"),
        (HANDSHAKE, b"", 10, "an empty handshake record"),
        (HANDSHAKE, &[1, 0, 0, 1, 0], 10, "no place here (type 1)"),
        (HANDSHAKE, &[13, 0, 0, 1, 0], 10, "no place here (type 13)"),
        (HANDSHAKE, &[20, 0, 0, 32], 10, "no place here (type 20)"),
        (HANDSHAKE, &[24, 0, 0, 0], 50, "impossible length"),
        (HANDSHAKE, &[24, 0, 0, 2, 0, 0], 50, "impossible length"),
        (HANDSHAKE, &[24, 0, 0, 1, 2], 47, "malformed key update"),
        (HANDSHAKE, &[update, update].concat(), 10, "behind a key update"),
    ];
    for victim_is_client in [true, false] {
        for (kind, bytes, alert, words) in cases {
            let mut scene = Scene::new(&pair, victim_is_client);
            scene.goes_on();
            scene.forge(*kind, bytes, 0).ended(*alert, words);
        }
    }
}

#[test]
fn tickets_are_skipped_by_clients_and_refused_by_servers() {
    let pair = Pair::new();
    let ticket = |length: usize| [&[4], &(length as u32).to_be_bytes()[1..], &vec![7; length]].concat();
    let mut scene = Scene::new(&pair, true);
    scene.forge(HANDSHAKE, &ticket(200), 0).goes_on();
    scene.forge(HANDSHAKE, &[ticket(1), ticket(2), ticket(3)].concat(), 9).goes_on();
    // Over many records, with a key update at the end of the last.
    let mut long = ticket(40_000);
    long.extend([24, 0, 0, 1, 1]);
    for piece in long.chunks(2000) {
        scene.forge(HANDSHAKE, piece, 0);
    }
    assert_eq!(scene.victim.failure, None);
    // The header itself over many records.
    let mut scene = Scene::new(&pair, true);
    for byte in ticket(3) {
        scene.forge(HANDSHAKE, &[byte], 0);
    }
    scene.goes_on();
    let mut scene = Scene::new(&pair, true);
    scene.forge(HANDSHAKE, &ticket(0), 0).ended(50, "impossible length");
    let mut scene = Scene::new(&pair, true);
    scene.forge(HANDSHAKE, &[4, 3, 0, 0], 0).ended(50, "impossible length");
    let mut scene = Scene::new(&pair, false);
    scene.forge(HANDSHAKE, &ticket(200), 0).ended(10, "no place here (type 4)");
}

#[test]
fn a_message_is_not_interrupted() {
    let pair = Pair::new();
    for (kind, bytes) in [(DATA, &b"x"[..]), (DATA, b""), (ALERT, &[1, 0]), (ALERT, &[2, 40])] {
        for part in [&[24][..], &[24, 0, 0], &[24, 0, 0, 1]] {
            let mut scene = Scene::new(&pair, false);
            scene.forge(HANDSHAKE, part, 0);
            assert_eq!(scene.victim.failure, None);
            scene.forge(kind, bytes, 0).ended(10, "interrupted a handshake message");
            assert!(scene.victim.received.is_empty());
        }
    }
}

/// Nor does it stand in the way of what we send, or of our keys.
#[test]
fn our_keys_change_even_in_the_middle_of_a_message() {
    let pair = Pair::new();
    for path in [DataPath::InPlace, DataPath::Rustls] {
        let (mut client, mut server) = secured(&pair, (DataPath::InPlace, path), 2);
        for part in [&[24, 0][..], &[0, 1, 0]] {
            server.incoming.extend(client.codec.forge(HANDSHAKE, part, 0));
            server.open();
            for _ in 0..5 {
                server.to_send = vec![7; 10];
                server.flush(&mut Cut::Whole);
            }
        }
        assert_eq!(server.failure, None, "{path:?}");
        carry(&mut server, &mut client, &mut Cut::Whole);
        assert!(client.received == [7; 100] && server.control_first > 1, "{path:?}");
    }
}

#[test]
fn padding_is_taken_off_and_sizes_are_kept() {
    let pair = Pair::new();
    let mut scene = Scene::new(&pair, true);
    scene.forge(DATA, b"padded", 1000).forge(DATA, b"ends in zeros\0\0", 1).forge(DATA, &[0; 3], 0);
    assert_eq!(scene.victim.received, b"paddedends in zeros\0\0\0\0\0");
    scene.forge(DATA, &[1; 16384], 0).forge(DATA, b"x", 16383);
    assert_eq!(scene.victim.received.len(), 24 + 16384 + 1);
    // One more than section 5.4 allows, though its ciphertext fits section 5.2.
    scene.forge(DATA, &[1; 16385], 0).ended(22, "holds too much");
    let mut scene = Scene::new(&pair, true);
    scene.forge(DATA, b"x", 16384).ended(22, "holds too much");
    let mut scene = Scene::new(&pair, true);
    scene.forge(0, b"", 100).ended(10, "nothing but padding");
}

#[test]
fn floods_without_data_are_bounded() {
    let pair = Pair::new();
    let kinds: [(u8, &[u8]); 3] = [(DATA, b""), (ALERT, &[1, 90]), (HANDSHAKE, &[4, 0, 0, 1, 0])];
    for (kind, bytes) in kinds {
        let mut scene = Scene::new(&pair, true);
        for _ in 0..3 {
            for _ in 0..32 {
                scene.forge(kind, bytes, 0);
            }
            scene.goes_on();
        }
        for _ in 0..33 {
            scene.forge(kind, bytes, 0);
        }
        scene.ended(10, "too many records without data");
    }
}

/// What was asked for once is answered, even if the peer changes its keys again without asking.
#[test]
fn a_key_update_that_was_asked_for_is_not_forgotten() {
    let pair = Pair::new();
    for (asks, answers) in
        [(&[true, false][..], 1), (&[false, true], 1), (&[true, true], 1), (&[false, false], 0)]
    {
        let mut scene = Scene::new(&pair, false);
        for &requested in asks {
            let record = scene.forger.codec.forge_key_update(requested);
            scene.victim.incoming.extend(record);
            scene.victim.open();
            assert_eq!((scene.victim.failure, scene.victim.codec.control_pending()), (None, 0));
        }
        scene.goes_on();
        scene.victim.to_send = b"answer".to_vec();
        scene.victim.flush(&mut Cut::Whole);
        carry(&mut scene.victim, &mut scene.forger, &mut Cut::Whole);
        assert_eq!(scene.forger.received, b"answer");
        assert_eq!(scene.victim.control_first, answers, "{asks:?}");
    }
}

#[test]
fn alerts_are_told_apart() {
    let pair = Pair::new();
    for (bytes, failure, closed) in [
        ([1, 0], None, true),
        ([2, 0], None, true),
        ([1, 90], None, false),
        ([2, 48], Some(Failure::Alert(48)), false),
        ([1, 48], Some(Failure::Alert(48)), false),
        ([9, 199], Some(Failure::Alert(199)), false),
    ] {
        let mut scene = Scene::new(&pair, true);
        scene.forge(ALERT, &bytes, 3);
        assert_eq!((scene.victim.failure, scene.victim.closed), (failure, closed), "{bytes:?}");
        if failure.is_some() {
            assert_eq!(scene.victim.codec.control_pending(), 0, "an alert is not answered");
        }
    }
    let mut scene = Scene::new(&pair, true);
    scene.forge(ALERT, &[2, 48], 0);
    assert_eq!(scene.victim.codec.error_text(), Some("peer rejected our certificate: alert unknown_ca(48)"));
}

/// Who has said that it sends no more sends no alert either (RFC 8446 section 6.1).
#[test]
fn no_alert_after_our_own_end() {
    let pair = Pair::new();
    let mut scene = Scene::new(&pair, true);
    scene.victim.close = true;
    scene.victim.flush(&mut Cut::Whole);
    scene.forge(20, &[1], 0);
    assert_eq!(scene.victim.failure, Some(Failure::Protocol));
    assert_eq!(scene.victim.codec.control_pending(), 0);
}

#[test]
fn frame_is_exact() {
    let pair = Pair::new();
    let mut scene = Scene::new(&pair, true);
    let record = scene.forger.codec.forge(DATA, &[5; 100], 0);
    for length in 0..record.len() {
        let need = if length < 5 { 5 } else { record.len() };
        assert_eq!(scene.victim.codec.frame(&record[..length]), Ok(Frame::Partial { need }));
    }
    let whole = Frame::Whole { wire: record.len(), payload: 100 };
    let two = [record.clone(), record.clone()].concat();
    assert_eq!(scene.victim.codec.frame(&record), Ok(whole));
    assert_eq!(scene.victim.codec.frame(&two), Ok(whole));
    let mut opened = record.clone();
    assert_eq!(scene.victim.codec.open(&mut opened), Ok(Opened::Data(5..105)));
    assert_eq!(opened[5..105], [5; 100]);
}

/// An idle session is small: the handshake's buffers are gone.
#[test]
fn what_remains_after_the_handshake_is_small() {
    let records = size_of::<crate::records::Records>();
    let codec = size_of::<crate::TlsCodec>();
    assert!(records <= 2048, "{records}");
    assert!(codec <= 256, "{codec}");
}

/// What a check of a connection's rate sends: so much, and then the end, disturbs no peer, neither ours
/// nor rustls' own.
#[test]
fn padding_up_to_its_limit_is_taken_and_nothing_comes_of_it() {
    let pair = Pair::new();
    for victim in [DataPath::InPlace, DataPath::Rustls] {
        let (mut client, mut server) = secured(&pair, (DataPath::InPlace, victim), 1 << 20);
        let before = server.received.len();
        for _ in 0..TlsCodec::PADDING_MAX {
            let record = client.codec.padding().expect("a record");
            assert_eq!(record.len(), 5 + (1 << 14) + 17, "RFC 8446 section 5.2: content, type and tag");
            server.incoming.extend(record);
        }
        server.open();
        client.codec.close();
        assert_eq!(client.codec.padding(), None, "not after the end");
        client.flush_control(&mut Cut::Whole);
        carry(&mut client, &mut server, &mut Cut::Whole);
        assert_eq!((server.failure, server.received.len()), (None, before), "{victim:?}");
        assert!(server.closed, "{victim:?}");
    }
}

/// Whatever changes of keys are in between, and also once the session is over.
#[test]
fn what_one_end_seals_the_other_opens_and_both_count_it() {
    let pair = Pair::new();
    let (mut client, mut server) = secured(&pair, OURS, 2);
    for _ in 0..5 {
        client.to_send = vec![7; 10];
        client.flush(&mut Cut::Whole);
    }
    carry(&mut client, &mut server, &mut Cut::Whole);
    let (sent, received) = (client.codec.record_counts(), server.codec.record_counts());
    assert_eq!(server.received.len(), 50);
    assert!(sent.keys_sent >= 2 && sent.sealed >= 5 + sent.keys_sent, "{sent:?}");
    assert_eq!((sent.sealed, sent.keys_sent), (received.opened, received.keys_received));
    assert_eq!((sent.opened, sent.keys_received), (received.sealed, received.keys_sent));
    // One that does not decrypt is none; the rest is known beyond the end.
    server.incoming.extend([23, 3, 3, 0, 32].into_iter().chain([0; 32]));
    server.open();
    assert_eq!(server.failure, Some(Failure::Protocol));
    let after = server.codec.record_counts();
    assert_eq!((after.opened, after.keys_received), (received.opened, received.keys_received));
    assert_eq!(after.sealed, received.sealed + 1, "the alert");
}
