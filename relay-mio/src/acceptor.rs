//! The accepting side: listeners, limits, the order of dialing, the operator's commands. There is
//! one, in the first loop.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use relay_core::admission::{Gate, ListenerId, Order, Ticket};
use relay_core::{Instant, Stop};
use relay_node::control::Command;
use relay_node::failure::is_of_one_connection;
use relay_node::listen::Listener;
use relay_node::{Plan, ServeError, Server};

use crate::clock::Clock;
use crate::live::{Accepted, Place};
use crate::mail::{Mailbox, Sender, ToAcceptor, ToWorker};
use crate::reserve::Reserve;
use crate::timers::{Armed, Timers};
use crate::token::{Id, Subject};

/// Whose deadline it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Alarm {
    Gate,
    /// The order of this listener's fronts.
    Order(usize),
}

/// A listener and those who came by it and are not connected yet.
#[derive(Debug)]
struct Entrance {
    /// Until a stop.
    listener: Option<Listener>,
    plan: Arc<Plan>,
    order: Order,
    /// Who waits for its turn, and where.
    waiting: BTreeMap<Ticket, (usize, Id)>,
    /// Who was told last that its turn has come.
    told: Option<Ticket>,
    armed: Armed,
}

/// A worker as the acceptor sees it.
#[derive(Debug)]
struct Desk {
    mail: Sender<ToWorker>,
    sessions: usize,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Acceptor {
    /// Its routes have become entrances.
    server: Server,
    registry: Registry,
    clock: Clock,
    gate: Gate,
    gate_armed: Armed,
    entrances: Vec<Entrance>,
    desks: Vec<Desk>,
    mail: Mailbox<ToAcceptor>,
    timers: Timers<Alarm>,
    /// The listener at which accepting paused for want of descriptors.
    paused: Option<usize>,
    /// For the next one who is accepted.
    reserve: Option<Reserve>,
    stopping: bool,
    failed: Option<io::Error>,
}

impl Acceptor {
    /// Registers the listeners and the commands.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub(crate) fn new(
        mut server: Server,
        registry: Registry,
        clock: Clock,
        mail: Mailbox<ToAcceptor>,
        desks: Vec<Sender<ToWorker>>,
        seed: u64,
    ) -> Result<Self, ServeError> {
        let register = |fd, subject: Subject| {
            registry
                .register(&mut SourceFd(&fd), subject.token(), Interest::READABLE)
                .map_err(|error| ServeError::new("register a socket with the poller", error))
        };
        register(server.commands.as_raw_fd(), Subject::Commands)?;
        let mut gate = Gate::new(server.limits, seed);
        let mut entrances = Vec::new();
        for (number, route) in std::mem::take(&mut server.routes).into_iter().enumerate() {
            register(route.listener.as_raw_fd(), Subject::Listener(number as u32))?;
            gate.add(ListenerId(number), route.plan.peers());
            // Who connected before we came to look gives no edge on every system.
            gate.readable(ListenerId(number));
            entrances.push(Entrance {
                listener: Some(route.listener),
                plan: route.plan,
                order: Order::new(Order::WINDOW),
                waiting: BTreeMap::new(),
                told: None,
                armed: Armed::default(),
            });
        }
        let desks = desks.into_iter().map(|mail| Desk { mail, sessions: 0 }).collect();
        Ok(Self {
            server,
            registry,
            clock,
            gate,
            gate_armed: Armed::default(),
            entrances,
            desks,
            mail,
            timers: Timers::new(),
            paused: None,
            reserve: None,
            stopping: false,
            failed: None,
        })
    }

    /// Whether somebody could be accepted at once: do not sleep.
    pub(crate) fn is_busy(&self) -> bool {
        self.gate.is_owing()
    }

    /// When [`turn`](Self::turn) is next to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Whether the operator said stop and the last session is gone, or a worker is.
    pub(crate) fn is_done(&self) -> bool {
        self.failed.is_some() || (self.stopping && self.gate.sessions() == 0)
    }

    /// Sends every loop home, and says why if it is for a failure.
    pub(crate) fn dismiss(self) -> Result<(), ServeError> {
        for desk in &self.desks {
            desk.mail.send(ToWorker::Quit);
        }
        self.failed.map_or(Ok(()), |error| Err(ServeError::new("wait for events", error)))
    }

    /// Somebody waits at a listener.
    pub(crate) fn on_listener(&mut self, number: u32) {
        self.gate.readable(ListenerId(number as usize));
    }

    /// The operator has wishes.
    pub(crate) fn on_commands(&mut self) {
        while let Some(command) = self.server.commands.next() {
            let stop = match command {
                Command::Drain => Stop::Drain { until: self.server.drain_deadline(self.clock.now()) },
                Command::Abort => Stop::Abort,
            };
            self.stop(stop);
        }
    }

    fn stop(&mut self, stop: Stop) {
        self.stopping = true;
        self.gate.stop();
        for entrance in &mut self.entrances {
            if let Some(listener) = entrance.listener.take() {
                // An inherited socket stays registered when closed here, for others have it, too.
                if let Err(error) = self.registry.deregister(&mut SourceFd(&listener.as_raw_fd())) {
                    log::warn!("{}: {error}", listener.local());
                }
            }
        }
        for desk in &self.desks {
            desk.mail.send(ToWorker::Stop(stop));
        }
    }

    /// Takes the workers' messages; whether there were any.
    pub(crate) fn take_mail(&mut self) -> bool {
        let messages = self.mail.take();
        let any = !messages.is_empty();
        for message in messages {
            match message {
                ToAcceptor::Ready { worker, id, place } => {
                    let entrance = &mut self.entrances[place.listener];
                    entrance.order.ready(self.clock.now(), place.ticket);
                    entrance.waiting.insert(place.ticket, (worker, id));
                    self.advance(place.listener);
                }
                ToAcceptor::Left(place) => {
                    let entrance = &mut self.entrances[place.listener];
                    entrance.order.left(place.ticket);
                    entrance.waiting.remove(&place.ticket);
                    self.advance(place.listener);
                }
                ToAcceptor::Authenticated => self.gate.authenticated(),
                ToAcceptor::Closed { worker, stranger } => {
                    self.gate.closed(stranger);
                    self.desks[worker].sessions -= 1;
                }
                ToAcceptor::Exhausted => {
                    self.reserve = None;
                    self.gate.exhausted(self.clock.now());
                    self.arm_gate();
                }
                ToAcceptor::Failed(error) => self.failed = Some(error),
            }
        }
        any
    }

    /// Lets whoever's turn it is be dialed.
    fn advance(&mut self, number: usize) {
        let entrance = &mut self.entrances[number];
        entrance.order.handle_timeout(self.clock.now());
        let turn = entrance.order.turn();
        if turn != entrance.told {
            entrance.told = turn;
            if let Some((worker, id)) = turn.and_then(|ticket| entrance.waiting.get(&ticket)) {
                self.desks[*worker].mail.send(ToWorker::Dial(*id));
            }
        }
        let deadline = entrance.order.next_timeout();
        self.timers.arm(Alarm::Order(number), &mut entrance.armed, deadline);
    }

    /// Lets timers fire and accepts whom it may.
    pub(crate) fn turn(&mut self, now: Instant) {
        while let Some((at, alarm)) = self.timers.pop(now) {
            match alarm {
                Alarm::Gate => {
                    if self.gate_armed.fires(at) {
                        self.gate.handle_timeout(now);
                    }
                }
                Alarm::Order(number) => {
                    if self.entrances[number].armed.fires(at) {
                        self.advance(number);
                    }
                }
            }
        }
        self.gate.begin_turn();
        while let Some(listener) = self.gate.wants_accept() {
            self.accept(listener, now);
        }
        self.arm_gate();
    }

    fn arm_gate(&mut self) {
        self.timers.arm(Alarm::Gate, &mut self.gate_armed, self.gate.next_timeout());
    }

    fn accept(&mut self, id: ListenerId, now: Instant) {
        let entrance = &self.entrances[id.0];
        let Some(listener) = &entrance.listener else { return self.gate.drained(id) };
        let reserve = self.reserve.take().map_or_else(Reserve::new, Ok);
        let accepted = reserve.and_then(|reserve| match listener.accept() {
            Ok((socket, peer)) => Ok((socket, peer, reserve)),
            Err(error) => {
                // Kept while nobody comes, but not while others may need it more.
                self.reserve = Some(reserve).filter(|_| error.kind() == io::ErrorKind::WouldBlock);
                Err(error)
            }
        });
        match accepted {
            Ok((socket, peer, reserve)) => {
                self.gate.accepted(id);
                if let Some(number) = self.paused.take()
                    && let Some(listener) = &self.entrances[number].listener
                {
                    self.server.observer.accept_resumed(listener.local());
                }
                let entrance = &mut self.entrances[id.0];
                let place = Place { listener: id.0, ticket: entrance.order.accepted() };
                let plan = Arc::clone(&entrance.plan);
                self.assign(Accepted { socket, peer, reserve, plan, place, at: now });
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.gate.drained(id),
            Err(error) if is_of_one_connection(&error) => self.gate.skipped(id),
            Err(error) => {
                // What nobody knows is not tried again at once either.
                self.gate.exhausted(now);
                if self.paused.is_none() {
                    self.paused = Some(id.0);
                    self.server.observer.accept_paused(listener.local(), &error);
                }
            }
        }
    }

    /// Gives a connection to the worker that has the fewest.
    fn assign(&mut self, accepted: Accepted) {
        if let Some(desk) = self.desks.iter_mut().min_by_key(|desk| desk.sessions) {
            desk.sessions += 1;
            desk.mail.send(ToWorker::Accepted(Box::new(accepted)));
        }
    }
}
