//! Timers, by tokio's own clock, paused.

use std::io;
use std::time::Duration;

use relay_tokio::{
    Config, EndReason, Leg, Side, StopSignal, Timer, relay, relay_dialing, relay_until, stopper,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

/// Tokio's timers go off within a millisecond or so after their time, never before.
fn assert_took(start: Instant, expected: Duration) {
    let took = start.elapsed();
    assert!(took >= expected && took < expected + Duration::from_millis(5), "{took:?}, not {expected:?}");
}

fn ended_by(timer: Timer) -> [EndReason; 2] {
    [EndReason::TimedOut(timer); 2]
}

#[tokio::test(start_paused = true)]
async fn silence_is_no_reason_to_end_unless_asked_for() {
    let (mut client, front) = duplex(16);
    let (mut server, back) = duplex(16);
    let relaying = tokio::spawn(relay(Side::plain(front), Side::plain(back), Config::new(64)));
    sleep(Duration::from_secs(100_000)).await;
    client.write_all(b"!").await.expect("still there");
    assert_eq!(server.read_u8().await.expect("still there"), b'!');
    drop((client, server));
    assert!(relaying.await.expect("no panic").outcome.is_clean());
}

#[tokio::test(start_paused = true)]
async fn idle_counts_from_the_last_byte() {
    let config = Config { idle_timeout: Some(10 * SECOND), ..Config::new(64) };
    let start = Instant::now();
    let (mut client, front) = duplex(16);
    let (mut server, back) = duplex(16);
    let relaying = tokio::spawn(relay(Side::plain(front), Side::plain(back), config));
    for _ in 0..5 {
        sleep(9 * SECOND).await;
        client.write_all(b"!").await.expect("still there");
        server.read_u8().await.expect("still there");
    }
    let over = relaying.await.expect("no panic");
    assert_took(start, 55 * SECOND);
    let flows = over.outcome.flows;
    assert_eq!([flows.front.reason, flows.back.reason], ended_by(Timer::Idle));
    assert_eq!(flows.front.delivered, 5);
}

#[tokio::test(start_paused = true)]
async fn half_open_begins_with_the_end_of_one_direction_and_progress_moves_it_on() {
    let config = Config { half_open_timeout: Some(10 * SECOND), ..Config::new(64) };
    let (mut client, front) = duplex(16);
    let (mut server, back) = duplex(16);
    let relaying = tokio::spawn(relay(Side::plain(front), Side::plain(back), config));
    sleep(1_000 * SECOND).await;
    let start = Instant::now();
    client.shutdown().await.expect("shut down");
    for _ in 0..3 {
        sleep(8 * SECOND).await;
        server.write_all(b"!").await.expect("still there");
        client.read_u8().await.expect("still there");
    }
    let over = relaying.await.expect("no panic");
    assert_took(start, 34 * SECOND);
    assert_eq!(over.outcome.flows.front.reason, EndReason::Eof, "that one had ended well");
    assert_eq!(over.outcome.flows.back.reason, EndReason::TimedOut(Timer::HalfOpen));
}

/// Reads and writes until it is over.
async fn keep_busy(mut client: DuplexStream, mut server: DuplexStream) {
    while client.write_all(b"x").await.is_ok() && server.read_u8().await.is_ok() {
        sleep(SECOND / 7).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_ends_whatever_happens() {
    let config =
        Config { max_lifetime: Some(100 * SECOND), idle_timeout: Some(10 * SECOND), ..Config::new(64) };
    let (client, front) = duplex(16);
    let (server, back) = duplex(16);
    tokio::spawn(keep_busy(client, server));
    let start = Instant::now();
    let over = relay(Side::plain(front), Side::plain(back), config).await;
    assert_took(start, 100 * SECOND);
    assert_eq!(over.outcome.flows.front.reason, EndReason::TimedOut(Timer::Lifetime));
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_at_the_earliest_of_its_deadlines() {
    let (client, front) = duplex(16);
    let (server, back) = duplex(16);
    tokio::spawn(keep_busy(client, server));
    let (stopper, signal) = stopper();
    let start = Instant::now();
    stopper.drain(50 * SECOND); // before it begins
    let relaying = tokio::spawn(relay_until(Side::plain(front), Side::plain(back), Config::new(64), signal));
    sleep(10 * SECOND).await;
    stopper.drain(60 * SECOND);
    sleep(10 * SECOND).await;
    stopper.drain(20 * SECOND);
    drop(stopper);
    let over = relaying.await.expect("no panic");
    assert_took(start, 40 * SECOND);
    assert_eq!(over.outcome.flows.back.reason, EndReason::TimedOut(Timer::Drain));
}

#[tokio::test(start_paused = true)]
async fn a_dial_may_take_so_long() {
    let config = Config { dial_timeout: Some(10 * SECOND), ..Config::new(64) };
    let (_client, front) = duplex(16);
    let start = Instant::now();
    let dial = std::future::pending::<io::Result<Side<DuplexStream>>>();
    let over = relay_dialing(Side::plain(front), dial, false, config, StopSignal::never()).await;
    assert_took(start, 10 * SECOND);
    assert_eq!(over.outcome.flows.front.reason, EndReason::TimedOut(Timer::Dial));
    assert!(over.back.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_handshake_may_take_so_long() {
    let config = Config { secure_timeout: Some(10 * SECOND), ..Config::new(64) };
    let (_client, front) = duplex(16);
    let (_server, back) = duplex(16);
    let codec = crate::certificates::Authority::new().server().codec();
    let start = Instant::now();
    let over = relay(Side::tls(front, codec), Side::plain(back), config).await;
    assert_took(start, 10 * SECOND);
    assert_eq!(over.outcome.flows.front.reason, EndReason::TimedOut(Timer::Secure(Leg::Front)));
}
