//! A relay in a thread of this process, and what can be seen of it.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use relay_conformance::PATIENCE;
use relay_core::{EndReason, Failure, Leg, Outcome};
use relay_node::cli::Timeouts;
use relay_node::control::{self, Command, Controller};
use relay_node::crowd::Crowded;
use relay_node::endpoint::Endpoint;
use relay_node::sessions::{SessionView, Stage};
use relay_node::{Observer, Route, RouteId, Runtime, ServeError, Served, Server, SessionEnded, SessionTable};

use crate::certificates::tls;

/// What is known of a session that is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// Reasons, byte counts, and how each leg is closed.
    pub outcome: Outcome,
    /// Why a dial failed, if one did and the session was not aborted: an abort may come before it is known.
    pub dial_failure: Option<Failure>,
    /// Whether the backend was ever connected.
    pub was_connected: bool,
    /// Who proved to be at the front.
    pub identity: Option<String>,
    /// What was wrong with the TLS of each leg, the front's first.
    pub tls_errors: [Option<String>; 2],
}

#[derive(Debug, Default)]
struct Seen {
    ended: Option<Ended>,
    is_closed: bool,
}

#[derive(Debug, Default)]
struct Watch {
    seen: Mutex<Seen>,
    changed: Condvar,
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        // a test that has failed has yet to end
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<T>(&self, what: &str, check: impl Fn(&Seen) -> Option<T>) -> T {
        let seen = self.lock();
        let (seen, _) = self
            .changed
            .wait_timeout_while(seen, PATIENCE, |seen| check(seen).is_none())
            .unwrap_or_else(PoisonError::into_inner);
        check(&seen).unwrap_or_else(|| panic!("{what}: {seen:?}"))
    }
}

impl Observer for Watch {
    fn session_ended(&self, ended: &SessionEnded<'_>) {
        let ended = Ended {
            outcome: *ended.outcome,
            dial_failure: ended
                .dial_failure
                .filter(|_| ended.outcome.flows.front.reason != EndReason::Aborted),
            was_connected: ended.back.is_some(),
            identity: ended.identity(Leg::Front),
            tls_errors: Leg::BOTH.map(|leg| ended.tls_error(leg).map(str::to_owned)),
        };
        assert!(self.lock().ended.replace(ended).is_none(), "one session only");
        self.changed.notify_all();
    }

    fn accept_paused(&self, _: &Endpoint, why: &io::Error) {
        panic!("accepting paused: {why}");
    }

    fn accept_resumed(&self, _: &Endpoint) {}

    fn crowded(&self, crowd: &Crowded) {
        panic!("one client is no crowd: {crowd:?}");
    }

    fn order_broken(&self, _: &Endpoint, _: Duration) {
        panic!("one client has nobody to overtake");
    }

    fn listener_closed(&self, _: RouteId) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }
}

/// A relay with one listener.
pub(crate) struct Node<'scope> {
    pub(crate) at: Endpoint,
    watch: Arc<Watch>,
    sessions: Arc<SessionTable>,
    controller: Controller,
    /// Until it is joined.
    thread: Option<ScopedJoinHandle<'scope, Result<Served, ServeError>>>,
}

impl<'scope> Node<'scope> {
    pub(crate) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        runtime: &'scope (impl Runtime + ?Sized),
        threads: usize,
        [from, to]: [&str; 2],
        timeouts: &Timeouts,
    ) -> Self {
        let [listen, connect] = [from, to].map(|text| text.parse().expect("an endpoint"));
        let route = Route::open(&listen, &connect, Some(tls()), timeouts).expect("a route");
        let at = route.listener.local().clone();
        let (controller, commands) = control::channel().expect("a pair");
        let watch = Arc::new(Watch::default());
        let observer = Arc::clone(&watch) as Arc<dyn Observer>;
        let (threads, drain_timeout) = (threads.try_into().ok(), timeouts.drain);
        let server = Server { threads, drain_timeout, observer, ..Server::new([route], commands) };
        let sessions = Arc::clone(&server.sessions);
        let thread = Some(scope.spawn(move || runtime.serve(server)));
        Self { at, watch, sessions, controller, thread }
    }

    /// Limits that nothing reaches.
    pub(crate) const fn unlimited() -> Timeouts {
        Timeouts {
            dial: Some(PATIENCE),
            handshake: Some(PATIENCE),
            idle: None,
            half_open: None,
            lifetime: None,
            drain: Some(PATIENCE),
        }
    }

    /// Waits until its session is open and so many bytes, by the client and by the server, have gone
    /// through, and the end of those who have ended.
    pub(crate) fn settle(&self, sent: [(u64, bool); 2]) {
        let is_settled = |view: &SessionView| {
            let flows = [view.flows.front, view.flows.back];
            view.stage == Stage::Open && flows.map(|flow| (flow.delivered, flow.is_shut)) == sent
        };
        self.until("settled", is_settled);
    }

    /// Waits until the client's or the server's byte of this number has been read.
    pub(crate) fn has_read(&self, by_client: bool, count: u64) {
        self.until("read", |view| {
            let flow = if by_client { view.flows.front } else { view.flows.back };
            flow.read >= count
        });
    }

    /// Waits until its session is dialing, or open.
    pub(crate) fn has_come_to(&self, stage: Stage) {
        self.until("come to a stage", |view| view.stage == stage);
    }

    /// Waits until its session is over; its sockets may not be.
    pub(crate) fn has_ended(&self) {
        self.watch.wait("the session ends", |seen| seen.ended.is_some().then_some(()));
    }

    fn until(&self, what: &str, wanted: impl Fn(&SessionView) -> bool) {
        let start = Instant::now();
        loop {
            let views = self.sessions.snapshot();
            if views.len() == 1 && wanted(&views[0]) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{what}: {views:?}");
            std::thread::yield_now();
        }
    }

    pub(crate) fn end_session(&self) {
        for view in self.sessions.snapshot() {
            self.controller.send(Command::End(view.id));
        }
    }

    pub(crate) fn abort(&self) {
        self.controller.send(Command::Abort);
    }

    /// Has it drain, and waits until it has heard.
    pub(crate) fn drain(&self) {
        self.controller.send(Command::Drain);
        self.watch.wait("the listener is closed", |seen| seen.is_closed.then_some(()));
    }

    /// How the session ended, and what the relay says at its own end.
    pub(crate) fn finish(mut self) -> (Ended, Served) {
        let ended = self.watch.wait("the session ends", |seen| seen.ended.clone());
        self.controller.send(Command::Drain);
        let thread = self.thread.take().expect("not joined yet");
        let served = thread.join().expect("no panic").expect("no failure of the loop");
        assert!(self.sessions.is_empty());
        (ended, served)
    }
}

impl Drop for Node<'_> {
    /// Where a test fails its relays are still there, and whoever has made them waits for them.
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.controller.send(Command::Abort);
        }
    }
}
