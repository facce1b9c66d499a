//! Certificates that are the same on every machine and in every run, to the byte: their keys follow
//! from names, and Ed25519 signs without chance. So a handshake with them has the same lengths every
//! time, which ECDSA's would not, and a corpus that holds them stays what it was.

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType,
};
use relay_core::testing::rng::Rng;
use rustls::pki_types::PrivatePkcs8KeyDer;

use crate::{Material, Pem};

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its key.
#[derive(Debug)]
pub struct Issued {
    chain: String,
    key: String,
    der: Vec<u8>,
}

/// The key that belongs to `owner`: a secret to nobody.
fn key(owner: &str) -> KeyPair {
    /// PKCS #8 with an Ed25519 key (RFC 8410 section 7), up to the key itself.
    const PKCS8: [u8; 16] = [48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32];
    let seed = owner.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(257) + u64::from(byte));
    let mut rng = Rng::new(seed);
    let mut pkcs8 = PKCS8.to_vec();
    pkcs8.extend((0..4).flat_map(|_| rng.next().to_be_bytes()));
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8), &PKCS_ED25519).expect("a key")
}

fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

fn text(text: String) -> Ia5String {
    text.try_into().expect("ASCII")
}

impl Authority {
    /// The one of this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = key(name);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for a node of this name, good for both sides of a session: `cn:NAME`,
    /// `dns:NAME.example.org`, `uri:spiffe://example.org/NAME` and `ip:192.0.2.1`.
    ///
    /// # Panics
    /// If the name is not ASCII.
    #[must_use]
    pub fn issue(&self, name: &str) -> Issued {
        let mut params = named(name);
        params.subject_alt_names = vec![
            SanType::DnsName(text(format!("{name}.example.org"))),
            SanType::URI(text(format!("spiffe://example.org/{name}"))),
            SanType::IpAddress([192, 0, 2, 1].into()),
        ];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = key(name);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued { chain: certificate.pem(), key: key.serialize_pem(), der: certificate.der().to_vec() }
    }
}

impl Issued {
    /// With the authority by which the holder judges others.
    #[must_use]
    pub fn trusting(&self, authority: &Authority) -> Material {
        Material::from_pem(
            Pem { file: "tls.crt", bytes: self.chain.as_bytes() },
            Pem { file: "tls.key", bytes: self.key.as_bytes() },
            Pem { file: "ca.crt", bytes: authority.pem.as_bytes() },
        )
        .expect("usable material")
    }

    /// The certificate's DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }
}
