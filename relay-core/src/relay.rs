//! What a runtime holds per connection: the session's ledger, and each leg's codec and bytes.

use crate::codec::Codec;
use crate::config::Config;
use crate::error::Failure;
use crate::leg::{Leg, PerLeg};
use crate::link::Link;
use crate::pool::Pool;
use crate::session::{Distrust, Input, Outcome, Session, Stats, Stop, Timer};
use crate::time::Instant;

/// A [`Session`] with the bytes it counts. [`pump`](crate::pump::pump) makes it move.
///
/// The life of one: `new` when Front is accepted; `pump` when a leg gets ready; as soon as
/// [`wants_connect`](Self::wants_connect) says so, dial and call [`connected`](Self::connected) or
/// [`setup_failed`](Self::setup_failed); `handle_timeout` when [`next_timeout`](Self::next_timeout)
/// is due; once there is an [`outcome`](Self::outcome), [`release`](Self::release) and close both
/// transports the way it says. Pump again after each of these calls.
#[derive(Debug)]
pub struct Relay<C> {
    pub(crate) session: Session,
    pub(crate) links: PerLeg<Link<C>>,
}

impl<C: Codec> Relay<C> {
    /// Front was accepted just now; `front` is its codec, fresh.
    ///
    /// # Panics
    /// If the configuration and the codec do not agree on whether Front has a handshake.
    #[must_use]
    pub fn new(config: Config, front: C, now: Instant) -> Self {
        assert_eq!(
            config.secure.front,
            !front.is_secured(),
            "contract: Front's codec fits its configuration"
        );
        let mut relay = Self {
            session: Session::new(config, now),
            links: PerLeg::new(Link::new(Some(front)), Link::new(None)),
        };
        relay.make_room_for_a_record(Leg::Front);
        relay
    }

    /// A record is opened whole or not at all, and how much is in it only shows then.
    fn make_room_for_a_record(&mut self, leg: Leg) {
        let layout = self.links[leg].layout();
        if !layout.is_transparent() {
            self.session.reads_records(leg, layout.payload_max);
        }
    }

    /// Whether Back may be dialed: Front is authenticated and Back not connected yet.
    #[must_use]
    pub fn wants_connect(&self) -> bool {
        self.session.demand(Leg::Back).connect
    }

    /// Back is connected; `back` is its codec, fresh.
    ///
    /// # Panics
    /// If it was not wanted, or the codec does not fit the configuration.
    pub fn connected(&mut self, now: Instant, back: C) {
        let secure = self.session.config().secure.back;
        assert_eq!(secure, !back.is_secured(), "contract: Back's codec fits its configuration");
        self.links.back.codec = Some(back);
        self.make_room_for_a_record(Leg::Back);
        self.session.handle(now, Input::Connected(Leg::Back));
    }

    /// Others are dialed before Back is, so the dial clock stands. Does nothing unless Back is wanted.
    pub fn queued(&mut self, now: Instant) {
        if self.wants_connect() {
            self.session.handle(now, Input::Queued);
        }
    }

    /// It is Back's turn to be dialed, and it counts as so from `since`
    /// ([`Order::since`](crate::admission::Order::since)). Does nothing unless Back is wanted.
    ///
    /// # Panics
    /// If that lies in the future.
    pub fn turn(&mut self, now: Instant, since: Instant) {
        if self.wants_connect() {
            self.session.handle(now, Input::Turn(since));
        }
    }

    /// A leg could not be brought up and no further try is made.
    pub fn setup_failed(&mut self, now: Instant, leg: Leg, failure: Failure) {
        self.session.handle(now, Input::ReadFailed(leg, failure));
    }

    /// The operator's wish.
    pub fn stop(&mut self, now: Instant, stop: Stop) {
        self.session.handle(now, Input::Stop(stop));
    }

    /// A leg's peer would not be let in any more. Does nothing unless that leg is secured: one that still has
    /// to prove who it is will fail to, and a plain one has nothing to prove.
    pub fn distrusted(&mut self, now: Instant, leg: Leg, why: Distrust) {
        if self.session.config().secure[leg] && self.session.is_up(leg) {
            self.session.handle(now, Input::Distrusted(leg, why));
        }
    }

    /// Lets a timer fire that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.session.handle_timeout(now);
    }

    /// When `handle_timeout` is next to be called.
    #[must_use]
    pub fn next_timeout(&self) -> Option<(Instant, Timer)> {
        self.session.next_timeout()
    }

    /// The result, once the session is closed.
    #[must_use]
    pub const fn outcome(&self) -> Option<&Outcome> {
        self.session.outcome()
    }

    /// Bytes so far.
    #[must_use]
    pub const fn stats(&self) -> Stats {
        self.session.stats()
    }

    /// The ledger.
    #[must_use]
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// A leg's codec; `None` for Back before it is connected.
    #[must_use]
    pub fn codec(&self, leg: Leg) -> Option<&C> {
        self.links[leg].codec.as_ref()
    }

    /// Whether anything has ever come from a leg.
    #[must_use]
    pub fn has_heard(&self, leg: Leg) -> bool {
        self.links[leg].heard
    }

    /// Bytes in this relay's buffers, wire bytes included.
    #[must_use]
    pub fn held(&self) -> usize {
        Leg::BOTH.iter().map(|leg| self.links[*leg].inbound.held() + self.links[*leg].outbound.held()).sum()
    }

    /// Bytes of the buffers that this relay has on loan from its pool, filled or not.
    #[must_use]
    pub fn lent(&self) -> usize {
        Leg::BOTH.iter().map(|leg| self.links[*leg].inbound.lent() + self.links[*leg].outbound.lent()).sum()
    }

    /// Gives every buffer back. After the outcome.
    pub fn release(&mut self, pool: &mut Pool) {
        for leg in Leg::BOTH {
            self.links[leg].inbound.clear();
            self.links[leg].outbound.clear();
        }
        self.release_idle(pool);
    }

    /// Gives back the buffers that hold nothing.
    pub(crate) fn release_idle(&mut self, pool: &mut Pool) {
        for leg in Leg::BOTH {
            self.links[leg].inbound.release(pool);
            self.links[leg].outbound.release(pool);
        }
    }
}
