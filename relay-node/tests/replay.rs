//! What fuzzing has found worth keeping, replayed with the compiler that everybody has.

use std::path::Path;

use relay_core::testing::replay::replay;
use relay_node::fuzz::endpoint;

#[test]
fn nothing_that_a_command_line_says_is_too_much() {
    replay(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/endpoint"), endpoint);
}
