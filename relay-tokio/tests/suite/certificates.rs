//! An authority, made on the spot.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use relay_tokio::relay_tls::{ClientTls, Identity, Material, Pem, ServerTls, TlsCodec};

/// Whom a client expects.
pub(crate) const NODE: &str = "cn:node";

/// An authority that lives as long as this value.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A node's certificate and key, with trust in those that `trusted` has certified.
    fn material(&self, trusted: &Self) -> Material {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "node");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let chain = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Material::from_pem(
            Pem { file: "certificate", bytes: chain.as_bytes() },
            Pem { file: "key", bytes: key.serialize_pem().as_bytes() },
            Pem { file: "authority", bytes: trusted.pem.as_bytes() },
        )
        .expect("material")
    }

    pub(crate) fn server(&self) -> ServerTls {
        ServerTls::builder(&self.material(self)).build().expect("settings")
    }

    /// A client with this authority's certificate that trusts servers of `trusted`.
    pub(crate) fn client_of(&self, trusted: &Self) -> TlsCodec {
        let expected: Identity = NODE.parse().expect("an identity");
        let client = ClientTls::builder(&self.material(trusted)).peers([expected]).build().expect("settings");
        client.codec("node").expect("a codec")
    }

    pub(crate) fn client(&self) -> TlsCodec {
        self.client_of(self)
    }
}
