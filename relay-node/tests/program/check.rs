//! `check`: what it says of a relay that is there, and of what is wrong.

use std::net::TcpListener;
use std::time::Instant;

use rcgen::ExtendedKeyUsagePurpose;

use crate::pki::{Leaf, Pki};
use crate::support::{Backend, Node, Scratch, run, text};

/// A target in front of a backend; where it listens.
fn target(pki: &Pki, dir: &Scratch, options: &str) -> (Node, String) {
    let line = format!(
        "target --key vm1 --bind 127.0.0.1 --backend 0={} {} {options}",
        dir.path("backend"),
        pki.issue("target", &Leaf::target())
    );
    let mut target = Node::start(&line);
    let at = target.line().strip_prefix("listening ").expect("a listener").to_owned();
    (target, at)
}

/// Its exit code, standard output and standard error.
fn check(line: &str) -> (Option<i32>, String, String) {
    let output = run(&format!("check {line}"));
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn all_is_said_of_a_relay_that_would_work_and_its_backend_sees_a_connection_only() {
    let (dir, pki) = (Scratch::new(), Pki::new());
    let backend = Backend::start(&dir.path("backend"), |stream| {
        let mut heard = Vec::new();
        std::io::Read::read_to_end(&mut &*stream, &mut heard).expect("an end in order");
        assert!(heard.is_empty());
    });
    let (target, at) = target(&pki, &dir, "--peer cn:the-source");
    let (code, out, error) = check(&format!("--connect {at} {}", pki.issue("source", &Leaf::source())));
    assert_eq!(code, Some(0), "{error}");
    for says in
        ["reached", "TLSv1.3, TLS_AES_", "peer         cn:the-target", "until 2100-01-01T", "days more"]
    {
        assert!(out.contains(says), "{says}: {out}");
    }
    for says in ["accepted     yes", "round trip", "rate         at least ", "MiB/s"] {
        assert!(out.contains(says), "{says}: {out}");
    }
    assert_eq!(backend.touched(), 1);
    target.signal(rustix::process::Signal::TERM);
    let (status, log) = target.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(
        log.contains("front_bytes=0 back_bytes=0") && log.contains("front_end=close-notify back_end=eof"),
        "{log}"
    );
}

/// A backend that is not there is no fault of the way to the other node, and no rate can be measured.
#[test]
fn without_a_backend_the_peer_is_known_and_the_rate_is_not() {
    let (dir, pki) = (Scratch::new(), Pki::new());
    let (_target, at) = target(&pki, &dir, "");
    let line = format!("--connect {at} --timeout 1s {}", pki.issue("source", &Leaf::source()));
    let (code, out, error) = check(&line);
    assert_eq!(code, Some(0), "{error}");
    assert!(out.contains("cn:the-target") && out.contains("rate         not measured"), "{out}");
    assert!(out.contains("backend may not be there yet"), "{out}");
}

#[test]
fn what_is_wrong_is_said_in_a_line_with_what_can_be_done() {
    let (dir, pki) = (Scratch::new(), Pki::new());
    let backend = Backend::echo(&dir.path("backend"));
    let (_target, at) = target(&pki, &dir, "--peer cn:somebody-else");
    let ours = pki.issue("source", &Leaf::source());
    let another = Pki::named("another-ca");
    let stranger = another.issue_trusting("stranger", &Leaf::source(), &pki);
    let server = Leaf { purpose: ExtendedKeyUsagePurpose::ServerAuth, ..Leaf::source() };
    let server = pki.issue("server", &server);
    let closed = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
    for (line, says) in [
        // it does not expect us
        (format!("--connect {at} {ours}"), "--peer"),
        (format!("--connect {at} {ours} --peer cn:the-source"), "add --peer cn:the-target"),
        (format!("--connect {at} {stranger}"), "--tls-ca"),
        (format!("--connect {at} {server}"), "clientAuth"),
        (format!("--connect tls:{closed} {ours}"), "can't be reached: Connection refused"),
        (format!("--connect tls:no-such-host.invalid:1 {ours}"), "can't be looked up"),
        (format!("--connect unix:{}/none", dir.path("")), "can't be reached: No such file"),
        (format!("--connect {at} --interface nosuchif0 {ours}"), "no such interface"),
    ] {
        let (code, out, error) = check(&line);
        assert_eq!(code, Some(1), "{line}: {out}");
        assert!(error.lines().last().is_some_and(|last| last.contains(says)), "{line}: {error}");
    }
    assert_eq!(backend.touched(), 0, "nobody was let in");
}

/// One that takes connections and says nothing.
#[test]
fn a_silent_peer_is_given_up_in_time() {
    let pki = Pki::new();
    let silent = TcpListener::bind("127.0.0.1:0").expect("bind");
    let at = silent.local_addr().expect("address");
    let since = Instant::now();
    let line = format!("--connect tls:{at} --timeout 300ms {}", pki.issue("source", &Leaf::source()));
    let (code, out, error) = check(&line);
    assert_eq!(code, Some(1), "{out}");
    assert!(error.contains("did not complete the TLS handshake in time"), "{error}");
    assert!(since.elapsed().as_secs() < 60);
}

#[test]
fn plaintext_and_unix_sockets_are_reached_and_nothing_more_is_claimed() {
    let dir = Scratch::new();
    let backend = Backend::echo(&dir.path("backend"));
    let (code, out, error) = check(&format!("--connect unix:{}", dir.path("backend")));
    assert_eq!(code, Some(0), "{error}");
    let us = std::process::id();
    assert!(out.contains(&format!("process {us}, owner")) && out.contains("plaintext"), "{out}");
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let (code, out, _) = check(&format!("--connect tcp:{}", listener.local_addr().expect("address")));
    assert!(code == Some(0) && out.contains("nobody was authenticated"), "{out}");
    drop(backend);
}
