//! What went wrong, in a sentence that says who did what, and sorted into relay's classes.
// The enums matched with a wildcard are other crates' open ones; our own are matched whole.
#![allow(clippy::wildcard_enum_match_arm)]

use relay_core::error::Failure;
use rustls::{CertificateError, Error, HandshakeType, PeerIncompatible};

use crate::error::Cause;
use crate::peer::date;

/// The class of an error of rustls'.
pub(crate) fn failure(error: &Error) -> Failure {
    match error {
        Error::InvalidCertificate(_)
        | Error::InvalidCertRevocationList(_)
        | Error::NoCertificatesPresented
        | Error::UnsupportedNameType => Failure::Rejected,
        Error::AlertReceived(alert) => Failure::Alert(u8::from(*alert)),
        _ => Failure::Protocol,
    }
}

/// What to do something about, if it is known.
pub(crate) fn cause(error: &Error) -> Option<Cause> {
    let certificate = match error {
        Error::InvalidCertificate(certificate) => certificate,
        Error::NoCertificatesPresented => return Some(Cause::NoCertificate),
        Error::AlertReceived(alert) => return Some(Cause::Alert(u8::from(*alert))),
        Error::PeerIncompatible(what) if is_old(what) => return Some(Cause::OldVersion),
        error if is_of_a_client(error) => return Some(Cause::NoServer),
        _ => return None,
    };
    Some(match certificate {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => Cause::UnknownAuthority,
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Cause::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Cause::NotValidYet,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => Cause::Purpose,
        CertificateError::Revoked => Cause::Revoked,
        CertificateError::UnknownRevocationStatus => Cause::RevocationUnknown,
        CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. } => {
            Cause::RevocationExpired
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Cause::OtherHost
        }
        CertificateError::ApplicationVerificationFailure => Cause::OtherIdentity,
        _ => return None,
    })
}

/// Whether the first message of a client came where something else was due; no server sends one.
const fn is_of_a_client(error: &Error) -> bool {
    matches!(error, Error::InappropriateHandshakeMessage { got_type: HandshakeType::ClientHello, .. })
}

const fn is_old(what: &PeerIncompatible) -> bool {
    matches!(
        what,
        PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
    )
}

/// The sentence for an error of rustls'.
pub(crate) fn error(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => certificate(error),
        Error::NoCertificatesPresented => String::from("peer sent no certificate, and one is required"),
        Error::AlertReceived(code) => alert(u8::from(*code)),
        Error::DecryptError => String::from(
            "a record of the peer's does not decrypt: it was changed on its way, or has the wrong key",
        ),
        Error::PeerSentOversizedRecord => String::from("peer sent a record that is too long"),
        Error::InvalidMessage(what) => format!("peer sent malformed TLS ({what:?})"),
        Error::PeerIncompatible(what) if is_old(what) => {
            String::from("peer does not speak TLS 1.3, which is required")
        }
        Error::PeerIncompatible(what) => format!("peer and we have too little in common ({what:?})"),
        error if is_of_a_client(error) => {
            String::from("peer answers like a TLS client: it sends back what it gets, or is one itself")
        }
        Error::PeerMisbehaved(what) => format!("peer broke the rules of TLS ({what:?})"),
        other => other.to_string(),
    }
}

fn certificate(error: &CertificateError) -> String {
    let words = match error {
        CertificateError::UnknownIssuer => "peer's certificate is signed by an unknown CA",
        CertificateError::BadSignature => "peer's certificate does not bear its CA's signature",
        CertificateError::BadEncoding => "peer's certificate is malformed",
        CertificateError::Revoked => "peer's certificate is revoked",
        CertificateError::UnknownRevocationStatus => {
            "it is unknown whether peer's certificate is revoked: there is no revocation list of its CA"
        }
        CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. } => {
            "it is unknown whether peer's certificate is revoked: the revocation list of its CA has expired"
        }
        CertificateError::Expired => "peer's certificate has expired",
        CertificateError::ExpiredContext { not_after, .. } => {
            return format!(
                "peer's certificate has expired: it was valid until {}",
                date(not_after.as_secs())
            );
        }
        CertificateError::NotValidYet => "peer's certificate is not valid yet",
        CertificateError::NotValidYetContext { not_before, .. } => {
            return format!(
                "peer's certificate is not valid yet: it will be from {} on (or a clock is wrong)",
                date(not_before.as_secs())
            );
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "peer's certificate is for another purpose (its extended key usage lacks clientAuth or serverAuth)"
        }
        CertificateError::NotValidForName => "peer's certificate is not for the host dialed",
        CertificateError::NotValidForNameContext { expected, .. } => {
            return format!("peer's certificate is not for the host dialed, {}", expected.to_str());
        }
        CertificateError::ApplicationVerificationFailure => "peer is not whom we expect",
        other => return format!("peer's certificate was not accepted: {other}"),
    };
    words.to_owned()
}

/// The sentence for an alert of the peer's.
pub(crate) fn alert(code: u8) -> String {
    let name = alert_name(code);
    if matches!(code, 42..=46 | 48 | 49 | 116) {
        format!("peer rejected our certificate: alert {name}({code})")
    } else {
        format!("peer ended the session: alert {name}({code})")
    }
}

/// Names of RFC 8446 section 6 and, for peers of older versions, of RFC 5246 section 7.2.
fn alert_name(code: u8) -> &'static str {
    match code {
        0 => "close_notify",
        10 => "unexpected_message",
        20 => "bad_record_mac",
        21 => "decryption_failed",
        22 => "record_overflow",
        30 => "decompression_failure",
        40 => "handshake_failure",
        41 => "no_certificate",
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        44 => "certificate_revoked",
        45 => "certificate_expired",
        46 => "certificate_unknown",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        49 => "access_denied",
        50 => "decode_error",
        51 => "decrypt_error",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        86 => "inappropriate_fallback",
        90 => "user_canceled",
        100 => "no_renegotiation",
        109 => "missing_extension",
        110 => "unsupported_extension",
        112 => "unrecognized_name",
        113 => "bad_certificate_status_response",
        115 => "unknown_psk_identity",
        116 => "certificate_required",
        120 => "no_application_protocol",
        _ => "unknown",
    }
}
