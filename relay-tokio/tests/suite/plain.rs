//! Plain streams on both sides.

use std::io::ErrorKind;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use relay_tokio::{
    Close, Config, EndReason, Failure, Leg, Side, StopSignal, relay, relay_dialing, relay_until, stopper,
};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufStream, ReadBuf, copy_bidirectional, duplex,
};

use crate::scripted::Scripted;
use crate::{exchange, patient, pattern};

#[tokio::test]
async fn does_what_copy_bidirectional_does_when_all_goes_well() {
    for (size, capacity, up, down) in
        [(1, 1, 500, 300), (3, 64, 5_000, 0), (7, 1 << 18, 0, 9_000), (1 << 16, 1 << 18, 3 << 20, 2 << 20)]
    {
        let (upload, download) = (pattern(1, up), pattern(2, down));
        let mut results = Vec::new();
        for ours in [true, false] {
            let (mut client, mut front) = duplex(size);
            let (mut server, mut back) = duplex(size);
            let relaying = async {
                if ours {
                    let config = Config::new(capacity);
                    let over = relay(Side::plain(&mut front), Side::plain(&mut back), config).await;
                    assert!(over.outcome.is_clean());
                    let flows = over.outcome.flows;
                    assert_eq!(
                        over.outcome.close.map(|close| close == Close::Orderly),
                        [true; 2].into_legs()
                    );
                    assert_eq!(over.stats().delivered, flows.map(|flow| flow.delivered));
                    (flows.front.delivered, flows.back.delivered)
                } else {
                    copy_bidirectional(&mut front, &mut back).await.expect("copied")
                }
            };
            let all = async {
                tokio::join!(relaying, exchange(&mut client, &upload), exchange(&mut server, &download))
            };
            results.push(patient(all).await);
        }
        assert_eq!(results[0], results[1]);
        assert_eq!(results[0], ((up as u64, down as u64), download, upload));
    }
}

trait IntoLegs<T> {
    fn into_legs(self) -> relay_tokio::PerLeg<T>;
}

impl<T> IntoLegs<T> for [T; 2] {
    fn into_legs(self) -> relay_tokio::PerLeg<T> {
        let [front, back] = self;
        relay_tokio::PerLeg::new(front, back)
    }
}

#[tokio::test]
async fn whoever_ends_first_keeps_its_answer() {
    for first in Leg::BOTH {
        let (client, front) = duplex(16);
        let (server, back) = duplex(16);
        let (mut early, mut late) = match first {
            Leg::Front => (client, server),
            Leg::Back => (server, client),
        };
        let relaying = tokio::spawn(relay(Side::plain(front), Side::plain(back), Config::new(64)));
        early.write_all(b"question").await.expect("written");
        early.shutdown().await.expect("shut down");
        let mut question = Vec::new();
        patient(late.read_to_end(&mut question)).await.expect("the end is passed on");
        assert_eq!(question, b"question");
        // long after: far more than fits the buffers
        let answer = pattern(3, 10_000);
        let (written, got) = patient(async {
            let mut got = Vec::new();
            let write = async {
                late.write_all(&answer).await?;
                late.shutdown().await
            };
            let (written, read) = tokio::join!(write, early.read_to_end(&mut got));
            read.expect("read");
            (written, got)
        })
        .await;
        written.expect("written");
        assert_eq!(got, answer);
        let over = patient(relaying).await.expect("no panic");
        assert!(over.outcome.is_clean());
        assert_eq!(over.outcome.flows[first.other()].delivered, 10_000);
    }
}

#[tokio::test]
async fn an_early_answer_survives_the_failure_of_the_upload() {
    let answer = pattern(4, 3_000);
    let client = Scripted { reads: [700, 700, 0, 700].into(), ..Scripted::new(&pattern(5, 100_000)) };
    let server = Scripted {
        write_error: Some((1_000, ErrorKind::BrokenPipe)),
        reads: [0, 0, 0, 0, 0, 0, 1_000, 0, 0, 1_000].into(),
        ..Scripted::new(&answer)
    };
    let over = patient(relay(Side::plain(client), Side::plain(server), Config::new(4_096))).await;
    assert_eq!(over.front.output, answer);
    assert!(over.front.shut, "and its end");
    assert_eq!(over.outcome.flows.back.reason, EndReason::Eof);
    assert_eq!(over.outcome.flows.front.reason, EndReason::SinkFailed(Failure::BrokenPipe));
    assert_eq!(over.outcome.flows.front.delivered, 1_000);
    assert_eq!(over.io_error(Leg::Back).map(std::io::Error::kind), Some(ErrorKind::BrokenPipe));
    assert!(over.io_error(Leg::Front).is_none());
}

#[tokio::test]
async fn what_was_read_before_an_error_is_delivered_and_its_end_is_no_end() {
    let front =
        Scripted { read_error: Some(ErrorKind::ConnectionReset), ..Scripted::new(&pattern(6, 9_000)) };
    let back = Scripted { writes: [0, 1, 0, 2, 0, 3, 0, 4_000, 0].into(), ..Scripted::new(b"") };
    // back says nothing and does not end before front has failed
    let back = Scripted { reads: [0; 60].into(), ..back };
    let over = patient(relay(Side::plain(front), Side::plain(back), Config::new(1_000))).await;
    assert_eq!(over.back.output, pattern(6, 9_000));
    assert!(!over.back.shut);
    assert_eq!(over.outcome.flows.front.reason, EndReason::SourceFailed(Failure::Reset));
    assert_eq!(over.outcome.close.back, Close::Reset);
    assert_eq!(over.outcome.close.front, Close::Dead);
}

#[tokio::test]
async fn a_write_that_takes_nothing_is_a_failure() {
    let back = Scripted { write_error: Some((5, ErrorKind::WriteZero)), ..Scripted::new(b"") };
    let over =
        patient(relay(Side::plain(Scripted::new(b"0123456789")), Side::plain(back), Config::new(64))).await;
    assert_eq!(over.outcome.flows.front.reason, EndReason::SinkFailed(Failure::WriteZero));
    assert_eq!(over.outcome.flows.front.delivered, 5);
}

#[tokio::test]
async fn a_stream_that_buffers_is_flushed_whenever_there_is_a_pause() {
    let (mut client, front) = duplex(64);
    let (mut server, back) = duplex(64);
    let (front, back) = (BufStream::new(front), BufStream::new(back));
    let relaying = tokio::spawn(relay(Side::plain(front), Side::plain(back), Config::new(1 << 16)));
    let mut got = [0; 4];
    for _ in 0..10 {
        client.write_all(b"ping").await.expect("written");
        patient(server.read_exact(&mut got)).await.expect("it comes through");
        server.write_all(b"pong").await.expect("written");
        patient(client.read_exact(&mut got)).await.expect("it comes back");
        assert_eq!(&got, b"pong");
    }
    drop((client, server));
    assert!(patient(relaying).await.expect("no panic").outcome.is_clean());
}

#[tokio::test]
async fn what_a_stream_only_buffers_is_not_delivered_yet() {
    let bytes = pattern(7, 5_000);
    for end in [None, Some(ErrorKind::ConnectionReset)] {
        let (mut server, wire) = duplex(16);
        let back = BufStream::with_capacity(1 << 16, 1 << 16, wire);
        let front = Scripted { read_error: end, ..Scripted::new(&bytes) };
        let relaying = tokio::spawn(async move {
            let over = relay(Side::plain(front), Side::plain(back), Config::new(1 << 16)).await;
            over.outcome // and the streams are gone, with what is in them
        });
        let mut got = Vec::new();
        patient(server.read_to_end(&mut got)).await.expect("read");
        drop(server);
        let flow = patient(relaying).await.expect("no panic").flows.front;
        assert_eq!((got.len(), flow.delivered), (5_000, 5_000), "{flow:?}");
        assert!(got == bytes);
        let reason = end.map_or(EndReason::Eof, |_| EndReason::SourceFailed(Failure::Reset));
        assert_eq!(flow.reason, reason);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_takes_nothing_of_what_is_buffered_is_given_up_in_time_and_nothing_is_claimed() {
    let (_server, wire) = duplex(16);
    let back = BufStream::with_capacity(1 << 16, 1 << 16, wire);
    let front = Scripted { read_error: Some(ErrorKind::ConnectionReset), ..Scripted::new(&[7; 5_000]) };
    let config = Config { idle_timeout: Some(Duration::from_secs(10)), ..Config::new(1 << 16) };
    let over = patient(relay(Side::plain(front), Side::plain(back), config)).await;
    let flow = over.outcome.flows.front;
    let reason = EndReason::SourceFailed(Failure::Reset);
    assert_eq!((flow.reason, flow.read, flow.delivered), (reason, 5_000, 0));
    assert_eq!(over.outcome.close.back, Close::Reset);
}

/// Takes more than there is.
struct Boaster;

impl AsyncRead for Boaster {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Boaster {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len() + 1))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
#[should_panic(expected = "a stream is at fault: its poll_write was given 5 bytes and says that it took 6")]
async fn a_stream_that_takes_more_than_there_is_is_named_as_at_fault() {
    patient(relay(Side::plain(Scripted::new(b"hello")), Side::plain(Boaster), Config::new(64))).await;
}

/// Says for ever that a signal came first.
struct Nervous;

impl AsyncRead for Nervous {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Poll::Ready(Err(ErrorKind::Interrupted.into()))
    }
}

impl AsyncWrite for Nervous {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Err(ErrorKind::Interrupted.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Err(ErrorKind::Interrupted.into()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Err(ErrorKind::Interrupted.into()))
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_stream_that_is_always_interrupted_lets_others_have_their_turn() {
    for (front, back) in [(true, false), (false, true)] {
        let (stopper, signal) = stopper();
        let side = |nervous: bool| -> Box<dyn Stream> {
            if nervous { Box::new(Nervous) } else { Box::new(Scripted::new(b"hello")) }
        };
        let sides = (Side::plain(side(front)), Side::plain(side(back)));
        let relaying = tokio::spawn(relay_until(sides.0, sides.1, Config::new(64), signal));
        tokio::time::sleep(Duration::from_millis(20)).await;
        stopper.abort();
        patient(relaying).await.expect("no panic");
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// There is nothing to dial.
#[tokio::test]
async fn a_dial_timeout_is_no_matter_to_streams_that_are_there() {
    let config = Config { dial_timeout: Some(Duration::ZERO), ..Config::new(64) };
    let (front, back) = (Scripted::new(b"question"), Scripted::new(b"answer"));
    let over = patient(relay(Side::plain(front), Side::plain(back), config)).await;
    assert!(over.outcome.is_clean());
    assert_eq!(over.back.output, b"question");
}

#[tokio::test]
async fn errors_without_a_number_have_their_meaning() {
    for (kind, failure) in [(ErrorKind::WouldBlock, Failure::Busy), (ErrorKind::Other, Failure::Other)] {
        let dial = async move { Err::<Side<Scripted>, _>(kind.into()) };
        let front = Side::plain(Scripted::new(b""));
        let over = patient(relay_dialing(front, dial, false, Config::new(64), StopSignal::never())).await;
        assert_eq!(over.outcome.flows.front.reason, EndReason::SetupFailed(Leg::Back, failure));
        assert_eq!(over.io_error(Leg::Back).map(std::io::Error::kind), Some(kind));
    }
}

#[tokio::test]
async fn what_could_not_be_flushed_is_no_clean_end() {
    let back = Scripted { flush_error: Some(ErrorKind::ConnectionReset), ..Scripted::new(b"") };
    let over =
        patient(relay(Side::plain(Scripted::new(b"all of it")), Side::plain(back), Config::new(64))).await;
    assert_eq!(over.outcome.flows.front.reason, EndReason::SinkFailed(Failure::Reset));
    assert_ne!(over.outcome.close.back, Close::Orderly);
}

#[tokio::test]
async fn dropped_between_two_bytes_it_leaves_the_streams_as_they_are() {
    let (mut client, mut front) = duplex(16);
    let (mut server, mut back) = duplex(16);
    let mut got = [0; 1];
    for byte in 0..100 {
        {
            let mut relaying = pin!(relay(Side::plain(&mut front), Side::plain(&mut back), Config::new(64)));
            client.write_all(&[byte]).await.expect("written");
            tokio::select! {
                _ = &mut relaying => panic!("nobody ended it"),
                read = server.read_exact(&mut got) => assert_eq!(read.expect("read"), 1),
            }
        }
        assert_eq!(got, [byte]);
    }
    // unread by anybody so far, it is there for whoever relays next
    client.write_all(b"rest").await.expect("written");
    drop(client);
    drop(server.write_all(b"x").await);
    server.shutdown().await.expect("shut down");
    let over = patient(relay(Side::plain(&mut front), Side::plain(&mut back), Config::new(64))).await;
    assert_eq!(over.outcome.flows.front.delivered, 4);
}

#[tokio::test]
async fn an_abort_ends_it_at_once_and_gives_the_streams_back() {
    let (mut client, front) = duplex(16);
    let (_server, back) = duplex(16);
    let (stopper, signal) = stopper();
    let sides = (Side::plain(front), Side::plain(back));
    let relaying = tokio::spawn(relay_until(sides.0, sides.1, Config::new(64), signal.clone()));
    client.write_all(&[7; 60]).await.expect("taken");
    stopper.abort();
    let over = patient(relaying).await.expect("no panic");
    assert_eq!(over.outcome.flows.map(|flow| flow.reason), [EndReason::Aborted; 2].into_legs());
    assert_eq!(over.outcome.close, [Close::Reset; 2].into_legs());
    // and who comes later does not begin
    let over = patient(relay_until(Side::plain(over.front), Side::plain(over.back), Config::new(64), signal));
    assert_eq!(over.await.outcome.flows.front.reason, EndReason::Aborted);
}

/// Always ready, both ways.
struct Endless;

impl AsyncRead for Endless {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        buffer.initialize_unfilled();
        buffer.advance(buffer.remaining());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_stream_without_end_lets_others_have_their_turn() {
    let (stopper, signal) = stopper();
    let config = Config::new(1 << 18);
    let relaying = tokio::spawn(relay_until(Side::plain(Endless), Side::plain(Endless), config, signal));
    tokio::time::sleep(Duration::from_millis(20)).await;
    stopper.abort();
    let over = patient(relaying).await.expect("no panic");
    assert!(over.outcome.flows.front.delivered > 1 << 20);
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn nothing_to_do_wakes_nobody() {
    let (_client, front) = duplex(16);
    let (_server, back) = duplex(16);
    let mut relaying = pin!(relay(Side::plain(front), Side::plain(back), Config::new(64)));
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&count));
    // no runtime at all: none is needed as long as no timer runs
    for _ in 0..3 {
        assert!(relaying.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    assert_eq!(count.0.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_back_is_dialed_and_what_came_first_waits_in_the_stream() {
    let (mut client, front) = duplex(64);
    client.write_all(b"hello").await.expect("written");
    client.shutdown().await.expect("shut down");
    let (mut server, back) = duplex(64);
    let dial = async {
        tokio::task::yield_now().await;
        Ok(Side::plain(back))
    };
    let relaying = relay_dialing(Side::plain(front), dial, false, Config::new(64), StopSignal::never());
    let serve = async {
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.expect("read");
        drop(server);
        got
    };
    let (over, got) = patient(async { tokio::join!(relaying, serve) }).await;
    assert_eq!(got, b"hello");
    assert!(over.outcome.is_clean() && over.back.is_some());
}

#[tokio::test]
async fn a_relaying_can_be_sent_to_another_thread() {
    fn is_send(_: &impl Send) {}
    let (_client, front) = duplex(64);
    let (_server, back) = duplex(64);
    is_send(&relay(Side::plain(front), Side::plain(back), Config::new(64)));
}
