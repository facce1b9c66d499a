//! What a certificate says of whom it belongs to.
//!
//! Parsed with x509-cert (RustCrypto): webpki verifies, but hands out neither the common name, the
//! IP addresses nor the dates. Nothing here decides whether a certificate is genuine.
// The enums matched with a wildcard are other crates' open ones; our own are matched whole.
#![allow(clippy::wildcard_enum_match_arm)]

use core::fmt;
use core::net::IpAddr;
use core::time::Duration;

use x509_cert::Certificate;
use x509_cert::crl::CertificateList;
use x509_cert::der::asn1::{ObjectIdentifier, PrintableStringRef, TeletexStringRef, Utf8StringRef};
use x509_cert::der::{Any, Decode, Encode, Tag, Tagged};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name as DistinguishedName;

use crate::provider::Provider;

/// id-at-commonName (RFC 5280 appendix A.1).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// A subject alternative name (RFC 5280 section 4.2.1.6) of a kind that an identity can match.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Name {
    /// A DNS name, as the certificate spells it.
    Dns(String),
    /// A URI, such as a SPIFFE ID.
    Uri(String),
    /// An IP address.
    Ip(IpAddr),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "dns:{}", Printable(name)),
            Self::Uri(uri) => write!(f, "uri:{}", Printable(uri)),
            Self::Ip(address) => write!(f, "ip:{address}"),
        }
    }
}

/// Whom a certificate names. What it says may be believed only once its chain was verified.
///
/// Displayed, it is the short form for a log: the common name and the first alternative names,
/// harmless to a terminal whatever the certificate holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerInfo {
    common_name: Option<String>,
    issuer: Option<String>,
    names: Vec<Name>,
    not_before: u64,
    not_after: u64,
    key_sha256: [u8; 32],
}

/// More names than this are counted, not shown.
const NAMES_SHOWN: usize = 4;

impl PeerInfo {
    /// Reads a certificate; `None` if it is not one.
    pub(crate) fn from_der(der: &[u8], provider: Provider) -> Option<Self> {
        let certificate = Certificate::from_der(der).ok()?;
        let body = certificate.tbs_certificate();
        let key = body.subject_public_key_info().to_der().ok()?;
        // A list that does not parse names nobody: then no identity but a key's can match.
        let names = match body.get_extension::<SubjectAltName>() {
            Ok(Some((_critical, SubjectAltName(names)))) => names.iter().filter_map(name).collect(),
            Ok(None) | Err(_) => Vec::new(),
        };
        Some(Self {
            common_name: common_name(body.subject()),
            issuer: common_name(body.issuer()),
            names,
            not_before: body.validity().not_before.to_unix_duration().as_secs(),
            not_after: body.validity().not_after.to_unix_duration().as_secs(),
            key_sha256: provider.sha256(&key),
        })
    }

    /// The subject's common name; the last, most specific one if there are several.
    #[must_use]
    pub fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }

    /// Who signed it, by common name and as a log can show it. Not to be relied upon: whoever made
    /// the certificate could write anything there.
    pub(crate) fn issuer(&self) -> String {
        self.issuer
            .as_deref()
            .map_or_else(|| String::from("(no name)"), |name| format!("cn:{}", Printable(name)))
    }

    /// The subject alternative names, in the certificate's order, of the kinds that [`Name`] has.
    #[must_use]
    pub fn names(&self) -> &[Name] {
        &self.names
    }

    /// From when on the certificate is valid, in seconds since 1970.
    #[must_use]
    pub fn not_before(&self) -> u64 {
        self.not_before
    }

    /// Until when it is, in seconds since 1970.
    #[must_use]
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    /// Until when it is, as RFC 3339 writes it.
    #[must_use]
    pub fn not_after_text(&self) -> String {
        date(self.not_after)
    }

    /// SHA-256 of the public key (SubjectPublicKeyInfo, as RFC 7469 pins it).
    #[must_use]
    pub fn key_sha256(&self) -> &[u8; 32] {
        &self.key_sha256
    }
}

impl fmt::Display for PeerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if let Some(name) = &self.common_name {
            write!(f, "cn:{}", Printable(name))?;
            separator = ",";
        }
        for name in self.names.iter().take(NAMES_SHOWN) {
            write!(f, "{separator}{name}")?;
            separator = ",";
        }
        match self.names.len().saturating_sub(NAMES_SHOWN) {
            0 if separator.is_empty() => f.write_str("(no name)"),
            0 => Ok(()),
            more => write!(f, ",+{more}"),
        }
    }
}

/// Until when a certificate is valid, in seconds since 1970; `None` if it can't be read.
pub(crate) fn not_after(der: &[u8]) -> Option<u64> {
    let certificate = Certificate::from_der(der).ok()?;
    Some(certificate.tbs_certificate().validity().not_after.to_unix_duration().as_secs())
}

/// From when on a revocation list is out of date, in seconds since 1970; `None` if it does not say.
pub(crate) fn next_update(der: &[u8]) -> Option<u64> {
    let list = <CertificateList>::from_der(der).ok()?;
    Some(list.tbs_cert_list.next_update?.to_unix_duration().as_secs())
}

/// Text of a stranger's: without control characters, and not without end.
struct Printable<'a>(&'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        const SHOWN: usize = 256;
        for c in self.0.chars().take(SHOWN) {
            // Beyond control characters: those that reorder what stands around them.
            let harmless = !c.is_control()
                && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}');
            f.write_char(if harmless { c } else { '?' })?;
        }
        if self.0.chars().nth(SHOWN).is_some() { f.write_str("...") } else { Ok(()) }
    }
}

/// Seconds since 1970 as RFC 3339 writes them.
pub(crate) fn date(seconds: u64) -> String {
    match x509_cert::der::DateTime::from_unix_duration(Duration::from_secs(seconds)) {
        Ok(date) => date.to_string(),
        Err(_) => format!("{seconds} s after 1970"),
    }
}

fn common_name(subject: &DistinguishedName) -> Option<String> {
    subject.iter().filter(|part| part.oid == COMMON_NAME).filter_map(|part| text(&part.value)).last()
}

/// A DirectoryString (RFC 5280 section 4.1.2.4), of the kinds that are in use.
fn text(value: &Any) -> Option<String> {
    match value.tag() {
        Tag::Utf8String => value.decode_as::<Utf8StringRef<'_>>().ok().map(|s| s.as_str().to_owned()),
        Tag::PrintableString => {
            value.decode_as::<PrintableStringRef<'_>>().ok().map(|s| s.as_str().to_owned())
        }
        Tag::TeletexString => value.decode_as::<TeletexStringRef<'_>>().ok().map(|s| s.as_str().to_owned()),
        _ => None,
    }
}

fn name(name: &GeneralName) -> Option<Name> {
    match name {
        GeneralName::DnsName(name) => Some(Name::Dns(name.as_str().to_owned())),
        GeneralName::UniformResourceIdentifier(uri) => Some(Name::Uri(uri.as_str().to_owned())),
        GeneralName::IpAddress(bytes) => ip_address(bytes.as_bytes()).map(Name::Ip),
        GeneralName::OtherName(_)
        | GeneralName::Rfc822Name(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EdiPartyName(_)
        | GeneralName::RegisteredId(_) => None,
    }
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}
