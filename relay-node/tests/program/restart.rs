//! `node --state-dir`: what a restart takes up, what a stop leaves to it, and one daemon at a time.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::api::{call, ok};
use crate::node::{put_source, put_target, start};
use crate::support::{Backend, Scratch, echo, eventually, run, text};

fn options(dir: &Scratch) -> String {
    format!("--plain --bind 127.0.0.1 --state-dir {}", dir.path("state"))
}

/// Also after a kill, which leaves no time for anything.
#[test]
fn a_restart_listens_on_the_same_ports_again() {
    let dir = Scratch::new();
    let _backend = Backend::echo(&dir.path("backend"));
    let options = options(&dir);
    let (node, control) = start(&dir, &options);
    let target = put_target(&control, "k", &dir.path("backend"));
    put_target(&control, "gone", &dir.path("backend"));
    ok(&control, "DELETE", "/v1/targets/gone", "");
    let source = put_source(&control, "k", &target, &dir.path(""));
    let file = source["files"][0].as_str().expect("a file").to_owned();
    drop(node); // kills it
    assert!(!Path::new(&dir.path("state/target-gone.json")).exists());
    for round in 0..2 {
        let (node, control) = start(&dir, &options);
        let again = eventually("restored", || {
            let (status, answer) = call(&control, "GET", "/v1/targets/k", "");
            (status == 200).then(|| serde_json::from_str::<Value>(&answer).expect("JSON"))
        });
        assert_eq!((&again["ports"], &again["address"]), (&target["ports"], &target["address"]), "{round}");
        eventually("carries", || UnixStream::connect(&file).is_ok().then_some(()));
        assert_eq!(echo(&file).as_deref(), Some("hello"));
        node.signal(Signal::TERM);
        node.signal(Signal::INT);
        let (_, log) = node.end();
        assert!(log.contains("target restored key=k") && log.contains("source restored key=k"), "{log}");
    }
}

#[test]
fn two_daemons_do_not_share_a_state_directory() {
    let dir = Scratch::new();
    let options = options(&dir);
    let (_node, control) = start(&dir, &options);
    let before = put_target(&control, "k", "/none");
    let second = run(&format!("node --control unix:{} {options}", dir.path("second")));
    assert_eq!(second.status.code(), Some(1));
    let (out, error) = (text(&second.stdout), text(&second.stderr));
    assert!(out.is_empty() && error.contains("another daemon, process "), "{out}{error}");
    assert_eq!(error.lines().filter(|line| line.contains("state directory")).count(), 1, "{error}");
    assert!(!Path::new(&dir.path("second")).exists());
    assert_eq!(ok(&control, "GET", "/v1/targets/k", "")["ports"], before["ports"]);
}

/// While much is taken up again, it is told, and whoever wants to stop need not wait.
#[test]
fn while_it_restores_it_answers_and_stops_between_two_migrations() {
    let dir = Scratch::new();
    let count = 4000;
    fs::create_dir(dir.path("state")).expect("mkdir");
    for number in 0..count {
        let file = dir.path(&format!("state/target-k{number}.json"));
        fs::write(file, r#"{"by":"api","put":{"backends":{"0":"/none"}}}"#).expect("write");
    }
    let (node, control) = start(&dir, &options(&dir));
    assert_eq!(call(&control, "GET", "/healthz", ""), (200, "alive\n".to_owned()));
    assert_eq!(call(&control, "GET", "/readyz", ""), (503, "restoring\n".to_owned()));
    for (method, path, body) in
        [("GET", "/v1/targets", ""), ("PUT", "/v1/targets/new", r#"{"backends":{"0":"/a"}}"#)]
    {
        let (status, answer) = call(&control, method, path, body);
        assert_eq!(status, 503, "{answer}");
        assert!(answer.contains("restoring: ") && answer.contains(" of the 4000 migrations"), "{answer}");
    }
    node.signal(Signal::TERM);
    let (status, log) = node.end();
    assert_eq!(status.code(), Some(0), "{}", log.lines().last().unwrap_or_default());
    assert!(log.contains("stopped while restoring"), "{}", log.lines().last().unwrap_or_default());
    // all of it is still noted, what was restored and what was not
    let noted = fs::read_dir(dir.path("state")).expect("there").count();
    assert_eq!(noted, count + 1, "and the lock");
}

/// Nobody has to delete what the next one takes up again.
#[test]
fn with_a_state_directory_a_stop_waits_for_sessions_only() {
    let dir = Scratch::new();
    let _backend = Backend::echo(&dir.path("backend"));
    let (node, control) = start(&dir, &options(&dir));
    let target = put_target(&control, "k", &dir.path("backend"));
    put_target(&control, "idle", &dir.path("backend"));
    let source = put_source(&control, "k", &target, &dir.path(""));
    let file = source["files"][0].as_str().expect("a file").to_owned();
    let held = UnixStream::connect(&file).expect("connect");
    (&held).write_all(b"one").expect("sent");
    eventually("both sessions are open", || {
        let sessions = ok(&control, "GET", "/v1/sessions", "");
        let sessions = sessions["sessions"].as_array().expect("a list").clone();
        (sessions.iter().filter(|session| session["stage"] == "open").count() == 2).then_some(())
    });
    node.signal(Signal::TERM);
    eventually("not ready any more", || (call(&control, "GET", "/readyz", "").0 == 503).then_some(()));
    // a migration that is under way makes more connections
    assert_eq!(echo(&file).as_deref(), Some("hello"));
    (&held).write_all(b"two").expect("sent");
    held.shutdown(std::net::Shutdown::Write).expect("ended");
    held.set_read_timeout(Some(Duration::from_secs(60))).expect("option");
    let mut answer = String::new();
    (&held).read_to_string(&mut answer).expect("an answer");
    assert_eq!(answer, "onetwo", "nothing was cut");
    let (status, log) = node.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("waiting for sessions; what listens is for the next one"), "{log}");
    assert!(!Path::new(&file).exists());

    let (_node, control) = start(&dir, &options(&dir));
    let again = eventually("restored", || {
        let (status, answer) = call(&control, "GET", "/v1/targets/k", "");
        (status == 200).then(|| serde_json::from_str::<Value>(&answer).expect("JSON"))
    });
    assert_eq!(again["ports"], target["ports"]);
}
