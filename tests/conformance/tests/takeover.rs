//! An upgrade under load: a new process takes over what listens while clients go on connecting. Nobody is
//! refused, no byte is lost, and what was open goes on to its end in the old one.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use relay_conformance::peer::try_dial;
use relay_conformance::relay::{back_program, program};
use relay_conformance::{Authority, Endpoint, Kind, MIB, Node, PATIENCE, Peer, Scratch, Sink};
use relay_conformance::{expect, sized, transfer};
use rustix::net::sockopt::socket_peercred;
use rustix::process::Signal;
use serde_json::json;

/// A node with a target and a source that leads to it, and an echo behind.
struct Stage {
    scratch: Scratch,
    sink: Sink,
    /// Of the target, and the file of the source.
    entries: [Endpoint; 2],
}

/// What every node here is told.
fn options(scratch: &Scratch) -> Vec<String> {
    let state = scratch.path("state").display().to_string();
    let metrics = scratch.unix("metrics");
    ["--bind", "127.0.0.1", "--state-dir", &state, "--metrics", &metrics].map(str::to_owned).to_vec()
}

/// The process that answers for metrics, once that is somebody's.
fn wait_for_metrics_of(node: &Node, scratch: &Scratch) {
    let start = Instant::now();
    let peer = || socket_peercred(UnixStream::connect(scratch.path("metrics")).ok()?).ok();
    while peer().is_none_or(|peer| peer.pid != node.pid()) {
        assert!(start.elapsed() < PATIENCE, "nobody answers for metrics: {}", node.logged());
        thread::sleep(Duration::from_millis(20));
    }
}

fn start(program: PathBuf, scratch: &Scratch, more: &[&str]) -> Node {
    let options = options(scratch);
    let options: Vec<_> = options.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Node::start(program, scratch, "control", &options)
}

/// In the place of the one that listens at the control socket.
fn succeed(program: PathBuf, scratch: &Scratch) -> Node {
    start(program, scratch, &["--takeover", &format!("unix:{}", scratch.path("control").display())])
}

impl Stage {
    fn new(program: PathBuf) -> (Self, Node) {
        Self::with(program, &[])
    }

    /// The same with more options for the node.
    fn with(program: PathBuf, more: &[&str]) -> (Self, Node) {
        let scratch = Scratch::new();
        let node = start(program, &scratch, more);
        let sink = Sink::new(&Kind::Unix.endpoint(&scratch), &Authority::common().issue("node").server());
        let body = json!({"backends": {"0": sink.at().path()}}).to_string();
        let target = node.ask("PUT", "/v1/targets/vm1", &body);
        let port = target["ports"].as_object().and_then(|ports| ports.keys().next()).expect("a port").clone();
        let body = json!({"target": "127.0.0.1", "ports": target["ports"], "base_dir": scratch.root()});
        let source = node.ask("PUT", "/v1/sources/vm1", &body.to_string());
        let file = source["files"][0].as_str().expect("a file").to_owned();
        let entries = [format!("tcp:127.0.0.1:{port}"), format!("unix:{file}")];
        let entries = entries.map(|entry| Endpoint::parse(&entry));
        (Self { scratch, sink, entries }, node)
    }

    /// A connection by one of the entries, and its other end.
    fn connect(&self, entry: usize) -> (Peer, Peer) {
        (Peer::Plain(try_dial(&self.entries[entry]).expect("nobody is refused")), self.sink.accept())
    }
}

/// Serves everybody until it is over: what comes goes back.
fn echo(sink: &Sink, over: &AtomicBool) {
    thread::scope(|scope| {
        loop {
            let peer = sink.accept();
            if over.load(Ordering::Relaxed) {
                return;
            }
            scope.spawn(move || {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(count @ 1..) = peer.read(&mut buffer) {
                    peer.write_all(&buffer[..count]).expect("taken");
                }
                peer.finish().expect("taken");
            });
        }
    });
}

/// Clients come one after the other, each with some bytes that have to come back.
fn come_and_go(entry: &Endpoint, over: &AtomicBool, served: &AtomicUsize) {
    let mut seed = 1;
    while !over.load(Ordering::Relaxed) {
        let peer = Peer::Plain(try_dial(entry).expect("nobody is refused"));
        transfer(&peer, &peer, seed, 100_000);
        served.fetch_add(1, Ordering::Relaxed);
        seed += 1;
    }
}

#[test]
fn an_upgrade_under_load_refuses_nobody_and_loses_nothing() {
    let (stage, mut node) = Stage::new(program());
    let (over, no_more) = (AtomicBool::new(false), AtomicBool::new(false));
    let served = AtomicUsize::new(0);
    let wait = |more: usize| {
        let (start, until) = (Instant::now(), served.load(Ordering::Relaxed) + more);
        while served.load(Ordering::Relaxed) < until {
            assert!(start.elapsed() < PATIENCE, "clients are not served");
            thread::sleep(Duration::from_millis(5));
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| echo(&stage.sink, &no_more));
        let clients: Vec<_> = stage
            .entries
            .iter()
            .chain(&stage.entries)
            .map(|entry| scope.spawn(|| come_and_go(entry, &over, &served)))
            .collect();
        wait(10);
        // To the other program and back, while they come.
        for round in 0..sized(3, 20) {
            let next = if round % 2 == 0 { back_program() } else { program() };
            let successor = succeed(next, &stage.scratch);
            let mut former = std::mem::replace(&mut node, successor);
            wait(10);
            assert_eq!(former.exit_code(), Some(0), "{}", former.logged());
            assert!(former.logged().contains("another process has taken over"), "{}", former.logged());
            let targets = node.ask("GET", "/v1/targets", "");
            assert_eq!(targets["targets"]["vm1"]["ports"].as_object().map(|ports| ports.len()), Some(1));
        }
        over.store(true, Ordering::Relaxed);
        clients.into_iter().for_each(|client| client.join().expect("served to the last"));
        no_more.store(true, Ordering::Relaxed);
        // who waits for the next one has one more
        let _ = UnixStream::connect(stage.sink.at().path()).expect("the sink");
    });
    for name in ["targets", "sources"] {
        node.ask("DELETE", &format!("/v1/{name}/vm1"), "");
    }
    node.finish();
    for file in [stage.entries[1].path().to_owned(), stage.scratch.path("control")] {
        assert!(!file.exists(), "{} is left behind", file.display());
    }
}

#[test]
fn what_is_open_goes_on_in_the_old_one_which_then_ends() {
    let (stage, mut former) = Stage::new(program());
    let old = [0, 1].map(|entry| stage.connect(entry));
    for (number, (client, server)) in old.iter().enumerate() {
        client.write_all(&[number as u8]).expect("taken");
        expect(server, &[number as u8]);
    }
    wait_for_metrics_of(&former, &stage.scratch);
    let mut node = succeed(back_program(), &stage.scratch);
    former.wait_logged("another process has taken over");
    wait_for_metrics_of(&node, &stage.scratch);
    // New ones are the new one's, and the old one's are its own.
    let new = [0, 1].map(|entry| stage.connect(entry));
    let counted = |node: &Node| node.ask("GET", "/v1/sessions", "")["sessions"].as_array().map(Vec::len);
    assert_eq!(counted(&node), Some(3), "one by the port, and one by the file, which leads to the port");
    assert!(!former.has_ended());
    for (client, server) in old.into_iter().chain(new) {
        transfer(&client, &server, 3, 2 * MIB);
        transfer(&server, &client, 4, MIB);
    }
    assert_eq!(former.exit_code(), Some(0), "{}", former.logged());
    // Ports and state are the new one's: a restart listens there again.
    node.signal(Signal::KILL);
    assert_eq!(node.exit_code(), None);
    let mut node = start(program(), &stage.scratch, &[]);
    node.wait_logged("target restored");
    let (client, server) = stage.connect(0);
    transfer(&client, &server, 5, MIB);
    transfer(&server, &client, 6, MIB);
    for name in ["targets", "sources"] {
        node.ask("DELETE", &format!("/v1/{name}/vm1"), "");
    }
    node.finish();
}

/// Somebody is silent, and does not go.
#[test]
fn the_old_one_does_not_stay_for_ever() {
    let (stage, mut former) = Stage::with(program(), &["--retire-timeout", "2s"]);
    let (client, server) = stage.connect(0);
    client.write_all(b"here").expect("taken");
    expect(&server, b"here");
    wait_for_metrics_of(&former, &stage.scratch);
    let mut node = succeed(back_program(), &stage.scratch);
    former.wait_logged("another process has taken over");
    // For a moment both accept.
    let (new_client, new_server) = loop {
        let pair = stage.connect(0);
        if node.ask("GET", "/v1/sessions", "")["sessions"].as_array().is_some_and(|all| !all.is_empty()) {
            break pair;
        }
    };
    assert!(client.read(&mut [0]).is_err(), "cut, and not as if it were over");
    assert_eq!(former.exit_code(), Some(3), "{}", former.logged());
    assert!(former.logged().contains("timeout-drain"), "{}", former.logged());
    // Only the old one's.
    transfer(&new_client, &new_server, 1, MIB);
    transfer(&new_server, &new_client, 2, MIB);
    for name in ["targets", "sources"] {
        node.ask("DELETE", &format!("/v1/{name}/vm1"), "");
    }
    node.finish();
}

/// A successor that dies, that says nonsense, that is not allowed to: the old one goes on as if nobody had come.
#[test]
fn without_a_confirmation_nothing_changes() {
    use std::io::{Read, Write};
    let (stage, mut node) = Stage::new(program());
    for last_words in [&b""[..], b"no\n"] {
        let mut asking = UnixStream::connect(stage.scratch.path("control")).expect("the control socket");
        asking
            .write_all(b"POST /v1/takeover HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
            .expect("sent");
        let mut begin = [0; 100];
        asking.read_exact(&mut begin).expect("an answer");
        assert!(begin.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&begin));
        // Meanwhile nothing may change, and everything else is as ever.
        let (status, why) = node.call("DELETE", "/v1/targets/vm1", "");
        assert!(
            status == 503 && why["error"].as_str().is_some_and(|why| why.contains("taking over")),
            "{why}"
        );
        assert_eq!(node.call("GET", "/readyz", "").0, 200);
        let (client, server) = stage.connect(1);
        transfer(&client, &server, 1, MIB);
        asking.write_all(last_words).expect("sent");
        drop(asking);
        let start = Instant::now();
        while node.call("PUT", "/v1/limits", r#"{"bandwidth":"off"}"#).0 != 200 {
            assert!(start.elapsed() < PATIENCE, "it goes on: {}", node.logged());
            thread::sleep(Duration::from_millis(5));
        }
        let (client, server) = stage.connect(0);
        transfer(&client, &server, 2, MIB);
    }
    // Nobody there to take over from, or somebody else.
    let mut lost = Node::spawn(
        program(),
        &stage.scratch,
        "other",
        &["--takeover", &format!("unix:{}", stage.scratch.path("nobody").display())],
    );
    assert_eq!(lost.exit_code(), Some(1));
    assert!(lost.logged().contains("cannot take over from"), "{}", lost.logged());
    for name in ["targets", "sources"] {
        node.ask("DELETE", &format!("/v1/{name}/vm1"), "");
    }
    node.finish();
}
