//! Those who are not who they should be, or not what, or gone.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use relay_core::{EndReason, Failure, Leg};
use relay_node::endpoint::Endpoint;
use relay_tls::LegCodec;

use crate::rig::{Authority, Node, Rig, Road, Scratch, Settings, Sink, dial, expect, receive_all, send_all};

/// A TLS alert record: content type 21, in the clear before keys are agreed on (RFC 8446 5.1, 6).
const ALERT: u8 = 21;

struct Target {
    node: Node,
    sink: Sink,
    authority: Authority,
    scratch: Scratch,
}

impl Target {
    fn new() -> Self {
        let (scratch, authority) = (Scratch::new(), Authority::new("ca"));
        let sink = Sink::unix(&scratch.path("sink"));
        let settings = Settings { tls: Some(authority.tls()), ..Settings::default() };
        let node = Node::start("tls:127.0.0.1:0", &scratch.unix("sink"), &settings);
        Self { node, sink, authority, scratch }
    }

    /// That nothing is broken: somebody with a good certificate is relayed.
    fn assert_serves(&self, authority: &Authority) {
        let settings = Settings { tls: Some(authority.tls()), ..Settings::default() };
        let source = Node::start(&self.scratch.unix("well-meaning"), &self.node.at.to_string(), &settings);
        let client = dial(&source.at);
        send_all(&client, 1, 1000);
        let server = self.sink.accept();
        receive_all(&server, 1, 1000);
        send_all(&server, 2, 1000);
        receive_all(&client, 2, 1000);
    }
}

fn client_hello(authority: &Authority) -> Vec<u8> {
    use relay_core::codec::Codec;
    let settings = authority.tls();
    let plan = relay_node::Plan::new(
        "unix:@nobody".parse().expect("endpoint"),
        relay_node::resolve::Backend::new(&"tls:127.0.0.1:1".parse::<Endpoint>().expect("endpoint"))
            .expect("backend"),
        Some(&settings),
        &relay_node::cli::Timeouts::default(),
    )
    .expect("plan");
    let mut codec: LegCodec = plan.back_codec().expect("codec");
    let mut hello = vec![0; codec.control_pending()];
    let count = codec.take_control(&mut hello);
    hello.truncate(count);
    assert!(count > 100);
    hello
}

#[test]
fn a_peer_that_vanishes_in_the_middle_of_its_handshake() {
    let target = Target::new();
    let hello = client_hello(&target.authority);
    for length in [0, 1, 5, 6, hello.len() / 2, hello.len() - 1, hello.len()] {
        for hard in [false, true] {
            let mut peer = dial(&target.node.at);
            peer.write_all(&hello[..length]).expect("taken");
            if hard {
                peer.set_linger(Some(Duration::ZERO)).expect("option");
            }
        }
    }
    for ended in target.node.watch.ended(14) {
        let reason = ended.outcome.flows.front.reason;
        assert!(
            matches!(
                reason,
                EndReason::SetupFailed(Leg::Front, Failure::Truncated | Failure::Reset | Failure::BrokenPipe)
            ),
            "{reason:?}"
        );
        assert!(!ended.back_was_connected);
    }
    target.sink.assert_untouched();
    target.assert_serves(&target.authority);
}

#[test]
fn plaintext_to_a_tls_port_is_told_and_the_backend_left_alone() {
    let target = Target::new();
    for text in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"\0\0\0\0\0\0\0\0", &[b'x'; 100_000]] {
        let mut peer = dial(&target.node.at);
        // it may be refused before all of it is taken
        let _ = peer.write_all(text);
        let mut answer = Vec::new();
        match peer.read_to_end(&mut answer) {
            Ok(_) => assert_eq!(answer.first(), Some(&ALERT), "{answer:?}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
    for ended in target.node.watch.ended(3) {
        let reason = ended.outcome.flows.front.reason;
        assert_eq!(reason, EndReason::SetupFailed(Leg::Front, Failure::Protocol), "{ended:?}");
        assert!(ended.tls_errors[0].is_some(), "{ended:?}");
    }
    target.sink.assert_untouched();
    target.assert_serves(&target.authority);
}

#[test]
fn a_short_plaintext_request_reads_its_alert() {
    let target = Target::new();
    let mut peer = dial(&target.node.at);
    peer.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("taken");
    let mut answer = Vec::new();
    peer.read_to_end(&mut answer).expect("an orderly end");
    assert_eq!(answer.first(), Some(&ALERT), "{answer:?}");
}

#[test]
fn a_certificate_of_another_authority_gets_an_alert_and_the_backend_is_left_alone() {
    let target = Target::new();
    // It trusts the target's authority, but has a certificate of its own.
    let stranger = Authority::new("other");
    let settings = Settings { tls: Some(stranger.tls()), ..Settings::default() };
    let source = Node::start(&target.scratch.unix("entry"), &target.node.at.to_string(), &settings);
    let mut client = dial(&source.at);
    let _ = client.write_all(b"secret");
    assert!(matches!(client.read(&mut [0; 1]), Ok(0) | Err(_)));
    let at_source = source.watch.only_ended();
    let at_target = target.node.watch.only_ended();
    // Both distrust each other; the client is the first to see a certificate (RFC 8446 section 2).
    assert_eq!(
        at_source.outcome.flows.front.reason,
        EndReason::SetupFailed(Leg::Back, Failure::Rejected),
        "{at_source:?}"
    );
    assert!(
        matches!(at_target.outcome.flows.front.reason, EndReason::SetupFailed(Leg::Front, Failure::Alert(_))),
        "{at_target:?}"
    );
    target.sink.assert_untouched();
    target.assert_serves(&target.authority);
}

#[test]
fn a_client_that_is_refused_by_the_server_reads_the_alert() {
    let target = Target::new();
    // The client trusts the server, but not the other way round.
    let tls = Authority::new("other").tls_trusting(&target.authority);
    let settings = Settings { tls: Some(tls), ..Settings::default() };
    let source = Node::start(&target.scratch.unix("entry"), &target.node.at.to_string(), &settings);
    let client = dial(&source.at);
    let at_target = target.node.watch.only_ended();
    assert_eq!(
        at_target.outcome.flows.front.reason,
        EndReason::SetupFailed(Leg::Front, Failure::Rejected),
        "{at_target:?}"
    );
    // TLS 1.3's client is done before the server has judged it: the alert comes afterwards.
    let at_source = source.watch.only_ended();
    assert!(
        matches!(at_source.outcome.flows.back.reason, EndReason::SourceFailed(Failure::Alert(_))),
        "{at_source:?}"
    );
    assert!(at_source.tls_errors[1].is_some(), "{at_source:?}");
    drop(client);
    target.sink.assert_untouched();
    target.assert_serves(&target.authority);
}

#[test]
fn a_tls_client_on_a_plain_port_gets_a_clear_end() {
    let scratch = Scratch::new();
    let sink = Sink::unix(&scratch.path("sink"));
    let plain = Node::start("tcp:127.0.0.1:0", &scratch.unix("sink"), &Settings::default());
    let settings = Settings { tls: Some(Authority::new("ca").tls()), ..Settings::default() };
    let port = plain.at.host_port().expect("tcp").port;
    let source = Node::start(&scratch.unix("entry"), &format!("tls:127.0.0.1:{port}"), &settings);
    let client = dial(&source.at);
    let server = sink.accept();
    let mut hello = [0; 5];
    (&server).read_exact(&mut hello).expect("a hello");
    (&server).write_all(b"220 no TLS here\r\n").expect("taken");
    server.shutdown(Shutdown::Write).expect("shut down");
    let ended = source.watch.only_ended();
    assert_eq!(
        ended.outcome.flows.front.reason,
        EndReason::SetupFailed(Leg::Back, Failure::Protocol),
        "{ended:?}"
    );
    drop(client);
}

#[test]
fn a_peer_that_says_nothing_is_given_up_and_holds_nobody_up() {
    let mut settings = Settings::default();
    settings.timeouts.handshake = Some(Duration::from_secs(3));
    let rig = Rig::with(Road::TlsPair, &settings);
    let silent: Vec<_> = (0..5).map(|_| dial(&rig.nodes[0].at)).collect();
    let (mut client, server) = rig.connect();
    client.write_all(b"hello").expect("taken");
    expect(&server, b"hello");
    let ended = rig.nodes[0].watch.ended(5);
    let expected = EndReason::TimedOut(relay_core::Timer::Secure(Leg::Front));
    assert!(ended.iter().all(|ended| ended.outcome.flows.front.reason == expected), "{ended:?}");
    drop(silent);
    client.write_all(b"still there").expect("taken");
    expect(&server, b"still there");
}
