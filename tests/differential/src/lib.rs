//! Scripted sessions: what two peers do to each other through a relay, and what the operator does to
//! that, told to any [`Runtime`](relay_node::Runtime), with a [`Record`] of all that can be seen.
//!
//! Two runtimes are held equal by telling both the same [`Script`] and comparing what is recorded. So a
//! script must have one end only: between its steps [`record`](record()) waits for what can be
//! observed (bytes counted, an end read), never for time to pass. Timers are short only where nothing else
//! is to happen before they fire.
//!
//! `relay_tokio::relay`, of which nothing can be asked while it runs, is told those scripts in which only the
//! peers take part, by [`record_joined`].

mod certificates;
mod joined;
mod node;
mod peer;
mod record;
mod script;

pub use joined::record_joined;
pub use node::Ended;
pub use peer::Seen;
pub use record::{Record, Trace, record};
pub use script::{Absence, Kind, Plot, Road, Script, Side, Step, Stranger, scripts, scripts_among_peers};
