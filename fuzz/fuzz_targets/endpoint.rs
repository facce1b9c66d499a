//! What a command line is made of: endpoints, durations, rates, libvirt URIs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_node::fuzz::endpoint(data));
