//! The node program on tokio.

use std::process::ExitCode;

fn main() -> ExitCode {
    relay_node::main(&relay_tokio::Tokio::default(), "relay-tokio")
}
