//! The AEADs of TLS 1.3's cipher suites, on bytes where they lie.
//!
//! Both libraries have the same interface here; a key belongs to the one that its session's
//! [`Provider`] names.

use crate::frame::{HEADER, TAG};
use crate::provider::Provider;

/// Length of a nonce (RFC 8446 section 5.3: `iv_length`, 12 for each of these AEADs).
pub(crate) const NONCE: usize = 12;

/// The AEADs of RFC 8446 appendix B.4 that are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Algorithm {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

macro_rules! backend {
    ($module:ident, $library:ident) => {
        mod $module {
            use ::$library::aead::{
                AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
            };

            use super::{Algorithm, HEADER, NONCE, TAG};

            pub(super) type Key = LessSafeKey;

            pub(super) fn key(algorithm: Algorithm, bytes: &[u8]) -> Option<Key> {
                let algorithm = match algorithm {
                    Algorithm::Aes128Gcm => &AES_128_GCM,
                    Algorithm::Aes256Gcm => &AES_256_GCM,
                    Algorithm::ChaCha20Poly1305 => &CHACHA20_POLY1305,
                };
                UnboundKey::new(algorithm, bytes).ok().map(LessSafeKey::new)
            }

            pub(super) fn seal(
                key: &Key,
                nonce: [u8; NONCE],
                header: [u8; HEADER],
                data: &mut [u8],
            ) -> Option<[u8; TAG]> {
                let nonce = Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(header), data).ok()?;
                tag.as_ref().try_into().ok()
            }

            pub(super) fn open(
                key: &Key,
                nonce: [u8; NONCE],
                header: [u8; HEADER],
                data: &mut [u8],
            ) -> Option<usize> {
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, Aad::from(header), data).ok().map(|plain| plain.len())
            }
        }
    };
}

#[cfg(feature = "ring")]
backend!(with_ring, ring);
#[cfg(feature = "aws-lc-rs")]
backend!(with_aws_lc_rs, aws_lc_rs);

/// A key, ready for use. It does not count what it is used for.
// Two live in each session's one box: a box of its own would save nothing and cost a hop per record.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Key {
    #[cfg(feature = "ring")]
    Ring(with_ring::Key),
    #[cfg(feature = "aws-lc-rs")]
    AwsLcRs(with_aws_lc_rs::Key),
}

impl Key {
    /// `None` if the key's length is not the algorithm's.
    pub(crate) fn new(provider: Provider, algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        match provider {
            #[cfg(feature = "ring")]
            Provider::Ring => with_ring::key(algorithm, bytes).map(Self::Ring),
            #[cfg(feature = "aws-lc-rs")]
            Provider::AwsLcRs => with_aws_lc_rs::key(algorithm, bytes).map(Self::AwsLcRs),
        }
    }

    /// Encrypts `data`; its tag. `None` only if `data` is longer than the AEAD can take.
    pub(crate) fn seal(
        &self,
        nonce: [u8; NONCE],
        header: [u8; HEADER],
        data: &mut [u8],
    ) -> Option<[u8; TAG]> {
        match self {
            #[cfg(feature = "ring")]
            Self::Ring(key) => with_ring::seal(key, nonce, header, data),
            #[cfg(feature = "aws-lc-rs")]
            Self::AwsLcRs(key) => with_aws_lc_rs::seal(key, nonce, header, data),
        }
    }

    /// Decrypts `data`, the tag at its end; the length of what is at its front then. `None` if it
    /// is not authentic.
    pub(crate) fn open(&self, nonce: [u8; NONCE], header: [u8; HEADER], data: &mut [u8]) -> Option<usize> {
        match self {
            #[cfg(feature = "ring")]
            Self::Ring(key) => with_ring::open(key, nonce, header, data),
            #[cfg(feature = "aws-lc-rs")]
            Self::AwsLcRs(key) => with_aws_lc_rs::open(key, nonce, header, data),
        }
    }
}
