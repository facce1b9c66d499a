//! Whom to expect at the other end.

use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;

use base64ct::{Base64, Encoding};

use crate::peer::{Name, PeerInfo};

/// A rule that a verified certificate satisfies or not.
///
/// | written | satisfied by |
/// | --- | --- |
/// | `cn:NAME` | the subject's common name, letter by letter; `cn:PREFIX*` by its beginning |
/// | `dns:NAME` | a DNS name among the alternative names; ASCII case is ignored, no wildcard |
/// | `uri:URI` | a URI among them, letter by letter; `uri:SCHEME://AUTHORITY/PREFIX*` by its beginning |
/// | `ip:ADDRESS` | an IP address among them |
/// | `spki:sha256:BASE64` | the public key itself, whatever the certificate says |
///
/// A `*` stands only at the end, and never alone: `cn:*` would accept every certificate of the CA,
/// which as a server is said by expecting nobody in particular, and as a client should not be said.
/// A URI's `*` must come after the authority's slash: `uri:spiffe://prod*` would accept
/// `spiffe://prod.example.org/…`, someone else's trust domain. A DNS name takes none, because the
/// end of a name is its most general part. For the same reason a certificate *for*
/// `*.example.org` satisfies no `dns:` rule: it does not say who its holder is.
///
/// # Examples
/// ```
/// use relay_tls::Identity;
///
/// let migration: Identity = "cn:kubevirt.io:system:client:*".parse()?;
/// assert_eq!(migration.to_string(), "cn:kubevirt.io:system:client:*");
/// assert!("cn:*".parse::<Identity>().is_err());
/// # Ok::<(), relay_tls::IdentityError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Identity(Rule);

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Rule {
    CommonName(Pattern),
    /// In lower case.
    Dns(String),
    Uri(Pattern),
    Ip(IpAddr),
    Key([u8; 32]),
}

/// Text, or the beginning of it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Pattern {
    text: String,
    prefix: bool,
}

impl Pattern {
    fn matches(&self, text: &str) -> bool {
        if self.prefix { text.starts_with(&self.text) } else { text == self.text }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if self.prefix { f.write_str("*") } else { Ok(()) }
    }
}

impl Identity {
    /// Whether the holder of this certificate is meant. Says nothing of the certificate's chain.
    #[must_use]
    pub fn matches(&self, peer: &PeerInfo) -> bool {
        match &self.0 {
            Rule::CommonName(pattern) => peer.common_name().is_some_and(|name| pattern.matches(name)),
            Rule::Dns(expected) => peer
                .names()
                .iter()
                .any(|name| matches!(name, Name::Dns(name) if name.eq_ignore_ascii_case(expected))),
            Rule::Uri(pattern) => {
                peer.names().iter().any(|name| matches!(name, Name::Uri(uri) if pattern.matches(uri)))
            }
            Rule::Ip(expected) => peer
                .names()
                .iter()
                .any(|name| matches!(name, Name::Ip(address) if address.to_canonical() == *expected)),
            Rule::Key(expected) => peer.key_sha256() == expected,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Rule::CommonName(pattern) => write!(f, "cn:{pattern}"),
            Rule::Dns(name) => write!(f, "dns:{name}"),
            Rule::Uri(pattern) => write!(f, "uri:{pattern}"),
            Rule::Ip(address) => write!(f, "ip:{address}"),
            Rule::Key(hash) => write!(f, "spki:sha256:{}", Base64::encode_string(hash)),
        }
    }
}

/// What is wrong with the words for an identity, and what would be right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdentityError {
    given: String,
    reason: String,
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not an identity: {}", self.given, self.reason)
    }
}

impl core::error::Error for IdentityError {}

impl FromStr for Identity {
    type Err = IdentityError;

    /// # Errors
    /// Which part is wrong, and how it should be.
    fn from_str(given: &str) -> Result<Self, IdentityError> {
        let (kind, value) = given.split_once(':').unwrap_or((given, ""));
        let rule = match kind {
            "cn" => common_name(value),
            "dns" => dns(value),
            "uri" => uri(value),
            "ip" => ip(value),
            "spki" => key(value),
            _ => Err(String::from(
                "it should begin with cn:, dns:, uri:, ip: or spki:sha256:, such as cn:node-1",
            )),
        };
        rule.map(Self).map_err(|reason| IdentityError { given: given.to_owned(), reason })
    }
}

/// Splits off the `*` at the end.
fn pattern(value: &str, kind: &str) -> Result<Pattern, String> {
    let (text, prefix) = match value.strip_suffix('*') {
        Some(text) => (text, true),
        None => (value, false),
    };
    if value.is_empty() {
        return Err(format!("a name should follow {kind}:"));
    }
    if text.is_empty() {
        return Err(format!("{kind}:* would accept every certificate of the CA; give at least a beginning"));
    }
    if text.contains('*') {
        return Err(String::from("a * may stand only at the end"));
    }
    Ok(Pattern { text: text.to_owned(), prefix })
}

fn common_name(value: &str) -> Result<Rule, String> {
    pattern(value, "cn").map(Rule::CommonName)
}

fn dns(value: &str) -> Result<Rule, String> {
    if value.contains('*') {
        return Err(String::from(
            "a DNS name takes no *; give the whole name, once for each that is expected",
        ));
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if value.len() > 253 || !value.split('.').all(label) {
        return Err(String::from(
            "a DNS name such as node-1.example.org should follow dns: (ASCII, no dot at the end)",
        ));
    }
    Ok(Rule::Dns(value.to_ascii_lowercase()))
}

fn uri(value: &str) -> Result<Rule, String> {
    let pattern = pattern(value, "uri")?;
    let example = "such as uri:spiffe://example.org/node/1";
    let Some((scheme, rest)) = pattern.text.split_once(':') else {
        return Err(format!("a URI with its scheme should follow uri:, {example}"));
    };
    if scheme.is_empty() || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) {
        return Err(format!("a URI with its scheme should follow uri:, {example}"));
    }
    let after_authority = rest.strip_prefix("//").and_then(|rest| rest.split_once('/'));
    if pattern.prefix && after_authority.is_none_or(|(authority, _)| authority.is_empty()) {
        return Err(String::from(
            "a URI's * should come after the slash that ends its authority, such as uri:spiffe://example.org/*",
        ));
    }
    Ok(Rule::Uri(pattern))
}

fn ip(value: &str) -> Result<Rule, String> {
    let bare = value.strip_prefix('[').and_then(|v| v.strip_suffix(']')).unwrap_or(value);
    match bare.parse::<IpAddr>() {
        Ok(address) => Ok(Rule::Ip(address.to_canonical())),
        Err(_) => Err(String::from("an address such as 192.0.2.1 or 2001:db8::1 should follow ip:")),
    }
}

fn key(value: &str) -> Result<Rule, String> {
    let Some(encoded) = value.strip_prefix("sha256:") else {
        return Err(String::from("only sha256 is known: spki:sha256:BASE64"));
    };
    let mut buffer = [0; 33];
    match Base64::decode(encoded, &mut buffer).ok().and_then(|hash| <[u8; 32]>::try_from(hash).ok()) {
        Some(hash) => Ok(Rule::Key(hash)),
        None => Err(String::from(
            "the base64 of a SHA-256 hash, 44 characters that end in =, should follow spki:sha256:",
        )),
    }
}
