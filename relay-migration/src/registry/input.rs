//! What the registry is told and what it answers.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use relay_core::Instant;

use super::listener::Dial;
use super::refusal::Refusal;
use crate::backends::Backends;
use crate::channel::Channel;
use crate::host::Host;
use crate::invalid::{Invalid, invalid};
use crate::key::Key;
use crate::ports::{PortMap, PortRange};
use crate::socket_path::{BaseDir, SocketPath};

/// A listener, by a number that is never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ListenerId(pub u64);

impl fmt::Display for ListenerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A request, by a number that whoever asks chooses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// Which side of a migration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Side {
    /// Where the virtual machine comes to: listens on ports, dials unix sockets.
    Target,
    /// Where it comes from: listens on unix sockets, dials ports.
    Source,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Target => "target",
            Self::Source => "source",
        })
    }
}

/// One side of one migration. A node can have both of one key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Name {
    /// Which side.
    pub side: Side,
    /// Which migration.
    pub key: Key,
}

impl Name {
    /// That side of that migration.
    #[must_use]
    pub const fn new(side: Side, key: Key) -> Self {
        Self { side, key }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.side, self.key)
    }
}

/// Whose a socket file is to be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Owner {
    /// `qemu` in KubeVirt's launcher, to whom its proxy gives the sockets.
    pub const QEMU: Self = Self { uid: 107, gid: 107 };

    /// Of these numbers.
    ///
    /// # Errors
    /// For 4294967295, which is nobody: chown(2) takes it, -1, for "leave it as it is".
    pub fn new(uid: u32, gid: u32) -> Result<Self, Invalid> {
        for (what, id) in [("user", uid), ("group", gid)] {
            if id == u32::MAX {
                return invalid(format!("{id} is no {what}; the numbers end at {}", u32::MAX - 1));
            }
        }
        Ok(Self { uid, gid })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

/// Where targets listen and what they tell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Network {
    /// Bound to. `::` stands for every address, of IPv4 too.
    pub bind: IpAddr,
    /// Published, for sources to dial.
    pub advertise: IpAddr,
}

/// What does not change while a registry lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Config {
    /// Where targets listen at first; [`Input::Network`] changes it.
    pub network: Network,
    /// The ports that targets listen on; none lets the kernel choose.
    pub range: Option<PortRange>,
    /// How many migrations there may be, both sides counted: at least 1.
    pub max: usize,
    /// Another process will listen where this one did. Then a shutdown waits for sessions, and not for
    /// migrations to be deleted: listeners without any are closed, to be opened again by that one.
    pub has_successor: bool,
}

impl Config {
    /// Ports of the kernel's choice, up to 1,024 migrations.
    #[must_use]
    pub const fn new(network: Network) -> Self {
        Self { network, range: None, max: 1024, has_successor: false }
    }
}

/// Listeners that a target is to have.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TargetRequest {
    /// Which migration.
    pub key: Key,
    /// What to dial, by channel. Not empty.
    pub backends: Backends,
    /// Ports that were in use before this process began, to be had again if they are free.
    pub keep: PortMap,
    /// How long without being renewed, and without a session, until they are closed; none for as
    /// long as nobody says otherwise.
    pub lease: Option<Duration>,
}

/// Listeners that a source is to have.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SourceRequest {
    /// Which migration.
    pub key: Key,
    /// The target node.
    pub target: Host,
    /// Its ports. Not empty.
    pub ports: PortMap,
    /// Below which directory the sockets are.
    pub base_dir: BaseDir,
    /// Whose they are; none leaves them this process'.
    pub owner: Option<Owner>,
    /// As [`TargetRequest::lease`].
    pub lease: Option<Duration>,
}

/// What is asked of the registry.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Request {
    /// These listeners, and no others, for that target.
    SetTarget(TargetRequest),
    /// These listeners, and no others, for that source.
    SetSource(SourceRequest),
    /// As long again.
    Renew(Name),
    /// No listeners. Sessions go on.
    Delete(Name),
    /// Nothing new from now on; whatever listens goes on until it is deleted, its lease runs out, or
    /// the time given has come.
    Shutdown {
        /// When everything is closed.
        until: Option<Instant>,
    },
}

impl Request {
    /// Whose listeners it is about; a shutdown is about all of them.
    #[must_use]
    pub fn name(&self) -> Option<Name> {
        match self {
            Self::SetTarget(asked) => Some(Name::new(Side::Target, asked.key.clone())),
            Self::SetSource(asked) => Some(Name::new(Side::Source, asked.key.clone())),
            Self::Delete(name) | Self::Renew(name) => Some(name.clone()),
            Self::Shutdown { .. } => None,
        }
    }
}

/// Why a listener could not be opened.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum OpenError {
    /// Its port is somebody else's (EADDRINUSE): another one may do.
    PortInUse,
    /// Something is where its socket file was to be: one line.
    Occupied(String),
    /// What was asked for can't be had, whoever asks: its directory is not there. One line.
    Unfit(String),
    /// Anything else, in the operating system's words.
    Other(String),
}

/// A fact, in the past tense, or a request.
///
/// Facts about listeners that are gone are ignored, since they may have crossed a decision on their
/// way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Input {
    /// Somebody asks. Each ticket is answered once.
    Request(Ticket, Request),
    /// A listener accepts ([`Demand::Open`](super::Demand::Open)); its port, 0 for a unix socket.
    Opened {
        /// Which.
        id: ListenerId,
        /// Where.
        port: u16,
    },
    /// It does not, and nothing of it is left.
    OpenFailed {
        /// Which.
        id: ListenerId,
        /// Why.
        why: OpenError,
    },
    /// Its socket file has the owner demanded ([`Demand::Own`](super::Demand::Own)).
    Owned {
        /// Which.
        id: ListenerId,
        /// Whose it is.
        owner: Owner,
    },
    /// It has the owner it had.
    OwnFailed {
        /// Which.
        id: ListenerId,
        /// Whose it was to be.
        owner: Owner,
        /// In the operating system's words.
        why: String,
    },
    /// New connections are dialed on to where demanded ([`Demand::Route`](super::Demand::Route)).
    Routed {
        /// Which.
        id: ListenerId,
        /// Where to.
        dial: Dial,
    },
    /// A listener is closed and its file removed ([`Demand::Close`](super::Demand::Close)).
    Closed(ListenerId),
    /// A listener closed by itself. It will be opened again.
    Lost {
        /// Which.
        id: ListenerId,
        /// In the operating system's words.
        why: String,
    },
    /// A connection was accepted.
    SessionOpened(ListenerId),
    /// A session ended.
    SessionClosed(ListenerId),
    /// The migration network has another address.
    Network(Network),
}

/// How a request went.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Done {
    /// A target listens.
    Target {
        /// On which ports.
        ports: PortMap,
        /// Where sources are to dial.
        address: IpAddr,
    },
    /// A source listens.
    Source {
        /// The socket of each channel.
        files: Vec<(Channel, SocketPath)>,
    },
    /// The lease is as long again.
    Renewed,
    /// There are no listeners (any more).
    Deleted {
        /// There were.
        existed: bool,
    },
    /// Nothing new is taken.
    ShuttingDown(OpenCount),
}

/// What came of an input, besides what is to be done.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// A request's answer. To be passed on once what is demanded is done.
    Answered {
        /// Whose.
        ticket: Ticket,
        /// What.
        result: Result<Done, Refusal>,
    },
    /// Other listeners are in force than before: what is published may have changed.
    Changed(Name),
    /// Nobody renewed the lease.
    Expired(Name),
    /// Listeners could not be made what they should be, and nobody waits to be told.
    Failed {
        /// Whose.
        name: Name,
        /// Why.
        why: Refusal,
    },
}

/// What keeps a shutdown from being complete.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct OpenCount {
    /// Migrations with listeners, each side counted: upstream's `OpenListenerCount`.
    pub migrations: usize,
    /// Listeners.
    pub listeners: usize,
    /// Sessions, of closed listeners too.
    pub sessions: u64,
}

impl OpenCount {
    /// Nothing.
    #[must_use]
    pub const fn is_zero(&self) -> bool {
        self.migrations == 0 && self.listeners == 0 && self.sessions == 0
    }
}
