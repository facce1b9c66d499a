//! rustls' own buffered connections, as the other end.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, ConnectionCommon, ServerConfig, ServerConnection, version};

use super::pki::Pair;
use super::wire::{Cut, End};
use crate::Provider;

pub(crate) fn server(pair: &Pair) -> ServerConnection {
    server_with(pair, |_| {})
}

pub(crate) fn server_with(pair: &Pair, change: impl Fn(&mut ServerConfig)) -> ServerConnection {
    ServerConnection::new(server_config(pair, change)).unwrap()
}

pub(crate) fn server_config(pair: &Pair, change: impl Fn(&mut ServerConfig)) -> Arc<ServerConfig> {
    let crypto = Provider::default().crypto();
    let verifier = WebPkiClientVerifier::builder_with_provider(pair.server.roots().clone(), crypto.clone())
        .build()
        .unwrap();
    let certified = pair.server.certified_key(&crypto).unwrap();
    let mut config = ServerConfig::builder_with_provider(crypto)
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    change(&mut config);
    Arc::new(config)
}

pub(crate) fn client_with(pair: &Pair, change: impl Fn(&mut ClientConfig)) -> ClientConnection {
    let crypto = Provider::default().crypto();
    let certified = pair.client.certified_key(&crypto).unwrap();
    let mut config = ClientConfig::builder_with_provider(crypto)
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_root_certificates(pair.client.roots().clone())
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    change(&mut config);
    ClientConnection::new(Arc::new(config), ServerName::try_from("10.0.0.1").unwrap()).unwrap()
}

/// Moves everything there is both ways until nothing moves. Plaintext that arrives at rustls.
pub(crate) fn exchange<D>(end: &mut End, other: &mut ConnectionCommon<D>) -> Result<Vec<u8>, rustls::Error> {
    let mut plain = Vec::new();
    loop {
        end.flush(&mut Cut::Whole);
        let mut moved = false;
        let sent = std::mem::take(&mut end.outgoing);
        let mut rest = sent.as_slice();
        while !rest.is_empty() {
            moved = true;
            if other.read_tls(&mut rest).unwrap() == 0 {
                break;
            }
            let state = other.process_new_packets();
            let mut out = Vec::new();
            let _ = other.write_tls(&mut out).unwrap();
            end.incoming.extend(out);
            let mut part = vec![0; state?.plaintext_bytes_to_read()];
            other.reader().read_exact(&mut part).unwrap();
            plain.extend(part);
        }
        while other.wants_write() {
            moved = true;
            let _ = other.write_tls(&mut end.incoming).unwrap();
        }
        end.open();
        if !moved {
            return Ok(plain);
        }
    }
}

pub(crate) fn handshake<D>(end: &mut End, other: &mut ConnectionCommon<D>) {
    exchange(end, other).unwrap();
    assert!(!other.is_handshaking());
    assert_eq!(end.failure, None);
}

/// Lets rustls send.
pub(crate) fn write<D>(other: &mut ConnectionCommon<D>, bytes: &[u8]) -> usize {
    other.writer().write(bytes).unwrap()
}
