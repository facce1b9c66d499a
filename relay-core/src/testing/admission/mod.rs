//! Every reachable state of a small [`Gate`](crate::admission::Gate), a small
//! [`Order`](crate::admission::Order), a [`Dialer`](crate::admission::Dialer) and a
//! [`Lingering`](crate::admission::Lingering), each beside a model that keeps the facts apart; and
//! mutants of the models, which must not pass.
//!
//! A mutant is a defect of the model rather than of the code: the comparison cannot tell the
//! difference, and the code that ships stays free of switches.

use core::fmt;
use core::hash::Hash;
use std::collections::HashMap;
use std::vec::Vec;
use std::{format, vec};

use super::rules::Violation;

mod dial;
mod gate;
mod linger;
mod order;

pub use dial::{AtDial, DialScene};
pub use gate::{AtGate, GateScene};
pub use linger::{AtLook, LingerScene};
pub use order::{InLine, OrderScene};

/// A model's defect; each must be noticed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mutant {
    /// The model as it should be.
    None,
    /// An accept that is owed is forgotten when descriptors run out.
    ForgetsOwedOnExhaustion,
    /// The gate opens again as soon as one session has ended.
    NoHysteresis,
    /// A freed descriptor does not end the pause.
    WaitsForTheTimerOnly,
    /// Strangers keep out those who are known.
    StrangersKeepOutKnown,
    /// A stop is forgotten when a session ends.
    AcceptsAfterStop,
    /// Silent ones are waited for as long as they stay.
    WaitsForStrangers,
    /// Silent ones are not waited for.
    OvertakesAtOnce,
    /// Those that are ready are overtaken after the window, too.
    OvertakesTheReady,
    /// The window begins anew for each of those who wait.
    WindowPerFollower,
    /// Only the first in line has a window; one that comes in before it sets it back.
    WindowOfTheFirst,
}

/// Something that can be enumerated.
pub trait Scene: Clone + Eq + Hash + fmt::Debug {
    /// What can happen.
    type Action: Copy + fmt::Debug;

    /// Everything that can happen now.
    fn actions(&self) -> Vec<Self::Action>;

    /// What it is like afterwards.
    #[must_use]
    fn after(&self, action: Self::Action) -> Self;

    /// Holds it to the rules.
    ///
    /// # Errors
    /// The rule that is broken, and how.
    fn check(&self) -> Result<(), Violation>;
}

/// Visits everything that can be reached from `start`; returns how many states there are.
///
/// # Errors
/// The rule that is broken first, with the shortest way there.
pub fn explore<S: Scene>(start: S) -> Result<usize, Violation> {
    let mut known = HashMap::from([(start.clone(), 0)]);
    let mut scenes = vec![(start, None::<(usize, S::Action)>)];
    let mut at = 0;
    while at < scenes.len() {
        let scene = scenes[at].0.clone();
        if let Err(Violation { rule, detail }) = scene.check() {
            let mut trace = vec![];
            let mut step = at;
            while let Some((parent, action)) = scenes[step].1 {
                trace.push(action);
                step = parent;
            }
            trace.reverse();
            let detail = format!("{detail}\n  after {trace:?}\n  {scene:?}");
            return Err(Violation { rule, detail });
        }
        for action in scene.actions() {
            let next = scene.after(action);
            known.entry(next).or_insert_with_key(|next| {
                scenes.push((next.clone(), Some((at, action))));
                scenes.len() - 1
            });
        }
        at += 1;
    }
    Ok(scenes.len())
}
