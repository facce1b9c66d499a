//! What an operator can do about a peer that was turned away, or that turned us away: one clause for
//! the session's log line, in the words of the command line.

use std::io;

use relay_core::{Failure, Leg};
use relay_tls::{Cause, Identity, Name, PeerInfo, TlsCodec};

use crate::endpoint::Endpoint;
use crate::failure::in_words;

/// For a server that took the connection and has nothing to say in TLS.
pub(crate) const SILENT_SERVER: &str =
    "see the peer's log; if it listens in plaintext, dial it so (--plain, tcp:)";

/// What to do about the end of a leg's TLS, if there is something to do. `Front` is a leg on which we
/// are the server, `Back` one on which we are the client.
pub(crate) fn advice(leg: Leg, codec: &TlsCodec) -> Option<String> {
    let fixed = |text: &str| Some(text.to_owned());
    match codec.cause()? {
        Cause::UnknownAuthority => {
            fixed("if this peer is to be trusted, add the CA that issued its certificate to --tls-ca")
        }
        Cause::Expired => fixed("renew the peer's certificate, or set this node's clock right"),
        Cause::NotValidYet => fixed("compare the clocks of both nodes, and of the CA"),
        Cause::Purpose => match leg {
            Leg::Front => fixed("issue the peer a certificate with the extended key usage clientAuth"),
            Leg::Back => fixed("issue the peer a certificate with the extended key usage serverAuth"),
        },
        Cause::Revoked => fixed("issue the peer a new certificate"),
        Cause::RevocationUnknown => fixed("add a list of every CA in the peer's chain to --tls-crl"),
        Cause::RevocationExpired => fixed("replace the lists in --tls-crl by current ones, then send SIGHUP"),
        Cause::OtherHost | Cause::OtherIdentity => {
            let rule = codec.rejected().and_then(matching)?;
            Some(format!("if this is the peer that is meant, add --peer {}", quoted(&rule.to_string())))
        }
        Cause::NoCertificate => fixed("give the peer a certificate (a relay's --tls-cert and --tls-key)"),
        Cause::OldVersion => fixed("have the peer speak TLS 1.3"),
        Cause::NoTls => match leg {
            Leg::Front => {
                fixed("have the peer speak TLS (a relay without --plain, or with tls: rather than tcp:)")
            }
            Leg::Back => {
                fixed("have the peer listen with TLS, or dial it in plaintext as it listens (--plain, tcp:)")
            }
        },
        // Only who is dialed was meant to be one.
        Cause::NoServer => match leg {
            Leg::Front => None,
            Leg::Back => {
                fixed("no TLS server listens there: see which port was dialed, and what listens at it")
            }
        },
        // A probe of our port is nothing to act upon.
        Cause::Silence => match leg {
            Leg::Front => None,
            Leg::Back => fixed(SILENT_SERVER),
        },
        Cause::Alert(code) => alert(leg, code).map(str::to_owned),
        _ => None,
    }
}

/// What to do about an alert of the peer's (RFC 8446 section 6.2), which says what it thinks of us.
const fn alert(leg: Leg, code: u8) -> Option<&'static str> {
    Some(match code {
        // bad_certificate, certificate_unknown, access_denied
        42 | 46 | 49 => match leg {
            Leg::Front => {
                "the peer did not expect us: it needs --peer for our certificate, or our certificate the host that it dialed"
            }
            Leg::Back => {
                "the peer did not expect us: it needs --peer for our certificate, or we another certificate"
            }
        },
        43 => match leg {
            Leg::Front => "our certificate needs the extended key usage serverAuth",
            Leg::Back => "our certificate needs the extended key usage clientAuth",
        },
        44 => "our certificate is revoked: renew it, then send SIGHUP",
        45 => {
            "our certificate is not valid by the peer's clock: renew it, then send SIGHUP, or set the clocks right"
        }
        48 => {
            "the peer does not know our CA: add it to the peer's --tls-ca; or the peer lacks a current revocation list of it"
        }
        70 => "have the peer speak TLS 1.3",
        116 => "the peer wants a certificate: --tls-cert and --tls-key",
        _ => return None,
    })
}

/// As one word for a shell (POSIX, Shell Command Language, 2.2.2): what a certificate says may be pasted.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:./_-".contains(c);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// For a client that begins with a TLS handshake where plaintext is taken.
pub(crate) const TLS_AT_PLAINTEXT: &str = "the client speaks TLS, and this listener takes plaintext: if it is a relay, both need --tls-cert, --tls-key and --tls-ca (tls:), or both --plain (tcp:)";

/// What to do about a backend that was never connected, by why the last dial failed.
// Of the others there is nothing to say, of those to come neither.
#[allow(clippy::wildcard_enum_match_arm)]
pub(crate) fn dial(to: &Endpoint, why: Failure) -> Option<String> {
    let is_file = matches!(to, Endpoint::Unix(_));
    let is_unix = is_file || matches!(to, Endpoint::Abstract(_));
    Some(match why {
        Failure::NotFound if is_file => {
            "nothing is at that path: start what listens there before the dial timeout is over, or mend the path".to_owned()
        }
        Failure::NotFound => "the host has no address: see the log for why, or dial an address".to_owned(),
        Failure::Refused if is_file => "the socket is there, and nobody listens at it: start what does".to_owned(),
        Failure::Refused if is_unix => "nobody listens at that name: start what does".to_owned(),
        Failure::Refused => "nobody listens at that port, or a firewall refuses: see whether the other node's relay runs, and which ports it printed".to_owned(),
        Failure::Os(libc::ENOTSOCK) => "what is at that path is no socket: mend the path".to_owned(),
        Failure::Os(libc::EPROTOTYPE) => "the socket is no stream socket: mend the path".to_owned(),
        Failure::Os(libc::ENOTDIR) => "a part of that path is no directory: mend the path".to_owned(),
        Failure::Os(number) => {
            format!("that errno is: {}", in_words(&io::Error::from_raw_os_error(number)))
        }
        _ => return None,
    })
}

/// A rule for `--peer` by which this certificate would have passed.
fn matching(peer: &PeerInfo) -> Option<Identity> {
    let name = peer.common_name().map(|name| format!("cn:{name}"));
    let others = peer.names().iter().map(|name| match name {
        Name::Dns(name) => format!("dns:{name}"),
        Name::Uri(uri) => format!("uri:{uri}"),
        Name::Ip(address) => format!("ip:{address}"),
        _ => String::new(),
    });
    // A name with a `*` at its end would be a rule for others, too.
    let exact = |rule: &String| !rule.ends_with('*') && !rule.chars().any(char::is_control);
    name.into_iter()
        .chain(others)
        .filter(exact)
        .filter_map(|rule| rule.parse::<Identity>().ok())
        .find(|rule| rule.matches(peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_safe_to_paste() {
        for (word, expected) in [
            ("cn:kubevirt.io:system:node:virt-handler", "cn:kubevirt.io:system:node:virt-handler"),
            ("cn:two words", "'cn:two words'"),
            ("cn:$(reboot),x", "'cn:$(reboot),x'"),
            ("cn:it's", r"'cn:it'\''s'"),
            ("cn:é", "'cn:é'"),
        ] {
            assert_eq!(quoted(word), expected);
        }
    }

    #[test]
    fn whoever_is_not_there_is_told_of() {
        let unix: Endpoint = "unix:/x".parse().expect("endpoint");
        let tcp: Endpoint = "tcp:h:1".parse().expect("endpoint");
        for (to, why, says) in [
            (&unix, Failure::NotFound, "nothing is at that path"),
            (&unix, Failure::Refused, "nobody listens at it"),
            (&unix, Failure::Os(libc::ENOTSOCK), "no socket"),
            (&tcp, Failure::NotFound, "no address"),
            (&tcp, Failure::Refused, "nobody listens at that port"),
            (&tcp, Failure::Os(libc::EINVAL), "Invalid argument"),
        ] {
            let advice = dial(to, why).expect("advice");
            assert!(advice.contains(says) && !advice.contains("os error"), "{advice}");
        }
        assert_eq!(dial(&tcp, Failure::Reset), None);
    }
}
