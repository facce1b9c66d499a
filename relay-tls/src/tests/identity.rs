//! Rules for peers: their words, and whom they are satisfied by.

use base64ct::{Base64, Encoding};
use proptest::prelude::*;

use super::pki::{Authority, Leaf, dns, ip, uri};
use crate::{Identity, PeerInfo, Provider};

fn peer(leaf: &Leaf) -> PeerInfo {
    PeerInfo::from_der(&Authority::new("ca").issue(leaf).der, Provider::default()).unwrap()
}

fn matches(rule: &str, peer: &PeerInfo) -> bool {
    rule.parse::<Identity>().unwrap().matches(peer)
}

#[test]
fn common_names() {
    let kubevirt = peer(&Leaf { common_name: "kubevirt.io:system:client:migration", ..Leaf::default() });
    assert!(matches("cn:kubevirt.io:system:client:migration", &kubevirt));
    assert!(matches("cn:kubevirt.io:system:client:*", &kubevirt));
    assert!(matches("cn:kubevirt.io:system:client:migration*", &kubevirt));
    assert!(!matches("cn:kubevirt.io:system:client", &kubevirt));
    assert!(!matches("cn:kubevirt.io:system:client:virt-handler", &kubevirt));
    assert!(!matches("cn:Kubevirt.io:system:client:migration", &kubevirt));
    assert!(!matches("dns:kubevirt.io", &kubevirt));
    let nobody = peer(&Leaf { common_name: "", ..Leaf::default() });
    assert!(!matches("cn:a*", &nobody));
    assert_eq!(nobody.to_string(), "(no name)");
}

#[test]
fn alternative_names() {
    let names = vec![
        dns("Node-1.example.org"),
        dns("*.wild.example.org"),
        uri("spiffe://example.org/node/1"),
        ip("192.0.2.1"),
        ip("2001:db8::1"),
    ];
    let node = peer(&Leaf { names, ..Leaf::default() });
    for rule in [
        "dns:node-1.example.org",
        "dns:NODE-1.EXAMPLE.ORG",
        "uri:spiffe://example.org/node/1",
        "uri:spiffe://example.org/node/*",
        "uri:spiffe://example.org/*",
        "ip:192.0.2.1",
        "ip:::ffff:192.0.2.1",
        "ip:2001:db8::1",
        "ip:[2001:db8:0::1]",
    ] {
        assert!(matches(rule, &node), "{rule}");
    }
    for rule in [
        "dns:example.org",
        "dns:a.wild.example.org",
        "dns:node-1.example.or",
        "uri:spiffe://example.org/node/2",
        "uri:spiffe://example.org/nodes/*",
        "uri:spiffe://example.or/*",
        "uri:spiffe://Example.org/node/1",
        "ip:192.0.2.2",
        "cn:Node-1.example.org",
    ] {
        assert!(!matches(rule, &node), "{rule}");
    }
    assert_eq!(
        node.to_string(),
        "cn:node,dns:Node-1.example.org,dns:*.wild.example.org,uri:spiffe://example.org/node/1,ip:192.0.2.1,+1"
    );
}

#[test]
fn an_ipv4_address_written_as_ipv6_is_the_same() {
    let node = peer(&Leaf { names: vec![ip("::ffff:192.0.2.1")], ..Leaf::default() });
    assert!(matches("ip:192.0.2.1", &node));
    assert!(matches("ip:::ffff:192.0.2.1", &node));
}

#[test]
fn the_last_common_name_counts() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "first");
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "between");
    params.distinguished_name.push(rcgen::DnType::CustomDnType(vec![2, 5, 4, 3]), "last");
    let der = params.self_signed(&key).unwrap().der().to_vec();
    let both = PeerInfo::from_der(&der, Provider::default()).unwrap();
    assert_eq!(both.common_name(), Some("last"));
    assert!(matches("cn:last", &both) && !matches("cn:first", &both));
}

#[test]
fn keys() {
    let (one, other) = (peer(&Leaf::default()), peer(&Leaf::default()));
    let rule = format!("spki:sha256:{}", Base64::encode_string(one.key_sha256()));
    assert!(matches(&rule, &one));
    assert!(!matches(&rule, &other));
}

#[test]
fn wrong_words_are_answered_with_right_ones() {
    for (given, wanted) in [
        ("", "should begin with cn:"),
        ("node", "should begin with cn:"),
        ("CN:node", "should begin with cn:"),
        ("email:a@b", "should begin with cn:"),
        ("cn:", "a name should follow cn:"),
        ("cn:*", "would accept every certificate"),
        ("cn:a*b", "only at the end"),
        ("cn:a**", "only at the end"),
        ("dns:", "a DNS name such as"),
        ("dns:*.example.org", "takes no *"),
        ("dns:node*", "takes no *"),
        ("dns:a..b", "a DNS name such as"),
        ("dns:a.", "a DNS name such as"),
        ("dns:ä.org", "a DNS name such as"),
        ("uri:", "a name should follow uri:"),
        ("uri:*", "would accept every certificate"),
        ("uri:nothing", "a URI with its scheme"),
        ("uri://example.org/", "a URI with its scheme"),
        ("uri::x", "a URI with its scheme"),
        ("uri:spiffe://example*", "after the slash that ends its authority"),
        ("uri:spiffe://*", "after the slash that ends its authority"),
        ("uri:spiffe:///*", "after the slash that ends its authority"),
        ("uri:urn:a*", "after the slash that ends its authority"),
        ("ip:", "an address such as"),
        ("ip:10.0.0.*", "an address such as"),
        ("ip:10.0.0.0/8", "an address such as"),
        ("ip:node", "an address such as"),
        ("spki:", "only sha256"),
        ("spki:sha1:AAAA", "only sha256"),
        ("spki:sha256:", "44 characters"),
        ("spki:sha256:AAAA", "44 characters"),
        ("spki:sha256:!!!!", "44 characters"),
    ] {
        let error = given.parse::<Identity>().unwrap_err().to_string();
        assert!(error.contains(wanted), "{given}: {error}");
        assert!(error.contains(&format!("{given:?}")), "{error}");
        assert!(!error.contains('\n'));
    }
}

/// A certificate's text cannot forge a log line or reorder a terminal.
#[test]
fn hostile_names_are_harmless_in_a_log() {
    let hostile = peer(&Leaf { common_name: "a\n2026 INFO fine\x1b[2J\u{202e}", ..Leaf::default() });
    assert_eq!(hostile.to_string(), "cn:a?2026 INFO fine?[2J?");
    assert!(hostile.common_name().unwrap().contains('\n'), "but rules see what is there");
}

#[test]
fn no_certificate() {
    assert!(PeerInfo::from_der(b"", Provider::default()).is_none());
    assert!(PeerInfo::from_der(&[0x30, 0x80], Provider::default()).is_none());
}

proptest! {
    #[test]
    fn any_text_is_an_identity_or_a_clear_error(given in "(cn|dns|uri|ip|spki|)(:)?[ -~]{0,40}") {
        match given.parse::<Identity>() {
            Ok(identity) => {
                let again: Identity = identity.to_string().parse().unwrap();
                prop_assert_eq!(again, identity);
            }
            Err(error) => prop_assert!(!error.to_string().contains('\n')),
        }
    }

    /// Certificates are taken apart whatever their bytes.
    #[test]
    fn any_bytes_are_a_certificate_or_none(at in 0_usize..400, byte: u8) {
        thread_local! {
            static DER: Vec<u8> = Authority::new("ca").issue(&Leaf { names: vec![dns("a"), ip("::1")], ..Leaf::default() }).der;
        }
        let mut der = DER.with(Clone::clone);
        let at = at % der.len();
        der[at] = byte;
        if let Some(peer) = PeerInfo::from_der(&der, Provider::default()) {
            let _ = (peer.to_string(), peer.not_after_text());
        }
    }
}
