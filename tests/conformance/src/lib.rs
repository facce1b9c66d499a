//! What relay's conformance suite is made of: a relay program as a child, and blocking peers on both
//! sides of it that share no code with it. README.md beside this crate's manifest says how to run it
//! and what it covers.
//!
//! Nothing here assumes how long anything takes. A wait is for an event; [`PATIENCE`] only turns a
//! test that would hang into one that fails.

pub mod api;
pub mod log;
pub mod namespace;
pub mod node;
pub mod pattern;
pub mod peer;
pub mod pki;
pub mod relay;
pub mod rig;
pub mod scratch;
pub mod tls;

use std::io::Write;
use std::time::Duration;

pub use namespace::Namespace;
pub use node::Node;
pub use pattern::{Pattern, Received, expect, receive, receive_all, send, send_all, transfer};
pub use peer::{Endpoint, Peer, Sink};
pub use pki::Authority;
pub use relay::{Relay, Setup};
pub use rig::{Kind, Rig, Road};
pub use scratch::Scratch;
pub use tls::TlsEnd;

/// Against hanging for ever; nothing is expected to take that long.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// 2²⁰ bytes.
pub const MIB: usize = 1 << 20;

/// Whether to run everything at its full size: `RELAY_CONFORMANCE=full`.
#[must_use]
pub fn is_full() -> bool {
    std::env::var_os("RELAY_CONFORMANCE").is_some_and(|size| size == "full")
}

/// One of two sizes, by [`is_full`].
pub fn sized<T>(moderate: T, full: T) -> T {
    if is_full() { full } else { moderate }
}

/// Says loudly that something is not shown here, and why. The test harness does not hide it.
pub fn skipped(what: &str) {
    let _ = writeln!(std::io::stderr(), "\n!!! SKIPPED: {what}");
}
