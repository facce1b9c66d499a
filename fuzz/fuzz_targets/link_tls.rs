//! Hostile ciphertext and record boundaries, into both data paths of the TLS link.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_tls::testing::fuzz::link_tls(data));
