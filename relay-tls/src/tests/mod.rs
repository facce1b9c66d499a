//! Tests of this crate, all in memory. Helpers come first, what they serve after them.
#![allow(clippy::unwrap_used, clippy::unwrap_in_result, clippy::wildcard_enum_match_arm)]

mod pki;
mod reference;
mod wire;

mod handshake;
mod identity;
mod interop;
mod live_peers;
mod material;
mod records;
mod rejection;
mod stream;
