//! What does nothing costs nothing.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use relay_node::cli::Timeouts;

use crate::rig::{PATIENCE, Rig, Road, Settings, expect};

/// How often the loops woke up so far.
fn wake_ups(rig: &Rig) -> u64 {
    rig.nodes.iter().map(|node| node.runtime.counters().wake_ups()).sum()
}

/// Once the loops have come to rest, how often they wake up while nothing happens.
fn wake_ups_at_rest(rig: &Rig) -> u64 {
    let count = || wake_ups(rig);
    let start = Instant::now();
    let mut before = count();
    loop {
        thread::sleep(Duration::from_millis(200));
        let now = count();
        if now == before {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "the loops never rest");
        before = now;
    }
    thread::sleep(Duration::from_secs(1));
    count() - before
}

#[test]
fn idle_sessions_wake_nobody() {
    for road in [Road::PlainPair, Road::TlsPair] {
        let rig = Rig::new(road);
        let connections: Vec<_> = (0..100).map(|_| rig.connect()).collect();
        for (mut client, server) in connections.iter().map(|(client, server)| (client, server)) {
            client.write_all(b"hello").expect("taken");
            expect(server, b"hello");
        }
        assert_eq!(wake_ups_at_rest(&rig), 0, "{road:?}");
        // half of them half closed: their timer is minutes away
        for (client, _) in connections.iter().step_by(2) {
            client.shutdown(std::net::Shutdown::Write).expect("shut down");
        }
        assert_eq!(wake_ups_at_rest(&rig), 0, "{road:?}");
    }
}

#[test]
fn a_peer_that_does_not_read_wakes_nobody() {
    for road in Road::ALL {
        let rig = Rig::new(road);
        let (client, _server) = rig.connect();
        client.set_nonblocking(true).expect("flag");
        let mut quiet = Instant::now();
        while quiet.elapsed() < Duration::from_millis(300) {
            if (&client).write_all(&[0; 4 << 10]).is_ok() {
                quiet = Instant::now();
            } else {
                thread::sleep(Duration::from_millis(5));
            }
        }
        assert_eq!(wake_ups_at_rest(&rig), 0, "{road:?}: the relay is full and spins");
    }
}

/// While bytes move, every coming back from the poller has a reason.
#[test]
fn no_wake_up_is_for_nothing() {
    let rig = Rig::with(Road::TlsPair, &Settings::default());
    let (client, server) = rig.connect();
    thread::scope(|scope| {
        scope.spawn(|| crate::rig::send_all(&client, 1, 20 << 20));
        crate::rig::receive_all(&server, 1, 20 << 20);
    });
    drop((client, server));
    for node in &rig.nodes {
        node.watch.only_ended();
        assert_eq!(node.runtime.counters().for_nothing(), 0);
    }
}

/// The clocks of dialing and of the handshake are stopped, not left to run out.
#[test]
fn a_connected_session_leaves_no_clock_behind() {
    let limit = Duration::from_secs(4);
    for road in [Road::PlainPair, Road::TlsPair] {
        let timeouts =
            Timeouts { dial: Some(limit), handshake: Some(limit), half_open: None, ..Timeouts::default() };
        let rig = Rig::with(road, &Settings { timeouts, ..Settings::default() });
        let connections: Vec<_> = (0..10).map(|_| rig.connect()).collect();
        for (mut client, server) in connections.iter().map(|(client, server)| (client, server)) {
            client.write_all(b"hello").expect("taken");
            expect(server, b"hello");
        }
        drop(rig.connect()); // one that is gone before they would have fired
        assert_eq!(wake_ups_at_rest(&rig), 0, "{road:?}");
        let before = wake_ups(&rig);
        thread::sleep(limit);
        assert_eq!(wake_ups(&rig) - before, 0, "{road:?}: a clock ran out");
    }
}
