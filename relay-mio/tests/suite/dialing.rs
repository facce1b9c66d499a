//! Backends that are not there yet, are full, or must be dialed in order.

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use relay_core::{EndReason, Failure, Leg, Timer};

use crate::rig::{Node, Rig, Road, Scratch, Settings, Sink, dial, expect, receive_all, send_all};

#[test]
fn a_backend_that_appears_late_is_found() {
    let scratch = Scratch::new();
    let node = Node::start(&scratch.unix("entry"), &scratch.unix("late"), &Settings::default());
    let clients: Vec<_> = (0..5).map(|_| dial(&node.at)).collect();
    for (seed, client) in clients.iter().enumerate() {
        send_all(client, seed as u64, 1000);
    }
    thread::sleep(Duration::from_millis(300));
    let sink = Sink::unix(&scratch.path("late"));
    for seed in 0..5 {
        receive_all(&sink.accept(), seed, 1000);
    }
}

#[test]
fn a_tcp_backend_that_appears_late_is_found() {
    let (sink, at) = Sink::tcp();
    drop(sink); // the port is nobody's now
    let node = Node::start("tcp:127.0.0.1:0", &at, &Settings::default());
    let client = dial(&node.at);
    send_all(&client, 1, 1000);
    thread::sleep(Duration::from_millis(100));
    let address = at.strip_prefix("tcp:").expect("tcp");
    let listener = std::net::TcpListener::bind(address).expect("still nobody's");
    let (socket, _) = listener.accept().expect("accept");
    receive_all(&socket.into(), 1, 1000);
}

#[test]
fn a_backend_that_never_appears_ends_by_the_dial_timeout() {
    let scratch = Scratch::new();
    let mut settings = Settings::default();
    settings.timeouts.dial = Some(Duration::from_millis(300));
    let node = Node::start(&scratch.unix("entry"), &scratch.unix("never"), &settings);
    let mut client = dial(&node.at);
    assert!(matches!(client.read(&mut [0; 1]), Ok(0) | Err(_)));
    let ended = node.watch.only_ended();
    assert_eq!(ended.outcome.flows.front.reason, EndReason::TimedOut(Timer::Dial));
    assert_eq!(ended.dial_failure, Some(Failure::NotFound));
}

#[test]
fn a_backend_that_may_not_be_reached_ends_at_once() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path("file"), b"").expect("a file");
    let settings = Settings::default();
    // a directory below a file: ENOTDIR
    let node = Node::start(&scratch.unix("entry"), &scratch.unix("file/x"), &settings);
    let mut client = dial(&node.at);
    assert!(matches!(client.read(&mut [0; 1]), Ok(0) | Err(_)));
    let ended = node.watch.only_ended();
    assert!(
        matches!(ended.outcome.flows.front.reason, EndReason::SetupFailed(Leg::Back, Failure::Os(_))),
        "{ended:?}"
    );
}

/// QEMU's listeners have a backlog of one or two, and accept when its main loop gets there.
#[test]
fn a_full_backlog_is_tried_again_and_the_order_kept() {
    let scratch = Scratch::new();
    let sink = Sink::unix_with_backlog(&scratch.path("sink"), 1);
    let node = Node::start(&scratch.unix("entry"), &scratch.unix("sink"), &Settings::default());
    let clients: Vec<_> = (0..30_u8)
        .map(|number| {
            let mut client = dial(&node.at);
            client.write_all(&[number]).expect("taken");
            client
        })
        .collect();
    for number in 0..30_u8 {
        if number % 10 == 0 {
            thread::sleep(Duration::from_millis(100));
        }
        expect(&sink.accept(), &[number]);
    }
    drop(clients);
}

/// multifd: who is who is told by the order of connections alone.
#[test]
fn backends_are_connected_in_the_order_in_which_their_fronts_were_accepted() {
    for road in [Road::PlainPair, Road::TlsPair] {
        for threads in [1, 3] {
            let rig = Rig::with(road, &Settings { threads, ..Settings::default() });
            for _ in 0..3 {
                let clients: Vec<_> = (0..16_u8)
                    .map(|number| {
                        let mut client = dial(rig.entry());
                        client.write_all(&[number]).expect("taken");
                        client
                    })
                    .collect();
                for number in 0..16_u8 {
                    expect(&rig.sink.accept(), &[number]);
                }
                drop(clients);
            }
        }
    }
}
