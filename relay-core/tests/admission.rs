//! Every reachable state of a small gate and a small order; defects of either must show; and long
//! random lives of larger ones.
#![cfg(feature = "testing")]

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use relay_core::Instant;
use relay_core::admission::{Gate, Limits, ListenerId, Order, Peers, Stranger};
use relay_core::testing::admission::{DialScene, GateScene, LingerScene, Mutant, OrderScene, Scene, explore};

#[test]
fn every_reachable_state_keeps_every_rule() {
    println!("{}", show("gate", GateScene::new(Mutant::None)));
    println!("{}", show("gate, calm", GateScene::calm(Mutant::None)));
    println!("{}", show("gate, crowded", GateScene::crowded(Mutant::None)));
    println!("{}", show("order", OrderScene::new(Mutant::None)));
    for (addresses, seed) in (0..16).flat_map(|seed| [(1, seed), (2, seed)]) {
        if let Err(violation) = explore(DialScene::new(addresses, seed)) {
            panic!("{addresses} addresses, seed {seed}: {violation}");
        }
    }
    for unsent in [2, 20] {
        println!("{}", show("linger", LingerScene::new(unsent)));
    }
}

fn show(name: &str, scene: impl Scene) -> String {
    let start = std::time::Instant::now();
    match explore(scene) {
        Ok(states) => format!("{name:13} {states:7} states {:6.2} s", start.elapsed().as_secs_f64()),
        Err(violation) => panic!("{violation}"),
    }
}

#[test]
fn every_mutant_is_noticed() {
    for mutant in [
        Mutant::ForgetsOwedOnExhaustion,
        Mutant::NoHysteresis,
        Mutant::WaitsForTheTimerOnly,
        Mutant::StrangersKeepOutKnown,
        Mutant::AcceptsAfterStop,
    ] {
        let violation = explore(GateScene::new(mutant)).expect_err(&format!("{mutant:?} passes"));
        println!("{mutant:?}: {:?}", violation.rule);
    }
    for mutant in [
        Mutant::WaitsForStrangers,
        Mutant::OvertakesAtOnce,
        Mutant::OvertakesTheReady,
        Mutant::WindowPerFollower,
        Mutant::WindowOfTheFirst,
    ] {
        let violation = explore(OrderScene::new(mutant)).expect_err(&format!("{mutant:?} passes"));
        println!("{mutant:?}: {:?}", violation.rule);
    }
}

/// A kernel with a queue per listener and a table of descriptors; the gate in front of it is woken
/// by edges only. Whatever happens, everybody who connects is served in the end.
#[derive(Debug, Clone, Copy)]
enum Happens {
    Connect(usize, u8),
    Close,
    Prove,
    TakeDescriptors(u8),
    Turn,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        3 => (0..4_usize, 1..8_u8).prop_map(|(listener, count)| Happens::Connect(listener, count)),
        3 => Just(Happens::Close),
        1 => Just(Happens::Prove),
        1 => (0..12_u8).prop_map(Happens::TakeDescriptors),
        4 => Just(Happens::Turn),
    ]
}

struct Kernel {
    waiting: [usize; 4],
    descriptors: usize,
    open: usize,
    strangers: Vec<Stranger>,
    served: usize,
}

impl Kernel {
    fn turn(&mut self, gate: &mut Gate, now: Instant) {
        gate.handle_timeout(now);
        gate.begin_turn();
        while let Some(listener) = gate.wants_accept() {
            if self.waiting[listener.0] == 0 {
                gate.drained(listener);
            } else if self.open >= self.descriptors {
                gate.exhausted(now);
            } else {
                self.waiting[listener.0] -= 1;
                self.open += 1;
                self.served += 1;
                self.strangers.extend(gate.accepted(now, listener));
            }
        }
    }

    fn close(&mut self, gate: &mut Gate) {
        if self.open > 0 {
            let stranger = if self.strangers.len() == self.open { self.strangers.pop() } else { None };
            self.open -= 1;
            gate.closed(stranger);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everybody_is_served_in_the_end(
        life in prop::collection::vec(happens(), 1..200),
        sessions in 1..30_usize,
        strangers in 1..10_usize,
        per_turn in 1..5_usize,
        seed: u64,
    ) {
        let mut gate = Gate::new(Limits { sessions, strangers, per_turn }, seed);
        for listener in 0..4 {
            gate.add(ListenerId(listener), if listener < 2 { Peers::Known } else { Peers::Strangers });
        }
        let mut kernel =
            Kernel { waiting: [0; 4], descriptors: 12, open: 0, strangers: vec![], served: 0 };
        let mut now = Instant::ZERO;
        let mut connected = 0;
        for event in life {
            match event {
                Happens::Connect(listener, count) => {
                    // an edge for each that joins the queue, as epoll gives
                    kernel.waiting[listener] += usize::from(count);
                    connected += usize::from(count);
                    gate.readable(ListenerId(listener));
                }
                Happens::Close => kernel.close(&mut gate),
                Happens::Prove => {
                    if let Some(stranger) = kernel.strangers.pop() {
                        gate.authenticated(stranger);
                    }
                }
                Happens::TakeDescriptors(left) => kernel.descriptors = usize::from(left),
                Happens::Turn => kernel.turn(&mut gate, now),
            }
            prop_assert!(kernel.open <= sessions && kernel.strangers.len() <= strangers);
            prop_assert_eq!((gate.sessions(), gate.strangers()), (kernel.open, kernel.strangers.len()));
        }
        // healing: descriptors come back, sessions end, and no edge will say so
        kernel.descriptors = 12;
        for _ in 0..10 * (connected + 10) {
            kernel.turn(&mut gate, now);
            kernel.close(&mut gate);
            if let (false, Some(until)) = (gate.is_owing(), gate.next_timeout()) {
                now = now.max(until);
            }
        }
        prop_assert_eq!(kernel.served, connected);
        prop_assert_eq!(kernel.waiting, [0; 4]);
    }

    /// Without silent ones the order of dialing is the order of accept, whatever the order of
    /// readiness and however long each dial takes; with them nobody waits past the window.
    #[test]
    fn fronts_are_dialed_in_the_order_of_accept(
        delays in prop::collection::vec((0..400_u64, any::<bool>()), 1..60),
    ) {
        let window = Duration::from_millis(500);
        let at = |millis: u64| Instant::ZERO + Duration::from_millis(millis);
        let mut order = Order::new(window);
        let mut becomes_ready: BTreeMap<(u64, usize), _> = BTreeMap::new();
        let mut by_ticket = BTreeMap::new();
        for (index, (delay, speaks)) in delays.iter().enumerate() {
            let ticket = order.accepted();
            by_ticket.insert(ticket, index);
            if *speaks {
                becomes_ready.insert((*delay, index), ticket);
            }
        }
        let mut dialed: Vec<(usize, u64)> = vec![];
        for millis in 0..1000 {
            while let Some(entry) = becomes_ready.first_entry()
                && entry.key().0 <= millis
            {
                order.ready(at(millis), entry.remove());
            }
            order.handle_timeout(at(millis));
            while let Some(ticket) = order.turn() {
                dialed.push((by_ticket[&ticket], millis));
                order.left(ticket);
                order.handle_timeout(at(millis));
            }
        }
        let speakers: Vec<_> = (0..delays.len()).filter(|index| delays[*index].1).collect();
        let dialed_indices: Vec<_> = dialed.iter().map(|(index, _)| *index).collect();
        prop_assert_eq!(dialed_indices, speakers);
        for (index, when) in dialed {
            let held_by_ready = delays[..=index].iter().filter(|d| d.1).map(|d| d.0).max().unwrap_or(0);
            prop_assert!(when <= held_by_ready + 500, "front {index} waited until {when}");
        }
    }
}
