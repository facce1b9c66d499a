//! TLS on one side or on both. The other end of each TLS session is a relay, too.

use std::cell::Cell;
use std::io;

use relay_tokio::{Close, Config, EndReason, Failure, Leg, Relayed, Side, StopSignal, relay, relay_dialing};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;

use crate::certificates::Authority;
use crate::{exchange, patient, pattern};

const CONFIG: Config = Config::new(1 << 17);

type Pair = Relayed<DuplexStream, DuplexStream>;

/// client ⇄ plain [source node] TLS ⇄ wire ⇄ TLS [target node] plain ⇄ server
struct Road {
    client: DuplexStream,
    server: DuplexStream,
    source: JoinHandle<Pair>,
    target: JoinHandle<Pair>,
}

/// The wire is what `wire` makes of its two ends.
fn road(near: DuplexStream, far: DuplexStream) -> Road {
    narrow_road(near, far, [CONFIG; 2])
}

fn narrow_road(near: DuplexStream, far: DuplexStream, config: [Config; 2]) -> Road {
    let authority = Authority::new();
    let (client, front) = duplex(1 << 16);
    let (server, back) = duplex(1 << 16);
    let source = tokio::spawn(relay(Side::plain(front), Side::tls(near, authority.client()), config[0]));
    let server_side = Side::tls(far, authority.server().codec());
    let target = tokio::spawn(relay(server_side, Side::plain(back), config[1]));
    Road { client, server, source, target }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_go_through_both_ways_in_pieces_of_any_size() {
    for (size, len) in [(1, 3_000), (1_000, 200_000), (1 << 18, 5 << 20)] {
        let (near, far) = duplex(size);
        let mut road = road(near, far);
        let (up, down) = (pattern(1, len), pattern(2, len / 2));
        let (at_client, at_server) = patient(async {
            tokio::join!(exchange(&mut road.client, &up), exchange(&mut road.server, &down))
        })
        .await;
        assert!(at_client == down && at_server == up, "wire of {size}");
        let (source, target) = (road.source.await.expect("no panic"), road.target.await.expect("no panic"));
        assert!(source.outcome.is_clean() && target.outcome.is_clean());
        assert_eq!(source.outcome.flows.back.reason, EndReason::CloseNotify);
        assert_eq!(target.outcome.flows.front.reason, EndReason::CloseNotify);
        assert_eq!(target.outcome.flows.front.delivered, len as u64);
        let peer = target.tls(Leg::Front).expect("authenticated").peer.to_string();
        assert!(peer.contains("node"), "{peer}");
        assert!(target.tls(Leg::Back).is_none() && source.tls_error(Leg::Back).is_none());
    }
}

/// A record is opened whole, and so needs room that nobody may have asked for.
#[tokio::test]
async fn any_capacity_will_do() {
    for capacity in [1, 2, 100, 8_192, 16_383, 16_384] {
        // the other one's records are as large as they come
        for config in [[Config::new(capacity), CONFIG], [CONFIG, Config::new(capacity)]] {
            let (near, far) = duplex(1 << 16);
            let mut road = narrow_road(near, far, config);
            let (up, down) = (pattern(3, 60_000), pattern(4, 50_000));
            let (at_client, at_server) = patient(async {
                tokio::join!(exchange(&mut road.client, &up), exchange(&mut road.server, &down))
            })
            .await;
            assert!(at_client == down && at_server == up, "{config:?}");
            for over in [road.source.await.expect("no panic"), road.target.await.expect("no panic")] {
                assert!(over.outcome.is_clean(), "{config:?}: {:?}", over.outcome);
            }
        }
    }
}

#[tokio::test]
async fn a_half_closed_client_keeps_its_answer() {
    let (near, far) = duplex(500);
    let Road { mut client, mut server, source, target } = road(near, far);
    client.write_all(b"question").await.expect("written");
    client.shutdown().await.expect("shut down");
    let mut got = Vec::new();
    patient(server.read_to_end(&mut got)).await.expect("close_notify becomes an end of file");
    assert_eq!(got, b"question");
    server.write_all(b"answer").await.expect("written");
    drop(server);
    got.clear();
    patient(client.read_to_end(&mut got)).await.expect("read");
    assert_eq!(got, b"answer");
    assert!(source.await.expect("no panic").outcome.is_clean());
    assert!(target.await.expect("no panic").outcome.is_clean());
}

#[tokio::test]
async fn a_session_cut_off_without_its_end_is_truncated_and_not_passed_on_as_an_end() {
    let (near, mut near_wire) = duplex(4_096);
    let (mut far_wire, far) = duplex(4_096);
    let Road { mut client, mut server, source, target } = road(near, far);
    let wire = tokio::spawn(async move {
        // both streams are dropped with it: an end of file without close_notify
        let _ = tokio::io::copy_bidirectional(&mut near_wire, &mut far_wire).await;
    });
    client.write_all(b"one").await.expect("written");
    let mut got = [0; 3];
    patient(server.read_exact(&mut got)).await.expect("it comes through");
    wire.abort();
    let target = patient(target).await.expect("no panic");
    assert_eq!(target.outcome.flows.front.reason, EndReason::SourceFailed(Failure::Truncated));
    assert_eq!(target.outcome.flows.front.delivered, 3);
    assert_eq!(target.outcome.close.back, Close::Reset);
    let source = patient(source).await.expect("no panic");
    assert_eq!(source.outcome.flows.back.reason, EndReason::SourceFailed(Failure::Truncated));
    assert_eq!(source.outcome.close.front, Close::Reset);
}

/// Relays `front` to a backend that must not be dialed.
async fn untouched(front: Side<DuplexStream>) -> Relayed<DuplexStream, Option<DuplexStream>> {
    let dialed = Cell::new(false);
    let dial = async {
        dialed.set(true);
        Err(io::ErrorKind::NotFound.into())
    };
    let over = patient(relay_dialing(front, dial, false, CONFIG, StopSignal::never())).await;
    assert!(!dialed.get(), "the backend was touched");
    assert!(over.back.is_none());
    over
}

#[tokio::test]
async fn a_stranger_reaches_no_backend() {
    let (near, far) = duplex(4_096);
    let (authority, other) = (Authority::new(), Authority::new());
    let (mut client, front) = duplex(4_096);
    client.write_all(b"let me in").await.expect("written");
    let stranger =
        tokio::spawn(relay(Side::plain(front), Side::tls(near, other.client_of(&authority)), CONFIG));
    let over = untouched(Side::tls(far, authority.server().codec())).await;
    assert_eq!(over.outcome.flows.front.reason, EndReason::SetupFailed(Leg::Front, Failure::Rejected));
    assert!(over.tls_error(Leg::Front).is_some() && over.tls(Leg::Front).is_none());
    drop(over);
    let stranger = patient(stranger).await.expect("no panic");
    let reason = stranger.outcome.flows.back.reason;
    assert!(matches!(reason, EndReason::SourceFailed(Failure::Alert(_))), "an alert says why: {reason}");
}

#[tokio::test]
async fn plaintext_and_nothing_at_all_reach_no_backend() {
    for (said, failure) in [(&b"GET / HTTP/1.1\r\n\r\n"[..], Failure::Protocol), (b"", Failure::Truncated)] {
        let (mut peer, front) = duplex(4_096);
        peer.write_all(said).await.expect("written");
        drop(peer.shutdown().await);
        let over = untouched(Side::tls(front, Authority::new().server().codec())).await;
        assert_eq!(over.outcome.flows.front.reason, EndReason::SetupFailed(Leg::Front, failure));
    }
}

#[tokio::test]
async fn tls_is_relayed_to_tls() {
    for capacity in [1, 100, 8_192, 1 << 17] {
        through_both(Config::new(capacity)).await;
    }
}

async fn through_both(config: Config) {
    let (here, there) = (Authority::new(), Authority::new());
    let (near, front) = duplex(4_096);
    let (back, far) = duplex(4_096);
    let (mut client, client_side) = duplex(4_096);
    let (mut server, server_side) = duplex(4_096);
    let middle = relay(Side::tls(front, here.server().codec()), Side::tls(back, there.client()), config);
    let source = relay(Side::plain(client_side), Side::tls(near, here.client()), CONFIG);
    let target = relay(Side::tls(far, there.server().codec()), Side::plain(server_side), CONFIG);
    let (up, down) = (pattern(8, 300_000), pattern(9, 100_000));
    let (middle, source, target, at_client, at_server) = patient(async {
        let peers = (exchange(&mut client, &up), exchange(&mut server, &down));
        tokio::join!(middle, source, target, peers.0, peers.1)
    })
    .await;
    assert!(at_client == down && at_server == up);
    for over in [middle, source, target] {
        assert!(over.outcome.is_clean());
    }
}
