//! May a connection be accepted now, and from which listener.

use core::fmt;

use super::backoff::{Backoff, Range};
use crate::time::Instant;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

/// Pauses after accept(2) failed for want of descriptors or memory.
const EXHAUSTED: Range = Range::millis(10, 1000);

/// A listener, by a number that the runtime chooses (small ones: they index a table).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ListenerId(pub usize);

/// One whose front has not proved who it is yet, in the order of accept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Stranger(u64);

/// Who connects to a listener.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Peers {
    /// Nobody has to prove anything: a unix socket's file mode has decided already.
    Known,
    /// Everybody has to prove who they are first (a handshake).
    Strangers,
}

/// How much is let in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Limits {
    /// Sessions that may be open at once, at least 1. Once reached, accepting resumes at 90 % of it,
    /// so that a full relay does not alternate between one in and one out.
    pub sessions: usize,
    /// Of these, sessions whose front has not proved yet who it is; at least 1. Listeners whose
    /// peers are known go on when this is reached, so it is to be less than `sessions`.
    pub strangers: usize,
    /// Connections taken in one turn of the loop, at least 1: those that are open already must not
    /// wait behind a flood of new ones.
    pub per_turn: usize,
}

impl Limits {
    /// Descriptors kept for everything that is not a session: logs, certificates being reloaded,
    /// control connections, the next listener.
    pub const HEADROOM: usize = 32;

    /// What `descriptors` (RLIMIT_NOFILE) have room for, if so many are taken by other things and a
    /// session takes `each`. With this as an upper bound accept(2) does not fail for want of
    /// descriptors in the first place, and a session let in finds one for its backend, too.
    #[must_use]
    pub const fn sessions_within(descriptors: usize, taken: usize, each: usize) -> usize {
        let free = descriptors.saturating_sub(taken).saturating_sub(Self::HEADROOM);
        match free.checked_div(each) {
            None => free,
            Some(0) => 1,
            Some(sessions) => sessions,
        }
    }

    const fn resume_at(&self) -> usize {
        // 90 %, below the limit for every limit; no overflow whatever the limit
        self.sessions / 10 * 9 + self.sessions % 10 * 9 / 10
    }
}

impl Default for Limits {
    /// 10,000 sessions, 1,000 strangers, 16 per turn.
    fn default() -> Self {
        Self { sessions: 10_000, strangers: 1_000, per_turn: 16 }
    }
}

/// Why nothing is accepted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Shut {
    /// The operator said stop. For good.
    Stopped,
    /// Out of descriptors or memory: until a descriptor is freed, or some time has passed.
    Exhausted,
    /// As many sessions as allowed, and not yet down to 90 % of it again.
    Full,
    /// As many strangers as allowed.
    Strangers,
}

impl fmt::Display for Shut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stopped => "stopped",
            Self::Exhausted => "out-of-descriptors",
            Self::Full => "max-sessions",
            Self::Strangers => "max-unauthenticated",
        })
    }
}

/// Two queues of listeners to which an accept is owed, by their kind.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Owed {
    known: VecDeque<ListenerId>,
    strangers: VecDeque<ListenerId>,
}

impl Owed {
    const fn queue(&self, peers: Peers) -> &VecDeque<ListenerId> {
        match peers {
            Peers::Known => &self.known,
            Peers::Strangers => &self.strangers,
        }
    }

    const fn queue_mut(&mut self, peers: Peers) -> &mut VecDeque<ListenerId> {
        match peers {
            Peers::Known => &mut self.known,
            Peers::Strangers => &mut self.strangers,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Listener {
    peers: Peers,
    /// In one of the queues.
    owed: bool,
}

/// The accepting side of a whole process (or of one loop, if there are several and the limits are
/// divided among them), because sessions and descriptors are the process's, not a listener's.
///
/// An edge-triggered poller says once that a listener is readable. Whatever keeps us from accepting
/// until accept(2) says that nobody is left (budget, limits, EMFILE) must not make us forget it: no
/// second event comes, not even when descriptors are free again. So the gate remembers which
/// listeners are **owed** an accept, and its answer to "which one now" is a pure function of that.
///
/// There is no reserve descriptor to accept and drop connections with while there are none left.
/// One that waits in the kernel's queue is served when a session ends; a migration that is refused
/// has failed. [`Limits::sessions_within`] keeps some free from the beginning instead. Should they run
/// out all the same, whoever is let in must be able to get through: a runtime takes a descriptor for
/// the backend *before* it accepts, and is [`exhausted`](Self::exhausted) if there is none. Otherwise
/// fronts would take them all, and wait for each other's in vain.
///
/// **At the cap on strangers the oldest one makes room** for one who waits: otherwise as many silent
/// connections as the cap allows would keep everybody out until their handshakes time out. Those who
/// have not said anything go first, after [`SILENCE`](Self::SILENCE); if there are none, those who
/// have, after [`PATIENCE`](Self::PATIENCE). So a slow but honest handshake has a fair time, and a
/// flood is let in no faster than the cap in each such time. Whether somebody does wait is known only
/// to accept(2), so a cap that was reached keeps one place free.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Gate {
    limits: Limits,
    listeners: Vec<Option<Listener>>,
    owed: Owed,
    /// Which kind comes first if both could.
    prefer: Peers,
    sessions: usize,
    /// Those who have not said anything yet, and since when they are here.
    silent: BTreeMap<Stranger, Instant>,
    /// Those who have.
    speaking: BTreeMap<Stranger, Instant>,
    next_stranger: u64,
    /// The limit was reached, and 90 % of it was not since.
    full: bool,
    /// Out of descriptors, until then.
    pause: Option<Instant>,
    backoff: Backoff,
    left_this_turn: usize,
    stopped: bool,
}

/// Handlers.
impl Gate {
    /// What a stranger gets who says nothing: a first flight that was lost is sent again within a
    /// second (RFC 6298 section 2).
    pub const SILENCE: Duration = Duration::from_secs(2);
    /// What a stranger gets who has said something: a handshake's two round trips, on a network that
    /// loses some of it.
    pub const PATIENCE: Duration = Duration::from_secs(5);

    /// Open, with no listener.
    ///
    /// # Panics
    /// If a limit is zero.
    #[must_use]
    pub fn new(limits: Limits, seed: u64) -> Self {
        assert!(
            limits.sessions > 0 && limits.strangers > 0 && limits.per_turn > 0,
            "contract: every limit is at least 1"
        );
        Self {
            limits,
            listeners: Vec::new(),
            owed: Owed::default(),
            prefer: Peers::Known,
            sessions: 0,
            silent: BTreeMap::new(),
            speaking: BTreeMap::new(),
            next_stranger: 0,
            full: false,
            pause: None,
            backoff: Backoff::new(seed),
            left_this_turn: limits.per_turn,
            stopped: false,
        }
    }

    /// A listener is there. Nothing is owed to it yet.
    ///
    /// # Panics
    /// If there is one of that number.
    pub fn add(&mut self, listener: ListenerId, peers: Peers) {
        if self.listeners.len() <= listener.0 {
            self.listeners.resize(listener.0 + 1, None);
        }
        assert!(self.listeners[listener.0].is_none(), "contract: a listener's number is its own");
        self.listeners[listener.0] = Some(Listener { peers, owed: false });
    }

    /// A listener is gone. Does nothing if it is not there.
    pub fn remove(&mut self, listener: ListenerId) {
        let Some(slot) = self.listeners.get_mut(listener.0) else { return };
        if let Some(Listener { peers, owed: true }) = slot.take() {
            self.owed.queue_mut(peers).retain(|other| *other != listener);
        }
    }

    /// The poller says that somebody waits. Does nothing if the listener is not there (any more).
    pub fn readable(&mut self, listener: ListenerId) {
        if let Some(Some(known)) = self.listeners.get_mut(listener.0)
            && !known.owed
        {
            known.owed = true;
            let peers = known.peers;
            self.owed.queue_mut(peers).push_back(listener);
        }
    }

    /// A new turn of the loop, with a new budget.
    pub const fn begin_turn(&mut self) {
        self.left_this_turn = self.limits.per_turn;
    }

    /// accept(2) gave a connection: one more session, of a stranger if the listener is for such.
    ///
    /// # Panics
    /// If it was not this listener's turn.
    pub fn accepted(&mut self, now: Instant, listener: ListenerId) -> Option<Stranger> {
        let peers = self.pass_turn(listener);
        self.enter(now, peers)
    }

    /// accept(2) gave a connection of a listener that is about to be closed
    /// ([`may_accept_last`](Self::may_accept_last)): one more session, as with [`accepted`](Self::accepted).
    ///
    /// # Panics
    /// If it might not.
    pub fn accepted_last(&mut self, now: Instant, listener: ListenerId) -> Option<Stranger> {
        assert!(
            self.may_accept_last(listener),
            "contract: also the last ones are accepted within the limits"
        );
        let peers = self.peers(listener).unwrap_or(Peers::Strangers);
        self.enter(now, peers)
    }

    fn enter(&mut self, now: Instant, peers: Peers) -> Option<Stranger> {
        self.sessions += 1;
        self.full |= self.sessions >= self.limits.sessions;
        self.backoff.reset();
        (peers == Peers::Strangers).then(|| {
            let stranger = Stranger(self.next_stranger);
            self.next_stranger += 1;
            self.silent.insert(stranger, now);
            stranger
        })
    }

    /// accept(2) failed for the sake of one connection (ECONNABORTED and its like): the next one may
    /// be taken at once.
    ///
    /// # Panics
    /// If it was not this listener's turn.
    pub fn skipped(&mut self, listener: ListenerId) {
        self.pass_turn(listener);
    }

    /// accept(2) said that nobody waits: nothing is owed until the poller speaks again.
    ///
    /// # Panics
    /// If it was not this listener's turn.
    pub fn drained(&mut self, listener: ListenerId) {
        let peers = self.take_turn(listener);
        if let Some(Some(known)) = self.listeners.get_mut(listener.0) {
            known.owed = false;
        }
        self.owed.queue_mut(peers).pop_front();
    }

    /// accept(2), or something else that makes a descriptor, failed for want of them or of memory.
    /// Also right for an error of accept(2) that nobody knows: it is tried again, but not at once.
    pub fn exhausted(&mut self, now: Instant) {
        if !self.stopped {
            self.pause = Some(now + self.backoff.pause(EXHAUSTED));
        }
    }

    /// Something other than a session gave back a descriptor.
    pub const fn freed(&mut self) {
        self.pause = None;
    }

    /// The first bytes of a stranger have come. Does nothing if it is none any more.
    pub fn spoke(&mut self, stranger: Stranger) {
        if let Some(since) = self.silent.remove(&stranger) {
            self.speaking.insert(stranger, since);
        }
    }

    /// A stranger proved who it is. Does nothing if it is none any more.
    pub fn authenticated(&mut self, stranger: Stranger) {
        self.silent.remove(&stranger);
        self.speaking.remove(&stranger);
    }

    /// A stranger is sent away ([`wants_evicted`](Self::wants_evicted)): it does not count as one any
    /// more, only as a session, until that is [`closed`](Self::closed). Should it prove who it is just
    /// then, it may stay.
    pub fn evicted(&mut self, stranger: Stranger) {
        self.authenticated(stranger);
    }

    /// A session is gone and its descriptors are free. Says also which stranger's it was, if it was
    /// one's.
    ///
    /// # Panics
    /// If there is no such session.
    pub fn closed(&mut self, stranger: Option<Stranger>) {
        assert!(self.sessions > 0, "contract: only an open session can close");
        self.sessions -= 1;
        if let Some(stranger) = stranger {
            self.authenticated(stranger);
        }
        if self.sessions <= self.limits.resume_at() {
            self.full = false;
        }
        self.freed();
    }

    /// Ends the pause whose time has come. Harmless when called early.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.pause.is_some_and(|until| now >= until) {
            self.pause = None;
        }
    }

    /// No more accepts, for good. A second call does nothing.
    pub fn stop(&mut self) {
        self.stopped = true;
        self.pause = None;
    }

    /// One accept of the budget is used; the other kind comes first next time.
    fn take_turn(&mut self, listener: ListenerId) -> Peers {
        assert!(self.wants_accept() == Some(listener), "contract: accept only from whose turn it is");
        let peers = self.next_kind().unwrap_or(Peers::Known);
        self.prefer = match peers {
            Peers::Known => Peers::Strangers,
            Peers::Strangers => Peers::Known,
        };
        peers
    }

    /// The same, and the listener goes to the end of its queue.
    fn pass_turn(&mut self, listener: ListenerId) -> Peers {
        let peers = self.take_turn(listener);
        self.left_this_turn -= 1;
        self.owed.queue_mut(peers).rotate_left(1);
        peers
    }
}

/// Demands.
impl Gate {
    /// Whom to accept from now, in this turn. Whatever comes of it is to be reported.
    #[must_use]
    pub fn wants_accept(&self) -> Option<ListenerId> {
        if self.left_this_turn == 0 {
            return None;
        }
        self.next_kind().and_then(|peers| self.owed.queue(peers).front().copied())
    }

    /// Whether there is something to accept as soon as a new turn begins: do not sleep.
    #[must_use]
    pub fn is_owing(&self) -> bool {
        self.next_kind().is_some()
    }

    /// Whether one who waits at a listener that is about to be closed may be accepted: whatever the turn and
    /// its budget, for there will be no other, but within every limit. Its backlog bounds how many they are.
    #[must_use]
    pub fn may_accept_last(&self, listener: ListenerId) -> bool {
        self.peers(listener).is_some_and(|peers| self.shut(peers).is_none())
    }

    /// Whom a listener is for, if it is there.
    fn peers(&self, listener: ListenerId) -> Option<Peers> {
        self.listeners.get(listener.0).copied().flatten().map(|known| known.peers)
    }

    /// Who is to be sent away to make room for one who waits; report it as
    /// [`evicted`](Self::evicted).
    #[must_use]
    pub fn wants_evicted(&self, now: Instant) -> Option<Stranger> {
        self.next_evicted().filter(|(at, _)| *at <= now).map(|(_, stranger)| stranger)
    }

    /// When [`handle_timeout`](Self::handle_timeout) and [`wants_evicted`](Self::wants_evicted) are
    /// next to be called.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.pause.or_else(|| self.next_evicted().map(|(at, _)| at))
    }

    /// Who makes room next, and when, if room is all that is missing.
    fn next_evicted(&self) -> Option<(Instant, Stranger)> {
        if self.shut(Peers::Strangers) != Some(Shut::Strangers) || self.owed.strangers.is_empty() {
            return None;
        }
        let (strangers, time) = if self.silent.is_empty() {
            (&self.speaking, Self::PATIENCE)
        } else {
            (&self.silent, Self::SILENCE)
        };
        strangers.first_key_value().map(|(stranger, since)| (*since + time, *stranger))
    }

    fn next_kind(&self) -> Option<Peers> {
        let can = |peers| self.shut(peers).is_none() && !self.owed.queue(peers).is_empty();
        let second = match self.prefer {
            Peers::Known => Peers::Strangers,
            Peers::Strangers => Peers::Known,
        };
        [self.prefer, second].into_iter().find(|peers| can(*peers))
    }
}

/// Getters.
impl Gate {
    /// Why nothing is accepted from listeners of this kind, if so: for logs and metrics.
    #[must_use]
    pub fn shut(&self, peers: Peers) -> Option<Shut> {
        if self.stopped {
            Some(Shut::Stopped)
        } else if self.pause.is_some() {
            Some(Shut::Exhausted)
        } else if self.full {
            Some(Shut::Full)
        } else if matches!(peers, Peers::Strangers) && self.strangers() >= self.limits.strangers {
            Some(Shut::Strangers)
        } else {
            None
        }
    }

    /// Which limit keeps out somebody who may be waiting, if one does: for logs.
    #[must_use]
    pub fn held_up(&self) -> Option<Shut> {
        [Peers::Known, Peers::Strangers].into_iter().find_map(|peers| match self.shut(peers) {
            Some(why @ (Shut::Full | Shut::Strangers)) if !self.owed.queue(peers).is_empty() => Some(why),
            _ => None,
        })
    }

    /// Open sessions.
    #[must_use]
    pub const fn sessions(&self) -> usize {
        self.sessions
    }

    /// Of these, strangers'.
    #[must_use]
    pub fn strangers(&self) -> usize {
        self.silent.len() + self.speaking.len()
    }

    /// What it was made with.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }
}

#[cfg(test)]
mod tests;
