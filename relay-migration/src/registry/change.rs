//! From what is in force to what is asked for, and back if it does not succeed.

use std::collections::BTreeMap;

use relay_core::Instant;

use super::entry::{Change, Entry, Lease, Setup, Spec, Term, Wanted};
use super::input::{Done, Event, ListenerId, Name, Network, Ticket};
use super::listener::{Listener, Search, Stage};
use super::refusal::Refusal;
use super::{Registry, WAITING_MAX};
use crate::channel::Channel;
use crate::ports::PortMap;

/// What will serve a spec: listeners that are there, and new ones.
struct Planned {
    listeners: BTreeMap<Channel, ListenerId>,
    new: Vec<(ListenerId, Listener)>,
}

impl Registry {
    /// A request to listen: done already, to be answered later, or refused with nothing touched.
    pub(super) fn set(
        &mut self,
        now: Instant,
        ticket: Ticket,
        wanted: Wanted,
        events: &mut Vec<Event>,
    ) -> Result<Option<Done>, Refusal> {
        if self.shutting_down {
            return Err(Refusal::ShuttingDown);
        }
        wanted.check()?;
        let Wanted { side, key, spec, keep, lease } = wanted;
        let name = Name::new(side, key);
        if !self.entries.contains_key(&name) && self.entries.len() >= self.config.max {
            return Err(Refusal::TooMany { max: self.config.max });
        }
        if self.is_in_force(&name, &spec)
            && let Some(entry) = self.entries.get_mut(&name)
            && entry.change.is_none()
        {
            entry.lease = Lease::begin(lease, now);
            entry.problem = None;
            return Ok(self.done(&name));
        }
        if let Some(Entry { change: Some(change), .. }) = self.entries.get_mut(&name)
            && change.setup.spec == spec
        {
            if change.tickets.len() >= WAITING_MAX {
                return Err(Refusal::TooManyWaiting);
            }
            change.tickets.push(ticket);
            change.term = Term::New(lease);
            return Ok(None);
        }
        let planned = self.plan(&name, &spec, &keep)?;
        self.begin(now, &name, spec, planned, Term::New(lease), vec![ticket], events);
        Ok(None)
    }

    /// Begins a change beside what is in force.
    #[expect(clippy::too_many_arguments, reason = "a change is all of this")]
    fn begin(
        &mut self,
        now: Instant,
        name: &Name,
        spec: Spec,
        planned: Planned,
        term: Term,
        tickets: Vec<Ticket>,
        events: &mut Vec<Event>,
    ) {
        let Planned { listeners, new } = planned;
        let entry = self.entries.entry(name.clone()).or_default();
        let former = entry.change.replace(Change { setup: Setup { spec, listeners }, term, tickets });
        let all = entry.listeners();
        self.next_id += new.len() as u64;
        self.listeners.extend(new);
        for id in all {
            if let Some(listener) = self.listeners.get_mut(&id) {
                listener.own_refused = None;
            }
        }
        if let Some(former) = former {
            self.abandon(name, &former.setup);
            answer(&former.tickets, &Err(Refusal::Superseded), events);
        }
        self.try_commit(now, name, events);
    }

    /// Which listeners will serve the spec: those that can be kept, and new ones.
    /// Nothing is touched but the place where the next search for a port begins.
    fn plan(&mut self, name: &Name, spec: &Spec, keep: &PortMap) -> Result<Planned, Refusal> {
        let candidates = self.entries.get(name).map(Entry::listeners).unwrap_or_default();
        let mut listeners = BTreeMap::new();
        let mut new: Vec<Listener> = vec![];
        for channel in spec.channels() {
            let Some(dial) = spec.dial(channel) else { continue };
            let of_channel = |id: &&ListenerId| self.listeners.get(id).is_some_and(|l| l.channel == channel);
            let can_keep = |id: &&ListenerId| {
                self.listeners.get(id).is_some_and(|l| spec.can_keep(&name.key, channel, l))
            };
            if let Some(id) = candidates.iter().find(can_keep) {
                listeners.insert(channel, *id);
                continue;
            }
            let former = candidates.iter().filter(of_channel).find_map(|id| self.listeners.get(id)?.port());
            let mut listener = Listener {
                name: name.clone(),
                channel,
                listen: spec.listen(&name.key, channel),
                dial,
                stage: Stage::Opening,
                search: Search::Free,
                own_refused: None,
                sessions: 0,
            };
            if matches!(spec, Spec::Target { .. }) {
                self.first_port(&mut listener, &new, former.or_else(|| keep.port(channel)))?;
            }
            listeners.insert(channel, ListenerId(self.next_id + new.len() as u64));
            new.push(listener);
        }
        let ids = (self.next_id..).map(ListenerId);
        Ok(Planned { listeners, new: ids.zip(new).collect() })
    }

    /// If all that was prepared is there, it comes into force.
    pub(super) fn try_commit(&mut self, now: Instant, name: &Name, events: &mut Vec<Event>) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let Some(change) = &entry.change else { return };
        let is_ready =
            |id: &ListenerId| self.listeners.get(id).is_some_and(|l| change.setup.spec.is_ready(l));
        if !change.setup.listeners.values().all(is_ready) {
            return;
        }
        let Some(change) = entry.change.take() else { return };
        if let Term::New(lease) = change.term {
            entry.lease = Lease::begin(lease, now);
        }
        entry.problem = None;
        if let Some(former) = entry.active.replace(change.setup) {
            self.abandon(name, &former);
        }
        if let Some(done) = self.done(name) {
            answer(&change.tickets, &Ok(done), events);
        }
        events.push(Event::Changed(name.clone()));
    }

    /// What was prepared is undone; what was in force never noticed.
    pub(super) fn fail_change(
        &mut self,
        now: Instant,
        name: &Name,
        refusal: &Refusal,
        events: &mut Vec<Event>,
    ) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let Some(change) = entry.change.take() else { return };
        if entry.active.is_some() {
            entry.problem = Some(refusal.clone());
        }
        self.abandon(name, &change.setup);
        self.forget_if_empty(name);
        answer(&change.tickets, &Err(refusal.clone()), events);
        if change.tickets.is_empty() {
            // not again at once, or it would go on for ever
            events.push(Event::Failed { name: name.clone(), why: refusal.clone() });
        } else {
            self.heal(now, name, &PortMap::default(), events);
        }
    }

    /// Opens again what was lost of what is in force.
    fn heal(&mut self, now: Instant, name: &Name, keep: &PortMap, events: &mut Vec<Event>) {
        let Some(active) = self.entries.get(name).and_then(|entry| entry.active.as_ref()) else { return };
        let spec = active.spec.clone();
        if active.listeners.len() == spec.channels().len() {
            return;
        }
        match self.plan(name, &spec, keep) {
            Ok(planned) => self.begin(now, name, spec, planned, Term::Same, vec![], events),
            Err(refusal) => self.note_problem(name, refusal, events),
        }
    }

    fn note_problem(&mut self, name: &Name, why: Refusal, events: &mut Vec<Event>) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.problem = Some(why.clone());
        }
        events.push(Event::Failed { name: name.clone(), why });
    }

    /// A listener closed by itself: it is opened again, on its port if it can be had.
    pub(super) fn on_lost(&mut self, now: Instant, id: ListenerId, why: String, events: &mut Vec<Event>) {
        let Some(listener) = self.listeners.get(&id) else { return };
        match listener.stage {
            Stage::Open => {}
            Stage::Closing => return self.on_closed(id),
            Stage::Opening | Stage::Closed => return,
        }
        let (name, channel, port) = (listener.name.clone(), listener.channel, listener.port());
        self.forget(id);
        let Some(entry) = self.entries.get_mut(&name) else { return };
        entry.problem = Some(Refusal::Lost { channel, why });
        if let Some(active) = &mut entry.active {
            active.listeners.retain(|_, known| *known != id);
        }
        let mut keep = PortMap::default();
        if let Some(port) = port {
            let _ = keep.insert(port, channel); // a port and a first channel: it fits
        }
        match entry.change.take() {
            // what is being prepared is prepared once more if it counted on it
            Some(Change { setup, term, tickets }) if setup.has(id) => {
                self.abandon(&name, &setup);
                match self.plan(&name, &setup.spec, &keep) {
                    Ok(planned) => self.begin(now, &name, setup.spec, planned, term, tickets, events),
                    Err(refusal) => {
                        answer(&tickets, &Err(refusal.clone()), events);
                        self.note_problem(&name, refusal, events);
                        self.forget_if_empty(&name);
                    }
                }
            }
            Some(change) => entry.change = Some(change),
            None => self.heal(now, &name, &keep, events),
        }
    }

    /// Targets move to another address, one by one, each with its ports if they can be had there.
    pub(super) fn on_network(&mut self, now: Instant, network: Network, events: &mut Vec<Event>) {
        self.network = network;
        for name in self.entries.keys().cloned().collect::<Vec<_>>() {
            let Some(entry) = self.entries.get(&name) else { continue };
            let (spec, term) = match (&entry.change, &entry.active) {
                (Some(change), _) => (&change.setup.spec, change.term),
                (None, Some(active)) => (&active.spec, Term::Same),
                (None, None) => continue,
            };
            let Spec::Target { backends, network: former } = spec else { continue };
            if *former == network {
                continue;
            }
            let spec = Spec::Target { backends: backends.clone(), network };
            match self.plan(&name, &spec, &PortMap::default()) {
                Ok(planned) => {
                    // those who wait for it wait for this one now
                    let change = self.entries.get_mut(&name).and_then(|entry| entry.change.as_mut());
                    let tickets = change.map(|c| std::mem::take(&mut c.tickets)).unwrap_or_default();
                    self.begin(now, &name, spec, planned, term, tickets, events);
                }
                Err(refusal) => self.note_problem(&name, refusal, events),
            }
        }
    }

    /// No listeners any more. Whether there were.
    pub(super) fn remove(&mut self, name: &Name, why: &Refusal, events: &mut Vec<Event>) -> bool {
        let Some(entry) = self.entries.remove(name) else { return false };
        for id in entry.listeners() {
            self.close(id);
        }
        if let Some(change) = entry.change {
            answer(&change.tickets, &Err(why.clone()), events);
        }
        true
    }

    /// Closes those of its listeners that the entry no longer needs.
    fn abandon(&mut self, name: &Name, setup: &Setup) {
        let needed = self.entries.get(name).map(Entry::listeners).unwrap_or_default();
        for id in setup.listeners.values().filter(|id| !needed.contains(id)) {
            self.close(*id);
        }
    }

    fn close(&mut self, id: ListenerId) {
        if let Some(listener) = self.listeners.get_mut(&id)
            && matches!(listener.stage, Stage::Opening | Stage::Open)
        {
            listener.stage = Stage::Closing;
        }
    }

    /// It is closed; if it has sessions, they are still counted.
    pub(super) fn forget(&mut self, id: ListenerId) {
        if let Some(listener) = self.listeners.get_mut(&id) {
            listener.stage = Stage::Closed;
            if listener.sessions == 0 {
                self.listeners.remove(&id);
            }
        }
    }

    fn forget_if_empty(&mut self, name: &Name) {
        if self.entries.get(name).is_some_and(|entry| entry.active.is_none() && entry.change.is_none()) {
            self.entries.remove(name);
        }
    }

    /// Whether it is all there, and no listener was lost.
    fn is_in_force(&self, name: &Name, spec: &Spec) -> bool {
        let Some(active) = self.entries.get(name).and_then(|entry| entry.active.as_ref()) else {
            return false;
        };
        let serves = |channel| {
            let id = active.listeners.get(&channel);
            id.and_then(|id| self.listeners.get(id)).is_some_and(|listener| spec.is_ready(listener))
        };
        active.spec == *spec && spec.channels().into_iter().all(serves)
    }
}

fn answer(tickets: &[Ticket], result: &Result<Done, Refusal>, events: &mut Vec<Event>) {
    events.extend(tickets.iter().map(|ticket| Event::Answered { ticket: *ticket, result: result.clone() }));
}
