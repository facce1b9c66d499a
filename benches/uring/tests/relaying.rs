//! What any relay must do, as far as the prototype goes: every byte in order, ends one by one, resets as
//! resets. Each test says SKIPPED where there is no io_uring.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use relay_uring_bench::{Endpoint, EventLoop, Ring};

const PATIENCE: Duration = Duration::from_secs(120);
const MIB: usize = 1 << 20;

/// A relay in a thread of its own, for as long as the process lives. `None` without io_uring.
fn relay(from: &Endpoint, to: &Endpoint) -> Option<Endpoint> {
    let (listener, at) = from.listen().expect("listens");
    let to = to.clone();
    let (told, answer) = std::sync::mpsc::channel();
    // a ring is its thread's
    thread::spawn(move || match Ring::new() {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
            eprintln!("SKIPPED: no io_uring here: {error}");
        }
        ring => {
            let ring = ring.expect("a ring");
            told.send(()).expect("heard");
            EventLoop::new(ring, listener, to).run().expect("runs");
        }
    });
    answer.recv().ok().map(|()| at)
}

fn any_port() -> Endpoint {
    "tcp:127.0.0.1:0".parse().expect("an endpoint")
}

fn path() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("relay-uring-{}-{number}", std::process::id()))
}

fn dial(at: &Endpoint) -> TcpStream {
    let Endpoint::Tcp(address) = at else { panic!("{at} is not TCP") };
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("option");
    stream.set_write_timeout(Some(PATIENCE)).expect("option");
    stream
}

fn tcp_sink() -> (TcpListener, Endpoint) {
    let sink = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address: SocketAddr = sink.local_addr().expect("an address");
    (sink, Endpoint::Tcp(address))
}

fn accept(sink: &TcpListener) -> TcpStream {
    let (stream, _) = sink.accept().expect("accepted");
    stream.set_read_timeout(Some(PATIENCE)).expect("option");
    stream
}

fn pattern(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| ((at * 31 + (at >> 8) * 7 + (at >> 16)) ^ seed) as u8).collect()
}

/// Sends in pieces of all sizes, and ends.
fn send(mut stream: &TcpStream, bytes: &[u8]) {
    let (mut at, mut size) = (0, 1);
    while at < bytes.len() {
        let end = (at + size).min(bytes.len());
        stream.write_all(&bytes[at..end]).expect("taken");
        at = end;
        size = size * 3 % 300_007 + 1;
    }
    stream.shutdown(Shutdown::Write).expect("shut down");
}

fn receive(mut stream: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an orderly end");
    bytes
}

#[test]
fn every_byte_arrives_in_order_both_ways_at_once_over_many_connections() {
    let (sink, to) = tcp_sink();
    let Some(at) = relay(&any_port(), &to) else { return };
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let client = dial(&at);
                (&client).write_all(&[0; 8]).expect("taken");
                let server = accept(&sink);
                let mut greeting = [1; 8];
                (&server).read_exact(&mut greeting).expect("read");
                assert_eq!(greeting, [0; 8]);
                // whose client this is nobody knows: both send the same
                let (there, back) = (pattern(1, 8 * MIB + 13), pattern(2, 3 * MIB + 7));
                thread::scope(|scope| {
                    scope.spawn(|| send(&client, &there));
                    scope.spawn(|| send(&server, &back));
                    scope.spawn(|| assert!(receive(&server) == there));
                    assert!(receive(&client) == back);
                });
            });
        }
    });
}

#[test]
fn unix_to_tcp_to_unix() {
    let sink_path = path();
    let sink = UnixListener::bind(&sink_path).expect("bind");
    let Some(middle) = relay(&any_port(), &Endpoint::Unix(sink_path.clone())) else { return };
    let entry = path();
    relay(&Endpoint::Unix(entry.clone()), &middle).expect("there was one before");
    let mut client = UnixStream::connect(&entry).expect("connected");
    let (mut server, _) = sink.accept().expect("accepted");
    let bytes = pattern(3, 20 * MIB);
    thread::scope(|scope| {
        scope.spawn(|| {
            client.write_all(&bytes).expect("taken");
            client.shutdown(Shutdown::Write).expect("shut down");
        });
        let mut got = Vec::new();
        server.read_to_end(&mut got).expect("an end");
        assert!(got == bytes);
    });
    // the other direction is still there
    server.write_all(b"answer").expect("taken");
    drop(server);
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an end");
    assert_eq!(answer, "answer");
    for path in [sink_path, entry] {
        std::fs::remove_file(path).expect("removed");
    }
}

#[test]
fn an_end_is_passed_on_and_the_answer_still_comes() {
    let (sink, to) = tcp_sink();
    let Some(at) = relay(&any_port(), &to) else { return };
    let client = dial(&at);
    send(&client, b"question");
    let server = accept(&sink);
    assert_eq!(receive(&server), b"question");
    thread::sleep(Duration::from_millis(100));
    send(&server, b"answer");
    assert_eq!(receive(&client), b"answer");
}

#[test]
fn a_reset_is_passed_on_as_one_after_what_came_before() {
    let (sink, to) = tcp_sink();
    let Some(at) = relay(&any_port(), &to) else { return };
    let client = dial(&at);
    (&client).write_all(b"before").expect("taken");
    let mut server = accept(&sink);
    let mut before = [0; 6];
    server.read_exact(&mut before).expect("read");
    assert_eq!(&before, b"before");
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("option");
    drop(client);
    assert_eq!(server.read(&mut before).expect_err("no orderly end").kind(), ErrorKind::ConnectionReset);
}

#[test]
fn an_early_answer_survives_an_upload_that_nobody_takes() {
    let (sink, to) = tcp_sink();
    let Some(at) = relay(&any_port(), &to) else { return };
    let mut client = dial(&at);
    client.write_all(b"upload").expect("taken");
    let mut server = accept(&sink);
    server.read_exact(&mut [0; 6]).expect("read");
    server.write_all(b"no, thanks").expect("taken");
    drop(server);
    let mut answer = [0; 10];
    // the upload goes on until the relay has met the refusal
    for _ in 0..64 {
        client.write_all(&[0; 1 << 16]).expect("taken, and thrown away");
    }
    client.read_exact(&mut answer).expect("the answer");
    assert_eq!(&answer, b"no, thanks");
    client.shutdown(Shutdown::Write).expect("shut down");
}

#[test]
fn nobody_behind_it_ends_the_connection() {
    let (sink, to) = tcp_sink();
    drop(sink);
    let Some(at) = relay(&any_port(), &to) else { return };
    let mut client = dial(&at);
    let end = client.read(&mut [0; 1]);
    assert!(
        matches!(&end, Ok(0)) || matches!(&end, Err(e) if e.kind() == ErrorKind::ConnectionReset),
        "{end:?}"
    );
}

#[test]
fn whoever_does_not_read_is_waited_for_and_loses_nothing() {
    let (sink, to) = tcp_sink();
    let Some(at) = relay(&any_port(), &to) else { return };
    let client = dial(&at);
    let server = accept(&sink);
    let bytes = pattern(5, 32 * MIB);
    thread::scope(|scope| {
        scope.spawn(|| send(&client, &bytes));
        thread::sleep(Duration::from_millis(500));
        assert!(receive(&server) == bytes);
    });
}
