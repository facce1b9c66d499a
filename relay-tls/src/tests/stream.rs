//! Data, ends, damage and floods.

use proptest::prelude::*;
use relay_core::codec::{Codec, Frame, Opened};
use relay_core::error::Failure;

use super::pki::Pair;
use super::wire::{Cut, End, Random, carry, pump};
use crate::{ClientTls, DataPath, ServerTls, TlsCodec};

/// Who makes the records: at the client, at the server.
pub(super) type Paths = (DataPath, DataPath);

const OURS: Paths = (DataPath::InPlace, DataPath::InPlace);

pub(super) fn pair_of_ends(pair: &Pair, paths: Paths, records_per_key: u64) -> (End, End) {
    let client =
        ClientTls::builder(&pair.client).data_path(paths.0).records_per_key(records_per_key).build().unwrap();
    let server =
        ServerTls::builder(&pair.server).data_path(paths.1).records_per_key(records_per_key).build().unwrap();
    (End::new(client.codec("10.0.0.1").unwrap()), End::new(server.codec()))
}

pub(super) fn secured(pair: &Pair, paths: Paths, records_per_key: u64) -> (End, End) {
    let (mut client, mut server) = pair_of_ends(pair, paths, records_per_key);
    pump(&mut client, &mut server, &mut Cut::Whole);
    assert!(client.codec.is_secured() && server.codec.is_secured());
    (client, server)
}

/// Each of these with our own record layer and rustls' in every combination.
macro_rules! on_all_paths {
    ($($name:ident),* $(,)?) => {
        on_all_paths!(@ours InPlace InPlace $($name)*);
        on_all_paths!(@client_rustls Rustls InPlace $($name)*);
        on_all_paths!(@server_rustls InPlace Rustls $($name)*);
        on_all_paths!(@rustls Rustls Rustls $($name)*);
    };
    (@$module:ident $client:ident $server:ident $($name:ident)*) => {
        mod $module {
            use crate::DataPath;
            $(#[test] fn $name() { super::$name((DataPath::$client, DataPath::$server)); })*
        }
    };
}

on_all_paths! {
    both_directions_at_once_however_cut,
    byte_by_byte,
    half_close_in_both_orders,
    what_follows_the_end_is_ignored,
    a_bare_end_is_truncation,
    sending_outlives_truncation,
    every_changed_bit_is_noticed,
    damage_after_our_own_end,
    replayed_and_reordered_records_are_noticed,
    keys_change_in_both_directions_in_the_middle_of_streams,
    no_record_overtakes_control_bytes,
    records_of_impossible_length_are_refused_by_their_header,
}

fn both_directions_at_once_however_cut(paths: Paths) {
    let pair = Pair::new();
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let (mut client, mut server) = pair_of_ends(&pair, paths, 1 << 20);
        let (up, down) = (random.bytes(200_000), random.bytes(70_000));
        (client.to_send, server.to_send) = (up.clone(), down.clone());
        (client.close, server.close) = (true, true);
        let mut cut = if seed == 0 { Cut::Whole } else { Cut::Random(random) };
        pump(&mut client, &mut server, &mut cut);
        assert!(server.received == up && client.received == down, "seed {seed}");
        assert!(client.closed && server.closed, "seed {seed}");
        assert_eq!((client.eof(), server.eof()), (Ok(()), Ok(())));
    }
}

fn byte_by_byte(paths: Paths) {
    let pair = Pair::new();
    let (mut client, mut server) = pair_of_ends(&pair, paths, 1 << 20);
    let data = Random::new(1).bytes(300);
    (client.to_send, server.to_send) = (data.clone(), data.clone());
    client.close = true;
    pump(&mut client, &mut server, &mut Cut::Bytes);
    assert!(server.received == data && client.received == data);
    assert_eq!(server.records, vec![1; 300]);
    assert!(server.closed && !client.closed);
}

fn half_close_in_both_orders(paths: Paths) {
    let pair = Pair::new();
    for server_first in [false, true] {
        let (mut client, mut server) = secured(&pair, paths, 1 << 20);
        let (first, second) =
            if server_first { (&mut server, &mut client) } else { (&mut client, &mut server) };
        first.to_send = b"last words".to_vec();
        first.close = true;
        pump(first, second, &mut Cut::Whole);
        assert!(second.closed && !first.closed);
        assert_eq!(second.received, b"last words");
        assert_eq!(second.codec.transport_eof(), Ok(()), "nothing more was to come");
        // The other direction is as open as before.
        second.to_send = Random::new(3).bytes(50_000);
        let expected = second.to_send.clone();
        second.close = true;
        pump(first, second, &mut Cut::Whole);
        assert!(first.closed && first.received == expected);
        assert_eq!(first.eof(), Ok(()));
    }
}

/// Bytes after a closure alert are ignored, whatever they are (RFC 8446 section 6.1).
fn what_follows_the_end_is_ignored(paths: Paths) {
    let pair = Pair::new();
    let (mut client, mut server) = secured(&pair, paths, 1 << 20);
    client.close = true;
    client.flush(&mut Cut::Whole);
    client.outgoing.extend_from_slice(b"GET / HTTP/1.1\r\n");
    carry(&mut client, &mut server, &mut Cut::Whole);
    assert!(server.closed);
    assert_eq!(server.failure, None);
    assert!(server.incoming.is_empty());
    assert_eq!(server.codec.frame(&[]), Ok(Frame::Partial { need: 1 }));
    assert_eq!(server.codec.frame(b"\xff"), Ok(Frame::Whole { wire: 1, payload: 0 }));
    assert_eq!(server.codec.open(&mut [0xff]), Ok(Opened::Control));
    assert_eq!(server.codec.transport_eof(), Ok(()));
    server.to_send = b"still here".to_vec();
    pump(&mut client, &mut server, &mut Cut::Whole);
    assert_eq!(client.received, b"still here");
}

fn a_bare_end_is_truncation(paths: Paths) {
    let pair = Pair::new();
    let (mut client, mut server) = secured(&pair, paths, 1 << 20);
    client.to_send = b"data".to_vec();
    pump(&mut client, &mut server, &mut Cut::Whole);
    assert_eq!(server.received, b"data");
    assert_eq!(server.codec.transport_eof(), Err(Failure::Truncated));
    assert_eq!(server.codec.error_text(), Some("connection ended without close_notify: data may be missing"));
    assert_eq!(server.codec.control_pending(), 0);
    assert_eq!(server.codec.frame(b""), Err(Failure::Truncated), "an error stays");
    assert!(server.codec.is_secured(), "never goes back");
}

/// Who hears nothing more can still speak, and end in good order.
fn sending_outlives_truncation(paths: Paths) {
    let pair = Pair::new();
    let (mut client, mut server) = secured(&pair, paths, 2);
    assert_eq!(server.codec.transport_eof(), Err(Failure::Truncated));
    assert_eq!(server.codec.open(&mut [23, 3, 3, 0, 17]), Err(Failure::Truncated), "but not hear");
    server.to_send = vec![9; 40_000];
    server.close = true;
    server.flush(&mut Cut::Whole);
    assert_eq!(server.failure, None);
    carry(&mut server, &mut client, &mut Cut::Whole);
    assert!(client.received == [9; 40_000] && client.closed);
    assert_eq!(server.codec.transport_eof(), Err(Failure::Truncated), "an error stays");
}

/// Any changed bit of a record, its header included, ends the session with an alert.
fn every_changed_bit_is_noticed(paths: Paths) {
    let pair = Pair::new();
    let length = 5 + 3 + 17;
    for bit in 0..length * 8 {
        // The minor version means nothing (RFC 8446 section 5.1): rustls does not look at it.
        if bit / 8 == 2 && paths.1 == DataPath::Rustls {
            continue;
        }
        let (mut client, mut server) = secured(&pair, paths, 1 << 20);
        client.to_send = b"abc".to_vec();
        client.flush(&mut Cut::Whole);
        assert_eq!(client.outgoing.len(), length);
        client.outgoing[bit / 8] ^= 1 << (bit % 8);
        // So that a length that grew finds its bytes.
        client.outgoing.extend_from_slice(&[0; 1 << 15]);
        carry(&mut client, &mut server, &mut Cut::Whole);
        assert_eq!(server.failure, Some(Failure::Protocol), "bit {bit}");
        assert!(server.received.is_empty());
        assert!(server.codec.error_text().is_some());
        server.flush(&mut Cut::Whole);
        carry(&mut server, &mut client, &mut Cut::Whole);
        match client.failure {
            Some(Failure::Alert(10 | 20 | 22 | 50)) => {}
            other => panic!("bit {bit}: {other:?}, {:?}", server.codec.error_text()),
        }
    }
}

/// The same once our own direction has ended: there is nothing more to say then.
fn damage_after_our_own_end(paths: Paths) {
    // In builds with assertions rustls 0.23 panics over the alert that it has no use for.
    if paths.1 == DataPath::Rustls && cfg!(debug_assertions) {
        return;
    }
    let pair = Pair::new();
    let (mut client, mut server) = secured(&pair, paths, 1 << 20);
    server.close = true;
    pump(&mut client, &mut server, &mut Cut::Whole);
    client.to_send = b"abc".to_vec();
    client.flush(&mut Cut::Whole);
    client.outgoing[7] ^= 1;
    carry(&mut client, &mut server, &mut Cut::Whole);
    assert_eq!(server.failure, Some(Failure::Protocol));
    assert_eq!(server.codec.control_pending(), 0);
}

fn replayed_and_reordered_records_are_noticed(paths: Paths) {
    let pair = Pair::new();
    for replay in [true, false] {
        let (mut client, mut server) = secured(&pair, paths, 1 << 20);
        client.to_send = vec![1; 10];
        client.flush(&mut Cut::Whole);
        let first = std::mem::take(&mut client.outgoing);
        client.to_send = vec![2; 10];
        client.flush(&mut Cut::Whole);
        let second = std::mem::take(&mut client.outgoing);
        client.outgoing = if replay { [first.clone(), first].concat() } else { [second, first].concat() };
        carry(&mut client, &mut server, &mut Cut::Whole);
        assert_eq!(server.failure, Some(Failure::Protocol));
        assert_eq!(server.received.len(), if replay { 10 } else { 0 });
    }
}

fn keys_change_in_both_directions_in_the_middle_of_streams(paths: Paths) {
    let pair = Pair::new();
    for seed in 0..6 {
        let mut random = Random::new(seed);
        let (mut client, mut server) = pair_of_ends(&pair, paths, 3);
        let (up, down) = (random.bytes(100_000), random.bytes(100_000));
        (client.to_send, server.to_send) = (up.clone(), down.clone());
        (client.close, server.close) = (true, true);
        let mut cut = if seed == 0 { Cut::Whole } else { Cut::Random(random) };
        pump(&mut client, &mut server, &mut cut);
        assert_eq!(
            (client.failure, server.failure),
            (None, None),
            "seed {seed}: {:?}",
            server.codec.error_text()
        );
        assert!(server.received == up && client.received == down, "seed {seed}");
        assert!(client.closed && server.closed);
        assert!(client.control_first >= server.records.len() / 3 - 1, "{}", client.control_first);
    }
}

/// Control bytes that have not been taken hold records back: the order of bytes is the order of keys.
fn no_record_overtakes_control_bytes(paths: Paths) {
    let pair = Pair::new();
    let (mut client, mut server) = secured(&pair, paths, 1);
    client.to_send = vec![7; 5];
    assert_eq!(client.seal(2), Ok(true));
    assert_eq!(client.seal(1), Ok(false), "the key is used up");
    let pending = client.codec.control_pending();
    assert_eq!(client.seal(3), Ok(false), "still");
    assert_eq!(client.codec.control_pending(), pending, "asked for once");
    // Even one byte that is left does.
    let mut most = vec![0; pending - 1];
    assert_eq!(client.codec.take_control(&mut most), pending - 1);
    client.outgoing.extend(most);
    assert_eq!(client.seal(3), Ok(false));
    client.flush(&mut Cut::Bytes);
    carry(&mut client, &mut server, &mut Cut::Whole);
    assert_eq!(server.received, [7; 5]);
}

#[test]
fn strangers_get_a_clear_line() {
    let pair = Pair::new();
    for (bytes, words) in [
        (&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], "peer speaks plaintext HTTP, not TLS"),
        (b"HTTP/1.0 400 Bad Request\r\n", "peer speaks plaintext HTTP, not TLS"),
        (b"SSH-2.0-OpenSSH\r\n", "peer speaks SSH, not TLS"),
        (b"QEVM\0\0\0\x03", "peer speaks a plaintext migration stream of QEMU, not TLS"),
        (b"\x11\x22\x33\x44\0\0\0\x01", "peer speaks a plaintext multifd channel of QEMU, not TLS"),
        (b"NBDMAGICIHAVEOPT", "peer speaks plaintext NBD, not TLS"),
        (b"PROXY TCP4 1.2.3.4", "peer speaks the PROXY protocol, not TLS"),
        (b"\x00", "peer does not speak TLS: it begins with \"\\x00\""),
        (b"\x16\x01\x00\x00\x00", "peer does not speak TLS"),
        (b"G", "peer does not speak TLS: it begins with \"G\""),
    ] {
        let (mut client, mut server) = pair_of_ends(&pair, OURS, 1);
        client.flush(&mut Cut::Whole);
        for end in [&mut client, &mut server] {
            end.incoming = bytes.to_vec();
            end.open();
            assert_eq!(end.failure, Some(Failure::Protocol), "{words}");
            let text = end.codec.error_text().unwrap();
            assert!(text.contains(words), "{text}");
            // A plaintext alert, fatal.
            end.outgoing.clear();
            end.flush(&mut Cut::Whole);
            assert_eq!(end.outgoing[..6], [21, 3, 3, 0, 2, 2], "{:?}", end.outgoing);
        }
    }
}

fn records_of_impossible_length_are_refused_by_their_header(paths: Paths) {
    let pair = Pair::new();
    let over = |kind: u8, length: u16| [[kind, 3, 3].as_slice(), &length.to_be_bytes()].concat();
    let (_, mut server) = pair_of_ends(&pair, paths, 1);
    assert_eq!(server.codec.frame(&over(22, 16384)), Ok(Frame::Partial { need: 5 + 16384 }));
    assert_eq!(server.codec.frame(&over(22, 16385)), Err(Failure::Protocol));
    assert!(server.codec.control_pending() > 0);
    let (_, mut server) = pair_of_ends(&pair, paths, 1);
    assert_eq!(server.codec.frame(&over(22, 0)), Err(Failure::Protocol));
    let (mut client, mut server) = secured(&pair, paths, 1);
    assert_eq!(client.codec.frame(&over(23, 16640)), Ok(Frame::Partial { need: 5 + 16640 }));
    assert_eq!(client.codec.frame(&over(23, 16641)), Err(Failure::Protocol));
    client.flush(&mut Cut::Whole);
    carry(&mut client, &mut server, &mut Cut::Whole);
    assert!(matches!(server.failure, Some(Failure::Alert(_))), "{:?}", server.failure);
    let (_, mut server) = secured(&pair, paths, 1);
    assert_eq!(server.codec.frame(&over(23, 16)), Err(Failure::Protocol));
    for kind in [20, 21, 22, 24] {
        let (_, mut server) = secured(&pair, paths, 1);
        assert_eq!(server.codec.frame(&[kind]), Err(Failure::Protocol), "{kind}");
    }
}

/// A handshake message without end is not collected without end.
#[test]
fn a_huge_handshake_message_is_not_collected() {
    let pair = Pair::new();
    for announced in [0xffff_u32, 0xff_ffff] {
        let (_, mut server) = pair_of_ends(&pair, OURS, 1);
        let message = [&[1_u8], &announced.to_be_bytes()[1..]].concat();
        let mut fragment = message;
        let mut sent = 0;
        while server.failure.is_none() && sent < 1 << 20 {
            fragment.resize(100, 0);
            let record = [&[22, 3, 3, 0, 100], fragment.as_slice()].concat();
            sent += record.len();
            server.incoming.extend(record);
            server.open();
            fragment.clear();
        }
        assert_eq!(server.failure, Some(Failure::Protocol));
        assert!(sent <= (64 << 10) + 200, "{sent}");
        assert!(server.codec.control_pending() > 0, "with an alert");
    }
}

/// Whatever arrives at either end at any time: no panic, and an answer.
fn noise(codec: &mut TlsCodec, mut bytes: Vec<u8>) {
    loop {
        match codec.frame(&bytes) {
            Ok(Frame::Partial { .. }) | Err(_) => break,
            Ok(Frame::Whole { wire, .. }) => {
                let mut record: Vec<u8> = bytes.drain(..wire).collect();
                if codec.open(&mut record).is_err() {
                    break;
                }
                if bytes.is_empty() {
                    break;
                }
            }
        }
    }
    let mut out = vec![0; 100_000];
    codec.take_control(&mut out);
    let _ = codec.transport_eof();
}

thread_local! {
    static PAIR: Pair = Pair::new();
}

fn paths(combination: i32) -> Paths {
    let path = |rustls| if rustls { DataPath::Rustls } else { DataPath::InPlace };
    (path(combination & 1 != 0), path(combination & 2 != 0))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_cut_and_any_keys(seed: u64, combination in 0..4, records_per_key in 1_u64..40, up in 0_usize..60_000, down in 0_usize..60_000) {
        let mut random = Random::new(seed);
        let (mut client, mut server) = PAIR.with(|pair| pair_of_ends(pair, paths(combination), records_per_key));
        let (up, down) = (random.bytes(up), random.bytes(down));
        (client.to_send, server.to_send) = (up.clone(), down.clone());
        (client.close, server.close) = (true, true);
        pump(&mut client, &mut server, &mut Cut::Random(random));
        prop_assert_eq!((client.failure, server.failure), (None, None));
        prop_assert!(server.received == up && client.received == down);
        prop_assert!(client.closed && server.closed);
    }

    /// One byte changed anywhere in the first flight of either side.
    #[test]
    fn a_changed_byte_in_a_handshake(combination in 0..4, at: prop::sample::Index, byte: u8, to_client: bool) {
        let (mut client, mut server) = PAIR.with(|pair| pair_of_ends(pair, paths(combination), 1));
        client.flush(&mut Cut::Whole);
        if to_client {
            carry(&mut client, &mut server, &mut Cut::Whole);
            server.flush(&mut Cut::Whole);
        }
        let flight = if to_client { &mut server.outgoing } else { &mut client.outgoing };
        let at = at.index(flight.len());
        flight[at] = byte;
        pump(&mut client, &mut server, &mut Cut::Whole);
        for end in [&mut client, &mut server] {
            let _ = end.codec.transport_eof();
            prop_assert!(end.failure.is_none() || end.codec.error_text().is_some());
        }
    }

    /// Records of a stranger's making, in every phase.
    #[test]
    fn any_records(kinds in prop::collection::vec((20_u8..24, prop::collection::vec(any::<u8>(), 0..60)), 1..6), combination in 0..4, phase in 0..3) {
        let (mut client, mut server) = PAIR.with(|pair| {
            if phase == 2 { secured(pair, paths(combination), 1) } else { pair_of_ends(pair, paths(combination), 1) }
        });
        client.flush(&mut Cut::Whole);
        if phase == 1 {
            carry(&mut client, &mut server, &mut Cut::Whole);
        }
        let bytes: Vec<u8> = kinds
            .iter()
            .flat_map(|(kind, body)| [&[*kind, 3, 3, 0, body.len() as u8], body.as_slice()].concat())
            .collect();
        noise(&mut server.codec, bytes.clone());
        noise(&mut client.codec, bytes);
    }
}
