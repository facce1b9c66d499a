//! Every way for two nodes not to come together by TLS: the backend is not touched, the client gets an
//! end, and the log of each side has one line that says what is wrong and what to do.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;

use rcgen::ExtendedKeyUsagePurpose;
use rustix::process::Signal;

use crate::pki::{Leaf, Pki};
use crate::support::{Backend, Node, Scratch, echo};

/// What came of it when a client connected to a source whose target is another node.
struct Met {
    answer: Option<String>,
    touched: usize,
    /// The logs.
    source: String,
    target: String,
}

/// A target and a source with these options, and one client.
fn meet(source: &str, target: &str) -> Met {
    meet_before(source, target, |stream| {
        let mut heard = Vec::new();
        let _ = (&*stream).read_to_end(&mut heard);
        let _ = (&*stream).write_all(&heard);
    })
}

/// The same in front of a backend that does this.
fn meet_before(source: &str, target: &str, serve: fn(&UnixStream)) -> Met {
    let dir = Scratch::new();
    let backend = Backend::start(&dir.path("backend"), serve);
    let mut target = Node::start(&format!(
        "target --key vm1 --backend 0={} --bind 127.0.0.1 {target}",
        dir.path("backend")
    ));
    assert!(target.line().starts_with("listening "));
    let answer = target.line();
    let ports = &answer[answer.find(":{").expect("a port map") + 1..=answer.find('}').expect("its end")];
    let mut source = Node::start(&format!(
        "source --key vm1 --base-dir {} --target 127.0.0.1 --ports {ports} {source}",
        dir.path("")
    ));
    let front = source.line().strip_prefix("listening unix:").expect("a line").to_owned();
    let answer = echo(&front);
    for node in [&source, &target] {
        node.signal(Signal::TERM);
    }
    let ((_, source), (_, target)) = (source.end(), target.end());
    Met { answer, touched: backend.touched(), source, target }
}

/// The one line about the session.
fn line(log: &str) -> &str {
    let mut ended = log.lines().filter(|line| line.contains("session ended key=vm1 channel=0"));
    let line = ended.next().unwrap_or_else(|| panic!("no session in {log}"));
    assert!(ended.next().is_none(), "one line for one session: {log}");
    line
}

/// Nobody got anywhere, and these words are in both nodes' lines.
#[track_caller]
fn apart(met: &Met, source_says: &[&str], target_says: &[&str]) {
    assert_eq!(met.answer, None, "{}{}", met.source, met.target);
    told(met, source_says, target_says);
}

#[track_caller]
fn told(met: &Met, source_says: &[&str], target_says: &[&str]) {
    assert_eq!(met.touched, 0, "{}{}", met.source, met.target);
    for (log, says) in [(&met.source, source_says), (&met.target, target_says)] {
        for says in says {
            assert!(line(log).contains(says), "{says}\n  is not in {log}");
        }
    }
}

struct Parties {
    pki: Pki,
    source: Leaf,
    target: Leaf,
}

impl Parties {
    fn new() -> Self {
        Self { pki: Pki::new(), source: Leaf::source(), target: Leaf::target() }
    }

    /// With these options besides.
    fn meet(&self, source: &str, target: &str) -> Met {
        let own = (self.pki.issue("source", &self.source), self.pki.issue("target", &self.target));
        meet(&format!("{} {source}", own.0), &format!("{} {target}", own.1))
    }
}

#[test]
fn those_who_fit_come_together() {
    let parties = Parties::new();
    let list = parties.pki.revoke(&[99], 2100);
    for (source, target) in [
        (String::new(), "--peer cn:the-source".to_owned()),
        ("--peer cn:the-target".to_owned(), String::new()),
        (list.clone(), list),
    ] {
        let met = parties.meet(&source, &target);
        assert_eq!((met.answer.as_deref(), met.touched), (Some("hello"), 1), "{}{}", met.source, met.target);
        assert!(line(&met.source).contains("back_identity=cn:the-target"), "{}", met.source);
        assert!(line(&met.target).contains("front_identity=cn:the-source"), "{}", met.target);
        assert!(!met.source.contains("advice=") && !met.target.contains("advice="));
    }
}

#[test]
fn another_authority() {
    let (parties, other) = (Parties::new(), Pki::named("another-ca"));
    let good = |file: &str, leaf: &Leaf| parties.pki.issue(file, leaf);
    let foreign = |file: &str, leaf: &Leaf| other.issue_trusting(file, leaf, &parties.pki);
    let judge = [
        "signed by an unknown CA; it is for cn:the-",
        "issued by cn:another-ca",
        "add the CA that issued its certificate to --tls-ca",
    ];
    let judged = ["alert unknown_ca(48)", "add it to the peer's --tls-ca"];
    apart(&meet(&foreign("source", &parties.source), &good("target", &parties.target)), &judged, &judge);
    apart(&meet(&good("source", &parties.source), &foreign("target", &parties.target)), &judge, &judged);
}

#[test]
fn another_time() {
    let judged = ["alert certificate_expired(45)", "our certificate is not valid by the peer's clock"];
    for (years, judge, own) in [
        (
            (2000, 2001),
            ["it was valid until 2001-01-01", "renew the peer's certificate"],
            "has expired, and peers",
        ),
        ((2090, 2100), ["it will be from 2090-01-01", "compare the clocks"], "is not valid yet, and peers"),
    ] {
        let mut parties = Parties::new();
        parties.source.years = years;
        let met = parties.meet("", "");
        apart(&met, &judged, &judge);
        assert!(met.source.contains(own), "known before anybody came: {}", met.source);
        let mut parties = Parties::new();
        parties.target.years = years;
        let met = parties.meet("", "");
        apart(&met, &judge, &judged);
        assert!(met.target.contains(own), "known before anybody came: {}", met.target);
    }
}

#[test]
fn another_purpose() {
    let mut parties = Parties::new();
    parties.source.purpose = ExtendedKeyUsagePurpose::ServerAuth;
    apart(
        &parties.meet("", ""),
        &["alert unsupported_certificate(43)", "our certificate needs the extended key usage clientAuth"],
        &["is for another purpose", "issue the peer a certificate with the extended key usage clientAuth"],
    );
    let mut parties = Parties::new();
    parties.target.purpose = ExtendedKeyUsagePurpose::ClientAuth;
    apart(
        &parties.meet("", ""),
        &["is for another purpose", "issue the peer a certificate with the extended key usage serverAuth"],
        &["alert unsupported_certificate(43)", "our certificate needs the extended key usage serverAuth"],
    );
}

#[test]
fn revoked() {
    let parties = Parties::new();
    let list = parties.pki.revoke(&[11, 12], 2100);
    let judge = ["peer's certificate is revoked", "issue the peer a new certificate"];
    let judged = ["alert certificate_revoked(44)", "our certificate is revoked: renew it"];
    apart(&parties.meet("", &list), &judged, &judge);
    apart(&parties.meet(&list, ""), &judge, &judged);
    let judged = ["alert unknown_ca(48)", "lacks a current revocation list"];
    let expired = parties.pki.revoke(&[], 2021);
    let judge = ["the revocation list of its CA has expired", "replace the lists in --tls-crl"];
    apart(&parties.meet("", &expired), &judged, &judge);
    apart(&parties.meet(&expired, ""), &judge, &judged);
    let others = Pki::named("another-ca").revoke(&[], 2100);
    // Its directory is gone by now.
    let met = Node::start(&format!(
        "target --key x --backend 0=/x {others} {}",
        parties.pki.issue("t", &parties.target)
    ));
    assert!(met.end().1.contains("No such file"), "a list that can't be read is told at once");
    let another = Pki::named("another-ca");
    let others = another.revoke(&[], 2100);
    let judge =
        ["there is no revocation list of its CA", "add a list of every CA in the peer's chain to --tls-crl"];
    apart(&parties.meet("", &others), &judged, &judge);
}

#[test]
fn somebody_else() {
    let mut parties = Parties::new();
    apart(
        &parties.meet("", "--peer cn:nobody --peer dns:the-source"),
        &["alert access_denied(49)", "the peer did not expect us"],
        &[
            "peer is cn:the-source, expected cn:nobody or dns:the-source",
            "if this is the peer that is meant, add --peer cn:the-source",
        ],
    );
    apart(
        &parties.meet("--peer cn:nobody", ""),
        &["peer is cn:the-target,ip:127.0.0.1, expected cn:nobody", "add --peer cn:the-target"],
        &["alert access_denied(49)", "the peer did not expect us"],
    );
    // KubeVirt's certificates name no host.
    parties.target.of_loopback = false;
    apart(
        &parties.meet("", ""),
        &["not for the host dialed, 127.0.0.1; it is for cn:the-target", "add --peer cn:the-target"],
        &["alert bad_certificate(42)", "our certificate the host that it dialed"],
    );
}

/// A source in plaintext: nothing of it gets through a target with TLS.
#[test]
fn plaintext_to_tls() {
    let parties = Parties::new();
    let target = parties.pki.issue("target", &parties.target);
    let met = meet("--plain", &target);
    told(&met, &[], &["peer does not speak TLS: it begins with", "have the peer speak TLS"]);
    // A fatal alert, unexpected_message (RFC 8446 section 6.2): all that it gets.
    assert_eq!(met.answer.as_deref(), Some("\x15\x03\x03\0\x02\x02\x0a"));
}

/// A target in plaintext, with backends as they are met: one that does not like what it hears, one that
/// speaks first, one that waits for more.
#[test]
fn tls_to_plaintext() {
    let parties = Parties::new();
    let source = parties.pki.issue("source", &parties.source);
    let closes: fn(&UnixStream) = |stream| {
        let _ = (&*stream).read(&mut [0; 4096]);
    };
    let speaks: fn(&UnixStream) = |stream| {
        let _ = (&*stream).write_all(b"NBDMAGICIHAVEOPT\0\x03");
        let _ = (&*stream).read(&mut [0; 4096]);
    };
    let waits: fn(&UnixStream) = |stream| {
        let _ = (&*stream).read_to_end(&mut Vec::new());
    };
    for (serve, options, says, advice) in [
        (closes, "", "ended before the peer said anything", "dial it so (--plain, tcp:)"),
        (speaks, "", "peer speaks plaintext NBD, not TLS", "dial it in plaintext as it listens"),
        (waits, "--handshake-timeout 500ms", "timeout-handshake-back", "dial it so (--plain, tcp:)"),
    ] {
        let met = meet_before(&format!("{source} {options}"), "--plain", serve);
        assert_eq!(met.answer, None, "{}", met.source);
        assert!(line(&met.source).contains(says), "{says}: {}", met.source);
        assert!(line(&met.source).contains(advice), "{advice}: {}", met.source);
    }
}

/// What sends back what it gets begins as we do, and is no server.
#[test]
fn tls_to_an_echo() {
    let (pki, dir) = (Pki::new(), Scratch::new());
    let source = pki.issue("source", &Leaf::source());
    let echo_at = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = echo_at.local_addr().expect("address").port();
    std::thread::spawn(move || {
        let (mut stream, _) = echo_at.accept().expect("accept");
        let mut heard = [0; 4096];
        let count = stream.read(&mut heard).expect("its first words");
        let _ = stream.write_all(&heard[..count]);
        let _ = stream.read(&mut heard);
    });
    let mut node = Node::start(&format!(
        "source --key vm1 --base-dir {} --target 127.0.0.1 --ports {{\"{port}\":0}} {source}",
        dir.path("")
    ));
    let front = node.line().strip_prefix("listening unix:").expect("a line").to_owned();
    assert_eq!(echo(&front), None);
    node.signal(Signal::TERM);
    let (_, log) = node.end();
    assert!(line(&log).contains("peer answers like a TLS client"), "{log}");
    assert!(line(&log).contains("no TLS server listens there"), "{log}");
}

/// Not tried for the whole dial timeout, which is longer than any test.
#[test]
fn a_backend_that_is_no_socket() {
    let dir = Scratch::new();
    std::fs::write(dir.path("file"), "precious").expect("write");
    for (backend, errno, says) in [
        ("file", "errno-88", "what is at that path is no socket"),
        (".", "errno-88", "what is at that path is no socket"),
        ("file/x", "errno-20", "is no directory"),
    ] {
        let front = dir.path("front");
        let mut node = Node::start(&format!(
            "forward --listen unix:{front} --connect unix:{} --dial-timeout 1h",
            if backend == "." { dir.path("").trim_end_matches('/').to_owned() } else { dir.path(backend) }
        ));
        node.line();
        assert_eq!(echo(&front), None);
        node.signal(Signal::TERM);
        let (_, log) = node.end();
        assert!(log.contains(&format!("dial={errno}")) && log.contains(says), "{log}");
    }
}

/// It is waited for as long as anybody may come, and no longer.
#[test]
fn a_drain_does_not_wait_for_a_backend_that_is_not_there() {
    let dir = Scratch::new();
    let front = dir.path("front");
    let mut node = Node::start(&format!(
        "forward --listen unix:{front} --connect unix:{} --dial-timeout 1h --drain-timeout 20s",
        dir.path("absent")
    ));
    node.line();
    let mut client = UnixStream::connect(&front).expect("connect");
    client.write_all(b"hello").expect("taken");
    node.signal(Signal::TERM);
    let (status, log) = node.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("dial=not-found"), "{log}");
}
