//! One session while it is open: its relay, its sockets, what is known of their readiness, and its
//! dial. Whatever loop it lives in: that one is its [`Desk`].

use std::sync::Arc;

use relay_core::admission::{Dialer, Stranger};
use relay_core::bandwidth::Throttle;
use relay_core::{Failure, Instant, Leg, Outcome, PerLeg, Pumped, Ready, Relay, Stop, pump_throttled};
use relay_tls::{LegCodec, TlsCodec};
use socket2::Socket;

use crate::acceptor::{Accepted, Place, Report};
use crate::closing::Closing;
use crate::observer::{Observer, SessionEnded};
use crate::pipes::Stock;
use crate::reserve::{self, Reserve};
use crate::sessions::Seat;
use crate::socket::{self, Dialing};
use crate::transport::{Sockets, Turn};

/// Bytes that a session may move before others have their turn. A TLS record takes some microseconds
/// to seal or open, so a message that finds one busy stream before it waits for about a tenth of a
/// millisecond; a turn costs one look at the poller, which is nothing beside so many bytes.
pub const BUDGET: usize = 256 << 10;

/// What a loop does for a session of its own.
pub trait Desk {
    /// Where the acceptor finds the session.
    type Address: Copy;

    /// What the clock of the [`SessionTable`](crate::SessionTable) shows.
    fn now(&self) -> Instant;

    /// Where the acceptor finds the session.
    fn address(&self) -> Self::Address;

    /// Tells the acceptor.
    fn report(&mut self, report: Report<Self::Address>);

    /// Calls [`Live::on_edge`] whenever this socket becomes readable or writable, until it is closed, and
    /// soon if it is readable already.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    fn register(&mut self, leg: Leg, socket: &Arc<Socket>) -> Result<(), Failure>;

    /// The leg's socket is about to be closed, or to be nobody's business any more: whatever shares in it
    /// is dropped. Does nothing if none was registered.
    fn forget(&mut self, leg: Leg);

    /// Buffers and pipes of the loop's.
    fn stock(&mut self) -> &mut Stock;

    /// Whom to tell what happens.
    fn observer(&self) -> &dyn Observer;

    /// Counts a session that has ended.
    fn count(&mut self, outcome: &Outcome);

    /// Something else each time, for jitter.
    fn seed(&mut self) -> u64;
}

/// A backend that is not connected yet.
#[derive(Debug)]
struct Dial {
    dialer: Dialer,
    /// Its turn has come.
    may: bool,
    /// A socket whose connection is being made.
    under_way: Option<Arc<Socket>>,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Live {
    relay: Relay<LegCodec>,
    io: Sockets,
    ready: PerLeg<Ready>,
    seat: Arc<Seat>,
    /// A limit of the rate, if there is one.
    throttle: Option<Throttle>,
    /// Until it has left its place.
    place: Option<Place>,
    /// Its turn to be dialed had come when it was accepted.
    turn: Option<Instant>,
    /// Its backend's, between dials.
    reserve: Option<Reserve>,
    /// Its front has to prove who it is, and has not yet.
    stranger: Option<Stranger>,
    /// It has said something, and the acceptor was told.
    spoke: bool,
    /// From when Back is wanted until it is connected.
    dial: Option<Box<Dial>>,
    /// The operator drains.
    draining: bool,
}

impl Live {
    /// A session for a connection just accepted; it is to be pumped at once.
    pub fn new(accepted: Accepted, cx: &mut impl Desk) -> Self {
        let Accepted { socket, reserve, seat, place, stranger, turn } = accepted;
        let (plan, since) = (seat.plan(), seat.since());
        let relay = Relay::new(*plan.config(), plan.front_codec(), since);
        let socket = Arc::new(socket);
        let registered = cx.register(Leg::Front, &socket);
        let mut live = Self {
            stranger,
            spoke: false,
            relay,
            io: Sockets::new(socket),
            // Whoever watches a socket is told of what is there to be read already; it need not be tried.
            ready: PerLeg::both(Ready { writable: true, ..Ready::default() }),
            throttle: seat.throttle(),
            seat: Arc::new(seat),
            place: Some(place),
            turn,
            reserve: Some(reserve),
            dial: None,
            draining: false,
        };
        if let Err(failure) = registered {
            live.relay.setup_failed(cx.now(), Leg::Front, failure);
        }
        live
    }

    /// Bytes have come, or there is room for some, or something is wrong: the pump will find out.
    pub fn on_edge(&mut self, leg: Leg, edge: Ready, cx: &mut impl Desk) {
        if let (Leg::Back, Some(dial)) = (leg, &mut self.dial) {
            if edge.writable && dial.under_way.is_some() {
                self.on_dialed(cx);
            }
            if self.dial.is_some() {
                return; // of a socket that is not this leg's, or not any more
            }
        }
        self.ready[leg].readable |= edge.readable;
        self.ready[leg].writable |= edge.writable;
        self.ready[leg].hung_up |= edge.hung_up;
    }

    /// Whatever timer is due fires.
    pub fn on_time(&mut self, now: Instant, cx: &mut impl Desk) {
        self.relay.handle_timeout(now);
        if let Some(dial) = &mut self.dial {
            dial.dialer.handle_timeout(now);
            if dial.dialer.trying().is_none()
                && let Some(socket) = dial.under_way.take()
            {
                self.seat.tally().dial_failed(Failure::TimedOut);
                cx.forget(Leg::Back);
                self.exchange_for_reserve(socket);
                self.after_failure(now);
            }
            self.try_dial(cx);
        }
    }

    /// It has to make room for others, unless its peer has just proved who it is.
    pub fn evict(&mut self, now: Instant) {
        if !self.relay.session().is_up(Leg::Front) {
            self.relay.setup_failed(now, Leg::Front, Failure::Evicted);
        }
    }

    /// The limits of the rate have changed.
    pub fn relimit(&mut self) {
        self.throttle = self.seat.throttle();
    }

    /// Ends it if the peer of a leg would not be let in any more. Whether that is so.
    pub fn review(&mut self, now: Instant) -> bool {
        for leg in Leg::BOTH {
            let tls = self.relay.codec(leg).and_then(LegCodec::as_tls);
            if let Some(why) = tls.and_then(TlsCodec::distrust) {
                self.relay.distrusted(now, leg, why);
            }
        }
        self.relay.outcome().is_some()
    }

    /// What is known of a leg's readiness; of a back that is not connected, nothing.
    #[must_use]
    pub fn ready(&self, leg: Leg) -> Ready {
        match (leg, &self.io.legs.back) {
            (Leg::Back, None) => Ready::default(),
            (Leg::Front | Leg::Back, _) => self.ready[leg],
        }
    }

    /// Whose it is, and what for.
    #[must_use]
    pub fn seat(&self) -> &Seat {
        &self.seat
    }

    /// The operator's wish.
    pub fn stop(&mut self, now: Instant, stop: Stop) {
        self.relay.stop(now, stop);
        self.draining = true;
        if let Some(dial) = &mut self.dial {
            dial.dialer.drain();
            if let Some(failure) = dial.dialer.given_up() {
                self.relay.setup_failed(now, Leg::Back, failure);
            }
        }
    }

    /// When [`on_time`](Self::on_time) is next to be called.
    pub fn deadline(&self) -> Option<Instant> {
        let session = self.relay.next_timeout().map(|(at, _)| at);
        let dial = self.dial.as_ref().and_then(|dial| dial.dialer.next_timeout());
        let grant = self.throttle.as_ref().and_then(Throttle::ready_at);
        [session, dial, grant].into_iter().flatten().min()
    }

    /// Moves what can be moved, and tells the acceptor what it has to know.
    pub fn turn(&mut self, cx: &mut impl Desk) -> Pumped {
        let now = cx.now();
        let stock = cx.stock();
        let mut io = Turn { sockets: &mut self.io, pipes: &mut stock.pipes };
        let (relay, ready, pool) = (&mut self.relay, &mut self.ready, &mut stock.pool);
        let pumped = pump_throttled(relay, &mut io, ready, pool, now, BUDGET, self.throttle.as_mut());
        stock.tell(|| self.seat.tally().keeper());
        self.seat.meter().update(&self.relay);
        if let Some(stranger) = self.stranger
            && self.relay.session().is_up(Leg::Front)
        {
            self.stranger = None;
            cx.report(Report::Authenticated(stranger));
        } else if let Some(stranger) =
            self.stranger.filter(|_| !self.spoke && self.relay.has_heard(Leg::Front))
        {
            self.spoke = true;
            cx.report(Report::Spoke(stranger));
        }
        if self.relay.wants_connect()
            && self.dial.is_none()
            && let Some(place) = self.place
        {
            let plan = self.seat.plan();
            let mut dialer = Dialer::new(plan.backend().addresses(), plan.config().dial_timeout, cx.seed());
            if self.draining {
                dialer.drain();
            }
            let turn = self.turn.take();
            self.dial = Some(Box::new(Dial { dialer, may: turn.is_some(), under_way: None }));
            if let Some(since) = turn {
                self.relay.turn(now, since);
                self.try_dial(cx);
                // What came of it is still to be seen.
                return Pumped::Again;
            }
            self.relay.queued(now);
            cx.report(Report::Ready { session: cx.address(), place });
        }
        pumped
    }

    /// It is over: reports it, gives the buffers back, and leaves the sockets to be closed.
    pub fn end(&mut self, cx: &mut impl Desk) -> Closing {
        self.leave(cx);
        let now = cx.now();
        let outcome = self.relay.outcome();
        if let Some(outcome) = outcome {
            cx.count(outcome);
            cx.observer().session_ended(&SessionEnded {
                id: self.seat.id(),
                plan: self.seat.plan(),
                peer: self.seat.peer(),
                outcome,
                front: self.relay.codec(Leg::Front),
                back: self.relay.codec(Leg::Back),
                dial_failure: self.dial.as_ref().and_then(|dial| dial.dialer.last_failure()),
                began_with_tls: self.io.began_with_tls(),
                lifetime: now.since(self.seat.since()),
            });
        }
        Leg::BOTH.into_iter().for_each(|leg| cx.forget(leg));
        let sockets = std::mem::take(&mut self.io.legs);
        let closing = Closing::new(Arc::clone(&self.seat), self.stranger, sockets, outcome, now);
        self.relay.release(&mut cx.stock().pool);
        closing
    }
}

/// Dialing.
impl Live {
    /// Its turn to be dialed has come; its dial clock counts from `since`.
    pub fn may_dial(&mut self, since: Instant, cx: &mut impl Desk) {
        if let Some(dial) = &mut self.dial {
            if !dial.may {
                self.relay.turn(cx.now(), since);
            }
            dial.may = true;
            self.try_dial(cx);
        }
    }

    /// Tries addresses until one is connected or being connected, or there is a pause to make.
    fn try_dial(&mut self, cx: &mut impl Desk) {
        while let Some(dial) = &mut self.dial
            && dial.may
            && self.relay.wants_connect()
            && let Some(index) = dial.dialer.wants_dial()
        {
            // Once it is begun, that one is the backend's.
            let begun = reserve::spend(&mut self.reserve, || {
                let target = self.seat.plan().backend().target(index)?;
                let (socket, done) = match socket::start_connect(&target)? {
                    Dialing::Connected(socket) => (socket, true),
                    Dialing::InProgress(socket) => (socket, false),
                };
                let socket = Arc::new(socket);
                cx.register(Leg::Back, &socket).map(|()| (socket, done))
            });
            match begun {
                Ok((socket, true)) => self.connected(socket, index, cx),
                Ok((socket, false)) => {
                    dial.dialer.started(cx.now());
                    dial.under_way = Some(socket);
                }
                Err(failure) => self.dial_failed(failure, cx),
            }
        }
    }

    /// The socket that is being connected became writable.
    fn on_dialed(&mut self, cx: &mut impl Desk) {
        let Some(dial) = &mut self.dial else { return };
        let (Some(socket), Some(index)) = (dial.under_way.take(), dial.dialer.trying()) else { return };
        match socket::finish_connect(&socket) {
            Ok(true) => self.connected(socket, index, cx),
            Ok(false) => dial.under_way = Some(socket),
            Err(failure) => {
                cx.forget(Leg::Back);
                self.exchange_for_reserve(socket);
                self.dial_failed(failure, cx);
                self.try_dial(cx);
            }
        }
    }

    fn connected(&mut self, socket: Arc<Socket>, index: usize, cx: &mut impl Desk) {
        if !self.relay.wants_connect() {
            return cx.forget(Leg::Back); // closed meanwhile
        }
        let now = cx.now();
        match self.seat.plan().back_codec() {
            Ok(codec) => {
                self.relay.connected(now, codec);
                self.io.legs.back = Some(socket);
                self.dial = None;
                self.seat.plan().backend().worked(index);
                if let Some(place) = self.place.take() {
                    cx.report(Report::Connected(place));
                }
            }
            Err(error) => {
                log::error!("{}: {error}", self.seat.plan().backend().endpoint());
                self.relay.setup_failed(now, Leg::Back, Failure::Protocol);
            }
        }
        self.leave(cx);
    }

    fn dial_failed(&mut self, failure: Failure, cx: &mut impl Desk) {
        let Some(dial) = &mut self.dial else { return };
        let now = cx.now();
        self.seat.tally().dial_failed(failure);
        if failure == Failure::Exhausted {
            cx.report(Report::Exhausted);
        }
        dial.dialer.failed(now, failure);
        self.after_failure(now);
    }

    fn after_failure(&mut self, now: Instant) {
        let Some(dial) = &self.dial else { return };
        self.seat.plan().backend().refresh();
        if let Some(failure) = dial.dialer.given_up() {
            self.relay.setup_failed(now, Leg::Back, failure);
        }
    }

    /// Nothing came of a dial, and there may be another.
    fn exchange_for_reserve(&mut self, socket: Arc<Socket>) {
        let _exchange = reserve::exchange();
        drop(socket);
        self.reserve = Reserve::new().ok();
    }

    /// Those behind it need not wait for it any more.
    fn leave(&mut self, cx: &mut impl Desk) {
        if let Some(place) = self.place.take() {
            cx.report(Report::Left(place));
        }
    }
}
