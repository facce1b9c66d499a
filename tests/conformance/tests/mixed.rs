//! What is about two relays once more, with relay-tokio behind relay-mio.

#[path = "backends.rs"]
mod backends;
#[path = "drain.rs"]
mod drain;
#[path = "nodes.rs"]
mod nodes;
#[path = "pairings.rs"]
mod pairings;
#[path = "resets.rs"]
mod resets;
#[path = "revocation.rs"]
mod revocation;
