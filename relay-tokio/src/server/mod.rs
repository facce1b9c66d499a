//! A whole node on tokio: a task for each session, and one that accepts.

mod accepting;
mod mail;
mod session;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use relay_core::Outcome;
use relay_node::tally::Laps;
use relay_node::{Observer, Runtime, ServeError, Served, Server};
use tokio::runtime::Builder;

use crate::clock::Clock;

/// The runtime: tokio's own, with so many threads, made anew for each server.
///
/// What it does with listeners, sessions, limits and stops is what `relay-mio` does, for all of that
/// is decided in `relay-node` and below.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tokio {
    threads: Option<NonZeroUsize>,
}

impl Tokio {
    /// With so many threads, unless a server says otherwise. The default is as many as there are
    /// processors to run on.
    #[must_use]
    pub const fn with_threads(threads: NonZeroUsize) -> Self {
        Self { threads: Some(threads) }
    }

    fn builder(self, wished: Option<NonZeroUsize>) -> Builder {
        let threads = wished.or(self.threads).or_else(|| thread::available_parallelism().ok());
        match threads.map_or(1, NonZeroUsize::get) {
            1 => Builder::new_current_thread(),
            // The thread that is here already accepts, and sleeps otherwise.
            threads => {
                let mut builder = Builder::new_multi_thread();
                builder.worker_threads(threads).thread_name("relay");
                builder
            }
        }
    }
}

impl Runtime for Tokio {
    fn serve(&self, server: Server) -> Result<Served, ServeError> {
        let shared = Arc::new(Shared {
            clock: Clock::like(server.sessions.clock()),
            observer: Arc::clone(&server.observer),
            served: Mutex::default(),
        });
        let runtime = self
            .builder(server.threads)
            .enable_all()
            .build()
            .map_err(|error| ServeError::new("make a poller", error))?;
        let laps = server.sessions.tally().laps();
        runtime.block_on(async {
            // It ends with the runtime.
            tokio::spawn(watch_lag(laps));
            accepting::accept(server, Arc::clone(&shared)).await
        })?;
        let served = *shared.served.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(served)
    }
}

/// Between two looks at how late a task runs.
const LOOK: Duration = Duration::from_secs(1);

/// Notes how long after its time a task runs that only waits for it.
async fn watch_lag(laps: Arc<Laps>) {
    loop {
        let due = tokio::time::Instant::now() + LOOK;
        tokio::time::sleep_until(due).await;
        laps.note(due.elapsed());
    }
}

/// What all tasks of a server use.
#[derive(Debug)]
struct Shared {
    clock: Clock,
    observer: Arc<dyn Observer>,
    served: Mutex<Served>,
}

impl Shared {
    fn count(&self, outcome: &Outcome) {
        self.served.lock().unwrap_or_else(PoisonError::into_inner).count(outcome);
    }
}

/// Another one each time, for jitter.
fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
