//! Sessions larger than can be explored: random stories over the same actions, each step held
//! against the same rules, and then a healing phase that must end (L3).
#![cfg(feature = "testing")]

use std::time::Duration;

use proptest::prelude::*;
use relay_core::testing::rules::{check_step, has_demand};
use relay_core::testing::world::{Action, Scope, World};
use relay_core::{Config, Input, Leg, PerLeg};

fn timeout() -> impl Strategy<Value = Option<Duration>> {
    proptest::option::of((1_u64..50).prop_map(Duration::from_nanos))
}

prop_compose! {
    fn config()(
        capacity in (1_usize..300, 1_usize..300),
        secure in any::<(bool, bool)>(),
        timeouts in (timeout(), timeout(), timeout(), timeout(), timeout()),
        linger in (0_u64..20, 0_u64..20),
    ) -> Config {
        Config {
            capacity: PerLeg::new(capacity.0, capacity.1),
            secure: PerLeg::new(secure.0, secure.1),
            dial_timeout: timeouts.0,
            secure_timeout: timeouts.1,
            idle_timeout: timeouts.2,
            half_open_timeout: timeouts.3,
            max_lifetime: timeouts.4,
            linger: PerLeg::new(Duration::from_nanos(linger.0), Duration::from_nanos(linger.1)),
        }
    }
}

prop_compose! {
    fn scope()(
        bytes in any::<(u8, u8)>(),
        faults in prop::bool::weighted(0.4),
        full in any::<bool>(),
        stops in prop::bool::weighted(0.3),
        ticks in 0_u8..5,
    ) -> Scope {
        Scope { bytes: PerLeg::new(bytes.0, bytes.1), faults, unnoticed: faults, full, stops, ticks, queues: false, holds: ticks }
    }
}

/// One step, checked. The story so far goes into the failure.
fn step(world: &World, action: Action, story: &mut Vec<Action>) -> Result<World, TestCaseError> {
    story.push(action);
    let next = world.after(action);
    check_step(world, action, &next)
        .map_err(|violation| TestCaseError::fail(format!("{violation}\n{story:?}")))?;
    Ok(next)
}

/// What a healthy pair of peers makes happen next: the most that can be written, FINs, ends.
fn heal(world: &World) -> Option<Action> {
    let healthy = |leg: Leg| {
        let demand = world.session.demand(leg);
        [
            demand.connect.then_some(Input::Connected(leg)),
            demand.secure.then_some(Input::Secured(leg)),
            (demand.write > 0).then_some(Input::Wrote(leg, demand.write)),
            demand.shutdown.then_some(Input::ShutDown(leg)),
            (demand.read > 0).then_some(Input::Eof(leg)),
        ]
    };
    Leg::BOTH.into_iter().flat_map(healthy).flatten().next().map(Action::Do)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Choices are indices into what is possible, so that a shrunk story is still a legal one.
    #[test]
    fn any_story_keeps_every_rule_and_heals(
        config in config(),
        scope in scope(),
        choices in prop::collection::vec(any::<prop::sample::Index>(), 0..300),
    ) {
        let mut story = Vec::new();
        let mut world = World::new(config, scope);
        for choice in choices {
            let actions = world.actions();
            if actions.is_empty() {
                break;
            }
            world = step(&world, actions[choice.index(actions.len())], &mut story)?;
        }
        let mut healing = 0;
        while !world.is_closed() {
            prop_assert!(has_demand(&world), "L3 broken: open, and healthy peers can do nothing\n{story:?}");
            let action = heal(&world).expect("a demand that healthy peers can meet");
            world = step(&world, action, &mut story)?;
            healing += 1;
            prop_assert!(healing < 20, "L3 broken: not closed after {healing} healthy steps\n{story:?}");
        }
    }
}
