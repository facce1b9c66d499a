//! Lists of operations over the pump that ships, against the reference model.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_core::testing::sim::relay_states(data));
