//! Which cryptography is used, and for what.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

#[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
compile_error!("relay-tls needs one of its features `ring` and `aws-lc-rs`");

/// A cryptographic library that is built in.
///
/// The default is ring where it is built in: a feature adds a choice, it never changes one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Provider {
    /// ring: the lighter build.
    #[cfg(feature = "ring")]
    #[default]
    Ring,
    /// AWS-LC: adds the post-quantum hybrid key exchange, for peers that ask for it.
    #[cfg(feature = "aws-lc-rs")]
    #[cfg_attr(not(feature = "ring"), default)]
    AwsLcRs,
}

impl Provider {
    /// What rustls is given: TLS 1.3 suites only, AES-128-GCM and X25519 first because they are the
    /// cheapest that everybody has.
    pub(crate) fn crypto(self) -> Arc<CryptoProvider> {
        Arc::new(match self {
            #[cfg(feature = "ring")]
            Self::Ring => ring(),
            #[cfg(feature = "aws-lc-rs")]
            Self::AwsLcRs => aws_lc_rs(),
        })
    }

    /// SHA-256 of `data`.
    pub(crate) fn sha256(self, data: &[u8]) -> [u8; 32] {
        let mut out = [0; 32];
        let digest = match self {
            #[cfg(feature = "ring")]
            Self::Ring => ::ring::digest::digest(&::ring::digest::SHA256, data).as_ref().to_vec(),
            #[cfg(feature = "aws-lc-rs")]
            Self::AwsLcRs => {
                ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, data).as_ref().to_vec()
            }
        };
        out.copy_from_slice(&digest);
        out
    }
}

#[cfg(feature = "ring")]
fn ring() -> CryptoProvider {
    use rustls::crypto::ring::{cipher_suite as suite, default_provider, kx_group};
    CryptoProvider {
        cipher_suites: vec![
            suite::TLS13_AES_128_GCM_SHA256,
            suite::TLS13_AES_256_GCM_SHA384,
            suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        ..default_provider()
    }
}

#[cfg(feature = "aws-lc-rs")]
fn aws_lc_rs() -> CryptoProvider {
    use rustls::crypto::aws_lc_rs::{cipher_suite as suite, default_provider, kx_group};
    CryptoProvider {
        cipher_suites: vec![
            suite::TLS13_AES_128_GCM_SHA256,
            suite::TLS13_AES_256_GCM_SHA384,
            suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1, kx_group::X25519MLKEM768],
        ..default_provider()
    }
}
