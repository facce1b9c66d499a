//! What is left of rustls in a session whose records are made by `records.rs`: it keeps the traffic
//! secrets, and derives the next ones (RFC 8446 section 7.2).

// The enums matched with a wildcard are other crates' open ones; our own are matched whole.
#![allow(clippy::wildcard_enum_match_arm)]

use rustls::ConnectionTrafficSecrets;
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;

use crate::aead::{Algorithm, Key};
use crate::provider::Provider;
use crate::records::Protection;

/// Which side we are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Client,
    Server,
}

enum KernelSide {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

/// What remains of rustls in a session whose records are made elsewhere: it derives the next keys.
pub(crate) struct Kernel {
    connection: KernelSide,
    provider: Provider,
}

impl Kernel {
    pub(crate) fn client(connection: KernelConnection<ClientConnectionData>, provider: Provider) -> Self {
        Self { connection: KernelSide::Client(connection), provider }
    }

    pub(crate) fn server(connection: KernelConnection<ServerConnectionData>, provider: Provider) -> Self {
        Self { connection: KernelSide::Server(connection), provider }
    }

    pub(crate) fn side(&self) -> Side {
        match self.connection {
            KernelSide::Client(_) => Side::Client,
            KernelSide::Server(_) => Side::Server,
        }
    }

    /// Our next keys (RFC 8446 section 7.2).
    pub(crate) fn next_sending(&mut self) -> Option<Protection> {
        let secret = match &mut self.connection {
            KernelSide::Client(connection) => connection.update_tx_secret(),
            KernelSide::Server(connection) => connection.update_tx_secret(),
        };
        self.protection(secret.ok()?)
    }

    /// The peer's next keys.
    pub(crate) fn next_receiving(&mut self) -> Option<Protection> {
        let secret = match &mut self.connection {
            KernelSide::Client(connection) => connection.update_rx_secret(),
            KernelSide::Server(connection) => connection.update_rx_secret(),
        };
        self.protection(secret.ok()?)
    }

    /// rustls' secrets as keys of ours; `None` for an AEAD that we do not have.
    pub(crate) fn protection(
        &self,
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Option<Protection> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Algorithm::Aes128Gcm, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Algorithm::Aes256Gcm, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Algorithm::ChaCha20Poly1305, key, iv),
            _ => return None,
        };
        let key = Key::new(self.provider, algorithm, key.as_ref())?;
        Some(Protection { key, iv: iv.as_ref().try_into().ok()?, sequence })
    }
}
