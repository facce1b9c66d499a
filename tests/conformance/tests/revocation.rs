//! `--revoke-live`: an open session ends once its peer would not be let in any more; without it, it goes on.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use relay_conformance::log::Line;
use relay_conformance::peer::{client_connection, dial};
use relay_conformance::pki::Identity;
use relay_conformance::relay::back_program;
use relay_conformance::{
    Authority, Endpoint, Kind, MIB, Peer, Relay, Scratch, Setup, Sink, TlsEnd, expect, send, transfer,
};
use rustix::process::Signal;
use rustls::ClientConfig;

const LATE: Duration = Duration::from_secs(4_102_444_800); // 2100

/// A relay with a revocation list, before a sink that knows resets.
struct Revoking {
    authority: Authority,
    list: PathBuf,
    sink: Sink,
    relay: Relay,
    // last
    _scratch: Scratch,
}

impl Revoking {
    fn new(options: &[&str]) -> Self {
        let (scratch, authority) = (Scratch::new(), Authority::new("revoking"));
        let own = authority.issue_numbered("node", 1, LATE);
        let files = own.write(scratch.root());
        let list = scratch.path("crl.pem");
        std::fs::write(&list, authority.revoke(&[])).expect("a file");
        let sink = Sink::new(&Kind::Tcp.endpoint(&scratch), &own.server());
        let relay = Setup::new("tls:127.0.0.1:0", &sink.at().to_string())
            .tls(&files)
            .options(&["--tls-crl", list.to_str().expect("a path")])
            .options(options)
            .start();
        Self { authority, list, sink, relay, _scratch: scratch }
    }

    fn identity(&self, serial: u64) -> Identity {
        self.authority.issue_numbered(&format!("peer-{serial}"), serial, LATE)
    }

    fn connect(&self, client: &Arc<ClientConfig>) -> (Peer, Peer) {
        let client = Peer::try_connect(self.relay.at(), client).expect("it is let in");
        let server = self.sink.accept();
        ping(&client, &server);
        (client, server)
    }

    /// Lists these from now on, and waits until that is known.
    fn revoke(&self, serials: &[u64], by_signal: bool) {
        revoke(&self.relay, &self.list, &self.authority.revoke(serials), by_signal);
    }

    /// The line of the session that has ended.
    fn ended(&self) -> Line {
        self.relay.log().ended(1).remove(0)
    }

    /// Nobody with it is let in.
    fn assert_refused(&self, client: &Arc<ClientConfig>) {
        // as with any TLS 1.3 client, its handshake is over before the server has judged it
        let Ok(client) = Peer::try_connect(self.relay.at(), client) else { return };
        assert!(client.read(&mut [0]).is_err(), "it is told that it is revoked");
    }
}

fn revoke(relay: &Relay, list: &PathBuf, pem: &str, by_signal: bool) {
    let reloads =
        |lines: &[Line]| lines.iter().filter(|line| line.field("message").starts_with("reloaded")).count();
    let before = relay.log().wait("what was reloaded", |lines| Some(reloads(lines)));
    let next = list.with_extension("next");
    std::fs::write(&next, pem).expect("a file");
    std::fs::rename(next, list).expect("rename");
    if by_signal {
        relay.signal(Signal::HUP);
    }
    relay.log().wait("a reload", |lines| (reloads(lines) > before).then_some(()));
}

fn ping(client: &Peer, server: &Peer) {
    client.write_all(b"ping").expect("taken");
    expect(server, b"ping");
    server.write_all(b"pong").expect("taken");
    expect(client, b"pong");
}

/// So many bytes, and no end.
fn carry(from: &Peer, to: &Peer, len: usize) {
    let bytes = vec![7; len];
    thread::scope(|scope| {
        scope.spawn(|| from.write_all(&bytes).expect("taken"));
        expect(to, &bytes);
    });
}

/// Reads to the end, whatever it is.
fn read_to_the_end(peer: &Peer) -> io::Result<()> {
    let mut scratch = vec![0; 1 << 16];
    while peer.read(&mut scratch)? > 0 {}
    Ok(())
}

/// Its end must not look like one.
fn assert_torn(peer: &Peer) {
    let error = read_to_the_end(peer).expect_err("an orderly end");
    assert_ne!(error.kind(), ErrorKind::WouldBlock, "nothing came");
}

/// The same of one that sends for as long as it can. Of a reset the kernel tells once, whoever asks first:
/// if that is the writer, the reader sees an end of file (tcp(7)).
fn assert_torn_while_it_sends(peer: &Peer) {
    thread::scope(|scope| {
        let sending = scope.spawn(|| send(peer, 1, usize::MAX).expect_err("it ends"));
        let read = read_to_the_end(peer);
        let sent = sending.join().expect("no panic");
        let is_reset = sent.kind() == ErrorKind::ConnectionReset;
        assert!(is_reset || read.is_err(), "an orderly end, and then {sent}");
    });
}

fn assert_ends(line: &Line, front: &str, back: &str, words: &str) {
    assert_eq!((line.front_end(), line.back_end()), (front, back), "{}", line.text);
    let told = [line.field("front_tls"), line.field("back_tls")].concat();
    assert!(told.contains(words), "{}", line.text);
}

fn a_busy_session_ends_when_its_peer_is_revoked(by_signal: bool) {
    let rig = Revoking::new(&["--revoke-live"]);
    let (bad, good) = (rig.identity(11).client(), rig.identity(12).client());
    let (client, server) = rig.connect(&bad);
    let idle = rig.connect(&bad);
    let (other_client, other_server) = rig.connect(&good);
    thread::scope(|scope| {
        let busy = [&client, &server].map(|end| scope.spawn(|| assert_torn_while_it_sends(end)));
        let torn = [&idle.0, &idle.1].map(|end| scope.spawn(|| assert_torn(end)));
        carry(&other_client, &other_server, MIB);
        rig.revoke(&[11], by_signal);
        busy.into_iter().chain(torn).for_each(|torn| torn.join().expect("torn"));
    });
    for line in rig.relay.log().ended(2) {
        assert_ends(&line, "front-revoked", "front-revoked", "peer's certificate is revoked");
        assert!(line.field("front_identity").contains("cn:peer-11"), "{}", line.text);
        assert_eq!(line.field("advice"), "issue the peer a new certificate");
    }
    transfer(&other_client, &other_server, 4, MIB);
    transfer(&other_server, &other_client, 5, MIB);
    rig.assert_refused(&bad);
    let again = rig.connect(&good);
    ping(&again.0, &again.1);
}

#[test]
fn at_a_signal_a_busy_session_ends_when_its_peer_is_revoked() {
    a_busy_session_ends_when_its_peer_is_revoked(true);
}

#[test]
fn a_busy_session_ends_when_a_file_says_that_its_peer_is_revoked() {
    a_busy_session_ends_when_its_peer_is_revoked(false);
}

#[test]
fn without_the_option_a_session_is_its_peers_until_it_ends() {
    let rig = Revoking::new(&[]);
    let bad = rig.identity(11).client();
    let (client, server) = rig.connect(&bad);
    rig.revoke(&[11], true);
    rig.assert_refused(&bad);
    // whoever looks would have looked by now
    rig.revoke(&[11, 12], false);
    carry(&client, &server, MIB);
    transfer(&client, &server, 1, MIB);
    transfer(&server, &client, 2, MIB);
    rig.relay.log().wait("it ends well", |lines| {
        lines.iter().any(|line| line.field("message") == "session ended" && line.is_clean()).then_some(())
    });
}

#[test]
fn of_a_half_closed_session_the_open_direction_ends_badly() {
    let rig = Revoking::new(&["--revoke-live"]);
    let (client, server) = rig.connect(&rig.identity(11).client());
    client.finish().expect("sent");
    assert_eq!(server.read(&mut [0]).expect("an orderly end"), 0);
    server.write_all(b"the answer begins").expect("taken");
    expect(&client, b"the answer begins");
    rig.revoke(&[11], true);
    assert_torn(&client);
    assert_ends(&rig.ended(), "close-notify", "front-revoked", "revoked");
}

#[test]
fn a_draining_relay_still_ends_whom_it_must() {
    let mut rig = Revoking::new(&["--revoke-live"]);
    let (client, server) = rig.connect(&rig.identity(11).client());
    rig.relay.drain();
    rig.relay.wait_closed();
    rig.revoke(&[11], true);
    assert_torn(&client);
    assert_torn(&server);
    assert_ends(&rig.ended(), "front-revoked", "front-revoked", "revoked");
    assert_eq!(rig.relay.exit_code(), Some(0));
}

/// Its certificate was good when its handshake began.
#[test]
fn a_handshake_across_a_reload_does_not_slip_through() {
    let rig = Revoking::new(&["--revoke-live"]);
    let config = rig.identity(11).client();
    let connection = client_connection(rig.relay.at(), &config);
    // all but its last message
    let end = TlsEnd::held(dial(rig.relay.at()), connection.into(), usize::MAX).expect("a handshake");
    rig.revoke(&[11], true);
    // it may have been told before it writes all
    let _ = end.write_all(b"let me in");
    let refused = end.read(&mut [0]).expect_err("refused").to_string();
    assert!(refused.contains("CertificateRevoked") || refused.contains("reset"), "{refused}");
    let line = rig.ended();
    assert_ends(&line, "front-setup-rejected", "front-setup-rejected", "peer's certificate is revoked");
    rig.sink.assert_untouched();
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970")
}

/// Not before its certificate ends, and without any reload. The same peer's session at a relay that was not
/// asked goes on.
#[test]
fn a_session_ends_with_its_peers_certificate() {
    let rigs = [Revoking::new(&["--revoke-live"]), Revoking::new(&[])];
    // The machine may be slow, and the time over before anybody has connected.
    let (until, [(client, server), spared]) = (0..6)
        .find_map(|attempt| {
            let until = Duration::from_secs(now().as_secs() + (4 << attempt));
            let connect = |rig: &Revoking| {
                let config = rig.authority.issue_numbered("brief", 11, until).client();
                let client = Peer::try_connect(rig.relay.at(), &config).ok()?;
                client.write_all(b"ping").ok()?;
                let mut pong = [0; 4];
                thread::scope(|scope| {
                    let server = scope.spawn(|| {
                        let server = rig.sink.accept();
                        server.write_all(b"pong").expect("taken");
                        server
                    });
                    let is_in = client.read(&mut pong).is_ok();
                    // if it was refused, nobody else would come
                    let _somebody = (!is_in).then(|| {
                        Peer::try_connect(rig.relay.at(), &rig.identity(12).client()).expect("let in")
                    });
                    let server = server.join().expect("somebody came");
                    is_in.then(|| {
                        expect(&server, b"ping");
                        (client, server)
                    })
                })
            };
            Some((until, [connect(&rigs[0])?, connect(&rigs[1])?]))
        })
        .expect("a machine that connects within two minutes");
    let good = rigs[0].connect(&rigs[0].identity(12).client());
    assert_torn(&client);
    assert!(now() > until, "too early");
    assert_torn(&server);
    let expired = |lines: &[Line]| lines.iter().find(|line| line.front_end() == "front-expired").cloned();
    let line = rigs[0].relay.log().wait("it ends", expired);
    assert_ends(&line, "front-expired", "front-expired", "peer's certificate has expired");
    ping(&good.0, &good.1);
    ping(&spared.0, &spared.1);
}

/// Where we dialed, and between two relays: the other one sees a connection that broke.
#[test]
fn a_source_ends_its_sessions_when_its_target_is_revoked() {
    let (scratch, authority) = (Scratch::new(), Authority::new("pair"));
    let [near, far] = [("near", 21), ("far", 22)].map(|(name, serial)| {
        let identity = authority.issue_numbered(name, serial, LATE);
        std::fs::create_dir(scratch.path(name)).expect("a directory");
        (identity.write(&scratch.path(name)), identity.server())
    });
    let list = scratch.path("crl.pem");
    std::fs::write(&list, authority.revoke(&[])).expect("a file");
    let sink = Sink::new(&Kind::Tcp.endpoint(&scratch), &far.1);
    let target =
        Setup::new("tls:127.0.0.1:0", &sink.at().to_string()).program(back_program()).tls(&far.0).start();
    let source = Setup::new("tcp:127.0.0.1:0", &target.at().to_string())
        .tls(&near.0)
        .options(&["--revoke-live", "--tls-crl", list.to_str().expect("a path")])
        .start();
    let connect = |at: &Endpoint| {
        let client = Peer::try_connect(at, &authority.issue("nobody").client()).expect("let in");
        let server = sink.accept();
        ping(&client, &server);
        (client, server)
    };
    let (client, server) = connect(source.at());
    thread::scope(|scope| {
        let busy = scope.spawn(|| assert_torn_while_it_sends(&client));
        let torn = scope.spawn(|| assert_torn(&server));
        revoke(&source, &list, &authority.revoke(&[22]), true);
        [busy, torn].into_iter().for_each(|torn| torn.join().expect("torn"));
    });
    assert_ends(&source.log().ended(1)[0], "back-revoked", "back-revoked", "peer's certificate is revoked");
    let line = &target.log().ended(1)[0];
    assert!(!line.is_clean(), "{}", line.text);
}
