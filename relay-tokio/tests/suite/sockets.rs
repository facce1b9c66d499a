//! Real sockets of the loopback.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use relay_tokio::{
    Close, Config, EndReason, Failure, PerLeg, Relayed, Side, StopSignal, prepare_close, relay,
    relay_dialing, relay_until, stopper,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;

use crate::{patient, pattern};

const CONFIG: Config = Config::new(1 << 18);

/// Two ends of a TCP connection.
async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let (dialed, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (dialed.expect("connect"), accepted.expect("accept").0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lot_goes_from_tcp_to_unix_and_back() {
    let (client, front) = tcp().await;
    let (server, back) = UnixStream::pair().expect("pair");
    let relaying = tokio::spawn(relay(Side::plain(front), Side::plain(back), CONFIG));
    let (up, down) = (pattern(1, 20 << 20), pattern(2, 10 << 20));
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (mut at_client, mut at_server) = (Vec::new(), Vec::new());
    let (up_again, down_again) = (up.clone(), down.clone());
    let write_up = tokio::spawn(async move {
        to_client.write_all(&up_again).await.expect("written");
        to_client.shutdown().await.expect("shut down");
    });
    let write_down = tokio::spawn(async move {
        to_server.write_all(&down_again).await.expect("written");
        to_server.shutdown().await.expect("shut down");
    });
    patient(async {
        let (a, b) =
            tokio::join!(from_client.read_to_end(&mut at_client), from_server.read_to_end(&mut at_server));
        a.expect("read");
        b.expect("read");
        write_up.await.expect("no panic");
        write_down.await.expect("no panic");
    })
    .await;
    assert!(at_client == down && at_server == up);
    let over = patient(relaying).await.expect("no panic");
    assert!(over.outcome.is_clean());
    assert_eq!(over.stats().delivered, PerLeg::new(20 << 20, 10 << 20));
}

/// Closes both as the outcome says.
fn close(relaying: JoinHandle<Relayed<TcpStream, TcpStream>>) -> JoinHandle<EndReason> {
    tokio::spawn(async move {
        let over = relaying.await.expect("no panic");
        prepare_close(&over.front, over.outcome.close.front).expect("option");
        prepare_close(&over.back, over.outcome.close.back).expect("option");
        over.outcome.flows.front.reason
    })
}

#[tokio::test]
async fn a_reset_arrives_as_a_reset_after_all_that_came_before() {
    let (mut client, front) = tcp().await;
    let (mut server, back) = tcp().await;
    let closed = close(tokio::spawn(relay(Side::plain(front), Side::plain(back), CONFIG)));
    client.write_all(b"half a sentence").await.expect("written");
    let mut got = [0; 15];
    patient(server.read_exact(&mut got)).await.expect("it comes through");
    client.set_zero_linger().expect("option");
    drop(client);
    let error = patient(server.read_u8()).await.expect_err("no end of file");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(patient(closed).await.expect("no panic"), EndReason::SourceFailed(Failure::Reset));
}

#[tokio::test]
async fn an_early_answer_arrives_whole_although_the_upload_fails() {
    let (client, front) = tcp().await;
    let (mut server, back) = tcp().await;
    let config = Config { linger: PerLeg::both(Duration::from_secs(1)), ..CONFIG };
    let closed = close(tokio::spawn(relay(Side::plain(front), Side::plain(back), config)));
    let answer = pattern(3, 100_000);
    let (mut reader, mut writer) = client.into_split();
    let upload = tokio::spawn(async move { while writer.write_all(&[0; 1 << 16]).await.is_ok() {} });
    patient(server.read_exact(&mut [0; 1_000])).await.expect("the upload comes");
    server.write_all(&answer).await.expect("written");
    server.shutdown().await.expect("shut down");
    let mut got = Vec::new();
    // reads nothing more, and is gone as soon as its answer is there
    patient(reader.read_to_end(&mut got)).await.expect("an answer with its end");
    assert!(got == answer);
    drop(server);
    let reason = patient(closed).await.expect("no panic");
    assert!(matches!(reason, EndReason::SinkFailed(_)), "{reason}");
    patient(upload).await.expect("and its writer hears of it");
}

#[tokio::test]
async fn an_aborted_session_is_reset_on_both_sides() {
    let (mut client, front) = tcp().await;
    let (mut server, back) = tcp().await;
    let (stopper, signal) = stopper();
    let closed = close(tokio::spawn(relay_until(Side::plain(front), Side::plain(back), CONFIG, signal)));
    client.write_all(b"!").await.expect("written");
    patient(server.read_u8()).await.expect("it comes through");
    stopper.abort();
    for stream in [&mut client, &mut server] {
        let error = patient(stream.read_u8()).await.expect_err("no end of file");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    assert_eq!(patient(closed).await.expect("no panic"), EndReason::Aborted);
}

#[tokio::test]
async fn a_backend_that_refuses_is_named_with_the_systems_own_words() {
    let (_client, front) = tcp().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let nobody: SocketAddr = listener.local_addr().expect("address");
    drop(listener);
    let dial = async { TcpStream::connect(nobody).await.map(Side::plain) };
    let over = patient(relay_dialing(Side::plain(front), dial, false, CONFIG, StopSignal::never())).await;
    let leg = relay_tokio::Leg::Back;
    assert_eq!(over.outcome.flows.front.reason, EndReason::SetupFailed(leg, Failure::Refused));
    assert_eq!(over.io_error(leg).map(std::io::Error::kind), Some(ErrorKind::ConnectionRefused));
    assert_eq!(over.outcome.close.front, Close::Reset);
}
