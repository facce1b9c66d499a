//! Two nodes as machines see them: network namespaces, a link with a rate (tbf), and a link that goes
//! down for seconds. For root only; what it does is gone with the processes that hold the namespaces.

use std::thread;
use std::time::Duration;

use relay_conformance::relay::back_program;
use relay_conformance::{Authority, Kind, MIB, Namespace, Peer, Received, Relay, Scratch, Setup, Sink};
use relay_conformance::{expect, peer, receive, receive_all, send, send_all, sized, skipped, transfer};

const HERE: &str = "10.77.0.1";
const THERE: &str = "10.77.0.2";

/// Two nodes with a link between them, a relay on each, and the migration's ends outside.
struct Nodes {
    front: Relay,
    back: Relay,
    sink: Sink,
    target: Namespace,
    _source: Namespace,
    _scratch: Scratch,
}

impl Nodes {
    /// With a link of so many bits per second; `None`, with a loud line, where that can't be had.
    fn new(rate: &str, options: &[&str]) -> Option<Self> {
        match Self::linked(rate) {
            Ok((source, target)) => Some(Self::start(source, target, options)),
            Err(why) => {
                skipped(&format!("network namespaces: {why}"));
                None
            }
        }
    }

    fn linked(rate: &str) -> Result<(Namespace, Namespace), String> {
        if !rustix::process::geteuid().is_root() {
            return Err("not root".to_owned());
        }
        let (source, target) = (Namespace::new()?, Namespace::new()?);
        let [here, there] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];
        let id = target.id();
        source.run(&format!(
            "ip link add wire0 address {here} type veth peer name wire0 address {there} netns {id}"
        ))?;
        let ends = [(&source, HERE, THERE, there), (&target, THERE, HERE, here)];
        for (namespace, address, other, hardware) in ends {
            namespace.run(&format!("ip addr add {address}/24 dev wire0"))?;
            namespace.run("ip link set wire0 up")?;
            namespace
                .run(&format!("tc qdisc add dev wire0 root tbf rate {rate} burst 64kb latency 100ms"))?;
            // a link that is down shall lose packets, not answer "no route to host"
            namespace.run(&format!("ip neigh replace {other} lladdr {hardware} nud permanent dev wire0"))?;
        }
        Ok((source, target))
    }

    fn start(source: Namespace, target: Namespace, options: &[&str]) -> Self {
        let scratch = Scratch::new();
        let identity = Authority::common().issue("node");
        let files = identity.write(scratch.root());
        let sink = Sink::new(&Kind::Unix.endpoint(&scratch), &identity.server());
        let relay = |namespace: &Namespace, setup: Setup| {
            let [program, option] = namespace.enter();
            setup
                .wrapped(&[&program, &option])
                .tls(&files)
                .options(&["--peer", "cn:node"])
                .options(options)
                .start()
        };
        let back = Setup::new(&format!("tls:{THERE}:0"), &sink.at().to_string()).program(back_program());
        let back = relay(&target, back);
        let front = relay(&source, Setup::new(&scratch.unix("entry"), &back.at().to_string()));
        Self { front, back, sink, target, _source: source, _scratch: scratch }
    }

    fn client(&self) -> Peer {
        Peer::Plain(peer::dial(self.front.at()))
    }

    fn connect(&self) -> (Peer, Peer) {
        let client = self.client();
        (client, self.sink.accept())
    }

    /// Takes the link down, at its far end, or puts it back.
    fn link(&self, up: bool) {
        let state = if up { "up" } else { "down" };
        self.target.run(&format!("ip link set wire0 {state}")).expect("ip");
    }
}

#[test]
fn full_duplex_over_a_link_with_a_rate() {
    let Some(mut nodes) = Nodes::new("400mbit", &[]) else { return };
    let len = sized(4, 64) * MIB;
    let (client, server) = nodes.connect();
    thread::scope(|scope| {
        scope.spawn(|| send_all(&client, 1, len));
        scope.spawn(|| send_all(&server, 2, len));
        scope.spawn(|| receive_all(&server, 1, len));
        receive_all(&client, 2, len);
    });
    nodes.front.finish();
    nodes.back.finish();
}

#[test]
fn streams_survive_a_link_that_is_down_for_seconds() {
    let Some(mut nodes) = Nodes::new("200mbit", &[]) else { return };
    let (len, count) = (sized(4, 32) * MIB, 4);
    let streams: Vec<_> = (0..count).map(|_| nodes.connect()).collect();
    thread::scope(|scope| {
        for (seed, (client, server)) in (0..).zip(&streams) {
            scope.spawn(move || send_all(client, seed, len));
            scope.spawn(move || send_all(server, seed + 50, len));
            scope.spawn(move || receive_all(server, seed, len));
            scope.spawn(move || receive_all(client, seed + 50, len));
        }
        for _ in 0..sized(1, 3) {
            thread::sleep(Duration::from_millis(100));
            nodes.link(false);
            thread::sleep(Duration::from_secs(2));
            nodes.link(true);
        }
    });
    for relay in [&mut nodes.front, &mut nodes.back] {
        assert!(relay.log().ended(count).iter().all(|line| line.is_clean()));
        relay.finish();
    }
}

/// Seconds of bytes are in kernels and relays when the first signal comes.
#[test]
fn a_drain_waits_for_what_creeps_over_a_slow_link() {
    let Some(mut nodes) = Nodes::new("8mbit", &[]) else { return };
    let (client, server) = nodes.connect();
    send(&client, 1, MIB / 2).expect("taken");
    client.finish().expect("taken");
    server.finish().expect("taken");
    receive_all(&client, 0, 0);
    drop(client);
    nodes.front.drain();
    nodes.back.drain();
    receive_all(&server, 1, MIB / 2);
    assert_eq!(nodes.front.exit_code(), Some(0));
    assert_eq!(nodes.back.exit_code(), Some(0));
}

/// A client that leaves with something unread has not ended well, and yet what it sent before is
/// delivered: a reset that goes out at once would destroy it on the way.
#[test]
fn a_tear_comes_behind_what_creeps_over_a_slow_link() {
    let Some(nodes) = Nodes::new("8mbit", &[]) else { return };
    let (client, server) = nodes.connect();
    server.write_all(b"unread").expect("taken");
    expect_waiting(&client);
    send(&client, 2, MIB / 2).expect("taken");
    drop(client);
    let Received { count, .. } = receive(&server, 2);
    for relay in [&nodes.front, &nodes.back] {
        let ended = relay.log().ended(1).remove(0);
        assert_eq!(count, MIB / 2, "{}", ended.text);
        assert!(!ended.is_clean(), "{}", ended.text);
    }
}

/// Until something has come, without reading it.
fn expect_waiting(peer: &Peer) {
    let mut byte = [std::mem::MaybeUninit::uninit()];
    assert_eq!(peer::again(|| peer.socket().peek(&mut byte)).expect("a byte"), 1);
}

/// A node that can't be reached at first is reached when the link is there.
#[test]
fn a_dial_waits_for_a_link_within_its_time() {
    let Some(mut nodes) = Nodes::new("200mbit", &["--dial-timeout", "60s"]) else { return };
    nodes.link(false);
    let client = nodes.client();
    client.write_all(b"patience").expect("taken");
    thread::sleep(Duration::from_millis(1200));
    nodes.link(true);
    let server = nodes.sink.accept();
    expect(&server, b"patience");
    transfer(&server, &client, 1, MIB);
    drop((client, server));
    nodes.front.finish();
    nodes.back.finish();
}

#[test]
fn a_dial_over_a_dead_link_is_given_up_in_its_time() {
    let Some(nodes) = Nodes::new("200mbit", &["--dial-timeout", "1s"]) else { return };
    nodes.link(false);
    assert_eq!(receive(&nodes.client(), 0).count, 0);
    let ended = nodes.front.log().ended(1).remove(0);
    assert_eq!(ended.front_end(), "timeout-dial", "{}", ended.text);
}
