//! The relay on a hand-written event loop: edge-triggered readiness, a run queue, timers.
//!
//! One [`Mio`] runs several loops, each in a thread of its own. The first has the **acceptor**:
//! listeners, limits, the order of dialing, the operator's commands. Every loop, the first included,
//! has a **worker**: sessions, from accept to the last byte. The two talk by mail only, also within
//! one thread, so that nothing is different with one loop or many.
//!
//! What a loop does each time around:
//! 1. wait for events, not at all if a session is in the run queue, otherwise until the next timer;
//! 2. remember edges, put the sessions concerned in the run queue, let timers fire, accept;
//! 3. give each session in the run queue one turn of a bounded number of bytes.
//!
//! So a busy stream costs a small message on another at most one turn, and an idle session nothing.

mod acceptor;
mod event_loop;
mod mail;
mod token;
mod worker;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;

use mio::{Poll, Waker};
use relay_node::clock::Clock;
use relay_node::lifecycle::seed;
use relay_node::{Observer, Runtime, ServeError, Served, Server};

use acceptor::Acceptor;
pub use event_loop::Counters;
use event_loop::EventLoop;
use mail::{Mailbox, Sender, ToAcceptor, ToWorker};
use token::Subject;
use worker::{Context, Worker};

/// The runtime: so many loops.
#[derive(Debug, Default)]
pub struct Mio {
    threads: Option<NonZeroUsize>,
    counters: Arc<Counters>,
}

impl Mio {
    /// So many loops, each in a thread of its own, unless a server says otherwise. The default is as
    /// many as there are processors to run on.
    #[must_use]
    pub fn with_threads(threads: NonZeroUsize) -> Self {
        Self { threads: Some(threads), counters: Arc::default() }
    }

    /// What the loops do.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }
}

/// What a loop is made of, before the acceptor is known.
struct Parts {
    poll: Poll,
    worker: Worker,
    desk: Sender<ToWorker>,
}

impl Parts {
    fn new(
        number: usize,
        clock: Clock,
        to_acceptor: Sender<ToAcceptor>,
        observer: Arc<dyn Observer>,
        poll: Poll,
        waker: Option<Arc<Waker>>,
    ) -> Result<Self, ServeError> {
        let registry = poll.registry().try_clone().map_err(|e| ServeError::new("clone a poller", e))?;
        let cx = Context::new(number, registry, clock, to_acceptor, observer, seed());
        let mail = Mailbox::new(waker);
        let desk = mail.sender();
        Ok(Self { poll, worker: Worker::new(cx, mail), desk })
    }
}

fn poller() -> Result<Poll, ServeError> {
    Poll::new().map_err(|error| ServeError::new("make a poller", error))
}

fn waker(poll: &Poll) -> Result<Arc<Waker>, ServeError> {
    Waker::new(poll.registry(), Subject::Mail.token())
        .map(Arc::new)
        .map_err(|error| ServeError::new("make a waker", error))
}

impl Runtime for Mio {
    fn serve(&self, server: Server) -> Result<Served, ServeError> {
        let clock = server.sessions.clock();
        let first = poller()?;
        let to_acceptor = Mailbox::new(Some(waker(&first)?));
        let registry = first.registry().try_clone().map_err(|e| ServeError::new("clone a poller", e))?;
        let observer = Arc::clone(&server.observer);
        let mut parts =
            vec![Parts::new(0, clock, to_acceptor.local_sender(), Arc::clone(&observer), first, None)?];
        for number in 1..server.loops(self.threads).get() {
            let poll = poller()?;
            let waker = waker(&poll)?;
            let to_acceptor = to_acceptor.sender();
            parts.push(Parts::new(number, clock, to_acceptor, Arc::clone(&observer), poll, Some(waker))?);
        }
        let (mut loops, mut desks) = (Vec::new(), Vec::new());
        for Parts { poll, worker, desk } in parts {
            let (counters, laps) = (Arc::clone(&self.counters), server.sessions.tally().laps());
            loops.push(EventLoop { poll, clock, worker, acceptor: None, counters, laps });
            desks.push(desk);
        }
        let mut first = loops.remove(0);
        first.acceptor = Some(Acceptor::new(server, registry, to_acceptor, desks, seed())?);
        run_all(first, loops)
    }
}

/// The first loop in this thread, the others in threads of their own.
fn run_all(mut first: EventLoop, others: Vec<EventLoop>) -> Result<Served, ServeError> {
    thread::scope(|scope| {
        let (mut running, mut result) = (Vec::new(), Ok(Served::default()));
        for (number, other) in others.into_iter().enumerate() {
            let name = format!("relay-{}", number + 1);
            match thread::Builder::new().name(name).spawn_scoped(scope, move || other.run()) {
                Ok(thread) => running.push(thread),
                Err(error) => result = Err(ServeError::new("start a thread", error)),
            }
        }
        match &result {
            Ok(_) => result = first.run(),
            // Those that were started go home again.
            Err(_) => first.acceptor.take().map_or(Ok(()), Acceptor::dismiss)?,
        }
        for thread in running {
            let served = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and_then(|sum| Ok(sum.and(served?)));
        }
        result
    })
}
