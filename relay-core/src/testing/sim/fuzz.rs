//! The body of the fuzz target `relay_states`: a list of operations, byte by byte, over the very pump
//! and the reference model, then healing. A broken rule panics with its name.

use core::num::NonZeroU64;
use core::time::Duration;

use super::piping::PipeFrom;
use super::plan::{Ends, Faults, Plan, epoch};
use super::run::Sim;
use super::{ToyFamily, guarded};
use crate::error::Failure;
use crate::leg::{Leg, PerLeg};
use crate::session::Stop;

use super::super::rules::Violation;

/// Bytes before the first operation.
const HEADER: usize = 8;
/// More operations say nothing new, and a finding in many is hard to read.
const OPERATIONS: usize = 2000;

/// Plays the story that `data` tells.
///
/// # Panics
/// If a rule is broken, with its name.
pub fn relay_states(data: &[u8]) {
    let Some((header, operations)) = data.split_first_chunk::<HEADER>() else { return };
    let mut family = ToyFamily;
    let mut sim = Sim::new(&mut family, plan(*header));
    let told = guarded(|| {
        for operation in operations.iter().take(OPERATIONS) {
            if !sim.is_open() {
                break;
            }
            perform(&mut sim, *operation)?;
        }
        sim.heal();
        sim.finish()
    });
    if let Err(violation) = told {
        panic!("{violation}\n  {}", sim.conn.describe());
    }
}

fn plan(header: [u8; HEADER]) -> Plan {
    let [seed, more_seed, legs, most, front, back, faults, more_faults] = header;
    let (choice, most) = (most, [1, 3, 40, 700][usize::from(most % 4)]);
    // How time goes on is told in powers of two of a millisecond.
    let timeouts =
        [Some(10_000), Some(100), Some(6000), None].map(|millis| millis.map(Duration::from_millis));
    let bit = |byte: u8, at: u32| byte >> at & 1 == 1;
    Plan {
        seed: u64::from(seed) | u64::from(more_seed) << 8,
        secure: PerLeg::new(bit(legs, 0), bit(legs, 1)),
        // few steps, so that many stories are told a second
        bytes: PerLeg::new(front, back).map(|byte| u64::from(byte) * most.min(8) as u64 / 2),
        most,
        chaos: 0,
        calm: 1,
        ends: PerLeg::new(bit(legs, 2), bit(legs, 3)).map(|late| if late { Ends::Late } else { Ends::Early }),
        faults: Faults {
            short: bit(faults, 0),
            would_block: bit(faults, 1),
            interrupted: bit(faults, 2),
            slots: bit(faults, 3),
            dial: bit(faults, 4),
            stranger: bit(more_faults, 0) && bit(more_faults, 4),
            impostor: bit(more_faults, 1) && bit(more_faults, 4),
            hasty: bit(more_faults, 2) && bit(more_faults, 4),
            pipes: bit(more_faults, 5),
            no_splice: bit(more_faults, 6),
            flood: bit(choice, 7),
            ..Faults::default()
        },
        limit: NonZeroU64::new(2000).filter(|_| bit(more_faults, 7)),
        key_limit: NonZeroU64::new(1000).filter(|_| bit(more_faults, 7) && bit(choice, 2)),
        epoch: epoch(u64::from(faults >> 5)),
        pipe_from: PipeFrom::choose(u64::from(choice >> 3)),
        dial_timeout: timeouts[usize::from(legs >> 4 & 3)],
        secure_timeout: timeouts[usize::from(legs >> 6)],
    }
}

/// The low half says what, the high half how.
fn perform(sim: &mut Sim<'_, ToyFamily>, operation: u8) -> Result<(), Violation> {
    let how = operation >> 4;
    let leg = if how & 1 == 0 { Leg::Front } else { Leg::Back };
    match operation & 15 {
        0..=2 => {
            sim.conn.peer_acts(leg, &mut sim.rng)?;
        }
        3 | 4 => {
            sim.conn.see_edges(&mut sim.rng);
        }
        5..=7 => {
            let budget = 1 << how;
            sim.conn.pump(&mut sim.pool, budget, sim.now)?;
        }
        8 => {
            sim.dial();
        }
        9 => sim.round()?,
        10 => {
            sim.now = sim.now + Duration::from_millis(1 << how);
            sim.conn.on_time(sim.now)?;
        }
        11 if how == 15 => sim.stop(Stop::Abort),
        11 if how == 11 || how == 12 => sim.conn.distrust(leg, sim.now)?,
        11 if how > 12 => {
            let until = sim.now + Duration::from_secs(u64::from(how));
            sim.stop(Stop::Drain { until });
        }
        12 if how > 5 => sim.conn.trouble(leg, usize::from(how >> 1) - 3, &mut sim.rng),
        12 if how > 3 => sim.conn.trouble(leg, 5, &mut sim.rng),
        13 => sim.conn.sleep(leg, how & 2 == 0),
        14 => sim.conn.spurious_edges(leg),
        15 if how < 4 && sim.may_dial() => {
            sim.refuse(
                [Failure::Denied, Failure::Refused, Failure::Busy, Failure::NotFound][usize::from(how)],
            );
        }
        _ => {}
    }
    Ok(())
}
