//! One simulated connection from accept to close, and what must be true of it.

use core::time::Duration;
use std::format;
use std::string::{String, ToString};

use super::super::rng::Rng;
use super::super::rules::{Rule, Violation, demand_that};
use super::Family;
use super::net::{Faults, Net, Wire};
use super::peer::{Peer, Seen};
use crate::codec::Codec;
use crate::config::Config;
use crate::error::Failure;
use crate::leg::{Leg, PerLeg};
use crate::pool::{LARGEST, Pool};
use crate::pump::{Pumped, Ready, pump};
use crate::relay::Relay;
use crate::session::{Close, Outcome, Stop};
use crate::time::Instant;

/// Healing must be over after so many rounds, and so many more for each byte that is sent: in the
/// worst plans a record of four bytes crosses a pipe of three.
const HEALING_ROUNDS: u64 = 10_000;
const HEALING_ROUNDS_PER_BYTE: u64 = 20;

/// What one run is about. All of it follows from the seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Tells the whole story.
    pub seed: u64,
    /// Which legs have a handshake.
    pub secure: PerLeg<bool>,
    /// Bytes that each peer sends.
    pub bytes: PerLeg<u64>,
    /// Most bytes that a peer or the network moves at once.
    pub most: usize,
    /// The kinds of trouble.
    pub faults: Faults,
}

impl Plan {
    /// The plan that `seed` stands for; peers send less than `bytes_bound` each.
    #[must_use]
    pub fn new(seed: u64, bytes_bound: usize) -> Self {
        let mut rng = Rng::new(seed);
        let secure = PerLeg::new(rng.chance(40), rng.chance(40));
        let sizes = [3, 40, 700, 9000, 100_000];
        let most = sizes[rng.below(sizes.len())];
        // Tiny steps make a long story of few bytes.
        let bound = bytes_bound.min(most * 2000);
        let bytes = PerLeg::new(rng.below(bound) as u64, rng.below(bound) as u64);
        Self { seed, secure, bytes, most, faults: Faults::choose(&mut rng) }
    }
}

/// How a run went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary {
    /// The session's result.
    pub outcome: Outcome,
    /// Calls of the transport.
    pub calls: u64,
    /// Simulated time.
    pub took: Duration,
}

struct Sim<'a, F: Family> {
    family: &'a mut F,
    plan: Plan,
    relay: Relay<F::Codec>,
    net: Net,
    peers: PerLeg<Option<Peer<F::Codec>>>,
    ready: PerLeg<Ready>,
    pool: Pool,
    rng: Rng,
    now: Instant,
    /// The relay may have something to do.
    runnable: bool,
    stops: u8,
}

/// Simulates one connection.
///
/// # Errors
/// The rule that was broken, with the plan, which replays it.
pub fn run<F: Family>(family: &mut F, plan: Plan) -> Result<Summary, String> {
    let mut sim = Sim::new(family, plan);
    sim.play().map_err(|violation| {
        let (session, ready, peers) = (sim.relay.session(), &sim.ready, &sim.peers);
        format!("{violation}\n  {plan:?}\n  {session:?}\n  {ready:?}\n  {:?}", peers.as_ref().map(describe))
    })
}

fn describe<C>(peer: &Option<Peer<C>>) -> String {
    peer.as_ref().map_or_else(String::new, Peer::describe)
}

impl<'a, F: Family> Sim<'a, F> {
    fn new(family: &'a mut F, plan: Plan) -> Self {
        let mut rng = Rng::new(plan.seed ^ 0x5eed);
        let config = Self::config(&plan, &mut rng);
        let stranger = plan.faults.stranger;
        let (front, peer) = family.pair(&mut rng, plan.secure.front, false, stranger);
        let now = Instant::ZERO;
        let peer = Peer::new(peer, 1, 2, plan.bytes.front);
        let mut wires: PerLeg<Wire> = PerLeg::default();
        for leg in Leg::BOTH {
            wires[leg].to_relay.capacity = 1 + rng.below(4 * plan.most);
            wires[leg].from_relay.capacity = 1 + rng.below(4 * plan.most);
        }
        let net = Net { wires, faults: plan.faults, rng: Rng::new(rng.next()), calls: 0 };
        Self {
            family,
            plan,
            relay: Relay::new(config, front, now),
            net,
            peers: PerLeg::new(Some(peer), None),
            ready: PerLeg::new(Ready::BOTH, Ready::default()),
            pool: Pool::default(),
            rng,
            now,
            runnable: true,
            stops: 0,
        }
    }

    fn config(plan: &Plan, rng: &mut Rng) -> Config {
        let mut limit = |percent, secs| rng.chance(percent).then(|| Duration::from_secs(secs));
        let timers = Config {
            dial_timeout: Some(Duration::from_secs(10)),
            secure_timeout: Some(Duration::from_secs(11)),
            idle_timeout: limit(10, 40),
            half_open_timeout: limit(80, 60),
            max_lifetime: limit(10, 3600),
            ..Config::new(1)
        };
        // a record must fit, or nothing would ever move
        let capacities = [16_384, 40_000, LARGEST];
        let small = [1, 2, 10, 300];
        let mut capacity = |secure: bool| {
            if secure || rng.chance(50) {
                capacities[rng.below(capacities.len())]
            } else {
                small[rng.below(small.len())]
            }
        };
        Config {
            capacity: PerLeg::new(capacity(plan.secure.front), capacity(plan.secure.back)),
            secure: plan.secure,
            linger: PerLeg::both(Duration::from_secs(rng.next() % 2)),
            ..timers
        }
    }

    fn play(&mut self) -> Result<Summary, Violation> {
        let chaos = self.rng.below(4000);
        for _ in 0..chaos {
            if self.relay.outcome().is_some() {
                break;
            }
            self.disturb();
            self.round()?;
        }
        self.heal();
        let bytes = self.plan.bytes.front + self.plan.bytes.back;
        let bound = HEALING_ROUNDS + HEALING_ROUNDS_PER_BYTE * bytes;
        let mut rounds = 0;
        while self.relay.outcome().is_none() {
            rounds += 1;
            demand_that(Rule::L3, rounds < bound, || {
                "the peers make progress, the relay does not close".to_string()
            })?;
            self.round()?;
        }
        self.judge()
    }

    /// Trouble that comes from outside.
    fn disturb(&mut self) {
        let faults = self.plan.faults;
        let leg = if self.rng.chance(50) { Leg::Front } else { Leg::Back };
        if let Some(peer) = &mut self.peers[leg] {
            let wire = &mut self.net.wires[leg];
            if faults.reset && self.rng.chance(1) && self.rng.chance(20) && !wire.gone {
                wire.peer_reset();
            } else if faults.truncate && self.rng.chance(1) && self.rng.chance(20) && !peer.fin_sent {
                peer.vanish(wire);
            }
            if faults.stall && self.rng.chance(3) {
                peer.stalled = !peer.stalled;
            }
        }
        if faults.spurious && self.rng.chance(10) {
            self.net.wires[leg].edges = Ready::BOTH;
        }
        if faults.stop && self.stops < 3 && self.rng.chance(1) && self.rng.chance(10) {
            self.stops += 1;
            let until = self.now + Duration::from_secs(self.rng.next() % 100);
            let stop = if self.rng.chance(30) { Stop::Abort } else { Stop::Drain { until } };
            self.relay.stop(self.now, stop);
            self.runnable = true;
        }
        if faults.late && self.rng.chance(2) {
            self.now = self.now + Duration::from_millis(self.rng.next() % 3000);
            self.relay.handle_timeout(self.now);
            self.runnable = true;
        }
    }

    fn heal(&mut self) {
        self.net.faults = Faults::default();
        self.plan.faults = Faults::default();
        for leg in Leg::BOTH {
            if let Some(peer) = &mut self.peers[leg] {
                peer.stalled = false;
            }
        }
    }

    /// Everybody gets a chance, in an order that the seed tells; if nobody can do anything, time
    /// passes.
    fn round(&mut self) -> Result<(), Violation> {
        let mut active = false;
        let first = self.rng.below(4);
        for turn in 0..4 {
            match (first + turn) % 4 {
                0 => active |= self.peer_acts(Leg::Front),
                1 => active |= self.peer_acts(Leg::Back),
                2 => active |= self.see_edges(),
                _ => active |= self.pump()?,
            }
        }
        active |= self.dial();
        if !active && self.relay.outcome().is_none() {
            self.pass_time()?;
        }
        Ok(())
    }

    fn peer_acts(&mut self, leg: Leg) -> bool {
        let Some(peer) = &mut self.peers[leg] else { return false };
        peer.act(&mut self.net.wires[leg], &mut self.rng, self.plan.most)
    }

    fn see_edges(&mut self) -> bool {
        let mut seen = false;
        for leg in Leg::BOTH {
            let edges = core::mem::take(&mut self.net.wires[leg].edges);
            self.ready[leg].readable |= edges.readable;
            self.ready[leg].writable |= edges.writable;
            seen |= edges != Ready::default();
        }
        self.runnable |= seen;
        seen
    }

    fn dial(&mut self) -> bool {
        if !self.relay.wants_connect() || self.rng.chance(50) {
            return self.relay.wants_connect();
        }
        if self.plan.faults.dial && self.rng.chance(30) {
            self.relay.setup_failed(self.now, Leg::Back, Failure::Refused);
        } else {
            let (back, peer) = self.family.pair(&mut self.rng, self.plan.secure.back, true, false);
            self.relay.connected(self.now, back);
            self.peers.back = Some(Peer::new(peer, 2, 1, self.plan.bytes.back));
            self.ready.back = Ready::BOTH;
        }
        self.runnable = true;
        true
    }

    fn pump(&mut self) -> Result<bool, Violation> {
        if !core::mem::take(&mut self.runnable) || self.relay.outcome().is_some() {
            return Ok(false);
        }
        let budget = 1 + self.rng.below(4 * self.plan.most);
        let before = self.net.calls;
        let pumped = self.pump_once(budget);
        let held = self.relay.held();
        let bound = 4 * (LARGEST + (20 << 10));
        demand_that(Rule::S2, held <= bound, || format!("{held} bytes in buffers"))?;
        match pumped {
            Pumped::Again => self.runnable = true,
            Pumped::Done => {}
            Pumped::Idle => {
                let calls = self.net.calls;
                let again = self.pump_once(budget);
                demand_that(Rule::L5, again == Pumped::Idle && calls == self.net.calls, || {
                    format!("idle, and yet it goes on: {again:?}")
                })?;
            }
        }
        Ok(self.net.calls > before)
    }

    fn pump_once(&mut self, budget: usize) -> Pumped {
        pump(&mut self.relay, &mut self.net, &mut self.ready, &mut self.pool, self.now, budget)
    }

    /// Nothing can happen before the next timer: exactly there goes the clock.
    fn pass_time(&mut self) -> Result<(), Violation> {
        let unstalled = Leg::BOTH
            .into_iter()
            .any(|leg| self.peers[leg].as_mut().is_some_and(|peer| core::mem::take(&mut peer.stalled)));
        if unstalled || self.runnable {
            return Ok(());
        }
        let Some((at, timer)) = self.relay.next_timeout() else {
            return Err(Violation {
                rule: Rule::L1,
                detail: "stuck: nothing can happen and no timer runs".into(),
            });
        };
        self.now = self.now.max(at);
        self.relay.handle_timeout(self.now);
        self.runnable = true;
        demand_that(Rule::S8, self.relay.outcome().is_some(), || {
            format!("{timer:?} was due and did not fire")
        })
    }

    fn judge(&mut self) -> Result<Summary, Violation> {
        let Some(outcome) = self.relay.outcome().copied() else {
            return Err(Violation { rule: Rule::L3, detail: "no outcome".into() });
        };
        self.relay.release(&mut self.pool);
        let lent = self.pool.lent();
        demand_that(Rule::S2, lent == 0, || format!("{lent} bytes of buffers not given back"))?;
        for leg in Leg::BOTH {
            if let Some(mut peer) = self.peers[leg].take() {
                self.judge_leg(leg, &mut peer, &outcome)?;
            }
        }
        Ok(Summary { outcome, calls: self.net.calls, took: self.now.since(Instant::ZERO) })
    }

    fn judge_leg(&mut self, leg: Leg, peer: &mut Peer<F::Codec>, outcome: &Outcome) -> Result<(), Violation> {
        let wire = &mut self.net.wires[leg];
        let was_gone = wire.gone;
        if !was_gone {
            peer.finish(wire, outcome.close[leg] == Close::Reset);
        }
        let came = outcome.flows[leg.other()];
        demand_that(Rule::S1, peer.wrong.is_none(), || format!("{leg}: {:?}", peer.wrong))?;
        demand_that(Rule::S1, peer.received <= came.read, || {
            format!("{leg}: got {} of {came:?}", peer.received)
        })?;
        let secured = self.relay.codec(leg).is_some_and(Codec::is_secured);
        if was_gone || !secured {
            return Ok(());
        }
        demand_that(Rule::S1, peer.received >= came.delivered, || {
            format!("{leg}: got {}, counted as delivered: {came:?}", peer.received)
        })?;
        let orderly = peer.seen == Some(Seen::Orderly);
        demand_that(Rule::S3, !orderly || came.reason.is_clean(), || {
            format!("{leg}: saw a clean end of what ended as {came:?}")
        })?;
        demand_that(Rule::S5, orderly || !came.reason.is_clean(), || {
            format!("{leg}: saw {:?} of what ended well: {came:?}", peer.seen)
        })?;
        demand_that(Rule::S1, !came.reason.is_clean() || peer.received == came.read, || {
            format!("{leg}: a clean end after {} of {came:?}", peer.received)
        })
    }
}
