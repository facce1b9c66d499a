//! Handing everything over to another process, and being left with what is open.

use std::io;
use std::os::fd::AsFd;

use relay_migration::api::{ApiError, Call};

use super::super::http::Answer;
use super::super::limits;
use super::super::state::{self, State};
use super::super::takeover::{self, Estate};
use super::{COUNT, ClientId, Manager};
use crate::control::{Command, Sessions};
use crate::handed::Handed;
use crate::listen::Listener;
use crate::quantity;
use crate::sessions::RouteId;

/// Whether another process takes this one's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Succession {
    None,
    /// It has been told everything, so nothing may change.
    Offered,
    /// It has. What is open here goes on to its end.
    Over,
}

impl Succession {
    pub(super) fn allows(self, call: &Call) -> Result<(), ApiError> {
        let changes = match call {
            Call::Registry(_) | Call::SetLimits(_) | Call::Drain(_) | Call::TakeOver => true,
            Call::Get(_)
            | Call::List(_)
            | Call::Sessions
            | Call::Limits
            | Call::EndSession(_)
            | Call::Health
            | Call::Ready
            | Call::Metrics => false,
        };
        match self {
            Self::Offered if changes => {
                Err(ApiError::unavailable("another process is taking over; ask again in a moment"))
            }
            Self::Over if changes => {
                Err(ApiError::unavailable("another process has taken over; connect again, and ask that one"))
            }
            Self::None | Self::Offered | Self::Over => Ok(()),
        }
    }
}

/// Handing over.
impl Manager {
    /// All there is, for a successor. From now on nothing changes, until it is known whether there is one.
    ///
    /// # Errors
    /// Why there can be none now.
    pub(in crate::node) fn offer(&mut self, control: &Listener) -> Result<Estate, ApiError> {
        self.succession.allows(&Call::TakeOver)?;
        if self.is_restoring() {
            return Err(ApiError::restoring(self.to_restore - self.restoring.len(), self.to_restore));
        }
        if self.parts.registry.is_shutting_down() {
            return Err(ApiError::unavailable("this process is draining; it hands nothing over any more"));
        }
        let estate = self.estate(control).map_err(|error| {
            ApiError::unavailable(format!("there are no copies to be had of the sockets: {error}"))
        })?;
        self.succession = Succession::Offered;
        Ok(estate)
    }

    fn estate(&self, control: &Listener) -> io::Result<Estate> {
        let mut listeners = Vec::new();
        for open in self.open.values().filter(|open| !open.closing) {
            let port = open.plan.listen().host_port().map_or(0, |at| at.port);
            if let Some((socket, file)) = open.hand.copy()? {
                listeners.push((Handed::name(&open.listen, port), socket, file));
            }
        }
        let mut migrations = Vec::new();
        for (name, (by, request)) in &self.asked {
            if let Some((name, body)) = state::body(request, &self.ports(name).unwrap_or_default()) {
                migrations.push(takeover::migration(&name, *by, &body));
            }
        }
        let limits = serde_json::to_value(limits::told(&self.parts.sessions.bandwidth().rates()))?;
        let lock = self.parts.state.as_ref().map(State::lock);
        Estate::new(
            (control.local(), control.as_fd(), control.file_id()),
            lock,
            listeners,
            migrations,
            limits,
        )
    }

    /// Whether it is not known yet whether there will be a successor.
    pub(in crate::node) fn is_offered(&self) -> bool {
        self.succession == Succession::Offered
    }

    /// A call can't be.
    pub(in crate::node) fn refuse(&mut self, client: ClientId, why: &ApiError) {
        self.answers.push((client, Answer::from(why)));
    }

    /// There is no successor: everything as before.
    pub(in crate::node) fn keep(&mut self) {
        self.succession = Succession::None;
    }

    /// The successor has everything. What is open here goes on to its end, within its time.
    pub(in crate::node) fn let_go(&mut self) {
        let (sessions, timeout) = (self.parts.sessions.len(), self.parts.retire_timeout);
        let at_most = timeout.map_or_else(|| "for ever".to_owned(), quantity::display);
        log::info!(
            sessions, at_most = at_most.as_str();
            "another process has taken over; what is open here goes on to its end"
        );
        self.succession = Succession::Over;
        self.until = timeout.map(|timeout| self.now() + timeout);
        self.count_next = Some(self.now() + COUNT);
        // Both are the successor's by now.
        (self.parts.state, self.parts.reconciler) = (None, None);
        for (id, open) in &mut self.open {
            open.hand.leave();
            (open.closing, open.shared) = (true, None);
            self.parts.controller.send(Command::Close { id: RouteId(id.0), sessions: Sessions::Keep });
        }
        self.stop_if_over();
    }

    /// Whoever was accepted before the last listener was closed is in the table by then.
    pub(super) fn stop_if_left_alone(&mut self) {
        let late = self.until.is_some_and(|until| self.now() >= until);
        if !self.stopped && self.open.is_empty() && (self.parts.sessions.is_empty() || late) {
            self.stopped = true;
            self.parts.controller.send(Command::Drain);
        }
    }
}
