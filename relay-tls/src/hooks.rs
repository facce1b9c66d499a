//! What rustls tells only through callbacks that all sessions of a configuration share.
//!
//! Two things are wanted per session: why a certificate was refused, in words that name what was
//! found, and the exporter's secret (RFC 8446 section 7.5), which rustls' unbuffered connections do
//! not hand out. A configuration per session would carry them, at the price of building one for
//! every connection. But the callbacks run *within* a call of ours, on its thread: so they leave
//! what they have in the thread's tray, and the call takes it from there before it returns.

use core::fmt;
use std::cell::RefCell;

use rustls::KeyLog;
use rustls::crypto::tls13::OkmBlock;

use crate::peer::PeerInfo;

/// What was left during one call.
#[derive(Default)]
pub(crate) struct Tray {
    /// Why the peer's certificate was refused.
    pub(crate) rejection: Option<Rejection>,
    /// The exporter's secret; wiped when it is dropped.
    pub(crate) exporter: Option<OkmBlock>,
}

/// A certificate that was refused: in words, and whose it is as far as that can be read.
#[derive(Debug)]
pub(crate) struct Rejection {
    pub(crate) words: String,
    pub(crate) peer: Option<Box<PeerInfo>>,
}

thread_local! {
    static TRAY: RefCell<Tray> = RefCell::default();
}

/// Runs a call and returns what its callbacks left.
pub(crate) fn collect<T>(call: impl FnOnce() -> T) -> (T, Tray) {
    TRAY.take();
    let result = call();
    (result, TRAY.take())
}

pub(crate) fn leave_rejection(words: String, peer: Option<PeerInfo>) {
    TRAY.with_borrow_mut(|tray| tray.rejection = Some(Rejection { words, peer: peer.map(Box::new) }));
}

/// Takes the exporter's secret and nothing else: traffic secrets never leave rustls this way, and
/// nothing is ever written anywhere.
pub(crate) struct ExporterTap;

const EXPORTER: &str = "EXPORTER_SECRET";

impl fmt::Debug for ExporterTap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExporterTap")
    }
}

impl KeyLog for ExporterTap {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        if label == EXPORTER && secret.len() <= OkmBlock::MAX_LEN {
            TRAY.with_borrow_mut(|tray| tray.exporter = Some(OkmBlock::new(secret)));
        }
    }

    fn will_log(&self, label: &str) -> bool {
        label == EXPORTER
    }
}
