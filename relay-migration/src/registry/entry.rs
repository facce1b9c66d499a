//! One side of one migration: what is in force, and what is being prepared.

use std::collections::BTreeMap;
use std::time::Duration;

use relay_core::Instant;

use super::input::{ListenerId, Network, Owner, Side, SourceRequest, TargetRequest, Ticket};
use super::listener::{Dial, Listen, Listener, Stage};
use super::refusal::Refusal;
use crate::backends::Backends;
use crate::channel::Channel;
use crate::host::Host;
use crate::key::Key;
use crate::ports::PortMap;
use crate::socket_path::{BaseDir, SocketPath};

/// The longest lease: more is for ever, and for ever is none.
const LEASE_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// What was asked for. Two that are equal need the same listeners.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Spec {
    Target { backends: Backends, network: Network },
    Source { target: Host, ports: PortMap, base_dir: BaseDir, owner: Option<Owner> },
}

impl Spec {
    pub(super) fn channels(&self) -> Vec<Channel> {
        match self {
            Self::Target { backends, .. } => backends.iter().map(|(channel, _)| channel).collect(),
            Self::Source { ports, .. } => ports.iter().map(|(_, channel)| channel).collect(),
        }
    }

    pub(super) const fn owner(&self) -> Option<Owner> {
        match self {
            Self::Target { .. } => None,
            Self::Source { owner, .. } => *owner,
        }
    }

    /// Where a new listener is to be; a port is still to be found.
    pub(super) fn listen(&self, key: &Key, channel: Channel) -> Listen {
        match self {
            Self::Target { network, .. } => Listen::Tcp { address: network.bind, port: 0 },
            Self::Source { base_dir, owner, .. } => {
                Listen::Unix { path: SocketPath::of_source(base_dir, key, channel), owner: *owner }
            }
        }
    }

    pub(super) fn dial(&self, channel: Channel) -> Option<Dial> {
        match self {
            Self::Target { backends, .. } => backends.get(channel).cloned().map(Dial::Unix),
            Self::Source { target, ports, .. } => {
                ports.port(channel).map(|port| Dial::Tcp { host: target.clone(), port })
            }
        }
    }

    /// Whether this listener can go on serving the channel: it is where it is to be, and the rest can
    /// be changed while it is open.
    pub(super) fn can_keep(&self, key: &Key, channel: Channel, listener: &Listener) -> bool {
        if listener.channel != channel || !matches!(listener.stage, Stage::Opening | Stage::Open) {
            return false;
        }
        match (&listener.listen, self.listen(key, channel)) {
            (Listen::Tcp { address, .. }, Listen::Tcp { address: wanted, .. }) => *address == wanted,
            (Listen::Unix { path, owner }, Listen::Unix { path: wanted, owner: wanted_owner }) => {
                // one that is being opened gets the owner it was begun with
                *path == wanted && (listener.stage == Stage::Open || *owner == wanted_owner)
            }
            _ => false,
        }
    }

    /// Whether this listener is all that is asked for, except for whom it dials.
    pub(super) fn is_ready(&self, listener: &Listener) -> bool {
        let owner = self.owner();
        listener.stage == Stage::Open && (owner.is_none() || listener.owner() == owner)
    }
}

/// A request to listen, whichever side.
pub(super) struct Wanted {
    pub(super) side: Side,
    pub(super) key: Key,
    pub(super) spec: Spec,
    pub(super) keep: PortMap,
    pub(super) lease: Option<Duration>,
}

impl Wanted {
    pub(super) fn target(request: TargetRequest, network: Network) -> Self {
        let TargetRequest { key, backends, keep, lease } = request;
        Self { side: Side::Target, key, spec: Spec::Target { backends, network }, keep, lease }
    }

    pub(super) fn source(request: SourceRequest) -> Self {
        let SourceRequest { key, target, ports, base_dir, owner, lease } = request;
        let spec = Spec::Source { target, ports, base_dir, owner };
        Self { side: Side::Source, key, spec, keep: PortMap::default(), lease }
    }

    pub(super) fn check(&self) -> Result<(), Refusal> {
        if self.spec.channels().is_empty() {
            return Err(Refusal::Empty(self.side));
        }
        match self.lease {
            Some(lease) if lease == Duration::ZERO || lease > LEASE_MAX => Err(Refusal::BadLease),
            _ => Ok(()),
        }
    }
}

/// Listeners that serve a spec.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Setup {
    pub(super) spec: Spec,
    pub(super) listeners: BTreeMap<Channel, ListenerId>,
}

impl Setup {
    pub(super) fn has(&self, id: ListenerId) -> bool {
        self.listeners.values().any(|known| *known == id)
    }
}

/// From when a lease runs once a change is in force.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Term {
    /// From then on; or none.
    New(Option<Duration>),
    /// As it ran before.
    Same,
}

/// What is being prepared while the former goes on.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Change {
    pub(super) setup: Setup,
    pub(super) term: Term,
    /// Who waits for it. Nobody, if it was not asked for: a listener was lost, the network changed.
    pub(super) tickets: Vec<Ticket>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Lease {
    pub(super) ttl: Duration,
    pub(super) until: Instant,
}

impl Lease {
    pub(super) fn begin(ttl: Option<Duration>, now: Instant) -> Option<Self> {
        ttl.map(|ttl| Self { ttl, until: now + ttl })
    }
}

/// One side of one migration.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Entry {
    pub(super) active: Option<Setup>,
    pub(super) change: Option<Change>,
    pub(super) lease: Option<Lease>,
    /// Why it is not as it should be.
    pub(super) problem: Option<Refusal>,
}

impl Entry {
    /// All its listeners, once each.
    pub(super) fn listeners(&self) -> Vec<ListenerId> {
        let change = self.change.as_ref().map(|change| &change.setup);
        let setups = [self.active.as_ref(), change].into_iter().flatten();
        let mut ids: Vec<_> = setups.flat_map(|setup| setup.listeners.values().copied()).collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// Whose it is to be: what is being prepared counts.
    pub(super) fn owner_wanted(&self, id: ListenerId) -> Option<Owner> {
        match &self.change {
            Some(change) if change.setup.has(id) => change.setup.spec.owner(),
            _ => self.active.as_ref().filter(|active| active.has(id)).and_then(|active| active.spec.owner()),
        }
    }

    /// Whom it is to dial: only what is in force counts.
    pub(super) fn dial_wanted(&self, id: ListenerId, channel: Channel) -> Option<Dial> {
        self.active.as_ref().filter(|active| active.has(id)).and_then(|active| active.spec.dial(channel))
    }
}
