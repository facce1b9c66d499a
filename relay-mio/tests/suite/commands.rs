//! Listeners and sessions that come and go while a node serves, and the table of who is there.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use relay_core::admission::Limits;
use relay_core::{EndReason, Leg};
use relay_node::control::{Command, Sessions};
use relay_node::sessions::{Moved, SessionView, Stage};
use relay_node::{RouteId, SessionId};
use socket2::Socket;

use crate::rig::{
    Authority, Node, PATIENCE, Rig, Road, Scratch, Settings, Sink, dial, expect, receive_all, send, send_all,
};

const ABORTED: EndReason = EndReason::Aborted;

/// The table's rows once they are as wanted.
fn rows(node: &Node, what: &str, wanted: impl Fn(&[SessionView]) -> bool) -> Vec<SessionView> {
    let start = Instant::now();
    loop {
        let rows = node.sessions.snapshot();
        if wanted(&rows) {
            return rows;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: {rows:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn none(node: &Node) {
    rows(node, "nobody is there", <[SessionView]>::is_empty);
}

/// Opened, used, closed while in use, and opened again at the same place.
#[test]
fn a_listener_comes_and_goes_while_its_sessions_go_on() {
    let (scratch, settings) = (Scratch::new(), Settings::default());
    let (entry, sink_at) = (scratch.unix("entry"), scratch.unix("sink"));
    let sink = Sink::unix(&scratch.path("sink"));
    let mut node = Node::idle(&settings);
    let mut open = Vec::new();
    for id in 0..5 {
        let at = node.open(id, &entry, &sink_at, &settings);
        let client = dial(&at);
        send(&client, id, 1000).expect("taken");
        let server = sink.accept();
        node.close(id, Sessions::Keep);
        assert!(!scratch.path("entry").exists(), "its file goes with it");
        assert!(UnixStream::connect(scratch.path("entry")).is_err());
        open.push((id, client, server));
    }
    let rows = rows(&node, "all are open", |rows| rows.iter().all(|row| row.stage == Stage::Open));
    assert!(rows.iter().map(|row| row.route).eq((0..5).map(RouteId)), "{rows:?}");
    for (id, client, server) in open {
        client.shutdown(std::net::Shutdown::Write).expect("shut down");
        receive_all(&server, id, 1000);
        send_all(&server, 99, 3000);
        receive_all(&client, 99, 3000);
    }
    none(&node);
    node.send(Command::Drain);
    let served = node.join();
    assert_eq!((served.sessions, served.aborted, served.cut_by_deadline), (5, 0, 0));
}

#[test]
fn sessions_end_with_their_listener_if_so_wished_and_no_others() {
    let (scratch, settings) = (Scratch::new(), Settings { threads: 3, ..Settings::default() });
    let sink = Sink::unix(&scratch.path("sink"));
    let mut node = Node::idle(&settings);
    let ats = ["a", "b"].map(|name| {
        node.open(
            name.len() as u64 + u64::from(name == "b"),
            &scratch.unix(name),
            &scratch.unix("sink"),
            &settings,
        )
    });
    let mut pairs: Vec<_> = (0..6)
        .map(|number| {
            let client = dial(&ats[number % 2]);
            (client, sink.accept())
        })
        .collect();
    node.close(1, Sessions::Abort);
    for ended in node.watch.ended(3) {
        assert_eq!(ended.outcome.flows.front.reason, ABORTED);
    }
    for (number, (client, server)) in pairs.iter_mut().enumerate() {
        if number % 2 == 0 {
            assert_eq!(client.read(&mut [0]).expect("an end"), 0);
        } else {
            client.write_all(b"still there").expect("taken");
            expect(server, b"still there");
        }
    }
    let left = rows(&node, "three are left", |rows| rows.len() == 3);
    assert!(left.iter().all(|row| row.route == RouteId(2)));
    // Later, too, although the listener is gone already.
    node.close(2, Sessions::Keep);
    node.send(Command::Close { id: RouteId(2), sessions: Sessions::Abort });
    node.watch.ended(6);
    none(&node);
    node.send(Command::Drain);
    assert_eq!(node.join().aborted, 6);
}

#[test]
fn one_session_is_ended_by_its_number() {
    for road in Road::ALL {
        let rig = Rig::new(road);
        let node = rig.nodes.last().expect("one");
        let pairs: Vec<_> = (0..3).map(|_| rig.connect()).collect();
        let all = rows(node, "three are open", |rows| {
            rows.len() == 3 && rows.iter().all(|row| row.stage == Stage::Open)
        });
        node.send(Command::End(all[1].id));
        node.send(Command::End(SessionId(1 << 40)));
        let ended = node.watch.only_ended();
        assert_eq!((ended.id, ended.outcome.flows.back.reason), (all[1].id, ABORTED), "{road:?}");
        let left = rows(node, "two are left", |rows| rows.len() == 2);
        assert_eq!([left[0].id, left[1].id], [all[0].id, all[2].id]);
        for (number, (client, server)) in pairs.iter().enumerate() {
            if number != 1 {
                send_all(client, 1, 100_000);
                receive_all(server, 1, 100_000);
            }
        }
    }
}

/// A backend that is not there yet: its sessions wait in a listener's order, which is closed, and
/// others take that listener's place in the loop.
#[test]
fn who_waits_for_a_backend_goes_on_waiting_when_the_listener_is_closed() {
    let (scratch, settings) = (Scratch::new(), Settings::default());
    let node = Node::idle(&settings);
    let sink = Sink::unix(&scratch.path("sink"));
    let mut waiting = Vec::new();
    for id in 0..4 {
        let at = node.open(id, &scratch.unix("entry"), &scratch.unix(&format!("late{id}")), &settings);
        for number in 0..3_u8 {
            let mut client = dial(&at);
            client.write_all(&[number]).expect("taken");
            waiting.push(client);
        }
        let came = 3 * (id as usize + 1);
        let all = rows(&node, "all are dialing", |rows| {
            rows.len() == came && rows.iter().all(|row| row.stage == Stage::Dialing)
        });
        assert_eq!(all[came - 1].flows.front, Moved::default(), "nothing is read before both legs are up");
        node.close(id, Sessions::Keep);
    }
    let at = node.open(100, &scratch.unix("entry"), &scratch.unix("sink"), &settings);
    let client = dial(&at);
    send_all(&client, 5, 100_000);
    receive_all(&sink.accept(), 5, 100_000);
    for id in (0..4).rev() {
        let late = Sink::unix(&scratch.path(&format!("late{id}")));
        for number in 0..3_u8 {
            expect(&late.accept(), &[number]);
        }
    }
    drop(waiting);
    drop(client);
    none(&node);
}

#[test]
fn the_table_says_who_is_there_and_how_much_has_moved() {
    let rig = Rig::new(Road::TlsPair);
    let (client, server) = rig.connect();
    send(&client, 1, 70_000).expect("taken");
    send(&server, 2, 300).expect("taken");
    let (mut up, mut down) = (vec![0; 70_000], vec![0; 300]);
    (&server).read_exact(&mut up).expect("all of it");
    (&client).read_exact(&mut down).expect("all of it");
    let moved = |read| Moved { read, delivered: read, is_shut: false };
    for node in &rig.nodes {
        let row = rows(node, "it is told", |rows| {
            rows.len() == 1 && rows[0].flows.front == moved(70_000) && rows[0].flows.back == moved(300)
        })
        .remove(0);
        assert_eq!((row.stage, row.route), (Stage::Open, RouteId(0)));
        assert!(row.stalled_for <= row.age && row.age < PATIENCE);
        assert_eq!(row.plan.listen(), &node.at);
        let secured = if row.plan.listen().is_tls() { Leg::Front } else { Leg::Back };
        let identity = row.identities[secured].as_deref().expect("who it is");
        assert!(identity.contains("node"), "{identity}");
        assert_eq!(row.identities[secured.other()], None);
    }
    client.shutdown(std::net::Shutdown::Write).expect("shut down");
    for node in &rig.nodes {
        let row = rows(node, "half closed", |rows| rows[0].flows.front.is_shut).remove(0);
        assert!(row.stage == Stage::Open && !row.flows.back.is_shut);
    }
    drop((client, server));
    rig.nodes.iter().for_each(none);
    rig.drain();
}

/// A stranger has not shown who it is, and never will.
#[test]
fn a_silent_peer_is_told_as_such() {
    let (scratch, authority) = (Scratch::new(), Authority::new("ca"));
    let settings = Settings { tls: Some(authority.tls()), ..Settings::default() };
    let node = Node::start("tls:127.0.0.1:0", &scratch.unix("never"), &settings);
    let client = dial(&node.at);
    let row = rows(&node, "it is there", |rows| rows.len() == 1).remove(0);
    assert_eq!((row.stage, row.identities[Leg::Front].clone()), (Stage::Handshake, None));
    node.send(Command::End(row.id));
    none(&node);
    drop(client);
}

#[test]
fn nothing_is_opened_once_the_node_drains() {
    let (scratch, settings) = (Scratch::new(), Settings::default());
    let mut node = Node::start(&scratch.unix("entry"), &scratch.unix("sink"), &settings);
    let sink = Sink::unix(&scratch.path("sink"));
    let at = node.at.clone();
    let client = dial(&at);
    let server = sink.accept();
    node.send(Command::Drain);
    node.watch.closed(0);
    node.open(7, &scratch.unix("other"), &scratch.unix("sink"), &settings);
    node.watch.closed(7);
    assert!(!scratch.path("other").exists() && !scratch.path("entry").exists());
    send_all(&client, 1, 10);
    receive_all(&server, 1, 10);
    drop((client, server));
    assert_eq!(node.join().sessions, 1);
}

/// A migration's listeners, over and over.
#[test]
fn a_thousand_listeners_leave_nothing_behind() {
    let (scratch, settings) = (Scratch::new(), Settings::default());
    let sink = Sink::unix(&scratch.path("sink"));
    let mut node = Node::idle(&settings);
    for id in 0..1000 {
        let at = node.open(id, "tcp:127.0.0.1:0", &scratch.unix("sink"), &settings);
        if id % 10 == 0 {
            let client = dial(&at);
            send_all(&client, id, 10);
            receive_all(&sink.accept(), id, 10);
        }
        if id >= 50 {
            node.send(Command::Close { id: RouteId(id - 50), sessions: Sessions::Keep });
        }
    }
    node.watch.closed(949);
    node.send(Command::Drain);
    node.watch.closed(999);
    assert_eq!(node.join().sessions, 100);
}

/// Connections of which only the kernel knows when their listener is closed: more than are accepted in a turn.
fn those_who_wait_are_let_in(entry: &str, command: Command, settings: &Settings) {
    let (scratch, waiting) = (Scratch::new(), 40);
    let sink = Sink::unix(&scratch.path("sink"));
    let entry = if entry == "unix" { scratch.unix("entry") } else { entry.to_owned() };
    let (mut node, clients) = Node::start_late(&entry, &scratch.unix("sink"), settings, |at, node| {
        let clients: Vec<_> = (0..waiting).map(|_| dial(at)).collect();
        node.send(command);
        clients
    });
    node.watch.closed(0);
    assert!(!scratch.path("entry").exists());
    for (seed, client) in (0..).zip(&clients) {
        send_all(client, seed, 1000);
    }
    for seed in 0..waiting {
        // in the order in which they connected
        let server = sink.accept();
        receive_all(&server, seed, 1000);
        send_all(&server, seed + 100, 3000);
    }
    for (seed, client) in (0..).zip(&clients) {
        receive_all(client, seed + 100, 3000);
    }
    node.send(Command::Drain);
    let served = node.join();
    assert_eq!((served.sessions, served.aborted, served.cut_by_deadline), (waiting, 0, 0));
}

#[test]
fn whoever_waits_at_a_listener_that_is_closed_is_let_in_first() {
    let limits = Limits { per_turn: 1, ..Limits::default() };
    let settings = Settings { limits, ..Settings::default() };
    for entry in ["tcp:127.0.0.1:0", "unix"] {
        let keep = Command::Close { id: RouteId(0), sessions: Sessions::Keep };
        those_who_wait_are_let_in(entry, keep, &settings);
        those_who_wait_are_let_in(entry, Command::Drain, &settings);
    }
}

/// If sessions are not to go on, none begins; and the limits hold for the last ones, too.
#[test]
fn nobody_is_let_in_at_the_last_moment_who_would_not_be_otherwise() {
    let (scratch, few) = (Scratch::new(), 3);
    let _sink = Sink::unix(&scratch.path("sink"));
    let abort = || Command::Close { id: RouteId(0), sessions: Sessions::Abort };
    let keep = || Command::Close { id: RouteId(0), sessions: Sessions::Keep };
    for (command, most) in [(abort(), few), (Command::Abort, few), (keep(), few)] {
        let limits = Limits { sessions: few, per_turn: 1, ..Limits::default() };
        let settings = Settings { limits, ..Settings::default() };
        let (mut node, clients) =
            Node::start_late("tcp:127.0.0.1:0", &scratch.unix("sink"), &settings, |at, node| {
                let clients: Vec<_> = (0..20).map(|_| dial(at)).collect();
                node.send(command);
                clients
            });
        node.watch.closed(0);
        // too late for it, who is beyond the limit
        let gone = clients.iter().rev().take(20 - most).all(|client| {
            let mut client: &Socket = client;
            client.read(&mut [0]).is_err()
        });
        assert!(gone, "reset");
        node.send(Command::Abort);
        assert!(node.join().sessions <= most as u64);
    }
}
