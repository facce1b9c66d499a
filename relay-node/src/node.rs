//! `node`: the daemon. A manager thread with the control API, and the loops beside it.

mod answers;
mod bounds;
pub(crate) mod clients;
mod feed;
pub(crate) mod http;
mod inbox;
mod limits;
mod manager;
mod network;
pub(crate) mod pods;
mod printer;
mod state;
mod takeover;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use relay_core::Instant;
use relay_migration::api::{ApiError, Call};
use relay_migration::reconcile::{self, Reconciler};
use relay_migration::registry::{Config, Registry, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::bandwidth::Rates;
use crate::cli::Node;
use crate::control::{self, Beat, Command, Commands};
use crate::crowd::Crowded;
use crate::herald::Herald;
use crate::inherited::Inherited;
use crate::listen::{ListenOptions, Rights, listen, take_over};
use crate::logging::say;
use crate::metrics::{Metrics, Scrapes};
use crate::observer::{LogObserver, Observer, SessionEnded};
use crate::opening::{Failed, begin_metrics, begin_metrics_after};
use crate::sandbox::Sandbox;
use crate::server::{Runtime, Served, Server};
use crate::sessions::{RouteId, SessionTable};
use crate::site::Site;
use crate::tls::Tls;
use crate::{descriptors, interface, service};

use bounds::Bounds;
use clients::Clients;
use feed::{Fed, Feed};
use inbox::{Inbox, Post};
use manager::{Manager, Parts};
use network::Networks;
use printer::Printer;
use state::{By, State};
use takeover::{Estate, Legacy};

/// Migrations at once, both sides counted. Each has up to three listeners, and those are descriptors.
const MIGRATIONS_MAX: usize = 16_384;

/// Objects handled in one turn, before others have theirs.
const OBJECTS: usize = 64;

/// Runs the daemon until it is told to stop. `watch_signals` has what they wish for put on the
/// controller given.
///
/// # Errors
/// Why it can't begin, or its loops failed.
pub(crate) fn run(
    runtime: &impl Runtime,
    program: &'static str,
    asked: &Node,
    sandbox: &Sandbox,
    tls: Option<&Arc<Tls>>,
    mut inherited: Inherited,
    watch_signals: impl FnOnce(control::Controller) -> Result<(), Failed>,
) -> Result<Served, Failed> {
    let pair = || control::channel().map_err(|e| Failed::at("could not make a socket pair", e));
    let ((to_loops, commands), (wishes, wished)) = (pair()?, pair()?);
    let (post, inbox) = inbox::inbox().map_err(|e| Failed::at("could not make a socket pair", e))?;
    let started = post.clone();
    let herald = Herald::new(&to_loops, move || started.tell(|news| news.started = true));
    watch_signals(wishes)?;
    if let Some(tls) = tls {
        tls.enforce(to_loops.clone()).map_err(|e| Failed::at("could not start a thread", e))?;
    }
    let mut legacy = asked.takeover.as_ref().map(Legacy::ask_for).transpose()?;
    let sessions = SessionTable::new();
    sessions.bandwidth().set(rates(asked, legacy.as_ref()));
    let metrics = Arc::new(Metrics::new(program, Arc::clone(&sessions), tls.cloned()).with_daemon());
    let scrapes = match legacy {
        Some(_) => begin_metrics_after(asked.metrics.as_ref(), &metrics)?,
        None => begin_metrics(asked.metrics.as_ref(), &metrics, &mut inherited)?,
    };
    let at = &asked.control;
    let options = ListenOptions { rights: control_rights(asked), ..ListenOptions::default() };
    let listener = match legacy.as_mut().and_then(|legacy| legacy.take_control(at)) {
        Some(handed) => take_over(handed, at),
        None => listen(at, &options, &mut inherited),
    };
    let listener = listener.map_err(|e| Failed::at(format_args!("cannot listen on {at}"), e))?;
    inherited.tell_left();
    let local = listener.local().clone();

    let networks = Networks::new(asked.bind.clone(), asked.advertise, sessions.clock().now());
    interface::warn_if_link_local(networks.network().advertise);
    let site = Site {
        zone: networks.zone(),
        holder: asked.holder,
        mode: asked.rights.mode,
        origin: networks.origin(),
        handed: legacy.as_ref().map(|legacy| legacy.handed.clone()).unwrap_or_default(),
        ..Site::new(tls, asked.serving)
    };
    let config = Config {
        range: asked.range,
        max: MIGRATIONS_MAX,
        has_successor: asked.state_dir.is_some(),
        ..Config::new(networks.network())
    };
    let (state, restored) = load_state(asked, legacy.as_mut())?;
    let (reconciler, feed, printer) = objects(asked, &post)?;
    let manager = Manager::new(Parts {
        bounds: Bounds::new(asked.socket_dirs.clone()),
        registry: Registry::new(config),
        reconciler,
        site,
        networks,
        pods: asked.pods.clone(),
        printer: printer.clone(),
        state,
        controller: to_loops,
        sessions: Arc::clone(&sessions),
        metrics: Arc::clone(&metrics),
        drain_timeout: asked.serving.timeouts.drain,
        retire_timeout: asked.retire,
    });
    let clients = Clients::new(listener, asked.allowed.clone());
    let desk = Desk { manager, clients, feed, inbox, post: post.clone(), wished, metrics, scrapes, legacy };
    let managing = thread::Builder::new()
        .name("manager".to_owned())
        .spawn(move || desk.work(restored))
        .map_err(|e| Failed::at("could not start the manager's thread", e))?;
    sandbox.tell();
    let listening = asked.takeover.is_none().then(|| format!("listening {local}"));
    herald.announce(listening.into_iter().collect());
    let server = Server {
        limits: descriptors::limits(asked.serving.max_sessions),
        routes: Vec::new(),
        sessions,
        threads: asked.serving.threads,
        // The manager waits as long as may be waited; what is left then is cut.
        drain_timeout: Some(std::time::Duration::ZERO),
        observer: Arc::new(NodeObserver { post: post.clone() }),
        commands,
    };
    let served = runtime.serve(server).map_err(|e| Failed(e.to_string()));
    post.tell(|news| news.over = true);
    // If it panicked, that was told already.
    let is_aborted = managing.join().unwrap_or(true);
    if let Some(printer) = printer {
        printer.finish();
    }
    // Sessions that were ended one by one, by request, are no failure of ours.
    served.map(|served| Served { aborted: if is_aborted { served.aborted } else { 0 }, ..served })
}

/// With others allowed everybody may connect, to be judged by who they are.
fn control_rights(asked: &Node) -> Rights {
    let mode = if asked.allowed.is_empty() { 0o600 } else { 0o666 };
    Rights { mode, owner: None }
}

/// What the command line says, and otherwise what is in force with the predecessor.
fn rates(asked: &Node, legacy: Option<&Legacy>) -> Rates {
    let former = legacy.map(|legacy| legacy.rates.clone()).unwrap_or_default();
    Rates {
        process: asked.serving.bandwidth.or(former.process),
        per_key: asked.bandwidth_per_key.or(former.per_key),
        keys: former.keys,
    }
}

/// The state, and what is to be restored.
type Restored = (Option<State>, Vec<(By, Request)>);

/// What is to be restored is a running predecessor's if there is one, and else of the state of a former one.
fn load_state(asked: &Node, legacy: Option<&mut Legacy>) -> Result<Restored, Failed> {
    let mut legacy = legacy;
    let handed = legacy.as_mut().map(|legacy| std::mem::take(&mut legacy.requests));
    let Some(directory) = &asked.state_dir else { return Ok((None, handed.unwrap_or_default())) };
    let what = format!("the state directory {}", directory.display());
    let lock = legacy.and_then(|legacy| legacy.take_lock(directory));
    let (state, restored) = State::load(directory, lock).map_err(|e| Failed::at(what, e))?;
    let restored = restored.into_iter().map(|request| (By::Api, request)).collect();
    Ok((Some(state), handed.unwrap_or(restored)))
}

type Objects = (Option<Reconciler>, Option<Feed>, Option<Printer>);

fn objects(asked: &Node, post: &Post) -> Result<Objects, Failed> {
    let Some(vmis) = &asked.vmis else { return Ok((None, None, None)) };
    let config = reconcile::Config { rules: vmis.rules, node: vmis.node.clone(), owner: asked.rights.owner };
    let no_thread = |e: io::Error| Failed::at("could not start a thread", e);
    let feed = Feed::start(io::stdin(), post.clone()).map_err(no_thread)?;
    let printer = Printer::start(io::stdout()).map_err(no_thread)?;
    Ok((Some(Reconciler::new(config)), Some(feed), Some(printer)))
}

/// Tells the manager and the log.
struct NodeObserver {
    post: Post,
}

impl fmt::Debug for NodeObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeObserver").finish_non_exhaustive()
    }
}

impl Observer for NodeObserver {
    fn session_ended(&self, ended: &SessionEnded<'_>) {
        LogObserver.session_ended(ended);
        self.post.tell(|news| news.sessions = true);
    }

    fn accept_paused(&self, listen: &crate::endpoint::Endpoint, why: &io::Error) {
        LogObserver.accept_paused(listen, why);
    }

    fn accept_resumed(&self, listen: &crate::endpoint::Endpoint) {
        LogObserver.accept_resumed(listen);
    }

    fn crowded(&self, crowded: &Crowded) {
        LogObserver.crowded(crowded);
    }

    fn order_broken(&self, listen: &crate::endpoint::Endpoint, window: Duration) {
        LogObserver.order_broken(listen, window);
    }

    fn listener_closed(&self, id: RouteId) {
        self.post.tell(|news| news.closed.push(id));
    }
}

/// What the manager's thread waits for, and in which order it looks at it.
struct Desk {
    manager: Manager,
    clients: Clients,
    feed: Option<Feed>,
    inbox: Inbox,
    post: Post,
    wished: Commands,
    metrics: Arc<Metrics>,
    /// Until a successor gives them.
    scrapes: Option<Scrapes>,
    /// Until all of it is ours.
    legacy: Option<Legacy>,
}

impl Desk {
    /// Until the loops are through; whether that was because everything was to end at once.
    fn work(mut self, restored: Vec<(By, Request)>) -> bool {
        self.manager.restore(restored);
        // A predecessor that still runs waits for all of it; one that does not has left us time.
        let (mut is_ready, mut is_started) = (self.legacy.is_some(), false);
        if self.legacy.is_some() {
            while self.manager.is_restoring() {
                self.manager.restore_some();
            }
            let post = self.post.clone();
            self.manager.beat(Beat::new(move || post.tell(|news| news.running = true)));
        }
        loop {
            self.manager.restore_some();
            let is_new =
                !is_ready && is_started && !self.manager.is_restoring() && !self.manager.is_draining();
            if is_new {
                is_ready = true;
                service::ready();
            }
            let more = self.manager.is_restoring() || self.objects();
            let now = self.manager.now();
            self.manager.handle_timeout();
            self.clients.handle_timeout(now);
            // Before the answers: who has one may look for it.
            self.manager.note_migrations();
            self.answer();
            let ready = match self.wait(more) {
                Ok(ready) => ready,
                Err(error) => {
                    // Nothing that could be done about it; and without pause it would only be faster.
                    log::error!(error:%; "the manager can't wait");
                    thread::sleep(std::time::Duration::from_secs(1));
                    continue;
                }
            };
            let news = self.inbox.take();
            if news.over {
                return self.manager.is_aborted();
            }
            is_started |= news.started;
            if news.running {
                self.take_over();
            }
            if let Some(handed) = news.handed {
                self.handed(handed);
            }
            for route in news.closed {
                self.manager.closed(route);
            }
            if news.sessions {
                self.manager.sessions_changed();
            }
            while let Some(wish) = self.wished.next() {
                match wish {
                    Command::Drain => self.manager.drain(),
                    Command::Abort => self.manager.abort(),
                    Command::Beat(beat) => self.manager.beat(beat),
                    Command::Open { .. }
                    | Command::Close { .. }
                    | Command::End(_)
                    | Command::Relimit
                    | Command::Review => {}
                }
            }
            if ready.network {
                self.manager.hear_network();
            }
            self.serve(&ready);
        }
    }

    fn serve(&mut self, ready: &Ready) {
        let now = self.manager.now();
        if ready.accept {
            self.clients.accept(now, &self.metrics.control);
        }
        for (id, flags) in &ready.clients {
            if flags.contains(PollFlags::OUT) {
                self.clients.write(*id, now);
            }
            if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
                && let Some(call) = self.clients.read(*id, now, &self.metrics.control)
            {
                self.call(*id, call);
            }
        }
    }

    fn call(&mut self, id: manager::ClientId, call: Call) {
        let Call::TakeOver = call else { return self.manager.call(id, call) };
        let offered = match self.clients.listener() {
            Some(listener) => self.manager.offer(listener),
            None => Err(ApiError::unavailable("another process has taken over")),
        };
        match offered {
            Ok(estate) => self.hand_over(id, estate),
            Err(refused) => self.manager.refuse(id, &refused),
        }
    }

    /// Everything is ours: what a predecessor still has of it, it may close.
    fn take_over(&mut self) {
        let Some(legacy) = self.legacy.take() else { return };
        legacy.confirm();
        if let Some(listener) = self.clients.listener() {
            say(&format!("listening {}", listener.local()));
        }
        service::ready();
    }

    fn hand_over(&mut self, id: manager::ClientId, estate: Estate) {
        let Some((socket, process)) = self.clients.detach(id) else { return self.manager.keep() };
        log::info!(process; "another process asks to take over");
        let post = self.post.clone();
        let passing = move || {
            let handed = estate.pass_on(socket);
            if handed.is_ok() {
                service::succeeded_by(process);
            }
            post.tell(|news| news.handed = Some(handed));
        };
        if let Err(error) = thread::Builder::new().name("takeover".to_owned()).spawn(passing) {
            log::error!(error:%; "could not start a thread");
            self.manager.keep();
        }
    }

    fn handed(&mut self, handed: Result<bool, String>) {
        match handed {
            Ok(has_control) => {
                if has_control && let Some(listener) = self.clients.listener() {
                    listener.hand().leave();
                }
                self.clients.close();
                self.feed = None;
                self.scrapes = None;
                self.manager.let_go();
            }
            Err(why) => {
                log::warn!(why = why.as_str(); "the other process has not taken over; all goes on as before");
                self.manager.keep();
            }
        }
    }

    /// Passes answers on. A client may have sent its next call already.
    fn answer(&mut self) {
        loop {
            let answers = self.manager.take_answers();
            if answers.is_empty() {
                return;
            }
            let now = self.manager.now();
            for (id, answer) in answers {
                if let Some(call) = self.clients.answer(id, &answer, now, &self.metrics.control) {
                    self.call(id, call);
                }
            }
        }
    }

    /// Takes objects; whether there are more already.
    fn objects(&mut self) -> bool {
        // Nothing may change meanwhile.
        let Some(feed) = self.feed.as_mut().filter(|_| !self.manager.is_offered()) else { return false };
        for _ in 0..OBJECTS {
            match feed.next() {
                Some(Fed::Seen(seen)) => self.manager.observe(seen),
                Some(Fed::Ignored(why)) => self.manager.ignored(&why),
                Some(Fed::Over(how)) => {
                    let error = how.err();
                    log::warn!(error = error.as_deref().unwrap_or("end of file"); "no more objects come from standard input; what listens goes on, and so does the control API");
                    self.feed = None;
                    return false;
                }
                None => return false,
            }
        }
        true
    }

    fn wait(&self, more: bool) -> io::Result<Ready> {
        let now = self.manager.now();
        let next = [self.manager.next_timeout(), self.clients.next_timeout()].into_iter().flatten().min();
        let timeout = if more { Some(std::time::Duration::ZERO) } else { next.map(|next| until(next, now)) };
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let network = self.manager.networks().told();
        let interests = self.clients.interests();
        let mut fds = vec![PollFd::new(&self.inbox, PollFlags::IN), PollFd::new(&self.wished, PollFlags::IN)];
        fds.extend(network.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let first_client = fds.len();
        fds.extend(interests.iter().map(|(_, fd, flags)| PollFd::new(fd, *flags)));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready =
            Ready { network: network.is_some() && !fds[2].revents().is_empty(), ..Ready::default() };
        for ((id, ..), fd) in interests.iter().zip(&fds[first_client..]) {
            match id {
                _ if fd.revents().is_empty() => {}
                Some(id) => ready.clients.push((*id, fd.revents())),
                None => ready.accept = true,
            }
        }
        Ok(ready)
    }
}

/// What can be done now.
#[derive(Default)]
struct Ready {
    accept: bool,
    network: bool,
    clients: Vec<(manager::ClientId, PollFlags)>,
}

/// From now on, and a little more: poll(2) counts in milliseconds on some kernels.
fn until(next: Instant, now: Instant) -> std::time::Duration {
    next.since(now) + std::time::Duration::from_micros(100)
}
