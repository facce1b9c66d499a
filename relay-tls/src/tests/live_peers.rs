//! Peers of open sessions judged again: by other rules, and at a later time.

use core::time::Duration;

use relay_core::Distrust;
use relay_core::codec::Codec;
use relay_core::error::Failure;

use super::pki::{Authority, Issued, Leaf, identities, ip, material};
use super::wire::{Cut, End, pump};
use crate::{Cause, ClientTls, DataPath, LivePeers, Material, Pem, Reviewed, ServerTls};

/// A year's first moment, as the certificates count: seconds since 1970.
fn year(year: u64) -> Duration {
    let leap_days = (1972..year).step_by(4).filter(|y| y % 100 != 0 || y % 400 == 0).count() as u64;
    Duration::from_secs(((year - 1970) * 365 + leap_days) * 86_400)
}

/// While every certificate is valid that does not say otherwise. (Handshakes go by the real clock.)
const NOW: u64 = 2029;

/// An authority, one below it that issues, and a node whose sessions' peers are judged again.
struct Rig {
    root: Authority,
    middle: Authority,
    own: Issued,
    book: LivePeers,
}

const SOURCE: Leaf =
    Leaf { common_name: "source", names: Vec::new(), purposes: Vec::new(), years: (2000, 2040), serial: 11 };

impl Rig {
    fn new() -> Self {
        Self::with_middle_until(2050)
    }

    fn with_middle_until(year: i32) -> Self {
        let root = Authority::new("root");
        let middle = root.intermediate_until("middle", 500, year);
        let own = root.issue(&Leaf { common_name: "node", serial: 1, ..leaf(&SOURCE) });
        Self { root, middle, own, book: LivePeers::new() }
    }

    /// A certificate of the authority below, with that one's behind it.
    fn issue(&self, wanted: &Leaf) -> Issued {
        let Issued { chain, key, der } = self.middle.issue(&leaf(wanted));
        Issued { chain: format!("{chain}{}", self.middle.pem), key, der }
    }

    /// Our own, with lists in which these of the root's and of the middle's are revoked.
    fn material(&self, by_root: &[u64], by_middle: &[u64], next_update: i32) -> Material {
        let lists = self.root.revoke(by_root, next_update) + &self.middle.revoke(by_middle, next_update);
        material(&self.own, &self.root).with_crls(Pem { file: "crl", bytes: lists.as_bytes() }).unwrap()
    }

    fn settings(&self, material: &Material, peers: &[&str]) -> (ServerTls, ClientTls) {
        let peers = identities(peers);
        let server = ServerTls::builder(material).peers(peers.clone()).live_peers(&self.book);
        let client = ClientTls::builder(material).peers(peers).live_peers(&self.book);
        (server.build().unwrap(), client.build().unwrap())
    }

    /// Loads a set.
    fn load(&self, material: &Material, peers: &[&str]) -> (ServerTls, ClientTls) {
        let settings = self.settings(material, peers);
        self.book.judge_by(&settings.0, &settings.1);
        settings
    }

    fn review(&self, now: Duration) -> Reviewed {
        self.book.review(now, 100)
    }

    /// A client that connected to us.
    fn client(&self, ours: &ServerTls, certificate: &Issued) -> Session {
        let theirs = ClientTls::builder(&material(certificate, &self.root)).peers(identities(&["cn:node"]));
        Session::new(End::new(ours.codec()), End::new(theirs.build().unwrap().codec("node").unwrap()))
    }

    /// A server that we dialed.
    fn server(&self, ours: &ClientTls, certificate: &Issued) -> Session {
        let theirs = ServerTls::builder(&material(certificate, &self.root)).build().unwrap();
        Session::new(End::new(ours.codec("10.0.0.1").unwrap()), End::new(theirs.codec()))
    }
}

fn leaf(of: &Leaf) -> Leaf {
    let purposes = Leaf::default().purposes;
    Leaf { purposes, ..of.clone() }
}

struct Session {
    ours: End,
    theirs: End,
}

impl Session {
    fn new(ours: End, theirs: End) -> Self {
        Self { ours, theirs }
    }

    fn shake_hands(mut self) -> Self {
        pump(&mut self.ours, &mut self.theirs, &mut Cut::Whole);
        self
    }

    #[track_caller]
    fn open(self) -> Self {
        let session = self.shake_hands();
        assert!(session.ours.codec.is_secured(), "{:?}", session.ours.codec.error_text());
        assert!(session.theirs.codec.is_secured(), "{:?}", session.theirs.codec.error_text());
        assert_eq!(session.distrust(), None);
        assert_eq!((session.ours.codec.error_text(), session.ours.codec.cause()), (None, None));
        session
    }

    fn distrust(&self) -> Option<Distrust> {
        self.ours.codec.distrust()
    }

    #[track_caller]
    fn is_distrusted(&self, why: Distrust, cause: Cause, words: &str) {
        assert_eq!((self.distrust(), self.ours.codec.cause()), (Some(why), Some(cause)));
        let text = self.ours.codec.error_text().unwrap();
        assert!(text.contains(words), "{text}");
    }

    /// It still works, as far as it is concerned itself: what is to become of it is somebody else's business.
    fn carries(&mut self, text: &[u8]) {
        self.theirs.to_send = text.to_vec();
        pump(&mut self.ours, &mut self.theirs, &mut Cut::Whole);
        assert_eq!(std::mem::take(&mut self.ours.received), text);
    }
}

#[test]
fn a_revoked_certificate_is_found_and_its_neighbours_are_not() {
    let rig = Rig::new();
    let (server, client) = rig.load(&rig.material(&[], &[], 2100), &[]);
    let other = rig.issue(&Leaf { common_name: "other", serial: 12, ..SOURCE });
    let target =
        rig.issue(&Leaf { common_name: "target", serial: 13, names: vec![ip("10.0.0.1")], ..SOURCE });
    let mut sessions = [
        rig.client(&server, &rig.issue(&SOURCE)).open(),
        rig.client(&server, &other).open(),
        rig.server(&client, &target).open(),
    ];
    assert_eq!(rig.review(year(NOW)), Reviewed { judged: 3, distrusted: 0, more: false });
    sessions.iter_mut().for_each(|session| session.carries(b"before"));

    rig.load(&rig.material(&[], &[11, 99], 2100), &[]);
    assert_eq!(sessions[0].distrust(), None, "nobody has looked");
    assert_eq!(rig.review(year(NOW)), Reviewed { judged: 3, distrusted: 1, more: false });
    sessions[0].is_distrusted(
        Distrust::Revoked,
        Cause::Revoked,
        "peer's certificate is revoked; it is for cn:source",
    );
    assert_eq!((sessions[1].distrust(), sessions[2].distrust()), (None, None));
    sessions.iter_mut().for_each(|session| session.carries(b"after"));

    rig.load(&rig.material(&[], &[11, 13], 2100), &[]);
    assert_eq!(rig.review(year(NOW)), Reviewed { judged: 2, distrusted: 1, more: false });
    sessions[2].is_distrusted(Distrust::Revoked, Cause::Revoked, "it is for cn:target");
    assert_eq!(sessions[1].distrust(), None);
}

#[test]
fn a_revoked_authority_in_the_middle_takes_all_of_its_own_along() {
    let rig = Rig::new();
    let (server, _) = rig.load(&rig.material(&[], &[], 2100), &[]);
    let session = rig.client(&server, &rig.issue(&SOURCE)).open();
    let direct = Session::new(
        End::new(server.codec()),
        End::new(
            ClientTls::builder(&material(&rig.own, &rig.root))
                .peers(identities(&["cn:node"]))
                .build()
                .unwrap()
                .codec("node")
                .unwrap(),
        ),
    )
    .open();
    rig.load(&rig.material(&[500], &[], 2100), &[]);
    assert_eq!(rig.review(year(NOW)).distrusted, 1);
    session.is_distrusted(Distrust::Revoked, Cause::Revoked, "revoked");
    assert_eq!(direct.distrust(), None);
}

#[test]
fn an_authority_that_is_gone_is_not_trusted_any_more() {
    let rig = Rig::new();
    let (server, _) = rig.load(&material(&rig.own, &rig.root), &[]);
    let session = rig.client(&server, &rig.issue(&SOURCE)).open();
    let another = Authority::new("another");
    rig.load(&material(&another.issue(&leaf(&SOURCE)), &another), &[]);
    assert_eq!(rig.review(year(NOW)).distrusted, 1);
    session.is_distrusted(Distrust::Unverified, Cause::UnknownAuthority, "signed by an unknown CA");
}

#[test]
fn a_certificate_is_good_in_its_last_second_and_not_in_the_next() {
    let second = Duration::from_secs(1);
    for (until, rig) in [(2040, Rig::new()), (2035, Rig::with_middle_until(2035))] {
        let (server, _) = rig.load(&material(&rig.own, &rig.root), &[]);
        let session = rig.client(&server, &rig.issue(&SOURCE)).open();
        assert_eq!(rig.review(year(NOW)), Reviewed { judged: 1, ..Reviewed::default() });
        assert_eq!(rig.review(year(until) - second), Reviewed::default(), "time has changed nothing");
        assert_eq!(rig.review(year(until)), Reviewed::default());
        assert_eq!(session.distrust(), None);
        assert_eq!(rig.review(year(until) + second), Reviewed { judged: 1, distrusted: 1, more: false });
        let words = format!("has expired: it was valid until {until}-01-01");
        session.is_distrusted(Distrust::Expired, Cause::Expired, &words);
    }
}

/// What came in the last second of a certificate, and is looked at for the first time afterwards.
#[test]
fn what_ends_before_the_first_look_is_found_by_it() {
    let rig = Rig::new();
    let (server, _) = rig.load(&material(&rig.own, &rig.root), &[]);
    let session = rig.client(&server, &rig.issue(&SOURCE)).open();
    assert_eq!(rig.review(year(2041)).distrusted, 1);
    session.is_distrusted(Distrust::Expired, Cause::Expired, "expired");
}

#[test]
fn a_list_that_has_expired_counts_as_none_here_too() {
    let rig = Rig::new();
    let (server, _) = rig.load(&rig.material(&[], &[], 2030), &[]);
    let session = rig.client(&server, &rig.issue(&SOURCE)).open();
    assert_eq!(rig.review(year(NOW)), Reviewed { judged: 1, ..Reviewed::default() });
    // a current one in time, and nobody is cut
    rig.load(&rig.material(&[], &[], 2036), &[]);
    assert_eq!(rig.review(year(2030)), Reviewed { judged: 1, ..Reviewed::default() });
    assert_eq!(rig.review(year(2035)), Reviewed::default());
    assert_eq!(rig.review(year(2036)), Reviewed { judged: 1, distrusted: 1, more: false });
    session.is_distrusted(Distrust::Unverified, Cause::RevocationExpired, "list of its CA has expired");
}

#[test]
fn a_list_that_is_missing_from_a_new_set_is_an_unknown_status() {
    let rig = Rig::new();
    let (server, _) = rig.load(&rig.material(&[], &[], 2100), &[]);
    let session = rig.client(&server, &rig.issue(&SOURCE)).open();
    let only_root = rig.root.revoke(&[], 2100);
    let lists = Pem { file: "crl", bytes: only_root.as_bytes() };
    rig.load(&material(&rig.own, &rig.root).with_crls(lists).unwrap(), &[]);
    assert_eq!(rig.review(year(NOW)).distrusted, 1);
    session.is_distrusted(Distrust::Unverified, Cause::RevocationUnknown, "no revocation list of its CA");
}

#[test]
fn whom_we_expect_is_asked_again_too() {
    let rig = Rig::new();
    let (server, client) = rig.load(&material(&rig.own, &rig.root), &["cn:source", "cn:target"]);
    // without the host dialed in it: the rule is in its place
    let target = rig.issue(&Leaf { common_name: "target", serial: 12, ..SOURCE });
    let session = rig.client(&server, &rig.issue(&SOURCE)).open();
    let dialed = rig.server(&client, &target).open();
    assert_eq!(rig.review(year(NOW)), Reviewed { judged: 2, ..Reviewed::default() });
    rig.load(&material(&rig.own, &rig.root), &["cn:target"]);
    assert_eq!(rig.review(year(NOW)), Reviewed { judged: 2, distrusted: 1, more: false });
    session.is_distrusted(
        Distrust::Unverified,
        Cause::OtherIdentity,
        "peer is cn:source, expected cn:target",
    );
    assert_eq!(session.ours.codec.rejected().unwrap().common_name(), Some("source"));
    assert_eq!(dialed.distrust(), None);
}

#[test]
fn the_host_dialed_stays_the_one_that_a_server_is_judged_by() {
    let rig = Rig::new();
    let (_, client) = rig.load(&material(&rig.own, &rig.root), &[]);
    let target = rig.issue(&Leaf { names: vec![ip("10.0.0.1")], ..SOURCE });
    let session = rig.server(&client, &target).open();
    rig.load(&material(&rig.own, &rig.root), &[]);
    assert_eq!(rig.review(year(NOW)), Reviewed { judged: 1, ..Reviewed::default() });
    assert_eq!(session.distrust(), None);
}

#[test]
fn whoever_is_let_in_later_with_the_same_certificate_is_somebody_else() {
    let rig = Rig::new();
    let (server, _) = rig.load(&rig.material(&[], &[], 2100), &[]);
    let certificate = rig.issue(&SOURCE);
    let first = rig.client(&server, &certificate).open();
    rig.load(&rig.material(&[], &[11], 2100), &[]);
    assert_eq!(rig.review(year(NOW)).distrusted, 1);
    // it was a mistake
    let (server, _) = rig.load(&rig.material(&[], &[], 2100), &[]);
    let second = rig.client(&server, &certificate).open();
    assert_eq!(rig.review(year(NOW)), Reviewed { judged: 1, ..Reviewed::default() });
    assert_eq!((first.distrust(), second.distrust()), (Some(Distrust::Revoked), None));
    rig.load(&rig.material(&[], &[11], 2100), &[]);
    assert_eq!(rig.review(year(NOW)).distrusted, 1);
    assert_eq!(second.distrust(), Some(Distrust::Revoked));
}

/// A handshake that began before a reload and is complete after it: the old rules let the peer in, and nobody
/// would have looked at it again.
#[test]
fn a_handshake_across_a_reload_is_held_to_the_new_rules() {
    let (revoked, harmless): (&[u64], &[u64]) = (&[11], &[99]);
    for path in [DataPath::InPlace, DataPath::Rustls] {
        // rustls says what it says
        let alert = if path == DataPath::InPlace { Some(Failure::Alert(44)) } else { None };
        let rig = Rig::new();
        let material_of = |serials| rig.material(&[], serials, 2100);
        let ours = ServerTls::builder(&material_of(&[])).data_path(path).live_peers(&rig.book);
        let ours = ours.build().unwrap();
        let client = ClientTls::builder(&material_of(&[])).live_peers(&rig.book).build().unwrap();
        rig.book.judge_by(&ours, &client);
        let certificate = rig.issue(&SOURCE);
        let begun = rig.client(&ours, &certificate);
        rig.load(&material_of(harmless), &[]);
        begun.open();

        let begun = rig.client(&ours, &certificate);
        rig.load(&material_of(revoked), &[]);
        let session = begun.shake_hands();
        assert_eq!(session.ours.failure, Some(Failure::Rejected));
        assert!(!session.ours.codec.is_secured() && session.ours.codec.distrust().is_none());
        assert_eq!(session.ours.codec.cause(), Some(Cause::Revoked));
        let text = session.ours.codec.error_text().unwrap();
        assert!(text.contains("peer's certificate is revoked; it is for cn:source"), "{text}");
        assert!(session.theirs.failure.is_some());
        assert!(alert.is_none() || session.theirs.failure == alert, "{:?}", session.theirs.failure);
        assert!(rig.book.is_empty(), "it never was one of those that are there");
    }
    // and where we dialed
    let rig = Rig::new();
    let (_, ours) = rig.load(&rig.material(&[], &[], 2100), &["cn:source"]);
    let begun = rig.server(&ours, &rig.issue(&SOURCE));
    rig.load(&rig.material(&[], revoked, 2100), &["cn:source"]);
    let session = begun.shake_hands();
    assert_eq!(session.ours.failure, Some(Failure::Rejected));
    assert_eq!(session.theirs.failure, Some(Failure::Alert(44)));
}

#[test]
fn sessions_of_one_node_cost_one_verification_and_a_review_is_bounded() {
    let rig = Rig::new();
    let (server, _) = rig.load(&rig.material(&[], &[], 2100), &[]);
    let certificates: Vec<_> = (1..=7).map(|serial| rig.issue(&Leaf { serial, ..SOURCE })).collect();
    let again = || certificates.iter().chain(&certificates[..2]);
    let sessions: Vec<_> = again().map(|certificate| rig.client(&server, certificate).open()).collect();
    assert_eq!((sessions.len(), rig.book.len()), (9, 7));
    let mut rounds = [3, 3, 1].map(|judged| Reviewed { judged, distrusted: 0, more: judged == 3 });
    for expected in rounds {
        assert_eq!(rig.book.review(year(NOW), 3), expected);
    }
    assert_eq!(rig.book.review(year(NOW), 3), Reviewed::default());
    rig.load(&rig.material(&[500], &[], 2100), &[]);
    for expected in &mut rounds {
        expected.distrusted = expected.judged;
        assert_eq!(rig.book.review(year(NOW), 3), *expected);
    }
    assert!(sessions.iter().all(|session| session.distrust() == Some(Distrust::Revoked)));
}

#[test]
fn nothing_is_kept_of_those_who_are_gone_nor_where_nobody_asked() {
    let rig = Rig::new();
    let (server, _) = rig.load(&material(&rig.own, &rig.root), &[]);
    let certificate = rig.issue(&SOURCE);
    let (one, two) = (rig.client(&server, &certificate).open(), rig.client(&server, &certificate).open());
    drop(one);
    assert_eq!(rig.book.len(), 1);
    drop(two);
    assert!(rig.book.is_empty());
    assert_eq!(rig.review(year(NOW)), Reviewed::default());
    assert_eq!(rig.book.entries(), 0);
    // though nobody reviews
    for serial in 0..300 {
        drop(rig.client(&server, &rig.issue(&Leaf { serial, ..SOURCE })).open());
    }
    assert!(rig.book.entries() <= 64, "{}", rig.book.entries());
    let unasked = ServerTls::builder(&material(&rig.own, &rig.root)).build().unwrap();
    let session = rig.client(&unasked, &certificate).open();
    assert!(rig.book.is_empty());
    rig.review(year(2041));
    assert_eq!(session.distrust(), None);
}
