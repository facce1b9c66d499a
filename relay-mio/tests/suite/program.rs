//! The binary: its sockets, signals and exit codes.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use relay_node::endpoint::Endpoint;
use rustix::process::{Pid, Signal, kill_process};

use crate::rig::{Authority, PATIENCE, Scratch, Sink, dial, expect, receive_all, send_all};

struct Program {
    child: Child,
    at: Endpoint,
}

impl Program {
    fn start(arguments: &[&str]) -> Self {
        Self::spawn(Command::new(env!("CARGO_BIN_EXE_relay-mio")).arg("forward").args(arguments))
    }

    /// With so many descriptors at most.
    fn start_limited(descriptors: u32, arguments: &[&str]) -> Self {
        let script = format!("ulimit -n {descriptors}; exec \"$0\" forward \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_relay-mio")]).args(arguments);
        Self::spawn(&mut command)
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child =
            command.env("RUST_LOG", "error").stdout(Stdio::piped()).spawn().expect("the program starts");
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        output.read_line(&mut line).expect("a line");
        let at = line.trim().strip_prefix("listening ").expect("where it listens");
        let at = at.parse().expect("an endpoint");
        thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        Self { child, at }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it is there");
    }

    fn exit_code(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            assert!(start.elapsed() < PATIENCE, "it does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two programs with mutual TLS between them, and a sink.
struct ProgramPair {
    source: Program,
    target: Program,
    sink: Sink,
    _scratch: Scratch,
}

impl ProgramPair {
    fn new(more: &[&str]) -> Self {
        let (scratch, authority) = (Scratch::new(), Authority::new("ca"));
        let issued = authority.issue();
        let write = |name: &str, text: &str| {
            std::fs::write(scratch.path(name), text).expect("a file");
            scratch.path(name).display().to_string()
        };
        let (cert, key, ca) =
            (write("cert", &issued.cert), write("key", &issued.key), write("ca", &issued.ca));
        let tls = ["--tls-cert", &cert, "--tls-key", &key, "--tls-ca", &ca];
        let sink = Sink::unix(&scratch.path("sink"));
        let run = |listen: &str, connect: &str| {
            Program::start(&[&["--listen", listen, "--connect", connect], &tls[..], more].concat())
        };
        let target = run("tls:127.0.0.1:0", &scratch.unix("sink"));
        let source = run(&scratch.unix("entry"), &target.at.to_string());
        Self { source, target, sink, _scratch: scratch }
    }
}

#[test]
fn a_drain_under_load_loses_nothing() {
    let mut pair = ProgramPair::new(&[]);
    let len = 8 << 20;
    let streams: Vec<_> = (0..8_u64)
        .map(|seed| {
            let mut client = dial(&pair.source.at);
            client.write_all(&[seed as u8]).expect("taken");
            let server = pair.sink.accept();
            expect(&server, &[seed as u8]);
            (seed, client, server)
        })
        .collect();
    thread::scope(|scope| {
        let mut ready = Vec::new();
        for (seed, client, server) in &streams {
            let (tell, told) = std::sync::mpsc::channel();
            ready.push(told);
            scope.spawn(move || {
                send_all(client, *seed, len);
                receive_all(client, seed + 100, len);
            });
            scope.spawn(move || {
                // the answer begins once the drain has
                receive_all(server, *seed, len);
                tell.send(()).expect("awaited");
                send_all(server, seed + 100, len);
            });
        }
        ready[0].recv().expect("told");
        pair.source.signal(Signal::TERM);
        pair.target.signal(Signal::TERM);
        for told in &ready[1..] {
            told.recv().expect("told");
        }
    });
    assert_eq!(pair.source.exit_code(), Some(0));
    assert_eq!(pair.target.exit_code(), Some(0));
    let Endpoint::Unix(path) = &pair.source.at else { panic!("a unix endpoint") };
    assert!(!path.exists() && UnixStream::connect(path).is_err(), "nothing is accepted any more");
}

#[test]
fn a_drain_with_nothing_to_do_ends_at_once() {
    let mut pair = ProgramPair::new(&[]);
    pair.source.signal(Signal::INT);
    assert_eq!(pair.source.exit_code(), Some(0));
    pair.target.signal(Signal::TERM);
    assert_eq!(pair.target.exit_code(), Some(0));
}

#[test]
fn a_drain_past_its_deadline_cuts_and_says_so() {
    let mut pair = ProgramPair::new(&["--drain-timeout", "300ms"]);
    let mut client = dial(&pair.source.at);
    client.write_all(b"hello").expect("taken");
    let mut server = pair.sink.accept();
    expect(&server, b"hello");
    pair.source.signal(Signal::TERM);
    assert_eq!(pair.source.exit_code(), Some(3));
    assert!(matches!(server.read(&mut [0; 1]), Ok(0) | Err(_)));
}

#[test]
fn a_second_signal_aborts() {
    let mut pair = ProgramPair::new(&[]);
    let mut client = dial(&pair.source.at);
    client.write_all(b"hello").expect("taken");
    let server = pair.sink.accept();
    expect(&server, b"hello");
    pair.source.signal(Signal::TERM);
    let Endpoint::Unix(path) = &pair.source.at else { panic!("a unix endpoint") };
    let start = Instant::now();
    while path.exists() {
        assert!(start.elapsed() < PATIENCE, "the drain never began");
        thread::sleep(Duration::from_millis(5));
    }
    pair.source.signal(Signal::TERM);
    assert_eq!(pair.source.exit_code(), Some(1));
}

#[test]
fn five_hundred_connections_at_once() {
    let mut pair = ProgramPair::new(&[]);
    let connections: Vec<_> = (0..500_u32)
        .map(|number| {
            let mut client = dial(&pair.source.at);
            client.write_all(&number.to_be_bytes()).expect("taken");
            client
        })
        .collect();
    let servers: Vec<_> = (0..500)
        .map(|_| {
            let mut server = pair.sink.accept();
            let mut number = [0; 4];
            server.read_exact(&mut number).expect("a number");
            (u32::from_be_bytes(number), server)
        })
        .collect();
    for (number, server) in &servers {
        send_all(server, u64::from(*number), 10_000);
    }
    for (number, client) in connections.iter().enumerate() {
        receive_all(client, number as u64, 10_000);
        send_all(client, number as u64 + 1000, 10_000);
    }
    for (number, server) in &servers {
        receive_all(server, u64::from(*number) + 1000, 10_000);
    }
    for program in [&mut pair.source, &mut pair.target] {
        program.signal(Signal::TERM);
        assert_eq!(program.exit_code(), Some(0));
    }
}

/// With few descriptors some wait to be accepted; all are served, one after the other.
#[test]
fn few_descriptors_make_it_slower_and_nothing_worse() {
    let scratch = Scratch::new();
    let sink = Sink::unix(&scratch.path("sink"));
    let arguments = ["--listen", &scratch.unix("entry"), "--connect", &scratch.unix("sink")];
    let mut program = Program::start_limited(64, &arguments);
    let clients: Vec<_> = (0..100_u8)
        .map(|number| {
            let mut client = dial(&program.at);
            client.write_all(&[number]).expect("taken");
            client
        })
        .collect();
    for number in 0..100_u8 {
        let mut server = sink.accept();
        expect(&server, &[number]);
        server.write_all(&[number]).expect("taken");
        expect(&clients[usize::from(number)], &[number]);
        clients[usize::from(number)].shutdown(std::net::Shutdown::Both).expect("shut down");
    }
    program.signal(Signal::TERM);
    assert_eq!(program.exit_code(), Some(0));
}
