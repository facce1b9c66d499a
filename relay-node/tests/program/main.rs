//! A whole node program from outside: what it prints, what it obeys, and its exit codes. Run with the
//! example's loop, since all of this is what every loop has in common.

mod api;
mod basics;
mod certificates;
mod check;
mod endpoints;
mod metrics;
mod migration;
mod node;
mod objects;
mod pki;
mod readme;
mod rejection;
mod reload;
mod restart;
mod sandbox;
mod support;
mod watching;
