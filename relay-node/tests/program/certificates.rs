//! One pair of certificate and key for servers and another for clients, as KubeVirt issues them.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::api::ok;
use crate::node::{put_source, put_target, start};
use crate::pki::{Leaf, Pki};
use crate::support::{Backend, Scratch, echo, eventually, run, text};

/// Both sides on one daemon: it is a server to itself and a client of itself.
#[test]
fn a_node_shows_one_certificate_as_a_server_and_another_as_a_client_and_reads_both_again() {
    let (dir, pki) = (Scratch::new(), Pki::new());
    let server = pki.issue("server", &Leaf::target());
    pki.issue("client", &Leaf::source());
    let (cert, key) = (pki.dir.path("client.crt"), pki.dir.path("client.key"));
    let _backend = Backend::echo(&dir.path("backend"));
    let options = format!("--bind 127.0.0.1 {server}");

    // the server's alone is no client's: its purpose says so
    let (node, control) = start(&dir, &options);
    let target = put_target(&control, "k", &dir.path("backend"));
    let source = put_source(&control, "k", &target, &dir.path(""));
    let file = source["files"][0].as_str().expect("a file").to_owned();
    assert_eq!(echo(&file), None);
    drop(node);

    let (node, control) = start(&dir, &format!("{options} --tls-client-cert {cert} --tls-client-key {key}"));
    let target = put_target(&control, "k", &dir.path("backend"));
    put_source(&control, "k", &target, &dir.path(""));
    assert_eq!(echo(&file).as_deref(), Some("hello"));

    // the client's is read again, too
    pki.issue("client", &Leaf { common_name: "renewed", ..Leaf::source() });
    node.signal(Signal::HUP);
    eventually("the renewed one is shown", || {
        let held = std::os::unix::net::UnixStream::connect(&file).expect("connect");
        let sessions = eventually("a session", || {
            let sessions = ok(&control, "GET", "/v1/sessions", "")["sessions"].clone();
            let is_known = |session: &&Value| session["side"] == "target" && session["identity"].is_string();
            sessions.as_array().expect("a list").iter().rfind(is_known).cloned()
        });
        drop(held);
        (sessions["identity"] == "cn:renewed").then_some(())
    });
    // all of a new set or nothing of it
    fs::write(&key, "no key").expect("write");
    node.signal(Signal::HUP);
    eventually("it was read", || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        (echo(&file).as_deref() == Some("hello")).then_some(())
    });
    node.signal(Signal::TERM);
    node.signal(Signal::INT);
    let (_, log) = node.end();
    assert!(log.contains("cn:the-target") && log.contains("as a server"), "{log}");
    assert!(log.contains("cn:the-source") && log.contains("as a client"), "{log}");
}

#[test]
fn half_a_pair_is_no_pair() {
    for (option, missing) in
        [("--tls-client-cert x", "--tls-client-key"), ("--tls-client-key x", "--tls-client-cert")]
    {
        let line = format!(
            "forward --listen unix:/a --connect tls:h:1 --tls-cert a --tls-key b --tls-ca c {option}"
        );
        let output = run(&line);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(missing), "{}", text(&output.stderr));
    }
    let output = run("forward --listen unix:/a --connect unix:/b --tls-client-cert x --tls-client-key y");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no endpoint is tls:"), "{}", text(&output.stderr));
}
