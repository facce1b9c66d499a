//! The accepting side of a server: listeners that come and go, limits, the order of dialing, the
//! operator's commands. There is one for all loops.
//!
//! It decides; what it cannot do itself (wait, and reach sessions, which may live in other threads) a
//! runtime does for it as its [`Host`].

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use relay_core::admission::{Gate, ListenerId, Order, Peers, Stranger, Ticket};
use relay_core::{Instant, Stop};
use socket2::Socket;

use crate::clock::Clock;
use crate::control::{Beat, Command, Commands, Sessions};
use crate::crowd::Crowd;
use crate::failure::is_of_one_connection;
use crate::listen::{Listener, WAITING_MAX};
use crate::reserve::{self, Reserve};
use crate::server::{Plan, Route, Server};
use crate::sessions::{RouteId, Seat, SessionId};
use crate::shortage::Shortage;
use crate::timers::{Armed, Timers};

/// What a runtime does for its acceptor.
pub trait Host {
    /// Where a session is to be found, once its loop has it.
    type Address: Copy;

    /// Calls [`Acceptor::on_listener`] with this number whenever somebody comes to this listener.
    ///
    /// # Errors
    /// As epoll_ctl(2): its listener is closed then.
    fn watch(&mut self, number: ListenerId, listener: &Listener) -> io::Result<()>;

    /// Does so no more: it is about to be closed, and whatever shares in it is dropped.
    fn unwatch(&mut self, number: ListenerId, listener: &Listener);

    /// Has a session begin for somebody who was accepted.
    fn begin(&mut self, accepted: Accepted);

    /// Tells a session that its turn to be dialed has come, and counts as so since then
    /// ([`Relay::turn`](relay_core::Relay::turn)).
    fn dial(&mut self, session: Self::Address, since: Instant);

    /// Tells a session, wherever it is, that it has to make room for others, unless its front has just
    /// proved who it is ([`Failure::Evicted`](relay_core::Failure::Evicted)).
    fn evict(&mut self, session: SessionId);

    /// Tells every session to stop.
    fn stop(&mut self, stop: Stop);

    /// Gives each loop a copy, to be let go when it comes to it. One that has no loops of its own gives them to
    /// its sessions.
    fn beat(&mut self, beat: &Beat);

    /// Tells every session that the limits of the rate have changed.
    fn relimit(&mut self);

    /// Tells every session that its peers may not be trusted any more.
    fn review(&mut self);

    /// Tells these to end at once.
    fn abort(&mut self, which: Which);
}

/// Some of the sessions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Which {
    /// This one.
    Session(SessionId),
    /// Those that came by this route.
    Route(RouteId),
}

impl Which {
    /// Whether this one is meant, which came by that route.
    #[must_use]
    pub fn is(self, session: SessionId, route: RouteId) -> bool {
        match self {
            Self::Session(id) => id == session,
            Self::Route(id) => id == route,
        }
    }
}

/// A place in a listener's order of dialing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    listener: ListenerId,
    ticket: Ticket,
}

/// A connection that was just accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub socket: Socket,
    /// Its backend's descriptor.
    pub reserve: Reserve,
    /// What it is for, who it is, since when.
    pub seat: Seat,
    /// When it may be dialed through.
    pub place: Place,
    /// Its name until it has proved who it is; `None` if it need not.
    pub stranger: Option<Stranger>,
    /// Its turn to be dialed has come already, and counts as so since then: it need not report that it
    /// is ready.
    pub turn: Option<Instant>,
}

/// What a session has to tell the acceptor.
#[derive(Clone, Copy, Debug)]
pub enum Report<A> {
    /// It may be dialed as far as its front is concerned; its dial clock stands meanwhile
    /// ([`Relay::queued`](relay_core::Relay::queued)).
    Ready {
        /// Where it is to be told that its turn has come.
        session: A,
        /// Its place.
        place: Place,
    },
    /// It is connected: those behind it need not wait for it. Either this or [`Left`](Self::Left)
    /// exactly once for each.
    Connected(Place),
    /// It is closed, and never was connected.
    Left(Place),
    /// The first bytes of its front have come.
    Spoke(Stranger),
    /// Its front proved who it is.
    Authenticated(Stranger),
    /// Its descriptors are free. The last report, exactly once for each.
    Closed {
        /// Its front never proved who it is, and had to.
        stranger: Option<Stranger>,
    },
    /// There was no descriptor for its backend.
    Exhausted,
}

/// Whose deadline it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Alarm {
    Gate,
    /// Something is to be logged.
    Crowd,
    /// The order of this listener's fronts.
    Order(ListenerId),
}

/// A listener and those who came by it and are not connected yet.
#[derive(Debug)]
struct Entrance<A> {
    id: RouteId,
    /// Until it is closed; the entrance is there until everybody has left.
    listener: Option<Listener>,
    plan: Arc<Plan>,
    order: Order,
    /// Places taken and not left.
    places: usize,
    /// Who waits for its turn, and where.
    waiting: BTreeMap<Ticket, A>,
    /// Who was told last that its turn has come.
    told: Option<Ticket>,
    armed: Armed,
}

impl<A> Entrance<A> {
    /// Gives the turn to one who was just accepted, if nobody is before it and it has nothing to prove:
    /// all that its session could do is ask for it, and each message may wake another thread.
    fn give_turn(&mut self, now: Instant, ticket: Ticket) -> Option<Instant> {
        if self.places > 1 || self.plan.present().peers() != Peers::Known {
            return None;
        }
        self.order.ready(now, ticket);
        self.told = self.order.turn();
        self.order.since(ticket)
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct Acceptor<H: Host> {
    /// Its routes have become entrances.
    server: Server,
    host: H,
    clock: Clock,
    gate: Gate,
    gate_armed: Armed,
    /// Those who have not proved who they are.
    strangers: BTreeMap<Stranger, SessionId>,
    crowd: Crowd,
    crowd_armed: Armed,
    /// By the listener's number. Numbers are given again.
    entrances: Vec<Option<Entrance<H::Address>>>,
    free: Vec<ListenerId>,
    /// The listeners that are open.
    numbers: BTreeMap<RouteId, ListenerId>,
    timers: Timers<Alarm>,
    shortage: Shortage,
    /// For the next one who is accepted.
    reserve: Option<Reserve>,
    stopping: bool,
}

impl<H: Host> Acceptor<H> {
    /// Opens the server's routes. `seed` is for jitter.
    ///
    /// # Errors
    /// As [`Host::watch`].
    pub fn new(mut server: Server, host: H, seed: u64) -> io::Result<Self> {
        let routes = std::mem::take(&mut server.routes);
        let mut acceptor = Self {
            clock: server.sessions.clock(),
            gate: Gate::new(server.limits, seed),
            server,
            host,
            gate_armed: Armed::default(),
            strangers: BTreeMap::new(),
            crowd: Crowd::default(),
            crowd_armed: Armed::default(),
            entrances: Vec::new(),
            free: Vec::new(),
            numbers: BTreeMap::new(),
            timers: Timers::new(),
            shortage: Shortage::default(),
            reserve: None,
            stopping: false,
        };
        // While there are some.
        reserve::exchange().lay_aside();
        for (id, route) in routes {
            acceptor.open(id, route)?;
        }
        Ok(acceptor)
    }

    /// The runtime's side of it.
    pub const fn host(&mut self) -> &mut H {
        &mut self.host
    }

    /// To wait for.
    #[must_use]
    pub const fn commands(&self) -> &Commands {
        &self.server.commands
    }

    /// Whether somebody could be accepted at once: do not sleep.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.gate.is_owing()
    }

    /// When [`turn`](Self::turn) is next to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Whether the operator said stop and the last session is gone.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.stopping && self.gate.sessions() == 0
    }

    /// Somebody waits at a listener. It may be closed by now.
    pub fn on_listener(&mut self, number: ListenerId) {
        self.gate.readable(number);
    }

    /// The operator has wishes.
    pub fn on_commands(&mut self) {
        while let Some(command) = self.server.commands.next() {
            match command {
                Command::Open { id, route } => {
                    let listen = route.plan.listen().clone();
                    if let Err(error) = self.open(id, route) {
                        log::error!(listen:% = listen, error:%; "cannot listen");
                        self.server.observer.listener_closed(id);
                    }
                }
                Command::Close { id, sessions } => {
                    if let Some(number) = self.numbers.get(&id).copied() {
                        if sessions == Sessions::Keep {
                            self.accept_last(number);
                        }
                        self.close(number);
                    }
                    match sessions {
                        Sessions::Keep => {}
                        Sessions::Abort => self.host.abort(Which::Route(id)),
                    }
                }
                Command::End(id) => self.host.abort(Which::Session(id)),
                Command::Relimit => self.host.relimit(),
                Command::Review => self.host.review(),
                Command::Beat(beat) => {
                    self.host.beat(&beat);
                    beat.passed_on();
                }
                Command::Drain => {
                    self.stop(Stop::Drain { until: self.server.drain_deadline(self.clock.now()) });
                }
                Command::Abort => self.stop(Stop::Abort),
            }
        }
    }

    fn open(&mut self, id: RouteId, Route { listener, plan }: Route) -> io::Result<()> {
        if self.stopping {
            return Err(io::Error::other("the node is stopping"));
        }
        if self.numbers.contains_key(&id) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a route of that number"));
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.entrances.push(None);
            ListenerId(self.entrances.len() - 1)
        });
        if let Err(error) = self.host.watch(number, &listener) {
            self.free.push(number);
            return Err(error);
        }
        self.gate.add(number, plan.peers());
        // Who connected before we came to look gives no edge on every system.
        self.gate.readable(number);
        self.server.sessions.opened(&plan);
        self.numbers.insert(id, number);
        self.entrances[number.0] = Some(Entrance {
            id,
            listener: Some(listener),
            plan,
            order: Order::new(Order::WINDOW),
            places: 0,
            waiting: BTreeMap::new(),
            told: None,
            armed: Armed::default(),
        });
        Ok(())
    }

    /// Takes those who wait at a listener that is about to be closed, as far as the limits allow: their kernel
    /// told them that they are connected, and closing would reset them.
    fn accept_last(&mut self, number: ListenerId) {
        let entrance = self.entrances[number.0].as_mut();
        let Some(listener) = entrance.and_then(|entrance| entrance.listener.as_mut()) else { return };
        if !listener.withdraw() {
            return;
        }
        let now = self.clock.now();
        for _ in 0..WAITING_MAX {
            if !self.gate.may_accept_last(number) {
                return;
            }
            match self.take(number, now, Gate::accepted_last) {
                Ok(()) => {}
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    log::warn!(error:%; "connections that waited at a listener that is closed are reset");
                    return;
                }
            }
        }
    }

    /// Closes a listener. Those who came by it keep their places.
    fn close(&mut self, number: ListenerId) {
        let Some(entrance) = &mut self.entrances[number.0] else { return };
        let Some(listener) = entrance.listener.take() else { return };
        self.gate.remove(number);
        self.host.unwatch(number, &listener);
        self.numbers.remove(&entrance.id);
        drop(listener);
        self.server.sessions.closed();
        self.gate.freed();
        self.server.observer.listener_closed(entrance.id);
        self.forget(number);
    }

    /// Frees the number of an entrance that is closed and by which nobody is waiting any more.
    fn forget(&mut self, number: ListenerId) {
        let slot = &mut self.entrances[number.0];
        if slot.as_ref().is_some_and(|entrance| entrance.listener.is_none() && entrance.places == 0) {
            *slot = None;
            self.free.push(number);
        }
    }

    fn stop(&mut self, stop: Stop) {
        self.stopping = true;
        self.server.sessions.stopping();
        for number in (0..self.entrances.len()).map(ListenerId) {
            match stop {
                Stop::Drain { .. } => self.accept_last(number),
                Stop::Abort => {}
            }
            self.close(number);
        }
        self.gate.stop();
        self.host.stop(stop);
    }

    /// Takes what a session has to tell.
    pub fn on_report(&mut self, report: Report<H::Address>) {
        match report {
            Report::Ready { session, place } => {
                if let Some(entrance) = &mut self.entrances[place.listener.0] {
                    if entrance.order.ready(self.clock.now(), place.ticket) {
                        self.server.sessions.tally().disordered();
                        self.server.observer.order_broken(entrance.plan.listen(), Order::WINDOW);
                    }
                    entrance.waiting.insert(place.ticket, session);
                    self.advance(place.listener);
                }
            }
            Report::Connected(place) => {
                let now = self.clock.now();
                self.leave(place, |order| order.connected(now, place.ticket));
            }
            Report::Left(place) => self.leave(place, |order| order.left(place.ticket)),
            Report::Spoke(stranger) => self.gate.spoke(stranger),
            Report::Authenticated(stranger) => {
                self.strangers.remove(&stranger);
                self.gate.authenticated(stranger);
            }
            Report::Closed { stranger } => {
                if let Some(stranger) = stranger {
                    self.strangers.remove(&stranger);
                }
                self.gate.closed(stranger);
            }
            Report::Exhausted => {
                self.reserve = None;
                self.server.sessions.tally().paused();
                self.gate.exhausted(self.clock.now());
            }
        }
        // Whoever comes to be the one to make room next, or to wait, has another deadline.
        self.arm_gate();
    }

    fn leave(&mut self, place: Place, leave: impl FnOnce(&mut Order)) {
        if let Some(entrance) = &mut self.entrances[place.listener.0] {
            leave(&mut entrance.order);
            entrance.waiting.remove(&place.ticket);
            entrance.places -= 1;
            self.advance(place.listener);
            self.forget(place.listener);
        }
    }

    /// Lets whoever's turn it is be dialed.
    fn advance(&mut self, number: ListenerId) {
        let Some(entrance) = &mut self.entrances[number.0] else { return };
        entrance.order.handle_timeout(self.clock.now());
        let turn = entrance.order.turn();
        if turn != entrance.told {
            entrance.told = turn;
            if let Some(ticket) = turn
                && let (Some(session), Some(since)) =
                    (entrance.waiting.get(&ticket), entrance.order.since(ticket))
            {
                self.host.dial(*session, since);
            }
        }
        let deadline = entrance.order.next_timeout();
        self.timers.arm(Alarm::Order(number), &mut entrance.armed, deadline);
    }

    /// Lets timers fire and accepts whom it may.
    pub fn turn(&mut self, now: Instant) {
        while let Some((at, alarm)) = self.timers.pop(now) {
            match alarm {
                Alarm::Gate => {
                    if self.gate_armed.fires(at) {
                        self.gate.handle_timeout(now);
                    }
                }
                Alarm::Crowd => {
                    // it is looked at in any case
                    self.crowd_armed.fires(at);
                }
                Alarm::Order(number) => {
                    let entrance = &mut self.entrances[number.0];
                    if entrance.as_mut().is_some_and(|entrance| entrance.armed.fires(at)) {
                        self.advance(number);
                    }
                }
            }
        }
        self.gate.begin_turn();
        loop {
            while let Some(number) = self.gate.wants_accept() {
                self.accept(number, now);
            }
            let Some(stranger) = self.gate.wants_evicted(now) else { break };
            self.gate.evicted(stranger);
            if let Some(session) = self.strangers.remove(&stranger) {
                self.host.evict(session);
            }
            self.server.sessions.tally().evicted();
            self.crowd.evicted += 1;
        }
        self.watch_crowd(now);
        self.arm_gate();
    }

    /// Logs what the limits and a want of descriptors keep out, a line in a while however much it is.
    fn watch_crowd(&mut self, now: Instant) {
        if let Some(limit) = self.crowd.look(self.gate.held_up()) {
            self.server.sessions.tally().held_up(limit);
        }
        if let Some(report) = self.crowd.report(now) {
            self.server.observer.crowded(&report);
        }
        if let Some(listen) = self.shortage.over(now) {
            self.server.observer.accept_resumed(&listen);
        }
        let next = self.crowd.next_report().into_iter().chain(self.shortage.next_report()).min();
        self.timers.arm(Alarm::Crowd, &mut self.crowd_armed, next);
    }

    fn arm_gate(&mut self) {
        self.timers.arm(Alarm::Gate, &mut self.gate_armed, self.gate.next_timeout());
    }

    /// Has a session begin for whoever waits at a listener, and tells the gate by `accepted`.
    ///
    /// # Errors
    /// As accept(2), or if there is no descriptor for the backend. `WouldBlock` if nobody waits.
    fn take(
        &mut self,
        number: ListenerId,
        now: Instant,
        accepted: fn(&mut Gate, Instant, ListenerId) -> Option<Stranger>,
    ) -> io::Result<()> {
        let nobody = io::Error::from(io::ErrorKind::WouldBlock);
        let Some(entrance) = &mut self.entrances[number.0] else { return Err(nobody) };
        let Some(listener) = &entrance.listener else { return Err(nobody) };
        let mut exchange = reserve::exchange();
        let reserve = exchange.reserve(self.reserve.take())?;
        let (socket, peer) = match listener.accept() {
            Ok(connection) => connection,
            Err(error) => {
                // Kept while nobody comes, but not while others may need it more.
                self.reserve = Some(reserve).filter(|_| error.kind() == io::ErrorKind::WouldBlock);
                return Err(error);
            }
        };
        drop(exchange);
        let stranger = accepted(&mut self.gate, now, number);
        entrance.places += 1;
        let place = Place { listener: number, ticket: entrance.order.accepted() };
        let turn = entrance.give_turn(now, place.ticket);
        let seat = self.server.sessions.enter(entrance.id, entrance.plan.present(), peer, now);
        if let Some(stranger) = stranger {
            self.strangers.insert(stranger, seat.id());
        }
        self.host.begin(Accepted { socket, reserve, seat, place, stranger, turn });
        Ok(())
    }

    fn accept(&mut self, number: ListenerId, now: Instant) {
        match self.take(number, now, Gate::accepted) {
            Ok(()) => self.shortage.ease(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.shortage.ease();
                self.gate.drained(number);
            }
            Err(error) if is_of_one_connection(&error) => self.gate.skipped(number),
            Err(error) => {
                // What nobody knows is not tried again at once either.
                self.server.sessions.tally().paused();
                self.gate.exhausted(now);
                let entrance = self.entrances[number.0].as_ref();
                if let Some(listener) = entrance.and_then(|entrance| entrance.listener.as_ref())
                    && self.shortage.failed(now, listener.local())
                {
                    self.server.observer.accept_paused(listener.local(), &error);
                }
            }
        }
    }
}
