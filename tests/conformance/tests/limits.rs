//! Descriptors and sessions run out, and come back.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use relay_conformance::log::Line;
use relay_conformance::peer::{client_connection, dial};
use relay_conformance::{Authority, Endpoint, Kind, Peer, Relay, Rig, Road, Scratch, Setup, Sink};
use relay_conformance::{expect, receive, receive_all, send_all, sized, skipped, transfer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Clients that have connected in this order and each said their number.
fn numbered_clients(rig: &Rig, count: u8) -> Vec<Peer> {
    let client = |number| {
        let client = rig.client();
        client.write_all(&[number]).expect("taken");
        client
    };
    (0..count).map(client).collect()
}

/// Takes descriptors away from a relay that runs, to so many more than it has open now.
fn leave(relay: &Relay, more: usize) -> u64 {
    // those that are open need not be the lowest: what is below counts, too
    let most = (relay.open_descriptors() + more) as u64;
    relay.limit_descriptors(most);
    most
}

/// accept(2) fails with EMFILE, at a time when one descriptor is left or none. The relay must neither
/// spin nor forget who waits (epoll says so once only), nor harm who is there, nor let somebody in for
/// whose backend there is no descriptor.
#[test]
fn out_of_descriptors_accepting_pauses_and_goes_on_when_sessions_end() {
    for left in [4, 5] {
        let rig = Rig::new(Road::single(Kind::Unix, Kind::Unix));
        let relay = &rig.relays[0];
        let (early, early_end) = rig.connect();
        early.write_all(b"early").expect("taken");
        expect(&early_end, b"early");
        leave(relay, left);
        let clients = numbered_clients(&rig, 20);
        relay.log().wait_for("accepting paused");
        early.write_all(b"still there").expect("taken");
        expect(&early_end, b"still there");
        let (start, before) = (Instant::now(), relay.processor_time());
        thread::sleep(Duration::from_secs(1));
        let spent = relay.processor_time() - before;
        assert!(spent < start.elapsed() / 4, "{spent:?} of processor time with nothing to do");
        // each that goes gives back what the next one needs
        for (number, client) in (0..20).zip(clients) {
            let server = rig.sink.accept();
            expect(&server, &[number]);
            transfer(&server, &client, 1, 1000);
            transfer(&client, &server, 2, 1000);
        }
        relay.log().wait_for("accepting again");
        early.write_all(b"to the end").expect("taken");
        expect(&early_end, b"to the end");
        drop((early, early_end));
        assert!(relay.log().ended(21).iter().all(|line| line.is_clean()));
        rig.finish();
    }
}

/// Nobody ends and no event comes: it has to look again by itself.
#[test]
fn out_of_descriptors_accepting_goes_on_when_the_limit_is_raised() {
    let rig = Rig::new(Road::single(Kind::Unix, Kind::Unix));
    let relay = &rig.relays[0];
    let (early, early_end) = rig.connect();
    transfer(&early, &early_end, 1, 1000);
    let most = leave(relay, 4);
    let clients = numbered_clients(&rig, 20);
    relay.log().wait_for("accepting paused");
    relay.limit_descriptors(most + 500);
    let servers: Vec<_> = clients.iter().map(|_| rig.sink.accept()).collect();
    for (number, (client, server)) in (0_u8..).zip(clients.iter().zip(&servers)) {
        expect(server, &[number]);
        transfer(client, server, 1, 1000);
        transfer(server, client, 2, 1000);
    }
    relay.log().wait_for("accepting again");
    early_end.finish().expect("taken");
    rig.finish();
}

/// A target finds its backend's socket anew for each connection, which takes descriptors, too. Whoever is let in
/// has them, however many loops and whoever else takes what is given back meanwhile.
#[test]
fn a_target_out_of_descriptors_finds_the_backend_of_everybody_it_lets_in() {
    for left in 2..6 {
        let scratch = Scratch::new();
        let identity = Authority::common().issue("node");
        let sink = Sink::new(&Kind::Unix.endpoint(&scratch), &identity.server());
        let Endpoint::Unix(backend) = sink.at() else { panic!("a unix socket") };
        let mut relay = Setup::target(backend).options(&["--threads", "2"]).start();
        leave(&relay, left);
        let clients = (0..20_u8).map(|number| {
            let client = Peer::Plain(dial(relay.at()));
            client.write_all(&[number]).expect("taken");
            client
        });
        for (number, client) in (0..20_u8).zip(clients.collect::<Vec<_>>()) {
            let server = sink.accept();
            expect(&server, &[number]);
            transfer(&server, &client, 1, 1000);
            transfer(&client, &server, 2, 1000);
        }
        assert!(relay.log().ended(20).iter().all(Line::is_clean), "with {left} left");
        relay.finish();
    }
}

/// With few descriptors from the start everybody is served, some later.
#[test]
fn few_descriptors_make_it_slower_and_nothing_worse() {
    let scratch = Scratch::new();
    let identity = Authority::common().issue("node");
    let files = identity.write(scratch.root());
    let sink = Sink::new(&Kind::Unix.endpoint(&scratch), &identity.server());
    let start = |listen: &str, connect: &str| Setup::new(listen, connect).tls(&files).descriptors(64).start();
    let mut back = start("tls:127.0.0.1:0", &sink.at().to_string());
    let mut front = start(&scratch.unix("entry"), &back.at().to_string());
    let clients: Vec<_> = (0..100_u8)
        .map(|number| {
            let client = Peer::Plain(dial(front.at()));
            client.write_all(&[number]).expect("taken");
            client
        })
        .collect();
    for (number, client) in (0..100_u8).zip(clients) {
        let server = sink.accept();
        expect(&server, &[number]);
        send_all(&server, 1, 1000);
        receive_all(&client, 1, 1000);
    }
    front.finish();
    back.finish();
}

#[test]
fn no_more_sessions_than_allowed_and_the_others_wait() {
    for road in [Road::single(Kind::Unix, Kind::Unix), Road::single(Kind::Tcp, Kind::Tcp)] {
        let rig = Rig::with(road, &["--max-sessions", "3"]);
        let clients = numbered_clients(&rig, 12);
        for (round, three) in (0_u8..).zip(clients.chunks(3)) {
            let servers: Vec<_> = three.iter().map(|_| rig.sink.accept()).collect();
            // a fourth one would have every chance to come
            thread::sleep(Duration::from_millis(50));
            rig.sink.assert_untouched();
            for (number, (client, server)) in (0_u8..).zip(three.iter().zip(&servers)) {
                expect(server, &[round * 3 + number]);
                transfer(client, server, 1, 1000);
            }
            for (client, server) in three.iter().zip(&servers) {
                transfer(server, client, 2, 1000);
            }
        }
        rig.finish();
    }
}

/// All of them open at once, each with bytes of its own both ways.
#[test]
fn thousands_of_connections_at_once() {
    let wanted = sized(500, 5000);
    let before = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, ..before });
    let hard = before.maximum.unwrap_or(u64::MAX);
    // two here for each, and as many in each relay
    let count = wanted.min(u32::try_from(hard / 2).unwrap_or(u32::MAX).saturating_sub(200));
    if count < wanted {
        skipped(&format!("{wanted} connections: RLIMIT_NOFILE allows {count}"));
    }
    let mut rig = Rig::new(Road::MIGRATION);
    let (first, first_end) = rig.connect();
    drop((first, first_end));
    rig.relays.iter().for_each(|relay| drop(relay.log().ended(1)));
    let open: Vec<_> = rig.relays.iter().map(|relay| relay.open_descriptors()).collect();
    thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let connect = |number: u32| {
                let client = rig.client();
                client.write_all(&number.to_be_bytes()).expect("taken");
                client
            };
            (0..count).map(connect).collect::<Vec<_>>()
        });
        let servers: Vec<_> = (0..count)
            .map(|number| {
                let server = rig.sink.accept();
                expect(&server, &number.to_be_bytes());
                server
            })
            .collect();
        let clients = clients.join().expect("all connected");
        for (number, server) in servers.iter().enumerate() {
            send_all(server, number as u64, 3000);
        }
        for (number, client) in clients.iter().enumerate() {
            receive_all(client, number as u64, 3000);
            send_all(client, number as u64 + 1, 3000);
        }
        for (number, server) in servers.iter().enumerate() {
            receive_all(server, number as u64 + 1, 3000);
        }
    });
    for (relay, open) in rig.relays.iter_mut().zip(open) {
        relay.eventually("every descriptor is given back", |relay| {
            (relay.open_descriptors() <= open).then_some(())
        });
        relay.finish();
        // not every session's line need be there: a burst may be too much for whoever writes the log
        let stopped = relay.log().wait_for("stopped");
        let counts = ["sessions", "cut", "aborted"].map(|name| stopped.count(name));
        assert_eq!(counts, [u64::from(count) + 1, 0, 0], "{}", stopped.text);
    }
}

/// However a session ends, or does not begin.
#[test]
fn no_descriptor_is_lost_on_any_way_out() {
    let mut rig = Rig::with(Road::single(Kind::Tls, Kind::Tcp), &["--dial-timeout", "200ms"]);
    let (first, first_end) = rig.connect();
    transfer(&first, &first_end, 1, 100_000);
    drop((first, first_end));
    rig.relays[0].log().ended(1);
    let open = rig.relays[0].open_descriptors();
    let mut count = 1;
    for round in 0..sized(5, 50) {
        let (client, server) = rig.connect();
        transfer(&server, &client, 2, 10_000);
        client.finish().expect("taken");
        let (client, server) = rig.connect();
        client.reset();
        drop(server);
        let (client, server) = rig.connect();
        server.reset();
        drop(client);
        let (client, _server) = rig.connect();
        client.cut().expect("taken");
        drop(dial(rig.entry()));
        let _ = Peer::try_connect(rig.entry(), &Authority::new("other").issue("node").client());
        count += 6;
        drop(server_that_waits(&rig, round));
        count += 1;
    }
    rig.relays[0].log().ended(count);
    rig.relays[0].eventually("every descriptor is given back", |relay| {
        (relay.open_descriptors() <= open).then_some(())
    });
    rig.finish();
}

/// A session whose client leaves with the server's answer half read.
fn server_that_waits(rig: &Rig, seed: u64) -> Peer {
    let (client, server) = rig.connect();
    let _ = relay_conformance::send(&server, seed, 100_000);
    assert!(client.read(&mut [0; 1000]).expect("bytes") > 0);
    drop(client);
    let _ = receive(&server, 0);
    server
}

/// More strangers than are let in at once, who would stay for ever: those who came first make room, the
/// log says so in a line or two, and somebody with a good certificate gets through.
#[test]
fn a_flood_of_silent_strangers_passes() {
    let rig = Rig::with(
        Road::single(Kind::Tls, Kind::Unix),
        &["--handshake-timeout", "off", "--max-sessions", "20"],
    );
    let count = sized(50, 200);
    let strangers: Vec<_> = (0..count).map(|_| dial(rig.entry())).collect();
    let (client, server) = rig.connect();
    transfer(&client, &server, 1, 1000);
    transfer(&server, &client, 2, 1000);
    let log = rig.relays[0].log();
    let crowded = log.wait("a line about the crowd", |lines| {
        lines.iter().find(|line| line.text.contains("have not proved who they are")).cloned()
    });
    assert_eq!(crowded.field("limit"), "max-unauthenticated");
    let lines = log.text().lines().filter(|line| line.contains("evicted")).count();
    assert!(lines < count / 2, "{lines} lines about {count} strangers");
    drop(strangers);
    rig.finish();
}

/// A stranger who is slow but speaks is not the first to make room for others.
#[test]
fn a_slow_handshake_has_a_fair_time_in_a_flood() {
    let rig = Rig::with(
        Road::single(Kind::Tls, Kind::Unix),
        &["--handshake-timeout", "off", "--max-sessions", "20"],
    );
    let mut slow = client_connection(rig.entry(), &rig.client);
    let socket = dial(rig.entry());
    slow.write_tls(&mut &socket).expect("taken");
    let strangers: Vec<_> = (0..30).map(|_| dial(rig.entry())).collect();
    // the first strangers were sent away meanwhile
    let (client, server) = rig.connect();
    drop((client, server));
    while slow.is_handshaking() {
        assert!(slow.read_tls(&mut &socket).expect("bytes") > 0, "sent away");
        slow.process_new_packets().expect("a handshake");
        while slow.wants_write() {
            slow.write_tls(&mut &socket).expect("taken");
        }
    }
    drop(rig.sink.accept());
    drop(strangers);
}

/// Busy or not: after its time a session is over, and its line says why.
#[test]
fn nobody_stays_longer_than_a_lifetime() {
    for road in [Road::single(Kind::Tcp, Kind::Tcp), Road::MIGRATION] {
        let rig = Rig::with(road, &["--max-lifetime", "700ms"]);
        let start = Instant::now();
        let (busy, server) = rig.connect();
        let (quiet, quiet_server) = rig.connect();
        thread::scope(|scope| {
            scope.spawn(|| while busy.write_all(&[1; 10_000]).is_ok() {});
            scope.spawn(|| while server.read(&mut [0; 10_000]).is_ok_and(|count| count > 0) {});
        });
        assert!(!quiet.read(&mut [0; 10]).is_ok_and(|count| count > 0), "nobody wrote to it");
        assert!(start.elapsed() >= Duration::from_millis(700), "cut early");
        // Of two relays either may be the first to have had enough; both log one number for a session.
        let ended = rig.relays.iter().flat_map(|relay| relay.log().ended(2));
        let over: BTreeSet<_> = ended
            .filter(|line| [line.front_end(), line.back_end()] == ["timeout-lifetime"; 2])
            .map(|line| match [line.field("front_session"), line.field("back_session")] {
                ["", ""] => line.field("peer").to_owned(),
                numbers => numbers.concat(),
            })
            .collect();
        assert_eq!(over.len(), 2, "both directions of both: {over:?}\n{}", rig.relays[0].log().text());
        drop((quiet, quiet_server));
        rig.finish();
    }
}

/// What a relay may have is told at the start, and a core dump is not among it where there are keys.
#[test]
fn limits_are_told_and_keys_stay_in_memory() {
    let rig = Rig::with(Road::single(Kind::Tls, Kind::Unix), &["--max-sessions", "7"]);
    rig.relays[0].log().wait_for("limits");
    let text = rig.relays[0].log().text();
    let line = text.lines().find(|line| line.contains(r#""max_sessions":7"#)).expect("a line");
    assert!(line.contains(r#""descriptors":"#) && line.contains(r#""unauthenticated":4"#), "{line}");
    let limits = rig.relays[0].limits();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    rig.finish();
}
