//! Small writes, slow and stalled readers, and neighbours.

use std::io::Write;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use relay_conformance::pattern::send_in_pieces;
use relay_conformance::peer::{client_connection, dial, server_connection};
use relay_conformance::relay::Relay;
use relay_conformance::{Authority, Kind, MIB, PATIENCE, Peer, Rig, Road, Scratch, Setup, Sink, TlsEnd};
use relay_conformance::{expect, receive_all, send, send_all, sized, transfer};

/// Long enough for somebody to get stuck. If it is too short for that, the test shows less than it
/// could and is no less right.
const STALL: Duration = Duration::from_millis(200);

#[test]
fn writers_of_single_bytes_are_relayed_both_ways() {
    let len = sized(20_000, 1_000_000);
    for road in Road::SOME {
        let rig = Rig::new(road);
        let (client, server) = rig.connect();
        thread::scope(|scope| {
            for (peer, seed) in [(&client, 1), (&server, 2)] {
                scope.spawn(move || {
                    send_in_pieces(peer, seed, len, 1).expect("taken");
                    peer.finish().expect("taken");
                });
            }
            scope.spawn(|| receive_all(&server, 1, len));
            receive_all(&client, 2, len);
        });
        rig.finish();
    }
}

/// A socket's buffer is full after some hundred messages of one byte, a kernel pipe after sixteen:
/// what is full by count of messages has much room by count of bytes.
#[test]
fn single_bytes_before_a_stalled_reader_all_arrive() {
    let len = sized(50_000, 1_000_000);
    for road in Road::SOME {
        let rig = Rig::new(road);
        let (client, server) = rig.connect();
        thread::scope(|scope| {
            scope.spawn(|| {
                send_in_pieces(&client, 3, len, 1).expect("taken");
                client.finish().expect("taken");
            });
            thread::sleep(STALL);
            receive_all(&server, 3, len);
        });
    }
}

/// A delayed acknowledgement or a corked segment costs 40 to 200 ms: a thousand of them would take
/// longer than a test may.
#[test]
fn small_messages_go_there_and_back_without_waiting_for_more() {
    for road in Road::SOME {
        let rig = Rig::new(road);
        let (client, server) = rig.connect();
        for round in 0..sized(1000, 10_000_u32) {
            let message = round.to_be_bytes();
            client.write_all(&message).expect("taken");
            expect(&server, &message);
            server.write_all(&message).expect("taken");
            expect(&client, &message);
        }
    }
}

/// A read ends at an urgent byte however much there is behind it, and no event tells of that: a read that
/// was not filled has not emptied the socket (recv(2), MSG_OOB; the same is true of passed descriptors,
/// unix(7)). The urgent byte itself is nobody's: out of band, it is not relayed.
#[test]
fn bytes_behind_an_urgent_one_do_not_wait_for_more() {
    for road in [Road::single(Kind::Unix, Kind::Unix), Road::single(Kind::Tcp, Kind::Tcp), Road::MIGRATION] {
        let rig = Rig::new(road);
        let (client, server) = rig.connect();
        for round in 0..100 {
            client.write_all(b"before").expect("taken");
            if let Err(error) = client.socket().send_out_of_band(b"!") {
                eprintln!("SKIPPED: {road:?}: no urgent data on this kernel: {error}");
                break;
            }
            client.write_all(b"after.").expect("taken");
            let mut got = Vec::new();
            while got.last() != Some(&b'.') {
                let mut byte = [0];
                assert_eq!(
                    server.read(&mut byte).expect("what is behind it"),
                    1,
                    "{road:?}, {round}: {got:?}"
                );
                got.extend(byte.iter().filter(|byte| **byte != b'!'));
            }
            assert_eq!(got, b"beforeafter.", "{road:?}, {round}");
        }
    }
}

/// What lies decrypted in a buffer makes no socket readable.
#[test]
fn many_small_records_in_one_write_all_arrive_before_the_peer_says_more() {
    let len = sized(100_000, MIB);
    for fragment in [64, 1000] {
        let mut rig = Rig::new(Road::single(Kind::Tls, Kind::Unix));
        Arc::make_mut(&mut rig.client).max_fragment_size = Some(fragment);
        let client = rig.client();
        let server = rig.sink.accept();
        in_one_write_and_back(&client, &server, len);

        let mut rig = Rig::new(Road::single(Kind::Unix, Kind::Tls));
        Arc::make_mut(&mut rig.server).max_fragment_size = Some(fragment);
        let client = rig.client();
        let connection = server_connection(&rig.server);
        let server = TlsEnd::server(rig.sink.accept_raw(), connection).expect("a handshake");
        in_one_write_and_back(&Peer::Tls(Box::new(server)), &client, len);
    }
}

fn in_one_write_and_back(small: &Peer, other: &Peer, len: usize) {
    for seed in 0..3 {
        let mut pattern = relay_conformance::Pattern::new(seed);
        let mut bytes = Vec::new();
        while bytes.len() < len {
            bytes.extend_from_slice(pattern.some(len - bytes.len()));
        }
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    // rustls buffers no more than 64 KiB
                    let (now, later) = rest.split_at(rest.len().min(32 << 10));
                    small.tls().with(|tls| tls.writer().write_all(now).expect("room")).expect("taken");
                    rest = later;
                }
            });
            expect(other, &bytes);
        });
        other.write_all(b"all there").expect("taken");
        expect(small, b"all there");
    }
}

/// Whatever is sent to somebody who does not read stays in kernels and in bounded buffers.
#[test]
fn stalled_readers_cost_a_bounded_amount_of_memory() {
    let (sessions, len) = (sized(6, 16), sized(16, 64) * MIB);
    for road in Road::SOME {
        let rig = Rig::new(road);
        let connections: Vec<_> = (0..sessions).map(|_| rig.connect()).collect();
        thread::scope(|scope| {
            for (number, (client, server)) in connections.iter().enumerate() {
                let seed = number as u64;
                let (from, to) = if number % 2 == 0 { (client, server) } else { (server, client) };
                scope.spawn(move || send_all(from, seed, len));
                scope.spawn(move || {
                    thread::sleep(STALL);
                    receive_all(to, seed, len);
                });
            }
        });
        for relay in &rig.relays {
            // a program with its stacks, and per session two queues of sixteen records with what
            // their growth and the allocator cost
            let most = 16 * MIB + sessions * MIB;
            let peak = relay.peak_memory();
            assert!(peak < most, "{road:?}: {} KiB of {} KiB at most", peak >> 10, most >> 10);
        }
    }
}

#[test]
fn a_direction_that_is_stuck_does_not_hold_up_the_other_one() {
    for road in Road::SOME {
        let rig = Rig::new(road);
        let (client, server) = rig.connect();
        thread::scope(|scope| {
            scope.spawn(|| send_all(&client, 1, 8 * MIB));
            thread::sleep(STALL);
            transfer(&server, &client, 2, 8 * MIB);
            receive_all(&server, 1, 8 * MIB);
        });
        rig.finish();
    }
}

#[test]
fn sessions_that_are_stuck_hold_up_nobody() {
    for road in [Road::single(Kind::Tls, Kind::Unix), Road::MIGRATION, Road::single(Kind::Tcp, Kind::Tcp)] {
        let rig = Rig::new(road);
        let stuck: Vec<_> = (0..16).map(|_| rig.connect()).collect();
        thread::scope(|scope| {
            for (client, _) in &stuck {
                scope.spawn(|| send_all(client, 1, 8 * MIB));
            }
            thread::sleep(STALL);
            let (client, server) = rig.connect();
            transfer(&client, &server, 2, MIB);
            transfer(&server, &client, 3, MIB);
            for (_, server) in &stuck {
                receive_all(server, 1, 8 * MIB);
            }
        });
    }
}

#[test]
fn a_small_message_passes_a_bulk_stream() {
    for road in [Road::MIGRATION, Road::single(Kind::Tls, Kind::Tls), Road::single(Kind::Unix, Kind::Unix)] {
        let rig = Rig::new(road);
        let streams: Vec<_> = (0..3).map(|_| rig.connect()).collect();
        let (ping, pong) = rig.connect();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for (client, server) in &streams {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        send(client, 1, MIB).expect("taken");
                    }
                    client.finish().expect("taken");
                });
                scope.spawn(|| while server.read(&mut vec![0; 64 << 10]).expect("bytes") > 0 {});
            }
            for _ in 0..sized(200, 5000) {
                ping.write_all(b"ping").expect("taken");
                expect(&pong, b"ping");
                pong.write_all(b"pong").expect("taken");
                expect(&ping, b"pong");
            }
            over.store(true, Ordering::Relaxed);
        });
    }
}

/// A collector that hangs, a disk that is full: the log is no part of the data path.
#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let scratch = Scratch::new();
    let sink = Sink::new(&Kind::Unix.endpoint(&scratch), &Authority::common().issue("nobody").server());
    let mut relay = Setup::new(&scratch.unix("entry"), &sink.at().to_string()).unread_log().start();
    // a pipe takes 64 KiB, and each of them has a line
    for seed in 0..sized(1000, 5000) {
        let client = Peer::Plain(dial(relay.at()));
        let server = sink.accept();
        transfer(&client, &server, seed, 100);
        transfer(&server, &client, seed, 100);
    }
    relay.finish();
}

/// Waits until a relay has come to rest, then demands that it stays there.
fn assert_rests(relay: &Relay) {
    let start = Instant::now();
    let mut before = relay.processor_time();
    loop {
        thread::sleep(STALL);
        let now = relay.processor_time();
        if now == before {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "it never rests");
        before = now;
    }
    thread::sleep(Duration::from_secs(1));
    // a loop that spins has all of that second, or a good part of it beside others
    let spent = relay.processor_time() - before;
    assert!(spent < Duration::from_millis(50), "{spent:?} of processor time in a second of silence");
}

#[test]
fn who_waits_costs_no_processor_time() {
    for road in [Road::MIGRATION, Road::single(Kind::Tls, Kind::Tls), Road::single(Kind::Unix, Kind::Tcp)] {
        let rig = Rig::new(road);
        let sessions: Vec<_> = (0..50).map(|_| rig.connect()).collect();
        let (half, stuck) = (&sessions[..30], &sessions[30..40]);
        for (number, (client, server)) in half.iter().enumerate() {
            let (ending, other) = if number % 2 == 0 { (client, server) } else { (server, client) };
            ending.finish().expect("taken");
            receive_all(other, 0, 0);
        }
        if road.entry == Kind::Unix {
            // Gone in both directions, which the other side has no reason to be in a hurry about.
            for (client, server) in &sessions[40..45] {
                client.socket().shutdown(Shutdown::Both).expect("shut down");
                receive_all(server, 0, 0);
            }
        }
        let strangers: Vec<_> = (0..10).map(|_| dial(rig.relays[0].at())).collect();
        if road.entry == Kind::Tls {
            let mut hello = Vec::new();
            client_connection(rig.entry(), &rig.client).write_tls(&mut hello).expect("bytes");
            for socket in &strangers {
                { socket }.write_all(&hello[..20]).expect("taken");
            }
        }
        thread::scope(|scope| {
            for (number, (client, server)) in stuck.iter().enumerate() {
                let from = if number % 2 == 0 { client } else { server };
                // until it is torn from its hands
                scope.spawn(move || send(from, 1, usize::MAX));
            }
            rig.relays.iter().for_each(assert_rests);
            for (client, server) in stuck {
                for peer in [client, server] {
                    let _ = peer.socket().shutdown(Shutdown::Both);
                }
            }
        });
    }
}
