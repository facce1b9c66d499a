//! What is to be done, and which listeners are looked at for it: those that are not as they should be,
//! so that one change among thousands of keys costs what it is, not what all of them are.

use super::Registry;
use super::entry::Entry;
use super::input::{Input, ListenerId, Name, Request, Side};
use super::listener::{Demand, Listener, Stage};

/// Whose listeners an input can make need something, or need nothing more.
pub(super) enum Touched {
    Nobody,
    One(Name),
    All,
}

impl Registry {
    /// What is to be done, all of it; in any order, except that the order given always works.
    pub fn demands(&self) -> impl Iterator<Item = Demand> {
        self.busy.iter().filter_map(|id| self.demand(*id, self.listeners.get(id)?))
    }

    /// The same, with a look at every listener.
    #[cfg(any(test, feature = "testing"))]
    pub fn demands_of_all(&self) -> impl Iterator<Item = Demand> {
        self.listeners.iter().filter_map(|(id, listener)| self.demand(*id, listener))
    }

    fn demand(&self, id: ListenerId, listener: &Listener) -> Option<Demand> {
        match listener.stage {
            Stage::Closed => None,
            Stage::Closing => Some(Demand::Close { id }),
            Stage::Opening => {
                let in_the_way = |other: &Listener| other.stage == Stage::Closing && other.collides(listener);
                let mut busy = self.busy.iter().filter_map(|id| self.listeners.get(id));
                let is_free = !busy.any(in_the_way);
                is_free.then(|| Demand::Open {
                    id,
                    name: listener.name.clone(),
                    channel: listener.channel,
                    listen: listener.listen.clone(),
                    dial: listener.dial.clone(),
                })
            }
            Stage::Open => {
                let entry = self.entries.get(&listener.name)?;
                let owner = entry
                    .owner_wanted(id)
                    .filter(|owner| listener.owner() != Some(*owner) && listener.own_refused != Some(*owner));
                if let Some(owner) = owner {
                    return Some(Demand::Own { id, owner });
                }
                let dial = entry.dial_wanted(id, listener.channel).filter(|dial| listener.dial != *dial)?;
                Some(Demand::Route { id, dial })
            }
        }
    }

    pub(super) fn touched_by(&self, input: &Input) -> Touched {
        let id = match input {
            Input::Request(_, request) => match request {
                Request::SetTarget(wanted) => {
                    return Touched::One(Name::new(Side::Target, wanted.key.clone()));
                }
                Request::SetSource(wanted) => {
                    return Touched::One(Name::new(Side::Source, wanted.key.clone()));
                }
                Request::Delete(name) => return Touched::One(name.clone()),
                Request::Renew(_) => return Touched::Nobody,
                Request::Shutdown { .. } => return Touched::All,
            },
            Input::Network(_) => return Touched::All,
            // the last session's end is what a successor's predecessor waits for
            _ if self.shutting_down && self.config.has_successor => return Touched::All,
            Input::SessionOpened(_) | Input::SessionClosed(_) => return Touched::Nobody,
            Input::Opened { id, .. }
            | Input::OpenFailed { id, .. }
            | Input::Owned { id, .. }
            | Input::OwnFailed { id, .. }
            | Input::Routed { id, .. }
            | Input::Lost { id, .. }
            | Input::Closed(id) => id,
        };
        match self.listeners.get(id) {
            Some(listener) => Touched::One(listener.name.clone()),
            None => Touched::Nobody,
        }
    }

    pub(super) fn listeners_of(&self, touched: &Touched) -> Vec<ListenerId> {
        match touched {
            Touched::Nobody => vec![],
            Touched::One(name) => self.entries.get(name).map(Entry::listeners).unwrap_or_default(),
            Touched::All => self.listeners.keys().copied().collect(),
        }
    }

    /// Something has happened to them, who had the listeners `before`.
    pub(super) fn note_busy(&mut self, before: Vec<ListenerId>, touched: &Touched) {
        if matches!(touched, Touched::Nobody) {
            return;
        }
        let mut ids = std::mem::take(&mut self.busy);
        ids.extend(before);
        ids.extend(self.listeners_of(touched));
        ids.retain(|id| self.listeners.get(id).is_some_and(|listener| self.is_busy(*id, listener)));
        self.busy = ids;
    }

    fn is_busy(&self, id: ListenerId, listener: &Listener) -> bool {
        match listener.stage {
            Stage::Opening | Stage::Closing => true,
            Stage::Open => self.demand(id, listener).is_some(),
            Stage::Closed => false,
        }
    }
}
