//! Relays as one writes them in an afternoon.

use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::Mode;
use crate::serving::tell;

/// What relays use that care.
const BUFFER: usize = 64 << 10;

/// From where to where, and with what. A source listens on a unix socket, a target on TCP.
#[derive(Debug)]
pub(crate) struct Task<'a> {
    pub(crate) mode: Mode,
    pub(crate) directory: &'a Path,
    pub(crate) from: &'a str,
    pub(crate) to: &'a str,
}

impl Task<'_> {
    /// The path of a source's socket.
    pub(crate) fn source(&self) -> Option<&str> {
        self.from.strip_prefix("unix:")
    }

    /// What it dials: host and port of a target, or the path of the sink.
    pub(crate) fn destination(&self) -> &str {
        self.to.split_once(':').map_or(self.to, |(_, rest)| rest)
    }

    pub(crate) fn tell_port(&self, listener: &TcpListener) {
        let kind = if self.mode == Mode::Tls { "tls" } else { "tcp" };
        tell(&format!("{kind}:{}", listener.local_addr().expect("an address")));
    }
}

/// A thread for each direction.
pub(crate) fn threads(task: &Task<'_>) {
    let to = task.destination();
    if let Some(path) = task.source() {
        let listener = UnixListener::bind(path).expect("bind");
        tell(task.from);
        for front in listener.incoming().flatten() {
            let Ok(back) = TcpStream::connect(to) else { continue };
            back.set_nodelay(true).expect("option");
            let (front, back) = (Arc::new(front), Arc::new(back));
            copy(&front, &back, TcpStream::shutdown);
            copy(&back, &front, UnixStream::shutdown);
        }
    } else {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        task.tell_port(&listener);
        for front in listener.incoming().flatten() {
            let Ok(back) = UnixStream::connect(to) else { continue };
            front.set_nodelay(true).expect("option");
            let (front, back) = (Arc::new(front), Arc::new(back));
            copy(&front, &back, UnixStream::shutdown);
            copy(&back, &front, TcpStream::shutdown);
        }
    }
}

fn copy<F, T>(from: &Arc<F>, to: &Arc<T>, end: fn(&T, Shutdown) -> io::Result<()>)
where
    F: Send + Sync + 'static,
    T: Send + Sync + 'static,
    for<'a> &'a F: Read,
    for<'a> &'a T: Write,
{
    let (from, to) = (Arc::clone(from), Arc::clone(to));
    thread::spawn(move || {
        let _ = io::copy(&mut &*from, &mut &*to);
        end(&to, Shutdown::Write)
    });
}

/// `tokio::io::copy_bidirectional`.
pub(crate) fn tokio(task: &Task<'_>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { if task.source().is_some() { source(task).await } else { target(task).await } });
}

async fn source(task: &Task<'_>) {
    let listener = tokio::net::UnixListener::bind(task.source().unwrap_or_default()).expect("bind");
    tell(task.from);
    let connector = (task.mode == Mode::Tls).then(|| TlsConnector::from(Arc::new(client(task.directory))));
    loop {
        let Ok((front, _)) = listener.accept().await else { continue };
        let (to, connector) = (task.destination().to_owned(), connector.clone());
        tokio::spawn(async move {
            let back = tokio::net::TcpStream::connect(&to).await?;
            back.set_nodelay(true)?;
            match connector {
                None => join(front, back).await,
                Some(connector) => {
                    let name = ServerName::try_from("127.0.0.1").map_err(io::Error::other)?;
                    join(front, connector.connect(name, back).await?).await
                }
            }
        });
    }
}

async fn target(task: &Task<'_>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.set_nonblocking(true).expect("flag");
    task.tell_port(&listener);
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    let acceptor = (task.mode == Mode::Tls).then(|| TlsAcceptor::from(Arc::new(server(task.directory))));
    loop {
        let Ok((front, _)) = listener.accept().await else { continue };
        let (to, acceptor) = (task.destination().to_owned(), acceptor.clone());
        tokio::spawn(async move {
            front.set_nodelay(true)?;
            match acceptor {
                None => join(front, tokio::net::UnixStream::connect(&to).await?).await,
                Some(acceptor) => {
                    let front = acceptor.accept(front).await?;
                    join(front, tokio::net::UnixStream::connect(&to).await?).await
                }
            }
        });
    }
}

async fn join<A, B>(mut front: A, mut back: B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    copy_bidirectional_with_sizes(&mut front, &mut back, BUFFER, BUFFER).await.map(drop)
}

struct Pem {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: RootCertStore,
}

fn read(directory: &Path) -> Pem {
    let file = |name| fs::read(directory.join(name)).expect("a file");
    let certificates = |name| -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(&file(name)).collect::<Result<_, _>>().expect("PEM")
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates("ca"));
    Pem { chain: certificates("cert"), key: PrivateKeyDer::from_pem_slice(&file("key")).expect("PEM"), roots }
}

/// With the cipher that relay prefers.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.retain(|s| s.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

fn client(directory: &Path) -> ClientConfig {
    let Pem { chain, key, roots } = read(directory);
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .expect("a certificate");
    // as relay: every session is authenticated in full
    config.resumption = rustls::client::Resumption::disabled();
    config
}

fn server(directory: &Path) -> ServerConfig {
    let Pem { chain, key, roots } = read(directory);
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(verifier.expect("a verifier"))
        .with_single_cert(chain, key)
        .expect("a certificate");
    config.send_tls13_tickets = 0;
    config
}
