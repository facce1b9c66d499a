//! Endpoints and their options, where it takes a whole program to see them.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::support::{Backend, Node, Scratch, echo, program, run, text};

/// A program that inherits this socket as its first, under these names (sd_listen_fds(3)).
fn inheriting(socket: OwnedFd, names: &str, line: &str) -> Node {
    let program = program();
    let mut shell = Command::new("sh");
    // exec keeps the process id, which LISTEN_PID must be; 3 is the first inherited descriptor.
    let script = format!("export LISTEN_FDS=1 LISTEN_PID=$$ {names}; exec \"$0\" {line} 3<&0 0</dev/null");
    shell.arg("-c").arg(script).arg(program.get_program());
    shell.env_remove("RUST_LOG").env_remove("LISTEN_FDNAMES");
    shell.stdin(socket).stdout(Stdio::piped()).stderr(Stdio::piped());
    Node::spawn(shell)
}

#[test]
fn inherited_sockets_are_found_by_name() {
    let dir = Scratch::new();
    let _backend = Backend::echo(&dir.path("backend"));
    let front = dir.path("front");
    let listener = UnixListener::bind(&front).expect("bind");
    let line = format!("forward --listen fd:ram --connect unix:{}", dir.path("backend"));
    let mut node = inheriting(listener.into(), "LISTEN_FDNAMES=ram", &line);
    assert_eq!(node.line(), format!("listening unix:{front}"));
    assert_eq!(echo(&front).as_deref(), Some("hello"));
    node.signal(Signal::TERM);
    assert_eq!(node.end().0.code(), Some(0));
    assert!(fs::metadata(&front).is_ok(), "whoever made it removes it");

    let tcp = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = tcp.local_addr().expect("address");
    let line = format!("forward --listen fd:unknown --connect unix:{}", dir.path("backend"));
    let mut node = inheriting(tcp.into(), "", &line);
    assert_eq!(node.line(), format!("listening tcp:{address}"), "a socket without a name");

    let tcp = TcpListener::bind("127.0.0.1:0").expect("bind");
    let (status, log) = inheriting(tcp.into(), "LISTEN_FDNAMES=disk", &line).end();
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("no socket named 'unknown' was inherited; those left are named disk"), "{log}");
}

/// Nobody would ever answer who connects there.
#[test]
fn an_inherited_socket_that_nobody_listens_on_is_told() {
    let dir = Scratch::new();
    let line = format!("forward --listen unix:{} --connect unix:@nobody-relay-test", dir.path("front"));
    for (names, warned) in [("LISTEN_FDNAMES=disk", true), ("LISTEN_FDNAMES=disk LISTEN_PID=", false)] {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("bind");
        let mut node = inheriting(tcp.into(), names, &line);
        assert!(node.line().starts_with("listening unix:"));
        node.signal(Signal::TERM);
        let (status, log) = node.end();
        assert_eq!(status.code(), Some(0), "{log}");
        assert_eq!(log.contains("WARN an inherited socket is not listened on"), warned, "{log}");
        assert_eq!(log.contains("name=disk"), warned, "{log}");
    }
}

/// Without LISTEN_PID the variables may be meant for a parent (sd_listen_fds(3)).
#[test]
fn nothing_is_inherited_without_the_process_it_is_for() {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("bind");
    let names = "LISTEN_FDNAMES=ram; unset LISTEN_PID";
    let mut node = inheriting(tcp.into(), names, "forward --listen fd:ram --connect unix:@x");
    assert_eq!(node.line(), "");
    let (status, log) = node.end();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("no socket named 'ram' was inherited, and no other"), "{log}");
}

#[test]
fn abstract_sockets_on_both_sides() {
    let tag = format!("relay-program-abstract-{}", std::process::id());
    let at = |end: &str| SocketAddr::from_abstract_name(format!("{tag}-{end}")).expect("a name");
    let backend = UnixListener::bind_addr(&at("back")).expect("bind");
    let mut node = Node::start(&format!("forward --listen unix:@{tag}-front --connect unix:@{tag}-back"));
    assert_eq!(node.line(), format!("listening unix:@{tag}-front"));
    let mut client = UnixStream::connect_addr(&at("front")).expect("connect");
    client.write_all(b"x").expect("write");
    let (mut served, _) = backend.accept().expect("accept");
    std::io::Read::read_exact(&mut served, &mut [0]).expect("relayed");
    let output = run(&format!("forward --listen unix:@{tag}-front --connect unix:@x"));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot listen on unix:@"), "{}", text(&output.stderr));
}

#[test]
fn socket_files_have_mode_and_owner() {
    let dir = Scratch::new();
    let us = fs::metadata(dir.path("")).expect("stat");
    let front = dir.path("front");
    let mut node = Node::start(&format!(
        "forward --listen unix:{front} --connect unix:@x --mode 620 --owner {}:{}",
        us.uid(),
        us.gid()
    ));
    assert_eq!(node.line(), format!("listening unix:{front}"));
    let found = fs::metadata(&front).expect("stat");
    assert_eq!((found.mode() & 0o777, found.uid(), found.gid()), (0o620, us.uid(), us.gid()));
}

/// A peer that takes nothing is given up, even one whose kernel says that it is there.
#[test]
fn the_tcp_user_timeout_ends_a_session_that_gets_nowhere() {
    let dir = Scratch::new();
    let backend = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = backend.local_addr().expect("address").port();
    let front = dir.path("front");
    let mut node = Node::start(&format!(
        "forward --listen unix:{front} --connect tcp:127.0.0.1:{port} --tcp-user-timeout 500ms"
    ));
    node.line();
    let mut client = UnixStream::connect(&front).expect("connect");
    let (_deaf, _): (TcpStream, _) = backend.accept().expect("accept");
    let chunk = [0; 1 << 16];
    while client.write(&chunk).is_ok() {}
    node.signal(Signal::TERM);
    let (_, log) = node.end();
    assert!(log.contains("front_end=sink-unresponsive"), "{log}");
}

/// Whoever else listens at a backend is not dialed, and the log says who it was.
#[test]
fn forward_dials_a_unix_backend_only_if_its_owner_listens_there() {
    let dir = Scratch::new();
    let backend = Backend::echo(&dir.path("backend"));
    let us = rustix::process::geteuid().as_raw();
    for (owner, expected) in [(us, Some("hello")), (us + 1, None)] {
        let mut node = Node::start(&format!(
            "forward --listen unix:{0}/front --connect unix:{0}/backend --backend-owner {owner} --dial-timeout 1s",
            dir.path("")
        ));
        node.line();
        assert_eq!(echo(&dir.path("front")).as_deref(), expected, "{owner}");
        node.signal(Signal::TERM);
        let (_, log) = node.end();
        assert_eq!(log.contains("not dialed: somebody else listens"), expected.is_none(), "{log}");
    }
    assert!(backend.touched() >= 1);
    let output = run("forward --listen unix:/a --connect tcp:127.0.0.1:1 --backend-owner 1");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no --connect is unix:"), "{}", text(&output.stderr));
}

/// An interface without an address that others can reach is no reason not to dial.
#[test]
fn a_source_dials_from_its_interface_or_says_why_not() {
    let (dir, listener) = (Scratch::new(), std::net::TcpListener::bind("127.0.0.1:0").expect("bind"));
    let port = listener.local_addr().expect("address").port();
    let mut node = Node::start(&format!(
        "source --key k --base-dir {} --target 127.0.0.1 --ports {{\"{port}\":0}} --interface lo --plain",
        dir.path("")
    ));
    let front = node.line().strip_prefix("listening unix:").expect("a line").to_owned();
    let client = std::os::unix::net::UnixStream::connect(front).expect("connect");
    let (_, peer) = listener.accept().expect("dialed");
    assert!(peer.ip().is_loopback());
    drop(client);
    node.signal(Signal::TERM);
    node.signal(Signal::INT);
    let (_, log) = node.end();
    assert!(log.contains("dialing from whatever address") && log.contains("interface=lo"), "{log}");
}
