//! What the tests of this crate and of those above share. Behind the feature `testing`; nothing of it
//! is in an ordinary build.

pub mod fuzz;
pub mod registry;
