//! Limits of the rate: never more than they allow, nobody left out, nothing lost; and the control API
//! that sets them.

use std::thread;
use std::time::{Duration, Instant};

use relay_conformance::peer::dial;
use relay_conformance::relay::program;
use relay_conformance::{Authority, Endpoint, Kind, MIB, Node, PATIENCE, Peer, Rig, Road, Scratch, Sink};
use relay_conformance::{receive_all, send_all, transfer};
use serde_json::{Value, json};

/// What has come out at the far end was read by the relay before, so the relay's limit is its limit: the
/// rate, what may be made up for of a twentieth of a second, some slices and one for each session.
fn assert_not_faster(bytes: usize, took: Duration, rate: usize, sessions: usize) {
    let slice = (rate / 128).clamp(1 << 10, 256 << 10);
    let allowed = (took.as_nanos() * rate as u128 / 1_000_000_000) as usize;
    let most = allowed + rate / 20 + (9 + sessions) * slice;
    assert!(bytes <= most, "{bytes} bytes in {took:?}, {most} are allowed");
}

#[test]
fn a_limit_holds_and_loses_nothing() {
    const RATE: usize = 4 * MIB;
    const EACH: usize = 2 * MIB;
    for road in [Road::single(Kind::Tcp, Kind::Tcp), Road::single(Kind::Unix, Kind::Unix), Road::MIGRATION] {
        let rig = Rig::with(road, &["--bandwidth", "4MiB/s"]);
        let start = Instant::now();
        let pairs: Vec<_> = (0..3).map(|_| rig.connect()).collect();
        thread::scope(|scope| {
            for (client, server) in &pairs {
                scope.spawn(move || transfer(client, server, 1, EACH));
                scope.spawn(move || transfer(server, client, 2, EACH / 2));
            }
        });
        assert_not_faster(3 * (EACH + EACH / 2), start.elapsed(), RATE, 3);
        drop(pairs);
        assert!(rig.relays[0].log().ended(3).iter().all(|line| line.is_clean()));
        rig.finish();
    }
}

/// A second for each KiB, and a peer that says all it has at once: it is not to be taken for silent.
#[test]
fn who_waits_for_the_limit_is_not_idle() {
    let options = ["--bandwidth", "1KiB/s", "--idle-timeout", "300ms", "--half-open-timeout", "300ms"];
    let rig = Rig::with(Road::single(Kind::Unix, Kind::Unix), &options);
    let client = rig.client();
    send_all(&client, 1, 5000);
    let server = rig.sink.accept();
    server.finish().expect("taken");
    receive_all(&server, 1, 5000);
    let ended = rig.relays[0].log().ended(1);
    assert!(ended[0].is_clean(), "{}", rig.relays[0].log().text());
    let spent = rig.relays[0].processor_time();
    assert!(spent < Duration::from_secs(1), "{spent:?} of processor time to wait");
    rig.finish();
}

/// A daemon with a target for this key, and where that listens.
fn target(node: &Node, key: &str, sink: &Sink) -> Endpoint {
    let body = json!({"backends": {"0": sink.at().path()}}).to_string();
    let answer = node.ask("PUT", &format!("/v1/targets/{key}"), &body);
    let port = answer["ports"].as_object().and_then(|ports| ports.keys().next()).expect("a port");
    Endpoint::parse(&format!("tcp:127.0.0.1:{port}"))
}

#[test]
fn limits_are_told_changed_and_lifted_while_sessions_wait() {
    let scratch = Scratch::new();
    let options = ["--bind", "127.0.0.1", "--bandwidth", "1GiB/s", "--bandwidth-per-key", "1KiB/s"];
    let mut node = Node::start(program(), &scratch, "control", &options);
    let sink = Sink::new(&Kind::Unix.endpoint(&scratch), &Authority::common().issue("node").server());
    let at = target(&node, "vm1", &sink);
    let limits = |bandwidth: &str, per_key: &str, keys: Value| json!({"bandwidth": bandwidth, "bandwidth_per_key": per_key, "keys": keys});
    assert_eq!(node.ask("GET", "/v1/limits", ""), limits("1GiB/s", "1KiB/s", json!({})));
    let connect = || {
        let client = Peer::Plain(dial(&at));
        (client, sink.accept())
    };
    let (client, server) = connect();
    thread::scope(|scope| {
        // At the first limit it would take an hour.
        scope.spawn(|| send_all(&client, 1, 4 * MIB));
        let received = scope.spawn(|| receive_all(&server, 1, 4 * MIB));
        let slow = Instant::now();
        while node.ask("GET", "/v1/sessions", "")["sessions"][0]["bytes_forward"] == 0 {
            assert!(slow.elapsed() < PATIENCE);
        }
        let raised = node.ask("PUT", "/v1/limits", r#"{"keys":{"vm1":"8MiB/s"}}"#);
        assert_eq!(raised, limits("1GiB/s", "1KiB/s", json!({"vm1": "8MiB/s"})));
        let start = Instant::now();
        received.join().expect("received");
        assert!(start.elapsed() < PATIENCE);
    });
    drop((client, server));
    // Back to what all have, and then lifted for all: who waits goes on at once.
    node.ask("PUT", "/v1/limits", r#"{"keys":{"vm1":null}}"#);
    let (client, server) = connect();
    thread::scope(|scope| {
        scope.spawn(|| send_all(&client, 2, 4 * MIB));
        let received = scope.spawn(|| receive_all(&server, 2, 4 * MIB));
        let off = node.ask("PUT", "/v1/limits", r#"{"bandwidth":"off","bandwidth_per_key":"off"}"#);
        assert_eq!(off, limits("off", "off", json!({})));
        received.join().expect("received");
    });
    drop((client, server));
    let (status, why) = node.call("PUT", "/v1/limits", r#"{"bandwidth":"100"}"#);
    assert!(status == 400 && why["error"].as_str().is_some_and(|why| why.contains("100MiB/s")), "{why}");
    assert_eq!(node.ask("GET", "/v1/limits", ""), limits("off", "off", json!({})));
    node.ask("DELETE", "/v1/targets/vm1", "");
    node.finish();
}

/// Sessions of one key have its rate together, those of another have theirs beside it.
#[test]
fn a_limit_of_a_key_is_its_own() {
    let scratch = Scratch::new();
    let options = ["--bind", "127.0.0.1", "--bandwidth-per-key", "2MiB/s"];
    let node = Node::start(program(), &scratch, "control", &options);
    let sinks = [0, 1]
        .map(|_| Sink::new(&Kind::Unix.endpoint(&scratch), &Authority::common().issue("node").server()));
    let (one, other) = (target(&node, "one", &sinks[0]), target(&node, "other", &sinks[1]));
    node.ask("PUT", "/v1/limits", r#"{"keys":{"other":"off"}}"#);
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..3 {
            let client = Peer::Plain(dial(&one));
            let server = sinks[0].accept();
            scope.spawn(move || transfer(&client, &server, 1, MIB));
        }
        let client = Peer::Plain(dial(&other));
        let server = sinks[1].accept();
        // far more than the others' limit, and no limit for it
        scope.spawn(move || transfer(&client, &server, 2, 200 * MIB));
    });
    assert_not_faster(3 * MIB, start.elapsed(), 2 * MIB, 3);
}
