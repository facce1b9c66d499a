//! An authority's certificates and revocation lists, in files.

use std::fs;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber, date_time_ymd,
};

use crate::support::Scratch;

/// What a certificate says. KubeVirt's way is a common name and a purpose.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) common_name: &'static str,
    pub(crate) purpose: ExtendedKeyUsagePurpose,
    pub(crate) years: (i32, i32),
    pub(crate) serial: u64,
    /// It names 127.0.0.1.
    pub(crate) of_loopback: bool,
}

impl Leaf {
    pub(crate) fn source() -> Self {
        Self {
            common_name: "the-source",
            purpose: ExtendedKeyUsagePurpose::ClientAuth,
            years: (2000, 2100),
            serial: 11,
            of_loopback: false,
        }
    }

    pub(crate) fn target() -> Self {
        let purpose = ExtendedKeyUsagePurpose::ServerAuth;
        Self { common_name: "the-target", purpose, serial: 12, of_loopback: true, ..Self::source() }
    }
}

pub(crate) struct Pki {
    pub(crate) dir: Scratch,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    pub(crate) fn new() -> Self {
        Self::named("our-ca")
    }

    pub(crate) fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer =
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("authority");
        let dir = Scratch::new();
        fs::write(dir.path("ca"), issuer.pem()).expect("write");
        Self { dir, issuer }
    }

    /// Makes the files of a certificate; the options that name them, with this authority for peers.
    pub(crate) fn issue(&self, file: &str, leaf: &Leaf) -> String {
        self.issue_trusting(file, leaf, self)
    }

    /// The same for a node, which is client and server.
    pub(crate) fn issue_for_both(&self, file: &str, leaf: &Leaf) -> String {
        self.issue_with(file, leaf, &[ExtendedKeyUsagePurpose::ServerAuth], self)
    }

    /// The same with another authority for peers.
    pub(crate) fn issue_trusting(&self, file: &str, leaf: &Leaf, trusted: &Self) -> String {
        self.issue_with(file, leaf, &[], trusted)
    }

    fn issue_with(
        &self,
        file: &str,
        leaf: &Leaf,
        more: &[ExtendedKeyUsagePurpose],
        trusted: &Self,
    ) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, leaf.common_name);
        params.extended_key_usages = vec![leaf.purpose.clone()];
        params.extended_key_usages.extend_from_slice(more);
        (params.not_before, params.not_after) =
            (date_time_ymd(leaf.years.0, 1, 1), date_time_ymd(leaf.years.1, 1, 1));
        params.serial_number = Some(SerialNumber::from(leaf.serial));
        if leaf.of_loopback {
            params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        }
        let key = KeyPair::generate().expect("key");
        let certificate = params.signed_by(&key, &self.issuer).expect("certificate");
        let (cert_file, key_file) =
            (self.dir.path(&format!("{file}.crt")), self.dir.path(&format!("{file}.key")));
        fs::write(&cert_file, certificate.pem()).expect("write");
        fs::write(&key_file, key.serialize_pem()).expect("write");
        format!("--tls-cert {cert_file} --tls-key {key_file} --tls-ca {}", trusted.dir.path("ca"))
    }

    /// Makes a revocation list that is good until that year; the option that names it.
    pub(crate) fn revoke(&self, serials: &[u64], until: i32) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).expect("a list").pem().expect("PEM");
        let file = self.dir.path(&format!("crl-{}-{until}", serials.len()));
        fs::write(&file, list).expect("write");
        format!("--tls-crl {file}")
    }
}
