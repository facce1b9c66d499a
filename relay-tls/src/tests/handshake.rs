//! From the first byte to a secured session.

use relay_core::codec::{Codec, Frame, Opened};
use relay_core::error::Failure;

use super::pki::{Pair, identities};
use super::wire::{Cut, End, Random, carry, pump};
use crate::{ClientTls, CodecError, DataPath, Name, ServerTls};

fn ends(pair: &Pair) -> (End, End) {
    let (client, server) = pair.settings();
    (End::new(client.codec("10.0.0.1").unwrap()), End::new(server.codec()))
}

#[test]
fn secures_both_sides_however_the_bytes_are_cut() {
    let pair = Pair::new();
    for cut in [Cut::Whole, Cut::Bytes, Cut::Random(Random::new(1)), Cut::Random(Random::new(2))] {
        let (mut client, mut server) = ends(&pair);
        pump(&mut client, &mut server, &mut cut.clone());
        assert!(client.codec.is_secured() && server.codec.is_secured());
        assert_eq!((client.failure, server.failure), (None, None));
    }
}

#[test]
fn tells_who_is_there() {
    let pair = Pair::new();
    let (mut client, mut server) = ends(&pair);
    assert!(client.codec.info().is_none());
    pump(&mut client, &mut server, &mut Cut::Whole);
    let (at_client, at_server) = (client.codec.info().unwrap(), server.codec.info().unwrap());
    assert_eq!(at_client.peer.common_name(), Some("target"));
    assert_eq!(at_client.peer.names()[0], Name::Ip("10.0.0.1".parse().unwrap()));
    assert_eq!(at_client.peer.to_string(), "cn:target,ip:10.0.0.1,dns:target.example.org");
    assert_eq!(at_client.peer.not_after_text(), "2100-01-01T00:00:00Z");
    assert_eq!(at_server.peer.to_string(), "cn:source");
    assert_eq!(at_client.protocol, "TLSv1.3");
    assert_eq!(at_client.cipher_suite, "TLS_AES_128_GCM_SHA256");
    assert_eq!(at_client.group, "X25519");
    assert_eq!(at_client.correlation, at_server.correlation);
    assert_ne!(at_client.correlation, [0; 16]);
    let (mut again, mut server) = ends(&pair);
    pump(&mut again, &mut server, &mut Cut::Whole);
    assert_ne!(again.codec.info().unwrap().correlation, client.codec.info().unwrap().correlation);
}

/// A correlation id is exported keying material as any TLS library would export it.
#[test]
fn correlation_is_what_rustls_exports() {
    let pair = Pair::new();
    let (client, _) = pair.settings();
    let mut client = End::new(client.codec("10.0.0.1").unwrap());
    let mut server = super::reference::server(&pair);
    super::reference::handshake(&mut client, &mut server);
    let exported = server.export_keying_material([0; 16], crate::session::CORRELATION_LABEL, None).unwrap();
    assert_eq!(client.codec.info().unwrap().correlation, exported);
}

#[test]
fn the_client_speaks_first_and_the_server_waits() {
    let pair = Pair::new();
    let (mut client, mut server) = ends(&pair);
    assert!(client.codec.control_pending() > 100);
    assert_eq!(server.codec.control_pending(), 0);
    assert_eq!(server.codec.frame(&[]), Ok(Frame::Partial { need: 5 }));
    // Before the handshake is complete there is nothing to close.
    server.codec.close();
    assert_eq!(server.codec.control_pending(), 0);
    let flight = client.codec.control_pending();
    client.codec.close();
    assert_eq!(client.codec.control_pending(), flight);
}

/// Application data and close_notify right behind the client's last handshake message, in one piece.
#[test]
fn data_and_end_in_the_same_read_as_the_finished() {
    let pair = Pair::new();
    let (mut client, mut server) = ends(&pair);
    client.to_send = b"short".to_vec();
    client.close = true;
    client.flush(&mut Cut::Whole);
    carry(&mut client, &mut server, &mut Cut::Whole);
    server.flush(&mut Cut::Whole);
    carry(&mut server, &mut client, &mut Cut::Whole);
    client.flush(&mut Cut::Whole);
    assert!(!server.codec.is_secured());
    // Finished, data, close_notify: one read.
    carry(&mut client, &mut server, &mut Cut::Whole);
    assert_eq!((server.received.as_slice(), server.closed), (&b"short"[..], true));
    assert_eq!(server.eof(), Ok(()));
    // The other direction goes on.
    server.to_send = b"answer".to_vec();
    server.close = true;
    pump(&mut client, &mut server, &mut Cut::Whole);
    assert_eq!((client.received.as_slice(), client.closed), (&b"answer"[..], true));
}

/// A flight whose messages are spread over many tiny records is put together again.
#[test]
fn a_handshake_in_tiny_records() {
    let pair = Pair::new();
    for size in [32, 33, 100, 1000] {
        let (client, _) = pair.settings();
        let mut client = End::new(client.codec("10.0.0.1").unwrap());
        let mut server = super::reference::server_with(&pair, |config| config.max_fragment_size = Some(size));
        super::reference::handshake(&mut client, &mut server);
        assert!(client.codec.is_secured());
    }
    // And the other way, as a server.
    let (_, server) = pair.settings();
    let mut server = End::new(server.codec());
    let mut client = super::reference::client_with(&pair, |config| config.max_fragment_size = Some(32));
    super::reference::handshake(&mut server, &mut client);
    assert!(server.codec.is_secured());
}

#[test]
fn an_end_at_every_byte_of_the_handshake_is_truncation() {
    let pair = Pair::new();
    let mut cut = 0;
    loop {
        let (mut client, mut server) = ends(&pair);
        let mut left = cut;
        // Client to server only so many bytes, the other way all.
        loop {
            client.flush(&mut Cut::Whole);
            server.flush(&mut Cut::Whole);
            let piece = client.outgoing.len().min(left);
            left -= piece;
            server.incoming.extend(client.outgoing.drain(..piece));
            server.open();
            let back = carry(&mut server, &mut client, &mut Cut::Whole);
            if piece == 0 && !back {
                break;
            }
        }
        assert_eq!(server.failure, None);
        if server.codec.is_secured() {
            break;
        }
        assert_eq!(server.codec.transport_eof(), Err(Failure::Truncated));
        assert_eq!(server.codec.transport_eof(), Err(Failure::Truncated), "and stays so");
        let text = server.codec.error_text().unwrap().to_owned();
        match cut {
            0 => assert!(text.contains("before the peer said anything"), "{text}"),
            _ => assert!(text.contains("in the middle of the handshake"), "{text}"),
        }
        cut += if cut < 64 { 1 } else { 61 };
    }
    assert!(cut > 500);
}

#[test]
fn hosts_that_can_be_dialed() {
    let pair = Pair::new();
    let (client, _) = pair.settings();
    for host in
        ["10.0.0.1", "target.example.org", "::1", "[::1]", "fe80::1%eth0", "[fe80::1%eth0]", "localhost"]
    {
        assert!(client.codec(host).is_ok(), "{host}");
    }
    for host in ["", "a b", "-", "host:1", "[", "täst"] {
        let error = client.codec(host).unwrap_err();
        assert_eq!(error, CodecError::InvalidHost { host: host.to_owned() });
        assert!(error.to_string().contains("neither a DNS name nor an IP address"));
    }
}

#[test]
fn settings_are_cheap_to_clone_and_outlive_their_replacement() {
    let (old, new) = (Pair::new(), Pair::new());
    let client = ClientTls::builder(&old.client).peers(identities(&["cn:target"])).build().unwrap();
    let mut server = ServerTls::builder(&old.server).build().unwrap();
    let begun = server.clone();
    let (mut a, mut b) = (End::new(client.codec("x").unwrap()), End::new(begun.codec()));
    server = ServerTls::builder(&new.server).build().unwrap();
    pump(&mut a, &mut b, &mut Cut::Whole);
    assert!(a.codec.is_secured() && b.codec.is_secured());
    let (mut a, mut b) = (End::new(client.codec("x").unwrap()), End::new(server.codec()));
    pump(&mut a, &mut b, &mut Cut::Whole);
    assert_eq!(a.failure, Some(Failure::Rejected));
}

/// What is not exactly one record is the caller's mistake, or a stranger's: never a panic.
#[test]
fn open_takes_nothing_but_one_record() {
    let pair = Pair::new();
    for wrong in [&b""[..], &[22, 3, 3], &[22, 3, 3, 0, 2, 0], &[22, 3, 3, 0, 1, 0, 0]] {
        let (_, mut server) = ends(&pair);
        assert_eq!(server.codec.open(&mut wrong.to_vec()), Err(Failure::Protocol));
        assert_eq!(server.codec.open(&mut wrong.to_vec()), Err(Failure::Protocol));
    }
    let (_, mut server) = ends(&pair);
    assert!(!matches!(server.codec.open(&mut [22, 3, 3, 0, 1, 1]), Ok(Opened::Data(_))));
}

/// Neither as a server nor as a client: certificates are looked at every time.
#[test]
fn nothing_is_ever_resumed() {
    use rustls::HandshakeKind;

    let pair = Pair::new();
    let (_, server) = pair.settings();
    let mut end = End::new(server.codec());
    let mut client = super::reference::client_with(&pair, |_| {});
    super::reference::handshake(&mut end, &mut client);
    end.to_send = b"data".to_vec();
    super::reference::exchange(&mut end, &mut client).unwrap();
    assert_eq!(client.tls13_tickets_received(), 0);

    let client = ClientTls::builder(&pair.client).data_path(DataPath::Rustls).build().unwrap();
    let reference = super::reference::server_config(&pair, |config| config.send_tls13_tickets = 2);
    for _ in 0..3 {
        let mut end = End::new(client.codec("10.0.0.1").unwrap());
        let mut server = rustls::ServerConnection::new(reference.clone()).unwrap();
        super::reference::handshake(&mut end, &mut server);
        assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
    }
}
