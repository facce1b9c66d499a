//! Whose turn it is to be dialed.

use core::time::Duration;

use crate::time::Instant;
use alloc::collections::btree_map::Entry;
use alloc::collections::{BTreeMap, BTreeSet};

/// A front's place in the order of accept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(u64);

/// One listener's backends are dialed **one at a time, in the order in which their fronts were
/// accepted**: QEMU's multifd and post-copy channels are told apart by nothing else than the order
/// in which they connect.
///
/// A front that has not proved who it is yet (its handshake is under way) holds up those behind it,
/// for it may be the one that QEMU opened first. So that a silent stranger cannot hold a migration
/// up, it does so for no longer than the *window*, counted from when the first of those behind it
/// became ready. Whoever was overtaken once holds up nobody any more. A front that *is* ready is never overtaken,
/// even while its backend is not there yet: those behind it want the same backend.
///
/// **The dial clock** of one that waits in line stands until its turn. Then it counts from when the
/// front became ready, or from when one before it was connected, if that is later
/// ([`since`](Self::since)): a line that moves costs nobody his time, while a backend that is not
/// there fails all who wait for it together, rather than one after the other.
///
/// Every method takes logarithmic time in the number of fronts that are not connected yet.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Order {
    window: Duration,
    next: u64,
    /// Accepted, not ready, not overtaken.
    silent: BTreeSet<u64>,
    /// Accepted, not ready; somebody accepted later went first, or may.
    overtaken: BTreeSet<u64>,
    /// Ready to be dialed or being dialed, and since when.
    ready: BTreeMap<u64, Instant>,
    /// The same, by since when.
    waiting: BTreeSet<(Instant, u64)>,
    /// When a backend was last connected.
    moved: Instant,
}

/// Handlers.
impl Order {
    /// What a silent front may cost those behind it. A TLS handshake takes two round trips and some
    /// milliseconds of arithmetic; the slowest network a migration runs over answers in less.
    pub const WINDOW: Duration = Duration::from_millis(500);

    /// Nobody there. `window` is [`Order::WINDOW`] unless a test wants otherwise.
    #[must_use]
    pub const fn new(window: Duration) -> Self {
        Self {
            window,
            next: 0,
            silent: BTreeSet::new(),
            overtaken: BTreeSet::new(),
            ready: BTreeMap::new(),
            waiting: BTreeSet::new(),
            moved: Instant::ZERO,
        }
    }

    /// A front was accepted. To be called in the order of accept.
    pub fn accepted(&mut self) -> Ticket {
        let ticket = self.next;
        self.next += 1;
        self.silent.insert(ticket);
        Ticket(ticket)
    }

    /// The front may be dialed through as far as it is concerned. Later calls do nothing. Whether it
    /// comes too late: one accepted after it went first, and the order is not kept.
    ///
    /// # Panics
    /// If the front has [`left`](Self::left): its turn would come, and nobody would take it.
    pub fn ready(&mut self, now: Instant, ticket: Ticket) -> bool {
        let Entry::Vacant(place) = self.ready.entry(ticket.0) else { return false };
        let late = self.overtaken.remove(&ticket.0);
        assert!(self.silent.remove(&ticket.0) || late, "contract: Ready only of a front that is in line");
        place.insert(now);
        self.waiting.insert((now, ticket.0));
        late
    }

    /// The front's backend is connected: it has [`left`](Self::left), and the line moves.
    ///
    /// # Panics
    /// If the front never was [`ready`](Self::ready), or has left: others' clocks would begin anew.
    pub fn connected(&mut self, now: Instant, ticket: Ticket) {
        assert!(self.ready.contains_key(&ticket.0), "contract: Connected only of a front that is ready");
        self.moved = now;
        self.left(ticket);
    }

    /// The front is closed, or its backend connected: it holds up nobody any more. The ticket is of no
    /// use from then on; a second call does nothing.
    pub fn left(&mut self, ticket: Ticket) {
        match self.ready.remove(&ticket.0) {
            Some(since) => self.waiting.remove(&(since, ticket.0)),
            None => self.silent.remove(&ticket.0) || self.overtaken.remove(&ticket.0),
        };
    }

    /// Lets whoever has waited for the window's length overtake those that are silent, and with it
    /// all that are ready before it. Harmless when called early.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((since, ticket)) = self.held_up_longest()
            && now >= since + self.window
        {
            let behind = self.silent.split_off(&ticket);
            self.overtaken.extend(core::mem::replace(&mut self.silent, behind));
        }
    }
}

/// Demands.
impl Order {
    /// Who may be dialed now. The same until it has [`left`](Self::left), unless one before it
    /// becomes ready.
    #[must_use]
    pub fn turn(&self) -> Option<Ticket> {
        let (first, _) = self.ready.first_key_value()?;
        match self.silent.first() {
            Some(before) if before < first => None,
            Some(_) | None => Some(Ticket(*first)),
        }
    }

    /// From when the dial clock of one that is ready counts; see [`Order`].
    #[must_use]
    pub fn since(&self, ticket: Ticket) -> Option<Instant> {
        self.ready.get(&ticket.0).map(|since| (*since).max(self.moved))
    }

    /// When [`handle_timeout`](Self::handle_timeout) is next to be called: when somebody has waited
    /// long enough for the silent ones before it. May lie in the past after
    /// [`left`](Self::left).
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.held_up_longest().map(|(since, _)| since + self.window)
    }

    /// Of those who are ready, the one who is so for the longest, if a silent one is before the
    /// first of them and so before all of them.
    fn held_up_longest(&self) -> Option<(Instant, u64)> {
        let (first, _) = self.ready.first_key_value()?;
        self.silent.first().filter(|before| *before < first)?;
        self.waiting.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn in_the_order_of_accept_whatever_the_order_of_readiness() {
        let mut order = Order::new(Order::WINDOW);
        let [a, b, c] = [(); 3].map(|()| order.accepted());
        order.ready(at(0), c);
        order.ready(at(1), b);
        assert_eq!(order.turn(), None);
        order.ready(at(2), a);
        for ticket in [a, b, c] {
            assert_eq!(order.turn(), Some(ticket));
            assert_eq!(order.next_timeout(), None);
            order.left(ticket);
        }
        assert_eq!(order.turn(), None);
    }

    #[test]
    fn a_silent_stranger_costs_one_window_once() {
        let mut order = Order::new(Order::WINDOW);
        let stranger = order.accepted();
        let [a, b] = [(); 2].map(|()| order.accepted());
        order.ready(at(100), a);
        order.ready(at(400), b);
        assert_eq!(order.next_timeout(), Some(at(600)));
        order.handle_timeout(at(599));
        assert_eq!(order.turn(), None);
        order.handle_timeout(at(600));
        assert_eq!(order.turn(), Some(a));
        order.left(a);
        assert_eq!(order.turn(), Some(b), "b does not wait for it again");
        assert!(order.ready(at(700), stranger), "the order is not kept");
        assert_eq!(order.turn(), Some(stranger), "first again, now that it speaks");
        order.left(stranger);
        assert_eq!(order.turn(), Some(b));
    }

    #[test]
    fn one_that_becomes_ready_later_does_not_make_those_behind_it_wait_anew() {
        let mut order = Order::new(Order::WINDOW);
        let [_stranger, a, _other_stranger, b] = [(); 4].map(|()| order.accepted());
        order.ready(at(0), b);
        order.ready(at(300), a);
        assert_eq!(order.next_timeout(), Some(at(500)));
        order.handle_timeout(at(500));
        assert_eq!(order.turn(), Some(a));
        order.left(a);
        assert_eq!(order.turn(), Some(b));
    }

    #[test]
    fn whoever_is_ready_is_not_overtaken_however_long_its_dial_takes() {
        let mut order = Order::new(Order::WINDOW);
        let [a, b] = [(); 2].map(|()| order.accepted());
        order.ready(at(0), a);
        order.ready(at(0), b);
        order.handle_timeout(at(60_000));
        assert_eq!((order.turn(), order.next_timeout()), (Some(a), None));
    }

    #[test]
    fn a_front_that_closes_gives_way() {
        let mut order = Order::new(Order::WINDOW);
        let [a, b] = [(); 2].map(|()| order.accepted());
        order.ready(at(0), b);
        order.left(a);
        assert_eq!(order.turn(), Some(b));
        order.left(a);
        order.left(b);
        assert_eq!((order.turn(), order.next_timeout()), (None, None));
    }

    #[test]
    fn the_window_counts_from_the_first_call() {
        let mut order = Order::new(Order::WINDOW);
        let [_, b] = [(); 2].map(|()| order.accepted());
        order.ready(at(0), b);
        order.ready(at(300), b);
        assert_eq!(order.next_timeout(), Some(at(500)));
    }

    #[test]
    fn a_line_that_moves_costs_nobody_his_time_and_one_that_does_not_costs_it_once() {
        let mut order = Order::new(Order::WINDOW);
        let [a, b, c] = [(); 3].map(|()| order.accepted());
        for ticket in [a, b, c] {
            assert!(!order.ready(at(10), ticket), "in time");
        }
        assert_eq!(order.since(a), Some(at(10)));
        order.connected(at(9_000), a);
        assert_eq!(order.since(b), Some(at(9_000)), "it moves");
        order.left(b); // its dial timed out
        assert_eq!((order.since(b), order.since(c)), (None, Some(at(9_000))), "it does not");
    }

    #[test]
    #[should_panic(expected = "contract: Ready only of a front that is in line")]
    fn who_left_is_not_ready_any_more() {
        let mut order = Order::new(Order::WINDOW);
        let [a, b] = [(); 2].map(|()| order.accepted());
        order.ready(at(0), b);
        order.handle_timeout(at(500));
        order.left(a); // overtaken, and gone
        order.ready(at(501), a);
    }

    #[test]
    #[should_panic(expected = "contract: Connected only of a front that is ready")]
    fn who_is_silent_is_not_connected() {
        let mut order = Order::new(Order::WINDOW);
        let stranger = order.accepted();
        order.connected(at(0), stranger);
    }
}
