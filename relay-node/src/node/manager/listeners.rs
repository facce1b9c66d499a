//! What the registry demands, done: listeners are opened and handed to the loops, closed, given away, and
//! led elsewhere.

use std::sync::Arc;

use relay_migration::registry::{Demand, Dial, Event, Input, Listen, ListenerId, OpenError};

use super::{Manager, Open};
use crate::control::{Command, Sessions};
use crate::failure::in_words;
use crate::server::{Label, Route};
use crate::sessions::RouteId;
use crate::site::Trouble;

impl Manager {
    /// Does what the registry demands, then passes on what came of it.
    pub(super) fn settle(&mut self, mut events: Vec<Event>) {
        self.unnoted = true;
        loop {
            let closing = |id: &ListenerId| self.open.get(id).is_some_and(|open| open.closing);
            let is_new = |demand: &Demand| !matches!(demand, Demand::Close { id } if closing(id));
            let demands: Vec<_> = self.parts.registry.demands().filter(is_new).collect();
            if demands.is_empty() {
                break;
            }
            for demand in demands {
                if let Some(fact) = self.perform(demand) {
                    let now = self.now();
                    events.extend(self.parts.registry.handle(now, fact));
                }
            }
        }
        for event in events {
            self.pass_on(event);
        }
    }

    /// What came of it; nothing if that is still to come.
    pub(super) fn perform(&mut self, demand: Demand) -> Option<Input> {
        match demand {
            Demand::Open { id, name, channel, listen, dial } => {
                let label = Label { key: name.key, channel };
                let route = match self.route(label, &listen, &dial) {
                    Ok(route) => route,
                    Err(Trouble::Listen(why)) => return Some(Input::OpenFailed { id, why }),
                    Err(Trouble::Dial(why)) => {
                        return Some(Input::OpenFailed { id, why: OpenError::Other(why) });
                    }
                };
                let port = route.listener.port().unwrap_or(0);
                let (plan, file) = (Arc::clone(&route.plan), route.listener.file_id());
                let (shared, hand) = (route.listener.share(), route.listener.hand());
                self.open.insert(id, Open { plan, listen, file, shared, hand, closing: false });
                self.parts.controller.send(Command::Open { id: RouteId(id.0), route });
                Some(Input::Opened { id, port })
            }
            Demand::Close { id } => match self.open.get_mut(&id) {
                Some(open) => {
                    open.closing = true;
                    open.shared = None;
                    self.parts
                        .controller
                        .send(Command::Close { id: RouteId(id.0), sessions: Sessions::Keep });
                    None
                }
                // it was never opened, or has been lost meanwhile
                None => Some(Input::Closed(id)),
            },
            Demand::Own { id, owner } => {
                let open = self.open.get(&id);
                let given = match open.map(|open| (&open.listen, open.file)) {
                    Some((Listen::Unix { path, .. }, Some(file))) => {
                        file.give(path, owner).map_err(|error| in_words(&error))
                    }
                    _ => Err("it has no socket file".to_owned()),
                };
                Some(match given {
                    Ok(()) => Input::Owned { id, owner },
                    Err(why) => Input::OwnFailed { id, owner, why },
                })
            }
            Demand::Route { id, dial } => {
                if let Some(open) = self.open.get(&id) {
                    match self.parts.site.replan(&open.plan, &dial) {
                        Ok(plan) => open.plan.redirect(plan),
                        Err(Trouble::Dial(why)) => {
                            log::error!(connect:% = dial, error = why.as_str(); "new connections still go where they went");
                        }
                        // nothing is opened
                        Err(Trouble::Listen(_)) => {}
                    }
                }
                Some(Input::Routed { id, dial })
            }
        }
    }

    /// Opens a listener; beside its predecessor at another address, if it is to have the same port.
    pub(super) fn route(&self, label: Label, listen: &Listen, dial: &Dial) -> Result<Route, Trouble> {
        let port = match listen {
            Listen::Tcp { port, .. } if *port != 0 => Some(*port),
            Listen::Tcp { .. } | Listen::Unix { .. } => None,
        };
        let has_port = |open: &&Open| open.plan.listen().host_port().map(|at| at.port) == port;
        let there = self.open.values().filter(|open| port.is_some() && open.shared.is_some()).find(has_port);
        let Some(there) = there.and_then(|open| open.shared.as_ref()) else {
            return self.parts.site.route(label, listen, dial);
        };
        there.allow(true);
        let route = self.parts.site.route_beside(label, listen, dial, true);
        there.allow(false);
        route
    }
}
