//! Certificates and keys from their files, and the settings made of them, replaced as a whole.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use relay_tls::{ClientTls, Identity, Material, MaterialError, PeerInfo, Pem, ServerTls};

use crate::cli::TlsFiles;
use crate::control::Controller;
use crate::enforcement::Enforcement;
use crate::metrics;
use crate::sandbox;

/// What new sessions begin with. Sessions keep what they began with.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) server: ServerTls,
    pub(crate) client: ClientTls,
    dates: Dates,
}

/// When what is loaded ends, in seconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Dates {
    /// Our certificate.
    pub(crate) own: u64,
    /// The first of the authorities.
    pub(crate) authorities: Option<u64>,
    /// The first of the revocation lists.
    pub(crate) lists: Option<u64>,
    /// When all of it was loaded, since 1970.
    pub(crate) loaded: Duration,
}

/// Why TLS can't be set up: one line that names the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsError(String);

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsError {}

impl From<MaterialError> for TlsError {
    fn from(error: MaterialError) -> Self {
        Self(error.to_string())
    }
}

/// The present settings of both sides, shared by all routes.
#[derive(Debug)]
pub struct Tls {
    files: Option<TlsFiles>,
    present: Mutex<Settings>,
    /// Reloads that took effect, and those that did not.
    reloads: [AtomicU64; 2],
    /// Held while the files are read, so that of two reloads the later one's set stays.
    loading: Mutex<()>,
    /// If open sessions are held to what is loaded.
    enforcement: Option<Arc<Enforcement>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// A file that can't be read or is not what it should be.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let enforcement = files.revoke_live.then(Arc::<Enforcement>::default);
        let settings = read(&files, enforcement.as_deref())?;
        Ok(Self { files: Some(files), enforcement, ..Self::of(settings) })
    }

    /// Of material that is in memory; a reload leaves it as it is.
    ///
    /// # Errors
    /// Material that can't be used.
    pub fn new(material: &Material, peers: &[Identity]) -> Result<Self, TlsError> {
        settings(material, material, peers, None).map(Self::of)
    }

    fn of(settings: Settings) -> Self {
        let (reloads, loading) = Default::default();
        Self { files: None, present: Mutex::new(settings), reloads, loading, enforcement: None }
    }

    /// Has sessions of the node with this controller end once their peers would not be let in any more, if
    /// [the files](TlsFiles::revoke_live) say so; otherwise does nothing. Starts a thread, once, that ends
    /// when this is dropped.
    ///
    /// # Errors
    /// If the thread can't be started.
    pub fn enforce(&self, controller: Controller) -> io::Result<()> {
        self.enforcement.as_ref().map_or(Ok(()), |enforcement| enforcement.tell(controller))
    }

    /// Reads the files again. All of the new set takes effect for new sessions, or none of it; with
    /// [`TlsFiles::revoke_live`] open ones are held to it, too.
    ///
    /// # Errors
    /// As [`load`](Self::load); the old set stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        if let Some(files) = &self.files {
            let _loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
            let [ok, failed] = &self.reloads;
            let new = read(files, self.enforcement.as_deref()).inspect_err(|_| metrics::count(failed))?;
            *self.present.lock().unwrap_or_else(PoisonError::into_inner) = new;
            metrics::count(ok);
        }
        Ok(())
    }

    /// When what is loaded ends.
    pub(crate) fn dates(&self) -> Dates {
        self.present().dates
    }

    /// Reloads that took effect, and those that did not.
    pub(crate) fn reloads(&self) -> [u64; 2] {
        self.reloads.each_ref().map(|counter| counter.load(Ordering::Relaxed))
    }

    pub(crate) fn present(&self) -> Settings {
        self.present.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn read(files: &TlsFiles, enforcement: Option<&Enforcement>) -> Result<Settings, TlsError> {
    let ca = PemFile::read(&files.ca)?;
    let crl = files.crl.as_deref().map(PemFile::read).transpose()?;
    let material = |cert: &Path, key: &Path| -> Result<Material, TlsError> {
        let (cert, key) = (PemFile::read(cert)?, PemFile::read(key)?);
        let material = Material::from_pem(cert.pem(), key.pem(), ca.pem())?;
        Ok(match &crl {
            Some(crl) => material.with_crls(crl.pem())?,
            None => material,
        })
    };
    let server = material(&files.cert, &files.key)?;
    let client = files.client.as_ref().map(|client| material(&client.cert, &client.key)).transpose()?;
    let settings = settings(&server, client.as_ref().unwrap_or(&server), &files.peers, enforcement)?;
    tell(server.leaf(), client.as_ref().map(|_| "as a server"));
    if let Some(client) = &client {
        tell(client.leaf(), Some("as a client"));
    }
    Ok(settings)
}

/// Which one is shown from now on, and what peers will say to it.
fn tell(leaf: &PeerInfo, role: Option<&str>) {
    let (role, not_after) = (role.unwrap_or("everywhere"), leaf.not_after_text());
    log::info!(identity:% = leaf, not_after = not_after.as_str(), shown = role; "certificate loaded");
    if let Some(trouble) = trouble(leaf, SystemTime::now()) {
        log::warn!(identity:% = leaf, not_after = not_after.as_str(), shown = role; "{trouble}");
    }
}

/// What peers will say to our certificate, if that is known already. No reason to refuse it: their
/// clocks count, not ours.
fn trouble(leaf: &PeerInfo, now: SystemTime) -> Option<&'static str> {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if now > leaf.not_after() {
        Some("our certificate has expired, and peers will reject it; renew it, or set the clock right")
    } else if now < leaf.not_before() {
        Some(
            "our certificate is not valid yet, and peers will reject it; compare this node's clock with the CA's",
        )
    } else if leaf.not_after() - now < (leaf.not_after() - leaf.not_before()) / 10 {
        Some(
            "our certificate ends soon (less than a tenth of its time is left): renew it; files that change are read again",
        )
    } else {
        None
    }
}

fn settings(
    server: &Material,
    client: &Material,
    peers: &[Identity],
    enforcement: Option<&Enforcement>,
) -> Result<Settings, TlsError> {
    let mut accepting = ServerTls::builder(server).peers(peers.iter().cloned());
    let mut dialing = ClientTls::builder(client).peers(peers.iter().cloned());
    if let Some(enforcement) = enforcement {
        accepting = accepting.live_peers(enforcement.peers());
        dialing = dialing.live_peers(enforcement.peers());
    }
    let (accepting, dialing) = (accepting.build()?, dialing.build()?);
    // Before any session begins with them.
    if let Some(enforcement) = enforcement {
        enforcement.judge_by(&accepting, &dialing);
    }
    Ok(Settings {
        server: accepting,
        client: dialing,
        dates: Dates {
            // Whichever peers will reject first.
            own: server.leaf().not_after().min(client.leaf().not_after()),
            authorities: server.authorities_end(),
            lists: server.lists_end(),
            loaded: metrics::since_1970(SystemTime::now()),
        },
    })
}

struct PemFile {
    name: String,
    bytes: Vec<u8>,
}

impl PemFile {
    fn read(path: &Path) -> Result<Self, TlsError> {
        let name = path.display().to_string();
        match fs::read(path) {
            Ok(bytes) => Ok(Self { name, bytes }),
            Err(e) => Err(TlsError(format!("{name}: {e}{}", sandbox::hint(&e)))),
        }
    }

    fn pem(&self) -> Pem<'_> {
        Pem { file: &self.name, bytes: &self.bytes }
    }
}
