//! One direction ends, the other goes on: for as long as it has something to say.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use relay_conformance::{Kind, MIB, Peer, Rig, Road, expect, receive, receive_all};
use relay_conformance::{send, send_all, sized, transfer};

/// `first` sends and ends; then the other one answers with megabytes and ends.
fn half_close(first: &Peer, second: &Peer) {
    let (up, down) = (2 * MIB + 5, sized(4, 24) * MIB + 3);
    thread::scope(|scope| {
        scope.spawn(|| {
            receive_all(second, 1, up);
            send_all(second, 2, down);
        });
        send_all(first, 1, up);
        receive_all(first, 2, down);
    });
}

#[test]
fn the_client_ends_first_with_megabytes_still_to_come() {
    for road in Road::SOME {
        let rig = Rig::new(road);
        let (client, server) = rig.connect();
        half_close(&client, &server);
        for relay in &rig.relays {
            let ended = relay.log().ended(1).remove(0);
            assert!(ended.is_clean(), "{road:?}: {}", ended.text);
        }
        rig.finish();
    }
}

#[test]
fn the_server_ends_first_with_megabytes_still_to_come() {
    for road in Road::SOME {
        let rig = Rig::new(road);
        let (client, server) = rig.connect();
        half_close(&server, &client);
        for relay in &rig.relays {
            let ended = relay.log().ended(1).remove(0);
            assert!(ended.is_clean(), "{road:?}: {}", ended.text);
        }
        rig.finish();
    }
}

#[test]
fn an_end_without_a_byte_before_it_is_an_end() {
    for road in Road::SOME {
        let rig = Rig::new(road);
        let (client, server) = rig.connect();
        client.finish().expect("taken");
        receive_all(&server, 0, 0);
        transfer(&server, &client, 3, MIB);
        let (client, server) = rig.connect();
        server.finish().expect("taken");
        receive_all(&client, 0, 0);
        transfer(&client, &server, 4, MIB);
        rig.finish();
    }
}

/// RFC 8446 section 6.1: a close_notify ends one direction, whether or not a FIN follows it.
#[test]
fn a_close_notify_is_an_end_with_or_without_a_fin() {
    for road in [Road::single(Kind::Tls, Kind::Unix), Road::single(Kind::Tls, Kind::Tls)] {
        let rig = Rig::new(road);
        let (client, server) = rig.connect();
        thread::scope(|scope| {
            scope.spawn(|| {
                send(&client, 5, MIB).expect("taken");
                client.tls().close_notify().expect("taken");
            });
            receive_all(&server, 5, MIB);
        });
        transfer(&server, &client, 6, 2 * MIB);
        rig.finish();
    }
    let rig = Rig::new(Road::single(Kind::Unix, Kind::Tls));
    let (client, server) = rig.connect();
    server.tls().close_notify().expect("taken");
    receive_all(&client, 0, 0);
    transfer(&client, &server, 7, 2 * MIB);
    rig.finish();
}

/// The end comes behind everything that was sent, however long nobody takes it: it must not overtake
/// what a relay or a kernel still holds.
#[test]
fn an_end_does_not_overtake_what_is_still_buffered() {
    for road in Road::SOME {
        let rig = Rig::new(road);
        let (client, server) = rig.connect();
        thread::scope(|scope| {
            let sender = scope.spawn(|| send_all(&client, 8, 3 * MIB));
            // most of it is stuck by then: no more than a help to find what is wrong
            thread::sleep(Duration::from_millis(50));
            receive_all(&server, 8, 3 * MIB);
            sender.join().expect("sent");
        });
        server.finish().expect("taken");
        receive_all(&client, 0, 0);
        rig.finish();
    }
}

/// QEMU sends its last bytes and closes a tenth of a millisecond later.
#[test]
fn the_last_bytes_before_a_close_arrive() {
    for road in Road::SOME {
        let rig = Rig::new(road);
        for round in 0..sized(20, 200) {
            let (client, server) = rig.connect();
            let (sender, receiver) = if round % 2 == 0 { (client, server) } else { (server, client) };
            let len = 8 + 100_000 * (round as usize % 5);
            thread::scope(|scope| {
                scope.spawn(move || {
                    send_all(&sender, round, len);
                    drop(sender);
                });
                let received = receive(&receiver, round);
                assert_eq!(received.count, len, "{road:?}: {:?}", received.end);
            });
        }
        rig.finish();
    }
}

/// QEMU hangs for as long as a relay sits on the end of the other side. Far sooner than the half-open
/// time of five minutes, that is, which is all that this can tell without a clock.
#[test]
fn a_closed_end_is_passed_on_while_the_other_one_is_silent() {
    for road in Road::SOME {
        for by_client in [true, false] {
            let rig = Rig::new(road);
            let (client, server) = rig.connect();
            client.write_all(b"hello").expect("taken");
            expect(&server, b"hello");
            let (leaving, staying) = if by_client { (client, server) } else { (server, client) };
            leaving.finish().expect("taken");
            drop(leaving);
            receive_all(&staying, 0, 0);
            staying.finish().expect("taken");
            drop(staying);
            for relay in &rig.relays {
                relay.log().ended(1);
            }
            rig.finish();
        }
    }
}

/// The half-open time does not start while what came before an end is still being flushed to somebody
/// slow.
#[test]
fn the_half_open_time_does_not_start_before_everything_is_flushed() {
    // more than the last kernel buffer takes, so that the relay holds the rest and its end; and no
    // more than fits into both
    let len = 300_000;
    for road in [Road::single(Kind::Unix, Kind::Unix), Road::single(Kind::Unix, Kind::Tls), Road::MIGRATION] {
        let rig = Rig::with(road, &["--half-open-timeout", "1s"]);
        let (client, server) = rig.connect();
        client.write_all(b"request").expect("taken");
        expect(&server, b"request");
        send_all(&server, 9, len);
        // it may stall for as long as it likes: a slow machine makes no difference
        thread::sleep(Duration::from_millis(2500));
        receive_all(&client, 9, len);
        rig.relays[0].log().ended(1);
    }
}

/// Nor when the other direction is over already and the answer is complete, its end included.
#[test]
fn the_end_of_a_complete_answer_waits_for_a_reader_that_takes_its_time() {
    let len = 300_000;
    for road in [Road::single(Kind::Unix, Kind::Unix), Road::single(Kind::Unix, Kind::Tls), Road::MIGRATION] {
        let rig = Rig::with(road, &["--half-open-timeout", "5s"]);
        let (client, server) = rig.connect();
        client.write_all(b"request").expect("taken");
        client.finish().expect("taken");
        expect(&server, b"request");
        receive_all(&server, 0, 0);
        send_all(&server, 9, len);
        // long beside what a loaded machine needs between two steps
        thread::sleep(Duration::from_millis(7000));
        receive_all(&client, 9, len);
        assert!(rig.relays[0].log().ended(1).remove(0).is_clean());
    }
}

/// The half-open time counts from the last progress, not from the end: whoever sends a little now
/// and then may take much longer.
#[test]
fn progress_resets_the_half_open_time() {
    let limit = Duration::from_secs(3);
    let rig = Rig::with(Road::MIGRATION, &["--half-open-timeout", "3s"]);
    let (client, server) = rig.connect();
    client.finish().expect("taken");
    receive_all(&server, 0, 0);
    let (start, mut rounds) = (Instant::now(), 0_u8);
    while start.elapsed() < limit * 2 {
        thread::sleep(limit / 30);
        rounds = rounds.wrapping_add(1);
        server.write_all(&[rounds]).expect("taken");
        expect(&client, &[rounds]);
    }
    // and without progress it does end
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = tell.send(receive(&client, 0).count);
        });
        assert_eq!(told.recv().expect("an end"), 0);
    });
    let ended = rig.relays[1].log().ended(1).remove(0);
    let front = rig.relays[0].log().ended(1).remove(0);
    assert!(
        [&ended, &front].iter().any(|line| line.back_end() == "timeout-half-open"),
        "{}\n{}",
        ended.text,
        front.text
    );
}
