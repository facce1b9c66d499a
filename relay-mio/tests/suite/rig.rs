//! Relays to be tested from outside: nodes in threads of this process, peers with blocking sockets,
//! certificates, and bytes that can be told apart.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use relay_core::admission::Limits;
use relay_core::{Failure, Leg, Outcome};
use relay_node::cli::Timeouts;
use relay_node::control::{self, Command, Controller, Sessions};
use relay_node::crowd::Crowded;
use relay_node::endpoint::Endpoint;
use relay_node::inherited::Inherited;
use relay_node::listen::{ListenOptions, listen};
use relay_node::resolve::Backend;
use relay_node::server::numbered;
use relay_node::tls::Tls;
use relay_node::{
    Observer, Plan, Route, RouteId, Runtime, ServeError, Served, Server, SessionEnded, SessionId,
    SessionTable,
};
use relay_tls::{Material, Pem};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::Loop;

/// Against hanging for ever; nothing is expected to take that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A directory of its own, removed at its end.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("relay-suite-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a scratch directory");
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A unix endpoint in it.
    pub(crate) fn unix(&self, name: &str) -> String {
        format!("unix:{}", self.path(name).display())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What an observer saw of a session's end.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) id: SessionId,
    pub(crate) outcome: Outcome,
    pub(crate) dial_failure: Option<Failure>,
    pub(crate) tls_errors: [Option<String>; 2],
    pub(crate) back_was_connected: bool,
}

#[derive(Debug, Default)]
struct Seen {
    ended: Vec<Ended>,
    closed: Vec<RouteId>,
    pauses: usize,
    resumes: usize,
}

/// An observer that can be asked.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    seen: Mutex<Seen>,
    changed: Condvar,
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no panic while it was held")
    }

    fn wait_until<T>(&self, what: &str, mut check: impl FnMut(&Seen) -> Option<T>) -> T {
        let start = Instant::now();
        let mut seen = self.lock();
        loop {
            if let Some(found) = check(&seen) {
                return found;
            }
            assert!(start.elapsed() < PATIENCE, "{what}: {seen:?}");
            (seen, _) = self.changed.wait_timeout(seen, PATIENCE).expect("no panic while it was held");
        }
    }

    /// The first `count` sessions that have ended, once so many have.
    pub(crate) fn ended(&self, count: usize) -> Vec<Ended> {
        self.wait_until(&format!("{count} sessions end"), |seen| {
            (seen.ended.len() >= count).then(|| seen.ended.clone())
        })
    }

    pub(crate) fn only_ended(&self) -> Ended {
        self.ended(1).remove(0)
    }

    pub(crate) fn closed(&self, id: u64) {
        self.wait_until("a listener is closed", |seen| seen.closed.contains(&RouteId(id)).then_some(()));
    }

    pub(crate) fn paused(&self) {
        self.wait_until("accepting pauses", |seen| (seen.pauses > 0).then_some(()));
    }

    pub(crate) fn resumed(&self) {
        self.wait_until("accepting resumes", |seen| (seen.resumes > 0).then_some(()));
    }
}

impl Observer for Watch {
    fn session_ended(&self, ended: &SessionEnded<'_>) {
        let ended = Ended {
            id: ended.id,
            outcome: *ended.outcome,
            dial_failure: ended.dial_failure,
            tls_errors: Leg::BOTH.map(|leg| ended.tls_error(leg).map(str::to_owned)),
            back_was_connected: ended.back.is_some(),
        };
        self.lock().ended.push(ended);
        self.changed.notify_all();
    }

    fn accept_paused(&self, _: &Endpoint, _: &io::Error) {
        self.lock().pauses += 1;
        self.changed.notify_all();
    }

    fn crowded(&self, _: &Crowded) {}

    fn order_broken(&self, _: &Endpoint, _: Duration) {}

    fn accept_resumed(&self, _: &Endpoint) {
        self.lock().resumes += 1;
        self.changed.notify_all();
    }

    fn listener_closed(&self, id: RouteId) {
        self.lock().closed.push(id);
        self.changed.notify_all();
    }
}

/// What a node is to be like.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) timeouts: Timeouts,
    pub(crate) limits: Limits,
    pub(crate) threads: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { tls: None, timeouts: Timeouts::default(), limits: Limits::default(), threads: 2 }
    }
}

fn route(from: &str, to: &str, settings: &Settings) -> Route {
    let from = from.parse().expect("an endpoint");
    let listener = listen(&from, &ListenOptions::default(), &mut Inherited::none()).expect("a listener");
    let backend = Backend::new(&to.parse().expect("an endpoint")).expect("a backend");
    let tls = settings.tls.as_ref();
    let plan = Plan::new(listener.local().clone(), backend, tls, &settings.timeouts).expect("a plan");
    Route { listener, plan: Arc::new(plan) }
}

/// A node in a thread of this process.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) at: Endpoint,
    pub(crate) watch: Arc<Watch>,
    pub(crate) sessions: Arc<SessionTable>,
    pub(crate) runtime: Arc<Loop>,
    controller: Controller,
    thread: Option<JoinHandle<Result<Served, ServeError>>>,
}

impl Node {
    pub(crate) fn start(from: &str, to: &str, settings: &Settings) -> Self {
        let route = route(from, to, settings);
        let at = route.plan.listen().clone();
        let mut node = Self::serve(vec![route], settings);
        node.at = at;
        node
    }

    /// One that listens, and does not serve before something was done: what that gave.
    pub(crate) fn start_late<T>(
        from: &str,
        to: &str,
        settings: &Settings,
        first: impl FnOnce(&Endpoint, &Controller) -> T,
    ) -> (Self, T) {
        let route = route(from, to, settings);
        let at = route.plan.listen().clone();
        let mut done = None;
        let mut node = Self::serve_after(vec![route], settings, |controller| {
            done = Some(first(&at, controller));
        });
        node.at = at;
        (node, done.expect("done"))
    }

    /// One that listens nowhere yet.
    pub(crate) fn idle(settings: &Settings) -> Self {
        Self::serve(Vec::new(), settings)
    }

    fn serve(routes: Vec<Route>, settings: &Settings) -> Self {
        Self::serve_after(routes, settings, |_| ())
    }

    fn serve_after(routes: Vec<Route>, settings: &Settings, first: impl FnOnce(&Controller)) -> Self {
        let (controller, commands) = control::channel().expect("a pair");
        let (watch, sessions) = (Arc::new(Watch::default()), SessionTable::new());
        let runtime = Arc::new(Loop::default());
        let server = Server {
            routes: numbered(routes),
            sessions: Arc::clone(&sessions),
            limits: settings.limits,
            threads: Some(settings.threads.try_into().expect("threads")),
            drain_timeout: settings.timeouts.drain,
            observer: Arc::clone(&watch) as Arc<dyn Observer>,
            commands,
        };
        first(&controller);
        let serving = Arc::clone(&runtime);
        let thread = Some(thread::spawn(move || serving.serve(server)));
        let at = Endpoint::Fd(String::new());
        Self { at, watch, sessions, runtime, controller, thread }
    }

    /// Has it listen there, too; where that is.
    pub(crate) fn open(&self, id: u64, from: &str, to: &str, settings: &Settings) -> Endpoint {
        let route = route(from, to, settings);
        let at = route.plan.listen().clone();
        self.send(Command::Open { id: RouteId(id), route });
        at
    }

    /// Has it listen there no more, and waits until that is so.
    pub(crate) fn close(&self, id: u64, sessions: Sessions) {
        self.send(Command::Close { id: RouteId(id), sessions });
        self.watch.closed(id);
    }

    pub(crate) fn send(&self, command: Command) {
        self.controller.send(command);
    }

    /// Waits for its end.
    pub(crate) fn join(&mut self) -> Served {
        let thread = self.thread.take().expect("not joined yet");
        thread.join().expect("no panic").expect("no failure of the loop")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.controller.send(Command::Abort);
            let result = thread.join();
            assert!(thread::panicking() || result.is_ok(), "a loop panicked");
        }
    }
}

/// A certificate authority.
#[derive(Debug)]
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// Certificate, key and authority, PEM.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) cert: String,
    pub(crate) key: String,
    pub(crate) ca: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A node's certificate, good for 127.0.0.1 as server and as client.
    pub(crate) fn issue(&self) -> Issued {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "node");
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Issued { cert, key: key.serialize_pem(), ca: self.pem.clone() }
    }

    pub(crate) fn tls(&self) -> Arc<Tls> {
        self.tls_trusting(self)
    }

    /// With a certificate of this authority's, and trust in those of another.
    pub(crate) fn tls_trusting(&self, trusted: &Self) -> Arc<Tls> {
        let Issued { cert, key, .. } = self.issue();
        let ca = trusted.pem.clone();
        let pem = |file, text: &'static str| Pem { file, bytes: text.as_bytes() };
        // tests are short: what they leak is nothing
        let leak = |text: String| -> &'static str { text.leak() };
        let (cert, key, ca) = (leak(cert), leak(key), leak(ca));
        let material = Material::from_pem(pem("cert", cert), pem("key", key), pem("ca", ca)).expect("PEM");
        Arc::new(Tls::new(&material, &[]).expect("TLS settings"))
    }
}

/// A blocking connection, with a limit to its patience.
pub(crate) fn patient(socket: Socket) -> Socket {
    socket.set_read_timeout(Some(PATIENCE)).expect("option");
    socket.set_write_timeout(Some(PATIENCE)).expect("option");
    socket
}

/// Connects to where a relay listens.
pub(crate) fn dial(at: &Endpoint) -> Socket {
    patient(match at {
        Endpoint::Unix(path) => UnixStream::connect(path).expect("connect").into(),
        Endpoint::Tcp(at) | Endpoint::Tls(at) => {
            TcpStream::connect(("127.0.0.1", at.port)).expect("connect").into()
        }
        Endpoint::Abstract(_) | Endpoint::Fd(_) => panic!("not in these tests"),
    })
}

/// Where a relay's sessions end.
#[derive(Debug)]
pub(crate) struct Sink(Socket);

impl Sink {
    pub(crate) fn unix(path: &Path) -> Self {
        Self(patient(UnixListener::bind(path).expect("bind").into()))
    }

    /// With a backlog of its own (listen(2)).
    pub(crate) fn unix_with_backlog(path: &Path, backlog: i32) -> Self {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("socket");
        socket.bind(&SockAddr::unix(path).expect("a short path")).expect("bind");
        socket.listen(backlog).expect("listen");
        Self(patient(socket))
    }

    pub(crate) fn tcp() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let endpoint = format!("tcp:{}", listener.local_addr().expect("address"));
        (Self(patient(listener.into())), endpoint)
    }

    pub(crate) fn accept(&self) -> Socket {
        let (socket, _) = self.0.accept().expect("a connection comes");
        patient(socket)
    }

    /// Fails if somebody has connected.
    pub(crate) fn assert_untouched(&self) {
        self.0.set_nonblocking(true).expect("flag");
        let error = self.0.accept().map(drop).expect_err("the backend was touched");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        self.0.set_nonblocking(false).expect("flag");
    }
}

/// How bytes get from the entry to the sink.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Road {
    /// TCP, one relay, TCP.
    Direct,
    /// Unix, relay, TCP, relay, unix.
    PlainPair,
    /// Unix, relay, mutual TLS, relay, unix.
    TlsPair,
    /// TCP, relay, mutual TLS, relay, TCP.
    TlsPairBetweenTcp,
}

impl Road {
    pub(crate) const ALL: [Self; 4] = [Self::Direct, Self::PlainPair, Self::TlsPair, Self::TlsPairBetweenTcp];
}

/// A sink and the relays before it.
#[derive(Debug)]
pub(crate) struct Rig {
    /// The last one, which dials the sink, first.
    pub(crate) nodes: Vec<Node>,
    pub(crate) sink: Sink,
    _scratch: Scratch,
}

impl Rig {
    pub(crate) fn new(road: Road) -> Self {
        Self::with(road, &Settings::default())
    }

    pub(crate) fn with(road: Road, settings: &Settings) -> Self {
        let scratch = Scratch::new();
        let (sink, sink_at) = match road {
            Road::Direct | Road::TlsPairBetweenTcp => Sink::tcp(),
            Road::PlainPair | Road::TlsPair => (Sink::unix(&scratch.path("sink")), scratch.unix("sink")),
        };
        let tls = Authority::new("ca").tls();
        let settings = Settings { tls: Some(tls), ..settings.clone() };
        let entry = scratch.unix("entry");
        let (middle, entry) = match road {
            Road::Direct => (None, "tcp:127.0.0.1:0"),
            Road::PlainPair => (Some("tcp:127.0.0.1:0"), entry.as_str()),
            Road::TlsPair => (Some("tls:127.0.0.1:0"), entry.as_str()),
            Road::TlsPairBetweenTcp => (Some("tls:127.0.0.1:0"), "tcp:127.0.0.1:0"),
        };
        let mut nodes = Vec::new();
        if let Some(middle) = middle {
            let last = Node::start(middle, &sink_at, &settings);
            let first = Node::start(entry, &last.at.to_string(), &settings);
            nodes.extend([last, first]);
        } else {
            nodes.push(Node::start(entry, &sink_at, &settings));
        }
        Self { nodes, sink, _scratch: scratch }
    }

    /// Where to connect.
    pub(crate) fn entry(&self) -> &Endpoint {
        &self.nodes.last().expect("one at least").at
    }

    /// A connection through all of it: its two ends.
    pub(crate) fn connect(&self) -> (Socket, Socket) {
        let client = dial(self.entry());
        (client, self.sink.accept())
    }

    /// Drains every node, from the entry on, and demands that nothing was cut.
    pub(crate) fn drain(mut self) {
        for node in self.nodes.iter_mut().rev() {
            node.send(Command::Drain);
            let served = node.join();
            assert_eq!((served.cut_by_deadline, served.aborted), (0, 0));
        }
    }
}

/// Bytes that are at their place nowhere else: xorshift64*, by its seed.
#[derive(Clone, Debug)]
pub(crate) struct Pattern(u64);

impl Pattern {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(1))
    }

    fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let word = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// Bytes written or compared at once.
const CHUNK: usize = 64 << 10;

/// Sends `len` bytes of a pattern.
pub(crate) fn send(mut to: &Socket, seed: u64, len: usize) -> io::Result<()> {
    let (mut pattern, mut buffer, mut left) = (Pattern::new(seed), vec![0; CHUNK], len);
    while left > 0 {
        pattern.fill(&mut buffer);
        let count = left.min(CHUNK);
        to.write_all(&buffer[..count])?;
        left -= count;
    }
    Ok(())
}

/// Receives until the end of file or an error; demands that what came is a prefix of the pattern.
pub(crate) fn receive(mut from: &Socket, seed: u64) -> (usize, io::Result<()>) {
    let (mut pattern, mut expected, mut buffer) = (Pattern::new(seed), vec![0; CHUNK], vec![0; CHUNK]);
    let mut total = 0;
    loop {
        pattern.fill(&mut expected);
        let mut at = 0;
        while at < CHUNK {
            match from.read(&mut buffer[at..]) {
                Ok(0) => return (total, Ok(())),
                Ok(count) => {
                    assert!(
                        buffer[at..at + count] == expected[at..at + count],
                        "wrong bytes at {total} or after"
                    );
                    at += count;
                    total += count;
                }
                Err(error) => return (total, Err(error)),
            }
        }
    }
}

/// Receives exactly `len` bytes of the pattern and then the end of file.
pub(crate) fn receive_all(from: &Socket, seed: u64, len: usize) {
    let (count, result) = receive(from, seed);
    result.expect("an orderly end");
    assert_eq!(count, len, "truncated, or too much");
}

/// Sends `len` bytes of a pattern and the end of file.
pub(crate) fn send_all(to: &Socket, seed: u64, len: usize) {
    send(to, seed, len).expect("taken");
    to.shutdown(Shutdown::Write).expect("shut down");
}

/// Receives exactly `message`.
pub(crate) fn expect(mut from: &Socket, message: &[u8]) {
    let mut got = vec![0; message.len()];
    from.read_exact(&mut got).expect("a message");
    assert_eq!(got, message);
}
