//! Errors of configuration: one clear line each, with the file and the line that is wrong.

use core::fmt;

/// What is wrong with a file of certificates, keys or revocation lists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MaterialError {
    pub(crate) file: String,
    pub(crate) line: Option<usize>,
    pub(crate) problem: Problem,
}

impl MaterialError {
    pub(crate) fn new(file: &str, line: impl Into<Option<usize>>, problem: Problem) -> Self {
        Self { file: file.to_owned(), line: line.into(), problem }
    }

    /// The file's label, as it was given.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The line, counted from 1, where there is one to point at.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.line
    }
}

/// The kinds of trouble; their words are in [`fmt::Display`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Problem {
    Empty { expected: &'static str },
    NoPem { expected: &'static str },
    Unexpected { expected: &'static str, found: String },
    BadMarker,
    Truncated { found: String },
    BadBase64 { found: String },
    Encrypted,
    BadCertificate { reason: String },
    BadKey { reason: String },
    BadList { reason: String },
    OtherKey { certificate: String },
    NotFirst { certificate: String, place: usize },
    Unusable { reason: String },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty { expected } => write!(f, "expected {expected}, the file is empty"),
            Self::NoPem { expected } => {
                write!(f, "expected {expected}, found no PEM block (no line starts with -----BEGIN)")
            }
            Self::Unexpected { expected, found } => write!(f, "expected {expected}, found {found}"),
            Self::BadMarker => f.write_str("malformed -----BEGIN line"),
            Self::Truncated { found } => write!(f, "the {found} block has no -----END {found}----- line"),
            Self::BadBase64 { found } => write!(f, "the {found} block is not valid base64"),
            Self::Encrypted => f.write_str(
                "the private key is encrypted; decrypt it with: openssl pkey -in FILE -out NEW_FILE",
            ),
            Self::BadCertificate { reason } => write!(f, "not a usable certificate: {reason}"),
            Self::BadKey { reason } => write!(f, "not a usable private key: {reason}"),
            Self::BadList { reason } => write!(f, "not a usable certificate revocation list: {reason}"),
            Self::OtherKey { certificate } => {
                write!(f, "the private key does not belong to the certificate in {certificate}")
            }
            Self::NotFirst { certificate, place } => write!(
                f,
                "the private key belongs to certificate number {place} in {certificate}, and ours has to be the first, with those that signed it after it"
            ),
            Self::Unusable { reason } => f.write_str(reason),
        }
    }
}

impl fmt::Display for MaterialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.problem),
            None => write!(f, "{}: {}", self.file, self.problem),
        }
    }
}

impl core::error::Error for MaterialError {}

/// Why no session could be started as a client.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CodecError {
    /// The host dialed is neither a DNS name nor an IP address, so no certificate can be for it.
    InvalidHost {
        /// As it was given.
        host: String,
    },
    /// The TLS library could not start a session.
    Setup {
        /// Its words.
        reason: String,
    },
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidHost { host } => {
                write!(f, "{host:?} is neither a DNS name nor an IP address that a certificate could name")
            }
            Self::Setup { reason } => write!(f, "could not start a TLS session: {reason}"),
        }
    }
}

impl core::error::Error for CodecError {}

/// Why a session failed, as far as somebody can do something about it. The words are
/// [`TlsCodec::error_text`](crate::TlsCodec::error_text)'s.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Cause {
    /// No authority of ours signed the peer's certificate.
    UnknownAuthority,
    /// The peer's certificate was valid once, or a clock is wrong.
    Expired,
    /// The peer's certificate will be valid, or a clock is wrong.
    NotValidYet,
    /// The peer's certificate is not for what the peer is: a client, a server.
    Purpose,
    /// A revocation list has the peer's certificate.
    Revoked,
    /// There is no revocation list of an authority of the peer's chain.
    RevocationUnknown,
    /// There is one, and it has expired.
    RevocationExpired,
    /// The peer's certificate is not for the host that was dialed.
    OtherHost,
    /// The peer's certificate is good, and not of whom we expect.
    OtherIdentity,
    /// The peer has none.
    NoCertificate,
    /// The peer speaks an older TLS.
    OldVersion,
    /// The peer speaks something else.
    NoTls,
    /// The peer answers like a client: it sends back what it gets, or is one.
    NoServer,
    /// The peer went away before it said anything.
    Silence,
    /// The peer ended the session with this alert (RFC 8446 section 6).
    Alert(u8),
}
