//! Out of descriptors: a process of its own, since the limit is the process's.

#[path = "suite/rig.rs"]
#[allow(dead_code, reason = "the suite uses more of it")]
mod rig;

/// The runtime under test.
type Loop = relay_mio::Mio;

use std::io::Write;

use relay_node::control::Command;
use relay_node::endpoint::Endpoint;
use rig::{Node, Scratch, Settings, Sink, dial, expect, patient};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, SockAddr, Socket, Type};

fn limit_descriptors(to: u64) -> Rlimit {
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(to), ..before }).expect("setrlimit");
    before
}

#[test]
fn accepting_pauses_without_descriptors_and_resumes_when_some_are_free() {
    let scratch = Scratch::new();
    let sink = Sink::unix(&scratch.path("sink"));
    let mut node = Node::start(&scratch.unix("entry"), &scratch.unix("sink"), &Settings::default());
    // Somebody who is there already must not be harmed.
    let mut early = dial(&node.at);
    early.write_all(b"early").expect("taken");
    let early_end = sink.accept();
    expect(&early_end, b"early");
    // The clients have their descriptors before these get scarce: only the relay has to do without.
    let Endpoint::Unix(path) = &node.at else { panic!("a unix socket") };
    let address = SockAddr::unix(path).expect("a short path");
    let sockets: Vec<_> =
        (0..20).map(|_| Socket::new(Domain::UNIX, Type::STREAM, None).expect("socket")).collect();
    // Descriptors are given lowest first, so these show which come next: four sessions' and a half.
    let placeholders: Vec<_> = (0..9).map(|_| std::fs::File::open("/dev/null").expect("open")).collect();
    let highest = std::os::fd::AsRawFd::as_raw_fd(placeholders.last().expect("some"));
    let before = limit_descriptors(u64::try_from(highest).expect("positive") + 1);
    drop(placeholders);
    let mut clients: Vec<_> = sockets
        .into_iter()
        .zip(0_u8..)
        .map(|(socket, number)| {
            socket.connect(&address).expect("connect");
            let mut client = patient(socket);
            client.write_all(&[number]).expect("taken");
            client
        })
        .collect();
    clients.reverse();
    node.watch.paused();
    early.write_all(b"still there").expect("taken");
    expect(&early_end, b"still there");
    // As if others had given theirs back.
    setrlimit(Resource::Nofile, before).expect("setrlimit");
    let mut number = 0_u8;
    while let Some(mut client) = clients.pop() {
        let mut server = sink.accept();
        expect(&server, &[number]);
        server.write_all(b"served").expect("taken");
        expect(&client, b"served");
        client.flush().expect("nothing to flush");
        number += 1;
    }
    node.watch.resumed();
    drop((early, early_end));
    node.send(Command::Drain);
    let served = node.join();
    assert_eq!((served.sessions, served.aborted, served.cut_by_deadline), (21, 0, 0));
}
