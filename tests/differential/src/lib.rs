//! Scripted sessions: what two peers do to each other through a relay, and what the operator does to
//! that, told to any [`Runtime`](relay_node::Runtime), with a [`Record`] of all that can be seen.
//!
//! Two runtimes are held equal by telling both the same [`Script`] and comparing what is recorded. So a
//! script must have one end only: between its steps [`record`](record()) waits for what can be
//! observed (bytes counted, an end read), never for time to pass.

mod node;
mod peer;
mod record;
mod script;

pub use node::Ended;
pub use peer::Seen;
pub use record::{Record, record};
pub use script::{Kind, Road, Script, Side, Step, scripts};
