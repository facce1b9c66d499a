//! What a node asks of a loop: take connections here, dial there, relay between, until told to stop.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use relay_core::admission::{Limits, Peers};
use relay_core::{Config, EndReason, Instant, Outcome, PerLeg, Timer};
use relay_migration::{Channel, Key};
use relay_tls::{CodecError, LegCodec};

use crate::cli::Timeouts;
use crate::control::Commands;
use crate::endpoint::Endpoint;
use crate::inherited::Inherited;
use crate::listen::{self, ListenOptions, Listener};
use crate::observer::{LogObserver, Observer};
use crate::resolve::Backend;
use crate::sessions::{RouteId, SessionTable};
use crate::tls::Tls;

/// Plaintext bytes that a flow may hold: sixteen TLS records, and about what a unix socket hands
/// over at once (net.core.wmem_default, 212,992 bytes).
const CAPACITY: usize = 256 << 10;

/// How long a TCP peer that has its whole answer may go on uploading what nobody takes. No longer:
/// QEMU's source learns from the failing upload that the destination is gone, and hangs until then.
const LINGER: Duration = Duration::from_secs(1);

/// A loop: readiness, timers, accept and connect. Everything else is in this crate and below.
pub trait Runtime: Sync {
    /// Relays on all routes, and on those that [`Command`](crate::control::Command)s open, until one of
    /// them was a stop and all sessions have ended.
    ///
    /// **Blocks the calling thread** for as long: a program that does something else meanwhile gives it a
    /// thread of its own. In a tokio program, `relay_tokio::serve` is the same as a future.
    ///
    /// On `Drain`: accepts whoever waits in a backlog, within the limits, and drops the listeners, hands every
    /// session [`drain_deadline`](Server::drain_deadline), returns when the last has ended. On `Abort`: the
    /// same with all sessions aborted, and nobody accepted any more.
    ///
    /// A `Beat` is passed on once everything is there that the loops need, and every loop lets its copy go: a
    /// program says that it listens when the first one has come through.
    ///
    /// # Errors
    /// If the loop itself can't be set up or fails. A session's or an accept's failure is none.
    ///
    /// # Panics
    /// Only if the loop is one that cannot run where it is called; it says so.
    fn serve(&self, server: Server) -> Result<Served, ServeError>;
}

/// All that a loop needs.
#[derive(Debug)]
pub struct Server {
    /// Where to listen from the beginning; more may come by command.
    pub routes: Vec<(RouteId, Route)>,
    /// Where to enter its sessions, and whose clock to go by.
    pub sessions: Arc<SessionTable>,
    /// How much is let in, within what the process' descriptors allow.
    pub limits: Limits,
    /// How many loops there are to be, each in a thread of its own; `None` leaves it to the runtime.
    pub threads: Option<NonZeroUsize>,
    /// How long open sessions may take to finish once draining; `None` for ever.
    pub drain_timeout: Option<Duration>,
    /// Whom to tell what happens.
    pub observer: Arc<dyn Observer>,
    /// What the operator wishes.
    pub commands: Commands,
}

/// How many processors there are to run on, by affinity and quota: what it was when it was asked first, for a sandbox
/// hides the files that tell of the quota.
pub(crate) fn processors() -> NonZeroUsize {
    static KNOWN: OnceLock<NonZeroUsize> = OnceLock::new();
    *KNOWN.get_or_init(|| thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
}

impl Server {
    /// One that listens at these routes and is told what to do through the other end of `commands`: with
    /// the default limits, the drain timeout of [`Timeouts::default`], a table of its own, and a line in
    /// the log for each session.
    #[must_use]
    pub fn new(routes: impl IntoIterator<Item = Route>, commands: Commands) -> Self {
        Self {
            routes: numbered(routes),
            sessions: SessionTable::new(),
            limits: Limits::default(),
            threads: None,
            drain_timeout: Timeouts::default().drain,
            observer: Arc::new(LogObserver),
            commands,
        }
    }

    /// How many loops: so many as asked for here, otherwise as the runtime was given, otherwise as there
    /// are processors to run on.
    #[must_use]
    pub fn loops(&self, of_the_runtime: Option<NonZeroUsize>) -> NonZeroUsize {
        let asked_for = self.threads.or(of_the_runtime);
        asked_for.unwrap_or_else(processors)
    }

    /// When a drain that begins now has to be over.
    #[must_use]
    pub fn drain_deadline(&self, now: Instant) -> Instant {
        self.drain_timeout.map_or(Instant::from_nanos(u64::MAX), |timeout| now + timeout)
    }
}

/// Where to listen, and what to do with each connection.
#[derive(Debug)]
pub struct Route {
    /// Where.
    pub listener: Listener,
    /// What. Sessions keep it beyond the listener's end.
    pub plan: Arc<Plan>,
}

/// Routes that are there from the beginning, with the numbers 0, 1, 2 and so on.
pub fn numbered(routes: impl IntoIterator<Item = Route>) -> Vec<(RouteId, Route)> {
    (0..).map(RouteId).zip(routes).collect()
}

impl Route {
    /// Listens at `listen`, for sessions that are relayed to `connect`. `tls` is needed if either of them
    /// is `tls:`, and used there only. Looks up host names at once, which may take a while: not for a loop.
    ///
    /// # Errors
    /// As [`listen`](crate::listen::listen), [`Backend::new`] and [`Plan::new`].
    pub fn open(
        listen: &Endpoint,
        connect: &Endpoint,
        tls: Option<&Arc<Tls>>,
        timeouts: &Timeouts,
    ) -> io::Result<Self> {
        let backend = Backend::new(connect)?;
        let listener = listen::listen(listen, &ListenOptions::default(), &mut Inherited::none())?;
        let plan = Plan::new(listener.local().clone(), backend, tls, timeouts).map_err(io::Error::other)?;
        Ok(Self { listener, plan: Arc::new(plan) })
    }

    /// Descriptors that one session takes: its two sockets. A loop that splices takes two more for each
    /// pipe, while bytes move, and does without once half of all descriptors are in use.
    pub(crate) const DESCRIPTORS: usize = 2;
}

/// What a listener is for, by the words of migrations.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Label {
    /// Which migration.
    pub key: Key,
    /// Which of its channels.
    pub channel: Channel,
}

impl Label {
    /// Key and channel for a line of the log; `-` for what belongs to no migration.
    pub(crate) fn words(label: Option<&Self>) -> (String, String) {
        let none = || ("-".to_owned(), "-".to_owned());
        label.map_or_else(none, |label| (label.key.to_string(), label.channel.to_string()))
    }
}

/// What to do with the connections of one listener.
#[derive(Debug)]
pub struct Plan {
    label: Option<Label>,
    listen: Endpoint,
    backend: Backend,
    front: Option<Arc<Tls>>,
    back: Option<Arc<Tls>>,
    config: Config,
    /// Takes this one's place for new connections.
    successor: Mutex<Option<Arc<Self>>>,
}

impl Plan {
    /// A plan for connections taken at `listen`, which for port 0 is the real one. `tls` is needed
    /// if either end is `tls:`, and used for that end only.
    ///
    /// # Errors
    /// If an end is `tls:` and there is no `tls`, or the host to dial can be in no certificate.
    pub fn new(
        listen: Endpoint,
        backend: Backend,
        tls: Option<&Arc<Tls>>,
        timeouts: &Timeouts,
    ) -> Result<Self, CodecError> {
        let secured = |endpoint: &Endpoint| endpoint.is_tls().then(|| tls.cloned()).flatten();
        let (front, back) = (secured(&listen), secured(backend.endpoint()));
        if front.is_some() != listen.is_tls() || back.is_some() != backend.endpoint().is_tls() {
            return Err(CodecError::Setup { reason: "a tls: endpoint without TLS settings".to_owned() });
        }
        let linger = |endpoint: &Endpoint| match endpoint {
            Endpoint::Tcp(_) | Endpoint::Tls(_) => LINGER,
            Endpoint::Unix(_) | Endpoint::Abstract(_) | Endpoint::Fd(_) => Duration::ZERO,
        };
        let config = Config {
            secure: PerLeg::new(front.is_some(), back.is_some()),
            dial_timeout: timeouts.dial,
            secure_timeout: timeouts.handshake,
            idle_timeout: timeouts.idle,
            half_open_timeout: timeouts.half_open,
            max_lifetime: timeouts.lifetime,
            linger: PerLeg::new(linger(&listen), linger(backend.endpoint())),
            ..Config::new(CAPACITY)
        };
        let plan = Self { label: None, listen, backend, front, back, config, successor: Mutex::default() };
        plan.back_codec()?;
        Ok(plan)
    }

    /// The same, for a channel of a migration.
    #[must_use]
    pub fn labeled(self, label: Label) -> Self {
        let backend = self.backend.of(label.clone());
        Self { label: Some(label), backend, ..self }
    }

    /// New connections get this plan from now on. What it listens at is the same.
    pub(crate) fn redirect(&self, to: Arc<Self>) {
        *self.successor.lock().unwrap_or_else(PoisonError::into_inner) = Some(to);
    }

    /// The plan for a connection that is accepted now: this one, or the one that took its place.
    #[must_use]
    pub fn present(self: &Arc<Self>) -> Arc<Self> {
        let successor = self.successor.lock().unwrap_or_else(PoisonError::into_inner);
        successor.as_ref().map_or_else(|| Arc::clone(self), Arc::clone)
    }

    /// Which channel of which migration it is for, if for one.
    #[must_use]
    pub const fn label(&self) -> Option<&Label> {
        self.label.as_ref()
    }

    /// Where connections are taken.
    #[must_use]
    pub const fn listen(&self) -> &Endpoint {
        &self.listen
    }

    /// What to dial for each.
    #[must_use]
    pub const fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Whether those who connect have to prove who they are.
    #[must_use]
    pub const fn peers(&self) -> Peers {
        if self.front.is_some() { Peers::Strangers } else { Peers::Known }
    }

    /// The limits of a session.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The framing of a connection just accepted.
    #[must_use]
    pub fn front_codec(&self) -> LegCodec {
        self.front.as_ref().map_or(LegCodec::Plain, |tls| LegCodec::tls(tls.present().server.codec()))
    }

    /// The framing of a backend just connected.
    ///
    /// # Errors
    /// If the random number generator fails; the host was checked by [`new`](Self::new).
    pub fn back_codec(&self) -> Result<LegCodec, CodecError> {
        let host = self.backend.endpoint().host_port().map(|at| at.host.to_string());
        match (&self.back, host) {
            (Some(tls), Some(host)) => tls.present().client.codec(&host).map(LegCodec::tls),
            _ => Ok(LegCodec::Plain),
        }
    }
}

/// What became of all sessions of a loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Served {
    /// Sessions ended, in whatever way.
    pub sessions: u64,
    /// Of these, cut by the drain's deadline.
    pub cut_by_deadline: u64,
    /// Of these, aborted by the operator.
    pub aborted: u64,
}

impl Served {
    /// Counts a session that has ended.
    pub fn count(&mut self, outcome: &Outcome) {
        let ended = |reason| outcome.flows.front.reason == reason || outcome.flows.back.reason == reason;
        self.sessions += 1;
        self.cut_by_deadline += u64::from(ended(EndReason::TimedOut(Timer::Drain)));
        self.aborted += u64::from(ended(EndReason::Aborted));
    }

    /// The counts of two loops, or threads of one, together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            sessions: self.sessions + other.sessions,
            cut_by_deadline: self.cut_by_deadline + other.cut_by_deadline,
            aborted: self.aborted + other.aborted,
        }
    }
}

/// Why a loop can't go on: what it tried, and what the system said.
#[derive(Debug)]
pub struct ServeError {
    tried: &'static str,
    source: io::Error,
}

impl ServeError {
    /// `tried` completes "could not …".
    #[must_use]
    pub const fn new(tried: &'static str, source: io::Error) -> Self {
        Self { tried, source }
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not {}: {}", self.tried, self.source)
    }
}

impl std::error::Error for ServeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
