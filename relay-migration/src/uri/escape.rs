//! Percent-encoding, RFC 3986 section 2.1.

use crate::invalid::{Invalid, invalid, shown};

/// Where a text stands: which bytes may stand there as they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Behind an IPv6 address (RFC 6874): unreserved only.
    Zone,
    /// Before the `@`: unreserved and sub-delims, without `:` (a password would follow).
    User,
    /// `pchar` and `/`.
    Path,
    /// Name or value of a parameter: what `query` allows, except what separates parameters (`&`, `;`)
    /// or name from value (`=`), and `+`, which some read as a space. A slash stays, so that a socket's
    /// path can be read as one.
    Query,
}

impl Place {
    const fn allows(self, byte: u8) -> bool {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            return true;
        }
        let sub_delim =
            matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=');
        match self {
            Self::Zone => false,
            Self::User => sub_delim,
            Self::Path => sub_delim || matches!(byte, b':' | b'@' | b'/'),
            Self::Query => {
                (sub_delim && !matches!(byte, b'&' | b';' | b'=' | b'+'))
                    || matches!(byte, b':' | b'@' | b'/' | b'?')
            }
        }
    }
}

pub(super) fn escape(text: &str, place: Place) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if place.allows(byte) {
            escaped.push(byte.into());
        } else {
            escaped.push('%');
            escaped.push(HEX[usize::from(byte >> 4)].into());
            escaped.push(HEX[usize::from(byte & 15)].into());
        }
    }
    escaped
}

pub(super) fn unescape(text: &str) -> Result<String, Invalid> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) => bytes.push(u8::try_from(high * 16 + low).unwrap_or_default()),
            _ => {
                return invalid(format!(
                    "a '%' in {} is not followed by two hexadecimal digits; write %25 for the sign itself",
                    shown(text)
                ));
            }
        }
    }
    match String::from_utf8(bytes) {
        Ok(plain) if plain.contains('\0') => {
            invalid(format!("{} contains %00, which libvirt takes for its end", shown(text)))
        }
        Ok(plain) => Ok(plain),
        Err(_) => invalid(format!("{} is not UTF-8 once the %-signs are resolved", shown(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn libvirts_examples_stay_readable() {
        for value in [
            "qemu:///system",
            "/opt/libvirt/run/libvirt/libvirt-sock",
            "NORMAL:-VERS-SSL3.0",
            "privkey,agent",
        ] {
            assert_eq!(escape(value, Place::Query), value);
        }
        assert_eq!(escape("a&b=c;d+e f%#", Place::Query), "a%26b%3Dc%3Bd%2Be%20f%25%23");
        assert_eq!(unescape("%2fa%2Fb+c"), Ok("/a/b+c".to_owned()), "'+' is no space");
    }

    #[test]
    fn bad_escapes_are_named() {
        for text in ["%", "%1", "%zz", "%+1", "a%é", "%00", "%ff"] {
            assert!(!unescape(text).expect_err(text).to_string().contains('\n'));
        }
    }

    proptest! {
        #[test]
        fn everything_survives(text in "[^\u{0}]{0,40}") {
            for place in [Place::Zone, Place::User, Place::Path, Place::Query] {
                let escaped = escape(&text, place);
                prop_assert!(escaped.is_ascii() && !escaped.contains(['#', ' ', '"', '<', '\\', '[']));
                prop_assert_eq!(unescape(&escaped), Ok(text.clone()));
            }
        }
    }
}
