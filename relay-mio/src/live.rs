//! One session while it is open: its relay, its sockets, what is known of their readiness, and its
//! dial.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use relay_core::admission::Dialer;
use relay_core::{Failure, Instant, Leg, PerLeg, Pumped, Ready, Relay, Stop, pump};
use relay_node::acceptor::{Accepted, Place, Report};
use relay_node::reserve::Reserve;
use relay_node::sessions::Seat;
use relay_node::socket::{self, Dialing};
use relay_node::{NodeCodec, SessionEnded};
use socket2::Socket;

use crate::closing::Closing;
use crate::token::{Id, Subject};
use crate::transport::Sockets;
use crate::worker::Context;

/// Bytes that a session may move before others have their turn. A TLS record takes some microseconds
/// to seal or open, so a message that finds one busy stream before it waits for about a tenth of a
/// millisecond; a turn costs one look at the poller, which is nothing beside so many bytes.
const BUDGET: usize = 256 << 10;

/// A backend that is not connected yet.
#[derive(Debug)]
struct Dial {
    dialer: Dialer,
    /// Its turn has come.
    may: bool,
    /// A socket whose connection is being made.
    under_way: Option<Socket>,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Live {
    id: Id,
    relay: Relay<NodeCodec>,
    io: Sockets,
    ready: PerLeg<Ready>,
    pub(crate) seat: Arc<Seat>,
    /// Until it has left its place.
    place: Option<Place>,
    /// Its backend's, between dials.
    reserve: Option<Reserve>,
    /// Its front has to prove who it is, and has not yet.
    stranger: bool,
    /// From when Back is wanted until it is connected.
    dial: Option<Box<Dial>>,
    /// The operator drains.
    draining: bool,
}

/// Registers a socket for both kinds of edges, once and for good.
fn register(registry: &Registry, socket: &Socket, id: Id, leg: Leg) -> Result<(), Failure> {
    let interest = Interest::READABLE | Interest::WRITABLE;
    registry
        .register(&mut SourceFd(&socket.as_raw_fd()), Subject::Leg(id, leg).token(), interest)
        .map_err(|error| relay_node::failure::failure(&error))
}

impl Live {
    /// A session for a connection just accepted; it is to be pumped at once.
    pub(crate) fn new(accepted: Accepted, id: Id, cx: &Context) -> Self {
        let Accepted { socket, reserve, seat, place } = accepted;
        let (plan, since) = (seat.plan(), seat.since());
        let relay = Relay::new(*plan.config(), plan.front_codec(), since);
        let registered = register(&cx.registry, &socket, id, Leg::Front);
        let mut live = Self {
            id,
            stranger: relay.session().config().secure.front,
            relay,
            io: Sockets { legs: PerLeg::new(Some(socket), None) },
            // A first try costs little, and what was sent along with the SYN is there already.
            ready: PerLeg::both(Ready::BOTH),
            seat: Arc::new(seat),
            place: Some(place),
            reserve: Some(reserve),
            dial: None,
            draining: false,
        };
        if let Err(failure) = registered {
            live.relay.setup_failed(cx.clock.now(), Leg::Front, failure);
        }
        live
    }

    /// Bytes have come, or there is room for some, or something is wrong: the pump will find out.
    pub(crate) fn on_edge(&mut self, leg: Leg, edge: Ready, cx: &Context) {
        if let (Leg::Back, Some(dial)) = (leg, &mut self.dial) {
            if edge.writable && dial.under_way.is_some() {
                self.on_dialed(cx);
            }
            return;
        }
        self.ready[leg].readable |= edge.readable;
        self.ready[leg].writable |= edge.writable;
    }

    /// Whatever timer is due fires.
    pub(crate) fn on_time(&mut self, now: Instant, cx: &Context) {
        self.relay.handle_timeout(now);
        if let Some(dial) = &mut self.dial {
            dial.dialer.handle_timeout(now);
            self.try_dial(cx);
        }
    }

    pub(crate) fn stop(&mut self, now: Instant, stop: Stop) {
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
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let session = self.relay.next_timeout().map(|(at, _)| at);
        let dial = self.dial.as_ref().and_then(|dial| dial.dialer.next_timeout());
        [session, dial].into_iter().flatten().min()
    }

    /// Moves what can be moved, and tells the acceptor what it has to know.
    pub(crate) fn turn(&mut self, cx: &mut Context) -> Pumped {
        let now = cx.clock.now();
        let pumped = pump(&mut self.relay, &mut self.io, &mut self.ready, &mut cx.pool, now, BUDGET);
        self.seat.meter().update(&self.relay);
        if self.stranger && self.relay.session().is_up(Leg::Front) {
            self.stranger = false;
            cx.report(Report::Authenticated);
        }
        if self.relay.wants_connect()
            && self.dial.is_none()
            && let Some(place) = self.place
        {
            let mut dialer = Dialer::new(self.seat.plan().backend().addresses(), cx.seed());
            if self.draining {
                dialer.drain();
            }
            self.dial = Some(Box::new(Dial { dialer, may: false, under_way: None }));
            cx.report(Report::Ready { session: (cx.number, self.id), place });
        }
        pumped
    }

    /// It is over: reports it, gives the buffers back, and leaves the sockets to be closed.
    pub(crate) fn end(&mut self, cx: &mut Context) -> Closing {
        self.leave(cx);
        let now = cx.clock.now();
        let outcome = self.relay.outcome();
        if let Some(outcome) = outcome {
            cx.served.count(outcome);
            cx.observer.session_ended(&SessionEnded {
                id: self.seat.id(),
                plan: self.seat.plan(),
                peer: self.seat.peer(),
                outcome,
                front: self.relay.codec(Leg::Front),
                back: self.relay.codec(Leg::Back),
                dial_failure: self.dial.as_ref().and_then(|dial| dial.dialer.last_failure()),
                lifetime: now.since(self.seat.since()),
            });
        }
        let sockets = std::mem::take(&mut self.io.legs);
        let closing = Closing::new(Arc::clone(&self.seat), self.stranger, sockets, outcome, now);
        self.relay.release(&mut cx.pool);
        closing
    }
}

/// Dialing.
impl Live {
    /// Its turn to be dialed has come.
    pub(crate) fn may_dial(&mut self, cx: &Context) {
        if let Some(dial) = &mut self.dial {
            dial.may = true;
            self.try_dial(cx);
        }
    }

    /// Tries addresses until one is connected or being connected, or there is a pause to make.
    fn try_dial(&mut self, cx: &Context) {
        while let Some(dial) = &mut self.dial
            && dial.may
            && self.relay.wants_connect()
            && let Some(index) = dial.dialer.wants_dial()
        {
            // From here on it is the backend's.
            self.reserve = None;
            match self.seat.plan().backend().target(index).and_then(|target| socket::start_connect(&target)) {
                Ok(Dialing::Connected(socket)) => match register(&cx.registry, &socket, self.id, Leg::Back) {
                    Ok(()) => self.connected(socket, cx),
                    Err(failure) => self.dial_failed(failure, cx),
                },
                Ok(Dialing::InProgress(socket)) => {
                    match register(&cx.registry, &socket, self.id, Leg::Back) {
                        Ok(()) => {
                            dial.dialer.started();
                            dial.under_way = Some(socket);
                        }
                        Err(failure) => self.dial_failed(failure, cx),
                    }
                }
                Err(failure) => self.dial_failed(failure, cx),
            }
        }
    }

    /// The socket that is being connected became writable.
    fn on_dialed(&mut self, cx: &Context) {
        let Some(socket) = self.dial.as_mut().and_then(|dial| dial.under_way.take()) else { return };
        match socket::finish_connect(&socket) {
            Ok(true) => self.connected(socket, cx),
            Ok(false) => {
                if let Some(dial) = &mut self.dial {
                    dial.under_way = Some(socket);
                }
            }
            Err(failure) => {
                drop(socket);
                self.dial_failed(failure, cx);
                self.try_dial(cx);
            }
        }
    }

    fn connected(&mut self, socket: Socket, cx: &Context) {
        if !self.relay.wants_connect() {
            return; // closed meanwhile
        }
        let now = cx.clock.now();
        match self.seat.plan().back_codec() {
            Ok(codec) => {
                self.relay.connected(now, codec);
                self.io.legs.back = Some(socket);
                self.dial = None;
            }
            Err(error) => {
                log::error!("{}: {error}", self.seat.plan().backend().endpoint());
                self.relay.setup_failed(now, Leg::Back, Failure::Protocol);
            }
        }
        self.leave(cx);
    }

    fn dial_failed(&mut self, failure: Failure, cx: &Context) {
        let Some(dial) = &mut self.dial else { return };
        let now = cx.clock.now();
        if failure == Failure::Exhausted {
            cx.report(Report::Exhausted);
        }
        dial.dialer.failed(now, failure);
        self.seat.plan().backend().refresh();
        match dial.dialer.given_up() {
            Some(failure) => self.relay.setup_failed(now, Leg::Back, failure),
            // If there is none any more, the next dial finds that out, too.
            None => self.reserve = Reserve::new().ok(),
        }
    }

    /// Those behind it need not wait for it any more.
    fn leave(&mut self, cx: &Context) {
        if let Some(place) = self.place.take() {
            cx.report(Report::Left(place));
        }
    }
}
