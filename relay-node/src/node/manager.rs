//! The manager: relay-migration's registry and reconciler, with this machine's sockets.
//!
//! One thread owns all of it, so a request is either before or behind another one. It decides nothing
//! itself: the registry demands listeners, which are opened here and handed to the loops; the loops tell
//! when one is closed, and the table of sessions how many there are.
//!
//! When a listener is closed its sessions go on: the tail of a migration may be underway in them, and
//! the ends of one that is over end them by themselves. `DELETE /v1/sessions/ID` ends one by force.

mod listeners;
mod objects;
mod succession;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use relay_core::Instant;
use relay_migration::PortMap;
use relay_migration::api::{self, ApiError, Call, LimitsWish};
use relay_migration::reconcile::Reconciler;
use relay_migration::registry::{
    Done, Event, Input, Listen, ListenerId, Name, OpenCount, Registry, Request, Side, Ticket,
};
use relay_migration::vmi::VmiName;

use succession::Succession;

use super::answers;
use super::bounds::Bounds;
use super::http::Answer;
use super::limits;
use super::network::Networks;
use super::pods::Pods;
use super::printer::Printer;
use super::state::{By, State};
use crate::control::{Beat, Command, Controller};
use crate::listen::{Hand, Shared};
use crate::metrics::{self, Metrics};
use crate::quantity;
use crate::server::Plan;
use crate::service;
use crate::sessions::{RouteId, SessionId, SessionTable};
use crate::site::Site;
use crate::socket_file::FileId;

/// How often sessions are counted while there are any: leases begin to run when there are none.
const COUNT: Duration = Duration::from_secs(1);

/// How long restoring goes on without a look at clients and signals.
const RESTORE: Duration = Duration::from_millis(10);

/// A client of the control API, by a number that is never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct ClientId(pub(super) u64);

/// Who waits for the registry's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Waiter {
    Client(ClientId, Request),
    Object(Request),
    /// Asked for by a predecessor.
    Restored(By, Request),
    Nobody,
}

/// A listener that a loop has.
#[derive(Debug)]
struct Open {
    plan: Arc<Plan>,
    listen: Listen,
    file: Option<FileId>,
    /// Of a port; given up when it is to be closed.
    shared: Option<Shared>,
    /// For a successor.
    hand: Hand,
    /// It is to be closed, and the loop knows.
    closing: bool,
}

/// What the manager is made of.
#[derive(Debug)]
pub(super) struct Parts {
    /// Of what clients ask for.
    pub(super) bounds: Bounds,
    pub(super) registry: Registry,
    pub(super) reconciler: Option<Reconciler>,
    pub(super) site: Site,
    pub(super) networks: Networks,
    pub(super) pods: Pods,
    pub(super) printer: Option<Printer>,
    pub(super) state: Option<State>,
    pub(super) controller: Controller,
    pub(super) sessions: Arc<SessionTable>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) drain_timeout: Option<Duration>,
    /// Once there is a successor.
    pub(super) retire_timeout: Option<Duration>,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Manager {
    parts: Parts,
    open: BTreeMap<ListenerId, Open>,
    /// Sessions of each listener, as the registry knows.
    counted: BTreeMap<ListenerId, u64>,
    count_next: Option<Instant>,
    next_ticket: u64,
    waiting: BTreeMap<Ticket, Waiter>,
    /// What is in force, and who asked for it.
    asked: BTreeMap<Name, (By, Request)>,
    /// What objects wait for, as it was logged last.
    waits: BTreeMap<(VmiName, Side), String>,
    answers: Vec<(ClientId, Answer)>,
    succession: Succession,
    /// The registry may have changed since its migrations were counted.
    unnoted: bool,
    /// What a predecessor had and is still to be asked for, and how much that was.
    restoring: VecDeque<(By, Request)>,
    to_restore: usize,
    /// The loops were told to stop.
    stopped: bool,
    /// And to end everything at once.
    aborted: bool,
    /// When sessions that a successor has not are cut.
    until: Option<Instant>,
}

impl Manager {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            parts,
            open: BTreeMap::new(),
            counted: BTreeMap::new(),
            count_next: None,
            next_ticket: 0,
            waiting: BTreeMap::new(),
            asked: BTreeMap::new(),
            waits: BTreeMap::new(),
            answers: Vec::new(),
            succession: Succession::None,
            unnoted: true,
            restoring: VecDeque::new(),
            to_restore: 0,
            stopped: false,
            aborted: false,
            until: None,
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.parts.sessions.clock().now()
    }

    /// What clients are to be told.
    pub(super) fn take_answers(&mut self) -> Vec<(ClientId, Answer)> {
        std::mem::take(&mut self.answers)
    }

    pub(super) const fn networks(&self) -> &Networks {
        &self.parts.networks
    }

    pub(super) fn hear_network(&mut self) {
        let now = self.now();
        self.parts.networks.hear(now);
    }

    /// What a predecessor had is to be had again, little by little: see
    /// [`restore_some`](Self::restore_some).
    pub(super) fn restore(&mut self, requests: Vec<(By, Request)>) {
        self.to_restore = requests.len();
        self.restoring = requests.into();
    }

    /// Whether it takes nothing new any more.
    pub(super) const fn is_draining(&self) -> bool {
        self.parts.registry.is_shutting_down()
    }

    /// Whether there is something that a predecessor had and this one has not yet. Until then clients
    /// are asked to wait, and objects wait.
    pub(super) fn is_restoring(&self) -> bool {
        !self.restoring.is_empty()
    }

    /// As much of it as fits between two looks at the clients.
    pub(super) fn restore_some(&mut self) {
        let until = self.now() + RESTORE;
        while let Some((by, request)) = self.restoring.pop_front() {
            if let Err(refused) = self.parts.bounds.check(&request)
                && by == By::Api
            {
                log::warn!(error = refused.message.as_str(); "not restored");
                continue;
            }
            self.request(request.clone(), Waiter::Restored(by, request));
            if self.now() >= until {
                return;
            }
        }
    }

    /// What is not there yet will not be: it stays noted for a successor.
    fn stop_restoring(&mut self) {
        let left = self.restoring.len();
        if left > 0 {
            log::warn!(left, of = self.to_restore; "stopped while restoring; what is left is for the next one");
            self.restoring.clear();
        }
    }

    /// Somebody wants to know whether every loop goes on.
    pub(super) fn beat(&self, beat: Beat) {
        self.parts.controller.send(Command::Beat(beat));
    }

    /// A client asks. The answer comes by [`take_answers`](Self::take_answers).
    pub(super) fn call(&mut self, client: ClientId, call: Call) {
        if let Err(refused) = self.succession.allows(&call) {
            return self.answers.push((client, Answer::from(&refused)));
        }
        self.count_sessions();
        let answer = match call {
            // Its connection is needed, too: it never comes to here.
            Call::TakeOver => Err(ApiError::bad("this can't be handed over")),
            Call::Ready if self.is_restoring() => {
                Ok(Answer::text(503, "text/plain", "restoring\n".to_owned()))
            }
            Call::Registry(_) | Call::Get(_) | Call::List(_) | Call::Sessions | Call::EndSession(_)
                if self.is_restoring() =>
            {
                Err(ApiError::restoring(self.to_restore - self.restoring.len(), self.to_restore))
            }
            Call::Registry(request) => {
                if let Err(refused) = self.parts.bounds.check(&request) {
                    return self.answers.push((client, Answer::from(&refused)));
                }
                let reconciler = self.parts.reconciler.as_ref().filter(|_| !self.is_clients(&request));
                if let Some(Err(refused)) = reconciler.map(|r| r.check_client(&request)) {
                    return self.answers.push((client, Answer::from(&refused)));
                }
                let request = self.with_ports(request);
                return self.request(request.clone(), Waiter::Client(client, request));
            }
            Call::Drain(timeout) => {
                service::stopping();
                let timeout = timeout.or(self.parts.drain_timeout);
                return self.shut_down(timeout, |request| Waiter::Client(client, request));
            }
            Call::Get(name) => answers::one(&self.parts.registry, &name, self.now()),
            Call::List(side) => answers::all(&self.parts.registry, side, self.now()),
            Call::Sessions => answers::sessions(&self.parts.sessions),
            Call::Limits => limits::answer(self.parts.sessions.bandwidth()),
            Call::SetLimits(wish) => self.set_limits(&wish),
            Call::EndSession(id) => self.end_session(SessionId(id)),
            Call::Health => Ok(Answer::text(200, "text/plain", "alive\n".to_owned())),
            Call::Ready if self.parts.registry.is_shutting_down() || self.succession == Succession::Over => {
                Ok(Answer::text(503, "text/plain", "draining\n".to_owned()))
            }
            Call::Ready => Ok(Answer::text(200, "text/plain", "ready\n".to_owned())),
            Call::Metrics => {
                self.note_migrations();
                Ok(Answer::text(200, metrics::CONTENT_TYPE, self.parts.metrics.text()))
            }
        };
        self.answers.push((client, answer.unwrap_or_else(|error| Answer::from(&error))));
    }

    /// Has the metrics know how many migrations there are, if that may have changed.
    pub(super) fn note_migrations(&mut self) {
        if let Some(daemon) = self.parts.metrics.daemon().filter(|_| self.unnoted) {
            self.unnoted = false;
            let registry = &self.parts.registry;
            let sources = registry.names().filter(|name| name.side == Side::Source).count();
            let targets = registry.names().filter(|name| name.side == Side::Target).count();
            daemon.note(sources, targets, registry.is_shutting_down());
        }
    }

    fn end_session(&self, id: SessionId) -> Result<Answer, ApiError> {
        if self.parts.sessions.get(id).is_none() {
            return Err(ApiError::not_found(format_args!("session {id}")));
        }
        log::info!(session = id.0; "session is ended by request");
        self.parts.controller.send(Command::End(id));
        Ok(Answer::json(br#"{"ending":true}"#.to_vec()))
    }

    fn set_limits(&self, wish: &LimitsWish) -> Result<Answer, ApiError> {
        let bandwidth = self.parts.sessions.bandwidth();
        limits::set(bandwidth, wish)?;
        // Sessions that wait for their turn by the old limits are not to wait longer than by the new ones.
        self.parts.controller.send(Command::Relimit);
        limits::answer(bandwidth)
    }

    /// The operator wishes to stop: nothing new from now on, and the rest within its time.
    pub(super) fn drain(&mut self) {
        if self.succession == Succession::Over {
            let until = self.parts.drain_timeout.map(|timeout| self.now() + timeout);
            self.until = self.until.into_iter().chain(until).min();
            return self.stop_if_over();
        }
        self.shut_down(self.parts.drain_timeout, |_| Waiter::Nobody);
    }

    fn shut_down(&mut self, timeout: Option<Duration>, waiter: impl FnOnce(Request) -> Waiter) {
        self.stop_restoring();
        self.count_sessions();
        let OpenCount { migrations, listeners, sessions } = self.parts.registry.open_count();
        let at_most = timeout.map_or_else(|| "for ever".to_owned(), quantity::display);
        let at_most = at_most.as_str();
        if self.parts.state.is_some() {
            log::info!(sessions, at_most, listeners; "waiting for sessions; what listens is for the next one, by the state directory");
        } else {
            log::info!(sessions, at_most, migrations, listeners; "waiting for sessions, and for migrations to be deleted");
        }
        let until = timeout.map(|timeout| self.now() + timeout);
        let request = Request::Shutdown { until };
        self.request(request.clone(), waiter(request));
    }

    /// At once.
    pub(super) fn abort(&mut self) {
        self.stop_restoring();
        (self.stopped, self.aborted) = (true, true);
        self.parts.controller.send(Command::Abort);
    }

    /// Whether everything was to end at once.
    pub(super) const fn is_aborted(&self) -> bool {
        self.aborted
    }

    /// A loop has closed a listener.
    pub(super) fn closed(&mut self, route: RouteId) {
        let id = ListenerId(route.0);
        let Some(open) = self.open.remove(&id) else { return };
        if self.succession == Succession::Over {
            self.stop_if_over();
        }
        if self.stopped || self.succession == Succession::Over {
            return;
        }
        if self.parts.registry.is_shutting_down() {
            // Those who waited there were accepted before it was closed.
            self.count_sessions();
        }
        let fact = if open.closing {
            Input::Closed(id)
        } else {
            Input::Lost { id, why: "the loop could not go on listening".to_owned() }
        };
        self.tell(fact);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        match self.succession {
            Succession::None => {}
            // Nothing may change.
            Succession::Offered => return None,
            // One that has ended is counted until its last byte is out, of which nobody tells.
            Succession::Over => return self.count_next.into_iter().chain(self.until).min(),
        }
        let registry = self.parts.registry.next_timeout().map(|(at, _)| at);
        let reconciler = self.parts.reconciler.as_ref().and_then(Reconciler::next_timeout);
        let count = (!self.counted.is_empty() || !self.parts.sessions.is_empty())
            .then_some(self.count_next)
            .flatten();
        [registry, reconciler, count, self.parts.networks.next_timeout()].into_iter().flatten().min()
    }

    /// Does what its time has come for.
    pub(super) fn handle_timeout(&mut self) {
        let now = self.now();
        match self.succession {
            Succession::None => {}
            Succession::Offered => return,
            Succession::Over => {
                self.count_next = Some(now + COUNT);
                return self.stop_if_over();
            }
        }
        self.count_sessions();
        let events = self.parts.registry.handle_timeout(now);
        self.settle(events);
        if let Some(reconciler) = &mut self.parts.reconciler {
            let steps = reconciler.handle_timeout(now);
            self.steps(steps);
        }
        if let Some(network) = self.parts.networks.handle_timeout(now) {
            self.tell(Input::Network(network));
        }
        self.stop_if_over();
    }

    /// All that was to be waited for has ended, or its time is over: the loops may stop. What is still
    /// open then they cut, and count.
    fn stop_if_over(&mut self) {
        if self.succession == Succession::Over {
            return self.stop_if_left_alone();
        }
        let registry = &self.parts.registry;
        if self.stopped || !registry.is_shutting_down() {
            return;
        }
        let count = registry.open_count();
        let is_over = count.migrations == 0
            && count.listeners == 0
            && (count.sessions == 0 || registry.is_past_shutdown());
        if is_over {
            self.stopped = true;
            self.parts.controller.send(Command::Drain);
        }
    }

    /// Tells the registry how many sessions there are of each listener.
    fn count_sessions(&mut self) {
        let now = self.now();
        self.count_next = Some(now + COUNT);
        let mut present: BTreeMap<ListenerId, u64> = BTreeMap::new();
        for session in self.parts.sessions.snapshot() {
            *present.entry(ListenerId(session.route.0)).or_default() += 1;
        }
        let ids: BTreeSet<_> = present.keys().chain(self.counted.keys()).copied().collect();
        for id in ids {
            let (before, after) =
                [&self.counted, &present].map(|counts| counts.get(&id).copied().unwrap_or(0)).into();
            for _ in before..after {
                self.tell(Input::SessionOpened(id));
            }
            for _ in after..before {
                self.tell(Input::SessionClosed(id));
            }
        }
        self.counted = present;
    }

    /// Sessions have come or gone.
    pub(super) fn sessions_changed(&mut self) {
        if self.succession == Succession::Over {
            self.stop_if_over();
        } else if self.parts.registry.is_shutting_down() {
            self.count_sessions();
            self.stop_if_over();
        }
    }

    /// A target that a predecessor had gets its ports again if nobody says otherwise.
    fn with_ports(&mut self, request: Request) -> Request {
        match (request, &mut self.parts.state) {
            (Request::SetTarget(mut asked), Some(state)) => {
                for (port, channel) in state.take_ports(&asked.key).unwrap_or_default().iter() {
                    if asked.keep.port(channel).is_none() {
                        // another channel's port it may be by now
                        let _ = asked.keep.insert(port, channel);
                    }
                }
                Request::SetTarget(asked)
            }
            (request, _) => request,
        }
    }

    fn request(&mut self, request: Request, waiter: Waiter) {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.waiting.insert(ticket, waiter);
        self.tell(Input::Request(ticket, request));
        self.stop_if_over();
    }

    fn tell(&mut self, fact: Input) {
        let now = self.now();
        let events = self.parts.registry.handle(now, fact);
        self.settle(events);
    }

    fn pass_on(&mut self, event: Event) {
        match event {
            Event::Answered { ticket, result } => {
                let waiter = self.waiting.remove(&ticket).unwrap_or(Waiter::Nobody);
                match waiter {
                    Waiter::Client(client, request) => {
                        let answer = api::answer(&result).map(Answer::json);
                        let answer = answer.unwrap_or_else(|error| Answer::from(&error));
                        self.answers.push((client, answer));
                        if let Ok(done) = &result {
                            self.note(By::Api, request, done);
                        }
                    }
                    Waiter::Object(request) => self.object_answered(request, &result),
                    Waiter::Restored(by, request) => match &result {
                        Ok(done) => {
                            tell_restored(&request, done);
                            self.note(by, request, done);
                        }
                        Err(why) => {
                            log::error!(error:% = why; "not restored: what was there before this process began");
                        }
                    },
                    Waiter::Nobody => {}
                }
            }
            Event::Changed(name) => {
                self.save(&name);
                self.publish(&name);
            }
            Event::Expired(name) => {
                log::info!(name:%; "nobody renewed the lease; its listeners are closed");
                self.forget(&name);
            }
            Event::Failed { name, why } => {
                log::error!(name:%, error:% = why; "listeners are not as they should be")
            }
        }
    }

    /// Remembers what is in force, for a successor too.
    fn note(&mut self, by: By, request: Request, done: &Done) {
        let Some(name) = request.name() else { return };
        match &request {
            Request::SetTarget(_) | Request::SetSource(_) => {}
            Request::Delete(_) => {
                if matches!(done, Done::Deleted { .. }) {
                    self.forget(&name);
                }
                return;
            }
            Request::Renew(_) | Request::Shutdown { .. } => return,
        }
        let is_news = self.asked.get(&name) != Some(&(by, request.clone()));
        self.asked.insert(name.clone(), (by, request));
        if is_news {
            self.save(&name);
        }
    }

    fn forget(&mut self, name: &Name) {
        self.asked.remove(name);
        if let Some(state) = &self.parts.state {
            state.remove(name);
        }
    }

    fn save(&self, name: &Name) {
        let (Some(state), Some((by, request))) = (&self.parts.state, self.asked.get(name)) else { return };
        if let Some(ports) = self.ports(name) {
            state.put(*by, request, &ports);
        }
    }

    /// The ports of a target that is there; a source that is there has none.
    fn ports(&self, name: &Name) -> Option<PortMap> {
        match name.side {
            Side::Target => self.parts.registry.target(&name.key, self.now()).map(|view| view.ports),
            Side::Source => self.parts.registry.source(&name.key, self.now()).map(|_| PortMap::default()),
        }
    }
}

fn tell_restored(request: &Request, done: &Done) {
    match (request, done) {
        (Request::SetTarget(asked), Done::Target { ports, .. }) if *ports != asked.keep => {
            log::warn!(key:% = asked.key, before:% = asked.keep, ports:%; "restored on other ports: those it had are somebody else's by now");
        }
        (Request::SetTarget(asked), _) => log::info!(key:% = asked.key; "target restored"),
        (Request::SetSource(asked), _) => log::info!(key:% = asked.key; "source restored"),
        _ => {}
    }
}
