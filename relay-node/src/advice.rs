//! What an operator can do about a peer that was turned away, or that turned us away: one clause for
//! the session's log line, in the words of the command line.

use relay_core::Leg;
use relay_tls::{Cause, Identity, Name, PeerInfo, TlsCodec};

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
            Some(format!("if this is the peer that is meant, add --peer {rule}"))
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
