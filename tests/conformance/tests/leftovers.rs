//! What a relay leaves behind: nothing if it ends by itself, and nothing that stops the next one if it
//! is killed.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use relay_conformance::peer::dial;
use relay_conformance::relay::program;
use relay_conformance::{Authority, Endpoint, Kind, Peer, Relay, Road, Scratch, Setup, Sink};
use relay_conformance::{Rig, expect, receive, sized, skipped, transfer};
use rustix::process::{Pid, Signal, kill_process};

fn mode(at: &Endpoint) -> u32 {
    std::fs::symlink_metadata(at.path()).expect("a file").permissions().mode() & 0o777
}

#[test]
fn after_a_kill_the_next_one_listens_at_the_same_place_at_once() {
    for kind in [Kind::Unix, Kind::Abstract, Kind::Tcp, Kind::Tcp6, Kind::Tls] {
        let mut rig = Rig::new(Road::single(kind, Kind::Unix));
        let before = rig.scratch.names();
        for _ in 0..3 {
            // open, in the middle of a stream, half closed, and waiting to be accepted by the sink
            let sessions: Vec<_> = (0..3).map(|_| rig.connect()).collect();
            sessions[0].0.write_all(b"hello").expect("taken");
            expect(&sessions[0].1, b"hello");
            sessions[1].0.finish().expect("taken");
            let _waiting = rig.client();
            let at = rig.entry().clone();
            rig.relays[0].kill();
            for (client, server) in &sessions {
                let (client, server) = (receive(client, 0), receive(server, 0));
                assert_eq!((client.count, server.count), (0, 0));
            }
            // connections that were not accepted yet are gone with their relay
            let files = Authority::common().issue("node").write(rig.scratch.root());
            let setup = Setup::new(&at.to_string(), &rig.sink.at().to_string());
            let setup = if kind == Kind::Tls { setup.tls(&files) } else { setup };
            rig.relays[0] = setup.start();
            assert_eq!(rig.entry(), &at);
            assert_eq!(rig.scratch.names(), before, "the same files");
            let (client, server) = served(&rig);
            transfer(&client, &server, 1, 10_000);
            transfer(&server, &client, 2, 10_000);
        }
        let at = rig.entry().clone();
        let Rig { mut relays, scratch, .. } = rig;
        relays[0].finish();
        if let Endpoint::Unix(path) = &at {
            assert!(!path.exists());
        }
        assert!(scratch.names().len() <= before.len());
    }
}

/// A connection through the present relay. Its predecessor's may still wait at the sink.
fn served(rig: &Rig) -> (Peer, Peer) {
    let client = rig.client();
    client.write_all(b"new").expect("taken");
    loop {
        let server = rig.sink.accept();
        let mut word = [0; 3];
        if server.read(&mut word).expect("bytes or an end") > 0 {
            assert_eq!(&word, b"new");
            return (client, server);
        }
    }
}

/// The system calls that change what is in a directory, or who may use it. Not every architecture has
/// all of them.
const CHANGES: [&str; 21] = [
    "bind",
    "listen",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "mkdir",
    "mkdirat",
    "rmdir",
    "chmod",
    "fchmod",
    "fchmodat",
    "chown",
    "fchown",
    "lchown",
    "fchownat",
];

/// Killed before each of the system calls by which it makes, changes and removes files, from start to
/// end, beginning with a stale socket of a predecessor: the next one starts, and nothing but what it
/// made itself is there.
#[test]
fn killed_before_any_change_of_a_file_the_next_one_cleans_up() {
    if !Command::new("strace").args(["-o", "/dev/null", "true"]).status().is_ok_and(|done| done.success()) {
        return skipped("a kill before each change of a file: strace is not here, or not allowed");
    }
    let scratch = Scratch::new();
    let at = scratch.unix("entry");
    let mut kills = Vec::new();
    for call in CHANGES {
        for number in 1.. {
            drop(UnixListener::bind(scratch.path("entry")).expect("a stale socket"));
            if is_through(&scratch, &at, call, number) {
                break;
            }
            let mut next = Setup::new(&at, "unix:@nobody").start();
            assert_eq!(scratch.names(), ["entry"], "after a kill before {call}, the {number}th");
            assert_eq!(mode(next.at()), 0o600);
            next.finish();
            assert!(scratch.names().is_empty(), "{:?}", scratch.names());
            kills.push(call);
        }
    }
    // it binds, listens and removes its file, at least
    assert!(kills.len() >= 3 && kills.contains(&"bind") && kills.contains(&"listen"), "{kills:?}");
}

/// Whether a relay that is killed before its `number`th such call got through without it.
fn is_through(scratch: &Scratch, at: &str, call: &str, number: usize) -> bool {
    let (trace, inject) = (format!("trace=?{call}"), format!("inject=?{call}:signal=KILL:when={number}"));
    let mut relay = Setup::new(at, "unix:@nobody")
        .wrapped(&["strace", "-D", "-f", "-o", "/dev/null", "-e", &trace, "-e", &inject])
        .spawn();
    if !relay.listens_or_ends() {
        assert_eq!(relay.exit_code(), None, "killed, not failed");
        return false;
    }
    relay.drain();
    let through = relay.exit_code() == Some(0);
    assert!(!through || scratch.names().is_empty(), "{:?}", scratch.names());
    through
}

/// And at moments that nobody has chosen.
#[test]
fn killed_at_any_moment_the_next_one_cleans_up() {
    let scratch = Scratch::new();
    for round in 0..sized(30, 500) {
        let mut relay = Setup::new(&scratch.unix("entry"), "unix:@nobody").spawn();
        thread::sleep(Duration::from_micros(round * 397 % 12_000));
        relay.kill();
    }
    let mut last = Setup::new(&scratch.unix("entry"), "unix:@nobody").start();
    assert_eq!(scratch.names(), ["entry"]);
    last.finish();
    assert!(scratch.names().is_empty());
}

#[test]
fn a_socket_that_is_not_its_own_is_not_removed() {
    let scratch = Scratch::new();
    let mut relay = Setup::new(&scratch.unix("entry"), "unix:@nobody").start();
    std::fs::remove_file(scratch.path("entry")).expect("it is there");
    let theirs = UnixListener::bind(scratch.path("entry")).expect("free");
    relay.finish();
    let _client = dial(&Endpoint::Unix(scratch.path("entry")));
    theirs.accept().expect("theirs is still there");
}

#[test]
fn what_others_use_is_not_taken_from_them() {
    let scratch = Scratch::new();
    let at = scratch.unix("entry");
    let nobody = Authority::common().issue("nobody").server();
    let sink = Sink::new(&Kind::Unix.endpoint(&scratch), &nobody);
    let mut first = Setup::new(&at, &sink.at().to_string()).start();
    refused(Setup::new(&at, "unix:@nobody"));
    let client = Peer::Plain(dial(first.at()));
    let server = sink.accept();
    transfer(&client, &server, 1, 1000);
    sink.assert_untouched();
    drop((client, server));
    first.finish();

    std::fs::write(scratch.path("file"), "precious").expect("a file");
    std::fs::create_dir(scratch.path("directory")).expect("a directory");
    std::os::unix::fs::symlink(scratch.path("file"), scratch.path("link")).expect("a link");
    for name in ["file", "directory", "link"] {
        refused(Setup::new(&scratch.unix(name), "unix:@nobody"));
    }
    assert_eq!(std::fs::read(scratch.path("link")).expect("a file"), b"precious");
    assert!(scratch.path("directory").is_dir());

    let tcp = Sink::new(&Kind::Tcp.endpoint(&scratch), &nobody);
    refused(Setup::new(&tcp.at().to_string(), "unix:@nobody"));
}

/// Exit code 1 and a line that says which endpoint.
fn refused(setup: Setup) {
    let mut relay: Relay = setup.spawn();
    assert_eq!(relay.exit_code(), Some(1));
    assert!(relay.log().text().contains("cannot listen on"), "{}", relay.log().text());
}

/// Whoever handed it down goes on using it.
#[test]
fn an_inherited_socket_keeps_its_file() {
    let scratch = Scratch::new();
    let nobody = Authority::common().issue("nobody").server();
    let inherited = Sink::new(&Endpoint::Unix(scratch.path("entry")), &nobody);
    let mut relay = Setup::new("fd:one", "unix:@nobody").inherits(inherited.into_fd(), "one").start();
    assert_eq!(relay.at(), &Endpoint::Unix(scratch.path("entry")));
    relay.finish();
    assert_eq!(scratch.names(), ["entry"]);
}

#[test]
fn a_socket_has_the_mode_that_was_asked_for() {
    let scratch = Scratch::new();
    for (options, expected) in [(&[][..], 0o600), (&["--mode", "660"], 0o660), (&["--mode", "666"], 0o666)] {
        let relay = Setup::new(&scratch.unix("entry"), "unix:@nobody").options(options).start();
        assert_eq!(mode(relay.at()), expected);
    }
}

/// With ever more descriptors a start gets ever further before it fails. However far it came, its file is gone, and
/// it has not said that it listens unless it does.
#[test]
fn a_start_that_fails_for_want_of_descriptors_says_nothing_and_leaves_nothing() {
    let scratch = Scratch::new();
    let front = scratch.path("front.sock");
    let before = scratch.names();
    let (mut failed, mut listened) = (0, 0);
    for descriptors in 5..64 {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n $1; shift; exec \"$@\"", "sh", &descriptors.to_string()]);
        command.arg(program()).args(["forward", "--threads", "4", "--listen"]);
        command.arg(format!("unix:{}", front.display())).args(["--connect", "unix:/nonexistent"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("a shell");
        let mut said = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        out.read_line(&mut said).expect("standard output");
        if !said.is_empty() {
            assert!(said.starts_with("listening unix:"), "{said}");
            kill_process(Pid::from_child(&child), Signal::TERM).expect("our own child");
        }
        let done = child.wait_with_output().expect("its end");
        let log = String::from_utf8_lossy(&done.stderr);
        assert_eq!(scratch.names(), before, "{descriptors} descriptors: {log}");
        if said.is_empty() {
            failed += 1;
            assert!(!done.status.success(), "{descriptors} descriptors: {log}");
        } else {
            listened += 1;
            assert!(
                done.status.success(),
                "{descriptors} descriptors: it said that it listens, and then {log}"
            );
        }
        if listened >= 3 {
            break;
        }
    }
    assert!(failed >= 3 && listened >= 3, "{failed} starts failed, {listened} did not");
}
