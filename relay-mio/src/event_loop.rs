//! One loop: waits for events, and hands them to its worker and, in the first loop, to the acceptor.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Poll};
use relay_core::{Instant, Ready};
use relay_node::clock::Clock;
use relay_node::tally::Laps;
use relay_node::{ServeError, Served};

use crate::acceptor::Acceptor;
use crate::token::Subject;
use crate::worker::Worker;

/// Events taken at once; more wait in the kernel.
const EVENTS: usize = 1024;

/// What the loops did, for tests and for the curious.
#[derive(Debug, Default)]
pub struct Counters {
    /// How often a loop came back from waiting, for whatever reason.
    wake_ups: AtomicU64,
    /// Of these, how often with nothing at all: no event, no timer due, no work left over.
    for_nothing: AtomicU64,
}

impl Counters {
    /// How often a loop came back from waiting for events.
    #[must_use]
    pub fn wake_ups(&self) -> u64 {
        self.wake_ups.load(Ordering::Relaxed)
    }

    /// Of these, how often there was neither an event nor a timer due nor work left from before.
    #[must_use]
    pub fn for_nothing(&self) -> u64 {
        self.for_nothing.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub(crate) struct EventLoop {
    pub(crate) poll: Poll,
    pub(crate) clock: Clock,
    pub(crate) worker: Worker,
    /// In the first loop.
    pub(crate) acceptor: Option<Acceptor>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) laps: Arc<Laps>,
}

impl EventLoop {
    /// Goes on until the acceptor says that it is over.
    ///
    /// # Errors
    /// If the poller fails.
    pub(crate) fn run(mut self) -> Result<Served, ServeError> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            self.exchange_mail();
            if self.acceptor.as_ref().is_some_and(Acceptor::is_done)
                && let Some(acceptor) = self.acceptor.take()
            {
                acceptor.dismiss()?;
                self.exchange_mail();
            }
            if self.worker.is_to_quit() {
                return Ok(self.worker.served());
            }
            let began = match self.wait(&mut events) {
                Ok(now) => now,
                Err(error) => return self.fail(error),
            };
            for event in &events {
                self.on_event(event);
            }
            let now = self.clock.now();
            self.worker.on_time(now);
            if let Some(acceptor) = &mut self.acceptor {
                acceptor.turn(now);
            }
            self.exchange_mail();
            self.worker.run();
            self.laps.note(self.clock.now().since(began));
        }
    }

    /// Until nobody has anything to say to somebody in this thread.
    fn exchange_mail(&mut self) {
        loop {
            let mut any = self.worker.take_mail();
            if let Some(acceptor) = &mut self.acceptor {
                any |= acceptor.take_mail();
            }
            if !any {
                return;
            }
        }
    }

    /// Waits for events, and says when it was over.
    fn wait(&mut self, events: &mut Events) -> io::Result<Instant> {
        let busy = self.worker.is_busy() || self.acceptor.as_ref().is_some_and(Acceptor::is_busy);
        let deadline = [self.worker.deadline(), self.acceptor.as_ref().and_then(Acceptor::deadline)]
            .into_iter()
            .flatten()
            .min();
        let timeout = if busy { Some(Duration::ZERO) } else { deadline.map(|at| at.since(self.clock.now())) };
        match self.poll.poll(events, timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        self.counters.wake_ups.fetch_add(1, Ordering::Relaxed);
        let now = self.clock.now();
        let due = deadline.is_some_and(|at| at <= now);
        if events.is_empty() && !busy && !due {
            self.counters.for_nothing.fetch_add(1, Ordering::Relaxed);
        }
        Ok(now)
    }

    fn on_event(&mut self, event: &Event) {
        match Subject::of(event.token()) {
            Some(Subject::Leg(id, leg)) => self.worker.on_edge(id, leg, edge(event)),
            Some(Subject::Listener(number)) => {
                if let Some(acceptor) = &mut self.acceptor {
                    acceptor.on_listener(number);
                }
            }
            Some(Subject::Commands) => {
                if let Some(acceptor) = &mut self.acceptor {
                    acceptor.on_commands();
                }
            }
            // It is looked for in any case.
            Some(Subject::Mail) | None => {}
        }
    }

    fn fail(self, error: io::Error) -> Result<Served, ServeError> {
        match self.acceptor {
            Some(acceptor) => {
                acceptor.dismiss()?;
                Err(ServeError::new("wait for events", error))
            }
            None => {
                self.worker.failed(error);
                Ok(self.worker.served())
            }
        }
    }
}

/// Ends and errors count as readiness of both kinds: reading or writing tells which it is. EPOLLHUP
/// means that both directions are over, EPOLLERR that the connection is dead.
fn edge(event: &Event) -> Ready {
    Ready {
        readable: event.is_readable() || event.is_read_closed() || event.is_error(),
        writable: event.is_writable() || event.is_write_closed() || event.is_error(),
        hung_up: event.is_write_closed() || event.is_error(),
    }
}
