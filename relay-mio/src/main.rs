//! The node program on the mio loop.

use std::process::ExitCode;

fn main() -> ExitCode {
    relay_node::main(&relay_mio::Mio::default(), "relay-mio")
}
