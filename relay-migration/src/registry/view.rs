//! What is in force.

use std::net::IpAddr;
use std::time::Duration;

use relay_core::Instant;

use super::Registry;
use super::entry::{Entry, Spec};
use super::input::{Done, ListenerId, Name, OpenCount, Side};
use super::listener::Stage;
use super::refusal::Refusal;
use crate::backends::Backends;
use crate::channel::Channel;
use crate::host::Host;
use crate::key::Key;
use crate::ports::PortMap;
use crate::socket_path::SocketPath;

/// A target that listens.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TargetView {
    /// Where sources are to dial.
    pub address: IpAddr,
    /// On which ports.
    pub ports: PortMap,
    /// What is dialed.
    pub backends: Backends,
    /// Open sessions, of listeners it had before too.
    pub sessions: u64,
    /// How long its lease is still, if it has one.
    pub lease_left: Option<Duration>,
    /// Why it is not as it should be.
    pub problem: Option<Refusal>,
}

/// A source that listens.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SourceView {
    /// The socket of each channel.
    pub files: Vec<(Channel, SocketPath)>,
    /// The node dialed.
    pub target: Host,
    /// Its ports.
    pub ports: PortMap,
    /// Open sessions, of listeners it had before too.
    pub sessions: u64,
    /// How long its lease is still, if it has one.
    pub lease_left: Option<Duration>,
    /// Why it is not as it should be.
    pub problem: Option<Refusal>,
}

/// Getters.
impl Registry {
    /// A target, if it listens: what is being prepared is not in force.
    #[must_use]
    pub fn target(&self, key: &Key, now: Instant) -> Option<TargetView> {
        let name = Name::new(Side::Target, key.clone());
        let entry = self.entries.get(&name)?;
        let Spec::Target { backends, network } = &entry.active.as_ref()?.spec else { return None };
        Some(TargetView {
            address: network.advertise,
            ports: self.ports_of(entry),
            backends: backends.clone(),
            sessions: self.sessions_of(&name),
            lease_left: entry.lease.map(|lease| lease.until.since(now)),
            problem: entry.problem.clone(),
        })
    }

    /// A source, if it listens: what is being prepared is not in force.
    #[must_use]
    pub fn source(&self, key: &Key, now: Instant) -> Option<SourceView> {
        let name = Name::new(Side::Source, key.clone());
        let entry = self.entries.get(&name)?;
        let Spec::Source { target, ports, .. } = &entry.active.as_ref()?.spec else { return None };
        Some(SourceView {
            files: self.files_of(&name, entry),
            target: target.clone(),
            ports: ports.clone(),
            sessions: self.sessions_of(&name),
            lease_left: entry.lease.map(|lease| lease.until.since(now)),
            problem: entry.problem.clone(),
        })
    }

    /// All that listen, targets first.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.entries.iter().filter(|(_, entry)| entry.active.is_some()).map(|(name, _)| name)
    }

    /// Whose listener it is, and for which channel.
    #[must_use]
    pub fn listener(&self, id: ListenerId) -> Option<(&Name, Channel)> {
        self.listeners.get(&id).map(|listener| (&listener.name, listener.channel))
    }

    /// What is open, for a shutdown to wait for.
    #[must_use]
    pub fn open_count(&self) -> OpenCount {
        let is_open = |stage: Stage| matches!(stage, Stage::Open | Stage::Closing);
        OpenCount {
            migrations: self.names().count(),
            listeners: self.listeners.values().filter(|listener| is_open(listener.stage)).count(),
            sessions: self.listeners.values().map(|listener| listener.sessions).sum::<u64>() + self.strays,
        }
    }

    /// Whether nothing new is taken.
    #[must_use]
    pub const fn is_shutting_down(&self) -> bool {
        self.shutting_down
    }

    /// Whether a shutdown's time is over: all listeners are closed, whatever sessions are left.
    #[must_use]
    pub const fn is_past_shutdown(&self) -> bool {
        self.past
    }

    /// Whether a shutdown is complete: nothing new is taken, and nothing is left.
    #[must_use]
    pub fn is_shut_down(&self) -> bool {
        self.shutting_down && self.entries.is_empty() && self.open_count().is_zero()
    }

    pub(super) fn sessions_of(&self, name: &Name) -> u64 {
        self.sessions.get(name).copied().unwrap_or(0)
    }

    /// What a request that asked for what is in force is answered.
    pub(super) fn done(&self, name: &Name) -> Option<Done> {
        let entry = self.entries.get(name)?;
        Some(match &entry.active.as_ref()?.spec {
            Spec::Target { network, .. } => {
                Done::Target { ports: self.ports_of(entry), address: network.advertise }
            }
            Spec::Source { .. } => Done::Source { files: self.files_of(name, entry) },
        })
    }

    fn ports_of(&self, entry: &Entry) -> PortMap {
        let mut ports = PortMap::default();
        for (channel, id) in entry.active.iter().flat_map(|active| &active.listeners) {
            if let Some(port) = self.listeners.get(id).and_then(|listener| listener.port()) {
                // Two listeners can't have the same port of one address.
                let _ = ports.insert(port, *channel);
            }
        }
        ports
    }

    fn files_of(&self, name: &Name, entry: &Entry) -> Vec<(Channel, SocketPath)> {
        let Some(active) = &entry.active else { return vec![] };
        let Spec::Source { base_dir, .. } = &active.spec else { return vec![] };
        let file = |channel: &Channel| (*channel, SocketPath::of_source(base_dir, &name.key, *channel));
        active.listeners.keys().map(file).collect()
    }
}
