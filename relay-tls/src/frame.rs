//! Record headers (RFC 8446 section 5.1): what is a record, and what is certainly none.

use relay_core::codec::{Frame, Layout};

/// Bytes before a record's payload: type, version, length.
pub(crate) const HEADER: usize = 5;
/// The largest payload of one record (RFC 8446 section 5.1).
pub(crate) const PAYLOAD_MAX: usize = 1 << 14;
/// Length of the tag of every AEAD of TLS 1.3's suites that are used here.
pub(crate) const TAG: usize = 16;
/// Bytes after the payload: the inner content type and the tag (RFC 8446 section 5.2).
pub(crate) const TRAILER: usize = 1 + TAG;
/// The largest protected record without its header (RFC 8446 section 5.2).
const PROTECTED_MAX: usize = PAYLOAD_MAX + 256;

pub(crate) const LAYOUT: Layout = Layout { header: HEADER, trailer: TRAILER, payload_max: PAYLOAD_MAX };

/// Content types (RFC 8446 section 5.1).
pub(crate) mod content {
    pub(crate) const CHANGE_CIPHER_SPEC: u8 = 20;
    pub(crate) const ALERT: u8 = 21;
    pub(crate) const HANDSHAKE: u8 = 22;
    pub(crate) const APPLICATION_DATA: u8 = 23;
}

/// Alert descriptions (RFC 8446 section 6).
pub(crate) mod alert {
    pub(crate) const CLOSE_NOTIFY: u8 = 0;
    pub(crate) const UNEXPECTED_MESSAGE: u8 = 10;
    pub(crate) const BAD_RECORD_MAC: u8 = 20;
    pub(crate) const RECORD_OVERFLOW: u8 = 22;
    pub(crate) const CERTIFICATE_REVOKED: u8 = 44;
    pub(crate) const CERTIFICATE_EXPIRED: u8 = 45;
    pub(crate) const CERTIFICATE_UNKNOWN: u8 = 46;
    pub(crate) const ILLEGAL_PARAMETER: u8 = 47;
    pub(crate) const DECODE_ERROR: u8 = 50;
    pub(crate) const INTERNAL_ERROR: u8 = 80;
    pub(crate) const USER_CANCELED: u8 = 90;
}

/// A fatal alert as it is sent before there are keys.
pub(crate) fn plaintext_alert(description: u8) -> [u8; 7] {
    [content::ALERT, 3, 3, 0, 2, level::FATAL, description]
}

/// Levels of alerts; TLS 1.3 sends them and does not look at them (RFC 8446 section 6).
pub(crate) mod level {
    pub(crate) const WARNING: u8 = 1;
    pub(crate) const FATAL: u8 = 2;
}

/// What a peer may not do: the alert that tells it so, and the sentence that tells us.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Violation {
    pub(crate) alert: u8,
    pub(crate) text: String,
}

impl Violation {
    pub(crate) fn new(alert: u8, text: impl Into<String>) -> Self {
        Self { alert, text: text.into() }
    }
}

/// The phase of a session, as far as headers go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Nothing of the peer was accepted yet.
    Fresh,
    /// Some of its handshake was.
    Handshake,
    /// Every record must be protected.
    Secured,
}

/// Looks at the front of `wire`. As soon as it cannot be a record it is an error: a stranger that
/// speaks something else is not waited for.
pub(crate) fn frame(wire: &[u8], phase: Phase) -> Result<Frame, Violation> {
    if let Some(&kind) = wire.first() {
        let expected = match phase {
            Phase::Secured => kind == content::APPLICATION_DATA,
            Phase::Fresh => matches!(kind, content::HANDSHAKE | content::ALERT),
            Phase::Handshake => (content::CHANGE_CIPHER_SPEC..=content::APPLICATION_DATA).contains(&kind),
        };
        if !expected {
            return Err(Violation::new(alert::UNEXPECTED_MESSAGE, foreign(wire, phase)));
        }
    }
    // The minor version means nothing any more (RFC 8446 section 5.1); the major one always was 3.
    if wire.get(1).is_some_and(|&major| major != 3) {
        return Err(Violation::new(alert::DECODE_ERROR, foreign(wire, phase)));
    }
    let &[kind, _, _, high, low, ..] = wire else {
        return Ok(Frame::Partial { need: HEADER });
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let protected = kind == content::APPLICATION_DATA;
    if length > if protected { PROTECTED_MAX } else { PAYLOAD_MAX } {
        let text = format!("peer sent a record that is too long ({length} bytes)");
        return Err(Violation::new(alert::RECORD_OVERFLOW, text));
    }
    if length < if protected { TRAILER } else { 1 } {
        // Too short to hold what it must: it can't be authentic.
        let text = format!("peer sent a record that is too short ({length} bytes)");
        return Err(Violation::new(
            if protected { alert::BAD_RECORD_MAC } else { alert::DECODE_ERROR },
            text,
        ));
    }
    let wire_length = HEADER + length;
    if wire.len() < wire_length {
        return Ok(Frame::Partial { need: wire_length });
    }
    let payload = if phase == Phase::Secured { (length - TRAILER).min(PAYLOAD_MAX) } else { 0 };
    Ok(Frame::Whole { wire: wire_length, payload })
}

/// Beginnings of what else is met on such ports.
const FOREIGN: &[(&[u8], &str)] = &[
    (b"GET ", "plaintext HTTP"),
    (b"HEAD ", "plaintext HTTP"),
    (b"POST ", "plaintext HTTP"),
    (b"PUT ", "plaintext HTTP"),
    (b"DELETE ", "plaintext HTTP"),
    (b"OPTIONS ", "plaintext HTTP"),
    (b"CONNECT ", "plaintext HTTP"),
    (b"PRI * HTTP", "plaintext HTTP"),
    (b"HTTP/", "plaintext HTTP"),
    (b"SSH-", "SSH"),
    (b"QEVM", "a plaintext migration stream of QEMU"),
    (b"\x11\x22\x33\x44", "a plaintext multifd channel of QEMU"),
    (b"NBDMAGIC", "plaintext NBD"),
    (b"PROXY ", "the PROXY protocol"),
    (b"\r\n\r\n\0\r\nQUIT\n", "the PROXY protocol"),
];

fn foreign(wire: &[u8], phase: Phase) -> String {
    match phase {
        Phase::Fresh => {
            let what = FOREIGN.iter().find(|(start, _)| {
                let shown = start.len().min(wire.len());
                // Four bytes are enough to tell them apart, and what is there must agree.
                shown >= 4.min(start.len()) && start[..shown] == wire[..shown]
            });
            match what {
                Some((_, what)) => format!("peer speaks {what}, not TLS"),
                None => {
                    let shown = wire[..wire.len().min(8)].escape_ascii();
                    format!("peer does not speak TLS: it begins with \"{shown}\"")
                }
            }
        }
        Phase::Handshake | Phase::Secured => match wire.first() {
            Some(&kind) if phase == Phase::Secured && (20..=22).contains(&kind) => {
                format!("peer sent an unprotected record (type {kind}) in a secured session")
            }
            _ => String::from("peer sent bytes that are no TLS record in the middle of a session"),
        },
    }
}
