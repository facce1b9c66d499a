//! A seeded simulation of a runtime that moves bytes through kernel pipes (splice): bytes lie where
//! neither the session nor the runtime can count what still fits.
//!
//! A pipe has slots as well as a size, a slot holds as little as one byte, and EAGAIN while filling
//! it means either that the slots are used up or that the source is dry. The runtime can't tell, so
//! it says [`Input::Full`] whenever something is in the pipe and keeps the readiness bit; the next
//! write lifts it. Every step is held to the rules of [`check_step`].

use alloc::collections::VecDeque;
use core::time::Duration;
use std::format;
use std::string::String;

use super::rng::Rng;
use super::rules::{Rule, Violation, check_step, demand_that};
use super::world::{Action, Scope, World};
use crate::config::Config;
use crate::error::Failure;
use crate::flow::Phase;
use crate::leg::{Leg, PerLeg};
use crate::pump::Ready;
use crate::session::{Input, Outcome, Stop};

/// Rounds in which healing must be over.
const HEALING_ROUNDS: u64 = 20_000;

/// What one run is about. All of it follows from the seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LanePlan {
    /// Tells the whole story.
    pub seed: u64,
    /// Bytes that each peer sends.
    pub bytes: PerLeg<u64>,
    /// Slots of each pipe.
    pub slots: PerLeg<usize>,
    /// Bytes that a slot gets at most.
    pub segment: usize,
    /// Resets.
    pub resets: bool,
    /// Drains and aborts.
    pub stops: bool,
}

impl LanePlan {
    /// The plan that `seed` stands for.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        Self {
            seed,
            bytes: PerLeg::new(rng.below(300) as u64, rng.below(300) as u64),
            slots: PerLeg::new(1 + rng.below(16), 1 + rng.below(16)),
            segment: 1 + rng.below(30),
            resets: rng.chance(25),
            stops: rng.chance(15),
        }
    }
}

/// One direction: from the peer's socket through a pipe into the opposite peer's socket.
#[derive(Debug, Default)]
struct Lane {
    to_send: u64,
    /// In the source's socket.
    in_source: usize,
    fin: bool,
    /// Lengths of what is in the pipe's slots.
    pipe: VecDeque<usize>,
    /// In the sink's socket.
    in_sink: usize,
    /// FINs that came out.
    fins: u32,
    /// Bytes that came out.
    received: u64,
}

const SOCKET: usize = 40;

struct Runtime {
    world: World,
    plan: LanePlan,
    /// By source.
    lanes: PerLeg<Lane>,
    /// The peer reset; told once.
    reset: PerLeg<Option<Failure>>,
    gone: PerLeg<bool>,
    ready: PerLeg<Ready>,
    rng: Rng,
    healing: bool,
}

/// Simulates one connection over two pipes.
///
/// # Errors
/// The rule that was broken, with the plan, which replays it.
pub fn lane(plan: LanePlan) -> Result<Outcome, String> {
    let mut runtime = Runtime::new(plan);
    runtime.play().map_err(|violation| {
        let (world, lanes, ready) = (&runtime.world, &runtime.lanes, &runtime.ready);
        format!("{violation}\n  {plan:?}\n  {lanes:?}\n  {ready:?}\n  {world:?}")
    })
}

impl Runtime {
    fn new(plan: LanePlan) -> Self {
        let mut rng = Rng::new(plan.seed ^ 0x1a9e);
        let config = Config {
            capacity: PerLeg::new(1 + rng.below(200), 1 + rng.below(200)),
            half_open_timeout: rng.chance(80).then_some(Duration::from_secs(60)),
            linger: PerLeg::new(rng.next() % 2, rng.next() % 2).map(Duration::from_secs),
            ..Config::new(1)
        };
        let scope = Scope {
            bytes: PerLeg::both(0),
            faults: true,
            unnoticed: true,
            full: true,
            stops: plan.stops,
            ticks: 0,
            queues: false,
            holds: 0,
        };
        let lane = |bytes| Lane { to_send: bytes, ..Lane::default() };
        Self {
            world: World::new(config, scope),
            plan,
            lanes: plan.bytes.map(lane),
            reset: PerLeg::both(None),
            gone: PerLeg::both(false),
            ready: PerLeg::both(Ready::BOTH),
            rng,
            healing: false,
        }
    }

    fn tell(&mut self, input: Input) -> Result<(), Violation> {
        self.step(Action::Do(input))
    }

    fn step(&mut self, action: Action) -> Result<(), Violation> {
        let after = self.world.after(action);
        check_step(&self.world, action, &after)?;
        self.world = after;
        Ok(())
    }

    fn play(&mut self) -> Result<Outcome, Violation> {
        self.tell(Input::Connected(Leg::Back))?;
        for _ in 0..self.rng.below(200) {
            self.disturb()?;
            self.round()?;
        }
        self.healing = true;
        let mut rounds = 0;
        while !self.world.is_closed() {
            rounds += 1;
            demand_that(Rule::L3, rounds < HEALING_ROUNDS, || "the relay does not close".into())?;
            self.round()?;
        }
        self.judge()
    }

    fn disturb(&mut self) -> Result<(), Violation> {
        let leg = if self.rng.chance(50) { Leg::Front } else { Leg::Back };
        if self.plan.resets && self.rng.below(200) == 0 && !self.gone[leg] {
            self.gone[leg] = true;
            self.reset[leg] = Some(Failure::Reset);
            self.ready[leg] = Ready::BOTH;
        }
        if self.plan.stops && self.rng.below(200) == 0 && !self.world.is_closed() {
            let until = self.world.now + Duration::from_secs(self.rng.next() % 100);
            let stop = if self.rng.chance(30) { Stop::Abort } else { Stop::Drain { until } };
            self.tell(Input::Stop(stop))?;
        }
        Ok(())
    }

    fn round(&mut self) -> Result<(), Violation> {
        let mut active = false;
        for leg in Leg::BOTH {
            active |= self.peer_acts(leg);
        }
        for leg in Leg::BOTH {
            active |= self.empty(leg)?;
            active |= self.fill(leg)?;
        }
        if active || self.world.is_closed() {
            return Ok(());
        }
        let stuck = self.world.session.next_timeout().is_none();
        demand_that(Rule::L5, !stuck, || "nothing can happen and no timer runs".into())?;
        self.step(Action::Expire)
    }

    /// Sends into its socket and reads from it.
    fn peer_acts(&mut self, leg: Leg) -> bool {
        if self.gone[leg] {
            return false;
        }
        let most = self.plan.segment;
        let (own, other) = self.lanes.split_mut(leg);
        let sends = (SOCKET - own.in_source).min(1 + self.rng.below(most)).min(own.to_send as usize);
        own.in_source += sends;
        own.to_send -= sends as u64;
        let ends = own.to_send == 0 && !own.fin && self.rng.chance(30);
        own.fin |= ends;
        self.ready[leg].readable |= sends > 0 || ends;
        let deaf = !self.healing && self.rng.chance(50);
        let reads = if deaf { 0 } else { other.in_sink.min(1 + self.rng.below(most)) };
        other.in_sink -= reads;
        other.received += reads as u64;
        self.ready[leg].writable |= reads > 0;
        sends > 0 || reads > 0 || ends || own.to_send == 0 && !own.fin || deaf
    }

    /// From the source's socket into the pipe, with one splice(2).
    fn fill(&mut self, leg: Leg) -> Result<bool, Violation> {
        let demand = self.world.session.demand(leg);
        if demand.read == 0 || !self.ready[leg].readable {
            return Ok(false);
        }
        let lane = &mut self.lanes[leg];
        let discards = self.world.session.phase(leg) == Phase::Discarding;
        if let Some(failure) = self.reset[leg].take() {
            lane.fin = true;
            self.tell(Input::ReadFailed(leg, failure))?;
            return Ok(true);
        }
        if lane.in_source == 0 && (lane.fin || self.gone[leg]) {
            self.tell(Input::Eof(leg))?;
            return Ok(true);
        }
        let mut moved = 0;
        while (discards || lane.pipe.len() < self.plan.slots[leg]) && moved < demand.read {
            let segment = lane.in_source.min(demand.read - moved).min(1 + self.rng.below(self.plan.segment));
            if segment == 0 {
                break;
            }
            lane.in_source -= segment;
            if !discards {
                lane.pipe.push_back(segment);
            }
            moved += segment;
        }
        if moved > 0 {
            self.tell(Input::Read(leg, moved))?;
        } else if self.world.session.buffered(leg) > 0 {
            self.tell(Input::Full(leg))?;
        } else {
            self.ready[leg].readable = false;
            return Ok(false);
        }
        Ok(true)
    }

    /// From the pipe into the sink's socket, then the FIN.
    fn empty(&mut self, source: Leg) -> Result<bool, Violation> {
        let leg = source.other();
        let demand = self.world.session.demand(leg);
        if (demand.write == 0 && !demand.shutdown) || !self.ready[leg].writable {
            return Ok(false);
        }
        let gone = self.gone[leg].then_some(Failure::BrokenPipe);
        if let Some(failure) = self.reset[leg].take().or(gone) {
            self.lanes[source].pipe.clear();
            self.tell(Input::WriteFailed(leg, failure))?;
            return Ok(true);
        }
        let lane = &mut self.lanes[source];
        if demand.shutdown {
            lane.fins += 1;
            self.tell(Input::ShutDown(leg))?;
            return Ok(true);
        }
        let mut moved = 0;
        while let Some(first) = lane.pipe.front_mut()
            && lane.in_sink < SOCKET
        {
            let part = (*first).min(SOCKET - lane.in_sink).min(1 + self.rng.below(self.plan.segment));
            *first -= part;
            lane.in_sink += part;
            moved += part;
            if *first == 0 {
                lane.pipe.pop_front();
            }
        }
        if moved == 0 {
            self.ready[leg].writable = false;
            return Ok(false);
        }
        self.tell(Input::Wrote(leg, moved))?;
        Ok(true)
    }

    fn judge(&self) -> Result<Outcome, Violation> {
        let Some(outcome) = self.world.session.outcome() else {
            return Err(Violation { rule: Rule::L3, detail: "no outcome".into() });
        };
        for leg in Leg::BOTH {
            let (lane, end) = (&self.lanes[leg], outcome.flows[leg]);
            let received = lane.received + lane.in_sink as u64;
            demand_that(Rule::S1, received == end.delivered, || {
                format!("{leg}: {received} came out, counted are {end:?}")
            })?;
            let complete = lane.fin && lane.in_source == 0 && lane.pipe.is_empty() && lane.to_send == 0;
            demand_that(Rule::S3, end.reason.is_clean() == (lane.fins == 1), || {
                format!("{leg}: {} FINs came out of what ended as {end:?}", lane.fins)
            })?;
            demand_that(Rule::S1, !end.reason.is_clean() || complete, || {
                format!("{leg}: ended well with bytes missing: {lane:?}")
            })?;
        }
        Ok(*outcome)
    }
}
