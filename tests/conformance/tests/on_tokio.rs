//! All of it once more with relay-tokio; of two, the far one is relay-mio.

#[path = "backends.rs"]
mod backends;
#[path = "bandwidth.rs"]
mod bandwidth;
#[path = "drain.rs"]
mod drain;
#[path = "half_close.rs"]
mod half_close;
#[path = "handshakes.rs"]
mod handshakes;
#[path = "leftovers.rs"]
mod leftovers;
#[path = "limits.rs"]
mod limits;
#[path = "namespaces.rs"]
mod namespaces;
#[path = "nodes.rs"]
mod nodes;
#[path = "pairings.rs"]
mod pairings;
#[path = "pressure.rs"]
mod pressure;
#[path = "reload.rs"]
mod reload;
#[path = "resets.rs"]
mod resets;
#[path = "revocation.rs"]
mod revocation;
#[path = "service.rs"]
mod service;
#[path = "takeover.rs"]
mod takeover;
