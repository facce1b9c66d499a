//! One listening socket: where it is, whom it dials, how far it has come.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::input::{ListenerId, Name, Owner};
use crate::channel::Channel;
use crate::host::Host;
use crate::socket_path::SocketPath;

/// Where to listen.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Listen {
    /// On a port: a target.
    Tcp {
        /// Of this address. `::` takes IPv4 too (`IPV6_V6ONLY` off, whatever the system's default).
        address: IpAddr,
        /// 0 lets the kernel choose.
        port: u16,
    },
    /// On a unix socket: a source.
    Unix {
        /// This one.
        path: SocketPath,
        /// Whose it is to be, before anybody can connect.
        owner: Option<Owner>,
    },
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { address, port } => SocketAddr::new(*address, *port).fmt(f),
            Self::Unix { path, .. } => path.fmt(f),
        }
    }
}

/// Whom to dial, anew for each connection: QEMU's sockets come into being after the listeners, and go
/// before them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Dial {
    /// A unix socket: a target's backend.
    Unix(SocketPath),
    /// A port of the target node.
    Tcp {
        /// Which node.
        host: Host,
        /// Which port.
        port: u16,
    },
}

impl fmt::Display for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.fmt(f),
            Self::Tcp { host: host @ Host::V6(..), port } => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// What is to be done. A demand stands until its result is reported; whoever does not do it at once
/// remembers, by the listener's id, what is under way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Demand {
    /// Listen there and dial on to there. Then [`Opened`](super::Input::Opened) or
    /// [`OpenFailed`](super::Input::OpenFailed).
    Open {
        /// Which.
        id: ListenerId,
        /// Whose.
        name: Name,
        /// For which channel.
        channel: Channel,
        /// Where.
        listen: Listen,
        /// Whom to dial.
        dial: Dial,
    },
    /// Give the socket file to this owner. Then [`Owned`](super::Input::Owned) or
    /// [`OwnFailed`](super::Input::OwnFailed).
    Own {
        /// Which.
        id: ListenerId,
        /// To whom.
        owner: Owner,
    },
    /// Dial new connections on to there; those that are open stay. Can't fail; then
    /// [`Routed`](super::Input::Routed).
    Route {
        /// Which.
        id: ListenerId,
        /// Whom to dial.
        dial: Dial,
    },
    /// Accept no more, close, remove the file if it is ours; sessions go on. If it is still being
    /// opened, see to it that it is not. Then [`Closed`](super::Input::Closed).
    Close {
        /// Which.
        id: ListenerId,
    },
}

/// How far a listener has come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Stage {
    /// To be opened.
    Opening,
    /// Accepts.
    Open,
    /// To be closed.
    Closing,
    /// Gone; remembered for its sessions.
    Closed,
}

/// How a port is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Search {
    /// The kernel chooses, or it is no port at all.
    Free,
    /// This one first, since it was in use before.
    Kept,
    /// The range from a certain place on.
    Range {
        /// Where the search began.
        from: u32,
        /// How far it has come.
        step: u32,
        /// So many were others'.
        others: usize,
    },
}

/// A listener.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Listener {
    pub(super) name: Name,
    pub(super) channel: Channel,
    /// As it is: with the port that it got and the owner that it has.
    pub(super) listen: Listen,
    /// As it is.
    pub(super) dial: Dial,
    pub(super) stage: Stage,
    pub(super) search: Search,
    /// It could not be given back to this one; not to be tried for ever.
    pub(super) own_refused: Option<Owner>,
    pub(super) sessions: u64,
}

impl Listener {
    pub(super) const fn port(&self) -> Option<u16> {
        match self.listen {
            Listen::Tcp { port, .. } if port != 0 => Some(port),
            Listen::Tcp { .. } | Listen::Unix { .. } => None,
        }
    }

    pub(super) const fn owner(&self) -> Option<Owner> {
        match self.listen {
            Listen::Tcp { .. } => None,
            Listen::Unix { owner, .. } => owner,
        }
    }

    /// It is or may be bound.
    pub(super) const fn is_held(&self) -> bool {
        match self.stage {
            Stage::Opening | Stage::Open | Stage::Closing => true,
            Stage::Closed => false,
        }
    }

    /// Whether both can't be bound at once.
    pub(super) fn collides(&self, other: &Self) -> bool {
        match (&self.listen, &other.listen) {
            (Listen::Unix { path, .. }, Listen::Unix { path: other, .. }) => path == other,
            (Listen::Tcp { port, .. }, Listen::Tcp { port: other, .. }) => port == other && *port != 0,
            (Listen::Unix { .. }, Listen::Tcp { .. }) | (Listen::Tcp { .. }, Listen::Unix { .. }) => false,
        }
    }
}
