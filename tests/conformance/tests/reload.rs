//! Certificates change, by signal or by themselves; sessions stay.

use std::os::unix::fs::symlink;
use std::time::{SystemTime, UNIX_EPOCH};

use relay_conformance::pki::{Files, Identity};
use relay_conformance::{Authority, Kind, Peer, Rig, Road, Scratch, Setup, Sink, expect, transfer};
use rustix::process::Signal;

fn assert_relays(client: &Peer, server: &Peer) {
    client.write_all(b"ping").expect("taken");
    expect(server, b"ping");
    server.write_all(b"pong").expect("taken");
    expect(client, b"pong");
}

/// Certificate, key and authority change together, by the link that Kubernetes swaps; what is open
/// goes on.
fn new_sessions_use_new_certificates_and_old_ones_go_on(by_signal: bool) {
    let scratch = Scratch::new();
    let (old, new) = (Authority::common().issue("node"), Authority::new("other").issue("node"));
    let link = |identity: &Identity, name: &str| {
        std::fs::create_dir(scratch.path(name)).expect("a directory");
        let _ = identity.write(&scratch.path(name));
        symlink(scratch.path(name), scratch.path("next")).expect("a link");
        std::fs::rename(scratch.path("next"), scratch.path("certs")).expect("rename");
    };
    link(&old, "first");
    let sink = Sink::new(&Kind::Unix.endpoint(&scratch), &old.server());
    let relay = Setup::new("tls:127.0.0.1:0", &sink.at().to_string())
        .tls(&Files::in_directory(&scratch.path("certs")))
        .start();
    let early = Peer::try_connect(relay.at(), &old.client()).expect("the old authority's");
    let early_end = sink.accept();
    assert_relays(&early, &early_end);
    link(&new, "second");
    if by_signal {
        relay.signal(Signal::HUP);
    }
    relay.log().wait("reloaded", |lines| {
        lines.iter().any(|line| line.field("message").starts_with("reloaded")).then_some(())
    });
    let late = Peer::try_connect(relay.at(), &new.client()).expect("the new authority's");
    let late_end = sink.accept();
    assert_relays(&late, &late_end);
    assert!(Peer::try_connect(relay.at(), &old.client()).is_err(), "it has a new certificate");
    assert_relays(&early, &early_end);
    transfer(&early, &early_end, 1, 100_000);
    transfer(&early_end, &early, 2, 100_000);
}

#[test]
fn at_a_signal_new_sessions_use_new_certificates_and_old_ones_go_on() {
    new_sessions_use_new_certificates_and_old_ones_go_on(true);
}

#[test]
fn files_that_change_are_read_without_being_asked() {
    new_sessions_use_new_certificates_and_old_ones_go_on(false);
}

#[test]
fn what_does_not_load_changes_nothing() {
    let rig = Rig::new(Road::single(Kind::Tls, Kind::Unix));
    let other = Authority::common().issue("node");
    let breakages: [(&str, &str); 4] = [
        ("tls.crt", "not a certificate"),
        ("tls.crt", ""),
        // another certificate's key
        ("tls.key", &other.key),
        ("ca.crt", ""),
    ];
    for (count, (name, text)) in breakages.iter().enumerate() {
        let before = std::fs::read(rig.scratch.path(name)).expect("a file");
        std::fs::write(rig.scratch.path(name), text).expect("a file");
        rig.relays[0].signal(Signal::HUP);
        rig.relays[0].log().wait("not reloaded", |lines| {
            let told = lines.iter().filter(|line| line.field("message").starts_with("not reloaded"));
            (told.count() > count).then_some(())
        });
        let (client, server) = rig.connect();
        assert_relays(&client, &server);
        std::fs::write(rig.scratch.path(name), before).expect("a file");
    }
    rig.finish();
}

#[test]
fn a_reload_while_draining_kills_nobody() {
    let mut rig = Rig::new(Road::single(Kind::Tls, Kind::Unix));
    let (client, server) = rig.connect();
    assert_relays(&client, &server);
    rig.relays[0].drain();
    rig.relays[0].wait_closed();
    for count in 0..3 {
        rig.relays[0].signal(Signal::HUP);
        rig.relays[0].log().wait("a reload", |lines| {
            let told = lines.iter().filter(|line| line.field("message").starts_with("reloaded"));
            (told.count() > count).then_some(())
        });
    }
    transfer(&client, &server, 1, 100_000);
    transfer(&server, &client, 2, 100_000);
    assert_eq!(rig.relays[0].exit_code(), Some(0));
}

/// Whoever reads the log learns of a certificate that peers reject, or soon will, from the node that has
/// it, and before they do; a node with a good one says nothing.
#[test]
fn a_certificate_that_is_over_or_soon_will_be_is_told() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let year = 1970 + i32::try_from(now / 31_556_952).expect("a year");
    // From the year 2000 on: a tenth of it is more than two years, and less than ten.
    for (until, told) in
        [(year - 1, "our certificate has expired"), (year + 2, "our certificate ends soon"), (year + 10, "")]
    {
        let scratch = Scratch::new();
        let files = Authority::common().issue_until("node", until).write(scratch.root());
        let mut relay = Setup::new("tls:127.0.0.1:0", &scratch.unix("nobody")).tls(&files).start();
        relay.signal(Signal::HUP);
        let warned = relay.log().wait("a reload", |lines| {
            lines.iter().any(|line| line.field("message").starts_with("reloaded")).then(|| {
                let warnings = lines.iter().filter(|line| line.field("level") == "warn");
                warnings.map(|line| line.field("message").to_string()).collect::<Vec<_>>()
            })
        });
        assert_eq!(
            warned.len(),
            if told.is_empty() { 0 } else { 2 },
            "at the start and at the reload: {warned:?}"
        );
        assert!(warned.iter().all(|message| message.starts_with(told)), "{warned:?}");
        relay.finish();
    }
}
