//! What ends badly must not look as if it had ended well; what was sent before, and what answers it,
//! still arrives.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use relay_conformance::relay::Relay;
use relay_conformance::{Kind, MIB, Peer, Received, Rig, Road};
use relay_conformance::{expect, receive, receive_all, send, send_all, sized};

/// An end that says that something is missing, where the socket can say that.
fn assert_torn(received: &Received, peer: &Peer, road: Road) {
    match &received.end {
        Ok(()) => assert!(!peer.knows_resets(), "{road:?}: an orderly end after {}", received.count),
        Err(error) => assert!(
            matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof),
            "{road:?}: {error}"
        ),
    }
}

/// Every relay knows that its session did not end well.
fn assert_unclean(relays: &[Relay]) {
    for relay in relays {
        let ended = relay.log().ended(1).remove(0);
        assert!(!ended.is_clean(), "{}", ended.text);
    }
}

#[test]
fn a_reset_of_a_silent_connection_arrives_as_one_in_each_direction() {
    for road in Road::SOME {
        for by_client in [true, false] {
            let rig = Rig::new(road);
            let (client, server) = rig.connect();
            let (leaving, staying) = if by_client { (client, server) } else { (server, client) };
            if !leaving.knows_resets() {
                continue; // it can only end
            }
            leaving.write_all(b"hello").expect("taken");
            expect(&staying, b"hello");
            leaving.reset();
            assert_torn(&receive(&staying, 0), &staying, road);
            assert_unclean(&rig.relays);
            rig.finish();
        }
    }
}

#[test]
fn a_reset_in_the_middle_of_a_stream_arrives_as_one_behind_a_prefix() {
    for road in [
        Road::single(Kind::Tcp, Kind::Tcp),
        Road::single(Kind::Tls, Kind::Tls),
        Road::pair(Kind::Tcp, Kind::Tls, Kind::Tcp),
    ] {
        for by_client in [true, false] {
            let rig = Rig::new(road);
            let (client, server) = rig.connect();
            let (leaving, staying) = if by_client { (client, server) } else { (server, client) };
            thread::scope(|scope| {
                let receiver = scope.spawn(|| receive(&staying, 1));
                send(&leaving, 1, 3 * MIB).expect("taken");
                leaving.reset();
                let received = receiver.join().expect("the right bytes");
                assert!(received.end.is_err(), "{road:?}: an orderly end after {}", received.count);
                assert_torn(&received, &staying, road);
            });
            assert_unclean(&rig.relays);
            rig.finish();
        }
    }
}

/// What the relay has taken before a reset is delivered before it passes that on.
#[test]
fn what_was_taken_before_a_reset_is_delivered_first() {
    for road in [
        Road::single(Kind::Tcp, Kind::Tcp),
        Road::single(Kind::Tls, Kind::Tcp),
        Road::single(Kind::Tcp, Kind::Tls),
    ] {
        let rig = Rig::new(road);
        let (client, server) = rig.connect();
        send(&client, 2, MIB / 2).expect("taken");
        client.reset();
        let ended = rig.relays[0].log().ended(1).remove(0);
        // only now does anybody read
        let received = receive(&server, 2);
        assert!(received.end.is_err(), "{road:?}: an orderly end");
        assert_eq!(received.count as u64, ended.count("front_bytes"), "{road:?}: {}", ended.text);
        assert_eq!(ended.count("front_lost"), 0, "{road:?}: {}", ended.text);
    }
}

/// RFC 8446 section 6.1: without a close_notify anybody may have cut the stream.
#[test]
fn a_fin_without_close_notify_is_a_truncation() {
    for sink in [Kind::Tcp, Kind::Tls, Kind::Unix] {
        let road = Road::single(Kind::Tls, sink);
        let rig = Rig::new(road);
        let (client, server) = rig.connect();
        thread::scope(|scope| {
            scope.spawn(|| {
                send(&client, 3, MIB).expect("taken");
                client.cut().expect("taken");
            });
            let received = receive(&server, 3);
            assert_eq!(received.count, MIB, "{road:?}: what came before it is delivered");
            assert_torn(&received, &server, road);
        });
        let ended = rig.relays[0].log().ended(1).remove(0);
        assert_eq!(ended.front_end(), "source-truncated", "{}", ended.text);
        rig.finish();
    }
    for entry in [Kind::Tcp, Kind::Tls, Kind::Unix] {
        let road = Road::single(entry, Kind::Tls);
        let rig = Rig::new(road);
        let (client, server) = rig.connect();
        thread::scope(|scope| {
            scope.spawn(|| {
                send(&server, 4, MIB).expect("taken");
                server.cut().expect("taken");
            });
            let received = receive(&client, 4);
            assert_eq!(received.count, MIB, "{road:?}: what came before it is delivered");
            assert_torn(&received, &client, road);
        });
        let ended = rig.relays[0].log().ended(1).remove(0);
        assert_eq!(ended.back_end(), "source-truncated", "{}", ended.text);
        rig.finish();
    }
}

/// A node that is killed in the middle of a stream: what is behind the other one sees a reset.
#[test]
fn a_relay_that_is_killed_tears_its_streams() {
    let road = Road::pair(Kind::Tcp, Kind::Tls, Kind::Tcp);
    for which in [0, 1] {
        let mut rig = Rig::new(road);
        let (client, server) = rig.connect();
        client.write_all(b"up").expect("taken");
        expect(&server, b"up");
        server.write_all(b"down").expect("taken");
        expect(&client, b"down");
        rig.relays[which].kill();
        // the end that the other relay serves
        let far = if which == 0 { &server } else { &client };
        let received = receive(far, 0);
        assert!(received.end.is_err(), "{which} killed: an orderly end");
        assert_unclean(&rig.relays[1 - which..2 - which]);
    }
}

/// A server that has its answer ready before it has read the request through, says it and reads no
/// more. The client reads only when it has sent all: whatever becomes of its upload, the whole answer
/// must be there, and its end.
#[test]
fn an_early_answer_survives_the_upload_that_nobody_reads() {
    for road in Road::SOME {
        let rig = Rig::new(road);
        let (client, server) = rig.connect();
        thread::scope(|scope| {
            scope.spawn(|| {
                expect(&server, b"request");
                send_all(&server, 5, 100_000);
                // A plain unix socket refuses what comes from now on. A TCP server that shuts its reading down
                // has its own kernel reset the connection, and what of the answer is still in there is gone.
                if server.knows_resets() {
                    let mut scratch = vec![0; 64 << 10];
                    while matches!(server.read(&mut scratch), Ok(1..)) {}
                } else {
                    let _ = server.socket().shutdown(Shutdown::Read);
                }
            });
            client.write_all(b"request").expect("taken");
            let upload = send(&client, 6, 8 * MIB);
            let finished = upload.is_ok() && client.finish().is_ok();
            let Received { count, end } = receive(&client, 5);
            assert_eq!(count, 100_000, "{road:?}: {end:?} after an upload that ended {upload:?}");
            assert!(end.is_ok(), "{road:?}: {end:?} after an upload that ended {upload:?} {finished}");
        });
        rig.finish();
    }
}

/// The same with a client that reads and uploads at once, and goes on uploading until it is refused.
#[test]
fn an_early_answer_has_its_end_while_the_upload_goes_on() {
    for road in Road::SOME {
        let rig = Rig::new(road);
        for _ in 0..sized(5, 100) {
            let (client, server) = rig.connect();
            let over = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    while client.write_all(&[0; 16 << 10]).is_ok() {
                        if over.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                });
                // enough of it that the rest is stuck behind the relay
                assert!(server.read(&mut vec![0; 64 << 10]).expect("an upload") > 0);
                send_all(&server, 7, 100_000);
                if server.knows_resets() {
                    scope.spawn(|| while matches!(server.read(&mut [0; 4096]), Ok(1..)) {});
                } else {
                    server.socket().shutdown(Shutdown::Read).expect("shut down");
                }
                let Received { count, end } = receive(&client, 7);
                over.store(true, Ordering::Relaxed);
                let _ = client.socket().shutdown(Shutdown::Both);
                assert!(count == 100_000 && end.is_ok(), "{road:?}: {end:?} after {count}");
            });
        }
    }
}

/// The same with a client that never waits: it uploads until it is refused, and then reads. A unix
/// socket that is closed on top of unread input shows its peer ECONNRESET where the end should be.
#[test]
fn an_early_answer_has_its_end_for_a_client_that_does_not_wait() {
    for road in [Road::single(Kind::Unix, Kind::Unix), Road::pair(Kind::Unix, Kind::Tcp, Kind::Unix)] {
        let rig = Rig::new(road);
        for _ in 0..sized(5, 100) {
            let (client, server) = rig.connect();
            thread::scope(|scope| {
                scope.spawn(|| {
                    assert!(server.read(&mut vec![0; 64 << 10]).expect("an upload") > 0);
                    send_all(&server, 7, 100_000);
                    server.socket().shutdown(Shutdown::Read).expect("shut down");
                });
                upload_until_refused(&client);
                let Received { count, end } = receive(&client, 7);
                assert!(count == 100_000 && end.is_ok(), "{road:?}: {end:?} after {count}");
            });
        }
    }
}

/// Without waiting for room, as an event loop does.
fn upload_until_refused(client: &Peer) {
    client.socket().set_nonblocking(true).expect("flag");
    loop {
        match client.write_all(&[0; 4096]) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::BrokenPipe);
                break;
            }
        }
    }
    client.socket().set_nonblocking(false).expect("flag");
}

/// The same, and the server is gone at once with most of the upload unread. On a unix socket what it
/// has sent is not lost by that; whether it was all is not to be seen (recv(2): ECONNRESET).
#[test]
fn an_early_answer_survives_a_server_that_leaves() {
    for road in Road::SOME.into_iter().filter(|road| road.sink == Kind::Unix) {
        let rig = Rig::new(road);
        let (client, server) = rig.connect();
        thread::scope(|scope| {
            scope.spawn(|| while client.write_all(&[0; 16 << 10]).is_ok() {});
            let mut some = vec![0; 64 << 10];
            assert!(server.read(&mut some).expect("an upload") > 0);
            send_all(&server, 7, 100_000);
            drop(server);
            let Received { count, end } = receive(&client, 7);
            let _ = client.socket().shutdown(Shutdown::Both);
            assert_eq!(count, 100_000, "{road:?}: {end:?}");
        });
    }
}

/// When the server fails while its answer is on its way, the client sees what was sent and then that
/// something is wrong.
#[test]
fn an_answer_that_is_cut_short_does_not_look_whole() {
    for road in [
        Road::single(Kind::Tcp, Kind::Tcp),
        Road::single(Kind::Tls, Kind::Tcp),
        Road::pair(Kind::Tcp, Kind::Tls, Kind::Tcp),
    ] {
        let rig = Rig::new(road);
        let (client, server) = rig.connect();
        client.write_all(b"request").expect("taken");
        client.finish().expect("taken");
        expect(&server, b"request");
        receive_all(&server, 0, 0);
        thread::scope(|scope| {
            let receiver = scope.spawn(|| receive(&client, 8));
            send(&server, 8, MIB).expect("taken");
            server.reset();
            let received = receiver.join().expect("the right bytes");
            assert!(received.end.is_err(), "{road:?}: an orderly end after {}", received.count);
        });
        rig.finish();
    }
}

/// After a client's end a reset shows in nothing that is read. The relay notices all the same, and the
/// server of a session that is over for the client learns of it, without saying anything itself.
#[test]
fn a_reset_after_the_end_is_noticed_while_the_server_is_silent() {
    for sink in [Kind::Tcp, Kind::Unix] {
        let rig = Rig::with(Road::single(Kind::Tcp, sink), &["--half-open-timeout", "off"]);
        let (client, server) = rig.connect();
        send_all(&client, 5, 1000);
        client.finish().expect("taken");
        receive_all(&server, 5, 1000);
        client.reset();
        let ended = rig.relays[0].log().ended(1).remove(0);
        assert_eq!((ended.front_end(), ended.back_end()), ("eof", "sink-broken-pipe"), "{}", ended.text);
    }
}
