//! The table of live sessions: who is there, for whom, how far, how much. Loops write, anybody reads.
//!
//! A session takes its [`Seat`] when it is accepted and gives it up with its last descriptor. In
//! between its loop notes in the seat's [`Meter`] what has become of it, without a lock; only coming
//! and going takes one.

mod meter;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use relay_core::bandwidth::Throttle;
use relay_core::{Instant, Leg, PerLeg};
use relay_migration::Key;

use crate::bandwidth::Bandwidth;
use crate::census::{Census, Reading, Series, Totals};
use crate::clock::Clock;
use crate::server::Plan;
use crate::socket::Peer;
use crate::tally::Tally;

use meter::Proven;
pub(crate) use meter::correlation;
pub use meter::{Meter, Moved, Stage};

/// A session's number, never given twice in a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A listener's number, chosen by whoever opens it; never used twice with one [`Server`](crate::Server).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RouteId(pub u64);

impl fmt::Display for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A session as it is seen from outside.
#[derive(Clone, Debug)]
pub struct SessionView {
    /// Its number.
    pub id: SessionId,
    /// Which listener it came by; that may be closed by now.
    pub route: RouteId,
    /// What it is for: label, listener, backend.
    pub plan: Arc<Plan>,
    /// Who connected.
    pub peer: Peer,
    /// What the certificate of each leg's peer says, once verified; `None` for a leg without TLS.
    pub identities: PerLeg<Option<String>>,
    /// What the logs of both nodes of a leg's TLS session have in common, once it is there.
    pub correlations: PerLeg<Option<String>>,
    /// How far it has come.
    pub stage: Stage,
    /// Since it was accepted.
    pub age: Duration,
    /// Bytes so far, by the leg they were read from.
    pub flows: PerLeg<Moved>,
    /// Since something last moved, its legs coming up included.
    pub stalled_for: Duration,
}

#[derive(Debug)]
struct Entry {
    id: SessionId,
    route: RouteId,
    plan: Arc<Plan>,
    peer: Peer,
    since: Instant,
    meter: Meter,
}

impl Entry {
    fn view(&self, now: Instant) -> SessionView {
        let peer = |leg, what: fn(&Proven) -> &String| self.meter.peers[leg].get().map(what).cloned();
        let both = |what| PerLeg::new(peer(Leg::Front, what), peer(Leg::Back, what));
        SessionView {
            id: self.id,
            route: self.route,
            plan: Arc::clone(&self.plan),
            peer: self.peer,
            identities: both(|peer| &peer.identity),
            correlations: both(|peer| &peer.correlation),
            stage: self.meter.stage(),
            age: now.since(self.since),
            flows: PerLeg::new(self.meter.moved(Leg::Front), self.meter.moved(Leg::Back)),
            stalled_for: now.since(Instant::from_nanos(self.meter.moved.load(Ordering::Relaxed))),
        }
    }

    fn reading(&self) -> Reading {
        let meter = &self.meter;
        // First: everything else is final if it is there.
        let over = meter.over.get().copied();
        let up = |leg: Leg| meter.secured[leg].load(Ordering::Relaxed);
        Reading {
            series: Series::of(&self.plan),
            stage: meter.stage(),
            flows: PerLeg::new(meter.moved(Leg::Front), meter.moved(Leg::Back)),
            records: PerLeg::new(meter.records(Leg::Front), meter.records(Leg::Back)),
            lent: meter.lent.load(Ordering::Relaxed),
            secured: PerLeg::new(up(Leg::Front), up(Leg::Back)),
            connected: meter.connected.load(Ordering::Relaxed),
            over,
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    /// Of those that are not at the table any more; and how many ever came.
    gone: Totals,
    next: u64,
    entries: BTreeMap<SessionId, Arc<Entry>>,
    keys: BTreeMap<Key, usize>,
}

/// See the [module](self). One for a process, or for each [`Server`](crate::Server) in it.
#[derive(Debug)]
pub struct SessionTable {
    clock: Clock,
    tally: Tally,
    inner: Mutex<Inner>,
    bandwidth: Bandwidth,
}

impl Default for SessionTable {
    fn default() -> Self {
        let (tally, bandwidth) = Default::default();
        Self { clock: Clock::start(), tally, inner: Mutex::default(), bandwidth }
    }
}

impl SessionTable {
    /// An empty one, with a clock that begins now.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The clock by which its times are told, and by which every loop has to go.
    #[must_use]
    pub const fn clock(&self) -> Clock {
        self.clock
    }

    /// How fast they may be.
    #[must_use]
    pub const fn bandwidth(&self) -> &Bandwidth {
        &self.bandwidth
    }

    /// What loops and acceptor count besides sessions.
    #[must_use]
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// A listener with this plan is open from now on. To be told by whoever accepts there.
    pub fn opened(&self, plan: &Plan) {
        self.lock().gone.expect(Series::of(plan));
        self.tally.opened();
    }

    /// It is closed.
    pub fn closed(&self) {
        self.tally.closed();
    }

    /// Nothing new is accepted from now on. To be told by whoever was told to stop.
    pub fn stopping(&self) {
        self.tally.drain();
    }

    /// All sessions that were and are.
    pub(crate) fn census(&self) -> Census {
        let (gone, entries) = {
            let inner = self.lock();
            (inner.gone.clone(), inner.entries.values().cloned().collect::<Vec<_>>())
        };
        Census::new(gone, entries.iter().map(|entry| entry.reading()))
    }

    /// Somebody was accepted, at `at` of the [`clock`](Self::clock). The seat is to be kept until its
    /// last descriptor is closed.
    #[must_use]
    pub fn enter(self: &Arc<Self>, route: RouteId, plan: Arc<Plan>, peer: Peer, at: Instant) -> Seat {
        let mut inner = self.lock();
        let id = SessionId(inner.next);
        inner.next += 1;
        if let Some(label) = plan.label() {
            *inner.keys.entry(label.key.clone()).or_default() += 1;
        }
        inner.gone.begin(Series::of(&plan));
        let entry = Arc::new(Entry { id, route, plan, peer, since: at, meter: Meter::new(at) });
        inner.entries.insert(id, Arc::clone(&entry));
        drop(inner);
        Seat { entry, table: Arc::clone(self) }
    }

    /// Every session, oldest first.
    #[must_use]
    pub fn snapshot(&self) -> Vec<SessionView> {
        let entries: Vec<_> = self.lock().entries.values().cloned().collect();
        let now = self.clock.now();
        entries.iter().map(|entry| entry.view(now)).collect()
    }

    /// One of them, unless it is gone.
    #[must_use]
    pub fn get(&self, id: SessionId) -> Option<SessionView> {
        let entry = self.lock().entries.get(&id).cloned()?;
        Some(entry.view(self.clock.now()))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many belong to this migration.
    #[must_use]
    pub fn of_key(&self, key: &Key) -> usize {
        self.lock().keys.get(key).copied().unwrap_or(0)
    }

    /// How many belong to each migration that has any.
    #[must_use]
    pub fn by_key(&self) -> BTreeMap<Key, usize> {
        self.lock().keys.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whoever panicked has left it whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's place at the table. Dropping it frees it.
#[derive(Debug)]
pub struct Seat {
    entry: Arc<Entry>,
    table: Arc<SessionTable>,
}

impl Seat {
    /// Whose it is.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.entry.id
    }

    /// Which listener it came by.
    #[must_use]
    pub fn route(&self) -> RouteId {
        self.entry.route
    }

    /// What it is for.
    #[must_use]
    pub fn plan(&self) -> &Arc<Plan> {
        &self.entry.plan
    }

    /// Who connected.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.entry.peer
    }

    /// When it was accepted.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.entry.since
    }

    /// What holds it back at present, if anything does.
    #[must_use]
    pub fn throttle(&self) -> Option<Throttle> {
        let key = self.entry.plan.label().map(|label| &label.key);
        self.table.bandwidth.throttle(key, self.table.clock.now())
    }

    /// What loops and acceptor count besides sessions.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.table.tally
    }

    /// Where to note what becomes of it.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.entry.meter
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.table.lock();
        inner.entries.remove(&self.entry.id);
        inner.gone.bury(&self.entry.reading());
        if let Some(label) = self.entry.plan.label()
            && let Some(count) = inner.keys.get_mut(&label.key)
        {
            *count -= 1;
            if *count == 0 {
                inner.keys.remove(&label.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use relay_core::Relay;

    use super::*;
    use crate::cli::Timeouts;
    use crate::resolve::Backend;
    use crate::server::Label;
    use relay_core::{Pool, Ready, Stop, Transport, TryError, pump};
    use relay_migration::Channel;
    use relay_tls::LegCodec;

    fn plan(key: Option<&str>) -> Arc<Plan> {
        let backend = Backend::new(&"unix:@nobody".parse().expect("endpoint")).expect("backend");
        let listen = "unix:@here".parse().expect("endpoint");
        let plan = Plan::new(listen, backend, None, &Timeouts::default()).expect("a plan");
        Arc::new(match key {
            Some(key) => plan.labeled(Label { key: key.parse().expect("a key"), channel: Channel::Control }),
            None => plan,
        })
    }

    #[test]
    fn who_has_a_seat_is_there_and_counted_for_its_key() {
        let table = SessionTable::new();
        let (a, b) = (plan(Some("a")), plan(None));
        let seats: Vec<_> = [(1, &a), (2, &b), (3, &a)]
            .map(|(route, plan)| table.enter(RouteId(route), Arc::clone(plan), Peer::Local, Instant::ZERO))
            .into();
        let key = "a".parse().expect("a key");
        assert_eq!((table.len(), table.of_key(&key), table.by_key().len()), (3, 2, 1));
        let ids: Vec<_> = table.snapshot().iter().map(|view| (view.id, view.route)).collect();
        assert_eq!(ids, [0, 1, 2].map(|n| (SessionId(n), RouteId(n + 1))));
        for seat in seats {
            let id = seat.id();
            assert!(table.get(id).is_some_and(|view| Arc::ptr_eq(&view.plan, seat.plan())));
            drop(seat);
            assert!(table.get(id).is_none());
        }
        assert!(table.is_empty() && table.by_key().is_empty() && table.of_key(&key) == 0);
        let next = table.enter(RouteId(1), b, Peer::Local, Instant::ZERO);
        assert_eq!(next.id(), SessionId(3), "no number is given twice");
    }

    /// Peers in memory: Front sends once, Back takes five bytes.
    struct Short(Option<&'static [u8]>);

    impl Transport for Short {
        fn try_read(&mut self, leg: Leg, slices: &mut [&mut [u8]]) -> Result<usize, TryError> {
            match (leg, self.0.take(), slices) {
                (Leg::Front, Some(bytes), [slice, ..]) => {
                    slice[..bytes.len()].copy_from_slice(bytes);
                    Ok(bytes.len())
                }
                _ => Err(TryError::WouldBlock),
            }
        }

        fn try_write(&mut self, _: Leg, slices: &[&[u8]]) -> Result<usize, TryError> {
            let len: usize = slices.iter().map(|slice| slice.len()).sum();
            if len > 5 { Ok(5) } else { Err(TryError::WouldBlock) }
        }

        fn shut_write(&mut self, _: Leg) -> Result<(), TryError> {
            Ok(())
        }
    }

    #[test]
    fn a_meter_tells_what_its_session_does() {
        let table = SessionTable::new();
        let seat = table.enter(RouteId(1), plan(None), Peer::Local, Instant::ZERO);
        let view = || {
            let views = table.snapshot();
            assert_eq!(views.len(), 1);
            views.into_iter().next().expect("one")
        };
        assert_eq!(view().stage, Stage::Handshake, "until its loop has looked at it");
        let now = table.clock().now();
        let mut relay = Relay::new(*seat.plan().config(), LegCodec::Plain, now);
        seat.meter().update(&relay);
        assert_eq!(view().stage, Stage::Dialing);
        relay.connected(now, LegCodec::Plain);
        let mut io = Short(Some(b"0123456789"));
        let (mut ready, mut pool) = (PerLeg::both(Ready::BOTH), Pool::default());
        while table.clock().now() == now {}
        let later = table.clock().now();
        pump(&mut relay, &mut io, &mut ready, &mut pool, later, 100);
        seat.meter().update(&relay);
        let seen = view();
        assert_eq!(seen.stage, Stage::Open);
        assert_eq!(seen.flows.front, Moved { read: 10, delivered: 5, is_shut: false });
        assert_eq!(seen.flows.back, Moved::default());
        assert!(seen.stalled_for < seen.age, "it moved after it was accepted");
        relay.stop(later, Stop::Abort);
        seat.meter().update(&relay);
        assert_eq!(view().stage, Stage::Closing);
        assert_eq!(view().identities, PerLeg::new(None, None));
    }
}
