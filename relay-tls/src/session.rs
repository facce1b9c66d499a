//! What is worth telling of a secured session.
// The enums matched with a wildcard are other crates' open ones; our own are matched whole.
#![allow(clippy::wildcard_enum_match_arm)]

use rustls::crypto::tls13::{HkdfExpander, OkmBlock, OutputLengthError};
use rustls::{CipherSuite, NamedGroup, SupportedCipherSuite};

use crate::peer::PeerInfo;

/// A secured session: who is there, and how it is protected.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SessionInfo {
    /// The peer, from its verified certificate.
    pub peer: PeerInfo,
    /// The protocol's version.
    pub protocol: &'static str,
    /// The cipher suite's name (RFC 8446 appendix B.4).
    pub cipher_suite: &'static str,
    /// The key exchange's group.
    pub group: &'static str,
    /// The same at both ends, different for every session, and no secret: by it the logs of two
    /// nodes can be laid side by side. Exported keying material (RFC 8446 section 7.5).
    pub correlation: [u8; 16],
}

/// The exporter's label; the prefix is the one that needs no registration (RFC 5705 section 4).
pub(crate) const CORRELATION_LABEL: &[u8] = b"EXPERIMENTAL relay correlation";

pub(crate) fn suite_name(suite: SupportedCipherSuite) -> &'static str {
    match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        _ => "unknown",
    }
}

pub(crate) fn group_name(group: NamedGroup) -> &'static str {
    match group {
        NamedGroup::X25519 => "X25519",
        NamedGroup::secp256r1 => "secp256r1",
        NamedGroup::secp384r1 => "secp384r1",
        NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        _ => "unknown",
    }
}

/// The id from the exporter's secret; zeros if there is none, which no known version of rustls does.
pub(crate) fn correlation(suite: SupportedCipherSuite, secret: Option<&OkmBlock>) -> [u8; 16] {
    let mut id = [0; 16];
    if let (SupportedCipherSuite::Tls13(suite), Some(secret)) = (suite, secret) {
        let hash = suite.common.hash_provider;
        let no_context = hash.hash(&[]);
        // RFC 8446 section 7.5: Derive-Secret(secret, label, ""), then the label "exporter".
        let expander = suite.hkdf_provider.expander_for_okm(secret);
        let mut derived = [0; OkmBlock::MAX_LEN];
        let derived = &mut derived[..hash.output_len()];
        let exported = expand_label(expander.as_ref(), CORRELATION_LABEL, no_context.as_ref(), derived)
            .and_then(|()| {
                let expander = suite.hkdf_provider.expander_for_okm(&OkmBlock::new(derived));
                expand_label(expander.as_ref(), b"exporter", no_context.as_ref(), &mut id)
            });
        if exported.is_err() {
            return [0; 16];
        }
    }
    id
}

/// HKDF-Expand-Label (RFC 8446 section 7.1). Labels and contexts are all ours and short.
fn expand_label(
    expander: &dyn HkdfExpander,
    label: &[u8],
    context: &[u8],
    out: &mut [u8],
) -> Result<(), OutputLengthError> {
    const PREFIX: &[u8] = b"tls13 ";
    let length = u16::try_from(out.len()).unwrap_or(u16::MAX).to_be_bytes();
    let label_length = [u8::try_from(PREFIX.len() + label.len()).unwrap_or(u8::MAX)];
    let context_length = [u8::try_from(context.len()).unwrap_or(u8::MAX)];
    expander.expand_slice(&[&length, &label_length, PREFIX, label, &context_length, context], out)
}
