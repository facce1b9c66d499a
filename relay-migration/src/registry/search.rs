//! Finding a port.

use super::Registry;
use super::input::ListenerId;
use super::listener::{Listen, Listener, Search, Stage};
use super::refusal::Refusal;
use crate::ports::PortRange;

impl Registry {
    /// Gives a new target listener the port to try first: the one that was in use before if it can
    /// be had, else one of the range, else the kernel's choice.
    pub(super) fn first_port(
        &mut self,
        listener: &mut Listener,
        others: &[Listener],
        kept: Option<u16>,
    ) -> Result<(), Refusal> {
        if let Some(port) = kept
            && self.config.range.is_none_or(|range| range.contains(port))
            && !self.is_taken(port, listener, others)
        {
            listener.search = Search::Kept;
            set_port(listener, port);
            return Ok(());
        }
        match self.config.range {
            Some(range) => {
                listener.search = Search::Range { from: self.cursor, step: 0, others: 0 };
                self.next_in_range(range, listener, others)
            }
            None => {
                listener.search = Search::Free;
                set_port(listener, 0);
                Ok(())
            }
        }
    }

    /// The port was somebody else's: the next one, or why there is none, if that is known better than
    /// the system's words.
    pub(super) fn next_port(&mut self, id: ListenerId) -> Result<(), Option<Refusal>> {
        // out of the table meanwhile: it does not compete with itself
        let Some(mut listener) = self.listeners.remove(&id) else { return Err(None) };
        let result = match (listener.search, self.config.range) {
            (Search::Kept, _) => self.first_port(&mut listener, &[], None).map_err(Some),
            (Search::Range { from, step, others }, Some(range)) => {
                listener.search = Search::Range { from, step: step + 1, others: others + 1 };
                self.next_in_range(range, &mut listener, &[]).map_err(Some)
            }
            (Search::Free | Search::Range { .. }, _) => Err(None),
        };
        self.listeners.insert(id, listener);
        result
    }

    /// From where the last search ended, so that a port is not used again soon: a source that still
    /// knows it would dial another virtual machine.
    fn next_in_range(
        &mut self,
        range: PortRange,
        listener: &mut Listener,
        new: &[Listener],
    ) -> Result<(), Refusal> {
        let Search::Range { from, step, others } = listener.search else { return Ok(()) };
        for step in step..range.size() {
            let port = range.at(from + step);
            if !self.is_taken(port, listener, new) && !self.is_closing(port) {
                listener.search = Search::Range { from, step, others };
                set_port(listener, port);
                self.cursor = (from + step + 1) % range.size();
                return Ok(());
            }
        }
        let held = self.listeners.values().chain(new).filter(|other| other.is_held());
        let ours = held.filter_map(Listener::port).filter(|port| range.contains(*port)).count();
        Err(Refusal::PortsExhausted { range, ours, others })
    }

    /// Whether the port belongs to another of our listeners that is to stay. That of the same channel
    /// of the same migration at another address is to go.
    fn is_taken(&self, port: u16, listener: &Listener, new: &[Listener]) -> bool {
        let stays = |other: &&Listener| matches!(other.stage, Stage::Opening | Stage::Open);
        let rivals = self.listeners.values().chain(new).filter(stays);
        let address = |l: &Listener| match l.listen {
            Listen::Tcp { address, .. } => Some(address),
            Listen::Unix { .. } => None,
        };
        rivals.into_iter().any(|other| {
            let predecessor = other.name == listener.name
                && other.channel == listener.channel
                && address(other) != address(listener);
            other.port() == Some(port) && !predecessor
        })
    }

    fn is_closing(&self, port: u16) -> bool {
        self.listeners.values().any(|other| other.stage == Stage::Closing && other.port() == Some(port))
    }
}

const fn set_port(listener: &mut Listener, to: u16) {
    if let Listen::Tcp { port, .. } = &mut listener.listen {
        *port = to;
    }
}
