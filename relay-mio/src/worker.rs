//! The sessions of one loop: their slots, run queue, timers and buffers.

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use relay_core::{Failure, Instant, Leg, Outcome, Pumped, Ready, Stop};
use relay_node::acceptor::{Accepted, Report, Which};
use relay_node::clock::Clock;
use relay_node::closing::{self, Closing};
use relay_node::failure::failure;
use relay_node::live::{Desk, Live};
use relay_node::pipes::Stock;
use relay_node::sessions::SessionId;
use relay_node::timers::{Armed, Timers};
use relay_node::{Observer, Served};
use slab::Slab;
use socket2::Socket;

use crate::acceptor::Address;
use crate::mail::{Mailbox, Sender, ToAcceptor, ToWorker};
use crate::token::{Id, Subject};

/// What every session of a loop uses.
#[derive(Debug)]
pub(crate) struct Context {
    /// The worker's number.
    number: usize,
    registry: Registry,
    clock: Clock,
    stock: Stock,
    acceptor: Sender<ToAcceptor>,
    observer: Arc<dyn Observer>,
    served: Served,
    next_seed: u64,
}

impl Context {
    pub(crate) fn new(
        number: usize,
        registry: Registry,
        clock: Clock,
        acceptor: Sender<ToAcceptor>,
        observer: Arc<dyn Observer>,
        seed: u64,
    ) -> Self {
        let (stock, served) = (Stock::default(), Served::default());
        Self { number, registry, clock, stock, acceptor, observer, served, next_seed: seed }
    }

    /// Tells the acceptor about a session.
    fn report(&self, report: Report<Address>) {
        self.acceptor.send(ToAcceptor::Report { worker: self.number, report });
    }
}

/// One session's.
struct AtDesk<'a> {
    cx: &'a mut Context,
    id: Id,
}

impl Desk for AtDesk<'_> {
    type Address = Address;

    fn now(&self) -> Instant {
        self.cx.clock.now()
    }

    fn address(&self) -> Address {
        (self.cx.number, self.id)
    }

    fn report(&mut self, report: Report<Address>) {
        self.cx.report(report);
    }

    /// For both kinds of edges, once and for good.
    fn register(&mut self, leg: Leg, socket: &Arc<Socket>) -> Result<(), Failure> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        let token = Subject::Leg(self.id, leg).token();
        let fd = socket.as_raw_fd();
        self.cx.registry.register(&mut SourceFd(&fd), token, interest).map_err(|error| failure(&error))
    }

    /// The kernel forgets a socket that is closed, and nobody here shares in one.
    fn forget(&mut self, _: Leg) {}

    fn stock(&mut self) -> &mut Stock {
        &mut self.cx.stock
    }

    fn observer(&self) -> &dyn Observer {
        &*self.cx.observer
    }

    fn count(&mut self, outcome: &Outcome) {
        self.cx.served.count(outcome);
    }

    fn seed(&mut self) -> u64 {
        // any odd number visits all of them
        self.cx.next_seed = self.cx.next_seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.cx.next_seed
    }
}

/// A session and where it is to be found.
#[derive(Debug)]
struct Slot {
    id: Id,
    armed: Armed,
    /// In the run queue.
    queued: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    Live(Box<Live>),
    /// Over, but for the bytes in its sockets.
    Closing(Closing),
}

impl State {
    /// Whether this session is meant. One that is over is nobody's any more.
    fn is(&self, which: Which) -> bool {
        match self {
            Self::Live(live) => which.is(live.seat().id(), live.seat().route()),
            Self::Closing(_) => false,
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Worker {
    cx: Context,
    slots: Slab<Slot>,
    /// Sessions that may have something to do. Each is in it once at most.
    queue: VecDeque<Id>,
    timers: Timers<Id>,
    mail: Mailbox<ToWorker>,
    next_generation: u32,
    /// The latest time at which everything is closed.
    end: Option<Instant>,
    quit: bool,
}

impl Worker {
    pub(crate) fn new(cx: Context, mail: Mailbox<ToWorker>) -> Self {
        Self {
            cx,
            slots: Slab::new(),
            queue: VecDeque::new(),
            timers: Timers::new(),
            mail,
            next_generation: 0,
            end: None,
            quit: false,
        }
    }

    /// Takes the acceptor's messages; whether there were any.
    pub(crate) fn take_mail(&mut self) -> bool {
        let messages = self.mail.take();
        let any = !messages.is_empty();
        for message in messages {
            match message {
                ToWorker::Accepted(accepted) => self.add(*accepted),
                ToWorker::Dial(id, since) => self.with_live(id, |live, cx| live.may_dial(since, cx)),
                ToWorker::Evict(session) => self.evict(session),
                ToWorker::Beat(beat) => drop(beat),
                ToWorker::Relimit => self.relimit(),
                ToWorker::Abort(which) => self.abort(which),
                ToWorker::Stop(stop) => self.stop(stop),
                ToWorker::Quit => self.quit = true,
            }
        }
        any
    }

    /// Whether the acceptor has said that nothing more will come.
    pub(crate) const fn is_to_quit(&self) -> bool {
        self.quit
    }

    /// Whether some session has something to do: do not sleep.
    pub(crate) fn is_busy(&self) -> bool {
        !self.queue.is_empty()
    }

    /// When [`on_time`](Self::on_time) is next to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    pub(crate) const fn served(&self) -> Served {
        self.cx.served
    }

    /// Tells the acceptor that this worker is no more.
    pub(crate) fn failed(&self, error: std::io::Error) {
        self.cx.acceptor.send(ToAcceptor::Failed(error));
    }

    fn add(&mut self, accepted: Accepted) {
        let entry = self.slots.vacant_entry();
        let Ok(slot) = u32::try_from(entry.key()) else { return }; // no process has 2^32 sockets
        let id = Id { slot, generation: self.next_generation };
        self.next_generation = self.next_generation.wrapping_add(1);
        let state = State::Live(Box::new(Live::new(accepted, &mut AtDesk { cx: &mut self.cx, id })));
        entry.insert(Slot { id, armed: Armed::default(), queued: true, state });
        self.queue.push_back(id);
    }

    /// Something happened to a leg.
    pub(crate) fn on_edge(&mut self, id: Id, leg: Leg, edge: Ready) {
        self.with_live(id, |live, cx| live.on_edge(leg, edge, cx));
    }

    /// Lets every timer fire that is due.
    pub(crate) fn on_time(&mut self, now: Instant) {
        while let Some((at, id)) = self.timers.pop(now) {
            if find(&mut self.slots, id).is_some_and(|slot| slot.armed.fires(at)) {
                self.with_live(id, |live, cx| live.on_time(now, cx));
                self.look_at_closing(id, now);
            }
        }
    }

    /// Gives every session in the run queue one turn.
    pub(crate) fn run(&mut self) {
        for _ in 0..self.queue.len() {
            let Some(id) = self.queue.pop_front() else { return };
            self.turn(id);
        }
    }

    fn turn(&mut self, id: Id) {
        let Some(slot) = find(&mut self.slots, id) else { return };
        let State::Live(live) = &mut slot.state else { return };
        let pumped = live.turn(&mut AtDesk { cx: &mut self.cx, id });
        // Also of a session that is never idle: it has a lifetime, and the operator a deadline.
        self.timers.arm(id, &mut slot.armed, live.deadline());
        slot.queued = pumped == Pumped::Again;
        match pumped {
            Pumped::Again => self.queue.push_back(id),
            Pumped::Idle => {}
            Pumped::Done => {
                slot.state = State::Closing(live.end(&mut AtDesk { cx: &mut self.cx, id }));
                self.look_at_closing(id, self.cx.clock.now());
            }
        }
    }

    /// Does something with a session that is open; it then has a turn.
    fn with_live(&mut self, id: Id, act: impl FnOnce(&mut Live, &mut AtDesk<'_>)) {
        let Some(slot) = find(&mut self.slots, id) else { return };
        if let State::Live(live) = &mut slot.state {
            act(live, &mut AtDesk { cx: &mut self.cx, id });
            if !slot.queued {
                slot.queued = true;
                self.queue.push_back(id);
            }
        }
    }

    /// Frees the slot of a session that is over as soon as nothing is left of it.
    fn look_at_closing(&mut self, id: Id, now: Instant) {
        let Some(slot) = find(&mut self.slots, id) else { return };
        let State::Closing(closing) = &mut slot.state else { return };
        match closing.look(now, self.end) {
            Some(until) => self.timers.arm(id, &mut slot.armed, Some(until)),
            None => {
                let stranger = closing.stranger;
                self.slots.remove(id.slot as usize);
                self.cx.report(Report::Closed { stranger });
            }
        }
    }

    /// Ends some sessions.
    fn abort(&mut self, which: Which) {
        let now = self.cx.clock.now();
        let ids: Vec<Id> =
            self.slots.iter().filter(|(_, slot)| slot.state.is(which)).map(|(_, slot)| slot.id).collect();
        for id in ids {
            self.with_live(id, |live, _| live.stop(now, Stop::Abort));
        }
    }

    /// The limits of the rate have changed.
    fn relimit(&mut self) {
        let ids: Vec<Id> = self.slots.iter().map(|(_, slot)| slot.id).collect();
        for id in ids {
            self.with_live(id, |live, _| live.relimit());
        }
    }

    /// Has a stranger make room for others.
    fn evict(&mut self, session: SessionId) {
        let now = self.cx.clock.now();
        let which = Which::Session(session);
        let found = self.slots.iter().find(|(_, slot)| slot.state.is(which)).map(|(_, slot)| slot.id);
        if let Some(id) = found {
            self.with_live(id, |live, _| live.evict(now));
        }
    }

    fn stop(&mut self, stop: Stop) {
        let now = self.cx.clock.now();
        let end = closing::end(stop, now);
        self.end = Some(self.end.map_or(end, |known| known.min(end)));
        let ids: Vec<Id> = self.slots.iter().map(|(_, slot)| slot.id).collect();
        for id in ids {
            self.with_live(id, |live, _| live.stop(now, stop));
            self.look_at_closing(id, now);
        }
    }
}

/// The slot of a session, unless it is gone.
fn find(slots: &mut Slab<Slot>, id: Id) -> Option<&mut Slot> {
    slots.get_mut(id.slot as usize).filter(|slot| slot.id == id)
}
