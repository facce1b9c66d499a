//! The sessions of one loop: their slots, run queue, timers and buffers.

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use relay_core::{Failure, Instant, Leg, Outcome, Ready};
use relay_node::acceptor::{Accepted, Report, Which};
use relay_node::clock::Clock;
use relay_node::failure::failure;
use relay_node::lifecycle::{Lifecycle, Message, Progress};
use relay_node::live::Desk;
use relay_node::pipes::Stock;
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
    session: Lifecycle,
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
                ToWorker::Dial(id, since) => self.tell(id, Message::Dial(since)),
                ToWorker::Evict(session) => self.tell_those(Which::Session(session), Message::Evict),
                ToWorker::Beat(beat) => drop(beat),
                ToWorker::Abort(which) => self.tell_those(which, Message::Abort),
                ToWorker::Relimit => self.tell_all(Message::Relimit),
                ToWorker::Review => self.tell_all(Message::Review),
                ToWorker::Stop(stop) => self.tell_all(Message::Stop(stop)),
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
        let session = Lifecycle::new(accepted, &mut AtDesk { cx: &mut self.cx, id });
        entry.insert(Slot { id, armed: Armed::default(), queued: true, session });
        self.queue.push_back(id);
    }

    /// Something happened to a leg.
    pub(crate) fn on_edge(&mut self, id: Id, leg: Leg, edge: Ready) {
        self.with(id, |session, desk| session.on_edge(leg, edge, desk));
    }

    /// Lets every timer fire that is due.
    pub(crate) fn on_time(&mut self, now: Instant) {
        while let Some((at, id)) = self.timers.pop(now) {
            if find(&mut self.slots, id).is_some_and(|slot| slot.armed.fires(at)) {
                self.with(id, |session, desk| {
                    session.on_time(now, desk);
                    true
                });
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
        let progress = slot.session.turn(&mut AtDesk { cx: &mut self.cx, id });
        if let Progress::Closed { stranger } = progress {
            self.timers.arm(id, &mut slot.armed, None);
            self.slots.remove(id.slot as usize);
            return self.cx.report(Report::Closed { stranger });
        }
        // Also of a session that is never idle: it has a lifetime, and the operator a deadline.
        self.timers.arm(id, &mut slot.armed, slot.session.deadline());
        slot.queued = progress == Progress::Again;
        if slot.queued {
            self.queue.push_back(id);
        }
    }

    /// Does something with a session, which says whether it then has a turn.
    fn with(&mut self, id: Id, act: impl FnOnce(&mut Lifecycle, &mut AtDesk<'_>) -> bool) {
        let Some(slot) = find(&mut self.slots, id) else { return };
        if act(&mut slot.session, &mut AtDesk { cx: &mut self.cx, id }) && !slot.queued {
            slot.queued = true;
            self.queue.push_back(id);
        }
    }

    fn tell(&mut self, id: Id, message: Message) {
        self.with(id, |session, desk| session.tell(message, desk));
    }

    fn tell_those(&mut self, which: Which, message: Message) {
        let meant = |(_, slot): (usize, &Slot)| slot.session.is(which).then_some(slot.id);
        let ids: Vec<Id> = self.slots.iter().filter_map(meant).collect();
        ids.into_iter().for_each(|id| self.tell(id, message));
    }

    fn tell_all(&mut self, message: Message) {
        let ids: Vec<Id> = self.slots.iter().map(|(_, slot)| slot.id).collect();
        ids.into_iter().for_each(|id| self.tell(id, message));
    }
}

/// The slot of a session, unless it is gone.
fn find(slots: &mut Slab<Slot>, id: Id) -> Option<&mut Slot> {
    slots.get_mut(id.slot as usize).filter(|slot| slot.id == id)
}
