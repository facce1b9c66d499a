//! Chain, purpose and revocation as webpki judges them, and then whom we expect.
//!
//! Both verifiers wrap rustls' own; signatures are always checked by those.
// The enums matched with a wildcard are other crates' open ones; our own are matched whole.
#![allow(clippy::wildcard_enum_match_arm)]

use core::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::error::{MaterialError, Problem};
use crate::explain;
use crate::hooks;
use crate::identity::Identity;
use crate::material::Material;
use crate::peer::PeerInfo;
use crate::provider::Provider;

/// Whom a side expects; nobody in particular if empty.
struct Expected {
    peers: Arc<[Identity]>,
    provider: Provider,
}

impl Expected {
    /// Whether one of the expected identities is met. The alert is `access_denied` (RFC 8446
    /// section 6.2): the certificate is valid, but not for this.
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        if self.peers.is_empty() {
            return Ok(());
        }
        let found = PeerInfo::from_der(certificate, self.provider);
        if found.as_ref().is_some_and(|peer| self.peers.iter().any(|identity| identity.matches(peer))) {
            return Ok(());
        }
        let expected = self.peers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
        let name = found.as_ref().map_or_else(|| String::from("nobody"), ToString::to_string);
        hooks::leave_rejection(format!("peer is {name}, expected {expected}"), found);
        Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    /// Leaves the words for an error of webpki's: what is wrong, and with whose certificate.
    fn explain(&self, error: Error, certificate: &CertificateDer<'_>) -> Error {
        // A known authority's name under another one's signature: the signer is not known, and
        // "unknown_ca" says so, where webpki's error would become "decrypt_error".
        let error = match error {
            Error::InvalidCertificate(CertificateError::BadSignature) => {
                Error::InvalidCertificate(CertificateError::UnknownIssuer)
            }
            error => error,
        };
        let peer = PeerInfo::from_der(certificate, self.provider);
        let mut words = explain::error(&error);
        if let Some(peer) = &peer {
            words.push_str(&format!("; it is for {peer}"));
            if error == Error::InvalidCertificate(CertificateError::UnknownIssuer) {
                words.push_str(&format!(", issued by {}", peer.issuer()));
            }
        }
        hooks::leave_rejection(words, peer);
        error
    }
}

impl fmt::Debug for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.peers.iter()).finish()
    }
}

fn unusable(error: &dyn fmt::Display) -> MaterialError {
    MaterialError::new("CA and revocation lists", None, Problem::Unusable { reason: error.to_string() })
}

/// A server's view of its clients: chain, clientAuth, revocation, then whom it expects.
#[derive(Debug)]
pub(crate) struct Clients {
    webpki: Arc<dyn ClientCertVerifier>,
    expected: Expected,
    list_ends: Vec<Option<u64>>,
}

impl Clients {
    pub(crate) fn new(
        material: &Material,
        peers: Arc<[Identity]>,
        provider: Provider,
        crypto: Arc<CryptoProvider>,
    ) -> Result<Self, MaterialError> {
        let webpki = WebPkiClientVerifier::builder_with_provider(material.roots().clone(), crypto)
            .with_crls(material.lists().iter().cloned())
            .enforce_revocation_expiration()
            .build()
            .map_err(|error| unusable(&error))?;
        let list_ends = material.list_ends().to_vec();
        Ok(Self { webpki, expected: Expected { peers, provider }, list_ends })
    }

    /// From when on each of the revocation lists counts as none, if that can be read.
    pub(crate) fn list_ends(&self) -> &[Option<u64>] {
        &self.list_ends
    }
}

impl ClientCertVerifier for Clients {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .webpki
            .verify_client_cert(end_entity, intermediates, now)
            .map_err(|error| self.expected.explain(error, end_entity))?;
        self.expected.check(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// A client's view of its server: chain, serverAuth, revocation, then the host dialed, or in its
/// place whom it expects.
#[derive(Debug)]
pub(crate) struct Servers {
    webpki: Arc<WebPkiServerVerifier>,
    expected: Expected,
    list_ends: Vec<Option<u64>>,
}

impl Servers {
    pub(crate) fn new(
        material: &Material,
        peers: Arc<[Identity]>,
        provider: Provider,
        crypto: Arc<CryptoProvider>,
    ) -> Result<Self, MaterialError> {
        let webpki = WebPkiServerVerifier::builder_with_provider(material.roots().clone(), crypto)
            .with_crls(material.lists().iter().cloned())
            .enforce_revocation_expiration()
            .build()
            .map_err(|error| unusable(&error))?;
        let list_ends = material.list_ends().to_vec();
        Ok(Self { webpki, expected: Expected { peers, provider }, list_ends })
    }

    /// From when on each of the revocation lists counts as none, if that can be read.
    pub(crate) fn list_ends(&self) -> &[Option<u64>] {
        &self.list_ends
    }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict =
            self.webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verdict {
            Ok(_) => {}
            // The name is the last thing that webpki looks at: with this error everything else was
            // found to be in order. (Tests pair a wrong name with every other fault, so that a
            // change of this order in a later version cannot go unnoticed.)
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.expected.peers.is_empty() => {}
            Err(error) => return Err(self.expected.explain(error, end_entity)),
        }
        self.expected.check(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}
