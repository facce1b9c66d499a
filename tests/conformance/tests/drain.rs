//! SIGTERM: nobody new is let in, who is there may finish, and the exit code says how it went.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use relay_conformance::peer::dial;
use relay_conformance::{Kind, MIB, Peer, Received, Relay, Rig, Road, Scratch, Setup};
use relay_conformance::{expect, receive, receive_all, send, send_all, sized, transfer};
use rustix::process::Signal;

#[test]
fn a_drain_under_load_loses_nothing() {
    let len = sized(8, 64) * MIB;
    for road in [Road::MIGRATION, Road::single(Kind::Tls, Kind::Tls), Road::single(Kind::Tcp, Kind::Unix)] {
        let mut rig = Rig::new(road);
        let streams: Vec<_> = (0..6).map(|_| rig.connect()).collect();
        // Outlives the threads: the last one may have sent its half when nobody waits for it any more.
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            for (seed, (client, server)) in (0..).zip(&streams) {
                let tell = tell.clone();
                scope.spawn(move || {
                    send(client, seed, len / 2).expect("taken");
                    tell.send(()).expect("awaited");
                    // the rest when the drain is under way
                    send(client, seed + 50, len / 2).expect("taken");
                    client.finish().expect("taken");
                    receive_all(client, seed + 100, len);
                });
                scope.spawn(move || {
                    let mut halves =
                        [relay_conformance::Pattern::new(seed), relay_conformance::Pattern::new(seed + 50)];
                    let (mut count, mut buffer) = (0, vec![0; 32 << 10]);
                    while count < len {
                        let half = usize::from(count >= len / 2);
                        let most = buffer.len().min(len / 2 * (half + 1) - count);
                        let some = server.read(&mut buffer[..most]).expect("bytes");
                        assert!(some > 0, "an early end");
                        halves[half].demand(&buffer[..some], count);
                        count += some;
                    }
                    receive_all(server, 0, 0);
                    send_all(server, seed + 100, len);
                });
            }
            told.recv().expect("half is sent");
            for relay in &mut rig.relays {
                relay.drain();
            }
            rig.relays.iter_mut().for_each(Relay::wait_closed);
        });
        for relay in &mut rig.relays {
            assert_eq!(relay.exit_code(), Some(0), "{road:?}");
            assert!(relay.log().ended(6).iter().all(|line| line.is_clean()), "{}", relay.log().text());
        }
    }
}

/// Whoever connects around the time of the drain is served in whole or learns that it was not; a
/// server never gets half a request.
#[test]
fn clients_that_keep_coming_while_it_drains_are_served_or_refused() {
    for road in [Road::single(Kind::Unix, Kind::Unix), Road::single(Kind::Tcp, Kind::Tcp), Road::MIGRATION] {
        for _ in 0..sized(3, 30) {
            let mut rig = Rig::new(road);
            let (served, asked) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let over = AtomicBool::new(false);
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| while ask(&rig, road, &served) {});
                }
                scope.spawn(|| serve(&rig, &asked, &over));
                while served.load(Ordering::SeqCst) < 20 {
                    thread::sleep(Duration::from_millis(1));
                }
                rig.relays.iter().for_each(Relay::drain);
                rig.relays.iter().for_each(|relay| relay.log().wait_over());
                over.store(true, Ordering::SeqCst);
                drop(dial(rig.sink.at()));
            });
            for relay in &mut rig.relays {
                assert_eq!(relay.exit_code(), Some(0), "{road:?}");
            }
            let (served, asked) = (served.load(Ordering::SeqCst), asked.load(Ordering::SeqCst));
            assert!(served <= asked, "{served} answers to {asked} questions");
        }
    }
}

/// The kernel has told them that they are connected, and nobody has accepted them when the drain begins: more
/// of them than are accepted in a turn.
#[test]
fn whoever_is_connected_when_the_drain_begins_is_served() {
    for road in [Road::single(Kind::Tcp, Kind::Unix), Road::single(Kind::Unix, Kind::Unix)] {
        let mut rig = Rig::new(road);
        let relay = &mut rig.relays[0];
        relay.signal(Signal::STOP);
        let clients: Vec<_> = (0..100).map(|_| Peer::Plain(dial(relay.at()))).collect();
        relay.drain();
        relay.signal(Signal::CONT);
        relay.wait_closed();
        for (seed, client) in (0..).zip(&clients) {
            // in the order in which they connected
            let server = rig.sink.accept();
            transfer(client, &server, seed, 1000);
            transfer(&server, client, seed + 1000, 1000);
        }
        assert_eq!(rig.relays[0].exit_code(), Some(0), "{road:?}");
        let lines = rig.relays[0].log().ended(clients.len());
        assert!(lines.iter().all(|line| line.is_clean()), "{}", rig.relays[0].log().text());
    }
}

const QUESTION: usize = 20_000;
const ANSWER: usize = 30_000;

/// Asks once, and says whether to go on.
fn ask(rig: &Rig, road: Road, served: &AtomicUsize) -> bool {
    let Ok(client) = Peer::try_connect(rig.entry(), &rig.client) else { return false };
    if send(&client, 1, QUESTION).and_then(|()| client.finish()).is_err() {
        return true;
    }
    let Received { count, end } = receive(&client, 2);
    match count {
        ANSWER => {
            assert!(end.is_ok(), "{road:?}: {end:?}");
            served.fetch_add(1, Ordering::SeqCst);
        }
        // a unix socket that was never accepted just ends
        0 => assert!(end.is_err() || !client.knows_resets(), "{road:?}: an orderly end without an answer"),
        _ => panic!("{road:?}: {count} of {ANSWER} bytes, {end:?}"),
    }
    true
}

/// Answers whole questions until it is over, which somebody who connects says.
fn serve(rig: &Rig, asked: &AtomicUsize, over: &AtomicBool) {
    thread::scope(|scope| {
        loop {
            let server = rig.sink.accept();
            if over.load(Ordering::SeqCst) {
                return;
            }
            scope.spawn(move || {
                receive_all(&server, 1, QUESTION);
                asked.fetch_add(1, Ordering::SeqCst);
                send_all(&server, 2, ANSWER);
            });
        }
    });
}

#[test]
fn a_session_that_waits_for_its_answer_is_waited_for() {
    for road in Road::SOME {
        let mut rig = Rig::new(road);
        let (client, server) = rig.connect();
        client.write_all(b"request").expect("taken");
        client.finish().expect("taken");
        expect(&server, b"request");
        receive_all(&server, 0, 0);
        rig.relays.iter_mut().for_each(|relay| relay.drain());
        rig.relays.iter_mut().for_each(Relay::wait_closed);
        transfer(&server, &client, 1, 3 * MIB);
        for relay in &mut rig.relays {
            assert_eq!(relay.exit_code(), Some(0));
        }
    }
}

#[test]
fn who_reads_slowly_gets_all_of_it_before_the_end() {
    for road in [Road::MIGRATION, Road::single(Kind::Tcp, Kind::Tls)] {
        let mut rig = Rig::new(road);
        let (client, server) = rig.connect();
        thread::scope(|scope| {
            scope.spawn(|| send_all(&server, 1, 4 * MIB));
            let mut first = [0; 1];
            assert_eq!(client.read(&mut first).expect("a byte"), 1);
            rig.relays.iter_mut().for_each(|relay| relay.drain());
            rig.relays.iter_mut().for_each(Relay::wait_closed);
            thread::sleep(Duration::from_millis(200));
            let mut pattern = relay_conformance::Pattern::new(1);
            pattern.demand(&first, 0);
            let (mut count, mut buffer) = (1, vec![0; 10_000]);
            loop {
                match client.read(&mut buffer).expect("bytes") {
                    0 => break,
                    some => {
                        pattern.demand(&buffer[..some], count);
                        count += some;
                    }
                }
            }
            assert_eq!(count, 4 * MIB);
        });
        client.finish().expect("taken");
        for relay in &mut rig.relays {
            assert_eq!(relay.exit_code(), Some(0));
        }
    }
}

#[test]
fn a_drain_past_its_deadline_cuts_and_the_exit_code_says_so() {
    for road in [Road::single(Kind::Tcp, Kind::Tcp), Road::single(Kind::Tls, Kind::Tls)] {
        let mut rig = Rig::with(road, &["--drain-timeout", "300ms"]);
        let (client, server) = rig.connect();
        client.write_all(b"hello").expect("taken");
        expect(&server, b"hello");
        rig.relays[0].drain();
        for peer in [&client, &server] {
            let received = receive(peer, 0);
            assert!(received.end.is_err(), "{road:?}: what is cut must not look finished");
        }
        assert_eq!(rig.relays[0].exit_code(), Some(3));
        let ended = rig.relays[0].log().ended(1).remove(0);
        assert_eq!((ended.front_end(), ended.back_end()), ("timeout-drain", "timeout-drain"));
    }
}

#[test]
fn a_second_signal_aborts() {
    for (first, second) in
        [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::TERM), (Signal::TERM, Signal::INT)]
    {
        let mut rig = Rig::new(Road::single(Kind::Tcp, Kind::Tcp));
        let (client, server) = rig.connect();
        client.write_all(b"hello").expect("taken");
        expect(&server, b"hello");
        rig.relays[0].signal(first);
        rig.relays[0].wait_closed();
        assert!(!rig.relays[0].has_ended(), "one session is still open");
        rig.relays[0].signal(second);
        for peer in [&client, &server] {
            assert!(receive(peer, 0).end.is_err(), "what is aborted must not look finished");
        }
        assert_eq!(rig.relays[0].exit_code(), Some(1));
    }
}

/// With two loops a wake-up may be under way when the second one goes home.
#[test]
fn with_nothing_to_do_it_ends_at_once_every_time() {
    let scratch = Scratch::new();
    for round in 0..sized(30, 300) {
        let mut relay = Setup::new(&scratch.unix("entry"), &scratch.unix("sink")).start();
        relay.signal(if round % 2 == 0 { Signal::TERM } else { Signal::INT });
        assert_eq!(relay.exit_code(), Some(0));
        assert!(scratch.names().is_empty(), "{:?}", scratch.names());
    }
}

/// As early as it can be asked to: nobody who sees it listening may kill it by accident.
#[test]
fn who_listens_may_be_drained() {
    for _ in 0..sized(20, 200) {
        let mut rig = Rig::new(Road::single(Kind::Tls, Kind::Unix));
        rig.relays[0].drain();
        assert_eq!(rig.relays[0].exit_code(), Some(0));
    }
}

/// Nobody is to wait for what may never begin: a silent stranger, a backend that is not there.
#[test]
fn a_drain_does_not_wait_for_sessions_that_have_not_begun() {
    let scratch = Scratch::new();
    let mut relay = Setup::new(&scratch.unix("entry"), &scratch.unix("never"))
        .options(&["--dial-timeout", "off", "--drain-timeout", "off"])
        .start();
    let client = Peer::Plain(dial(relay.at()));
    client.write_all(b"hello").expect("taken");
    // it has come to dial in vain, or not yet: the same must come of both
    thread::sleep(Duration::from_millis(50));
    relay.drain();
    assert_eq!(receive(&client, 0).count, 0);
    assert_eq!(relay.exit_code(), Some(0));

    let mut rig = Rig::with(
        Road::single(Kind::Tls, Kind::Unix),
        &["--handshake-timeout", "1s", "--drain-timeout", "off"],
    );
    let _silent = dial(rig.entry());
    thread::sleep(Duration::from_millis(50));
    rig.relays[0].drain();
    assert_eq!(rig.relays[0].exit_code(), Some(0));
}
