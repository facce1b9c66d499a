//! Listening sockets that a predecessor handed over (`node --takeover`), by where they listen.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use relay_migration::registry::Listen;

use crate::socket_file::FileId;

/// One of them.
#[derive(Debug)]
pub(crate) struct HandedSocket {
    pub(crate) fd: OwnedFd,
    /// Its file, if it has one that the predecessor made.
    pub(crate) file: Option<FileId>,
}

/// See the [module](self). Each is taken once; copies share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Handed(Arc<Mutex<BTreeMap<String, HandedSocket>>>);

impl Handed {
    pub(crate) fn new(sockets: BTreeMap<String, HandedSocket>) -> Self {
        Self(Arc::new(Mutex::new(sockets)))
    }

    /// What a listener is called, which is open on `port` if it has one.
    pub(crate) fn name(at: &Listen, port: u16) -> String {
        match at {
            Listen::Unix { path, .. } => format!("unix {path}"),
            Listen::Tcp { address, .. } => format!("tcp {address} {port}"),
        }
    }

    /// The socket that is to listen there, if it was handed over.
    pub(crate) fn take(&self, at: &Listen) -> Option<HandedSocket> {
        let port = match at {
            Listen::Unix { .. } => 0,
            Listen::Tcp { port, .. } => *port,
        };
        self.lock().remove(&Self::name(at, port))
    }

    /// Those that nobody has taken, which are closed now.
    pub(crate) fn rest(&self) -> Vec<String> {
        std::mem::take(&mut *self.lock()).into_keys().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, HandedSocket>> {
        // Whoever panicked has left it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
