//! The manager of a node's listeners, as a state machine: which there are to be, for which migration,
//! and what is still to be done about it.
//!
//! Methods come in three kinds:
//! - **handlers** take a request or a fact and the present time: [`Registry::handle`],
//!   [`Registry::handle_timeout`]. They return answers, of which each ticket gets one;
//! - **demands** are pure functions of the state: [`Registry::demands`], [`Registry::next_timeout`].
//!   A demand stands until its result is reported, so it can't be lost in a queue;
//! - **getters**: [`Registry::target`], [`Registry::source`], [`Registry::open_count`], …
//!
//! A change is prepared beside what is in force: new listeners are opened, socket files get their new
//! owner, while the former ones go on. Only when all of it succeeded does it come into force; then the
//! former are closed. If anything fails, what was prepared is undone and the former never noticed. A
//! listener that is where it is to be is kept, with its port: whom it dials is changed without closing
//! it.
//!
//! A runtime does, after each input:
//! ```text
//! events = registry.handle(now, input)
//! while let Some(demand) = the first of registry.demands() { do it; registry.handle(now, what came of it) }
//! pass the events on
//! ```

mod busy;
mod change;
mod entry;
mod input;
mod listener;
mod refusal;
mod search;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use relay_core::Instant;

use busy::Touched;
use entry::{Entry, Lease, Wanted};
use listener::{Listener, Stage};

pub use input::{
    Config, Done, Event, Input, ListenerId, Name, Network, OpenCount, OpenError, Owner, Request, Side,
    SourceRequest, TargetRequest, Ticket,
};
pub use listener::{Demand, Dial, Listen};
pub use refusal::{Fault, Refusal};
pub use view::{SourceView, TargetView};

/// The most tickets that wait for one change.
const WAITING_MAX: usize = 64;

/// Which clock is running.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Timer {
    /// A lease runs out.
    Lease,
    /// The shutdown's deadline.
    Shutdown,
}

/// See the [module](self).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Registry {
    config: Config,
    network: Network,
    entries: BTreeMap<Name, Entry>,
    listeners: BTreeMap<ListenerId, Listener>,
    /// Those that are not as they should be; see [`busy`].
    busy: BTreeSet<ListenerId>,
    /// Sessions of each name that has any, of listeners that are closed, too.
    sessions: BTreeMap<Name, u64>,
    next_id: u64,
    /// Where in the range the next search for a port begins.
    cursor: u32,
    shutting_down: bool,
    /// When everything is closed.
    until: Option<Instant>,
    /// That time has come.
    past: bool,
    /// Sessions whose listener was forgotten before they were reported.
    strays: u64,
}

/// Handlers.
impl Registry {
    /// One without listeners.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            network: config.network,
            entries: BTreeMap::new(),
            listeners: BTreeMap::new(),
            busy: BTreeSet::new(),
            sessions: BTreeMap::new(),
            next_id: 0,
            cursor: 0,
            shutting_down: false,
            until: None,
            past: false,
            strays: 0,
        }
    }

    /// Takes note of a request or of a fact.
    #[must_use = "whoever asked waits for the answer"]
    pub fn handle(&mut self, now: Instant, input: Input) -> Vec<Event> {
        let mut events = vec![];
        let touched = self.touched_by(&input);
        let before = self.listeners_of(&touched);
        match input {
            Input::Request(ticket, request) => self.on_request(now, ticket, request, &mut events),
            Input::Opened { id, port } => self.on_opened(now, id, port, &mut events),
            Input::OpenFailed { id, why } => self.on_open_failed(now, id, why, &mut events),
            Input::Owned { id, owner } => self.on_owned(now, id, owner, &mut events),
            Input::OwnFailed { id, owner, why } => self.on_own_failed(now, id, owner, why, &mut events),
            Input::Routed { id, dial } => {
                if let Some(listener) = self.listeners.get_mut(&id) {
                    listener.dial = dial;
                }
            }
            Input::Closed(id) => self.on_closed(id),
            Input::Lost { id, why } => self.on_lost(now, id, why, &mut events),
            Input::SessionOpened(id) => match self.listeners.get_mut(&id) {
                Some(listener) => {
                    listener.sessions += 1;
                    *self.sessions.entry(listener.name.clone()).or_default() += 1;
                }
                None => self.strays += 1,
            },
            Input::SessionClosed(id) => self.on_session_closed(id),
            Input::Network(network) => self.on_network(now, network, &mut events),
        }
        if self.shutting_down && self.config.has_successor && self.open_count().sessions == 0 {
            self.remove_all(&mut events);
        }
        self.note_busy(before, &touched);
        events
    }

    /// Lets timers fire whose time has come. Harmless when called early.
    #[must_use = "whoever asked waits for the answer"]
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Event> {
        let mut events = vec![];
        if self.until.is_some_and(|until| now >= until) {
            (self.until, self.past) = (None, true);
            self.remove_all(&mut events);
        }
        let is_over = |(name, entry): (&Name, &Entry)| {
            self.lease_end(name, entry).is_some_and(|until| now >= until).then(|| name.clone())
        };
        let expired: Vec<_> = self.entries.iter().filter_map(is_over).collect();
        for name in expired {
            self.remove(&name, &Refusal::Deleted, &mut events);
            events.push(Event::Expired(name));
        }
        if !events.is_empty() || self.past {
            self.note_busy(vec![], &Touched::All);
        }
        events
    }

    /// The shutdown closes what is left.
    fn remove_all(&mut self, events: &mut Vec<Event>) {
        for name in self.entries.keys().cloned().collect::<Vec<_>>() {
            self.remove(&name, &Refusal::Stopped, events);
        }
    }

    fn on_request(&mut self, now: Instant, ticket: Ticket, request: Request, events: &mut Vec<Event>) {
        let result = match request {
            Request::SetTarget(wanted) => self.set(now, ticket, Wanted::target(wanted, self.network), events),
            Request::SetSource(wanted) => self.set(now, ticket, Wanted::source(wanted), events),
            Request::Delete(name) => {
                let existed = self.remove(&name, &Refusal::Deleted, events);
                Ok(Some(Done::Deleted { existed }))
            }
            Request::Renew(name) => match self.entries.get_mut(&name) {
                Some(entry) => {
                    entry.lease = Lease::begin(entry.lease.map(|lease| lease.ttl), now);
                    Ok(Some(Done::Renewed))
                }
                None => Err(Refusal::Unknown(name)),
            },
            Request::Shutdown { until } => {
                self.shutting_down = true;
                self.until = match (self.until, until) {
                    (Some(known), Some(until)) => Some(known.min(until)),
                    (known, until) => known.or(until),
                };
                Ok(Some(Done::ShuttingDown(self.open_count())))
            }
        };
        // what is not done yet is answered when it is
        let Some(result) = result.transpose() else { return };
        events.push(Event::Answered { ticket, result });
    }

    fn on_opened(&mut self, now: Instant, id: ListenerId, port: u16, events: &mut Vec<Event>) {
        let Some(listener) = self.listeners.get_mut(&id) else { return };
        if listener.stage != Stage::Opening {
            return; // it is to be closed, which is demanded already
        }
        listener.stage = Stage::Open;
        if let Listen::Tcp { port: ours, .. } = &mut listener.listen {
            *ours = port;
        }
        let name = listener.name.clone();
        self.try_commit(now, &name, events);
    }

    fn on_open_failed(&mut self, now: Instant, id: ListenerId, why: OpenError, events: &mut Vec<Event>) {
        let Some(listener) = self.listeners.get_mut(&id) else { return };
        match listener.stage {
            Stage::Opening => {}
            Stage::Closing => return self.on_closed(id),
            Stage::Open | Stage::Closed => return,
        }
        let (name, channel, at) = (listener.name.clone(), listener.channel, listener.listen.to_string());
        let failed = |why: String, fault: Fault| Refusal::OpenFailed { channel, at, why, fault };
        let refusal = match why {
            OpenError::Occupied(why) => failed(why, Fault::Place),
            OpenError::Unfit(why) => failed(why, Fault::Request),
            OpenError::Other(why) => failed(why, Fault::System),
            OpenError::PortInUse => match self.next_port(id) {
                Ok(()) => return,
                Err(Some(refusal)) => refusal,
                Err(None) => failed("the address is in use".to_owned(), Fault::System),
            },
        };
        self.forget(id);
        self.fail_change(now, &name, &refusal, events);
    }

    fn on_owned(&mut self, now: Instant, id: ListenerId, is: Owner, events: &mut Vec<Event>) {
        let Some(listener) = self.listeners.get_mut(&id) else { return };
        if let Listen::Unix { owner, .. } = &mut listener.listen {
            *owner = Some(is);
        }
        let name = listener.name.clone();
        self.try_commit(now, &name, events);
    }

    fn on_own_failed(
        &mut self,
        now: Instant,
        id: ListenerId,
        owner: Owner,
        why: String,
        events: &mut Vec<Event>,
    ) {
        let Some(listener) = self.listeners.get_mut(&id) else { return };
        let (name, channel) = (listener.name.clone(), listener.channel);
        let Some(entry) = self.entries.get_mut(&name) else { return };
        if entry.owner_wanted(id) != Some(owner) {
            return; // not any more
        }
        let why = Refusal::OwnFailed { channel, owner, why };
        if entry.change.as_ref().is_some_and(|change| change.setup.has(id)) {
            self.fail_change(now, &name, &why, events);
        } else {
            // It was to be given back. It stays as it is, and that is told; asking again would not help.
            listener.own_refused = Some(owner);
            entry.problem = Some(why.clone());
            events.push(Event::Failed { name, why });
        }
    }

    fn on_closed(&mut self, id: ListenerId) {
        if let Some(listener) = self.listeners.get_mut(&id)
            && listener.stage == Stage::Closing
        {
            self.forget(id);
        }
    }

    fn on_session_closed(&mut self, id: ListenerId) {
        match self.listeners.get_mut(&id) {
            Some(listener) => {
                if let Some(count) = self.sessions.get_mut(&listener.name).filter(|_| listener.sessions > 0) {
                    *count -= 1;
                    if *count == 0 {
                        self.sessions.remove(&listener.name);
                    }
                }
                listener.sessions = listener.sessions.saturating_sub(1);
                if listener.sessions == 0 && listener.stage == Stage::Closed {
                    self.listeners.remove(&id);
                }
            }
            None => self.strays = self.strays.saturating_sub(1),
        }
    }
}

/// Demands.
impl Registry {
    /// When [`handle_timeout`](Self::handle_timeout) is next to be called, and what for.
    #[must_use]
    pub fn next_timeout(&self) -> Option<(Instant, Timer)> {
        let leases = self.entries.iter().filter_map(|(name, entry)| self.lease_end(name, entry));
        let shutdown = self.until.map(|until| (until, Timer::Shutdown));
        leases.map(|until| (until, Timer::Lease)).chain(shutdown).min()
    }

    /// When the lease runs out. It does not while there are sessions, so that a migration outlives its
    /// manager, nor while something is being prepared, for then somebody has just asked.
    fn lease_end(&self, name: &Name, entry: &Entry) -> Option<Instant> {
        let lease = entry.lease?;
        (entry.change.is_none() && self.sessions_of(name) == 0).then_some(lease.until)
    }
}
