//! Certificates made on the spot, after KubeVirt's fashion and otherwise, as files for relays and as
//! rustls' settings for their peers.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// Certificate, key and authorities, PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub cert: String,
    /// Its key.
    pub key: String,
    /// The authorities that its holder trusts.
    pub ca: String,
}

/// The same as files, for a command line.
#[derive(Clone, Debug)]
pub struct Files {
    cert: PathBuf,
    key: PathBuf,
    ca: PathBuf,
}

impl Files {
    /// Those that [`Identity::write`] makes in a directory.
    #[must_use]
    pub fn in_directory(directory: &Path) -> Self {
        Self { cert: directory.join("tls.crt"), key: directory.join("tls.key"), ca: directory.join("ca.crt") }
    }

    /// The options that name them.
    #[must_use]
    pub fn options(&self) -> Vec<String> {
        [("--tls-cert", &self.cert), ("--tls-key", &self.key), ("--tls-ca", &self.ca)]
            .into_iter()
            .flat_map(|(option, path)| [option.to_owned(), path.display().to_string()])
            .collect()
    }
}

fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

impl Authority {
    /// A new one.
    ///
    /// # Panics
    /// If no key can be made.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// The one that everybody in a test process trusts unless the test is about something else.
    #[must_use]
    pub fn common() -> &'static Self {
        static COMMON: OnceLock<Authority> = OnceLock::new();
        COMMON.get_or_init(|| Self::new("conformance"))
    }

    /// A certificate for `common_name`, good for loopback addresses as server and as client.
    #[must_use]
    pub fn issue(&self, common_name: &str) -> Identity {
        self.issue_until(common_name, 2100)
    }

    /// The same, until the beginning of a year.
    ///
    /// # Panics
    /// If no key can be made.
    #[must_use]
    pub fn issue_until(&self, common_name: &str, year: i32) -> Identity {
        let mut params = named(common_name);
        params.not_after = date_time_ymd(year, 1, 1);
        self.sign(params)
    }

    /// The same with a serial number, until so many seconds after 1970 began.
    ///
    /// # Panics
    /// If no key can be made.
    #[must_use]
    pub fn issue_numbered(&self, common_name: &str, serial: u64, until: Duration) -> Identity {
        let mut params = named(common_name);
        params.not_after = date_time_ymd(1970, 1, 1) + until;
        params.serial_number = Some(SerialNumber::from(serial));
        self.sign(params)
    }

    /// A list, PEM, on which the certificates with these serial numbers are.
    ///
    /// # Panics
    /// If it can't be signed.
    #[must_use]
    pub fn revoke(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("a list").pem().expect("PEM")
    }

    fn sign(&self, mut params: CertificateParams) -> Identity {
        params.not_before = date_time_ymd(2000, 1, 1);
        params.subject_alt_names = vec![
            SanType::IpAddress([127, 0, 0, 1].into()),
            SanType::IpAddress(std::net::Ipv6Addr::LOCALHOST.into()),
        ];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Identity { cert, key: key.serialize_pem(), ca: self.pem.clone() }
    }
}

impl Identity {
    /// Trusting another authority instead.
    #[must_use]
    pub fn trusting(self, authority: &Authority) -> Self {
        Self { ca: authority.pem.clone(), ..self }
    }

    /// Writes the files into a directory.
    ///
    /// # Panics
    /// If it can't.
    pub fn write(&self, directory: &Path) -> Files {
        let files = Files::in_directory(directory);
        for (path, text) in [(&files.cert, &self.cert), (&files.key, &self.key), (&files.ca, &self.ca)] {
            std::fs::write(path, text).expect("a file");
        }
        files
    }

    fn chain(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let cert = CertificateDer::from_pem_slice(self.cert.as_bytes()).expect("a certificate");
        (vec![cert], PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key"))
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes()).expect("an authority")).expect("a root");
        Arc::new(roots)
    }

    /// A client with it.
    ///
    /// # Panics
    /// If rustls does not like it.
    #[must_use]
    pub fn client(&self) -> Arc<ClientConfig> {
        let (chain, key) = self.chain();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13])
            .expect("versions")
            .with_root_certificates(self.roots());
        Arc::new(builder.with_client_auth_cert(chain, key).expect("a certificate"))
    }

    /// A client that trusts whom it trusts and does not say who it is.
    ///
    /// # Panics
    /// If rustls does not like it.
    #[must_use]
    pub fn nameless_client(&self) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13])
            .expect("versions")
            .with_root_certificates(self.roots());
        Arc::new(builder.with_no_client_auth())
    }

    /// A server with it that demands certificates.
    ///
    /// # Panics
    /// If rustls does not like it.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        let (chain, key) = self.chain();
        let provider = Arc::new(default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), Arc::clone(&provider))
            .build()
            .expect("a verifier");
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .expect("versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .expect("a certificate");
        Arc::new(config)
    }
}
