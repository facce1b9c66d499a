//! Every way to be refused: the class and the words here, the alert there.

use relay_core::codec::Codec;
use relay_core::error::Failure;

use super::pki::{Authority, ClientAuth, Issued, Leaf, ServerAuth, dns, identities, ip, material};
use super::wire::{Cut, End, pump};
use crate::{Cause, ClientTls, Identity, Material, Pem, ServerTls};

struct Case {
    authority: Authority,
    client: Leaf,
    server: Leaf,
}

impl Case {
    fn new() -> Self {
        let client = Leaf { common_name: "source", serial: 11, ..Leaf::default() };
        let names = vec![ip("10.0.0.1"), dns("target")];
        let server = Leaf { common_name: "target", serial: 12, names, ..Leaf::default() };
        Self { authority: Authority::new("ca"), client, server }
    }

    fn ends(&self, expect_client: &[&str], expect_server: &[&str], lists: Option<&str>) -> (End, End) {
        let client = material(&self.authority.issue(&self.client), &self.authority);
        let server = material(&self.authority.issue(&self.server), &self.authority);
        let list = |material: Material| match lists {
            Some(list) => material.with_crls(Pem { file: "crl", bytes: list.as_bytes() }).unwrap(),
            None => material,
        };
        connect(&list(client), &list(server), identities(expect_client), identities(expect_server))
    }
}

fn connect(
    client: &Material,
    server: &Material,
    expect_client: Vec<Identity>,
    expect_server: Vec<Identity>,
) -> (End, End) {
    let client = ClientTls::builder(client).peers(expect_server).build().unwrap();
    let server = ServerTls::builder(server).peers(expect_client).build().unwrap();
    let (mut a, mut b) = (End::new(client.codec("10.0.0.1").unwrap()), End::new(server.codec()));
    pump(&mut a, &mut b, &mut Cut::Whole);
    (a, b)
}

/// `judge` refused with these words, and the other side was told by this alert.
#[track_caller]
fn refused(judge: &End, judged: &End, alert: u8, words: &str) {
    assert_eq!(judge.failure, Some(Failure::Rejected), "{:?}", judge.codec.error_text());
    assert!(!judge.codec.is_secured());
    let text = judge.codec.error_text().unwrap();
    assert!(text.contains(words), "{text}");
    assert!(!text.contains('\n'), "{text}");
    assert_eq!(judged.failure, Some(Failure::Alert(alert)), "{:?}", judged.codec.error_text());
    let told = judged.codec.error_text().unwrap();
    assert!(told.contains(&format!("({alert})")), "{told}");
}

#[track_caller]
fn accepted(client: &End, server: &End) {
    let texts = (client.codec.error_text(), server.codec.error_text());
    assert!(client.codec.is_secured() && server.codec.is_secured(), "{texts:?}");
    assert_eq!((client.failure, server.failure), (None, None), "{texts:?}");
}

#[test]
fn unknown_authority() {
    // Another name, and another key under the same name: an authority that was replaced.
    for name in ["another", "ca"] {
        unknown(&Case::new(), &Authority::new(name));
    }
}

fn unknown(ours: &Case, other: &Authority) {
    let ca = &ours.authority;
    let good = |leaf: &Leaf| material(&ca.issue(leaf), ca);
    let foreign = |leaf: &Leaf| material(&other.issue(leaf), ca);
    let (client, server) = connect(&good(&ours.client), &foreign(&ours.server), vec![], vec![]);
    refused(&client, &server, 48, "peer's certificate is signed by an unknown CA; it is for cn:target");
    let (client, server) = connect(&foreign(&ours.client), &good(&ours.server), vec![], vec![]);
    refused(&server, &client, 48, "peer's certificate is signed by an unknown CA; it is for cn:source");
    assert!(
        client.codec.error_text().unwrap().contains("peer rejected our certificate: alert unknown_ca(48)")
    );
}

#[test]
fn dates() {
    let mut case = Case::new();
    case.server.years = (2000, 2001);
    let (client, server) = case.ends(&[], &[], None);
    refused(&client, &server, 45, "has expired: it was valid until 2001-01-01T00:00:00Z");
    case.server.years = (2090, 2100);
    let (client, server) = case.ends(&[], &[], None);
    refused(&client, &server, 45, "is not valid yet: it will be from 2090-01-01T00:00:00Z on");
    let mut case = Case::new();
    case.client.years = (2000, 2001);
    let (client, server) = case.ends(&[], &[], None);
    refused(&server, &client, 45, "has expired");
}

#[test]
fn purposes() {
    let mut case = Case::new();
    case.server.purposes = vec![ClientAuth];
    let (client, server) = case.ends(&[], &[], None);
    refused(&client, &server, 43, "is for another purpose");
    let mut case = Case::new();
    case.client.purposes = vec![ServerAuth];
    let (client, server) = case.ends(&[], &[], None);
    refused(&server, &client, 43, "is for another purpose");
    let mut case = Case::new();
    case.client.purposes = vec![ClientAuth];
    case.server.purposes = vec![ServerAuth];
    let (client, server) = case.ends(&[], &[], None);
    accepted(&client, &server);
}

#[test]
fn the_host_dialed() {
    let mut case = Case::new();
    case.server.names = vec![ip("10.0.0.2"), dns("other")];
    let (client, server) = case.ends(&[], &[], None);
    refused(
        &client,
        &server,
        42,
        "is not for the host dialed, 10.0.0.1; it is for cn:target,ip:10.0.0.2,dns:other",
    );
    // KubeVirt's way: no alternative names at all.
    case.server.names = vec![];
    let (client, server) = case.ends(&[], &[], None);
    refused(&client, &server, 42, "is not for the host dialed, 10.0.0.1; it is for cn:target");
    let (client, server) = case.ends(&[], &["cn:target"], None);
    accepted(&client, &server);
}

#[test]
fn identities_narrow_both_sides() {
    let case = Case::new();
    let (client, server) = case.ends(&["cn:other", "cn:sou*"], &["cn:nobody", "ip:10.0.0.1"], None);
    accepted(&client, &server);
    let (client, server) = case.ends(&["cn:other", "dns:source"], &[], None);
    refused(&server, &client, 49, "peer is cn:source, expected cn:other or dns:source");
    let (client, server) = case.ends(&[], &["cn:targe"], None);
    refused(&client, &server, 49, "peer is cn:target,ip:10.0.0.1,dns:target, expected cn:targe");
}

/// With `peers` the host dialed does not matter, but everything else does, in every combination
/// with a wrong name: this is what the order of webpki's checks is relied upon for.
#[test]
fn an_identity_excuses_nothing_but_the_name() {
    for names in [vec![], vec![dns("elsewhere")], vec![ip("10.0.0.1")]] {
        let fresh = || {
            let mut case = Case::new();
            case.server.names = names.clone();
            case
        };
        let mut expired = fresh();
        expired.server.years = (2000, 2001);
        let (client, server) = expired.ends(&[], &["cn:target"], None);
        refused(&client, &server, 45, "has expired");
        let mut purpose = fresh();
        purpose.server.purposes = vec![ClientAuth];
        let (client, server) = purpose.ends(&[], &["cn:target"], None);
        refused(&client, &server, 43, "another purpose");
        let revoked = fresh();
        let list = revoked.authority.revoke(&[12], 2100);
        let (client, server) = revoked.ends(&[], &["cn:target"], Some(&list));
        refused(&client, &server, 44, "is revoked");
        let (case, other) = (fresh(), Authority::new("another"));
        let client = material(&case.authority.issue(&case.client), &case.authority);
        let server = material(&other.issue(&case.server), &case.authority);
        let (client, server) = connect(&client, &server, vec![], identities(&["cn:target"]));
        refused(&client, &server, 48, "unknown CA");
        let (client, server) = fresh().ends(&[], &["cn:target"], None);
        accepted(&client, &server);
    }
}

/// What a program can act upon, and whom it was about.
#[test]
fn causes() {
    let fresh = Case::new;
    let check = |ends: (End, End), cause: Cause, alert: u8| {
        let (client, server) = ends;
        assert_eq!(client.codec.cause(), Some(cause));
        let rejected = client.codec.rejected().unwrap();
        assert_eq!(rejected.common_name(), Some("target"));
        assert_eq!((server.codec.cause(), server.codec.rejected()), (Some(Cause::Alert(alert)), None));
    };
    let mut case = fresh();
    case.server.years = (2000, 2001);
    check(case.ends(&[], &[], None), Cause::Expired, 45);
    case.server.years = (2090, 2100);
    check(case.ends(&[], &[], None), Cause::NotValidYet, 45);
    let mut case = fresh();
    case.server.purposes = vec![ClientAuth];
    check(case.ends(&[], &[], None), Cause::Purpose, 43);
    let mut case = fresh();
    case.server.names = vec![];
    check(case.ends(&[], &[], None), Cause::OtherHost, 42);
    check(case.ends(&[], &["cn:x"], None), Cause::OtherIdentity, 49);
    for (list, cause, alert) in [
        (case.authority.revoke(&[12], 2100), Cause::Revoked, 44),
        (case.authority.revoke(&[], 2021), Cause::RevocationExpired, 48),
        (Authority::new("another").revoke(&[], 2100), Cause::RevocationUnknown, 48),
    ] {
        check(case.ends(&[], &["cn:target"], Some(&list)), cause, alert);
    }
    let other = Authority::new("another");
    let client = material(&case.authority.issue(&case.client), &case.authority);
    let server = material(&other.issue(&case.server), &case.authority);
    let ends = connect(&client, &server, vec![], vec![]);
    assert!(ends.0.codec.error_text().unwrap().ends_with(", issued by cn:another"));
    check(ends, Cause::UnknownAuthority, 48);
    // Nobody's certificate, and no TLS at all.
    let fresh = || End::new(ServerTls::builder(&client).build().unwrap().codec());
    let mut end = fresh();
    end.codec.frame(b"GET / HTTP/1.1").unwrap_err();
    assert_eq!((end.codec.cause(), end.codec.rejected()), (Some(Cause::NoTls), None));
    let mut end = fresh();
    end.codec.transport_eof().unwrap_err();
    assert_eq!(end.codec.cause(), Some(Cause::Silence));
}

#[test]
fn revocation_on_both_sides() {
    let case = Case::new();
    let harmless = case.authority.revoke(&[99], 2100);
    let (client, server) = case.ends(&[], &[], Some(&harmless));
    accepted(&client, &server);
    let list = case.authority.revoke(&[12], 2100);
    let (client, server) = case.ends(&[], &[], Some(&list));
    refused(&client, &server, 44, "peer's certificate is revoked; it is for cn:target");
    let list = case.authority.revoke(&[11], 2100);
    let (client, server) = case.ends(&[], &[], Some(&list));
    refused(&server, &client, 44, "peer's certificate is revoked; it is for cn:source");
}

#[test]
fn what_a_list_does_not_say_is_not_taken_for_good() {
    let case = Case::new();
    let expired = case.authority.revoke(&[], 2021);
    let (client, server) = case.ends(&[], &[], Some(&expired));
    refused(&client, &server, 48, "the revocation list of its CA has expired");
    let other = Authority::new("another").revoke(&[], 2100);
    let (client, server) = case.ends(&[], &[], Some(&other));
    refused(&client, &server, 48, "there is no revocation list of its CA");
}

#[test]
fn intermediates_come_with_the_chain() {
    let case = Case::new();
    let middle = case.authority.intermediate("middle");
    let issue = |leaf: &Leaf| {
        let Issued { chain, key, der } = middle.issue(leaf);
        Issued { chain: format!("{chain}{}", middle.pem), key, der }
    };
    let client = material(&issue(&case.client), &case.authority);
    let server = material(&issue(&case.server), &case.authority);
    let (client, server) = connect(&client, &server, vec![], vec![]);
    accepted(&client, &server);
    // Without it there is no way to the authority.
    let client = material(&middle.issue(&case.client), &case.authority);
    let server = material(&issue(&case.server), &case.authority);
    let (client, server) = connect(&client, &server, vec![], vec![]);
    refused(&server, &client, 48, "unknown CA");
}

/// A client that has no certificate is told that one is required.
#[test]
fn no_certificate_at_all() {
    use rustls::pki_types::ServerName;
    let case = Case::new();
    let server = material(&case.authority.issue(&case.server), &case.authority);
    let mut end = End::new(ServerTls::builder(&server).build().unwrap().codec());
    let config = rustls::ClientConfig::builder_with_provider(crate::Provider::default().crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(server.roots().clone())
        .with_no_client_auth();
    let name = ServerName::try_from("10.0.0.1").unwrap();
    let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
    let error = super::reference::exchange(&mut end, &mut client).unwrap_err();
    assert_eq!(error, rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired));
    assert_eq!(end.failure, Some(Failure::Rejected));
    assert_eq!(end.codec.error_text(), Some("peer sent no certificate, and one is required"));
    assert_eq!(end.codec.cause(), Some(Cause::NoCertificate));
}
