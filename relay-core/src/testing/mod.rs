//! What the tests of this crate and of those above share: a reference model, the invariants as
//! named checkers, an explorer of every reachable state, a toy codec, a simulated network.
//!
//! Behind the feature `testing`; nothing of it is in an ordinary build.

pub mod admission;
pub mod bandwidth;
pub mod explorer;
pub mod lane;
pub mod model;
pub mod replay;
pub mod rng;
pub mod rules;
pub mod sim;
pub mod toy;
pub mod transitions;
mod upload;
pub mod world;
