//! The peers of open sessions, kept so that they can be judged again: by the rules of a later set of files,
//! and at a later time.
//!
//! A session whose settings say so enters what its peer has shown when its handshake is complete. Peers that
//! showed the same are one entry, so that thousands of sessions of one node cost one verification. It is the
//! handshake's own verifier that judges again: an open session is held to what a new one would be held to, no
//! less and no more. No thread and no timer here: somebody calls [`LivePeers::review`].

use core::fmt;
use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use relay_core::Distrust;
use rustls::Error;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;

use crate::config::{ClientTls, ServerTls};
use crate::error::Cause;
use crate::explain;
use crate::hooks::{self, Rejection};
use crate::peer::{self, PeerInfo};
use crate::verify::{Clients, Servers};

/// The peers of open sessions, kept so that they can be judged again: by the rules of a later set of files, and
/// at a later time. Clones are the same.
///
/// What a peer showed is kept once for all sessions whose peers showed the same, for as long as one of them is
/// open. It is judged by the handshake's own verifier: whoever would not be let in any more is found, and nobody
/// else. That takes no clock and no thread of its own; somebody calls [`review`](Self::review).
///
/// To be given to [`ServerTlsBuilder::live_peers`](crate::ServerTlsBuilder::live_peers) and
/// [`ClientTlsBuilder::live_peers`](crate::ClientTlsBuilder::live_peers), of one set of settings after the other.
#[derive(Clone, Default)]
pub struct LivePeers(Arc<Mutex<Book>>);

/// What came of a [review](LivePeers::review).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reviewed {
    /// Chains that were judged.
    pub judged: usize,
    /// Of these, how many would not be let in any more: [`TlsCodec::distrust`](crate::TlsCodec::distrust) of
    /// their sessions says so from now on.
    pub distrusted: usize,
    /// There are others to be judged now.
    pub more: bool,
}

#[derive(Default)]
struct Book {
    /// What peers are held to, and how many sets there were before.
    rules: Option<Rules>,
    generation: u64,
    entries: HashMap<Arc<Shown>, Entry>,
    /// Entries of sessions that are gone are looked for when there are so many.
    crowded_at: usize,
}

/// With fewer entries nobody looks for those that are gone, but for a review.
const CROWDED: usize = 64;

/// Whose end can't be read is judged again after so many seconds.
const UNREADABLE: u64 = 60;

#[derive(Clone)]
struct Rules {
    clients: Arc<Clients>,
    servers: Arc<Servers>,
}

/// What a peer showed, and as whom.
#[derive(PartialEq, Eq, Hash)]
struct Shown {
    /// Its own first.
    certificates: Vec<CertificateDer<'static>>,
    /// The host that was dialed; none for a client.
    host: Option<ServerName<'static>>,
}

struct Entry {
    standing: Weak<Standing>,
    /// By which rules it was judged last, and from when on the same rules may say something else, in seconds since
    /// 1970. Not judged here yet: none.
    judged: Option<(u64, u64)>,
}

/// One for all sessions whose peers showed the same.
pub(crate) struct Standing {
    shown: Arc<Shown>,
    verdict: OnceLock<Verdict>,
}

/// Why a peer would not be let in (any more).
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) why: Distrust,
    pub(crate) words: String,
    pub(crate) cause: Option<Cause>,
    pub(crate) peer: Option<Box<PeerInfo>>,
}

impl Standing {
    pub(crate) fn verdict(&self) -> Option<&Verdict> {
        self.verdict.get()
    }
}

/// The verifier that a session's settings have.
#[derive(Clone)]
pub(crate) enum Judge {
    OfClients(Arc<Clients>),
    OfServers(Arc<Servers>),
}

/// What a session needs to enter its peer.
#[derive(Clone)]
pub(crate) struct Enrolment {
    pub(crate) book: LivePeers,
    pub(crate) judge: Judge,
    pub(crate) host: Option<ServerName<'static>>,
}

impl Enrolment {
    /// Enters a peer whose handshake is complete.
    ///
    /// # Errors
    /// If the rules have changed since the handshake began, and the present ones do not let it in.
    pub(crate) fn enter(self, certificates: Vec<CertificateDer<'static>>) -> Result<Arc<Standing>, Verdict> {
        let Self { book, mut judge, host } = self;
        let shown = Arc::new(Shown { certificates, host });
        // Again only if there was a reload meanwhile.
        loop {
            let present = match book.enter(&judge, &shown) {
                Ok(standing) => return Ok(standing),
                Err(present) => present,
            };
            // The handshake's own clock.
            present.judge(&shown, UnixTime::now())?;
            judge = present.judge_of(&shown);
        }
    }
}

impl LivePeers {
    /// Nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on peers are held to what these settings demand. Each is to be judged anew.
    pub fn judge_by(&self, server: &ServerTls, client: &ClientTls) {
        let mut book = self.lock();
        book.rules = Some(Rules { clients: server.verifier().clone(), servers: client.verifier().clone() });
        book.generation += 1;
    }

    /// Judges those whose verdict may be another one than the last time, `most` of them at most: because of other
    /// [rules](Self::judge_by), or because a certificate or revocation list has ended by `now`, the time since 1970.
    ///
    /// A verification takes about as much as a handshake does: not for a thread that moves bytes.
    pub fn review(&self, now: Duration, most: usize) -> Reviewed {
        let Some((rules, generation, due, more)) = self.due(now.as_secs(), most) else {
            return Reviewed::default();
        };
        let mut reviewed = Reviewed { judged: due.len(), distrusted: 0, more };
        for standing in due {
            let verdict = rules.judge(&standing.shown, UnixTime::since_unix_epoch(now));
            let next = rules.next(&standing.shown, now.as_secs());
            let mut book = self.lock();
            match verdict {
                Ok(()) => {
                    if let Some(entry) = book.entries.get_mut(&standing.shown) {
                        entry.judged = Some((generation, next));
                    }
                }
                Err(verdict) => {
                    // Whoever shows the same later, and is let in, is somebody else; or is so already.
                    let is_this = |entry: &Entry| entry.standing.as_ptr() == Arc::as_ptr(&standing);
                    if book.entries.get(&standing.shown).is_some_and(is_this) {
                        book.entries.remove(&standing.shown);
                    }
                    reviewed.distrusted += usize::from(standing.verdict.set(verdict).is_ok());
                }
            }
        }
        reviewed
    }

    /// How many different chains there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().entries.values().filter(|entry| entry.standing.strong_count() > 0).count()
    }

    /// Whether there is nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Places taken, also for those who are gone.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> usize {
        self.lock().entries.len()
    }

    /// Who is to be judged, by what, and whether there are more than `most`; none if there are no rules yet.
    fn due(&self, now: u64, most: usize) -> Option<(Rules, u64, Vec<Arc<Standing>>, bool)> {
        let mut book = self.lock();
        book.forget();
        let (rules, generation) = (book.rules.clone()?, book.generation);
        let is_due = |entry: &&Entry| entry.judged.is_none_or(|(by, next)| by != generation || next <= now);
        let mut standings = book.entries.values().filter(is_due).filter_map(|entry| entry.standing.upgrade());
        let due: Vec<_> = standings.by_ref().take(most).collect();
        let more = standings.next().is_some();
        Some((rules, generation, due, more))
    }

    /// Enters a peer that `judge` has let in.
    ///
    /// # Errors
    /// The present rules, if these are others.
    fn enter(&self, judge: &Judge, shown: &Arc<Shown>) -> Result<Arc<Standing>, Rules> {
        let mut book = self.lock();
        if let Some(rules) = book.rules.as_ref().filter(|rules| !rules.have(judge)) {
            return Err(rules.clone());
        }
        if let Some(standing) = book.entries.get(shown).and_then(|entry| entry.standing.upgrade()) {
            return Ok(standing);
        }
        if book.entries.len() >= book.crowded_at.max(CROWDED) {
            book.forget();
            book.crowded_at = 2 * book.entries.len();
        }
        let standing = Arc::new(Standing { shown: Arc::clone(shown), verdict: OnceLock::new() });
        let entry = Entry { standing: Arc::downgrade(&standing), judged: None };
        book.entries.insert(Arc::clone(shown), entry);
        Ok(standing)
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        // Whoever panicked has left it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// Forgets those whose sessions are all gone.
    fn forget(&mut self) {
        self.entries.retain(|_, entry| entry.standing.strong_count() > 0);
    }
}

impl Rules {
    /// Whether it is one of these.
    fn have(&self, judge: &Judge) -> bool {
        match judge {
            Judge::OfClients(clients) => Arc::ptr_eq(clients, &self.clients),
            Judge::OfServers(servers) => Arc::ptr_eq(servers, &self.servers),
        }
    }

    fn judge_of(&self, shown: &Shown) -> Judge {
        match shown.host {
            None => Judge::OfClients(Arc::clone(&self.clients)),
            Some(_) => Judge::OfServers(Arc::clone(&self.servers)),
        }
    }

    fn judge(&self, shown: &Shown, now: UnixTime) -> Result<(), Verdict> {
        let Some((leaf, others)) = shown.certificates.split_first() else {
            // Not reached: a peer without a certificate does not come so far.
            return Err(verdict(&Error::NoCertificatesPresented, None));
        };
        let (judged, tray) = hooks::collect(|| match &shown.host {
            None => self.clients.verify_client_cert(leaf, others, now).map(drop),
            Some(host) => self.servers.verify_server_cert(leaf, others, host, &[], now).map(drop),
        });
        judged.map_err(|error| verdict(&error, tray.rejection))
    }

    /// When a certificate or list next ends, in seconds since 1970: until then time changes nothing.
    fn next(&self, shown: &Shown, now: u64) -> u64 {
        // A certificate is good in its last second, a list is not.
        let certificates = shown.certificates.iter().map(|der| Some(peer::not_after(der)?.saturating_add(1)));
        let lists = match shown.host {
            None => self.clients.list_ends(),
            Some(_) => self.servers.list_ends(),
        };
        // webpki, which judges, may read what is not read here.
        let ends = certificates.chain(lists.iter().copied()).map(|end| end.unwrap_or(now + UNREADABLE));
        ends.filter(|end| *end > now).min().unwrap_or(u64::MAX)
    }
}

fn verdict(error: &Error, rejection: Option<Rejection>) -> Verdict {
    let cause = explain::cause(error);
    let why = match cause {
        Some(Cause::Expired) => Distrust::Expired,
        Some(Cause::Revoked) => Distrust::Revoked,
        _ => Distrust::Unverified,
    };
    let (words, peer) = match rejection {
        Some(Rejection { words, peer }) => (words, peer),
        None => (explain::error(error), None),
    };
    Verdict { why, words, cause, peer }
}

impl fmt::Debug for LivePeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LivePeers").field("chains", &self.len()).finish()
    }
}
