//! One simulated connection: a relay, its transport and its two peers, without a clock of its own.

use alloc::sync::Arc;
use std::format;
use std::string::String;

use super::super::model::Model;
use super::super::rng::Rng;
use super::super::rules::{Rule, Violation, check_reasons, demand_that};
use super::limits::Limits;
use super::net::Net;
use super::peer::{Peer, Seen};
use super::piping::{FIRST, PipeFrom, PipesFrom, USUAL};
use super::plan::{Ends, Faults, Plan};
use super::setup::Setup;
use super::silence::Silence;
use super::{Family, Parts};
use crate::bandwidth::Bucket;
use crate::codec::Codec;
use crate::error::Failure;
use crate::flow::Phase;
use crate::leg::{Leg, PerLeg};
use crate::pool::{LARGEST, Pool};
use crate::pump::{Lane, Pumped, Ready, pump_throttled};
use crate::relay::Relay;
use crate::session::{Close, Demand, Distrust, EndReason, Input, Outcome, Stop};
use crate::time::Instant;

/// A record of the largest size and what a codec puts before it.
const SPARE: usize = 20 << 10;

pub(super) struct Conn<C> {
    pub(super) relay: Relay<C>,
    pub(super) net: Net,
    pub(super) peers: PerLeg<Option<Peer<C>>>,
    ready: PerLeg<Ready>,
    /// In the run queue.
    pub(super) runnable: bool,
    /// The same session as facts and formulas, while its transport can tell them: both legs plain.
    model: Option<Model>,
    plan: Plan,
    /// As the relay was told.
    capacity: PerLeg<usize>,
    /// The plan's, until healing.
    faults: Faults,
    ends: PerLeg<Ends>,
    drain_until: Option<Instant>,
    /// How fast it may read, if there is a limit.
    limits: Option<Limits>,
    setup: Setup,
    silence: Silence,
}

impl<C: Codec> Conn<C> {
    /// Front was accepted just now.
    pub(super) fn new<F: Family<Codec = C>>(family: &mut F, plan: Plan, rng: &mut Rng, now: Instant) -> Self {
        let config = plan.config();
        let stranger = plan.faults.stranger;
        let (bulk, hasty) = (plan.is_bulk(), plan.faults.hasty);
        let parts = Parts { secure: plan.secure.front, dials: false, stranger, bulk, hasty };
        let (front, peer) = family.pair(rng, parts);
        let mut net = Net::new(plan.faults, Rng::new(rng.next()));
        for leg in Leg::BOTH {
            let wire = &mut net.wires[leg];
            wire.to_relay.capacity = 1 + plan.most / 8 + rng.below(4 * plan.most);
            wire.from_relay.capacity = 1 + plan.most / 8 + rng.below(4 * plan.most);
            let slots = 1 + rng.below(16);
            wire.from_relay.slot_limit = plan.faults.slots.then_some(slots);
        }
        net.wires.front.known = Ready::BOTH;
        net.pipe_from = (plan.secure == PerLeg::both(false)).then(|| plan.pipe_from.bytes());
        let plain = plan.secure == PerLeg::both(false);
        Self {
            relay: Relay::new(config, front, now),
            net,
            peers: PerLeg::new(Some(Peer::new(peer, 1, 2, plan.bytes.front, plan.ends.front)), None),
            ready: PerLeg::new(Ready::BOTH, Ready::default()),
            runnable: true,
            model: plain.then(|| Model::new(config, now)),
            plan,
            capacity: config.capacity,
            faults: plan.faults,
            ends: plan.ends,
            drain_until: None,
            limits: limits(&plan, now),
            setup: Setup::new(plan.secure, now),
            silence: Silence::new(now),
        }
    }

    /// It has to share in these buckets.
    pub(super) fn share(&mut self, buckets: impl IntoIterator<Item = Arc<Bucket>>, now: Instant) {
        self.limits = Some(Limits::new(buckets, false, now));
    }

    /// Bytes that it read under the limits, or a few less.
    pub(super) fn counted(&self) -> u64 {
        self.limits.as_ref().map_or(0, |limits| limits.counted)
    }

    /// When something is to be done next without an edge.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let timer = self.relay.next_timeout().map(|(at, _)| at);
        let grant = self.limits.as_ref().and_then(|limits| limits.throttle.ready_at());
        [timer, grant].into_iter().flatten().min()
    }

    pub(super) const fn outcome(&self) -> Option<&Outcome> {
        self.relay.outcome()
    }

    /// What a failure report says of it.
    pub(super) fn describe(&self) -> String {
        let peers = self.peers.as_ref().map(|peer| peer.as_ref().map_or_else(String::new, Peer::describe));
        format!("{:?}\n  {:?}\n  {:?}\n  {peers:?}", self.plan, self.relay.session(), self.ready)
    }

    /// Trouble that comes from outside. Most rounds there is none.
    pub(super) fn disturb(&mut self, rng: &mut Rng) {
        let faults = self.faults;
        let leg = if rng.chance(50) { Leg::Front } else { Leg::Back };
        if faults.spurious && rng.chance(10) {
            self.spurious_edges(leg);
        }
        if faults.storm && rng.chance(3) {
            self.net.storming = !self.net.storming;
        }
        let kind = rng.below(self.plan.calm);
        let kinds = [faults.reset, faults.truncate, faults.garbage, faults.dead_end, faults.hang_up];
        if kinds.get(kind) == Some(&true) {
            self.trouble(leg, kind, rng);
        } else if faults.refuse && self.uploads_to(leg) && rng.chance(10) {
            self.trouble(leg, 5, rng);
        } else if faults.stall && rng.chance(5) {
            self.sleep(leg, rng.chance(60));
        }
    }

    /// Something is on its way to `leg`, and more may come.
    fn uploads_to(&self, leg: Leg) -> bool {
        let session = self.relay.session();
        session.phase(leg.other()) == Phase::Open && session.stats().read[leg.other()] > 0
    }

    /// A reset, an end without good order, what nobody can open, writes that take nothing, a peer that
    /// closes without waiting for anything, one that takes nothing more.
    pub(super) fn trouble(&mut self, leg: Leg, kind: usize, rng: &mut Rng) {
        let Some(peer) = &mut self.peers[leg] else { return };
        let wire = &mut self.net.wires[leg];
        match kind {
            0 if !wire.gone => wire.peer_reset(),
            1 if !peer.fin_sent => peer.vanish(wire),
            2 if !peer.fin_sent => peer.babble(rng),
            3 => wire.dead_end = true,
            4 if !wire.gone => {
                if !peer.fin_sent {
                    peer.vanish(wire);
                }
                wire.peer_closed();
            }
            5 if !wire.gone && !wire.refuses && peer.is_secured() => {
                wire.peer_refuses();
                // It has something to say to that.
                peer.say_more(rng.below(10 * self.plan.most) as u64);
            }
            _ => {}
        }
    }

    /// A peer stops listening, or speaking, or goes on with it.
    pub(super) fn sleep(&mut self, leg: Leg, deaf: bool) {
        let Some(peer) = &mut self.peers[leg] else { return };
        if deaf {
            peer.deaf = !peer.deaf;
        } else {
            peer.mute = !peer.mute;
        }
    }

    /// Edges that mean nothing.
    pub(super) fn spurious_edges(&mut self, leg: Leg) {
        let edges = &mut self.net.wires[leg].edges;
        *edges = Ready { hung_up: edges.hung_up, ..Ready::BOTH };
    }

    /// No more trouble: everybody listens, speaks and ends.
    pub(super) fn heal(&mut self) {
        (self.net.faults, self.faults) = (Faults::default(), Faults::default());
        self.net.storming = false;
        for leg in Leg::BOTH {
            if let Some(peer) = &mut self.peers[leg] {
                peer.wake();
                peer.lose_patience();
            }
        }
        self.ends = PerLeg::both(Ends::Early);
    }

    /// Peers that slept go on; whether there were any.
    pub(super) fn wake_peers(&mut self) -> bool {
        let mut slept = false;
        for leg in Leg::BOTH {
            slept |= self.peers[leg].as_mut().is_some_and(Peer::wake);
        }
        slept
    }

    /// Peers that wait for the other one's end wait no longer, and one that can't hear leaves;
    /// whether there were any.
    pub(super) fn lose_patience(&mut self) -> bool {
        let mut waited = false;
        for leg in Leg::BOTH {
            let wire = &mut self.net.wires[leg];
            if wire.dead_end && !wire.gone {
                wire.peer_reset();
                waited = true;
            }
            waited |= self.peers[leg].as_mut().is_some_and(Peer::lose_patience);
        }
        waited
    }

    /// Everybody gets a chance, in an order that the seed tells; whether anybody used it.
    pub(super) fn turn(&mut self, pool: &mut Pool, rng: &mut Rng, now: Instant) -> Result<bool, Violation> {
        let mut active = false;
        let first = rng.below(4);
        for turn in 0..4 {
            match (first + turn) % 4 {
                0 => active |= self.peer_acts(Leg::Front, rng)?,
                1 => active |= self.peer_acts(Leg::Back, rng)?,
                2 => active |= self.see_edges(rng),
                _ => {
                    let budget = 1 + rng.below(4 * self.plan.most);
                    active |= self.pump(pool, budget, now)?;
                }
            }
        }
        Ok(active)
    }

    /// Whoever uploads what is thrown away goes on with it; whether anybody does.
    pub(super) fn flood(&mut self) -> bool {
        let mut floods = false;
        for leg in Leg::BOTH {
            if let Some(peer) = &mut self.peers[leg]
                && !self.net.wires[leg].gone
                && self.relay.session().phase(leg) == Phase::Discarding
            {
                floods |= peer.flood();
            }
        }
        floods
    }

    /// A peer that says nothing for now.
    pub(super) fn silence(&mut self, leg: Leg) {
        if let Some(peer) = &mut self.peers[leg] {
            peer.mute = true;
        }
    }

    /// A peer that begins to say something and then does not go on.
    pub(super) fn falter(&mut self, leg: Leg) {
        if let Some(peer) = &mut self.peers[leg] {
            peer.falters = true;
        }
    }

    pub(super) fn peer_acts(&mut self, leg: Leg, rng: &mut Rng) -> Result<bool, Violation> {
        let Some(peer) = &mut self.peers[leg] else { return Ok(false) };
        let wire = &mut self.net.wires[leg];
        let acted = peer.act(wire, rng, self.plan.most);
        if wire.from_relay.bytes.is_empty() && peer.has_read_all() && !wire.gone {
            let delivered = self.relay.stats().delivered[leg.other()];
            demand_that(Rule::S1, peer.received >= delivered, || {
                format!("{leg}: got {} bytes, counted as delivered are {delivered}", peer.received)
            })?;
        }
        Ok(acted)
    }

    /// The runtime polls.
    pub(super) fn see_edges(&mut self, rng: &mut Rng) -> bool {
        if self.faults.drowsy && rng.chance(80) {
            return false;
        }
        let mut seen = false;
        for leg in Leg::BOTH {
            let wire = &mut self.net.wires[leg];
            let edges = core::mem::take(&mut wire.edges);
            for bits in [&mut self.ready[leg], &mut wire.known] {
                bits.readable |= edges.readable;
                bits.writable |= edges.writable;
                bits.hung_up |= edges.hung_up;
            }
            seen |= edges != Ready::default();
        }
        self.runnable |= seen;
        seen
    }

    /// Whether an edge is still to be seen.
    pub(super) fn has_edges(&self) -> bool {
        Leg::BOTH.into_iter().any(|leg| self.net.wires[leg].edges != Ready::default())
    }

    /// Back took the call.
    pub(super) fn connect<F: Family<Codec = C>>(&mut self, family: &mut F, rng: &mut Rng, now: Instant) {
        let (stranger, bulk) = (self.faults.impostor, self.plan.is_bulk());
        let hasty = self.faults.hasty;
        let parts = Parts { secure: self.plan.secure.back, dials: true, stranger, bulk, hasty };
        let (back, peer) = family.pair(rng, parts);
        self.relay.connected(now, back);
        self.tell_model(now, Input::Connected(Leg::Back));
        self.setup.connected(now);
        self.peers.back = Some(Peer::new(peer, 2, 1, self.plan.bytes.back, self.ends.back));
        self.ready.back = Ready::BOTH;
        self.net.wires.back.known = Ready::BOTH;
        self.runnable = true;
    }

    /// Front has to make room.
    pub(super) fn evict(&mut self, now: Instant) {
        self.relay.setup_failed(now, Leg::Front, Failure::Evicted);
        self.tell_model(now, Input::ReadFailed(Leg::Front, Failure::Evicted));
        self.runnable = true;
    }

    /// Others are dialed first.
    pub(super) fn queued(&mut self, now: Instant) {
        self.relay.queued(now);
        self.tell_model(now, Input::Queued);
        self.setup.turn(None);
        self.runnable = true;
    }

    /// They were.
    pub(super) fn take_turn(&mut self, since: Instant, now: Instant) {
        self.relay.turn(now, since);
        self.tell_model(now, Input::Turn(since));
        self.setup.turn(Some(since));
        self.runnable = true;
    }

    /// Back can't be reached.
    pub(super) fn unreachable(&mut self, failure: Failure, now: Instant) {
        self.relay.setup_failed(now, Leg::Back, failure);
        self.tell_model(now, Input::ReadFailed(Leg::Back, failure));
        self.runnable = true;
    }

    pub(super) fn stop(&mut self, stop: Stop, now: Instant) {
        self.relay.stop(now, stop);
        self.tell_model(now, Input::Stop(stop));
        if let Stop::Drain { until } = stop {
            self.drain_until = Some(self.drain_until.map_or(until, |known| known.min(until)));
        }
        self.runnable = true;
    }

    /// A peer would not be let in any more, if it ever was.
    pub(super) fn distrust(&mut self, leg: Leg, now: Instant) -> Result<(), Violation> {
        let secured = self.plan.secure[leg] && self.relay.session().is_up(leg);
        self.relay.distrusted(now, leg, Distrust::Revoked);
        if secured {
            self.tell_model(now, Input::Distrusted(leg, Distrust::Revoked));
        }
        self.runnable = true;
        demand_that(Rule::S9, !secured || self.outcome().is_some(), || {
            format!("{leg}: its peer is trusted no longer, and it is still open")
        })
    }

    fn tell_model(&mut self, now: Instant, input: Input) {
        if let Some(model) = &mut self.model {
            model.handle(now, input);
        }
    }

    /// The clock shows `now`.
    pub(super) fn on_time(&mut self, now: Instant) -> Result<(), Violation> {
        let granted = self.limits.as_ref().and_then(|limits| limits.throttle.ready_at());
        self.runnable |= granted.is_some_and(|at| at <= now);
        let open = self.outcome().is_none();
        let due = self.relay.next_timeout();
        if let Some(model) = &self.model {
            let ought = model.next_timeout();
            demand_that(Rule::S8, due == ought, || format!("next is {due:?}, by the facts {ought:?}"))?;
        }
        self.relay.handle_timeout(now);
        let fired = open && self.outcome().is_some();
        demand_that(Rule::S8, fired == due.is_some_and(|(at, _)| at <= now), || {
            format!("at {now:?} the timer {due:?} fired: {fired}")
        })?;
        let late = self.drain_until.is_some_and(|until| until <= now) && self.outcome().is_none();
        demand_that(Rule::S8, !late, || format!("still open at {now:?} after the drain's deadline"))?;
        if fired
            && let Some(model) = &mut self.model
            && let Some((_, timer)) = due
        {
            model.give_up(EndReason::TimedOut(timer));
        }
        if open {
            let timer = due.filter(|_| fired).map(|(_, timer)| timer);
            self.silence.check(self.relay.session(), timer, now)?;
        }
        self.check_reasons()
    }

    /// The runtime runs what is runnable. Whether the transport was called.
    pub(super) fn pump(&mut self, pool: &mut Pool, budget: usize, now: Instant) -> Result<bool, Violation> {
        if !core::mem::take(&mut self.runnable) || self.outcome().is_some() {
            return Ok(false);
        }
        let before = self.net.calls;
        self.net.lends = self.plan.faults.pipes && self.net.rng.chance(70);
        let pumped = self.pump_once(budget, pool, now)?;
        match pumped {
            Pumped::Again => self.runnable = true,
            Pumped::Done => {
                let kept = Leg::BOTH.into_iter().any(|leg| self.net.pipes[leg].is_some());
                demand_that(Rule::S2, !kept, || "closed, and yet it keeps a pipe".into())?;
            }
            Pumped::Idle => {
                self.check_idle()?;
                let calls = self.net.calls;
                // who has hung up is looked at in any turn, and an interrupted look is made again
                let interrupted = core::mem::take(&mut self.net.faults.interrupted);
                let again = self.pump_once(budget, pool, now)?;
                self.net.faults.interrupted = interrupted;
                demand_that(Rule::L5, again == Pumped::Idle && calls == self.net.calls, || {
                    format!("idle, and yet it goes on: {again:?}")
                })?;
            }
        }
        Ok(self.net.calls > before)
    }

    fn pump_once(&mut self, budget: usize, pool: &mut Pool, now: Instant) -> Result<Pumped, Violation> {
        self.net.begin_turn(budget);
        let counts = self.relay.session().is_up(Leg::Back);
        let waited = self.limits.as_ref().and_then(|limits| limits.throttle.ready_at());
        let throttle = self.limits.as_mut().map(|limits| &mut limits.throttle);
        let (relay, net, ready) = (&mut self.relay, &mut self.net, &mut self.ready);
        let pumped = match self.plan.pipe_from {
            PipeFrom::Always => pump_throttled(relay, net, ready, pool, now, budget, throttle),
            PipeFrom::First => {
                let net = &mut PipesFrom::<FIRST>(net);
                pump_throttled(relay, net, ready, pool, now, budget, throttle)
            }
            PipeFrom::Second => {
                let net = &mut PipesFrom::<{ FIRST + 1 }>(net);
                pump_throttled(relay, net, ready, pool, now, budget, throttle)
            }
            PipeFrom::Usual => {
                let net = &mut PipesFrom::<USUAL>(net);
                pump_throttled(relay, net, ready, pool, now, budget, throttle)
            }
        };
        self.check_rate(pumped, counts, waited, now)?;
        self.net.broken.take().map_or(Ok(()), Err)?;
        let closed = self.outcome().is_some();
        demand_that(Rule::S4, closed == (pumped == Pumped::Done), || {
            format!("{pumped:?}, closed: {closed}")
        })?;
        let spins = pumped == Pumped::Again && self.net.calls_this_turn == 0;
        demand_that(Rule::L5, !spins, || "again, although the transport was not called".into())?;
        let session = self.relay.session();
        let dials = session.is_up(Leg::Front) && self.relay.codec(Leg::Back).is_none() && !closed;
        demand_that(Rule::S7, self.relay.wants_connect() == dials, || {
            format!("back is to be dialed: {}, by the facts {dials}", self.relay.wants_connect())
        })?;
        let hung_up = self
            .outcome()
            .is_some_and(|outcome| outcome.flows.front.reason == EndReason::SourceFailed(Failure::HungUp));
        let waiting = self.relay.links.front.inbound.held();
        demand_that(Rule::S1, !hung_up || waiting == 0, || {
            format!("taken for nobody, with {waiting} bytes of its to be opened")
        })?;
        for input in core::mem::take(&mut self.net.told) {
            self.tell_model(now, input);
        }
        let held = self.relay.session().is_held();
        if let Some(model) = &mut self.model
            && model.held != held
        {
            // Whether it is so for a reason is another rule's matter.
            model.handle(now, if held { Input::Held } else { Input::Released });
        }
        self.silence.look(self.relay.session(), now);
        self.check_setup(now)?;
        self.check_buffers()?;
        self.check_ready()?;
        self.check_model()?;
        Ok(pumped)
    }

    fn check_setup(&mut self, now: Instant) -> Result<(), Violation> {
        for leg in Leg::BOTH {
            if self.relay.codec(leg).is_some_and(Codec::is_secured) {
                self.setup.secured(leg, now);
            }
        }
        if self.outcome().is_some() {
            return Ok(());
        }
        self.setup.check(self.relay.session().config(), self.relay.next_timeout())
    }

    /// B1 for this connection alone, and if it has to wait, B2. Unless it `counts`, handshakes are in it.
    fn check_rate(
        &mut self,
        pumped: Pumped,
        counts: bool,
        waited: Option<Instant>,
        now: Instant,
    ) -> Result<(), Violation> {
        let Some(limits) = &mut self.limits else { return Ok(()) };
        let session = self.relay.session();
        let held = session.is_held() && session.outcome().is_none();
        // What is thrown away is not held back, and such a flow may be broken by now.
        let limited = |leg| counts && !matches!(session.phase(leg), Phase::Discarding | Phase::Broken);
        let limited = PerLeg::new(limited(Leg::Front), limited(Leg::Back));
        limits.check(&self.net.told, limited, waited, held, now)?;
        for leg in Leg::BOTH {
            if session.phase(leg) == Phase::Discarding {
                limits.is_in_vain(leg);
            }
        }
        let waits = limits.throttle.ready_at();
        demand_that(Rule::B2, held || pumped == Pumped::Again || waits.is_none(), || {
            format!("not held, and yet in line for {waits:?}")
        })
    }

    /// S2 for everything that holds bytes; and the ledger's count is what is there.
    fn check_buffers(&self) -> Result<(), Violation> {
        let held = self.relay.held();
        demand_that(Rule::S2, held <= 4 * (LARGEST + SPARE), || format!("{held} bytes in buffers"))?;
        for leg in Leg::BOTH {
            let session = self.relay.session();
            let (source, sink) = (&self.relay.links[leg], &self.relay.links[leg.other()]);
            let counted = session.buffered(leg);
            let layout = source.layout();
            let record = if layout.is_transparent() { 0 } else { layout.payload_max };
            let capacity = self.capacity[leg].max(record);
            demand_that(Rule::S2, counted <= capacity, || format!("{leg}: {counted} bytes of {capacity}"))?;
            let opened: usize = source.inbound.payloads.iter().map(ExactSizeIterator::len).sum();
            let sealed: usize = sink.outbound.marks.iter().map(|(_, payload)| payload).sum();
            demand_that(Rule::S2, sealed == 0 || !sink.outbound.is_empty(), || {
                format!("{leg}: {sealed} bytes that were sent are still counted as waiting")
            })?;
            let laid_out = if sink.layout().is_transparent() { sink.outbound.held() } else { sealed };
            let piped = source.lane.holds();
            let in_pipe = self.net.pipes[leg].as_ref().map(|pipe| pipe.bytes.len());
            let is_piped = matches!(source.lane, Lane::Pipe { .. });
            demand_that(Rule::S2, in_pipe == is_piped.then_some(piped), || {
                format!("{leg}: {:?}, and in its pipe are {in_pipe:?}", source.lane)
            })?;
            let there = opened + laid_out + piped;
            let counts = self.outcome().is_none() && session.phase(leg) != Phase::Discarding;
            demand_that(Rule::S2, !counts || counted == there, || {
                format!("{leg}: {counted} bytes are counted as buffered, {there} are there")
            })?;
        }
        Ok(())
    }

    /// L5: a readiness bit is set from an edge until a call would block, no longer and no shorter.
    fn check_ready(&self) -> Result<(), Violation> {
        for leg in Leg::BOTH {
            let (is, ought) = (self.ready[leg], self.net.wires[leg].known);
            let write_over = self.relay.links[leg].write_over || self.outcome().is_some();
            let right = is.readable == ought.readable
                && is.hung_up == ought.hung_up
                && (is.writable == ought.writable || write_over);
            demand_that(Rule::L5, right, || format!("{leg}: taken for {is:?}, by the edges {ought:?}"))?;
            let early = self.net.wires[leg].written_early;
            demand_that(Rule::L5, !early || write_over, || format!("{leg}: written again without an edge"))?;
        }
        Ok(())
    }

    /// S6: what the session demands is the model's formula over what the transport saw.
    fn check_model(&self) -> Result<(), Violation> {
        let Some(model) = &self.model else { return Ok(()) };
        for leg in Leg::BOTH {
            let (is, ought) = (self.relay.session().demand(leg), model.demand(leg));
            demand_that(Rule::S6, is == ought, || {
                format!("{leg}: demands {is:?}, by the transport's calls {ought:?}")
            })?;
        }
        self.check_reasons()
    }

    fn check_reasons(&self) -> Result<(), Violation> {
        self.model.as_ref().map_or(Ok(()), |model| check_reasons(model, self.outcome()))
    }

    /// L5: idle means that nothing which is demanded could be done.
    fn check_idle(&self) -> Result<(), Violation> {
        for leg in Leg::BOTH {
            let demand = self.relay.session().demand(leg);
            let (link, other) = (&self.relay.links[leg], &self.relay.links[leg.other()]);
            let waiting = !link.outbound.is_empty() || other.inbound.has_payloads() || other.lane.holds() > 0;
            let to_write = waiting || demand.shutdown;
            let writes = self.ready[leg].writable && !link.write_over && to_write && link.codec.is_some();
            demand_that(Rule::L5, !writes, || format!("{leg}: idle, and yet it could write: {demand:?}"))?;
            let room = other.outbound.is_empty() && !link.inbound.has_payloads();
            let keeps = link.lane == Lane::Pipe { holds: 0 };
            demand_that(Rule::L5, !keeps, || format!("{leg}: idle, and yet it keeps an empty pipe"))?;
            let wanted = demand.secure || (demand.read > 0 && room && self.record_fits(leg, demand));
            let held = self.relay.session().is_held();
            let reads = self.ready[leg].readable && wanted && link.inbound.end.is_none() && !held;
            demand_that(Rule::L5, !reads, || format!("{leg}: idle, and yet it could read: {demand:?}"))?;
            let (wire, session) = (&self.net.wires[leg], self.relay.session());
            let nobody = wire.is_over() && session.is_up(leg) && !session.is_up(leg.other());
            demand_that(Rule::L5, !nobody || link.inbound.held() > 0, || {
                format!("{leg}: hung up with nothing to deliver, and yet its backend is waited for")
            })?;
            let read_over = !matches!(session.phase(leg), Phase::Open | Phase::Discarding);
            let reset = wire.known.hung_up && wire.reset.is_some() && read_over && session.is_up(leg.other());
            demand_that(Rule::L5, !reset || link.write_over || !session.is_up(leg), || {
                format!("{leg}: idle, and yet it was reset")
            })?;
        }
        Ok(())
    }

    fn record_fits(&self, leg: Leg, demand: Demand) -> bool {
        let layout = self.relay.links[leg].layout();
        layout.is_transparent() || demand.read >= layout.payload_max
    }

    /// The session is closed: what each peer got and saw must fit what it says.
    pub(super) fn judge(&mut self, pool: &mut Pool) -> Result<Outcome, Violation> {
        let Some(outcome) = self.outcome().copied() else {
            return Err(Violation { rule: Rule::L3, detail: "no outcome".into() });
        };
        self.relay.release(pool);
        for leg in Leg::BOTH {
            self.judge_source(leg, &outcome)?;
        }
        for leg in Leg::BOTH {
            if let Some(mut peer) = self.peers[leg].take() {
                self.judge_leg(leg, &mut peer, &outcome)?;
            }
        }
        Ok(outcome)
    }

    /// A flow ends well only if its source did.
    fn judge_source(&self, leg: Leg, outcome: &Outcome) -> Result<(), Violation> {
        let end = outcome.flows[leg];
        if end.reason.is_clean() {
            let (ended_well, sent) =
                self.peers[leg].as_ref().map_or((false, 0), |peer| (peer.ended_well, peer.sent));
            demand_that(Rule::S3, ended_well, || format!("{leg}: never ended what ended as {end:?}"))?;
            // What a peer had not handed to the network when it vanished was never sent.
            let plain = !self.plan.secure[leg];
            demand_that(Rule::S1, sent == end.read || (plain && sent > end.read), || {
                format!("{leg}: sent {sent} bytes of what ended as {end:?}")
            })?;
        }
        Ok(())
    }

    /// A peer that was not accepted, or could not be understood, was told so.
    fn judge_alert(&self, leg: Leg, peer: &Peer<C>, outcome: &Outcome) -> Result<(), Violation> {
        let refused =
            |failure| matches!(failure, Failure::Rejected | Failure::Protocol | Failure::KeyExhausted);
        let owed = match outcome.flows[leg].reason {
            EndReason::SetupFailed(which, failure) => which == leg && refused(failure),
            EndReason::SourceFailed(failure) => refused(failure),
            EndReason::Eof
            | EndReason::CloseNotify
            | EndReason::SinkFailed(_)
            | EndReason::Severed
            | EndReason::TimedOut(_)
            | EndReason::Distrusted(..)
            | EndReason::Aborted => false,
        };
        let wire = &self.net.wires[leg];
        let said = wire.took_all && !wire.gone && !self.relay.links[leg].closing && !self.plan.faults.hasty;
        demand_that(Rule::C2, !owed || !said || peer.alerted, || {
            format!("{leg}: ended as {:?} and was not told", outcome.flows[leg])
        })
    }

    fn judge_leg(&mut self, leg: Leg, peer: &mut Peer<C>, outcome: &Outcome) -> Result<(), Violation> {
        let wire = &mut self.net.wires[leg];
        let was_gone = wire.gone;
        if !was_gone {
            // A connection that is closed as dead and is not shows its peer a FIN.
            peer.finish(wire, outcome.close[leg] == Close::Reset);
        }
        self.judge_alert(leg, peer, outcome)?;
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
        demand_that(Rule::S5, !orderly || came.reason.is_clean(), || {
            format!("{leg}: saw a clean end of what ended as {came:?}")
        })?;
        demand_that(Rule::S3, orderly || !came.reason.is_clean(), || {
            format!("{leg}: saw {:?} of what ended well: {came:?}", peer.seen)
        })?;
        demand_that(Rule::S1, !came.reason.is_clean() || peer.received == came.read, || {
            format!("{leg}: a clean end after {} of {came:?}", peer.received)
        })
    }
}

/// What the plan says of them: a bucket for the process, and one for the key.
fn limits(plan: &Plan, now: Instant) -> Option<Limits> {
    let rates = [plan.limit, plan.key_limit];
    let buckets = rates.into_iter().flatten().map(|rate| Arc::new(Bucket::new(rate, now)));
    rates.iter().any(Option::is_some).then(|| Limits::new(buckets, true, now))
}
