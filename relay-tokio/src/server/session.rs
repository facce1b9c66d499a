//! A session as a task: it lives in readiness, messages and time, and ends with its last descriptor.

use std::cell::RefCell;
use std::future;
use std::sync::Arc;
use std::task::{Context, Poll};

use relay_core::admission::Stranger;
use relay_core::{Failure, Instant, Leg, Outcome, PerLeg, Pumped, Ready, Stop};
use relay_node::acceptor::{Accepted, Report};
use relay_node::closing::{self, Closing};
use relay_node::control::Beat;
use relay_node::failure::failure;
use relay_node::live::{self, Live};
use relay_node::pipes::Stock;
use relay_node::{Observer, SessionId};
use relay_sys::Edges;
use socket2::Socket;

use super::accepting::Reports;
use super::mail::Mailbox;
use super::{Shared, seed};
use crate::alarm::Alarm;

thread_local! {
    /// Buffers and pipes wander with their sessions from thread to thread and are handed back wherever
    /// that is.
    static STOCK: RefCell<Stock> = RefCell::default();
}

/// From the acceptor.
#[derive(Clone, Debug)]
pub(super) enum ToSession {
    /// It is this one's turn to be dialed, as it were since then.
    Dial(Instant),
    /// It has to make room for others.
    Evict,
    /// To be let go.
    Beat(Beat),
    /// The limits of the rate have changed.
    Relimit,
    /// The operator's wish, for this one.
    Abort,
    /// The operator's wish, for every session.
    Stop(Stop),
}

/// See the [module](self).
pub(super) struct Session {
    // Before its sockets.
    desk: Desk,
    state: State,
    mail: Arc<Mailbox<ToSession>>,
    alarm: Alarm,
    /// The latest time at which everything is closed.
    end: Option<Instant>,
}

enum State {
    Live(Box<Live>),
    /// Over, but for the bytes in its sockets.
    Closing(Closing),
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
        let live = Box::new(Live::new(accepted, &mut desk));
        let mut session = Self { desk, state: State::Live(live), mail, alarm: Alarm::default(), end: None };
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
                any = true;
                self.on_message(message);
            }
            match &mut self.state {
                State::Live(live) => {
                    for leg in Leg::BOTH {
                        if let Some(edge) = self.desk.edge(leg, live.ready(leg), cx) {
                            any = true;
                            live.on_edge(leg, edge, &mut self.desk);
                        }
                    }
                    if let Some(at) = live.deadline()
                        && self.alarm.is_due(self.desk.shared.clock.to_tokio(at), cx)
                    {
                        any = true;
                        live.on_time(self.desk.shared.clock.now().max(at), &mut self.desk);
                    }
                    if !any {
                        return Poll::Pending;
                    }
                    match live.turn(&mut self.desk) {
                        Pumped::Again => {
                            cx.waker().wake_by_ref();
                            return Poll::Pending;
                        }
                        Pumped::Idle => {}
                        Pumped::Done => self.state = State::Closing(live.end(&mut self.desk)),
                    }
                }
                State::Closing(closing) => {
                    let Some(until) = closing.look(self.desk.shared.clock.now(), self.end) else {
                        return Poll::Ready(closing.stranger);
                    };
                    if !self.alarm.is_due(self.desk.shared.clock.to_tokio(until), cx) && !any {
                        return Poll::Pending;
                    }
                }
            }
            any = false;
        }
    }

    fn on_message(&mut self, message: ToSession) {
        let now = self.desk.shared.clock.now();
        if let ToSession::Stop(stop) = message {
            let end = closing::end(stop, now);
            self.end = Some(self.end.map_or(end, |known| known.min(end)));
        }
        let State::Live(live) = &mut self.state else { return };
        match message {
            ToSession::Dial(since) => live.may_dial(since, &mut self.desk),
            ToSession::Evict => live.evict(now),
            ToSession::Beat(beat) => drop(beat),
            ToSession::Relimit => live.relimit(),
            ToSession::Abort => live.stop(now, Stop::Abort),
            ToSession::Stop(stop) => live.stop(now, stop),
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
