//! Mutual TLS 1.3 as a [`Codec`](relay_core::codec::Codec): no sockets, no clock of its own, no
//! buffers of the flow.
//!
//! # From files to a session
//! ```no_run
//! use relay_tls::{ClientTls, Identity, Material, Pem, ServerTls};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (chain, key, ca) = (std::fs::read("tls.crt")?, std::fs::read("tls.key")?, std::fs::read("ca.crt")?);
//! let material = Material::from_pem(
//!     Pem { file: "tls.crt", bytes: &chain },
//!     Pem { file: "tls.key", bytes: &key },
//!     Pem { file: "ca.crt", bytes: &ca },
//! )?;
//!
//! // Accepts every client of the CA; `peers` would narrow it.
//! let server = ServerTls::builder(&material).build()?;
//! let accepted = server.codec();
//!
//! // Dials whom it expects; without `peers` the certificate must be for the host dialed.
//! let expected: Identity = "cn:kubevirt.io:system:node:virt-handler".parse()?;
//! let client = ClientTls::builder(&material).peers([expected]).build()?;
//! let dialed = client.codec("192.0.2.7")?;
//! # Ok(())
//! # }
//! ```
//! [`TlsCodec`] then speaks through the trait, and [`LegCodec`] does for legs of which some are plain; [`TlsCodec::info`] says who is there once the
//! session is secured, [`TlsCodec::error_text`] why it ended.
//!
//! # Rules
//! - TLS 1.3 only, always mutual, never resumed, no early data, no ALPN, no key log.
//! - A certificate is judged by webpki: chain, dates, purpose, revocation where lists are given.
//!   Then comes the question whether it is *whom we expect*: [`Identity`].
//! - A peer that was let in stays until its session ends, unless somebody asks again: [`LivePeers`].
//! - Peers that are refused get the alert of RFC 8446 section 6.2 that says why.
//! - Nothing that a peer or a file sends makes this crate panic, and all that it can make the crate
//!   hold is bounded.
#![forbid(unsafe_code)]

mod aead;
mod codec;
mod config;
mod control;
mod engine;
mod error;
mod explain;
mod frame;
mod hooks;
mod identity;
mod kernel;
mod leg_codec;
mod live_peers;
mod material;
mod peer;
mod pem;
mod post_handshake;
mod provider;
mod records;
mod session;
#[cfg(feature = "testing")]
pub mod testing;
mod verify;

pub use codec::TlsCodec;
pub use config::{ClientTls, ClientTlsBuilder, DataPath, ServerTls, ServerTlsBuilder};
pub use error::{Cause, CodecError, MaterialError};
pub use identity::{Identity, IdentityError};
pub use leg_codec::LegCodec;
pub use live_peers::{LivePeers, Reviewed};
pub use material::Material;
pub use peer::{Name, PeerInfo};
pub use pem::Pem;
pub use provider::Provider;
pub use records::RecordCounts;
pub use session::SessionInfo;

#[cfg(test)]
mod tests;
