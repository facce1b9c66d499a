//! Peers that are slow, silent, gone or not who they should be, until they have proved themselves;
//! and what comes together with the proof.

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use relay_conformance::peer::{again, client_connection, dial, server_connection};
use relay_conformance::{Authority, Endpoint, Kind, MIB, Peer, Rig, Road, Setup, TlsEnd};
use relay_conformance::{expect, receive, receive_all, send, sized, transfer};
use rustls::{ClientConfig, ClientConnection, Connection};
use socket2::Socket;

/// A relay that takes TLS and dials a unix socket.
fn target(options: &[&str]) -> Rig {
    Rig::with(Road::single(Kind::Tls, Kind::Unix), options)
}

/// That nothing is broken: somebody with a good certificate is relayed.
fn assert_serves(rig: &Rig) {
    let (client, server) = rig.connect();
    transfer(&client, &server, 1, 1000);
    transfer(&server, &client, 2, 1000);
}

fn pending(connection: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut bytes).expect("bytes");
    }
    bytes
}

/// A client that has read the server's messages, and its own last one, which is not sent yet.
fn last_flight(at: &Endpoint, config: &Arc<ClientConfig>) -> (Socket, ClientConnection, Vec<u8>) {
    let (socket, mut connection) = (dial(at), client_connection(at, config));
    (&socket).write_all(&pending(&mut connection)).expect("taken");
    while connection.is_handshaking() {
        assert!(connection.read_tls(&mut &socket).expect("bytes") > 0, "an early end");
        connection.process_new_packets().expect("a handshake");
    }
    let bytes = pending(&mut connection);
    (socket, connection, bytes)
}

/// With a FIN, or with a reset.
fn leave(socket: Socket, hard: bool) {
    if hard {
        socket.set_linger(Some(Duration::ZERO)).expect("option");
    }
}

#[test]
fn a_client_that_vanishes_in_its_handshake_leaves_nothing() {
    let rig = target(&[]);
    assert_serves(&rig);
    rig.relays[0].log().ended(1); // before any other ends
    let hello = pending(&mut client_connection(rig.entry(), &rig.client));
    let cuts = |len: usize| [0, 1, 5, 6, len / 2, len.saturating_sub(1)];
    let mut count = 1;
    for hard in [false, true] {
        for cut in cuts(hello.len()).into_iter().chain([hello.len()]) {
            let socket = dial(rig.entry());
            (&socket).write_all(&hello[..cut]).expect("taken");
            leave(socket, hard);
            count += 1;
        }
        for which in 0..cuts(0).len() {
            // Of its own length: a signature's is not always the same.
            let (socket, _, last) = last_flight(rig.entry(), &rig.client);
            (&socket).write_all(&last[..cuts(last.len())[which]]).expect("taken");
            leave(socket, hard);
            count += 1;
        }
    }
    for ended in &rig.relays[0].log().ended(count)[1..] {
        assert!(ended.front_end().starts_with("front-setup-"), "{}", ended.text);
    }
    rig.sink.assert_untouched();
    assert_serves(&rig);
    rig.finish();
}

#[test]
fn a_server_that_vanishes_in_its_handshake_is_an_end_for_its_client() {
    let mut rig = Rig::new(Road::single(Kind::Unix, Kind::Tls));
    let mut count = 0;
    for hard in [false, true] {
        for reads in [0, 5, 100, usize::MAX] {
            for writes in [0, 1, 100, usize::MAX] {
                let client = rig.client();
                client.write_all(b"secret").expect("taken");
                let socket = rig.sink.accept_raw();
                partial_server(&rig, &socket, reads, writes);
                leave(socket, hard);
                let received = receive(&client, 0);
                assert_eq!(received.count, 0);
                count += 1;
            }
        }
    }
    for ended in rig.relays[0].log().ended(count) {
        // with all of its handshake written, the server was there for a moment
        assert!(!ended.is_clean(), "{}", ended.text);
    }
    let open = rig.relays[0].open_descriptors();
    assert_serves(&rig);
    rig.relays[0].log().ended(count + 1);
    rig.relays[0]
        .eventually("descriptors are closed", |relay| (relay.open_descriptors() <= open).then_some(()));
    rig.finish();
}

/// A server that reads so much of the client's hello, and writes so much of its answer.
fn partial_server(rig: &Rig, socket: &Socket, reads: usize, writes: usize) {
    let mut connection = server_connection(&rig.server);
    let mut hello = vec![0; reads.min(16 << 10)];
    let have = match reads {
        0 => 0,
        usize::MAX => again(|| { socket }.read(&mut hello)).expect("a hello"),
        _ => { socket }.read_exact(&mut hello).map(|()| reads).expect("a hello"),
    };
    connection.read_tls(&mut &hello[..have]).expect("bytes");
    connection.process_new_packets().expect("a good hello");
    let mut answer = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut answer).expect("bytes");
    }
    if answer.is_empty() {
        answer = vec![22, 3, 3, 0, 100]; // the beginning of a record
    }
    // the client may have rejected it by then
    let _ = { socket }.write_all(&answer[..writes.min(answer.len())]);
}

/// Whoever trickles bytes holds nobody up, for however long: here there is no limit at all.
#[test]
fn slow_and_silent_strangers_hold_nobody_up() {
    let rig = target(&["--handshake-timeout", "off"]);
    let hello = pending(&mut client_connection(rig.entry(), &rig.client));
    let strangers: Vec<_> = (0..sized(50, 500)).map(|_| dial(rig.entry())).collect();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for byte in &hello[..hello.len() - 1] {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                // every other one says nothing at all
                for stranger in strangers.iter().step_by(2) {
                    { stranger }.write_all(&[*byte]).expect("taken");
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        for _ in 0..5 {
            assert_serves(&rig);
        }
        over.store(true, Ordering::Relaxed);
    });
    let ended = rig.relays[0].log().ended(5);
    assert!(ended.iter().all(|line| line.is_clean()), "{ended:?}");
    drop(strangers);
    rig.finish();
}

/// Each byte is progress, and yet the handshake has to be over in time.
#[test]
fn a_handshake_that_never_completes_is_given_up_however_busy_it_looks() {
    let rig = target(&["--handshake-timeout", "1s"]);
    let hello = pending(&mut client_connection(rig.entry(), &rig.client));
    thread::scope(|scope| {
        for silent in [true, false] {
            let (rig, hello) = (&rig, &hello);
            scope.spawn(move || {
                let stranger = dial(rig.entry());
                let over = AtomicBool::new(false);
                thread::scope(|scope| {
                    scope.spawn(|| {
                        for byte in &hello[..hello.len() - 1] {
                            if silent || over.load(Ordering::Relaxed) || { &stranger }
                                .write_all(&[*byte])
                                .is_err()
                            {
                                return;
                            }
                            thread::sleep(Duration::from_millis(20));
                        }
                    });
                    // an alert, an end or a reset: but not silence
                    let mut answer = Vec::new();
                    let _ = { &stranger }.read_to_end(&mut answer);
                    over.store(true, Ordering::Relaxed);
                });
            });
        }
    });
    for ended in rig.relays[0].log().ended(2) {
        assert_eq!(ended.front_end(), "timeout-handshake-front", "{}", ended.text);
    }
    rig.sink.assert_untouched();
    // a server that takes the connection and says nothing
    let rig = Rig::with(Road::single(Kind::Unix, Kind::Tls), &["--handshake-timeout", "1s"]);
    let client = rig.client();
    let _silent = rig.sink.accept_raw();
    assert_eq!(receive(&client, 0).count, 0);
    let ended = rig.relays[0].log().ended(1).remove(0);
    assert_eq!(ended.front_end(), "timeout-handshake-back", "{}", ended.text);
}

#[test]
fn a_handshake_byte_by_byte_is_a_handshake() {
    let rig = target(&[]);
    let connection: Connection = client_connection(rig.entry(), &rig.client).into();
    let end = TlsEnd::held(dial(rig.entry()), connection, 1).expect("a handshake");
    let client = Peer::Tls(Box::new(end));
    client.write_all(b"slowly").expect("taken");
    let server = rig.sink.accept();
    expect(&server, b"slowly");
    transfer(&client, &server, 1, 10_000);
    transfer(&server, &client, 2, 10_000);

    let rig = Rig::new(Road::single(Kind::Unix, Kind::Tls));
    let client = rig.client();
    let connection = server_connection(&rig.server);
    let end = TlsEnd::held(rig.sink.accept_raw(), connection.into(), 1).expect("a handshake");
    let server = Peer::Tls(Box::new(end));
    transfer(&server, &client, 3, 10_000);
    transfer(&client, &server, 4, 10_000);
}

/// Data, and even the end, in the very write that completes the handshake.
#[test]
fn what_comes_together_with_the_last_handshake_message_is_not_lost() {
    for (len, ends) in [(5, false), (5, true), (0, true), (30_000, true)] {
        let rig = target(&[]);
        let (socket, mut connection, mut flight) = last_flight(rig.entry(), &rig.client);
        let payload = vec![7; len];
        connection.writer().write_all(&payload).expect("room");
        if ends {
            connection.send_close_notify();
        }
        flight.extend(pending(&mut connection));
        (&socket).write_all(&flight).expect("taken");
        let server = rig.sink.accept();
        expect(&server, &payload);
        if ends {
            receive_all(&server, 0, 0);
        }
        server.write_all(b"answer").expect("taken");
        let mut answer = Vec::new();
        while answer.len() < 6 {
            assert!(connection.read_tls(&mut &socket).expect("bytes") > 0, "an early end");
            connection.process_new_packets().expect("records");
            let _ = connection.reader().read_to_end(&mut answer);
        }
        assert_eq!(answer, b"answer");
    }
}

#[test]
fn what_a_server_sends_with_its_first_record_is_not_lost() {
    for ends in [false, true] {
        let rig = Rig::new(Road::single(Kind::Unix, Kind::Tls));
        let client = rig.client();
        let connection = server_connection(&rig.server);
        let end = TlsEnd::held(rig.sink.accept_raw(), connection.into(), usize::MAX).expect("a handshake");
        // with its session tickets
        end.with(|connection| {
            connection.writer().write_all(b"welcome").expect("room");
            if ends {
                connection.send_close_notify();
            }
        })
        .expect("taken");
        let server = Peer::Tls(Box::new(end));
        expect(&client, b"welcome");
        if ends {
            receive_all(&client, 0, 0);
        }
        transfer(&client, &server, 5, 10_000);
    }
}

/// Every stranger learns from an alert why (RFC 8446 section 6.2); the backend never hears of them.
#[test]
fn strangers_get_an_alert_and_the_backend_is_left_alone() {
    let other = Authority::new("other");
    let common = Authority::common();
    let rig = target(&["--peer", "cn:node"]);
    let strangers = [
        other.issue("node").trusting(common).client(),
        common.issue("node").nameless_client(),
        common.issue_until("node", 2020).client(),
        common.issue("somebody-else").client(),
    ];
    for (number, config) in strangers.iter().enumerate() {
        // a TLS 1.3 client is done before the server has judged it
        let client = Peer::try_connect(rig.entry(), config).expect("a handshake, as far as it knows");
        let error = client.read(&mut [0; 1]).expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{number}: no alert but {error}");
        let ended = rig.relays[0].log().ended(number + 1).remove(number);
        assert!(ended.front_end().starts_with("front-setup-"), "{}", ended.text);
    }
    rig.sink.assert_untouched();
    assert_serves(&rig);
    rig.finish();
}

#[test]
fn a_server_that_is_a_stranger_gets_an_alert_and_not_a_byte() {
    let other = Authority::new("other");
    let common = Authority::common();
    let strangers = [
        other.issue("node").trusting(common),
        common.issue_until("node", 2020),
        common.issue("somebody-else"),
    ];
    for stranger in strangers {
        let rig = Rig::new(Road::single(Kind::Unix, Kind::Tls));
        let identity = common.issue("node");
        let source = Setup::new(&rig.scratch.unix("entry"), &rig.sink.at().to_string())
            .tls(&identity.write(rig.scratch.root()))
            .options(&["--peer", "cn:node"])
            .start();
        let client = Peer::try_connect(source.at(), &rig.client).expect("a connection");
        client.write_all(b"secret").expect("taken");
        let connection = server_connection(&stranger.server());
        let error = TlsEnd::server(rig.sink.accept_raw(), connection).expect_err("no handshake");
        assert_eq!(error.kind(), ErrorKind::InvalidData, "no alert but {error}");
        assert_eq!(receive(&client, 0).count, 0);
        let ended = source.log().ended(1).remove(0);
        assert_eq!(ended.front_end(), "back-setup-rejected", "{}", ended.text);
    }
}

/// Content type 21 (RFC 8446 section 5.1).
#[test]
fn plaintext_to_a_tls_port_is_told_so() {
    let rig = target(&[]);
    for text in [&b"GET / HTTP/1.0\r\n\r\n"[..], b"\0\0\0\0\0\0\0\0", b"SSH-2.0-x\r\n"] {
        let socket = dial(rig.entry());
        (&socket).write_all(text).expect("taken");
        let mut answer = Vec::new();
        (&socket).read_to_end(&mut answer).expect("an orderly end");
        assert_eq!(answer.first(), Some(&21), "{answer:?}");
    }
    rig.sink.assert_untouched();
    assert_serves(&rig);
    rig.finish();
}

/// RFC 8446 section 4.6.3: new keys at any time, each answered with new keys.
#[test]
fn keys_are_renewed_while_data_flows_both_ways() {
    for road in [Road::single(Kind::Tls, Kind::Unix), Road::single(Kind::Unix, Kind::Tls)] {
        let rig = Rig::new(road);
        let (client, server) = rig.connect();
        let (renewing, other) = if road.entry == Kind::Tls { (&client, &server) } else { (&server, &client) };
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..sized(100, 2000) {
                    send(renewing, round, 10_000).expect("taken");
                    renewing.tls().with(|tls| tls.refresh_traffic_keys().expect("TLS 1.3")).expect("taken");
                }
                renewing.finish().expect("taken");
            });
            scope.spawn(|| relay_conformance::send_all(other, 9, 3 * MIB));
            scope.spawn(|| receive_all(renewing, 9, 3 * MIB));
            for round in 0..sized(100, 2000) {
                let mut expected = relay_conformance::Pattern::new(round);
                let mut left = 10_000;
                while left > 0 {
                    let bytes = expected.some(left).to_vec();
                    expect(other, &bytes);
                    left -= bytes.len();
                }
            }
            receive_all(other, 0, 0);
        });
        assert!(rig.relays[0].log().ended(1)[0].is_clean());
        rig.finish();
    }
}

/// What is not TLS at all in the middle of a session ends it as what it is.
#[test]
fn garbage_after_the_handshake_tears_the_session() {
    let rig = Rig::new(Road::single(Kind::Tls, Kind::Tcp));
    let (client, server) = rig.connect();
    client.write_all(b"good").expect("taken");
    expect(&server, b"good");
    client
        .socket()
        .try_clone()
        .expect("clone")
        .write_all(&[23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20])
        .expect("taken");
    let received = receive(&server, 0);
    assert!(received.count == 0 && received.end.is_err(), "{received:?}");
    let error = client.read(&mut [0; 1]).expect_err("an alert");
    assert_eq!(error.kind(), ErrorKind::InvalidData, "no alert but {error}");
    let ended = rig.relays[0].log().ended(1).remove(0);
    assert_eq!(ended.front_end(), "source-protocol", "{}", ended.text);
    rig.finish();
}

/// Whoever speaks TLS where plaintext is taken is told of when it ends badly; QEMU's own TLS that passes well or is
/// answered, and what is no TLS, are nothing to speak of.
#[test]
fn a_tls_client_at_a_plaintext_listener_is_told_what_to_do() {
    let rig = Rig::new(Road::single(Kind::Tcp, Kind::Unix));
    let talks = [(TLS, "", true), (TLS, "", false), ("hello", "", true), (TLS, "\x16\x03\x03", true)];
    for (count, (said, answer, hard)) in talks.into_iter().enumerate() {
        let (client, server) = (rig.client(), rig.sink.accept());
        client.write_all(said.as_bytes()).expect("taken");
        expect(&server, said.as_bytes());
        server.write_all(answer.as_bytes()).expect("taken");
        expect(&client, answer.as_bytes());
        if hard {
            client.reset();
        } else {
            client.finish().expect("taken");
            server.finish().expect("taken");
            receive(&client, 0);
        }
        let line = rig.relays[0].log().ended(count + 1).pop().expect("the last");
        assert_eq!(line.is_clean(), !hard, "{}", line.text);
        let is_told = hard && said == TLS && answer.is_empty();
        assert_eq!(line.text.contains("the client speaks TLS"), is_told, "{}", line.text);
    }
}

/// How a ClientHello begins.
const TLS: &str = "\x16\x03\x01\x02\x00\x01";
