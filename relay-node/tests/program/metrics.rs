//! `--metrics`: what Prometheus is told, of every command, over real sockets.

use std::io::ErrorKind::WouldBlock;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use relay_node::metrics::lint::{self, Page};
use rustix::process::Signal;
use serde_json::json;

use crate::api::{ok, parse};
use crate::node::start;
use crate::pki::{Leaf, Pki};
use crate::support::{Backend, Node, Scratch, echo, eventually, run, text};

/// What is answered at the endpoint of a line `metrics ENDPOINT`.
fn get(line: &str, request: &str) -> (u16, String) {
    let at = line.strip_prefix("metrics ").unwrap_or_else(|| panic!("{line}"));
    let request = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let answer = match at.split_once(':').expect("an endpoint") {
        ("unix", path) => exchange(UnixStream::connect(path).expect("connect"), &request),
        ("tcp", address) => exchange(TcpStream::connect(address).expect("connect"), &request),
        _ => panic!("{at}"),
    };
    parse(&answer)
}

fn exchange(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

pub(crate) fn page(line: &str) -> Page {
    let (status, text) = get(line, "GET /metrics");
    assert_eq!(status, 200, "{text}");
    lint::read(&text).unwrap_or_else(|faults| panic!("{}\n{text}", faults.join("\n")))
}

/// Received is delivered, cut and buffered together, by direction.
fn add_up(page: &Page) {
    for direction in ["forward", "backward"] {
        let sum = |name| page.sum(name, &[("direction", direction)]);
        let parts = ["relay_delivered_bytes_total", "relay_cut_bytes_total", "relay_buffered_bytes"];
        let parts: f64 = parts.into_iter().map(sum).sum();
        assert_eq!(sum("relay_received_bytes_total"), parts, "{direction}");
    }
    let open: f64 =
        ["handshake", "dialing", "open"].map(|s| page.sum("relay_sessions", &[("stage", s)])).iter().sum();
    let ended = page.sum("relay_sessions_ended_total", &[]);
    assert_eq!(page.sum("relay_sessions_accepted_total", &[]), open + ended);
}

/// The page once all sessions are over and closed.
fn settled(line: &str) -> Page {
    eventually("no session is left", || {
        let page = page(line);
        add_up(&page);
        (page.sum("relay_sessions", &[]) == 0.0).then_some(page)
    })
}

/// Both sides of a migration, one asked over TCP and one by a unix socket: what they tell is what happened,
/// and fits together.
#[test]
fn both_nodes_tell_what_happened_and_it_adds_up() {
    let (dir, pki) = (Scratch::new(), Pki::new());
    let tls = pki.issue("target", &Leaf::target());
    let _backend = Backend::echo(&dir.path("backend"));
    let mut target = Node::start(&format!(
        "target --key vm1 --bind 127.0.0.1 --backend 0={} --metrics tcp:127.0.0.1:0 --peer cn:the-source {tls}",
        dir.path("backend")
    ));
    let at_target = target.line();
    let ports = target.line().rsplit_once(':').map(|(_, port)| port.to_owned()).expect("a port");
    target.line();
    let source = |key: &str, leaf: &Leaf| {
        let tls = pki.issue(key, leaf);
        let ports = format!("{{\"{ports}\":0}}");
        let base = dir.path("");
        let mut node = Node::start(&format!(
            "source --key {key} --base-dir {base} --target 127.0.0.1 --ports {ports} --metrics unix:{} {tls}",
            dir.path(&format!("{key}.metrics"))
        ));
        let metrics = node.line();
        let file = node.line().strip_prefix("listening unix:").expect("a socket").to_owned();
        (node, metrics, file)
    };
    let (node, at_source, file) = source("vm1", &Leaf::source());
    for _ in 0..3 {
        assert_eq!(echo(&file).as_deref(), Some("hello"));
    }
    let (stranger, at_stranger, other) = source("vm2", &Leaf { common_name: "a-stranger", ..Leaf::source() });
    assert_eq!(echo(&other), None);

    let (target_page, source_page) = (settled(&at_target), settled(&at_source));
    for (page, side, leg) in [(&target_page, "target", "front"), (&source_page, "source", "back")] {
        let of = |direction| [("side", side), ("channel", "0"), ("direction", direction)];
        for direction in ["forward", "backward"] {
            assert_eq!(page.value("relay_received_bytes_total", &of(direction)), Some(15.0));
            assert_eq!(page.value("relay_delivered_bytes_total", &of(direction)), Some(15.0));
            assert_eq!(page.value("relay_cut_bytes_total", &of(direction)), Some(0.0));
        }
        let ok = [("side", side), ("leg", leg), ("result", "ok")];
        assert_eq!(page.value("relay_handshakes_total", &ok), Some(3.0));
        assert_eq!(page.value("relay_dials_total", &[("side", side), ("result", "ok")]), Some(3.0));
        let clean = [("side", side), ("channel", "0"), ("result", "clean")];
        assert_eq!(page.value("relay_sessions_ended_total", &clean), Some(3.0));
        assert_eq!(page.value("relay_listeners", &[]), Some(1.0));
        assert!(page.value("relay_tls_records_total", &[("side", side), ("direction", "sent")]) >= Some(6.0));
        let own = [("certificate", "own")];
        assert_eq!(page.value("relay_certificate_not_after_timestamp_seconds", &own), Some(4_102_444_800.0));
        assert_eq!(page.sum("relay_buffer_memory_bytes", &[("state", "lent")]), 0.0);
        assert!(page.value("process_open_fds", &[]) > Some(3.0));
    }
    // What one node sealed the other opened, the stranger's alert apart.
    let records = |page: &Page, direction| page.sum("relay_tls_records_total", &[("direction", direction)]);
    assert_eq!(records(&source_page, "received"), records(&target_page, "sent"));
    assert_eq!(target_page.sum("relay_handshakes_total", &[("result", "rejected")]), 1.0);
    assert_eq!(target_page.sum("relay_flow_ends_total", &[("reason", "front-setup-rejected")]), 2.0);
    let stranger_page = settled(&at_stranger);
    assert_eq!(stranger_page.sum("relay_sessions_ended_total", &[("result", "unclean")]), 1.0);
    // Nothing that could be anybody's: no key, no name, no address.
    for line in [&at_target, &at_source, &at_stranger] {
        let (_, text) = get(line, "GET /metrics");
        assert!(
            !["vm1", "vm2", "the-source", "stranger\"", "127.0.0.1"].iter().any(|word| text.contains(word)),
            "{text}"
        );
    }
    for (request, status) in [
        ("GET /healthz", 200),
        ("GET /readyz", 200),
        ("GET /v1/sessions", 404),
        ("DELETE /metrics", 405),
        ("GET /metrics?x", 400),
    ] {
        assert_eq!(get(&at_target, request).0, status, "{request}");
    }
    let metrics_file = dir.path("vm1.metrics");
    assert!(Path::new(&metrics_file).exists());
    for node in [target, node, stranger] {
        node.signal(Signal::TERM);
        let (status, log) = node.end();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(!log.contains("control c"), "who asks for metrics is no news: {log}");
    }
    assert!(!Path::new(&metrics_file).exists(), "its socket goes with it");
}

/// A backend that goes while much is on its way: all that was received is accounted for.
#[test]
fn what_is_lost_on_its_way_is_counted_as_cut() {
    /// Backends that may go.
    static MAY_GO: AtomicUsize = AtomicUsize::new(0);

    let dir = Scratch::new();
    let _backend = Backend::start(&dir.path("backend"), |stream| {
        let mut some = [0; 4096];
        let _ = (&*stream).read_exact(&mut some);
        let may_go = |count: usize| count.checked_sub(1);
        while MAY_GO.fetch_update(Ordering::SeqCst, Ordering::SeqCst, may_go).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let mut node = Node::start(&format!(
        "forward --listen unix:{} --connect unix:{} --metrics tcp:127.0.0.1:0",
        dir.path("front"),
        dir.path("backend")
    ));
    let (at, _) = (node.line(), node.line());
    let of = |direction| [("side", "forward"), ("channel", "none"), ("direction", direction)];
    for _ in 0..5 {
        let mut client = UnixStream::connect(dir.path("front")).expect("connect");
        client.set_nonblocking(true).expect("option");
        // However much the kernel takes of it: at last some is with the relay, and stays there.
        eventually("something is on its way", || {
            while client.write(&[7; 64 << 10]).is_ok() {}
            let page = page(&at);
            add_up(&page);
            (page.value("relay_buffered_bytes", &of("forward")) > Some(0.0)).then_some(())
        });
        MAY_GO.fetch_add(1, Ordering::SeqCst);
        eventually("it is told", || client.write(&[7]).is_err_and(|e| e.kind() != WouldBlock).then_some(()));
    }
    let page = settled(&at);
    assert!(page.value("relay_cut_bytes_total", &of("forward")) > Some(0.0));
    assert_eq!(page.value("relay_received_bytes_total", &of("backward")), Some(0.0));
    assert_eq!(page.sum("relay_sessions_ended_total", &[("result", "unclean")]), 5.0);
    node.signal(Signal::TERM);
    assert_eq!(node.end().0.code(), Some(0));
}

/// Ready until it is told to stop, and then not, though metrics are still told.
#[test]
fn a_drain_shows_at_once() {
    let dir = Scratch::new();
    let _backend = Backend::echo(&dir.path("backend"));
    let mut node = Node::start(&format!(
        "forward --listen unix:{} --connect unix:{} --metrics tcp:127.0.0.1:0",
        dir.path("front"),
        dir.path("backend")
    ));
    let (at, _) = (node.line(), node.line());
    let held = UnixStream::connect(dir.path("front")).expect("connect");
    eventually("it is open", || (page(&at).sum("relay_sessions", &[("stage", "open")]) == 1.0).then_some(()));
    assert_eq!(get(&at, "GET /readyz"), (200, "ready\n".to_owned()));
    node.signal(Signal::TERM);
    eventually("it is not ready any more", || (get(&at, "GET /readyz").0 == 503).then_some(()));
    assert_eq!((page(&at).value("relay_draining", &[]), get(&at, "GET /healthz").0), (Some(1.0), 200));
    drop(held);
    assert_eq!(node.end().0.code(), Some(0));
}

/// A daemon tells the same at its control socket and elsewhere, and what only a daemon has.
#[test]
fn a_daemon_tells_by_both_ways() {
    let dir = Scratch::new();
    let _backend = Backend::echo(&dir.path("backend"));
    let control = dir.path("control");
    let mut node = Node::start(&format!(
        "node --control unix:{control} --plain --bind 127.0.0.1 --metrics unix:{}",
        dir.path("metrics")
    ));
    let at = node.line();
    assert_eq!(node.line(), format!("listening unix:{control}"));
    let body = json!({ "backends": { "0": dir.path("backend") } }).to_string();
    ok(&control, "PUT", "/v1/targets/vm1", &body);
    for line in [at.clone(), format!("metrics unix:{control}")] {
        let page = page(&line);
        add_up(&page);
        assert_eq!(page.value("relay_migrations", &[("side", "target")]), Some(1.0));
        assert_eq!(page.sum("relay_http_requests_total", &[("listener", "control"), ("code", "2xx")]), 1.0);
        assert!(page.knows("relay_loop_lag_seconds_bucket") && page.knows("relay_objects_total"));
    }
    node.signal(Signal::TERM);
    eventually("it is not ready any more", || (get(&at, "GET /readyz").0 == 503).then_some(()));
    ok(&control, "DELETE", "/v1/targets/vm1", "");
    assert_eq!(node.end().0.code(), Some(0));
}

/// Those who say nothing, or nothing that makes sense, hold nobody up.
#[test]
fn a_crowd_at_the_metrics_holds_nobody_up() {
    let dir = Scratch::new();
    let mut node = Node::start(&format!(
        "forward --listen unix:{} --connect unix:@nobody --metrics tcp:127.0.0.1:0",
        dir.path("front")
    ));
    let (at, _) = (node.line(), node.line());
    let address = at.strip_prefix("metrics tcp:").expect("tcp").to_owned();
    let silent: Vec<_> = (0..300).map(|_| TcpStream::connect(&address).expect("connect")).collect();
    for stream in &silent[..50] {
        let _ = (&*stream).write_all(b"\x16\x03\x01nonsense\r\n\r\n");
    }
    add_up(&page(&at));
    node.signal(Signal::TERM);
    let (status, log) = node.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.lines().count() < 10, "{log}");
}

#[test]
fn metrics_are_told_in_plaintext_by_name() {
    let out = run("forward --listen unix:@a --connect unix:@b --metrics tls:127.0.0.1:1");
    assert_eq!(out.status.code(), Some(2));
    let error = text(&out.stderr);
    assert!(error.contains("plaintext, to tcp:127.0.0.1:1"), "{error}");
    let dir = Scratch::new();
    let (_node, control) = start(&dir, "--plain");
    let out = run(&format!("forward --listen unix:@a --connect unix:@b --metrics unix:{control}"));
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text(&out.stderr).contains("cannot listen on unix:") && text(&out.stderr).contains("for metrics")
    );
}

/// Thirty who speak no TLS: five lines, a count, and all of them in the metrics.
#[test]
fn strangers_that_fail_in_a_row_are_a_few_lines_and_counted_all() {
    let pki = Pki::new();
    let tls = pki.issue("target", &Leaf::target());
    let mut node = Node::start(&format!(
        "forward --listen tls:127.0.0.1:0 --connect unix:@nobody --metrics tcp:127.0.0.1:0 --log-format json {tls}"
    ));
    let (at, listening) = (node.line(), node.line());
    let port = listening.rsplit_once(':').map(|(_, port)| port.to_owned()).expect("a port");
    for _ in 0..30 {
        let mut stranger = TcpStream::connect(format!("127.0.0.1:{port}")).expect("connect");
        let _ = stranger.write_all(b"GET / HTTP/1.1\r\n\r\n");
        let _ = stranger.read_to_end(&mut Vec::new());
    }
    let failed =
        |page: &Page| page.sum("relay_handshakes_total", &[("leg", "front"), ("result", "protocol")]);
    eventually("all are counted", || (failed(&page(&at)) == 30.0).then_some(()));
    node.signal(Signal::TERM);
    let (status, log) = node.end();
    assert_eq!(status.code(), Some(0), "{log}");
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of = |message: &str| lines.iter().filter(|line| line["message"] == message).collect::<Vec<_>>();
    assert_eq!(of("session ended").len(), 5, "{log}");
    let counted: Vec<_> = lines.iter().filter(|line| line["count"].is_u64()).collect();
    assert_eq!(counted.len(), 1, "{log}");
    assert_eq!((&counted[0]["count"], &counted[0]["end"]), (&json!(10), &json!("front-setup-protocol")));
}
