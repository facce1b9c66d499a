//! The two sides' settings, checked when they are made.

use core::fmt;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig, version};

use crate::codec::{Options, TlsCodec};
use crate::engine::Engine;
use crate::error::{CodecError, MaterialError, Problem};
use crate::hooks::ExporterTap;
use crate::identity::Identity;
use crate::live_peers::{Enrolment, Judge, LivePeers};
use crate::material::Material;
use crate::provider::Provider;
use crate::verify::{Clients, Servers};

/// Who makes the records after the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum DataPath {
    /// This crate's own record layer: sealed and opened where the bytes lie.
    #[default]
    InPlace,
    /// rustls, by way of copies: a second opinion, should there ever be doubt about the first. Not
    /// for builds with debug assertions: rustls 0.23 asserts there that nothing is wrong with what
    /// a peer sends after our close_notify.
    Rustls,
}

/// Keys are changed after so many records. The limit for AES-GCM is 2^24.5 full records (RFC 8446
/// section 5.5); rustls refuses to go beyond 2^24. Half of that leaves room for any miscount, and a
/// change costs next to nothing: one in 128 GiB.
const RECORDS_PER_KEY: u64 = 1 << 23;

/// Settings that both sides have.
#[derive(Clone, Debug)]
struct Common {
    material: Material,
    peers: Vec<Identity>,
    provider: Provider,
    data_path: DataPath,
    records_per_key: u64,
    live_peers: Option<LivePeers>,
    #[cfg(test)]
    only_suite: Option<rustls::CipherSuite>,
}

impl Common {
    fn new(material: &Material) -> Self {
        Self {
            material: material.clone(),
            peers: Vec::new(),
            provider: Provider::default(),
            data_path: DataPath::default(),
            records_per_key: RECORDS_PER_KEY,
            live_peers: None,
            #[cfg(test)]
            only_suite: None,
        }
    }

    /// `judge` is the verifier, for sessions whose peers are to be judged again.
    fn options(&self, judge: Judge) -> Options {
        let enrolment = self.live_peers.clone().map(|book| Enrolment { book, judge, host: None });
        Options { provider: self.provider, data_path: self.data_path, enrolment: enrolment.map(Box::new) }
    }

    #[cfg(not(test))]
    fn crypto(&self) -> Arc<rustls::crypto::CryptoProvider> {
        self.provider.crypto()
    }

    #[cfg(test)]
    fn crypto(&self) -> Arc<rustls::crypto::CryptoProvider> {
        let mut crypto = self.provider.crypto();
        if let Some(suite) = self.only_suite {
            Arc::make_mut(&mut crypto).cipher_suites.retain(|known| known.suite() == suite);
        }
        crypto
    }
}

fn unusable(error: &rustls::Error) -> MaterialError {
    MaterialError::new("TLS settings", None, Problem::Unusable { reason: error.to_string() })
}

fn resolver(certified: Arc<CertifiedKey>) -> Arc<SingleCertAndKey> {
    Arc::new(SingleCertAndKey::from(certified))
}

/// The settings of [`ServerTls`], to be completed by [`build`](Self::build).
#[derive(Clone, Debug)]
#[must_use]
pub struct ServerTlsBuilder(Common);

/// The settings of [`ClientTls`], to be completed by [`build`](Self::build).
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientTlsBuilder(Common);

macro_rules! common_settings {
    ($builder:ident) => {
        impl $builder {
            /// Chooses the cryptographic library.
            pub fn provider(mut self, provider: Provider) -> Self {
                self.0.provider = provider;
                self
            }

            /// Chooses who makes the records after the handshake.
            pub fn data_path(mut self, data_path: DataPath) -> Self {
                self.0.data_path = data_path;
                self
            }

            /// Changes our keys after so many records, at least 1 and at most 2^23, which is what
            /// it is without this call. (RFC 8446 section 5.5 allows AES-GCM 2^24.5.)
            pub fn records_per_key(mut self, records: u64) -> Self {
                self.0.records_per_key = records.clamp(1, RECORDS_PER_KEY);
                self
            }

            /// Enters the peers of all sessions there, so that they can be judged again while their
            /// sessions are open. Without this call nothing is kept of a peer's chain.
            pub fn live_peers(mut self, peers: &LivePeers) -> Self {
                self.0.live_peers = Some(peers.clone());
                self
            }

            #[cfg(test)]
            pub(crate) fn only_suite(mut self, suite: rustls::CipherSuite) -> Self {
                self.0.only_suite = Some(suite);
                self
            }
        }
    };
}

common_settings!(ServerTlsBuilder);
common_settings!(ClientTlsBuilder);

impl ServerTlsBuilder {
    /// Narrows the clients that pass to those that satisfy any of these rules. Without rules every
    /// certificate of the authorities with the purpose clientAuth does.
    pub fn peers(mut self, peers: impl IntoIterator<Item = Identity>) -> Self {
        self.0.peers.extend(peers);
        self
    }

    /// Completes the settings.
    ///
    /// # Errors
    /// Material that the TLS library does not take.
    pub fn build(self) -> Result<ServerTls, MaterialError> {
        let Self(common) = self;
        let crypto = common.crypto();
        let certified = common.material.certified_key(&crypto).map_err(|error| unusable(&error))?;
        let clients =
            Clients::new(&common.material, common.peers.as_slice().into(), common.provider, crypto.clone())?;
        let clients = Arc::new(clients);
        let mut config = ServerConfig::builder_with_provider(crypto)
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|error| unusable(&error))?
            .with_client_cert_verifier(clients.clone())
            .with_cert_resolver(resolver(certified));
        // Sessions are long: there is nothing to gain by resuming one, and a resumed one would skip
        // the checks of certificates that may have been revoked since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        // AES-128-GCM wherever the client has it, too.
        config.ignore_client_order = true;
        config.enable_secret_extraction = true;
        config.key_log = Arc::new(ExporterTap);
        let config = Arc::new(config);
        // What a session could still complain about, it should complain about now.
        Engine::server(config.clone(), common.records_per_key).map_err(|error| unusable(&error))?;
        let options = common.options(Judge::OfClients(clients.clone()));
        Ok(ServerTls { config, clients, options, records_per_key: common.records_per_key })
    }
}

impl ClientTlsBuilder {
    /// Says whom to expect: a server whose certificate is of the authorities, has the purpose
    /// serverAuth and satisfies any of these rules. The host dialed no longer matters. Without
    /// rules the certificate must be for the host dialed.
    pub fn peers(mut self, peers: impl IntoIterator<Item = Identity>) -> Self {
        self.0.peers.extend(peers);
        self
    }

    /// Completes the settings.
    ///
    /// # Errors
    /// Material that the TLS library does not take.
    pub fn build(self) -> Result<ClientTls, MaterialError> {
        let Self(common) = self;
        let crypto = common.crypto();
        let certified = common.material.certified_key(&crypto).map_err(|error| unusable(&error))?;
        let servers =
            Servers::new(&common.material, common.peers.as_slice().into(), common.provider, crypto.clone())?;
        let servers = Arc::new(servers);
        let mut config = ClientConfig::builder_with_provider(crypto)
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|error| unusable(&error))?
            // Rustls' word for any verifier that is not exactly its own; this one wraps it.
            .dangerous()
            .with_custom_certificate_verifier(servers.clone())
            .with_client_cert_resolver(resolver(certified));
        config.resumption = Resumption::disabled();
        config.enable_secret_extraction = true;
        config.key_log = Arc::new(ExporterTap);
        let options = common.options(Judge::OfServers(servers.clone()));
        Ok(ClientTls { config: Arc::new(config), servers, options, records_per_key: common.records_per_key })
    }
}

/// The settings of a side that accepts sessions.
///
/// Cheap to clone. A reload makes a new one: sessions keep what they began with.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    clients: Arc<Clients>,
    options: Options,
    records_per_key: u64,
}

impl ServerTls {
    /// Begins the settings.
    pub fn builder(material: &Material) -> ServerTlsBuilder {
        ServerTlsBuilder(Common::new(material))
    }

    /// A session with a client that has connected.
    #[must_use]
    pub fn codec(&self) -> TlsCodec {
        match Engine::server(self.config.clone(), self.records_per_key) {
            Ok(engine) => TlsCodec::new(engine, self.options.clone()),
            Err(error) => TlsCodec::failed(format!("could not start a TLS session: {error}")),
        }
    }

    pub(crate) fn verifier(&self) -> &Arc<Clients> {
        &self.clients
    }
}

/// The settings of a side that dials.
///
/// Cheap to clone. A reload makes a new one: sessions keep what they began with.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    servers: Arc<Servers>,
    options: Options,
    records_per_key: u64,
}

impl ClientTls {
    /// Begins the settings.
    pub fn builder(material: &Material) -> ClientTlsBuilder {
        ClientTlsBuilder(Common::new(material))
    }

    /// A session with `host`, the name or address that was dialed (without port; an IPv6 address
    /// may be in brackets, and its zone is not part of it).
    ///
    /// # Errors
    /// A host that no certificate can name, or a random number generator that fails.
    pub fn codec(&self, host: &str) -> Result<TlsCodec, CodecError> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let bare = match bare.split_once('%') {
            Some((address, _zone)) if address.contains(':') => address,
            _ => bare,
        };
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|_| CodecError::InvalidHost { host: host.to_owned() })?;
        let mut options = self.options.clone();
        if let Some(enrolment) = &mut options.enrolment {
            enrolment.host = Some(name.clone());
        }
        let engine = Engine::client(self.config.clone(), name, self.records_per_key)
            .map_err(|error| CodecError::Setup { reason: error.to_string() })?;
        Ok(TlsCodec::new(engine, options))
    }

    pub(crate) fn verifier(&self) -> &Arc<Servers> {
        &self.servers
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("options", &self.options).finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("options", &self.options).finish_non_exhaustive()
    }
}
