//! The sandbox of the program as it ships: every thread is in it, what the command line speaks of goes on working in it,
//! and what it does not speak of is out of reach. (From inside: `relay-node/src/sandbox/tests.rs`.)

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::process::Signal;
use serde_json::json;

use crate::api::{call, ok};
use crate::pki::{Leaf, Pki};
use crate::support::{Backend, Node, Scratch, echo, eventually};

/// Of each thread of a process: its filters' mode, and whether it can gain rights.
fn threads(process: u32) -> Vec<(String, String)> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("threads");
    let status = threads.map(|entry| fs::read_to_string(entry.expect("a thread").path().join("status")));
    let of = |status: &str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        line.trim().to_owned()
    };
    // A thread may end while it is looked at.
    status.flatten().map(|status| (of(&status, "Seccomp:"), of(&status, "NoNewPrivs:"))).collect()
}

/// The log line that tells what is on.
fn told(log: &str) -> &str {
    log.lines().find(|line| line.contains(" INFO sandbox ")).unwrap_or_else(|| panic!("no line: {log}"))
}

/// Landlock is on, or the kernel has none: then there is nothing to be seen of it.
fn has_landlock(line: &str) -> bool {
    let has = line.contains("landlock=\"on");
    assert!(has || line.contains("the kernel has none") || line.contains("lsm="), "{line}");
    if !has {
        eprintln!("SKIPPED: {line}");
    }
    has
}

#[test]
fn every_thread_is_in_it_unless_it_is_not_wished() {
    let (dir, pki) = (Scratch::new(), Pki::new());
    let files = pki.issue("node", &Leaf::source());
    let (front, control) = (dir.path("front"), dir.path("control"));
    for (command, option) in [
        (
            format!(
                "forward --listen unix:{front} --connect tls:localhost:1 --metrics unix:{front}.m {files}"
            ),
            "",
        ),
        (format!("node --control unix:{control} --state-dir {control}.d {files}"), ""),
        (format!("forward --listen unix:{front} --connect tcp:localhost:1"), " --no-sandbox"),
    ] {
        let mut node = Node::start(&format!("{command}{option} --threads 3"));
        eventually("it listens", || node.line().starts_with("listening ").then_some(()));
        // the loops come last
        let all = eventually("its threads", || Some(threads(node.id())).filter(|all| all.len() >= 4));
        let expected = if option.is_empty() { ("2", "1") } else { ("0", "0") };
        for (filter, gains_nothing) in all {
            assert_eq!((filter.as_str(), gains_nothing.as_str()), expected, "{command}");
        }
        node.signal(Signal::TERM);
        let (status, log) = node.end();
        assert!(status.success(), "{log}");
        let line = told(&log);
        if option.is_empty() {
            assert!(line.contains("seccomp=on"), "{line}");
        } else {
            assert!(line.contains(r#"landlock="off: --no-sandbox" seccomp="off: --no-sandbox""#), "{line}");
        }
    }
}

/// What is asked for at SIGHUP is somewhere else by then: refused, with the reason; what was loaded stays.
#[test]
fn certificates_that_lead_elsewhere_are_not_read() {
    let (dir, pki) = (Scratch::new(), Pki::new());
    pki.issue("node", &Leaf::source());
    fs::create_dir(dir.path("tls")).expect("mkdir");
    let at = |name: &str| dir.path(&format!("tls/{name}"));
    for (from, to) in [("node.crt", "tls.crt"), ("node.key", "tls.key"), ("ca", "ca.crt")] {
        fs::copy(pki.dir.path(from), at(to)).expect("copy");
    }
    let (front, options) = (
        dir.path("front"),
        format!("--tls-cert {} --tls-key {} --tls-ca {}", at("tls.crt"), at("tls.key"), at("ca.crt")),
    );
    let mut node = Node::start(&format!("forward --listen unix:{front} --connect tls:127.0.0.1:1 {options}"));
    assert_eq!(node.line(), format!("listening unix:{front}"));
    // The very same certificate, outside of what the command line spoke of.
    symlink(pki.dir.path("node.crt"), at("link")).expect("a link");
    fs::rename(at("link"), at("tls.crt")).expect("rename");
    node.signal(Signal::HUP);
    std::thread::sleep(std::time::Duration::from_millis(500));
    node.signal(Signal::TERM);
    let (status, log) = node.end();
    assert!(status.success(), "{log}");
    if has_landlock(told(&log)) {
        let line = log.lines().find(|line| line.contains("not reloaded")).unwrap_or_else(|| panic!("{log}"));
        assert!(line.contains("--no-sandbox"), "{line}");
        assert!(line.contains("Permission denied"), "{line}");
    }
}

/// Names, sockets that requests name, state, metrics: inside. And what --socket-dir does not allow is refused in words.
#[test]
fn a_daemon_within_its_directories() {
    let dir = Scratch::new();
    for name in ["sockets", "outside", "control"] {
        fs::create_dir(dir.path(name)).expect("mkdir");
    }
    let (control, backend) = (dir.path("control/sock"), dir.path("sockets/backend"));
    let _backend = Backend::echo(&backend);
    let mut node = Node::start(&format!(
        "node --control unix:{control} --bind 127.0.0.1 --state-dir {} --socket-dir {} --metrics unix:{} --plain",
        dir.path("state"),
        dir.path("sockets"),
        dir.path("control/metrics"),
    ));
    eventually("it listens", || node.line().starts_with("listening ").then_some(()));
    let target = ok(&control, "PUT", "/v1/targets/vm1", &json!({ "backends": { "0": backend } }).to_string());
    let source = |base: &str| {
        let body = json!({ "target": "localhost", "ports": target["ports"], "base_dir": dir.path(base) });
        call(&control, "PUT", "/v1/sources/vm1", &body.to_string())
    };
    let (status, answer) = source("outside");
    assert_eq!(status, 400, "{answer}");
    assert!(answer.contains("is outside of what --socket-dir allows"), "{answer}");
    let (status, answer) = source("sockets");
    assert_eq!(status, 200, "{answer}");
    let front = dir.path("sockets/migrationproxy/vm1-source.sock");
    assert_eq!(echo(&front).as_deref(), Some("hello"));
    let outside = json!({ "backends": { "0": dir.path("outside/x") } }).to_string();
    assert_eq!(call(&control, "PUT", "/v1/targets/vm2", &outside).0, 400);
    assert!(Path::new(&dir.path("state/source-vm1.json")).exists());
    for of in [&control, &dir.path("control/metrics")] {
        let (status, page) = call(of, "GET", "/metrics", "");
        assert!(
            status == 200
                && page.contains("\nprocess_open_fds ")
                && page.contains("\nprocess_resident_memory_bytes "),
            "{page}"
        );
    }
    ok(&control, "DELETE", "/v1/sources/vm1", "");
    ok(&control, "DELETE", "/v1/targets/vm1", "");
    assert!(!Path::new(&front).exists(), "its file is removed");
    node.signal(Signal::TERM);
    let (status, log) = node.end();
    assert!(status.success(), "{log}");
    has_landlock(told(&log));
}

/// A daemon that could look into pods must be able to, unless it was told where sockets are.
#[test]
fn why_landlock_is_off_is_said() {
    let dir = Scratch::new();
    let (front, own) = (dir.path("front"), format!("/proc/{}/root{}", std::process::id(), dir.path("front")));
    let mut node = Node::start(&format!("forward --listen unix:{own} --connect unix:{front}.back"));
    assert_eq!(node.line(), format!("listening unix:{own}"));
    node.signal(Signal::TERM);
    let (_, log) = node.end();
    let line = told(&log);
    assert!(
        line.contains(&format!("landlock=\"off: --listen {own} leads through another process' root")),
        "{line}"
    );
    assert!(line.contains("seccomp=on"), "{line}");
}
