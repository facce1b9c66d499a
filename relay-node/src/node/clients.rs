//! The sockets of the control API: who may connect, how long they may take, how many there may be.
//!
//! Nobody is waited for: each client has a deadline for its request and for taking the answer, and when
//! there are too many, the one that has been quiet for longest makes way.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use relay_core::Instant;
use relay_migration::api::{self, ApiError, Call};
use rustix::event::PollFlags;
use socket2::Socket;

use super::http::{Answer, Asked, Connection, error};
use super::manager::ClientId;
use crate::cli::Allowed;
use crate::failure::is_exhausted;
use crate::listen::Listener;
use crate::metrics::Calls;

/// Clients at once.
const CLIENTS_MAX: usize = 64;

/// For a request, from its first byte to its last.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// Without a request.
const IDLE_TIME: Duration = Duration::from_secs(60);

/// For taking an answer.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// For taking a refusal, while what comes is thrown away: bytes that nobody has read when a socket is closed
/// take the answer along (unix(7): ECONNRESET).
const REFUSED_TIME: Duration = Duration::from_secs(2);

/// What is thrown away at most.
const DISCARDED_MAX: usize = 1 << 20;

/// Without accepting, for want of descriptors.
const PAUSE: Duration = Duration::from_millis(500);

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Clients {
    /// Until a successor has taken over.
    listener: Option<Listener>,
    /// Who is let in; `None` for anybody.
    door: Option<Door>,
    parse: Parse,
    clients: BTreeMap<ClientId, Client>,
    next_id: u64,
    paused: Option<Instant>,
}

/// Makes a call of method, path and body.
type Parse = fn(&str, &str, &[u8]) -> Result<Call, ApiError>;

/// Who is let in besides root.
#[derive(Debug)]
struct Door {
    allowed: Vec<Allowed>,
    own: u32,
}

struct Client {
    socket: Socket,
    connection: Connection,
    parse: Parse,
    /// As far as it matters.
    who: Option<Who>,
    /// When it has taken too long, at whatever it does.
    deadline: Instant,
    asked: Option<(String, Instant)>,
    /// It was refused, and this much may still be thrown away.
    discarding: Option<usize>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("who", &self.who).field("asked", &self.asked).finish_non_exhaustive()
    }
}

/// By what the kernel knows of them (unix(7), SO_PEERCRED).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Who {
    pid: i32,
    uid: u32,
    gid: u32,
}

impl Who {
    fn of(socket: &Socket) -> Option<Self> {
        let found = rustix::net::sockopt::socket_peercred(socket).ok()?;
        let pid = found.pid.as_raw_nonzero().get();
        Some(Self { pid, uid: found.uid.as_raw(), gid: found.gid.as_raw() })
    }
}

impl Door {
    fn admits(&self, who: Who) -> bool {
        who.uid == 0
            || who.uid == self.own
            || self.allowed.iter().any(|allowed| match allowed {
                Allowed::Uid(uid) => *uid == who.uid,
                Allowed::Gid(gid) => *gid == who.gid,
            })
    }
}

impl Clients {
    /// Of the control API: those who are allowed, by the kernel's word.
    pub(crate) fn new(listener: Listener, allowed: Vec<Allowed>) -> Self {
        let door = Door { allowed, own: rustix::process::geteuid().as_raw() };
        Self { door: Some(door), ..Self::of_anybody(listener, api::parse) }
    }

    /// Whoever comes, from wherever; what they do is no news.
    pub(crate) fn of_anybody(listener: Listener, parse: Parse) -> Self {
        Self {
            listener: Some(listener),
            door: None,
            parse,
            clients: BTreeMap::new(),
            next_id: 0,
            paused: None,
        }
    }

    /// What to wait on, and for what; `None` is the listener.
    pub(crate) fn interests(&self) -> Vec<(Option<ClientId>, BorrowedFd<'_>, PollFlags)> {
        let listener = self.listener.as_ref().filter(|_| self.paused.is_none());
        let listener = listener.map(|listener| (None, listener.as_fd(), PollFlags::IN));
        let mut interests: Vec<_> = listener.into_iter().collect();
        for (id, client) in &self.clients {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, client.connection.wants_read() || client.discarding.is_some());
            flags.set(PollFlags::OUT, !client.connection.outgoing().is_empty());
            // one that leaves while it is being answered is told by HUP, which nobody has to ask for
            interests.push((Some(*id), client.socket.as_fd(), flags));
        }
        interests
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.clients.values().map(|client| client.deadline).chain(self.paused).min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.paused.is_some_and(|until| now >= until) {
            self.paused = None;
        }
        let late: Vec<_> =
            self.clients.iter().filter(|(_, client)| now >= client.deadline).map(|(id, _)| *id).collect();
        for id in late {
            let Some(mut client) = self.clients.remove(&id) else { continue };
            if client.discarding.is_none() && client.connection.is_within() && !client.connection.is_asked() {
                let seconds = REQUEST_TIME.as_secs();
                let late = error(408, format!("the request was not complete after {seconds} s"));
                if let Some(Who { pid, uid, .. }) = client.who {
                    log::warn!(pid, uid; "control client dropped: {}", late.message);
                }
                client.connection.refuse(&Answer::from(&late));
                let _ = (&client.socket).write(client.connection.outgoing());
            }
        }
    }

    /// Takes those who wait.
    pub(crate) fn accept(&mut self, now: Instant, calls: &Calls) {
        // as many as there may be at once, and then others have their turn
        for _ in 0..CLIENTS_MAX {
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok((socket, _)) => self.enter(socket, now, calls),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if is_exhausted(&e) => {
                    log::warn!(error:% = e; "control clients wait for descriptors");
                    self.paused = Some(now + PAUSE);
                    return;
                }
                Err(_) => {}
            }
        }
    }

    fn enter(&mut self, socket: Socket, now: Instant, calls: &Calls) {
        let mut connection = Connection::new();
        let who = match &self.door {
            Some(_) => match Who::of(&socket) {
                Some(who) => Some(who),
                None => return,
            },
            None => None,
        };
        if let (Some(who), Some(door)) = (who, &self.door)
            && !door.admits(who)
        {
            log::warn!(pid = who.pid, uid = who.uid, gid = who.gid; "control client refused; --control-allow would let it in");
            calls.count(403);
            let refused =
                format!("user {}:{} may not use this; --control-allow would let it", who.uid, who.gid);
            connection.refuse(&Answer::from(&error(403, refused)));
        }
        if self.clients.len() >= CLIENTS_MAX {
            let quiet = self.clients.iter().filter(|(_, client)| !client.connection.is_asked());
            if let Some(id) = quiet.min_by_key(|(_, client)| client.deadline).map(|(id, _)| *id) {
                if self.door.is_some() {
                    log::warn!("too many control clients at once: the quietest makes way");
                }
                self.clients.remove(&id);
            }
        }
        let id = ClientId(self.next_id);
        self.next_id += 1;
        let (parse, deadline) = (self.parse, now + IDLE_TIME);
        let client = Client { socket, connection, parse, who, deadline, asked: None, discarding: None };
        self.clients.insert(id, client);
        self.write(id, now);
    }

    /// A client's connection, which is no client's any more, and its process.
    pub(super) fn detach(&mut self, id: ClientId) -> Option<(Socket, i32)> {
        self.clients.remove(&id).and_then(|client| Some((client.socket, client.who?.pid)))
    }

    /// The socket where they come.
    pub(super) const fn listener(&self) -> Option<&Listener> {
        self.listener.as_ref()
    }

    /// Nobody comes any more; those who are here may stay.
    pub(super) fn close(&mut self) {
        self.listener = None;
    }

    /// Reads a piece; the call, if that completes one.
    pub(crate) fn read(&mut self, id: ClientId, now: Instant, calls: &Calls) -> Option<Call> {
        let client = self.clients.get_mut(&id)?;
        if !client.connection.wants_read() && client.discarding.is_none() {
            // it has left, and nothing can be told it any more
            self.clients.remove(&id);
            return None;
        }
        let mut piece = [0; 16 << 10];
        let length = match (&client.socket).read(&mut piece) {
            Ok(0) => {
                self.clients.remove(&id);
                return None;
            }
            Ok(length) => length,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return None,
            Err(_) => {
                self.clients.remove(&id);
                return None;
            }
        };
        if let Some(left) = &mut client.discarding {
            *left = left.saturating_sub(length);
            if *left == 0 {
                self.clients.remove(&id);
            }
            return None;
        }
        if !client.connection.is_within() {
            client.deadline = now + REQUEST_TIME;
        }
        let call = client.take(&piece[..length], now, calls);
        self.write(id, now);
        call
    }

    /// An answer is there.
    pub(crate) fn answer(
        &mut self,
        id: ClientId,
        answer: &Answer,
        now: Instant,
        calls: &Calls,
    ) -> Option<Call> {
        let client = self.clients.get_mut(&id)?;
        client.answer(answer, now, calls);
        self.write(id, now)
            .then(|| {
                // what it sent behind its request
                let client = self.clients.get_mut(&id)?;
                let call = client.take(&[], now, calls);
                self.write(id, now);
                call
            })
            .flatten()
    }

    /// Sends what there is to be sent; whether all of it is out and the client still there.
    pub(crate) fn write(&mut self, id: ClientId, now: Instant) -> bool {
        let Some(client) = self.clients.get_mut(&id) else { return false };
        while !client.connection.outgoing().is_empty() {
            match (&client.socket).write(client.connection.outgoing()) {
                Ok(count) if count > 0 => client.connection.sent(count),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return false,
                Ok(_) | Err(_) => {
                    self.clients.remove(&id);
                    return false;
                }
            }
        }
        if client.connection.is_over() {
            if client.discarding.is_none() {
                let _ = client.socket.shutdown(Shutdown::Write);
                client.discarding = Some(DISCARDED_MAX);
                client.deadline = now + REFUSED_TIME;
            }
            return false;
        }
        if client.connection.wants_read() && !client.connection.is_within() {
            client.deadline = now + IDLE_TIME;
        }
        true
    }
}

/// What probes and `status --watch` ask for.
const LOOKS: [&str; 6] =
    ["GET /healthz", "GET /readyz", "GET /metrics", "GET /v1/targets", "GET /v1/sources", "GET /v1/sessions"];

impl Client {
    /// Takes bytes; the call, if they complete one that makes sense. What makes none is answered.
    fn take(&mut self, bytes: &[u8], now: Instant, calls: &Calls) -> Option<Call> {
        match self.connection.receive(bytes) {
            Ok(None) => None,
            Ok(Some(Asked { method, path, body })) => {
                self.asked = Some((format!("{method} {path}"), now));
                self.deadline = Instant::from_nanos(u64::MAX);
                match (self.parse)(&method, &path, &body) {
                    Ok(call) => Some(call),
                    Err(refused) => {
                        self.answer(&Answer::from(&refused), now, calls);
                        None
                    }
                }
            }
            Err(refused) => {
                self.refused(&refused);
                calls.count(refused.status);
                self.connection.refuse(&Answer::from(&refused));
                self.deadline = now + ANSWER_TIME;
                None
            }
        }
    }

    fn answer(&mut self, answer: &Answer, now: Instant, calls: &Calls) {
        calls.count(answer.status);
        self.connection.answer(answer);
        self.deadline = now + ANSWER_TIME;
        let Some((asked, since)) = self.asked.take() else { return };
        let milliseconds = now.since(since).as_millis() as u64;
        let Some(Who { pid, uid, .. }) = self.who else { return };
        let (asked, status) = (asked.as_str(), answer.status);
        match &answer.error {
            Some(error) => {
                log::info!(asked, status, milliseconds, pid, uid, error = error.as_str(); "control call refused");
            }
            None => {
                // whoever only looks does so again and again
                let is_look = LOOKS.contains(&asked) && status == 200;
                let level = if is_look { log::Level::Debug } else { log::Level::Info };
                log::log!(level, asked, status, milliseconds, pid, uid; "control call");
            }
        }
    }

    fn refused(&self, refused: &ApiError) {
        let Some(Who { pid, uid, .. }) = self.who else { return };
        log::info!(status = refused.status, pid, uid, error = refused.message.as_str(); "control call refused");
    }
}
