//! Relays between an entry and a sink.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustls::{ClientConfig, ServerConfig};

use crate::peer::{Endpoint, Peer, Sink};
use crate::pki::Authority;
use crate::relay::{Relay, Setup, back_program};
use crate::scratch::Scratch;

/// A kind of endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `unix:PATH`
    Unix,
    /// `unix:@NAME`
    Abstract,
    /// `tcp:127.0.0.1:PORT`
    Tcp,
    /// `tcp:[::1]:PORT`
    Tcp6,
    /// `tls:127.0.0.1:PORT`
    Tls,
    /// `fd:NAME`, a unix socket
    FdUnix,
    /// `fd:NAME`, a TCP socket
    FdTcp,
}

use Kind::{Abstract, FdTcp, FdUnix, Tcp, Tcp6, Tls, Unix};

impl Kind {
    /// Those that a relay can listen on.
    pub const LISTEN: [Self; 7] = [Unix, Abstract, Tcp, Tcp6, Tls, FdUnix, FdTcp];
    /// Those that it can dial.
    pub const CONNECT: [Self; 5] = [Unix, Abstract, Tcp, Tcp6, Tls];

    /// An endpoint of this kind that nobody uses.
    #[must_use]
    pub fn endpoint(self, scratch: &Scratch) -> Endpoint {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
        let v4 = ([127, 0, 0, 1], 0).into();
        match self {
            Unix | FdUnix => Endpoint::Unix(scratch.path(&name)),
            Abstract => Endpoint::Abstract(format!("relay-conf-{}-{name}", std::process::id())),
            Tcp | FdTcp => Endpoint::Tcp(v4),
            Tcp6 => Endpoint::Tcp((std::net::Ipv6Addr::LOCALHOST, 0).into()),
            Tls => Endpoint::Tls(v4),
        }
    }

    /// A command line from an endpoint of this kind.
    #[must_use]
    pub fn listen(self, scratch: &Scratch, to: &Endpoint) -> Setup {
        let (at, to) = (self.endpoint(scratch), to.to_string());
        match self {
            Unix | Abstract | Tcp | Tcp6 | Tls => Setup::new(&at.to_string(), &to),
            FdUnix | FdTcp => {
                let listener = Sink::new(&at, &Authority::common().issue("nobody").server());
                Setup::new("fd:handed-down", &to).inherits(listener.into_fd(), "handed-down")
            }
        }
    }
}

/// The way from the entry to the sink: by one relay, or by two with something between them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Road {
    /// Where a client connects.
    pub entry: Kind,
    /// Between two relays.
    pub middle: Option<Kind>,
    /// Where the server listens.
    pub sink: Kind,
}

impl Road {
    /// By one relay.
    #[must_use]
    pub const fn single(entry: Kind, sink: Kind) -> Self {
        Self { entry, middle: None, sink }
    }

    /// By two.
    #[must_use]
    pub const fn pair(entry: Kind, middle: Kind, sink: Kind) -> Self {
        Self { entry, middle: Some(middle), sink }
    }

    /// The migration's own: unix, mutual TLS, unix.
    pub const MIGRATION: Self = Self::pair(Unix, Tls, Unix);

    /// Every combination of plain and secure, and of sockets with and without resets.
    pub const SOME: [Self; 8] = [
        Self::single(Tcp, Tcp),
        Self::single(Unix, Unix),
        Self::single(Tls, Unix),
        Self::single(Unix, Tls),
        Self::single(Tls, Tls),
        Self::pair(Unix, Tcp, Unix),
        Self::MIGRATION,
        Self::pair(Tcp, Tls, Tcp),
    ];

    /// Whether both ends can tell a reset from an end.
    #[must_use]
    pub fn knows_resets(&self) -> bool {
        [self.entry, self.sink].iter().all(|kind| matches!(kind, Tcp | Tcp6 | Tls | FdTcp))
    }

    /// Whether TLS is anywhere on it.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        self.entry == Tls || self.sink == Tls || self.middle == Some(Tls)
    }
}

/// A sink and the relays before it.
#[derive(Debug)]
pub struct Rig {
    /// From the entry on.
    pub relays: Vec<Relay>,
    /// Where their sessions end.
    pub sink: Sink,
    /// For peers that connect by TLS.
    pub client: Arc<ClientConfig>,
    /// For sinks of theirs.
    pub server: Arc<ServerConfig>,
    /// Removed after all else.
    pub scratch: Scratch,
}

impl Rig {
    /// Relays along a road.
    #[must_use]
    pub fn new(road: Road) -> Self {
        Self::with(road, &[])
    }

    /// The same with more options for each relay.
    #[must_use]
    pub fn with(road: Road, options: &[&str]) -> Self {
        let scratch = Scratch::new();
        let identity = Authority::common().issue("node");
        let files = identity.write(scratch.root());
        let (client, server) = (identity.client(), identity.server());
        let sink = Sink::new(&road.sink.endpoint(&scratch), &server);
        let start = |setup: Setup, tls: bool| {
            let setup = if tls { setup.tls(&files) } else { setup };
            setup.options(options).start()
        };
        let relays = match road.middle {
            None => {
                let setup = road.entry.listen(&scratch, sink.at());
                vec![start(setup, road.has_tls())]
            }
            Some(middle) => {
                let back = middle.listen(&scratch, sink.at()).program(back_program());
                let back = start(back, middle == Tls || road.sink == Tls);
                let front = road.entry.listen(&scratch, back.at());
                vec![start(front, middle == Tls || road.entry == Tls), back]
            }
        };
        Self { relays, sink, client, server, scratch }
    }

    /// Where to connect.
    #[must_use]
    pub fn entry(&self) -> &Endpoint {
        self.relays[0].at()
    }

    /// A client that has connected and may not have been relayed yet.
    ///
    /// # Panics
    /// If it can't.
    #[must_use]
    pub fn client(&self) -> Peer {
        Peer::try_connect(self.entry(), &self.client).unwrap_or_else(|e| panic!("{}: {e}", self.entry()))
    }

    /// A connection through all of it: its two ends.
    #[must_use]
    pub fn connect(&self) -> (Peer, Peer) {
        let client = self.client();
        (client, self.sink.accept())
    }

    /// Drains every relay, from the entry on, and demands that each ends well.
    pub fn finish(mut self) {
        for relay in &mut self.relays {
            relay.finish();
        }
    }
}
