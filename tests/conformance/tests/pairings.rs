//! Bytes through every combination of endpoint kinds.

use std::thread;

use relay_conformance::{Authority, Peer, peer, receive_all, send_all, sized};
use relay_conformance::{Endpoint, Kind, MIB, Rig, Road, Scratch, Setup, Sink, expect};

/// Both ends send at once, and each compares what it gets byte for byte.
fn full_duplex(road: Road, len: usize) {
    let rig = Rig::new(road);
    let (client, server) = rig.connect();
    let (up, down) = (len + 17, len / 2 + 1);
    thread::scope(|scope| {
        scope.spawn(|| send_all(&client, 1, up));
        scope.spawn(|| send_all(&server, 2, down));
        scope.spawn(|| receive_all(&server, 1, up));
        receive_all(&client, 2, down);
    });
    for relay in &rig.relays {
        let ended = relay.log().ended(1).remove(0);
        assert!(ended.is_clean(), "{road:?}: {}", ended.text);
        let counts = (ended.count("front_bytes"), ended.count("back_bytes"));
        assert_eq!(counts, (up as u64, down as u64), "{road:?}: {}", ended.text);
    }
    rig.finish();
}

#[test]
fn full_duplex_through_one_relay_between_every_two_kinds() {
    for entry in Kind::LISTEN {
        for sink in Kind::CONNECT {
            full_duplex(Road::single(entry, sink), sized(MIB, 64 * MIB));
        }
    }
}

#[test]
fn full_duplex_through_two_relays_between_every_two_kinds() {
    let middles = [Kind::Tcp, Kind::Tls, Kind::Unix];
    let entries = sized(&[Kind::Unix, Kind::Tcp][..], &Kind::LISTEN);
    let sinks = sized(&[Kind::Unix, Kind::Tcp][..], &Kind::CONNECT);
    for middle in middles {
        for &entry in entries {
            for &sink in sinks {
                full_duplex(Road::pair(entry, middle, sink), sized(MIB, 64 * MIB));
            }
        }
    }
}

/// Lengths around those of a TLS record (2^14), of a batch of them and of a relay's buffers.
#[test]
fn every_length_arrives_whole() {
    let edges = [1_usize, 1 << 14, 1 << 16, 212_992, 1 << 18, (1 << 18) + (1 << 13)];
    for road in [Road::MIGRATION, Road::single(Kind::Tls, Kind::Tls), Road::single(Kind::Unix, Kind::Unix)] {
        let rig = Rig::new(road);
        for (seed, edge) in edges.iter().enumerate() {
            for len in [edge - 1, *edge, edge + 1] {
                let (client, server) = rig.connect();
                thread::scope(|scope| {
                    scope.spawn(|| send_all(&client, seed as u64, len));
                    receive_all(&server, seed as u64, len);
                    scope.spawn(|| send_all(&server, seed as u64, len));
                    receive_all(&client, seed as u64, len);
                });
            }
        }
        rig.finish();
    }
}

#[test]
fn each_listener_of_a_process_has_its_own_backend() {
    let scratch = Scratch::new();
    let identity = Authority::common().issue("node");
    let (client, server) = (identity.client(), identity.server());
    let kinds = [(Kind::Unix, Kind::Tcp), (Kind::Tcp, Kind::Unix), (Kind::Tls, Kind::Unix)];
    let sinks = kinds.map(|(_, sink)| Sink::new(&sink.endpoint(&scratch), &server));
    let at = kinds.map(|(entry, _)| entry.endpoint(&scratch).to_string());
    let relay = Setup::new(&at[0], &sinks[0].at().to_string())
        .route(&at[1], &sinks[1].at().to_string())
        .route(&at[2], &sinks[2].at().to_string())
        .tls(&identity.write(scratch.root()))
        .start();
    for (at, sink) in relay.listening().iter().zip(&sinks).rev() {
        let client = Peer::try_connect(at, &client).expect("a connection");
        let name = at.to_string();
        client.write_all(name.as_bytes()).expect("taken");
        expect(&sink.accept(), name.as_bytes());
    }
}

/// Two listeners that take turns at one descriptor would each miss what the other one was told.
#[test]
fn one_inherited_socket_is_not_given_to_two_listeners() {
    let scratch = Scratch::new();
    let nobody = Authority::common().issue("nobody").server();
    let inherited = Sink::new(&Endpoint::Unix(scratch.path("entry")), &nobody);
    let to = scratch.unix("sink");
    let mut relay =
        Setup::new("fd:one", &to).route("fd:one", &to).inherits(inherited.into_fd(), "one").spawn();
    assert_eq!(relay.exit_code(), Some(1));
    assert!(relay.log().text().contains("fd:one"), "{}", relay.log().text());
    assert!(peer::try_dial(&Endpoint::Unix(scratch.path("entry"))).is_err(), "nobody listens any more");
}
