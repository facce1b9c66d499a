//! Certificates made on the spot, after KubeVirt's fashion: a common name, one purpose, no host.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose,
};
use relay_tls::{Material, Pem};

/// A certificate authority that lives as long as this value.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

impl Authority {
    pub(super) fn new(common_name: &str) -> Result<Self, String> {
        let mut params = named(common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = KeyPair::generate().and_then(|key| CertifiedIssuer::self_signed(params, key));
        issuer.map(Self).map_err(|e| format!("no certificate authority could be made: {e}"))
    }

    /// A certificate of this authority's for `common_name`, with its key, by which its holder
    /// trusts the peers that `trusted` has certified.
    pub(super) fn identity(
        &self,
        common_name: &str,
        purpose: ExtendedKeyUsagePurpose,
        trusted: &Self,
    ) -> Result<Material, String> {
        let failed = |e: rcgen::Error| format!("no certificate could be made for {common_name}: {e}");
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = named(common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        let certificate = params.signed_by(&key, &self.0).map_err(failed)?;
        let (chain, key) = (certificate.pem(), key.serialize_pem());
        let trusted = trusted.0.pem();
        Material::from_pem(
            Pem { file: "certificate", bytes: chain.as_bytes() },
            Pem { file: "key", bytes: key.as_bytes() },
            Pem { file: "authority", bytes: trusted.as_bytes() },
        )
        .map_err(|e| e.to_string())
    }
}
