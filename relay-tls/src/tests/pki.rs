//! Authorities, certificates and revocation lists made on the spot.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams, SanType,
    SerialNumber, date_time_ymd,
};

use crate::{ClientTls, Identity, Material, Pem, ServerTls};

pub(crate) use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// What a certificate is to say; the default is KubeVirt's way: a common name and no more.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) common_name: &'static str,
    pub(crate) names: Vec<SanType>,
    pub(crate) purposes: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) years: (i32, i32),
    pub(crate) serial: u64,
}

impl Default for Leaf {
    fn default() -> Self {
        Self {
            common_name: "node",
            names: Vec::new(),
            purposes: vec![ClientAuth, ServerAuth],
            years: (2000, 2100),
            serial: 7,
        }
    }
}

pub(crate) struct Issued {
    pub(crate) chain: String,
    pub(crate) key: String,
    pub(crate) der: Vec<u8>,
}

pub(crate) fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

pub(crate) fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

pub(crate) fn ip(address: &str) -> SanType {
    SanType::IpAddress(address.parse().unwrap())
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let params = ca_params(name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// An authority below this one; its certificate, to be appended to the chains it signs.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        self.intermediate_until(name, 1000, 2100)
    }

    /// The same with a serial number, valid until this year begins.
    pub(crate) fn intermediate_until(&self, name: &str, serial: u64, year: i32) -> Self {
        let mut params = ca_params(name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn issue(&self, leaf: &Leaf) -> Issued {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        if !leaf.common_name.is_empty() {
            params.distinguished_name.push(DnType::CommonName, leaf.common_name);
        }
        params.subject_alt_names = leaf.names.clone();
        params.extended_key_usages = leaf.purposes.clone();
        params.not_before = date_time_ymd(leaf.years.0, 1, 1);
        params.not_after = date_time_ymd(leaf.years.1, 1, 1);
        params.serial_number = Some(SerialNumber::from(leaf.serial));
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued { chain: certificate.pem(), key: key.serialize_pem(), der: certificate.der().to_vec() }
    }

    pub(crate) fn revoke(&self, serials: &[u64], next_update: i32) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(next_update, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

pub(crate) fn material(issued: &Issued, authority: &Authority) -> Material {
    Material::from_pem(
        Pem { file: "tls.crt", bytes: issued.chain.as_bytes() },
        Pem { file: "tls.key", bytes: issued.key.as_bytes() },
        Pem { file: "ca.crt", bytes: authority.pem.as_bytes() },
    )
    .unwrap()
}

/// Material for both ends from one authority: a client "source" and a server "target", 10.0.0.1.
pub(crate) struct Pair {
    pub(crate) client: Material,
    pub(crate) server: Material,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let authority = Authority::new("ca");
        let client = authority.issue(&Leaf { common_name: "source", ..Leaf::default() });
        let names = vec![ip("10.0.0.1"), dns("target.example.org")];
        let server = authority.issue(&Leaf { common_name: "target", names, ..Leaf::default() });
        Self { client: material(&client, &authority), server: material(&server, &authority) }
    }

    pub(crate) fn settings(&self) -> (ClientTls, ServerTls) {
        (ClientTls::builder(&self.client).build().unwrap(), ServerTls::builder(&self.server).build().unwrap())
    }
}

pub(crate) fn identities(rules: &[&str]) -> Vec<Identity> {
    rules.iter().map(|rule| rule.parse().unwrap()).collect()
}
