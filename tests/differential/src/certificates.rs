//! Who is who, made once: the relays and the client, by one authority, and somebody else by another.

use std::sync::{Arc, OnceLock};

use relay_conformance::Authority;
use relay_conformance::pki::Identity;
use relay_node::tls::Tls;
use relay_tls::{Material, Pem};

pub(crate) use rustls::ClientConfig;

/// The relays' authority, and one that they do not know.
#[derive(Debug)]
pub(crate) struct Authorities {
    ours: Authority,
    other: Authority,
}

impl Authorities {
    pub(crate) fn common() -> &'static Self {
        static AUTHORITIES: OnceLock<Authorities> = OnceLock::new();
        AUTHORITIES.get_or_init(|| Self { ours: Authority::new("ours"), other: Authority::new("other") })
    }

    /// One whom the relays let in.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        static CLIENT: OnceLock<Arc<ClientConfig>> = OnceLock::new();
        Arc::clone(CLIENT.get_or_init(|| self.ours.issue("client").client()))
    }

    /// One that trusts the relays, and has no certificate.
    pub(crate) fn nameless(&self) -> Arc<ClientConfig> {
        self.ours.issue("nobody").nameless_client()
    }

    /// One that trusts the relays, and has a certificate that says nothing to them.
    pub(crate) fn foreign(&self) -> Arc<ClientConfig> {
        self.other.issue("client").trusting(&self.ours).client()
    }

    /// A relay's.
    pub(crate) fn relay(&self) -> Material {
        let Identity { cert, key, ca } = self.ours.issue("relay");
        let pem = |file, text| Pem { file, bytes: str::as_bytes(text) };
        Material::from_pem(pem("cert", &cert), pem("key", &key), pem("ca", &ca)).expect("PEM")
    }
}

/// The relays' settings.
pub(crate) fn tls() -> &'static Arc<Tls> {
    static TLS: OnceLock<Arc<Tls>> = OnceLock::new();
    TLS.get_or_init(|| Arc::new(Tls::new(&Authorities::common().relay(), &[]).expect("TLS settings")))
}
