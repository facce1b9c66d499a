//! Bodies for fuzzers: any bytes at all, and what must hold for them. A panic is a finding.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64ct::{Base64, Encoding};
use relay_core::error::Failure;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;

use super::hostile::{Scene, Script};
use super::pki::Authority;
use crate::hooks;
use crate::verify::{Clients, Servers};
use crate::{Identity, Material, Name, PeerInfo, Provider, explain};

/// Both ends of a session, and a network that does what the bytes say: before, during and after the
/// handshake nothing panics, what is held is bounded, a session goes on, asks for more or is over for
/// good with a sentence; what is delivered is what was sent, and only by whom we expect.
///
/// # Panics
/// If something of that does not hold.
pub fn link_tls(data: &[u8]) {
    if let Some(scene) = Scene::new(Script::new(data)) {
        scene.play();
    }
}

/// A rule for peers, a zero, a certificate; or either alone. Rules are printed and read again without
/// change; certificates are read or not, and shown without harm; a rule is met as its words say; the
/// verifiers let nobody in whom no authority of ours knows, and say why.
///
/// # Panics
/// If something of that does not hold.
pub fn identity(data: &[u8]) {
    let at = data.iter().position(|&byte| byte == 0);
    let (text, der) = at.map_or((data, data), |at| (&data[..at], &data[at + 1..]));
    let rule = std::str::from_utf8(text).ok().and_then(there_and_back);
    let peer = PeerInfo::from_der(der, Provider::default());
    if let Some(peer) = &peer {
        show(peer);
        for rule in rules_of(peer) {
            assert!(rule.matches(peer), "{peer} does not meet {rule}");
            assert!(is_met(&rule, peer), "{peer} should not meet {rule}");
        }
    }
    if let (Some(rule), Some(peer)) = (&rule, &peer) {
        assert_eq!(rule.matches(peer), is_met(rule, peer), "{rule}: {peer}");
    }
    // A rule is our own, and shown as it was written.
    judge(der, rule.as_ref().filter(|rule| !rule.to_string().chars().any(char::is_control)));
}

fn there_and_back(text: &str) -> Option<Identity> {
    match text.parse::<Identity>() {
        Ok(rule) => {
            let printed = rule.to_string();
            assert_eq!(printed.parse().as_ref(), Ok(&rule), "{text:?} was printed as {printed:?}");
            Some(rule)
        }
        Err(error) => {
            harmless(&error.to_string(), text.len());
            None
        }
    }
}

/// A line for a log: no control characters, and an end to it.
fn harmless(line: &str, quoted: usize) {
    assert!(!line.is_empty() && line.len() <= 16_384 + 12 * quoted, "{line:?}");
    assert!(!line.chars().any(char::is_control), "{line:?}");
}

fn show(peer: &PeerInfo) {
    harmless(&peer.to_string(), 0);
    harmless(&peer.issuer(), 0);
    harmless(&peer.not_after_text(), 0);
}

/// Rules made of a certificate's own words, as far as they can be written.
fn rules_of(peer: &PeerInfo) -> Vec<Identity> {
    let exact = |kind: &str, name: &str| (!name.ends_with('*')).then(|| format!("{kind}:{name}"));
    let names = peer.names().iter().filter_map(|name| match name {
        Name::Dns(name) => exact("dns", name),
        Name::Uri(name) => exact("uri", name),
        Name::Ip(address) => Some(format!("ip:{address}")),
    });
    let key = format!("spki:sha256:{}", Base64::encode_string(peer.key_sha256()));
    let common_name = peer.common_name().and_then(|name| exact("cn", name));
    names.chain(common_name).chain([key]).filter_map(|rule| rule.parse().ok()).collect()
}

/// What the words of a rule ask for.
fn is_met(rule: &Identity, peer: &PeerInfo) -> bool {
    let words = rule.to_string();
    let (kind, wanted) = words.split_once(':').unwrap_or_default();
    let like = |name: &str| match wanted.strip_suffix('*') {
        Some(beginning) => name.as_bytes().starts_with(beginning.as_bytes()),
        None => name == wanted,
    };
    match kind {
        "cn" => peer.common_name().is_some_and(like),
        "spki" => wanted.strip_prefix("sha256:") == Some(&Base64::encode_string(peer.key_sha256())),
        _ => peer.names().iter().any(|name| match (kind, name) {
            ("dns", Name::Dns(name)) => name.to_ascii_lowercase() == wanted,
            ("uri", Name::Uri(name)) => like(name),
            ("ip", Name::Ip(address)) => address.to_canonical().to_string() == wanted,
            _ => false,
        }),
    }
}

/// An authority, and the only certificate that it ever signed.
struct Known {
    material: Material,
    leaf: Vec<u8>,
    peer: PeerInfo,
}

fn known() -> &'static Known {
    static KNOWN: OnceLock<Known> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let authority = Authority::new("ca");
        let issued = authority.issue("peer");
        let peer = PeerInfo::from_der(issued.der(), Provider::default()).expect("a certificate");
        Known { leaf: issued.der().to_vec(), peer, material: issued.trusting(&authority) }
    })
}

/// Some day when it is valid.
const NOW: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));

/// Both verifiers, with the certificate as a peer's own and as one more in its chain.
fn judge(der: &[u8], rule: Option<&Identity>) {
    let (known, provider) = (known(), Provider::default());
    let peers: Arc<[Identity]> = rule.into_iter().cloned().collect();
    let crypto = provider.crypto();
    let clients = Clients::new(&known.material, peers.clone(), provider, crypto.clone()).expect("a verifier");
    let servers = Servers::new(&known.material, peers, provider, crypto).expect("a verifier");
    let host = ServerName::try_from("peer.example.org").expect("a host");
    let (hostile, leaf) = (CertificateDer::from(der), CertificateDer::from(known.leaf.as_slice()));
    for (own, more) in [(&hostile, &leaf), (&leaf, &hostile)] {
        let more = std::slice::from_ref(more);
        let as_client = || clients.verify_client_cert(own, more, NOW).map(drop);
        let as_server = || servers.verify_server_cert(own, more, &host, b"", NOW).map(drop);
        for (verdict, tray) in [hooks::collect(as_client), hooks::collect(as_server)] {
            let Err(error) = verdict else {
                let peer = PeerInfo::from_der(own, provider);
                assert_eq!(peer.as_ref(), Some(&known.peer), "a stranger gets in");
                assert!(rule.is_none_or(|rule| rule.matches(&known.peer)), "{rule:?} lets somebody else in");
                continue;
            };
            assert_eq!(explain::failure(&error), Failure::Rejected, "{error:?}");
            let words = tray.rejection.map_or_else(|| explain::error(&error), |rejection| rejection.words);
            harmless(&words, rule.map_or(0, |rule| rule.to_string().len()));
        }
    }
}
