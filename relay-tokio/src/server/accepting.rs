//! The task that accepts: the acceptor, and what tokio does for it.

use std::collections::HashMap;
use std::future;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use relay_core::admission::ListenerId;
use relay_core::{Instant, Stop};
use relay_node::acceptor::{Accepted, Acceptor, Host, Report, Which};
use relay_node::control::Beat;
use relay_node::lifecycle::{Message, seed};
use relay_node::listen::Listener;
use relay_node::{RouteId, ServeError, Server, SessionId};
use relay_sys::Edges;

use super::Shared;
use super::mail::Mailbox;
use super::session::{Session, ToSession};
use crate::alarm::Alarm;

/// What the sessions have to tell, and who.
pub(super) type Reports = Mailbox<(SessionId, Report<SessionId>)>;

/// Accepts until the operator said stop and the last session is gone.
///
/// # Errors
/// If a socket can't be waited for.
pub(super) async fn accept(server: Server, shared: Arc<Shared>) -> Result<(), ServeError> {
    let failed = |error| ServeError::new("register a socket with the poller", error);
    let commands = server.commands.as_fd().try_clone_to_owned().map_err(failed)?;
    let commands = Edges::new(Arc::new(commands.into())).map_err(failed)?;
    let commands = Some(commands);
    let tasks = Tasks {
        shared: Arc::clone(&shared),
        doors: HashMap::new(),
        rung: Arc::default(),
        sessions: HashMap::new(),
        reports: Arc::default(),
    };
    let (reports, rung) = (Arc::clone(&tasks.reports), Arc::clone(&tasks.rung));
    let acceptor = Acceptor::new(server, tasks, seed()).map_err(failed)?;
    let mut accepting = Accepting { commands, acceptor, reports, rung, alarm: Alarm::default(), shared };
    future::poll_fn(|cx| accepting.poll(cx)).await;
    Ok(())
}

/// Whether something has come since the last time. If not, `cx` is woken once it has.
///
/// A readiness that does not go away (of a listening socket that somebody has shut) is told, and then
/// waited for no more.
fn is_edge(edges: &Edges, cx: &mut Context<'_>) -> bool {
    (0..8).take_while(|_| edges.poll_readable(cx).is_ready()).count() > 0
}

/// See the [module](self).
struct Accepting {
    /// Until nobody is left to command.
    commands: Option<Edges>,
    acceptor: Acceptor<Tasks>,
    reports: Arc<Reports>,
    rung: Arc<Mailbox<ListenerId>>,
    alarm: Alarm,
    shared: Arc<Shared>,
}

impl Accepting {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut any = false;
            for (session, report) in self.reports.take(cx) {
                any = true;
                if matches!(report, Report::Closed { .. }) {
                    self.acceptor.host().sessions.remove(&session);
                }
                self.acceptor.on_report(report);
            }
            for number in self.rung.take(cx) {
                any = true;
                self.acceptor.host().wait_at(number);
                self.acceptor.on_listener(number);
            }
            if self.commands.as_ref().is_some_and(|commands| is_edge(commands, cx)) {
                any = true;
                self.acceptor.on_commands();
                if self.acceptor.commands().is_closed() {
                    self.commands = None;
                }
            }
            self.acceptor.turn(self.shared.clock.now());
            if self.acceptor.is_done() {
                return Poll::Ready(());
            }
            if self.acceptor.is_busy() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let deadline = self.acceptor.deadline().and_then(|at| self.shared.clock.to_tokio(at));
            if !self.alarm.is_due(deadline, cx) && !any {
                return Poll::Pending;
            }
        }
    }
}

/// The sessions' tasks, and the listeners that are waited at.
struct Tasks {
    shared: Arc<Shared>,
    doors: HashMap<ListenerId, Door>,
    /// At which somebody has come.
    rung: Arc<Mailbox<ListenerId>>,
    sessions: HashMap<SessionId, Handle>,
    reports: Arc<Reports>,
}

/// A listener that is waited at.
struct Door {
    edges: Edges,
    bell: Waker,
}

/// Says at which door somebody has come, so that not all have to be looked at.
struct Bell {
    number: ListenerId,
    rung: Arc<Mailbox<ListenerId>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.send(self.number);
    }
}

/// A session's task.
struct Handle {
    route: RouteId,
    mail: Arc<Mailbox<ToSession>>,
}

/// Nobody waits for the rest any more.
impl Drop for Tasks {
    fn drop(&mut self) {
        self.stop(Stop::Abort);
    }
}

impl Tasks {
    fn tell(&self, session: SessionId, message: Message) {
        if let Some(handle) = self.sessions.get(&session) {
            handle.mail.send(ToSession::Tell(message));
        }
    }

    /// Has the bell ring when somebody comes from now on.
    fn wait_at(&self, number: ListenerId) {
        if let Some(Door { edges, bell }) = self.doors.get(&number) {
            is_edge(edges, &mut Context::from_waker(bell));
        }
    }
}

impl Host for Tasks {
    type Address = SessionId;

    fn watch(&mut self, number: ListenerId, listener: &Listener) -> io::Result<()> {
        let edges = Edges::new(Arc::clone(listener.socket()))?;
        let bell = Waker::from(Arc::new(Bell { number, rung: Arc::clone(&self.rung) }));
        self.doors.insert(number, Door { edges, bell });
        self.wait_at(number);
        Ok(())
    }

    fn unwatch(&mut self, number: ListenerId, _: &Listener) {
        self.doors.remove(&number);
    }

    fn begin(&mut self, accepted: Accepted) {
        let (id, route) = (accepted.seat.id(), accepted.seat.route());
        let mail = Arc::default();
        self.sessions.insert(id, Handle { route, mail: Arc::clone(&mail) });
        tokio::spawn(Session::run(accepted, mail, Arc::clone(&self.reports), Arc::clone(&self.shared)));
    }

    fn dial(&mut self, session: SessionId, since: Instant) {
        self.tell(session, Message::Dial(since));
    }

    fn evict(&mut self, session: SessionId) {
        self.tell(session, Message::Evict);
    }

    fn stop(&mut self, stop: Stop) {
        for handle in self.sessions.values() {
            handle.mail.send(ToSession::Tell(Message::Stop(stop)));
        }
    }

    /// There are no loops that could be asked, but tasks: of one that is stuck the message stays where it is.
    fn beat(&mut self, beat: &Beat) {
        for handle in self.sessions.values() {
            handle.mail.send(ToSession::Beat(beat.clone()));
        }
    }

    fn relimit(&mut self) {
        for handle in self.sessions.values() {
            handle.mail.send(ToSession::Tell(Message::Relimit));
        }
    }

    fn review(&mut self) {
        for handle in self.sessions.values() {
            handle.mail.send(ToSession::Tell(Message::Review));
        }
    }

    fn abort(&mut self, which: Which) {
        for (id, handle) in &self.sessions {
            if which.is(*id, handle.route) {
                handle.mail.send(ToSession::Tell(Message::Abort));
            }
        }
    }
}
