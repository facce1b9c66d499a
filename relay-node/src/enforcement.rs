//! Open sessions are held to what new ones would be held to (`--revoke-live`): a thread that has their peers
//! judged again when files were reloaded, and when a certificate or a revocation list ends.
//!
//! It looks at the wall clock every second, for dates are the wall clock's, and no timer of the monotonic one
//! knows of a clock that was set, or of a machine that slept. Nothing is verified unless a date has passed or
//! files have changed, and loops are only told once a verdict is there: they don't wait for one.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, Thread};
use std::time::{Duration, SystemTime};

use relay_tls::{ClientTls, LivePeers, ServerTls};

use crate::control::{Command, Controller};
use crate::metrics;

/// Between two looks at the clock.
const PERIOD: Duration = Duration::from_secs(1);

/// Chains that are judged before the loops are told of those among them that are not trusted any more: forty
/// milliseconds of a processor (0.3 ms for each, with an intermediate and lists).
const BATCH: usize = 128;

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Enforcement {
    peers: LivePeers,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Whose sessions they are.
    nodes: Vec<Controller>,
    /// Once there is one to be told.
    thread: Option<Thread>,
}

impl Enforcement {
    /// Where sessions enter their peers.
    pub(crate) const fn peers(&self) -> &LivePeers {
        &self.peers
    }

    /// From now on these count, for open sessions too. To be called before a session begins with them, or it would
    /// be held to those before.
    pub(crate) fn judge_by(&self, server: &ServerTls, client: &ClientTls) {
        self.peers.judge_by(server, client);
        if let Some(thread) = &self.lock().thread {
            thread.unpark();
        }
    }

    /// Tells this node, too, when sessions of its are to end.
    ///
    /// # Errors
    /// If the thread can't be started.
    pub(crate) fn tell(self: &Arc<Self>, node: Controller) -> io::Result<()> {
        let mut inner = self.lock();
        inner.nodes.push(node);
        if inner.thread.is_none() {
            let weak = Arc::downgrade(self);
            let started = thread::Builder::new().name("peers".to_owned()).spawn(move || run(&weak))?;
            inner.thread = Some(started.thread().clone());
        }
        Ok(())
    }

    /// Judges whoever is to be judged.
    fn review(&self, now: Duration) {
        loop {
            let reviewed = self.peers.review(now, BATCH);
            if reviewed.distrusted > 0 {
                log::warn!(
                    certificates = reviewed.distrusted;
                    "peers of open sessions would not be let in any more; their sessions end"
                );
                for node in &self.lock().nodes {
                    node.send(Command::Review);
                }
            }
            if !reviewed.more {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whoever panicked has left it whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until nobody has these settings any more.
fn run(enforcement: &Weak<Enforcement>) {
    loop {
        thread::park_timeout(PERIOD);
        let Some(enforcement) = enforcement.upgrade() else { return };
        enforcement.review(metrics::since_1970(SystemTime::now()));
    }
}
