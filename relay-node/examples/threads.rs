//! A node program with the simplest loop there is: a thread for each session, poll(2) in each.
//!
//! Made to be read, and to test what is around a loop; `relay-mio` is the one to run. It keeps no
//! order among backends, has no limits and does not linger.

use std::collections::HashSet;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use relay_core::admission::Dialer;
use relay_core::{
    Close, Failure, Instant, Leg, PerLeg, Pool, Pumped, Ready, Relay, Stop, Transport, TryError, pump,
};
use relay_node::control::{Command, Sessions};
use relay_node::failure::failure;
use relay_node::sessions::{Seat, SessionView};
use relay_node::socket::{Dialing, finish_connect, reset_on_close, start_connect};
use relay_node::{
    LegCodec, Plan, Route, RouteId, Runtime, ServeError, Served, Server, SessionEnded, SessionId,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::Socket;

fn main() -> ExitCode {
    relay_node::main(&Threads, "relay-threads")
}

/// How long a thread may be deaf to a stop.
const TICK: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Debug)]
struct Threads;

/// What the threads of one node share.
struct Shared<'a> {
    server: &'a Server,
    stop: Mutex<Option<Stop>>,
    /// Sessions that the operator wants to end, until they have.
    ending: Mutex<HashSet<SessionId>>,
    open: AtomicUsize,
    served: Mutex<Served>,
}

impl Runtime for Threads {
    fn serve(&self, mut server: Server) -> Result<Served, ServeError> {
        let mut routes = std::mem::take(&mut server.routes);
        routes.iter().for_each(|(_, route)| server.sessions.opened(&route.plan));
        let shared = Shared {
            server: &server,
            stop: Mutex::new(None),
            ending: Mutex::default(),
            open: AtomicUsize::new(0),
            served: Mutex::default(),
        };
        thread::scope(|scope| {
            while shared.stop().is_none() {
                let mut fds: Vec<_> = routes.iter().map(|(_, route)| in_poll(&route.listener)).collect();
                fds.push(in_poll(&server.commands));
                wait(&mut fds, None).map_err(|e| ServeError::new("wait for connections", e))?;
                shared.obey(&mut routes);
                for (id, route) in &routes {
                    // A real loop tells EMFILE from EAGAIN here; see `failure::is_exhausted`.
                    while let Ok((front, peer)) = route.listener.accept() {
                        shared.open.fetch_add(1, Ordering::SeqCst);
                        let (plan, shared) = (route.plan.present(), &shared);
                        let seat = server.sessions.enter(*id, plan, peer, shared.now());
                        scope.spawn(move || run(shared, &seat, front));
                    }
                }
            }
            shared.close(&mut routes, |_| true);
            while shared.open.load(Ordering::SeqCst) > 0 {
                let _ = wait(&mut [in_poll(&server.commands)], Some(TICK));
                shared.obey(&mut routes);
            }
            Ok(())
        })?;
        let served = *lock(&shared.served);
        Ok(served)
    }
}

impl Shared<'_> {
    fn now(&self) -> Instant {
        self.server.sessions.clock().now()
    }

    fn stop(&self) -> Option<Stop> {
        *lock(&self.stop)
    }

    /// Does what the operator asks for, if anything.
    fn obey(&self, routes: &mut Vec<(RouteId, Route)>) {
        while let Some(command) = self.server.commands.next() {
            let stop = match command {
                Command::Drain => Stop::Drain { until: self.server.drain_deadline(self.now()) },
                Command::Abort => Stop::Abort,
                // A thread for each session would sleep until its turn; this example leaves that out.
                Command::Relimit | Command::Review => continue,
                Command::Beat(beat) => {
                    beat.passed_on();
                    continue;
                }
                Command::Open { id, route } => {
                    if self.stop().is_none() {
                        self.server.sessions.opened(&route.plan);
                        routes.push((id, route));
                    } else {
                        drop(route);
                        self.server.observer.listener_closed(id);
                    }
                    continue;
                }
                Command::Close { id, sessions } => {
                    self.close(routes, |route| route == id);
                    if sessions == Sessions::Abort {
                        self.end(|session| session.route == id);
                    }
                    continue;
                }
                Command::End(id) => {
                    self.end(|session| session.id == id);
                    continue;
                }
            };
            *lock(&self.stop) = Some(stop);
            self.server.sessions.stopping();
        }
    }

    fn close(&self, routes: &mut Vec<(RouteId, Route)>, which: impl Fn(RouteId) -> bool) {
        for (id, route) in routes.extract_if(.., |(id, _)| which(*id)) {
            drop(route);
            self.server.sessions.closed();
            self.server.observer.listener_closed(id);
        }
    }

    fn end(&self, which: impl Fn(&SessionView) -> bool) {
        let sessions = self.server.sessions.snapshot();
        lock(&self.ending).extend(sessions.iter().filter(|session| which(session)).map(|session| session.id));
    }

    fn is_ending(&self, session: SessionId) -> bool {
        lock(&self.ending).contains(&session)
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

fn in_poll(fd: &impl AsFd) -> PollFd<'_> {
    PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)
}

fn wait(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match poll(fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// One session, from accept to end.
fn run(shared: &Shared<'_>, seat: &Seat, front: Socket) {
    let (plan, since) = (seat.plan(), seat.since());
    let mut relay = Relay::new(*plan.config(), plan.front_codec(), since);
    let mut sockets = Sockets { front, back: None };
    let mut dial =
        Dial { dialer: Dialer::new(plan.backend().addresses(), plan.config().dial_timeout, 0), begun: None };
    let (mut ready, mut pool, mut told) = (PerLeg::both(Ready::BOTH), Pool::new(1 << 20), None);
    loop {
        let now = shared.now();
        if told != shared.stop() {
            told = shared.stop();
            relay.stop(now, told.unwrap_or(Stop::Abort));
            dial.dialer.drain();
        }
        if shared.is_ending(seat.id()) {
            relay.stop(now, Stop::Abort);
        }
        relay.handle_timeout(now);
        if relay.wants_connect() {
            dial.go_on(&mut relay, plan, &mut sockets, now);
        }
        let pumped = pump(&mut relay, &mut sockets, &mut ready, &mut pool, now, 1 << 20);
        seat.meter().update(&relay);
        match pumped {
            Pumped::Again => {}
            Pumped::Done => break,
            Pumped::Idle => ready = sockets.wait(&dial, ready, until(&relay, &dial, now)),
        }
    }
    let Some(outcome) = relay.outcome() else { return };
    if outcome.close.front == Close::Reset {
        let _ = reset_on_close(&sockets.front);
    }
    if let (Close::Reset, Some(back)) = (outcome.close.back, &sockets.back) {
        let _ = reset_on_close(back);
    }
    shared.server.observer.session_ended(&SessionEnded {
        id: seat.id(),
        plan,
        peer: seat.peer(),
        outcome,
        front: relay.codec(Leg::Front),
        back: relay.codec(Leg::Back),
        dial_failure: dial.dialer.last_failure(),
        // Its sockets do not look.
        began_with_tls: false,
        lifetime: shared.now().since(since),
    });
    lock(&shared.served).count(outcome);
    drop(sockets);
    lock(&shared.ending).remove(&seat.id());
    shared.open.fetch_sub(1, Ordering::SeqCst);
}

/// How long this session may sleep.
fn until(relay: &Relay<LegCodec>, dial: &Dial, now: Instant) -> Duration {
    let session = relay.next_timeout().map(|(at, _)| at);
    let next = [session, dial.dialer.next_timeout()].into_iter().flatten().min();
    next.map_or(TICK, |at| at.since(now).min(TICK))
}

struct Dial {
    dialer: Dialer,
    begun: Option<Socket>,
}

impl Dial {
    fn go_on(&mut self, relay: &mut Relay<LegCodec>, plan: &Plan, sockets: &mut Sockets, now: Instant) {
        self.dialer.handle_timeout(now);
        if self.dialer.trying().is_none() {
            self.begun = None;
        }
        if let Some(why) = self.dialer.given_up() {
            return relay.setup_failed(now, Leg::Back, why);
        }
        let result = if let Some(socket) = self.begun.take() {
            finish_connect(&socket)
                .map(|done| if done { Dialing::Connected(socket) } else { Dialing::InProgress(socket) })
        } else if let Some(index) = self.dialer.wants_dial() {
            let result = plan.backend().target(index).and_then(|target| start_connect(&target));
            if matches!(result, Ok(Dialing::InProgress(_))) {
                self.dialer.started(now);
            }
            result
        } else {
            return;
        };
        match result {
            Ok(Dialing::InProgress(socket)) => self.begun = Some(socket),
            Ok(Dialing::Connected(socket)) => {
                sockets.back = Some(socket);
                match plan.back_codec() {
                    Ok(codec) => relay.connected(now, codec),
                    Err(_) => relay.setup_failed(now, Leg::Back, Failure::Exhausted),
                }
            }
            Err(why) => {
                plan.backend().refresh();
                self.dialer.failed(now, why);
                if let Some(why) = self.dialer.given_up() {
                    relay.setup_failed(now, Leg::Back, why);
                }
            }
        }
    }
}

struct Sockets {
    front: Socket,
    back: Option<Socket>,
}

impl Sockets {
    /// Waits for what the pump found blocked.
    fn wait(&self, dial: &Dial, before: PerLeg<Ready>, timeout: Duration) -> PerLeg<Ready> {
        let wanted = |ready: Ready| {
            let read = if ready.readable { PollFlags::empty() } else { PollFlags::IN };
            read | if ready.writable { PollFlags::empty() } else { PollFlags::OUT }
        };
        let begun = dial.begun.as_ref().map(|socket| (socket, PollFlags::OUT));
        let back = self.back.as_ref().map(|back| (back, wanted(before.back))).or(begun);
        let asked = PerLeg::new(Some((&self.front, wanted(before.front))), back);
        // Of whom nothing is wanted poll(2) would say again and again that he hung up.
        let legs =
            Leg::BOTH.into_iter().filter(|leg| asked[*leg].is_some_and(|(_, wanted)| !wanted.is_empty()));
        let legs: Vec<_> = legs.collect();
        let fds = legs.iter().filter_map(|leg| asked[*leg]);
        let mut fds: Vec<_> = fds.map(|(fd, wanted)| PollFd::from_borrowed_fd(fd.as_fd(), wanted)).collect();
        let _ = wait(&mut fds, Some(timeout));
        let mut ready =
            PerLeg::new(before.front, if self.back.is_some() { before.back } else { Ready::BOTH });
        for (leg, fd) in legs.into_iter().zip(&fds) {
            let over = fd.revents().intersects(PollFlags::HUP | PollFlags::ERR);
            ready[leg].readable |= over || fd.revents().contains(PollFlags::IN);
            ready[leg].writable |= over || fd.revents().contains(PollFlags::OUT);
        }
        ready
    }

    fn leg(&self, leg: Leg) -> Result<&Socket, TryError> {
        match leg {
            Leg::Front => Ok(&self.front),
            Leg::Back => self.back.as_ref().ok_or(TryError::WouldBlock),
        }
    }
}

fn refused(error: &io::Error) -> TryError {
    if error.kind() == io::ErrorKind::WouldBlock {
        TryError::WouldBlock
    } else if error.kind() == io::ErrorKind::Interrupted {
        TryError::Interrupted
    } else {
        TryError::Failed(failure(error))
    }
}

impl Transport for Sockets {
    fn try_read(&mut self, leg: Leg, slices: &mut [&mut [u8]]) -> Result<usize, TryError> {
        let mut slices: Vec<_> = slices.iter_mut().map(|slice| IoSliceMut::new(slice)).collect();
        io::Read::read_vectored(&mut self.leg(leg)?, &mut slices).map_err(|e| refused(&e))
    }

    fn try_write(&mut self, leg: Leg, slices: &[&[u8]]) -> Result<usize, TryError> {
        let slices: Vec<_> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        self.leg(leg)?.send_vectored(&slices).map_err(|e| refused(&e))
    }

    fn shut_write(&mut self, leg: Leg) -> Result<(), TryError> {
        self.leg(leg)?.shutdown(std::net::Shutdown::Write).map_err(|e| refused(&e))
    }
}
