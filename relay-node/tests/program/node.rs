//! `node`: the daemon, through its control API.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::api::{call, connect, ok, parse};
use crate::pki::{Leaf, Pki};
use crate::support::{Backend, Node, Scratch, echo, eventually, program, run, text};

/// A daemon, and where its control API is.
pub(crate) fn start(dir: &Scratch, options: &str) -> (Node, String) {
    let control = dir.path("control");
    let mut node = Node::start(&format!("node --control unix:{control} {options}"));
    assert_eq!(node.line(), format!("listening unix:{control}"));
    (node, control)
}

fn port(answer: &Value, channel: u64) -> String {
    let ports = answer["ports"].as_object().expect("ports");
    ports.iter().find(|(_, of)| **of == channel).unwrap_or_else(|| panic!("{answer}")).0.clone()
}

pub(crate) fn put_target(control: &str, key: &str, backend: &str) -> Value {
    ok(control, "PUT", &format!("/v1/targets/{key}"), &json!({ "backends": { "0": backend } }).to_string())
}

pub(crate) fn put_source(control: &str, key: &str, target: &Value, base: &str) -> Value {
    let body = json!({ "target": target["address"], "ports": target["ports"], "base_dir": base });
    ok(control, "PUT", &format!("/v1/sources/{key}"), &body.to_string())
}

/// Both sides on one daemon, three channels, mutual TLS; everything is seen, counted and taken away.
#[test]
fn a_migration_through_the_control_api() {
    let (dir, pki) = (Scratch::new(), Pki::new());
    let both = Leaf { of_loopback: true, ..Leaf::source() };
    let both = pki.issue_for_both("both", &both);
    let backends = ["rpc", "ram", "disk"].map(|name| Backend::echo(&dir.path(name)));
    let (node, control) = start(&dir, &format!("--bind 127.0.0.1 {both}"));
    let body =
        json!({ "backends": { "0": dir.path("rpc"), "49152": dir.path("ram"), "49153": dir.path("disk") } });
    let target = ok(&control, "PUT", "/v1/targets/vm1", &body.to_string());
    assert_eq!(target["address"], "127.0.0.1");
    assert_eq!(
        ok(&control, "PUT", "/v1/targets/vm1", &body.to_string()),
        target,
        "the same, and the same ports"
    );
    let source = put_source(&control, "vm1", &target, &dir.path(""));
    let files: Vec<String> = serde_json::from_value(source["files"].clone()).expect("files");
    assert_eq!(files.len(), 3);
    for (file, backend) in files.iter().zip(&backends) {
        assert_eq!((echo(file).as_deref(), backend.touched()), (Some("hello"), 1));
    }

    let held = UnixStream::connect(&files[1]).expect("connect");
    (&held).write_all(b"hello").expect("sent");
    let sessions = eventually("both sessions of it are seen", || {
        let sessions =
            ok(&control, "GET", "/v1/sessions", "")["sessions"].as_array().expect("a list").clone();
        // Those of before, of other channels, may be on their way out.
        let is_open = |session: &Value| {
            session["channel"] == 49152 && session["stage"] == "open" && session["bytes_forward"] == 5
        };
        let open: Vec<_> = sessions.into_iter().filter(is_open).collect();
        (open.len() == 2).then_some(open)
    });
    for session in &sessions {
        assert_eq!(
            (&session["key"], &session["channel"], &session["stage"]),
            (&json!("vm1"), &json!(49152), &json!("open"))
        );
        assert_eq!(session["identity"], "cn:the-source,ip:127.0.0.1", "{session}");
    }
    let called = sessions[0]["tls_session"].as_str().expect("an id").to_owned();
    assert_eq!(
        (sessions[1]["tls_session"].as_str(), called.len()),
        (Some(&*called), 32),
        "the same at both ends"
    );
    let metrics = call(&control, "GET", "/metrics", "").1;
    for line in [
        "relay_migrations{side=\"source\"} 1",
        "relay_listeners 6",
        "relay_sessions{side=\"target\",channel=\"49152\",stage=\"open\"} 1",
        "relay_sessions_accepted_total{side=\"target\",channel=\"49152\"} 2",
        "relay_delivered_bytes_total{side=\"source\",channel=\"0\",direction=\"backward\"} 5",
        "relay_sessions_ended_total{side=\"source\",channel=\"0\",result=\"clean\"} 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
    }

    // without listeners the session goes on, until it is ended by request
    assert_eq!(ok(&control, "DELETE", "/v1/sources/vm1", "")["existed"], true);
    eventually("the files are gone", || files.iter().all(|file| !Path::new(file).exists()).then_some(()));
    (&held).write_all(b" again").expect("sent");
    let id = sessions[0]["id"].as_u64().expect("a number");
    ok(&control, "DELETE", &format!("/v1/sessions/{id}"), "");
    let mut rest = Vec::new();
    held.set_read_timeout(Some(Duration::from_secs(60))).expect("option");
    let _ = (&held).read_to_end(&mut rest);
    assert_eq!(ok(&control, "DELETE", "/v1/targets/vm1", "")["existed"], true);
    assert_eq!(ok(&control, "DELETE", "/v1/targets/vm1", "")["existed"], false);
    eventually("nothing is left", || {
        let sessions = ok(&control, "GET", "/v1/sessions", "");
        sessions["sessions"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
    node.signal(Signal::TERM);
    let (status, log) = node.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!Path::new(&control).exists() && log.contains("PUT /v1/targets/vm1"), "{log}");
    for field in ["front_session", "back_session"] {
        let of_session = log.lines().filter(|line| line.contains(&format!("{field}={called}")));
        assert_eq!(of_session.count(), 1, "one line of each side has it: {log}");
    }
}

/// A backend, an address and an owner may change while a listener stays where it is.
#[test]
fn what_changes_takes_effect_for_new_connections_and_ports_stay() {
    let dir = Scratch::new();
    let (one, two) = (Backend::echo(&dir.path("one")), Backend::echo(&dir.path("two")));
    let (_node, control) = start(&dir, "--plain --bind 127.0.0.1");
    let before = put_target(&control, "k", &dir.path("one"));
    let source = put_source(&control, "k", &before, &dir.path(""));
    let file = source["files"][0].as_str().expect("a file").to_owned();
    assert_eq!(echo(&file).as_deref(), Some("hello"));
    let after = put_target(&control, "k", &dir.path("two"));
    assert_eq!(before, after);
    assert_eq!(echo(&file).as_deref(), Some("hello"));
    assert_eq!((one.touched(), two.touched()), (1, 1));
    if fs::metadata(&file).expect("stat").uid() == 0 {
        let inode = fs::metadata(&file).expect("stat").ino();
        let body = json!({ "target": "127.0.0.1", "ports": before["ports"], "base_dir": dir.path(""), "owner": { "uid": 107, "gid": 108 } });
        ok(&control, "PUT", "/v1/sources/k", &body.to_string());
        let found = fs::metadata(&file).expect("stat");
        assert_eq!((found.uid(), found.gid(), found.ino()), (107, 108, inode), "the same socket");
    }
}

#[test]
fn what_is_wrong_is_refused_with_its_status_and_a_sentence() {
    let dir = Scratch::new();
    let (node, control) = start(&dir, "--plain --bind 127.0.0.1 --port-range 1-1");
    for (method, path, body, status, says) in [
        ("PUT", "/v1/targets/k", "{", 400, "can't be read"),
        ("PUT", "/v1/targets/k", r#"{"backends":{"0":"/a"},"x":1}"#, 400, "unknown field"),
        ("PUT", "/v1/targets/k", r#"{"backends":"/a"}"#, 400, "invalid type"),
        ("PATCH", "/v1/targets/k", "", 405, "use PUT, GET or DELETE"),
        ("GET", "/v1/targets/k", "", 404, "there is no target k here"),
        ("GET", "/v2", "", 404, "there are /v1/targets"),
        ("DELETE", "/v1/sessions/7", "", 404, "no session 7"),
        (
            "PUT",
            "/v1/sources/k",
            r#"{"target":"10.0.0.1","ports":{"1":0},"base_dir":"/nonexistent"}"#,
            422,
            "the base directory /nonexistent does not exist; make it",
        ),
    ] {
        let (found, answer) = call(&control, method, path, body);
        assert_eq!(found, status, "{method} {path}: {answer}");
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert!(answer["error"].as_str().is_some_and(|error| error.contains(says)), "{answer}");
    }
    // what is wrong here is the operator's to mend, and in words
    fs::write(dir.path("file"), "").expect("write");
    fs::create_dir_all(dir.path("taken/migrationproxy")).expect("mkdir");
    fs::write(dir.path("taken/migrationproxy/k-source.sock"), "precious").expect("write");
    fs::create_dir(dir.path("full")).expect("mkdir");
    fs::write(dir.path("full/migrationproxy"), "precious").expect("write");
    for (base, status, says) in [
        ("file", 422, "is not a directory"),
        ("taken", 409, "a file that is no socket is there; it was left alone"),
        ("full", 409, "full/migrationproxy is there and no directory"),
    ] {
        let body = json!({ "target": "10.0.0.1", "ports": { "1": 0 }, "base_dir": dir.path(base) });
        let (found, answer) = call(&control, "PUT", "/v1/sources/k", &body.to_string());
        assert_eq!(found, status, "{answer}");
        assert!(answer.contains(says) && !answer.contains("os error"), "{answer}");
    }
    let (status, answer) = call(&control, "PUT", "/v1/targets/k", &"x".repeat((64 << 10) + 1));
    assert_eq!(status, 413, "{answer}");
    assert_eq!(call(&control, "GET", "/healthz", ""), (200, "alive\n".to_owned()));
    node.signal(Signal::TERM);
    let (_, log) = node.end();
    // each with its reason, and looking around is nobody's business
    for says in ["unknown field `x`", "/nonexistent does not exist", "longer than 65536 bytes"] {
        let found = log.lines().find(|line| line.contains(says)).unwrap_or_else(|| panic!("{says}: {log}"));
        assert!(found.contains("refused") && found.contains("status=") && found.contains("uid="), "{found}");
    }
    assert!(!log.contains("GET /healthz"), "{log}");
}

/// Those who say nothing, or never take their answers, hold nobody up and are let go.
#[test]
fn silent_and_slow_clients_are_bounded_and_block_nobody() {
    let dir = Scratch::new();
    let (_node, control) = start(&dir, "--plain");
    let silent: Vec<_> = (0..200).map(|_| connect(&control)).collect();
    let mut slow: Vec<_> = (0..10).map(|_| connect(&control)).collect();
    for stream in &mut slow {
        stream.write_all(b"PUT /v1/targets/k HTTP/1.1\r\ncontent-length: 9999\r\n\r\n{").expect("sent");
    }
    assert_eq!(call(&control, "GET", "/readyz", ""), (200, "ready\n".to_owned()));
    // one whose request is not complete in time is told so
    let mut last = slow.pop().expect("one");
    let mut answer = String::new();
    last.read_to_string(&mut answer).expect("an answer");
    assert_eq!(parse(&answer).0, 408);
    let mut deaf = connect(&control);
    for _ in 0..2000 {
        if deaf.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").is_err() {
            break;
        }
        deaf.set_write_timeout(Some(Duration::from_millis(1))).expect("option");
    }
    assert_eq!(call(&control, "GET", "/readyz", ""), (200, "ready\n".to_owned()));
    drop(silent);
}

#[test]
fn a_drain_takes_nothing_new_and_waits_for_what_is_there() {
    let dir = Scratch::new();
    let _backend = Backend::echo(&dir.path("backend"));
    let (node, control) = start(&dir, "--plain --bind 127.0.0.1");
    let target = put_target(&control, "k", &dir.path("backend"));
    let source = put_source(&control, "k", &target, &dir.path(""));
    let file = source["files"][0].as_str().expect("a file").to_owned();
    let held = UnixStream::connect(&file).expect("connect");
    node.signal(Signal::TERM);
    eventually("not ready any more", || (call(&control, "GET", "/readyz", "").0 == 503).then_some(()));
    let (status, answer) = call(&control, "PUT", "/v1/targets/new", r#"{"backends":{"0":"/a"}}"#);
    assert_eq!(status, 503);
    assert!(answer.contains("unable to process new migration connections during virt-handler shutdown"));
    // what is there goes on: a migration under way makes more connections
    assert_eq!(echo(&file).as_deref(), Some("hello"));
    let left = ok(&control, "POST", "/v1/drain", "");
    assert_eq!((&left["migrations"], &left["listeners"]), (&json!(2), &json!(2)));
    ok(&control, "DELETE", "/v1/sources/k", "");
    ok(&control, "DELETE", "/v1/targets/k", "");
    drop(held);
    let (status, log) = node.end();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn a_drains_deadline_cuts_what_is_left() {
    let dir = Scratch::new();
    let _backend = Backend::echo(&dir.path("backend"));
    let (node, control) = start(&dir, "--plain --bind 127.0.0.1 --drain-timeout 300ms");
    let target = put_target(&control, "k", &dir.path("backend"));
    let source = put_source(&control, "k", &target, &dir.path(""));
    let file = source["files"][0].as_str().expect("a file").to_owned();
    let held = UnixStream::connect(&file).expect("connect");
    eventually("both sessions are open", || {
        let sessions = ok(&control, "GET", "/v1/sessions", "");
        let sessions = sessions["sessions"].as_array().expect("a list").clone();
        (sessions.iter().filter(|session| session["stage"] == "open").count() == 2).then_some(())
    });
    node.signal(Signal::TERM);
    let (status, log) = node.end();
    assert_eq!(status.code(), Some(3), "{log}");
    assert!(!Path::new(&file).exists());
    drop(held);
}

#[test]
fn a_lease_frees_what_nobody_renews_and_not_what_is_used() {
    let dir = Scratch::new();
    let _backend = Backend::echo(&dir.path("backend"));
    let (_node, control) = start(&dir, "--plain --bind 127.0.0.1");
    let body = json!({ "backends": { "0": dir.path("backend") }, "lease_s": 1 }).to_string();
    let target = ok(&control, "PUT", "/v1/targets/used", &body);
    let held = std::net::TcpStream::connect(format!("127.0.0.1:{}", port(&target, 0))).expect("connect");
    ok(&control, "PUT", "/v1/targets/unused", &body);
    eventually("one is gone", || (call(&control, "GET", "/v1/targets/unused", "").0 == 404).then_some(()));
    assert_eq!(call(&control, "GET", "/v1/targets/used", "").0, 200);
    drop(held);
    eventually("the other, too", || (call(&control, "GET", "/v1/targets/used", "").0 == 404).then_some(()));
}

#[test]
fn thousands_of_keys() {
    let dir = Scratch::new();
    let (node, control) = start(&dir, "--plain --bind 127.0.0.1");
    let mut stream = connect(&control);
    let count = 1200;
    for number in 0..count {
        let body = r#"{"backends":{"0":"/none"},"lease_s":3600}"#;
        let length = body.len();
        write!(
            stream,
            "PUT /v1/targets/k{number} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .expect("sent");
        let mut answer = [0; 4096];
        let length = stream.read(&mut answer).expect("an answer");
        assert!(answer[..length].starts_with(b"HTTP/1.1 200"), "{number}: {}", text(&answer[..length]));
    }
    let all = ok(&control, "GET", "/v1/targets", "");
    assert_eq!(all["targets"].as_object().expect("targets").len(), count);
    for number in 0..count {
        ok(&control, "DELETE", &format!("/v1/targets/k{number}"), "");
    }
    node.signal(Signal::TERM);
    let (status, log) = node.end();
    assert_eq!(status.code(), Some(0), "{}", log.lines().last().unwrap_or_default());
}

/// By the kernel's word, not by the file's mode.
#[test]
fn only_who_is_allowed_may_use_it() {
    let dir = Scratch::new();
    let (_node, control) = start(&dir, "--plain --control-allow uid:107 --control-allow gid:108");
    assert_eq!(fs::metadata(&control).expect("stat").permissions().mode() & 0o777, 0o666);
    if !rustix::process::geteuid().is_root() {
        eprintln!("!!! SKIPPED: other users: not root");
        return;
    }
    fs::set_permissions(dir.path(""), fs::Permissions::from_mode(0o755)).expect("chmod");
    let ask = |uid: u32, gid: u32| {
        let mut command = std::process::Command::new("setpriv");
        command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()]);
        command.arg(program().get_program()).args(["status", "--control", &format!("unix:{control}")]);
        let output = command.output().ok()?;
        Some((output.status.code()?, text(&output.stderr)))
    };
    if ask(0, 0) != Some((0, String::new())) || ask(107, 1).is_none_or(|(code, _)| code > 2) {
        eprintln!("!!! SKIPPED: other users: they can't run setpriv or this program: {:?}", ask(107, 1));
        return;
    }
    let code = |uid, gid| ask(uid, gid).map(|(code, _)| code);
    assert_eq!((code(107, 1), code(1, 108), code(1, 1)), (Some(0), Some(0), Some(1)));
    assert!(ask(1, 1).is_some_and(|(_, error)| error.contains("--control-allow")));
}

#[test]
fn misuse() {
    for (line, says) in [
        ("node --plain", "--control"),
        ("node --control tcp:127.0.0.1:1 --plain", "unix credentials"),
        ("node --control unix:/a", "--tls-cert"),
        ("node --control unix:/a --plain --control-allow root", "uid:1000"),
        ("node --control unix:/a --plain --vmis -", "--name"),
        ("node --control unix:/a --plain --name n", "--vmis"),
        ("node --control unix:/a --plain --owner 1:1", "there is no --vmis"),
        ("node --control unix:/a --plain --vmis - --name n --pod-run-dir x", "does not begin with '/'"),
        ("node --control unix:/a --plain --bind ::1 --interface lo", "cannot be used with"),
    ] {
        let output = run(line);
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(text(&output.stderr).contains(says), "{line}: {}", text(&output.stderr));
    }
}

#[test]
fn status_shows_listeners_and_sessions_to_people_and_programs() {
    let dir = Scratch::new();
    let _backend = Backend::echo(&dir.path("backend"));
    let (_node, control) = start(&dir, "--plain --bind 127.0.0.1");
    let status = |options: &str| {
        let output = run(&format!("status --control unix:{control} {options}"));
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    assert_eq!(status("--json").trim(), r#"{"sessions":[],"sources":{},"targets":{}}"#);
    let target = put_target(&control, "k", &dir.path("backend"));
    let source = put_source(&control, "k", &target, &dir.path(""));
    let file = source["files"][0].as_str().expect("a file").to_owned();
    let held = UnixStream::connect(&file).expect("connect");
    (&held).write_all(&[7; 3000]).expect("sent");
    let seen = eventually("it is there", || {
        let seen: Value = serde_json::from_str(&status("--json")).expect("JSON");
        let sessions = seen["sessions"].as_array().expect("a list");
        (sessions.len() == 2 && sessions.iter().all(|s| s["bytes_forward"] == 3000)).then_some(seen.clone())
    });
    assert_eq!(seen["targets"]["k"]["ports"], target["ports"]);
    for session in seen["sessions"].as_array().expect("a list") {
        assert!(session["rate_forward"].is_number() && session["stalled_for_s"].is_number(), "{session}");
    }
    let table = status("");
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[1][..4], ["k", "target", "127.0.0.1", &*format!("{}=0", port(&target, 0))], "{table}");
    assert_eq!(lines[2][..4], ["k", "source", &*file, "1"], "{table}");
    assert_eq!(lines[5][1..5], ["k", "source", "0", "open"], "{table}");
    assert!(table.contains("2.9KiB"), "{table}");

    let gone = run(&format!("status --control unix:{}", dir.path("nobody")));
    assert_eq!(gone.status.code(), Some(1));
    assert!(text(&gone.stderr).contains("can't be asked: No such file"), "{}", text(&gone.stderr));
    assert_eq!(run("status --control tcp:127.0.0.1:1").status.code(), Some(2));
}
