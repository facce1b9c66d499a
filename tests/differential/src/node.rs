//! A relay in a thread of this process, and what can be seen of it.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use relay_core::admission::Limits;
use relay_core::{Failure, Outcome};
use relay_node::cli::Timeouts;
use relay_node::control::{self, Command, Controller};
use relay_node::crowd::Crowded;
use relay_node::endpoint::Endpoint;
use relay_node::inherited::Inherited;
use relay_node::listen::{ListenOptions, listen};
use relay_node::resolve::Backend;
use relay_node::server::numbered;
use relay_node::sessions::{SessionView, Stage};
use relay_node::tls::Tls;
use relay_node::{
    Observer, Plan, Route, RouteId, Runtime, ServeError, Served, Server, SessionEnded, SessionTable,
};
use relay_tls::{Material, Pem};

use crate::peer::PATIENCE;

/// What is known of a session that is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// Reasons, byte counts, and how each leg is closed.
    pub outcome: Outcome,
    /// Why a dial failed, if one did.
    pub dial_failure: Option<Failure>,
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
        self.seen.lock().expect("no panic while it was held")
    }

    fn wait<T>(&self, what: &str, check: impl Fn(&Seen) -> Option<T>) -> T {
        let seen = self.lock();
        let (seen, _) = self
            .changed
            .wait_timeout_while(seen, PATIENCE, |seen| check(seen).is_none())
            .expect("no panic while it was held");
        check(&seen).unwrap_or_else(|| panic!("{what}: {seen:?}"))
    }
}

impl Observer for Watch {
    fn session_ended(&self, ended: &SessionEnded<'_>) {
        let ended = Ended { outcome: *ended.outcome, dial_failure: ended.dial_failure };
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
    thread: ScopedJoinHandle<'scope, Result<Served, ServeError>>,
}

impl<'scope> Node<'scope> {
    pub(crate) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        runtime: &'scope (impl Runtime + ?Sized),
        threads: usize,
        [from, to]: [&str; 2],
    ) -> Self {
        let listener =
            listen(&from.parse().expect("an endpoint"), &ListenOptions::default(), &mut Inherited::none())
                .expect("a listener");
        let at = listener.local().clone();
        let backend = Backend::new(&to.parse().expect("an endpoint")).expect("a backend");
        let plan = Plan::new(at.clone(), backend, Some(tls()), &Timeouts::default()).expect("a plan");
        let (controller, commands) = control::channel().expect("a pair");
        let (watch, sessions) = (Arc::new(Watch::default()), SessionTable::new());
        let server = Server {
            routes: numbered([Route { listener, plan: Arc::new(plan) }]),
            sessions: Arc::clone(&sessions),
            limits: Limits::default(),
            threads: threads.try_into().ok(),
            drain_timeout: Some(PATIENCE),
            observer: Arc::clone(&watch) as Arc<dyn Observer>,
            commands,
        };
        let thread = scope.spawn(move || runtime.serve(server));
        Self { at, watch, sessions, controller, thread }
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
    pub(crate) fn finish(self) -> (Ended, Served) {
        let ended = self.watch.wait("the session ends", |seen| seen.ended.clone());
        self.controller.send(Command::Drain);
        let served = self.thread.join().expect("no panic").expect("no failure of the loop");
        assert!(self.sessions.is_empty());
        (ended, served)
    }
}

/// Certificates for the middle of the road, made once.
fn tls() -> &'static Arc<Tls> {
    static TLS: OnceLock<Arc<Tls>> = OnceLock::new();
    TLS.get_or_init(|| {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let ca = authority.self_signed(&key).expect("a certificate").pem();
        let issuer = Issuer::new(authority, key);
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &issuer).expect("a certificate").pem();
        let key = key.serialize_pem();
        let pem = |file, text| Pem { file, bytes: str::as_bytes(text) };
        let material = Material::from_pem(pem("cert", &cert), pem("key", &key), pem("ca", &ca)).expect("PEM");
        Arc::new(Tls::new(&material, &[]).expect("TLS settings"))
    })
}
