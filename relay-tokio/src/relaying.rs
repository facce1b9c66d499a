//! One session as a future: the pump, driven by the wake-ups of its task.

use std::fmt;
use std::future::{self, Future};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use relay_core::{Config, Instant, Leg, Outcome, PerLeg, Pumped, Ready, Relay, Stats, Stop, pump};
use relay_node::failure::failure;
use relay_node::live::BUDGET;
use relay_tls::LegCodec;
use relay_tls::SessionInfo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::alarm::Alarm;
use crate::buffers;
use crate::clock::Clock;
use crate::side::Side;
use crate::stop::{StopSignal, Wish};
use crate::streams::{Notes, Streams};

/// How a relaying went, with the streams that it was made of.
#[derive(Debug)]
pub struct Relayed<F, B> {
    /// How each direction ended, the bytes moved, and how each stream is to be closed.
    pub outcome: Outcome,
    /// The accepted stream. Not shut down beyond what the outcome says.
    pub front: F,
    /// The dialed one.
    pub back: B,
    relay: Relay<LegCodec>,
    notes: PerLeg<Notes>,
}

impl<F, B> Relayed<F, B> {
    /// Who was on the other end of a TLS leg, once its handshake was complete.
    #[must_use]
    pub fn tls(&self, leg: Leg) -> Option<&SessionInfo> {
        self.relay.codec(leg)?.as_tls()?.info()
    }

    /// A sentence about what went wrong with a leg's TLS.
    #[must_use]
    pub fn tls_error(&self, leg: Leg) -> Option<&str> {
        self.relay.codec(leg)?.as_tls()?.error_text()
    }

    /// The first error of a leg's stream, or of dialing it, in its own words. The outcome has its
    /// meaning: a [`Failure`](relay_core::Failure).
    #[must_use]
    pub const fn io_error(&self, leg: Leg) -> Option<&io::Error> {
        match leg {
            Leg::Front => self.notes.front.error.as_ref(),
            Leg::Back => self.notes.back.error.as_ref(),
        }
    }

    /// Bytes read from each leg, and of these delivered to the other.
    #[must_use]
    pub const fn stats(&self) -> Stats {
        self.relay.stats()
    }
}

/// Joins two streams until both directions have ended, and says how that went.
///
/// What `tokio::io::copy_bidirectional` does, and besides:
/// - **either side in TLS**, mutual, with our own record layer: nothing is copied twice;
/// - **an error loses nothing that was read before it**: it is delivered, also the answer of a
///   peer that stopped taking our bytes; only then the other side learns of the error;
/// - **a truncated stream stays one**: its sink is never told an orderly end, and the
///   [`outcome`](Relayed::outcome) says to reset it;
/// - **limits**: timers for a handshake, for silence, for the time after one direction has ended,
///   for the whole; off unless `config` sets them;
/// - **why** each direction ended, and its bytes, read and delivered.
///
/// An EOF of one stream is passed on by `poll_shutdown` once everything before it was taken; the
/// other direction goes on. Streams that buffer what is written are flushed after each write, and a
/// byte counts as delivered when that is done: a [`BufStream`](tokio::io::BufStream) for reading costs
/// nothing, one for writing gains nothing.
///
/// Of `config`, [`secure`](Config::secure) is not looked at (it is what the sides are), nor is
/// [`dial_timeout`](Config::dial_timeout), for nothing is dialed. A [`capacity`](Config::capacity) may
/// be small, but from a TLS side one record is held at least, 16 KiB. Durations count from the first
/// poll.
///
/// # Cancellation
/// Dropping the future at any point is safe: it drops the streams, or ends the borrow of those
/// given by `&mut`. Bytes in its buffers are lost with it (at most the
/// [`capacity`](Config::capacity) each way, and a batch of TLS records), so such streams are not to
/// be relayed again, and a peer should see a reset rather than an end. To end early and be told
/// what was moved, use [`relay_until`].
///
/// # Panics
/// If a capacity is zero; if a stream says that it took more bytes than it was given to write. When
/// polled outside of a tokio runtime with time enabled, if a timer runs.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use relay_tokio::{Config, EndReason, Side, relay};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
///
/// let (mut client, front) = duplex(1024);
/// let (mut server, back) = duplex(1024);
/// let relaying = tokio::spawn(relay(Side::plain(front), Side::plain(back), Config::new(64 << 10)));
///
/// client.write_all(b"question").await.unwrap();
/// client.shutdown().await.unwrap(); // half-closed: it keeps its answer
/// let mut question = String::new();
/// server.read_to_string(&mut question).await.unwrap();
/// server.write_all(b"answer").await.unwrap();
/// drop(server);
///
/// let mut answer = String::new();
/// client.read_to_string(&mut answer).await.unwrap();
/// assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
///
/// let outcome = relaying.await.unwrap().outcome;
/// assert_eq!(outcome.flows.front.reason, EndReason::Eof);
/// assert_eq!(outcome.flows.back.delivered, 6);
/// # }
/// ```
pub async fn relay<F, B>(front: Side<F>, back: Side<B>, config: Config) -> Relayed<F, B>
where
    F: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    relay_until(front, back, config, StopSignal::never()).await
}

/// As [`relay`], until `stop` says otherwise: a drain sets a deadline, an abort ends it at once. Both
/// still give the outcome and the streams back.
///
/// # Panics
/// As [`relay`].
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// use std::time::Duration;
/// use relay_tokio::{Config, EndReason, Side, Timer, relay_until, stopper};
/// use tokio::io::duplex;
///
/// let (_client, front) = duplex(1024);
/// let (_server, back) = duplex(1024);
/// let (stopper, signal) = stopper();
/// let config = Config::new(64 << 10);
/// let relaying = tokio::spawn(relay_until(Side::plain(front), Side::plain(back), config, signal));
///
/// stopper.drain(Duration::from_secs(10)); // nobody finishes
/// let outcome = relaying.await.unwrap().outcome;
/// assert_eq!(outcome.flows.front.reason, EndReason::TimedOut(Timer::Drain));
/// # }
/// ```
pub async fn relay_until<F, B>(
    front: Side<F>,
    back: Side<B>,
    config: Config,
    stop: StopSignal,
) -> Relayed<F, B>
where
    F: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let secure = PerLeg::new(front.is_tls(), back.is_tls());
    let ends = Ends { front: front.stream, back: Given(back.stream) };
    let config = Config { secure, dial_timeout: None, ..config };
    let session = Session::new(ends, front.codec, Some(back.codec), config);
    let nobody = future::pending::<io::Result<Side<B>>>();
    let over = session.run(nobody, stop).await;
    over.map_back(|Given(back)| back)
}

/// As [`relay_until`], with a back that is only dialed once the front is there: if the front is TLS,
/// **its peer is authenticated before the backend is touched**. `dial` is first polled then, and
/// [`dial_timeout`](Config::dial_timeout) is how long it may take. `back_is_tls` says beforehand
/// what the side that it gives will be.
///
/// Nothing is read from a plain front before the back is there, so one that goes away meanwhile is not
/// noticed: without a `dial_timeout` the dial is waited for as long as it takes. In the result `back`
/// is `None` if it was never connected.
///
/// # Panics
/// As [`relay`]; also if the side dialed is not what `back_is_tls` said.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// use relay_tokio::{Config, EndReason, Failure, Leg, Side, StopSignal, relay_dialing};
/// use tokio::net::UnixStream;
///
/// let (_client, front) = UnixStream::pair()?;
/// let dial = async { UnixStream::connect("/nonexistent/backend.sock").await.map(Side::plain) };
/// let config = Config::new(64 << 10);
/// let over = relay_dialing(Side::plain(front), dial, false, config, StopSignal::never()).await;
///
/// assert_eq!(over.outcome.flows.front.reason, EndReason::SetupFailed(Leg::Back, Failure::NotFound));
/// assert!(over.back.is_none());
/// # Ok(())
/// # }
/// ```
pub async fn relay_dialing<F, B>(
    front: Side<F>,
    dial: impl Future<Output = io::Result<Side<B>>>,
    back_is_tls: bool,
    config: Config,
    stop: StopSignal,
) -> Relayed<F, Option<B>>
where
    F: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let secure = PerLeg::new(front.is_tls(), back_is_tls);
    let ends = Ends { front: front.stream, back: Dialed(None) };
    let session = Session::new(ends, front.codec, None, Config { secure, ..config });
    let over = session.run(dial, stop).await;
    over.map_back(|Dialed(back)| back)
}

impl<F, B> Relayed<F, B> {
    fn map_back<U>(self, f: impl FnOnce(B) -> U) -> Relayed<F, U> {
        let Self { outcome, front, back, relay, notes } = self;
        Relayed { outcome, front, back: f(back), relay, notes }
    }
}

/// A back that is there from the beginning, or comes later.
trait Back {
    type Stream: AsyncRead + AsyncWrite + Unpin;

    fn stream(&mut self) -> Option<&mut Self::Stream>;

    fn connected(&mut self, stream: Self::Stream);
}

struct Given<B>(B);

impl<B: AsyncRead + AsyncWrite + Unpin> Back for Given<B> {
    type Stream = B;

    fn stream(&mut self) -> Option<&mut B> {
        Some(&mut self.0)
    }

    fn connected(&mut self, stream: B) {
        self.0 = stream;
    }
}

struct Dialed<B>(Option<B>);

impl<B: AsyncRead + AsyncWrite + Unpin> Back for Dialed<B> {
    type Stream = B;

    fn stream(&mut self) -> Option<&mut B> {
        self.0.as_mut()
    }

    fn connected(&mut self, stream: B) {
        self.0 = Some(stream);
    }
}

/// Both streams.
struct Ends<F, K> {
    front: F,
    back: K,
}

/// See the [module](self).
struct Session<F, K> {
    ends: Ends<F, K>,
    /// The framing of a back that is there, until it may be used.
    back_codec: Option<LegCodec>,
    relay: Relay<LegCodec>,
    notes: PerLeg<Notes>,
    ready: PerLeg<Ready>,
    clock: Clock,
    alarm: Alarm,
}

impl<F, K> fmt::Debug for Session<F, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("relay", &self.relay).finish_non_exhaustive()
    }
}

impl<F, K> Session<F, K>
where
    F: AsyncRead + AsyncWrite + Unpin,
    K: Back,
{
    fn new(ends: Ends<F, K>, front: LegCodec, back_codec: Option<LegCodec>, config: Config) -> Self {
        let clock = Clock::start();
        Self {
            ends,
            back_codec,
            relay: Relay::new(config, front, clock.now()),
            notes: PerLeg::default(),
            ready: PerLeg::both(Ready::BOTH),
            clock,
            alarm: Alarm::default(),
        }
    }

    async fn run<D>(mut self, dial: D, mut stop: StopSignal) -> Relayed<F, K>
    where
        D: Future<Output = io::Result<Side<K::Stream>>>,
    {
        let mut dial = pin!(dial);
        self.obey(stop.present());
        loop {
            let event = {
                let mut wish = pin!(stop.next());
                future::poll_fn(|cx| match wish.as_mut().poll(cx) {
                    Poll::Ready(wish) => Poll::Ready(Event::Wish(wish)),
                    Poll::Pending => self.poll(cx, dial.as_mut()).map(Event::Over),
                })
                .await
            };
            match event {
                Event::Wish(wish) => self.obey(wish),
                Event::Over(outcome) => {
                    let Self { ends, relay, notes, .. } = self;
                    return Relayed { outcome, front: ends.front, back: ends.back, relay, notes };
                }
            }
        }
    }

    fn obey(&mut self, wish: Wish) {
        let stop = match wish {
            Wish::Continue => return,
            Wish::Drain(until) => Stop::Drain { until: self.clock.at(until) },
            Wish::Abort => Stop::Abort,
        };
        self.relay.stop(self.clock.now(), stop);
    }

    /// Does what can be done; everything that may change is polled before it says `Pending`.
    fn poll<D>(&mut self, cx: &mut Context<'_>, mut dial: Pin<&mut D>) -> Poll<Outcome>
    where
        D: Future<Output = io::Result<Side<K::Stream>>>,
    {
        let now = self.clock.now();
        // Nobody says who woke the task.
        self.ready = PerLeg::both(Ready::BOTH);
        self.relay.handle_timeout(now);
        loop {
            let pumped = self.pump(cx, now);
            if let Some(outcome) = self.relay.outcome() {
                return Poll::Ready(*outcome);
            }
            match pumped {
                Pumped::Again => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Pumped::Idle | Pumped::Done => {}
            }
            let goes_on = self.relay.wants_connect() && self.connect(cx, now, dial.as_mut());
            if !goes_on && !self.is_time(cx) {
                return Poll::Pending;
            }
        }
    }

    fn pump(&mut self, cx: &Context<'_>, now: Instant) -> Pumped {
        let Ends { front, back } = &mut self.ends;
        let mut streams = Streams { front, back: back.stream(), notes: &mut self.notes, waker: cx.waker() };
        let mut pool = buffers::take();
        let pumped = pump(&mut self.relay, &mut streams, &mut self.ready, &mut pool, now, BUDGET);
        if pumped == Pumped::Done {
            self.relay.release(&mut pool);
        }
        buffers::give(pool);
        pumped
    }

    /// Back may be connected. Whether that changed anything.
    fn connect<D>(&mut self, cx: &mut Context<'_>, now: Instant, dial: Pin<&mut D>) -> bool
    where
        D: Future<Output = io::Result<Side<K::Stream>>>,
    {
        if let Some(codec) = self.back_codec.take() {
            self.relay.connected(now, codec);
            return true;
        }
        match dial.poll(cx) {
            Poll::Pending => false,
            Poll::Ready(Ok(Side { stream, codec })) => {
                self.ends.back.connected(stream);
                self.relay.connected(now, codec);
                true
            }
            Poll::Ready(Err(error)) => {
                self.relay.setup_failed(now, Leg::Back, failure(&error));
                self.notes.back.error.get_or_insert(error);
                true
            }
        }
    }

    /// Sleeps until the next timer; whether one has fired.
    fn is_time(&mut self, cx: &mut Context<'_>) -> bool {
        let at = self.relay.next_timeout().map(|(at, _)| at);
        let due = self.alarm.is_due(at.and_then(|at| self.clock.to_tokio(at)), cx);
        if let (true, Some(at)) = (due, at) {
            self.relay.handle_timeout(self.clock.now().max(at));
        }
        due
    }
}

/// What ended a poll.
enum Event {
    Wish(Wish),
    Over(Outcome),
}
