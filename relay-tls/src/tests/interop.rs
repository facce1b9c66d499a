//! Our own record layer against rustls' buffered connections, record by record.

use relay_core::codec::Codec;
use relay_core::error::Failure;
use rustls::{CipherSuite, ConnectionCommon, SideData};

use super::pki::Pair;
use super::reference::{client_with, exchange, handshake, server_with, write};
use super::stream::pair_of_ends;
use super::wire::{Cut, End, Random, pump};
use crate::{ClientTls, DataPath, ServerTls};

const SUITES: [(CipherSuite, &str); 3] = [
    (CipherSuite::TLS13_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256"),
    (CipherSuite::TLS13_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384"),
    (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, "TLS_CHACHA20_POLY1305_SHA256"),
];

const PATHS: [DataPath; 2] = [DataPath::InPlace, DataPath::Rustls];

#[test]
fn every_suite_in_every_combination() {
    let pair = Pair::new();
    for (suite, name) in SUITES {
        for (at_client, at_server) in PATHS.iter().flat_map(|a| PATHS.iter().map(move |b| (*a, *b))) {
            let client = ClientTls::builder(&pair.client).data_path(at_client).records_per_key(5);
            let server = ServerTls::builder(&pair.server).data_path(at_server).records_per_key(7);
            let client = client.only_suite(suite).build().unwrap();
            let server = server.only_suite(suite).build().unwrap();
            let (mut client, mut server) =
                (End::new(client.codec("10.0.0.1").unwrap()), End::new(server.codec()));
            let mut random = Random::new(5);
            let (up, down) = (random.bytes(150_000), random.bytes(90_000));
            (client.to_send, server.to_send) = (up.clone(), down.clone());
            (client.close, server.close) = (true, true);
            pump(&mut client, &mut server, &mut Cut::Random(random));
            assert_eq!((client.failure, server.failure), (None, None));
            assert!(server.received == up && client.received == down);
            assert!(client.closed && server.closed);
            assert_eq!(client.codec.info().unwrap().cipher_suite, name);
            assert_eq!(server.codec.info().unwrap().cipher_suite, name);
        }
    }
}

/// Random sizes both ways; now and then one side changes its keys.
fn converse<D: SideData>(end: &mut End, other: &mut ConnectionCommon<D>, seed: u64) {
    let mut random = Random::new(seed);
    for turn in 0..60 {
        let sent = random.up_to(16384);
        end.to_send = random.bytes(sent);
        let expected = end.to_send.clone();
        assert!(exchange(end, other).unwrap() == expected, "turn {turn}: {sent} bytes to rustls");
        let back = random.up_to(16384);
        let expected = random.bytes(back);
        if random.next().is_multiple_of(5) {
            other.refresh_traffic_keys().unwrap();
        }
        assert_eq!(write(other, &expected), back);
        end.received.clear();
        assert!(exchange(end, other).unwrap().is_empty());
        assert_eq!(end.failure, None, "turn {turn}: {:?}", end.codec.error_text());
        assert!(end.received == expected, "turn {turn}: {back} bytes from rustls");
    }
}

/// Both roles; as a client the server's tickets come as well, which are of no use and no harm.
#[test]
fn conversations_with_rustls() {
    let pair = Pair::new();
    for records_per_key in [1, 2, 7, 1 << 20] {
        let (mut end, _) = pair_of_ends(&pair, (PATHS[0], PATHS[0]), records_per_key);
        let mut server = server_with(&pair, |config| config.send_tls13_tickets = 4);
        handshake(&mut end, &mut server);
        converse(&mut end, &mut server, records_per_key);
        let (_, mut end) = pair_of_ends(&pair, (PATHS[0], PATHS[0]), records_per_key);
        let mut client = client_with(&pair, |_| {});
        handshake(&mut end, &mut client);
        converse(&mut end, &mut client, records_per_key);
    }
}

#[test]
fn ends_with_rustls_in_both_orders() {
    let pair = Pair::new();
    for ours_first in [true, false] {
        let (mut end, _) = pair_of_ends(&pair, (PATHS[0], PATHS[0]), 3);
        let mut server = server_with(&pair, |_| {});
        handshake(&mut end, &mut server);
        for ours in [ours_first, !ours_first] {
            if ours {
                end.to_send = b"ours".to_vec();
                end.close = true;
                assert_eq!(exchange(&mut end, &mut server).unwrap(), b"ours");
                assert!(server.process_new_packets().unwrap().peer_has_closed());
            } else {
                write(&mut server, b"theirs");
                server.send_close_notify();
                exchange(&mut end, &mut server).unwrap();
                assert!(end.closed && end.received == b"theirs");
            }
        }
        assert_eq!(end.eof(), Ok(()));
    }
}

/// However often a peer asks, a side that has nothing to say says nothing, and then answers once.
#[test]
fn key_updates_are_answered_once_and_when_there_is_data() {
    let pair = Pair::new();
    let (mut end, _) = pair_of_ends(&pair, (PATHS[0], PATHS[0]), 1 << 20);
    let mut server = server_with(&pair, |config| config.send_tls13_tickets = 0);
    handshake(&mut end, &mut server);
    for round in 0..5_u8 {
        for _ in 0..10 {
            server.refresh_traffic_keys().unwrap();
            exchange(&mut end, &mut server).unwrap();
            assert_eq!(end.codec.control_pending(), 0);
        }
        end.to_send = vec![round; 10];
        assert_eq!(exchange(&mut end, &mut server).unwrap(), [round; 10]);
        assert_eq!(end.control_first, usize::from(round) + 1);
        write(&mut server, &[round]);
        exchange(&mut end, &mut server).unwrap();
        assert_eq!(end.received.last(), Some(&round));
    }
}

#[test]
fn a_flood_of_key_updates_ends_the_session() {
    let pair = Pair::new();
    let (mut end, _) = pair_of_ends(&pair, (PATHS[0], PATHS[0]), 1 << 20);
    let mut server = server_with(&pair, |config| config.send_tls13_tickets = 0);
    handshake(&mut end, &mut server);
    for _ in 0..32 {
        server.refresh_traffic_keys().unwrap();
        exchange(&mut end, &mut server).unwrap();
        assert_eq!(end.failure, None);
    }
    server.refresh_traffic_keys().unwrap();
    let told = exchange(&mut end, &mut server).unwrap_err();
    assert_eq!(told, rustls::Error::AlertReceived(rustls::AlertDescription::UnexpectedMessage));
    assert_eq!(end.failure, Some(Failure::Protocol));
    assert_eq!(end.codec.error_text(), Some("peer sent too many records without data"));
}

/// Both libraries with each other, where both are built in.
#[test]
#[cfg(all(feature = "ring", feature = "aws-lc-rs"))]
fn providers_speak_with_each_other() {
    use crate::Provider;

    assert_eq!(Provider::default(), Provider::Ring, "a feature never changes what is chosen");
    let pair = Pair::new();
    let providers = [Provider::Ring, Provider::AwsLcRs];
    for (at_client, at_server) in providers.iter().flat_map(|a| providers.iter().map(move |b| (*a, *b))) {
        for (suite, _) in SUITES {
            let client = ClientTls::builder(&pair.client).provider(at_client).records_per_key(5);
            let server = ServerTls::builder(&pair.server).provider(at_server).records_per_key(7);
            let client = client.only_suite(suite).build().unwrap();
            let server = server.only_suite(suite).build().unwrap();
            let (mut client, mut server) =
                (End::new(client.codec("10.0.0.1").unwrap()), End::new(server.codec()));
            let data = Random::new(9).bytes(100_000);
            (client.to_send, server.to_send) = (data.clone(), data.clone());
            pump(&mut client, &mut server, &mut Cut::Random(Random::new(9)));
            assert!(server.received == data && client.received == data);
            let (at_client, at_server) = (client.codec.info().unwrap(), server.codec.info().unwrap());
            assert_eq!(at_client.correlation, at_server.correlation);
        }
    }
}
