//! A session as a task: it lives in readiness, messages and time, and ends with its last descriptor.

use std::cell::RefCell;
use std::future;
use std::sync::Arc;
use std::task::{Context, Poll};

use relay_core::admission::Stranger;
use relay_core::{Failure, Instant, Leg, Outcome, PerLeg, Ready, Stop};
use relay_node::acceptor::{Accepted, Report};
use relay_node::control::Beat;
use relay_node::failure::failure;
use relay_node::lifecycle::{Lifecycle, Message, Progress, seed};
use relay_node::live;
use relay_node::pipes::Stock;
use relay_node::{Observer, SessionId};
use relay_sys::Edges;
use socket2::Socket;

use super::Shared;
use super::accepting::Reports;
use super::mail::Mailbox;
use crate::alarm::Alarm;

thread_local! {
    /// Buffers and pipes wander with their sessions from thread to thread and are handed back wherever
    /// that is.
    static STOCK: RefCell<Stock> = RefCell::default();
}

/// From the acceptor.
#[derive(Clone, Debug)]
pub(super) enum ToSession {
    /// What a session has to know.
    Tell(Message),
    /// To be let go.
    Beat(Beat),
}

/// See the [module](self).
pub(super) struct Session {
    // Before its sockets.
    desk: Desk,
    lifecycle: Lifecycle,
    mail: Arc<Mailbox<ToSession>>,
    alarm: Alarm,
}

impl Session {
    pub(super) async fn run(
        accepted: Accepted,
        mail: Arc<Mailbox<ToSession>>,
        reports: Arc<Reports>,
        shared: Arc<Shared>,
    ) {
        let id = accepted.seat.id();
        let mut desk = Desk {
            id,
            edges: PerLeg::default(),
            has_hung_up: PerLeg::both(false),
            stock: Stock::default(),
            reports: Arc::clone(&reports),
            shared,
        };
        let lifecycle = Lifecycle::new(accepted, &mut desk);
        let mut session = Self { desk, lifecycle, mail, alarm: Alarm::default() };
        let stranger = future::poll_fn(|cx| session.poll(cx)).await;
        drop(session);
        reports.send((id, Report::Closed { stranger }));
    }

    /// Goes on as far as it can. Ready once all is closed: says whether its front was a stranger to the end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Stranger>> {
        STOCK.with_borrow_mut(|stock| std::mem::swap(stock, &mut self.desk.stock));
        let polled = self.go_on(cx);
        STOCK.with_borrow_mut(|stock| std::mem::swap(stock, &mut self.desk.stock));
        polled
    }

    fn go_on(&mut self, cx: &mut Context<'_>) -> Poll<Option<Stranger>> {
        // Somebody woke the task, or it is new: one turn in any case.
        let mut any = true;
        loop {
            for message in self.mail.take(cx) {
                match message {
                    ToSession::Tell(message) => any |= self.lifecycle.tell(message, &mut self.desk),
                    ToSession::Beat(beat) => drop(beat),
                }
            }
            for leg in Leg::BOTH {
                if let Some(edge) = self.desk.edge(leg, self.lifecycle.ready(leg), cx) {
                    any |= self.lifecycle.on_edge(leg, edge, &mut self.desk);
                }
            }
            if let Some(at) = self.lifecycle.deadline()
                && self.alarm.is_due(self.desk.shared.clock.to_tokio(at), cx)
            {
                any = true;
                self.lifecycle.on_time(self.desk.shared.clock.now().max(at), &mut self.desk);
            }
            if !any {
                return Poll::Pending;
            }
            match self.lifecycle.turn(&mut self.desk) {
                Progress::Again => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Progress::Idle => any = false,
                Progress::Closed { stranger } => return Poll::Ready(stranger),
            }
        }
    }
}

impl Drop for Session {
    /// A task that is dropped with its runtime: its peers must not take that for an orderly end, and the
    /// observer is told of every session.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.lifecycle.tell(Message::Stop(Stop::Abort), &mut self.desk);
            self.lifecycle.turn(&mut self.desk);
        }
    }
}

/// What tokio does for the session.
struct Desk {
    id: SessionId,
    edges: PerLeg<Option<Edges>>,
    /// It was told that the leg's peer is gone in both directions.
    has_hung_up: PerLeg<bool>,
    /// The thread's, while the task is polled.
    stock: Stock,
    reports: Arc<Reports>,
    shared: Arc<Shared>,
}

impl Desk {
    /// What has become possible at a leg beyond what is `known` to be. If nothing, the task is woken once
    /// something has.
    fn edge(&mut self, leg: Leg, known: Ready, cx: &mut Context<'_>) -> Option<Ready> {
        let edges = self.edges[leg].as_ref()?;
        let readable = edges.poll_readable(cx).is_ready();
        let (writable, hung_up) = match edges.poll_writable(cx) {
            Poll::Ready(hung_up) => (true, hung_up),
            Poll::Pending => (false, false),
        };
        // Once: tokio goes on saying so, and the session forgets what it has looked into.
        let hangs_up = hung_up && !std::mem::replace(&mut self.has_hung_up[leg], hung_up);
        let is_news = (readable && !known.readable) || (writable && !known.writable) || hangs_up;
        is_news.then_some(Ready { readable, writable, hung_up: hangs_up })
    }
}

impl live::Desk for Desk {
    type Address = SessionId;

    fn now(&self) -> Instant {
        self.shared.clock.now()
    }

    fn address(&self) -> SessionId {
        self.id
    }

    fn report(&mut self, report: Report<SessionId>) {
        self.reports.send((self.id, report));
    }

    fn register(&mut self, leg: Leg, socket: &Arc<Socket>) -> Result<(), Failure> {
        self.has_hung_up[leg] = false;
        self.edges[leg] = Some(Edges::new(Arc::clone(socket)).map_err(|error| failure(&error))?);
        Ok(())
    }

    fn forget(&mut self, leg: Leg) {
        self.edges[leg] = None;
    }

    fn stock(&mut self) -> &mut Stock {
        &mut self.stock
    }

    fn observer(&self) -> &dyn Observer {
        &*self.shared.observer
    }

    fn count(&mut self, outcome: &Outcome) {
        self.shared.count(outcome);
    }

    fn seed(&mut self) -> u64 {
        seed()
    }
}
