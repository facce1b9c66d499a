//! The loop from outside: real sockets, plain and TLS, one relay and two. relay-tokio includes what is not
//! about this loop alone.

mod commands;
mod dialing;
mod idle;
mod program;
mod relaying;
#[allow(dead_code, reason = "another test uses more of it")]
mod rig;
mod strangers;

/// The runtime under test.
type Loop = relay_mio::Mio;
