//! What every command has in common: output, signals, exit codes.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::pki::{Leaf, Pki};
use crate::support::{Backend, Node, Scratch, echo, eventually, program, run, text};

#[test]
fn the_demo_shows_what_it_promises() {
    let output = run("demo --size 16MiB --streams 3");
    let (out, log) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}{log}");
    assert_eq!(out.matches("  ok  ").count(), 6, "{out}");
    assert!(out.ends_with("All as promised.\n"), "{out}");
    assert_eq!(log, "", "the stranger's rejection is no error of ours");
}

#[test]
fn bad_usage_is_one_line_and_exit_code_2() {
    for (line, says) in [
        ("", "subcommand"),
        (
            "forward --listen tls:[::]:0 --connect unix:@b",
            "tls:[::]:0 needs --tls-cert, --tls-key and --tls-ca too",
        ),
        ("forward --listen tcp:[::1 --connect unix:@b", "the bracket of the IPv6 address is not closed"),
    ] {
        let output = run(line);
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(log.starts_with("relay-threads: ") && log.contains(says), "{log}");
        assert!(output.stdout.is_empty());
    }
    assert!(run("--help").status.success() && run("forward --help").status.success());
}

#[test]
fn what_cannot_be_done_is_one_line_and_exit_code_1() {
    let dir = Scratch::new();
    let file = dir.path("file");
    fs::write(&file, "precious").expect("write");
    for (line, says) in [
        (format!("forward --listen unix:{file} --connect unix:@b"), "left alone"),
        (
            format!(
                "forward --listen tls:[::1]:0 --connect unix:@b --tls-cert {file} --tls-key k --tls-ca {file}"
            ),
            "TLS: k: No such file",
        ),
        ("forward --listen fd:x --connect unix:@b".to_owned(), "no socket named 'x' was inherited"),
        ("forward --listen tcp:192.0.2.1:0 --connect unix:@b".to_owned(), "cannot listen on tcp:192.0.2.1:0"),
    ] {
        let output = run(&line);
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}: {log}");
        assert!(log.lines().count() == 1 && log.contains(says), "{log}");
    }
}

#[test]
fn forward_says_where_it_listens_relays_both_ways_and_logs_the_end() {
    let dir = Scratch::new();
    let (front, back) = (dir.path("front"), dir.path("back"));
    let backend = UnixListener::bind(&back).expect("bind");
    let mut node = Node::start(&format!(
        "forward --listen unix:{front} --connect unix:{back} --listen tcp:127.0.0.1:0 --connect unix:{back}"
    ));
    assert_eq!(node.line(), format!("listening unix:{front}"));
    let tcp = node.line();
    let port: u16 =
        tcp.strip_prefix("listening tcp:127.0.0.1:").expect("the second line").parse().expect("a port");
    assert_eq!(fs::metadata(&front).expect("stat").mode() & 0o777, 0o600);

    let mut client = UnixStream::connect(&front).expect("connect");
    client.write_all(b"question").expect("write");
    client.shutdown(Shutdown::Write).expect("shutdown");
    let (mut served, _) = backend.accept().expect("accept");
    let mut question = String::new();
    served.read_to_string(&mut question).expect("read");
    assert_eq!(question, "question");
    served.write_all(b"the answer").expect("write");
    drop(served);
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("read");
    assert_eq!(answer, "the answer");

    TcpStream::connect(("127.0.0.1", port)).expect("connect");
    backend.accept().expect("accept");
    node.signal(Signal::TERM);
    let (status, log) = node.end();
    assert_eq!(status.code(), Some(0), "{log}");
    let ended = log.lines().find(|line| line.contains("session ended listen=unix")).expect("a line");
    for part in
        ["INFO", "front_bytes=8", "back_bytes=10", "front_end=eof", "back_end=eof", "peer=local", &front]
    {
        assert!(ended.contains(part), "{part} in {ended}");
    }
    assert!(log.contains("stopped sessions=2 cut=0 aborted=0"), "{log}");
    assert!(!PathBuf::from(front).exists(), "its own file is removed");
}

/// A node with one open session that does not end by itself.
fn with_open_session(options: &str) -> (Node, UnixStream, UnixStream, Scratch) {
    let dir = Scratch::new();
    let (front, back) = (dir.path("front"), dir.path("back"));
    let backend = UnixListener::bind(&back).expect("bind");
    let mut node = Node::start(&format!("forward --listen unix:{front} --connect unix:{back} {options}"));
    node.line();
    let client = UnixStream::connect(&front).expect("connect");
    let (mut served, _) = backend.accept().expect("accept");
    (&client).write_all(b"x").expect("write");
    served.read_exact(&mut [0]).expect("relayed");
    (node, client, served, dir)
}

#[test]
fn a_drain_lets_the_session_end_by_itself() {
    let (node, mut client, served, dir) = with_open_session("");
    node.signal(Signal::TERM);
    let front = dir.path("front");
    eventually("the listener is closed", || fs::metadata(&front).is_err().then_some(()));
    assert!(UnixStream::connect(&front).is_err());
    (&served).write_all(b"still here").expect("write");
    drop(served);
    let mut rest = String::new();
    client.read_to_string(&mut rest).expect("read");
    assert_eq!(rest, "still here");
    drop(client);
    assert_eq!(node.end().0.code(), Some(0));
}

#[test]
fn a_drain_that_has_to_cut_is_exit_code_3() {
    let (node, client, served, _dir) = with_open_session("--drain-timeout 50ms --log-format json");
    node.signal(Signal::TERM);
    let (status, log) = node.end();
    assert_eq!(status.code(), Some(3), "{log}");
    assert!(
        log.contains(r#""message":"session ended""#) && log.contains(r#""front_end":"timeout-drain""#),
        "{log}"
    );
    drop((client, served));
}

#[test]
fn a_second_signal_aborts() {
    let (node, client, served, _dir) = with_open_session("");
    node.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(100));
    node.signal(Signal::INT);
    let (status, log) = node.end();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("front_end=aborted"), "{log}");
    drop((client, served));
}

/// More than a pipe holds, and nobody reads it.
#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let dir = Scratch::new();
    let _backend = Backend::echo(&dir.path("back"));
    let front = dir.path("front");
    let mut node = Node::start(&format!("forward --listen unix:{front} --connect unix:{}", dir.path("back")));
    node.line();
    for _ in 0..600 {
        assert_eq!(echo(&front).as_deref(), Some("hello"));
    }
    node.signal(Signal::TERM);
    eventually("it drains", || fs::metadata(&front).is_err().then_some(()));
    let (status, log) = node.end();
    assert_eq!(status.code(), Some(0));
    assert!(log.len() > 1 << 16, "{} bytes of log", log.len());
}

#[test]
fn nobody_reading_the_output_stops_nothing() {
    let dir = Scratch::new();
    let front = dir.path("front");
    let mut child = program()
        .args(["forward", "--listen", &format!("unix:{front}"), "--connect", "unix:@nobody-relay-test"])
        .args(["--dial-timeout", "100ms"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawn");
    drop(child.stdout.take());
    drop(child.stderr.take());
    eventually("it listens", || UnixStream::connect(&front).ok());
    kill_process(Pid::from_child(&child), Signal::TERM).expect("our own child");
    let status = child.wait().expect("wait");
    assert_eq!(status.code(), Some(0), "{status}");
}

#[test]
fn two_nodes_by_tls_check_identities_and_reload_on_hangup() {
    let backend = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = backend.local_addr().expect("address").port();
    std::thread::spawn(move || {
        for stream in backend.incoming() {
            let mut stream = stream.expect("accept");
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).expect("read");
            let _ = stream.write_all(&heard);
        }
    });
    let pki = Pki::new();
    let server = pki.issue("server", &Leaf::target());
    let client = pki.issue("client", &Leaf::source());
    let mut target = Node::start(&format!(
        "forward --listen tls:127.0.0.1:0 --connect tcp:127.0.0.1:{port} {server} --peer cn:the-source"
    ));
    let between = target.line().strip_prefix("listening ").expect("a line").to_owned();
    let front = pki.dir.path("front");
    let mut source = Node::start(&format!(
        "forward --listen unix:{front} --connect {between} {client} --peer cn:the-target"
    ));
    source.line();
    assert_eq!(echo(&front).as_deref(), Some("hello"));

    // Another name is refused, a broken file changes nothing, and a good one is taken again.
    pki.issue("client", &Leaf { common_name: "somebody-else", ..Leaf::source() });
    source.signal(Signal::HUP);
    eventually("the other name is refused", || echo(&front).is_none().then_some(()));
    pki.issue("client", &Leaf::source());
    source.signal(Signal::HUP);
    eventually("the name is accepted again", || echo(&front));
    fs::write(pki.dir.path("client.crt"), "no certificate").expect("write");
    source.signal(Signal::HUP);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(echo(&front).as_deref(), Some("hello"));

    source.signal(Signal::TERM);
    target.signal(Signal::TERM);
    let (status, source_log) = source.end();
    assert_eq!(status.code(), Some(0));
    let (status, target_log) = target.end();
    assert_eq!(status.code(), Some(0));
    assert!(source_log.contains("back_identity=cn:the-target"), "{source_log}");
    assert!(source_log.contains("not reloaded; what was loaded before stays"), "{source_log}");
    assert!(target_log.contains("front_identity=cn:the-source"), "{target_log}");
    assert!(target_log.contains("somebody-else"), "the log says who was refused: {target_log}");
    // The two logs can be laid side by side.
    let id =
        source_log.split("back_session=").nth(1).expect("an id").split_whitespace().next().expect("an id");
    assert!(target_log.contains(&format!("front_session={id}")), "{id}\n{target_log}");
}

/// A disk that is full. Who has nothing but words to give has failed; who relays goes on, and says what is missing.
#[test]
fn words_that_could_not_be_written_are_an_error() {
    let full = || fs::File::options().write(true).open("/dev/full").expect("Linux has it");
    for line in ["man", "completions bash", "uri --key x", "--help", "forward --help", "--version"] {
        let output = program().args(line.split_whitespace()).stdout(full()).output().expect("spawn");
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}: {log}");
        assert!(log.lines().count() == 1 && log.contains("could not write to standard output"), "{log}");
    }
    let dir = Scratch::new();
    let front = dir.path("front");
    let mut command = program();
    command.args(["forward", "--connect", "unix:@nobody-relay-test", "--listen", &format!("unix:{front}")]);
    let child = command.stdout(full()).spawn().expect("spawn");
    eventually("it listens", || UnixStream::connect(&front).ok());
    kill_process(Pid::from_child(&child), Signal::TERM).expect("our own child");
    let output = child.wait_with_output().expect("wait");
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(log.contains("WARN could not write to standard output: listening unix:"), "{log}");
}
