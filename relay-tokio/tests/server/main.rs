//! A whole node on tokio from outside: relay-mio's own tests, but for those of its loop alone; and as a
//! future.

#[path = "../../../relay-mio/tests/suite/commands.rs"]
mod commands;
#[path = "../../../relay-mio/tests/suite/dialing.rs"]
mod dialing;
#[path = "../../../relay-mio/tests/suite/relaying.rs"]
mod relaying;
#[allow(dead_code, reason = "another test uses more of it")]
#[path = "../../../relay-mio/tests/suite/rig.rs"]
mod rig;
#[path = "../../../relay-mio/tests/suite/strangers.rs"]
mod strangers;
mod task;

/// The runtime under test.
type Loop = relay_tokio::Tokio;
