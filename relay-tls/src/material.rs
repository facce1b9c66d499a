//! Certificates, key, authorities and revocation lists: loaded together, replaced together.
// The enums matched with a wildcard are other crates' open ones; our own are matched whole.
#![allow(clippy::wildcard_enum_match_arm)]

use core::fmt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::error::{MaterialError, Problem};
use crate::peer::{self, PeerInfo};
use crate::pem::{self, Pem};
use crate::provider::Provider;

/// Everything that stands in files: our chain and key, the authorities and revocation lists by
/// which peers are judged.
///
/// Checked as a whole when it is made, so that a reload takes all of a new set or keeps all of the
/// old one. Cheap to clone.
#[derive(Clone)]
pub struct Material(Arc<Parts>);

#[derive(Clone)]
struct Parts {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
    roots: Arc<RootCertStore>,
    lists: Vec<CertificateRevocationListDer<'static>>,
    /// From when on each of the lists is out of date; unknown if it can't be read.
    list_ends: Vec<Option<u64>>,
    leaf: PeerInfo,
    /// When the first of the authorities ends.
    authorities_end: Option<u64>,
}

impl Material {
    /// Our certificate chain (leaf first) and private key, and the authorities to trust.
    ///
    /// # Errors
    /// A file that is not what it should be, or a key that does not belong to the certificate.
    pub fn from_pem(chain: Pem<'_>, key: Pem<'_>, authorities: Pem<'_>) -> Result<Self, MaterialError> {
        let provider = Provider::default();
        let crypto = provider.crypto();
        let certificates = pem::chain(chain)?;
        let (key_line, private_key) = pem::private_key(key)?;
        let mut leaf = None;
        for (line, certificate) in &certificates {
            let info = PeerInfo::from_der(certificate, provider).ok_or_else(|| {
                let reason = String::from("its content is not X.509");
                MaterialError::new(chain.file, *line, Problem::BadCertificate { reason })
            })?;
            leaf.get_or_insert(info);
        }
        let Some(leaf) = leaf else {
            // Not reached: a chain has at least one certificate.
            return Err(MaterialError::new(
                chain.file,
                None,
                Problem::Unusable { reason: String::from("no certificate") },
            ));
        };
        let certificates: Vec<_> = certificates.into_iter().map(|(_, certificate)| certificate).collect();
        check_key(&crypto, &certificates, &private_key, chain, key, key_line)?;
        let (roots, authorities_end) = roots(authorities, provider)?;
        Ok(Self(Arc::new(Parts {
            chain: certificates,
            key: Arc::new(private_key),
            roots: Arc::new(roots),
            lists: Vec::new(),
            list_ends: Vec::new(),
            leaf,
            authorities_end,
        })))
    }

    /// Also refuses certificates revoked by these lists, on both sides.
    ///
    /// From then on the status of *every* certificate of a peer's chain below the trusted authority
    /// must be known: a list is needed for each authority that signs, and one that has expired
    /// counts as none (RFC 5280 section 6.3).
    ///
    /// # Errors
    /// A file that is not what it should be.
    pub fn with_crls(self, lists: Pem<'_>) -> Result<Self, MaterialError> {
        let crypto = Provider::default().crypto();
        let mut parts = Parts::clone(&self.0);
        for (line, list) in pem::revocation_lists(lists)? {
            WebPkiServerVerifier::builder_with_provider(parts.roots.clone(), crypto.clone())
                .with_crls([list.clone()])
                .build()
                .map_err(|error| {
                    MaterialError::new(lists.file, line, Problem::BadList { reason: error.to_string() })
                })?;
            parts.list_ends.push(peer::next_update(&list));
            parts.lists.push(list);
        }
        Ok(Self(Arc::new(parts)))
    }

    /// Our own certificate, as a peer will see it: for a log, and for the metric of its expiry.
    #[must_use]
    pub fn leaf(&self) -> &PeerInfo {
        &self.0.leaf
    }

    /// When the first of the authorities ends, in seconds since 1970; `None` if none of them says.
    #[must_use]
    pub fn authorities_end(&self) -> Option<u64> {
        self.0.authorities_end
    }

    /// From when on the first of the revocation lists counts as none, in seconds since 1970; `None` without
    /// lists.
    #[must_use]
    pub fn lists_end(&self) -> Option<u64> {
        self.0.list_ends.iter().flatten().min().copied()
    }

    /// From when on each of the lists counts as none, in seconds since 1970, if that can be read.
    pub(crate) fn list_ends(&self) -> &[Option<u64>] {
        &self.0.list_ends
    }

    pub(crate) fn roots(&self) -> &Arc<RootCertStore> {
        &self.0.roots
    }

    pub(crate) fn lists(&self) -> &[CertificateRevocationListDer<'static>] {
        &self.0.lists
    }

    /// Chain and key, for one provider to sign with.
    pub(crate) fn certified_key(&self, crypto: &CryptoProvider) -> Result<Arc<CertifiedKey>, rustls::Error> {
        let key = crypto.key_provider.load_private_key(self.0.key.clone_key())?;
        Ok(Arc::new(CertifiedKey::new(self.0.chain.clone(), key)))
    }
}

impl fmt::Debug for Material {
    /// Never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material")
            .field("leaf", &self.0.leaf)
            .field("chain", &self.0.chain.len())
            .field("roots", &self.0.roots.len())
            .field("lists", &self.0.lists.len())
            .finish_non_exhaustive()
    }
}

fn check_key(
    crypto: &CryptoProvider,
    certificates: &[CertificateDer<'static>],
    private_key: &PrivateKeyDer<'static>,
    chain: Pem<'_>,
    key: Pem<'_>,
    line: usize,
) -> Result<(), MaterialError> {
    let signing = crypto
        .key_provider
        .load_private_key(private_key.clone_key())
        .map_err(|error| MaterialError::new(key.file, line, Problem::BadKey { reason: error.to_string() }))?;
    let fits = |certificates: &[CertificateDer<'static>]| {
        CertifiedKey::new(certificates.to_vec(), Arc::clone(&signing)).keys_match()
    };
    fits(certificates).map_err(|error| {
        let certificate = chain.file.to_owned();
        let elsewhere = certificates.iter().position(|other| fits(std::slice::from_ref(other)).is_ok());
        let problem = match error {
            rustls::Error::InconsistentKeys(_) => match elsewhere {
                Some(index) => Problem::NotFirst { certificate, place: index + 1 },
                None => Problem::OtherKey { certificate },
            },
            other => Problem::BadKey { reason: other.to_string() },
        };
        MaterialError::new(key.file, line, problem)
    })
}

fn earliest(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

/// The authorities, and when the first of them ends.
fn roots(authorities: Pem<'_>, provider: Provider) -> Result<(RootCertStore, Option<u64>), MaterialError> {
    let mut roots = RootCertStore::empty();
    let mut end = None;
    for (line, certificate) in pem::authorities(authorities)? {
        end = earliest(end, PeerInfo::from_der(&certificate, provider).map(|info| info.not_after()));
        roots.add(certificate).map_err(|error| {
            MaterialError::new(authorities.file, line, Problem::BadCertificate { reason: error.to_string() })
        })?;
    }
    Ok((roots, end))
}
