//! When a plain flow goes by a pipe of the kernel's: a process of its own, since pipes are counted in it.

#[path = "suite/rig.rs"]
#[allow(dead_code, reason = "the suite uses more of it")]
mod rig;

/// The runtime under test.
type Loop = relay_mio::Mio;

use std::fs;
use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use relay_node::control::Command;
use rig::{Node, Scratch, Settings, Sink, dial, expect, receive_all, send_all};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const MIB: usize = 1 << 20;

/// Open ends of pipes in this process.
fn pipes() -> usize {
    let links = fs::read_dir("/proc/self/fd").expect("listed").filter_map(|entry| {
        // whoever lists them has one that is gone by now
        fs::read_link(entry.expect("listed").path()).ok()
    });
    links.filter(|link| link.to_string_lossy().starts_with("pipe:")).count()
}

#[test]
fn bulk_goes_by_pipe_and_small_talk_never() {
    let scratch = Scratch::new();
    let sink = Sink::unix(&scratch.path("sink"));
    let mut node = Node::start(&scratch.unix("entry"), &scratch.unix("sink"), &Settings::default());
    let before = pipes();
    let mut client = dial(&node.at);
    let mut server = sink.accept();
    for _ in 0..100 {
        client.write_all(b"ping").expect("taken");
        expect(&server, b"ping");
        server.write_all(b"pong").expect("taken");
        expect(&client, b"pong");
    }
    assert_eq!(pipes(), before, "small talk costs a pipe");

    // The sink is deaf until the relay is full, and then some: what is under way is in a pipe.
    let sent = AtomicUsize::new(0);
    let most = thread::scope(|scope| {
        scope.spawn(|| {
            send_all(&client, 1, 32 * MIB);
            sent.store(1, Ordering::Relaxed);
        });
        let start = Instant::now();
        let mut most = 0;
        while most <= before && start.elapsed() < rig::PATIENCE {
            // a little at a time, so that the flow stays full
            let mut taken = [0; 1];
            match std::io::Read::read(&mut &server, &mut taken) {
                Ok(count) => assert_eq!(count, 1),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            thread::sleep(Duration::from_millis(1));
            most = most.max(pipes());
        }
        // the rest as it comes
        while sent.load(Ordering::Relaxed) == 0 {
            let _ = std::io::Read::read(&mut &server, &mut vec![0; MIB]).expect("more");
        }
        most
    });
    assert!(most > before, "bulk did not go by pipe");
    drop((client, server));
    node.watch.only_ended();

    // With descriptors scarce it goes all the same, without pipes.
    let limit = getrlimit(Resource::Nofile);
    let open = fs::read_dir("/proc/self/fd").expect("listed").count() as u64;
    setrlimit(Resource::Nofile, Rlimit { current: Some(open + 20), ..limit }).expect("setrlimit");
    let kept = pipes();
    let (client, server) = (dial(&node.at), sink.accept());
    thread::scope(|scope| {
        scope.spawn(|| send_all(&client, 2, 8 * MIB));
        receive_all(&server, 2, 8 * MIB);
    });
    drop((client, server));
    assert!(pipes() <= kept, "a pipe although descriptors are scarce");
    setrlimit(Resource::Nofile, limit).expect("setrlimit");
    node.send(Command::Drain);
    assert_eq!(node.join().sessions, 2);
}
