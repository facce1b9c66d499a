//! Long random lives of larger sessions than can be enumerated, on the explorer's alphabet: a life is
//! a list of indices into what can happen, so that it stays legal while it is made shorter.
#![cfg(feature = "testing")]

use std::time::Duration;

use proptest::prelude::*;
use relay_core::testing::rules::check_step;
use relay_core::testing::world::{Action, Scope, World};
use relay_core::{Config, Input, PerLeg};

prop_compose! {
    fn limits()(
        capacity in (1..40_usize, 1..40_usize),
        secure in (any::<bool>(), any::<bool>()),
        timers in prop::collection::vec(prop::option::of(1..200_u64), 5),
        linger in (0..30_u64, 0..30_u64),
    ) -> Config {
        let timer = |at: usize| timers[at].map(Duration::from_nanos);
        Config {
            capacity: PerLeg::new(capacity.0, capacity.1),
            secure: PerLeg::new(secure.0, secure.1),
            dial_timeout: timer(0),
            secure_timeout: timer(1),
            idle_timeout: timer(2),
            half_open_timeout: timer(3),
            max_lifetime: timer(4),
            linger: PerLeg::new(Duration::from_nanos(linger.0), Duration::from_nanos(linger.1)),
        }
    }
}

/// Whether life goes on after it.
const fn moves(action: Action) -> bool {
    match action {
        Action::Do(input) => match input {
            Input::Connected(_) | Input::Secured(_) | Input::Read(..) | Input::Wrote(..) | Input::Full(_) => {
                true
            }
            Input::Eof(_)
            | Input::ShutDown(_)
            | Input::ReadFailed(..)
            | Input::WriteFailed(..)
            | Input::Stop(_)
            | Input::Distrusted(..)
            | Input::Held
            | Input::Released
            | Input::Queued
            | Input::Turn(_) => false,
        },
        Action::AlmostExpire => true,
        Action::Expire => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_step_of_a_long_life_keeps_every_rule(
        config in limits(),
        bytes in (0..200_u8, 0..200_u8),
        (faults, full, stops) in (any::<bool>(), any::<bool>(), any::<bool>()),
        life in prop::collection::vec((any::<prop::sample::Index>(), 0..100_u8), 1..150),
    ) {
        let scope = Scope { bytes: PerLeg::new(bytes.0, bytes.1), faults, unnoticed: faults, full, stops, ticks: 3, queues: stops, holds: u8::from(full) };
        let mut world = World::new(config, scope);
        for (choice, daring) in life {
            let mut actions = world.actions();
            // Most lives would end at their first fault: rarely take one while bytes can move.
            if daring < 93 && actions.iter().any(|action| moves(*action)) {
                actions.retain(|action| moves(*action));
            }
            if actions.is_empty() {
                break;
            }
            let action = *choice.get(&actions);
            let next = world.after(action);
            if let Err(violation) = check_step(&world, action, &next) {
                return Err(TestCaseError::fail(format!("{violation} by {action:?}")));
            }
            world = next;
        }
    }
}
