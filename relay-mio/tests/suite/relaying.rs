//! Bytes, ends and failures between two peers who are both there.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use relay_core::{Close, EndReason, Failure, Leg};
use relay_node::control::Command;

use crate::rig::{Rig, Road, Settings, dial, expect, receive, receive_all, send, send_all};

const MIB: usize = 1 << 20;

#[test]
fn bytes_both_ways_at_once_and_whole() {
    for road in Road::ALL {
        let rig = Rig::new(road);
        let (client, server) = rig.connect();
        thread::scope(|scope| {
            scope.spawn(|| send_all(&client, 1, 40 * MIB + 17));
            scope.spawn(|| send_all(&server, 2, 32 * MIB + 1));
            scope.spawn(|| receive_all(&server, 1, 40 * MIB + 17));
            receive_all(&client, 2, 32 * MIB + 1);
        });
        for node in &rig.nodes {
            let ended = node.watch.only_ended();
            assert!(ended.outcome.is_clean(), "{road:?}: {ended:?}");
            assert_eq!(ended.outcome.flows.front.delivered, 40 * MIB as u64 + 17);
            assert_eq!(ended.outcome.flows.back.delivered, 32 * MIB as u64 + 1);
        }
        rig.drain();
    }
}

#[test]
fn many_small_messages_there_and_back() {
    for road in Road::ALL {
        let rig = Rig::new(road);
        let (mut client, mut server) = rig.connect();
        for round in 0..500_u32 {
            client.write_all(&round.to_be_bytes()).expect("taken");
            expect(&server, &round.to_be_bytes());
            server.write_all(&[round as u8; 100]).expect("taken");
            expect(&client, &[round as u8; 100]);
        }
    }
}

#[test]
fn half_close_by_the_client_with_megabytes_still_to_come() {
    for road in Road::ALL {
        let rig = Rig::new(road);
        let (client, server) = rig.connect();
        thread::scope(|scope| {
            scope.spawn(|| {
                receive_all(&server, 3, 5 * MIB);
                send_all(&server, 4, 9 * MIB);
            });
            send_all(&client, 3, 5 * MIB);
            receive_all(&client, 4, 9 * MIB);
        });
        assert!(rig.nodes[0].watch.only_ended().outcome.is_clean());
        rig.drain();
    }
}

#[test]
fn half_close_by_the_server_with_megabytes_still_to_come() {
    for road in Road::ALL {
        let rig = Rig::new(road);
        let (client, server) = rig.connect();
        thread::scope(|scope| {
            scope.spawn(|| {
                receive_all(&client, 5, 5 * MIB);
                send_all(&client, 6, 9 * MIB);
            });
            send_all(&server, 5, 5 * MIB);
            receive_all(&server, 6, 9 * MIB);
        });
        assert!(rig.nodes[0].watch.only_ended().outcome.is_clean());
        rig.drain();
    }
}

#[test]
fn the_last_bytes_and_the_end_at_once() {
    for road in Road::ALL {
        let rig = Rig::new(road);
        for round in 0..20 {
            let (client, server) = rig.connect();
            send(&client, round, MIB + 8).expect("taken");
            drop(client); // at once, nothing awaited
            let (count, _) = receive(&server, round);
            assert_eq!(count, MIB + 8, "{road:?}");
        }
    }
}

/// A server that answers before the upload is over, and does not take the rest of it.
fn early_answer(road: Road) {
    let rig = Rig::new(road);
    let (client, mut server) = rig.connect();
    thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        scope.spawn(move || {
            server.read_exact(&mut [0; 64 << 10]).expect("the beginning of the upload");
            send_all(&server, 7, MIB);
            if matches!(road, Road::PlainPair | Road::TlsPair) {
                // unix: whoever writes to it is refused; a TCP socket would throw the answer away
                server.shutdown(Shutdown::Read).expect("shut down");
            }
            told.recv().expect("the answer arrives");
        });
        let mut uploader = client.try_clone().expect("clone");
        // until it is told that nobody wants it
        scope.spawn(move || while uploader.write_all(&[0; 16 << 10]).is_ok() {});
        let (count, result) = receive(&client, 7);
        assert_eq!((count, result.map_err(|e| e.kind())), (MIB, Ok(())), "{road:?}");
        tell.send(()).expect("awaited");
    });
    for node in &rig.nodes {
        let flows = node.watch.only_ended().outcome.flows;
        assert!(flows.back.reason.is_clean(), "{road:?}: {flows:?}");
        assert!(!flows.front.reason.is_clean(), "{road:?}: {flows:?}");
    }
}

#[test]
fn an_early_answer_survives_the_failure_of_the_upload_it_interrupts() {
    // at once: each takes as long as a peer may go on uploading what nobody takes
    thread::scope(|scope| {
        for road in Road::ALL {
            scope.spawn(move || early_answer(road));
        }
    });
}

fn receive_anything(mut from: &socket2::Socket, at_least: usize) -> usize {
    let (mut buffer, mut total) = (vec![0; 64 << 10], 0);
    while total < at_least {
        match from.read(&mut buffer) {
            Ok(0) | Err(_) => return total,
            Ok(count) => total += count,
        }
    }
    total
}

fn reset(socket: socket2::Socket) {
    socket.set_linger(Some(Duration::ZERO)).expect("option");
    drop(socket);
}

#[test]
fn a_reset_is_passed_on_as_a_reset_in_both_directions() {
    for road in [Road::Direct, Road::TlsPairBetweenTcp] {
        for by_client in [true, false] {
            let rig = Rig::new(road);
            let (client, server) = rig.connect();
            let (resetter, other) = if by_client { (client, server) } else { (server, client) };
            send(&resetter, 9, MIB).expect("taken");
            thread::scope(|scope| {
                let receiver = scope.spawn(|| receive(&other, 9));
                // most of it is on its way or there by then; no more than a prefix is promised
                thread::sleep(Duration::from_millis(50));
                reset(resetter);
                let (count, result) = receiver.join().expect("receiver");
                let error = result.expect_err("not an orderly end");
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{road:?}");
                assert!(count <= MIB);
            });
            let ended = rig.nodes[0].watch.only_ended();
            assert!(!ended.outcome.is_clean(), "{ended:?}");
        }
    }
}

#[test]
fn what_was_read_before_a_reset_is_delivered_first() {
    let rig = Rig::new(Road::Direct);
    let (client, server) = rig.connect();
    // More than fits into the socket buffers beyond the relay, so that the relay holds some of it
    // when the reset comes, and the reader is slow.
    send(&server, 10, 256 << 10).expect("taken");
    thread::sleep(Duration::from_millis(50));
    reset(server);
    let ended = rig.nodes[0].watch.only_ended();
    assert_eq!(ended.outcome.close[Leg::Front], Close::Reset, "{ended:?}");
    thread::sleep(Duration::from_millis(50));
    let (count, result) = receive(&client, 10);
    assert!(result.is_err(), "a reset, not an end");
    assert_eq!(count as u64, ended.outcome.flows.back.delivered, "what the kernel took arrives");
}

#[test]
fn an_abort_resets_what_is_not_finished() {
    let mut rig = Rig::new(Road::TlsPairBetweenTcp);
    let (client, server) = rig.connect();
    send(&client, 11, MIB).expect("taken");
    rig.nodes[0].send(Command::Abort);
    let served = rig.nodes[0].join();
    assert_eq!((served.sessions, served.aborted), (1, 1));
    for (end, seed) in [(&client, 0), (&server, 11)] {
        let (_, result) = receive(end, seed);
        assert!(result.is_err(), "a reset, not an orderly end");
    }
}

#[test]
fn a_busy_stream_does_not_starve_a_ping() {
    // one loop for all, so that they are in each other's way
    let rig = Rig::with(Road::TlsPair, &Settings { threads: 1, ..Settings::default() });
    let (bulk, bulk_end) = rig.connect();
    let (mut ping, mut pong) = rig.connect();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                send(&bulk, 12, MIB).expect("taken");
            }
            bulk.shutdown(Shutdown::Write).expect("shut down");
        });
        scope.spawn(|| receive_anything(&bulk_end, usize::MAX));
        for _ in 0..300 {
            ping.write_all(b"ping").expect("taken");
            expect(&pong, b"ping");
            pong.write_all(b"pong").expect("taken");
            expect(&ping, b"pong");
        }
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn an_idle_timeout_says_so() {
    let mut settings = Settings::default();
    settings.timeouts.idle = Some(Duration::from_millis(200));
    let rig = Rig::with(Road::Direct, &settings);
    let (client, _server) = rig.connect();
    let (count, result) = receive(&client, 0);
    assert!(count == 0 && result.is_err());
    let ended = rig.nodes[0].watch.only_ended();
    let expected = EndReason::TimedOut(relay_core::Timer::Idle);
    assert_eq!(ended.outcome.flows.front.reason, expected);
}

#[test]
fn a_reset_of_an_idle_session_says_so() {
    let rig = Rig::new(Road::Direct);
    let (client, mut server) = rig.connect();
    reset(client);
    assert!(server.read(&mut [0; 1]).is_err());
    let ended = rig.nodes[0].watch.only_ended();
    assert_eq!(ended.outcome.flows.front.reason, EndReason::SourceFailed(Failure::Reset));
}

/// Whoever comes and goes in whatever way does no harm to others, whose slots and descriptors are
/// used again at once.
#[test]
fn many_come_and_go_in_every_way() {
    for road in [Road::Direct, Road::TlsPair, Road::TlsPairBetweenTcp] {
        let rig = Rig::new(road);
        let at = rig.entry().clone();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let server = rig.sink.accept();
                    scope.spawn(move || echo(&server));
                }
            });
            let clients = (0..6_u64).map(|number| {
                let at = &at;
                scope.spawn(move || (0..60).for_each(|round| visit(at, number * 1000 + round)))
            });
            clients.collect::<Vec<_>>().into_iter().for_each(|client| client.join().expect("a visitor"));
            over.store(true, Ordering::Relaxed);
            visit(&at, 3); // so that the sink looks up
        });
        rig.drain();
    }
}

fn echo(mut server: &socket2::Socket) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = server.read(&mut buffer) {
        if server.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
    let _ = server.shutdown(Shutdown::Write);
}

fn visit(at: &relay_node::endpoint::Endpoint, seed: u64) {
    let client = dial(at);
    match seed % 5 {
        0 => drop(client),
        1 => reset(client),
        2 => {
            send(&client, seed, 100_000).expect("taken");
            reset(client);
        }
        _ => {
            let len = 1 + (seed as usize * 7919) % 300_000;
            thread::scope(|scope| {
                scope.spawn(|| send_all(&client, seed, len));
                receive_all(&client, seed, len);
            });
        }
    }
}
