//! Hostile certificates, into the rules that say who a peer is.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_tls::testing::fuzz::identity(data));
