//! Backends that are not there yet, are full, speak first, or care about the order.

use std::thread;
use std::time::Duration;

use relay_conformance::{Authority, Endpoint, Kind, Peer, Rig, Road, Scratch, Setup, Sink};
use relay_conformance::{expect, receive, receive_all, send_all, sized, skipped, transfer};
use socket2::{Domain, Socket, Type};

/// The target's QEMU makes its sockets when the migration begins, and removes them afterwards.
#[test]
fn a_backend_may_appear_after_its_clients_and_go_and_come_back() {
    for kind in [Kind::Unix, Kind::Abstract, Kind::Tcp] {
        let scratch = Scratch::new();
        let nobody = Authority::common().issue("nobody").server();
        // for TCP: a port that was somebody's, at an address where no other test gets it meanwhile
        let apart = Endpoint::parse("tcp:127.0.0.77:0");
        let place = if kind == Kind::Tcp { apart } else { kind.endpoint(&scratch) };
        let sink = Sink::new(&place, &nobody);
        let at = sink.at().clone();
        sink.close();
        if let Endpoint::Unix(path) = &at {
            std::fs::remove_file(path).expect("it was made");
        }
        let relay = Kind::Unix.listen(&scratch, &at).start();
        for round in 0..3_u64 {
            let clients: Vec<_> = (0..5).map(|_| connect(relay.at())).collect();
            for (seed, client) in clients.iter().enumerate() {
                send_all(client, round * 10 + seed as u64, 1000);
            }
            // a few dials have failed by then
            thread::sleep(Duration::from_millis(100));
            let sink = Sink::new(&at, &nobody);
            for (seed, client) in clients.iter().enumerate() {
                let server = sink.accept();
                receive_all(&server, round * 10 + seed as u64, 1000);
                transfer(&server, client, seed as u64, 1000);
            }
            sink.close();
            if let Endpoint::Unix(path) = &at {
                std::fs::remove_file(path).expect("it is there");
            }
        }
    }
}

fn connect(at: &Endpoint) -> Peer {
    Peer::Plain(relay_conformance::peer::dial(at))
}

#[test]
fn a_backend_that_never_appears_is_given_up_and_said_so() {
    let scratch = Scratch::new();
    let relay = Setup::new(&scratch.unix("entry"), &scratch.unix("never"))
        .options(&["--dial-timeout", "300ms"])
        .start();
    assert_eq!(receive(&connect(relay.at()), 0).count, 0);
    let ended = relay.log().ended(1).remove(0);
    assert_eq!((ended.front_end(), ended.field("dial")), ("timeout-dial", "not-found"), "{}", ended.text);
}

/// QEMU listens with a backlog of 1 for memory, 2 for post-copy. connect(2) then says EAGAIN, and no
/// event says when to try again.
#[test]
fn a_full_backlog_is_tried_again_and_the_order_kept() {
    for road in [Road::single(Kind::Unix, Kind::Unix), Road::MIGRATION] {
        let rig = Rig::new(road);
        let at = rig.scratch.unix("narrow");
        let sink = Sink::with_backlog(&Endpoint::parse(&at), &rig.server, 0);
        let last = rig.relays.last().expect("one").at();
        let (front, back);
        let entry = match road.middle {
            None => {
                front = Setup::new(&rig.scratch.unix("entry"), &at).start();
                front.at()
            }
            Some(_) => {
                let files = Authority::common().issue("node").write(rig.scratch.root());
                assert!(matches!(last, Endpoint::Tls(_)));
                back = Setup::new("tls:127.0.0.1:0", &at).tls(&files).start();
                let to = back.at().to_string();
                front = Setup::new(&rig.scratch.unix("entry"), &to).tls(&files).start();
                front.at()
            }
        };
        let clients: Vec<_> = (0..30_u8)
            .map(|number| {
                let client = connect(entry);
                client.write_all(&[number]).expect("taken");
                client
            })
            .collect();
        for number in 0..30_u8 {
            if number % 10 == 0 {
                // its main loop is busy with something else
                thread::sleep(Duration::from_millis(50));
            }
            let server = sink.accept();
            expect(&server, &[number]);
            server.write_all(&[number]).expect("taken");
            expect(&clients[usize::from(number)], &[number]);
        }
    }
}

/// multifd and post-copy channels are told apart by nothing but the order of their connections.
#[test]
fn backends_are_connected_in_the_order_in_which_clients_came() {
    for road in
        [Road::MIGRATION, Road::single(Kind::Unix, Kind::Unix), Road::pair(Kind::Tcp, Kind::Tls, Kind::Tcp)]
    {
        let rig = Rig::new(road);
        for _ in 0..sized(5, 50) {
            let clients: Vec<_> = (0..16_u8)
                .map(|number| {
                    let client = rig.client();
                    client.write_all(&[number]).expect("taken");
                    client
                })
                .collect();
            for (number, client) in (0_u8..).zip(&clients) {
                let server = rig.sink.accept();
                expect(&server, &[number]);
                server.write_all(&[number]).expect("taken");
                expect(client, &[number]);
            }
        }
    }
}

/// On the disk channel the destination (an NBD server) speaks first, and the client waits for it.
#[test]
fn a_server_may_speak_first() {
    for road in Road::SOME {
        let rig = Rig::new(road);
        let (client, server) = rig.connect();
        server.write_all(b"NBDMAGIC").expect("taken");
        expect(&client, b"NBDMAGIC");
        client.write_all(b"then I will").expect("taken");
        expect(&server, b"then I will");
        transfer(&server, &client, 1, 100_000);
        transfer(&client, &server, 2, 100_000);
        rig.finish();
    }
}

/// libvirt's channel and the reverse directions of multifd are silent for as long as memory moves.
/// The limits that a session begins with are none of its later life.
#[test]
fn a_silent_session_lives_on() {
    let limits = ["--dial-timeout", "2s", "--handshake-timeout", "2s"];
    let rigs: Vec<_> = Road::SOME.iter().map(|road| Rig::with(*road, &limits)).collect();
    let sessions: Vec<_> = rigs.iter().map(Rig::connect).collect();
    // one-sided: a machine that is slow makes it longer, never wrong
    thread::sleep(Duration::from_millis(sized(3000, 30_000)));
    for (client, server) in &sessions {
        client.write_all(b"at last").expect("taken");
        expect(server, b"at last");
        server.write_all(b"indeed").expect("taken");
        expect(client, b"indeed");
    }
}

#[test]
fn an_idle_time_that_is_asked_for_is_kept() {
    for road in [Road::single(Kind::Tcp, Kind::Tcp), Road::single(Kind::Tls, Kind::Unix)] {
        let rig = Rig::with(road, &["--idle-timeout", "300ms"]);
        let (client, _server) = rig.connect();
        let received = receive(&client, 0);
        assert!(received.count == 0 && received.end.is_err(), "{received:?}");
        let ended = rig.relays[0].log().ended(1).remove(0);
        assert_eq!(ended.front_end(), "timeout-idle", "{}", ended.text);
    }
}

/// Whoever hangs up before the backend is there, and has sent nothing, wants nothing of it. Whoever has
/// sent something is relayed though it is gone: its end may have come with its last bytes.
#[test]
fn a_client_that_hangs_up_before_its_backend_is_there_is_not_dialed_through() {
    for abstract_too in [Kind::Unix, Kind::Abstract] {
        let scratch = Scratch::new();
        let nobody = Authority::common().issue("nobody").server();
        let at = Kind::Unix.endpoint(&scratch);
        let relay = abstract_too.listen(&scratch, &at).options(&["--dial-timeout", "off"]).start();
        drop(connect(relay.at()));
        let ended = relay.log().ended(1).remove(0);
        assert_eq!((ended.front_end(), ended.back_end()), ("source-hung-up", "severed"), "{}", ended.text);
        let gone = connect(relay.at());
        send_all(&gone, 1, 100_000);
        drop(gone);
        let half = connect(relay.at());
        send_all(&half, 2, 1000);
        half.finish().expect("taken");
        let sink = Sink::new(&at, &nobody);
        receive_all(&sink.accept(), 1, 100_000);
        let server = sink.accept();
        receive_all(&server, 2, 1000);
        transfer(&server, &half, 3, 1000);
        drop((server, half));
        let _ = relay.log().ended(3);
        sink.assert_untouched();
    }
}

/// The same for TCP, where only a reset says that nobody is there any more.
#[test]
fn a_client_that_resets_before_its_backend_is_there_is_not_dialed_through() {
    let scratch = Scratch::new();
    let at = Kind::Unix.endpoint(&scratch);
    let relay = Kind::Tcp.listen(&scratch, &at).options(&["--dial-timeout", "off"]).start();
    connect(relay.at()).reset();
    let client = connect(relay.at());
    client.finish().expect("taken");
    client.reset(); // after its end
    for ended in relay.log().ended(2) {
        assert!(ended.front_end().starts_with("source-"), "{}", ended.text);
    }
    let sink = Sink::new(&at, &Authority::common().issue("nobody").server());
    sink.assert_untouched();
}

/// A name with two addresses, one of which neither answers nor refuses.
#[test]
fn an_address_that_is_a_black_hole_does_not_use_up_the_dial_timeout() {
    if !rustix::process::geteuid().is_root() {
        return skipped("a hosts file of its own: not root");
    }
    let scratch = Scratch::new();
    let nobody = Authority::common().issue("nobody").server();
    let sink = Sink::new(&Endpoint::parse("tcp:127.0.0.1:0"), &nobody);
    let port = sink.at().port();
    // A listener whose queue is full lets the kernel drop whoever else comes.
    let hole = Sink::with_backlog(&Endpoint::parse(&format!("tcp:127.0.0.2:{port}")), &nobody, 0);
    let _full: Vec<_> = (0..4)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
            socket.set_nonblocking(true).expect("flag");
            let _ = socket.connect(&hole.at().address());
            socket
        })
        .collect();
    for order in ["127.0.0.2 127.0.0.1", "127.0.0.1 127.0.0.2"] {
        let hosts: Vec<_> = order.split(' ').map(|address| format!("{address} twin.test\n")).collect();
        std::fs::write(scratch.path("hosts"), hosts.concat()).expect("written");
        let mount =
            format!("mount --bind {} /etc/hosts && exec \"$0\" \"$@\"", scratch.path("hosts").display());
        let relay = Setup::new("unix:@black-hole-test", &format!("tcp:twin.test:{port}"))
            .wrapped(&["unshare", "--mount", "sh", "-c", &mount])
            .options(&["--dial-timeout", "20s"])
            .start();
        // all of them, although the order keeps the second waiting for the first
        let clients: Vec<_> = (0..3).map(|_| connect(relay.at())).collect();
        for (seed, client) in clients.iter().enumerate() {
            let server = sink.accept();
            transfer(client, &server, seed as u64, 1000);
        }
    }
}
