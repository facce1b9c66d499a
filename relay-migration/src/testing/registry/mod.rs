//! The registry in a world without sockets: a simulated runtime, the rules as named checkers, an
//! explorer of everything that can happen to one migration, and upstream's manager re-enacted.

pub mod explorer;
pub mod rules;
pub mod upstream;
pub mod world;
