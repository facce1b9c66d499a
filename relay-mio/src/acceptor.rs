//! The acceptor in the first loop, and what the loops do for it.

use std::io;
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use relay_core::admission::ListenerId;
use relay_core::{Instant, Stop};
use relay_node::acceptor::{self, Accepted, Host, Report, Which};
use relay_node::control::Beat;
use relay_node::listen::Listener;
use relay_node::sessions::SessionId;
use relay_node::{ServeError, Server};

use crate::mail::{Mailbox, Sender, ToAcceptor, ToWorker};
use crate::token::{Id, Subject};

/// Where a session is: its worker's number, and its own there.
pub(crate) type Address = (usize, Id);

/// A worker as the acceptor sees it.
#[derive(Debug)]
struct Desk {
    mail: Sender<ToWorker>,
    sessions: usize,
}

/// All workers, and the poller of the first loop.
#[derive(Debug)]
struct Loops {
    registry: Registry,
    desks: Vec<Desk>,
}

impl Loops {
    fn register(&self, fd: i32, subject: Subject) -> io::Result<()> {
        self.registry.register(&mut SourceFd(&fd), subject.token(), Interest::READABLE)
    }

    /// The worker that has the fewest sessions; of several the first.
    fn least_loaded(&mut self) -> Option<&mut Desk> {
        self.desks.iter_mut().min_by_key(|desk| desk.sessions)
    }

    fn tell_all(&self, message: impl Fn() -> ToWorker) {
        for desk in &self.desks {
            desk.mail.send(message());
        }
    }
}

impl Host for Loops {
    type Address = Address;

    fn watch(&mut self, number: ListenerId, listener: &Listener) -> io::Result<()> {
        let number = u32::try_from(number.0).map_err(io::Error::other)?;
        self.register(listener.as_raw_fd(), Subject::Listener(number))
    }

    fn unwatch(&mut self, _: ListenerId, listener: &Listener) {
        // An inherited socket stays registered when closed here, for others have it, too.
        if let Err(error) = self.registry.deregister(&mut SourceFd(&listener.as_raw_fd())) {
            log::warn!("{}: {error}", listener.local());
        }
    }

    fn begin(&mut self, accepted: Accepted) {
        if let Some(desk) = self.least_loaded() {
            desk.sessions += 1;
            desk.mail.send(ToWorker::Accepted(Box::new(accepted)));
        }
    }

    fn dial(&mut self, (worker, id): Address, since: Instant) {
        self.desks[worker].mail.send(ToWorker::Dial(id, since));
    }

    fn evict(&mut self, session: SessionId) {
        self.tell_all(|| ToWorker::Evict(session));
    }

    fn stop(&mut self, stop: Stop) {
        self.tell_all(|| ToWorker::Stop(stop));
    }

    fn beat(&mut self, beat: &Beat) {
        self.tell_all(|| ToWorker::Beat(beat.clone()));
    }

    fn relimit(&mut self) {
        self.tell_all(|| ToWorker::Relimit);
    }

    fn review(&mut self) {
        self.tell_all(|| ToWorker::Review);
    }

    fn abort(&mut self, which: Which) {
        self.tell_all(|| ToWorker::Abort(which));
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Acceptor {
    acceptor: acceptor::Acceptor<Loops>,
    mail: Mailbox<ToAcceptor>,
    failed: Option<io::Error>,
}

impl Acceptor {
    /// Registers the listeners and the commands.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub(crate) fn new(
        server: Server,
        registry: Registry,
        mail: Mailbox<ToAcceptor>,
        desks: Vec<Sender<ToWorker>>,
        seed: u64,
    ) -> Result<Self, ServeError> {
        let desks = desks.into_iter().map(|mail| Desk { mail, sessions: 0 }).collect();
        let loops = Loops { registry, desks };
        let failed = |error| ServeError::new("register a socket with the poller", error);
        loops.register(server.commands.as_raw_fd(), Subject::Commands).map_err(failed)?;
        let acceptor = acceptor::Acceptor::new(server, loops, seed).map_err(failed)?;
        Ok(Self { acceptor, mail, failed: None })
    }

    /// Whether somebody could be accepted at once: do not sleep.
    pub(crate) fn is_busy(&self) -> bool {
        self.acceptor.is_busy()
    }

    /// When [`turn`](Self::turn) is next to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.acceptor.deadline()
    }

    /// Whether the operator said stop and the last session is gone, or a worker is.
    pub(crate) const fn is_done(&self) -> bool {
        self.failed.is_some() || self.acceptor.is_done()
    }

    /// Sends every loop home, and says why if it is for a failure.
    pub(crate) fn dismiss(mut self) -> Result<(), ServeError> {
        self.acceptor.host().tell_all(|| ToWorker::Quit);
        self.failed.map_or(Ok(()), |error| Err(ServeError::new("wait for events", error)))
    }

    /// Somebody waits at a listener.
    pub(crate) fn on_listener(&mut self, number: u32) {
        self.acceptor.on_listener(ListenerId(number as usize));
    }

    /// The operator has wishes.
    pub(crate) fn on_commands(&mut self) {
        self.acceptor.on_commands();
    }

    /// Takes the workers' messages; whether there were any.
    pub(crate) fn take_mail(&mut self) -> bool {
        let messages = self.mail.take();
        let any = !messages.is_empty();
        for message in messages {
            match message {
                ToAcceptor::Report { worker, report } => {
                    if matches!(report, Report::Closed { .. }) {
                        self.acceptor.host().desks[worker].sessions -= 1;
                    }
                    self.acceptor.on_report(report);
                }
                ToAcceptor::Failed(error) => self.failed = Some(error),
            }
        }
        any
    }

    /// Lets timers fire and accepts whom it may.
    pub(crate) fn turn(&mut self, now: Instant) {
        self.acceptor.turn(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever took turns would give the last two to the workers that have most.
    #[test]
    fn a_session_goes_to_the_worker_that_has_the_fewest() {
        let poll = mio::Poll::new().expect("a poller");
        let registry = poll.registry().try_clone().expect("a handle");
        let desks = [4, 1, 3, 1];
        let desks = desks.map(|sessions| Desk { mail: Mailbox::new(None).sender(), sessions }).into();
        let mut loops = Loops { registry, desks };
        for _ in 0..7 {
            loops.least_loaded().expect("there are some").sessions += 1;
        }
        let sessions: Vec<usize> = loops.desks.iter().map(|desk| desk.sessions).collect();
        assert_eq!(sessions, [4, 4, 4, 4]);
    }
}
