//! PEM files (RFC 7468) taken apart with their line numbers, so that an error can point at one.
//!
//! The blocks are found here and decoded by rustls-pki-types. Text outside of blocks is ignored, as
//! is every block of a kind not asked for as long as one that was asked for is there: files that
//! hold a chain together with its key are common.
// The enums matched with a wildcard are other crates' open ones; our own are matched whole.
#![allow(clippy::wildcard_enum_match_arm)]

use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer,
    PrivateSec1KeyDer,
};

use crate::error::{MaterialError, Problem};

/// A PEM file: what it holds, and what errors call it.
#[derive(Clone, Copy, Debug)]
pub struct Pem<'a> {
    /// The name in errors: its path, usually.
    pub file: &'a str,
    /// The content.
    pub bytes: &'a [u8],
}

const CERTIFICATE: &str = "a certificate (CERTIFICATE)";
const AUTHORITY: &str = "CA certificates (CERTIFICATE)";
const PRIVATE_KEY: &str = "a private key (PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY)";
const REVOCATION_LIST: &str = "certificate revocation lists (X509 CRL)";

/// A decoded item and the line on which its block begins.
pub(crate) type Located<T> = (usize, T);

/// The certificates of a chain, the leaf first.
///
/// # Errors
/// Nothing of the kind in the file, or a block that does not decode.
pub(crate) fn chain(pem: Pem<'_>) -> Result<Vec<Located<CertificateDer<'static>>>, MaterialError> {
    collect(pem, CERTIFICATE, |kind, der| match kind {
        SectionKind::Certificate => Some(CertificateDer::from(der)),
        _ => None,
    })
}

/// The certificates of the authorities to trust.
///
/// # Errors
/// As for [`chain`].
pub(crate) fn authorities(pem: Pem<'_>) -> Result<Vec<Located<CertificateDer<'static>>>, MaterialError> {
    collect(pem, AUTHORITY, |kind, der| match kind {
        SectionKind::Certificate => Some(CertificateDer::from(der)),
        _ => None,
    })
}

/// The revocation lists of a file.
///
/// # Errors
/// As for [`chain`].
pub(crate) fn revocation_lists(
    pem: Pem<'_>,
) -> Result<Vec<Located<CertificateRevocationListDer<'static>>>, MaterialError> {
    collect(pem, REVOCATION_LIST, |kind, der| match kind {
        SectionKind::Crl => Some(CertificateRevocationListDer::from(der)),
        _ => None,
    })
}

/// The first private key of a file: PKCS#8, SEC1 or PKCS#1.
///
/// # Errors
/// As for [`chain`]; an encrypted key is an error of its own.
pub(crate) fn private_key(pem: Pem<'_>) -> Result<Located<PrivateKeyDer<'static>>, MaterialError> {
    let mut keys = collect(pem, PRIVATE_KEY, |kind, der| match kind {
        SectionKind::PrivateKey => Some(PrivateKeyDer::from(PrivatePkcs8KeyDer::from(der))),
        SectionKind::EcPrivateKey => Some(PrivateKeyDer::from(PrivateSec1KeyDer::from(der))),
        SectionKind::RsaPrivateKey => Some(PrivateKeyDer::from(PrivatePkcs1KeyDer::from(der))),
        _ => None,
    })?;
    // `collect` returns at least one.
    Ok(keys.swap_remove(0))
}

/// Every block that `pick` accepts, at least one.
fn collect<T>(
    pem: Pem<'_>,
    expected: &'static str,
    pick: impl Fn(SectionKind, Vec<u8>) -> Option<T>,
) -> Result<Vec<Located<T>>, MaterialError> {
    let fail = |line: Option<usize>, problem| MaterialError::new(pem.file, line, problem);
    if pem.bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(fail(None, Problem::Empty { expected }));
    }
    let mut items = Vec::new();
    let mut other: Option<(usize, Problem)> = None;
    for block in blocks(pem.bytes) {
        let block = block.map_err(|(line, problem)| fail(Some(line), problem))?;
        let found = block.label.clone();
        match decode(&block).map_err(|problem| fail(Some(block.line), problem))? {
            Some((kind, der)) => match pick(kind, der) {
                Some(item) => items.push((block.line, item)),
                None => keep_first(&mut other, block.line, Problem::Unexpected { expected, found }),
            },
            // openssl writes these two in front of a key: parameters, which say nothing new, and
            // keys of which only the owner's password is missing.
            None if found == "EC PARAMETERS" => {}
            None if block.is_encrypted() && expected == PRIVATE_KEY => {
                keep_first(&mut other, block.line, Problem::Encrypted);
            }
            None => keep_first(&mut other, block.line, Problem::Unexpected { expected, found }),
        }
    }
    if !items.is_empty() {
        return Ok(items);
    }
    Err(match other {
        Some((line, problem)) => fail(Some(line), problem),
        None => fail(None, Problem::NoPem { expected }),
    })
}

fn keep_first(slot: &mut Option<(usize, Problem)>, line: usize, problem: Problem) {
    if slot.is_none() {
        *slot = Some((line, problem));
    }
}

/// One block, markers included.
struct Block<'a> {
    line: usize,
    label: String,
    text: &'a [u8],
}

impl Block<'_> {
    /// RFC 7468 section 11, or the older way of openssl with its own header lines.
    fn is_encrypted(&self) -> bool {
        self.label == "ENCRYPTED PRIVATE KEY"
            || lines(self.text)
                .any(|(_, line)| line.starts_with(b"Proc-Type:") && line.ends_with(b"ENCRYPTED"))
    }
}

/// The block's kind and content; `None` for what pki-types does not know, or can't because of a password.
fn decode(block: &Block<'_>) -> Result<Option<(SectionKind, Vec<u8>)>, Problem> {
    if block.is_encrypted() {
        return Ok(None);
    }
    match <(SectionKind, Vec<u8>)>::from_pem_slice(block.text) {
        Ok(item) => Ok(Some(item)),
        Err(pem::Error::NoItemsFound) => Ok(None),
        Err(_) => Err(Problem::BadBase64 { found: block.label.clone() }),
    }
}

/// Lines with their numbers from 1 and their offsets' text, without line ends.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    bytes.split(|&byte| byte == b'\n').enumerate().map(|(index, line)| (index + 1, line.trim_ascii_end()))
}

/// The blocks of a file in their order; ends after the first that is malformed.
fn blocks(bytes: &[u8]) -> Vec<Result<Block<'_>, (usize, Problem)>> {
    let mut found = Vec::new();
    // Label, line and offset of the block that is open.
    let mut open: Option<(String, usize, usize)> = None;
    let mut offset = 0;
    for (number, line) in lines(bytes) {
        let end = bytes[offset..].iter().position(|&b| b == b'\n').map_or(bytes.len(), |at| offset + at + 1);
        if let Some(rest) = line.strip_prefix(b"-----BEGIN ") {
            if let Some((label, line, _)) = open.take() {
                found.push(Err((line, Problem::Truncated { found: label })));
                return found;
            }
            let Some(label) = rest.strip_suffix(b"-----") else {
                found.push(Err((number, Problem::BadMarker)));
                return found;
            };
            open = Some((String::from_utf8_lossy(label).into_owned(), number, offset));
        } else if let Some(rest) = line.strip_prefix(b"-----END ")
            && let Some((label, begin, from)) = open.take()
        {
            if rest.strip_suffix(b"-----") == Some(label.as_bytes()) {
                found.push(Ok(Block { line: begin, label, text: &bytes[from..end] }));
            } else {
                found.push(Err((begin, Problem::Truncated { found: label })));
                return found;
            }
        }
        offset = end;
    }
    if let Some((label, line, _)) = open {
        found.push(Err((line, Problem::Truncated { found: label })));
    }
    found
}
