//! A whole node on tokio: a task for each session, and one that accepts.

mod accepting;
mod mail;
mod session;

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use relay_core::Outcome;
use relay_node::tally::Laps;
use relay_node::{Observer, Runtime, ServeError, Served, Server};
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use crate::clock::Clock;

/// A whole node as a future, for a program that has its own tokio runtime: listens, accepts, dials and
/// relays until it is told to stop and the last session has ended. What it does with listeners, sessions,
/// limits and stops is what the program `relay-mio` does, for all of that is decided in
/// [`relay_node`] and below.
///
/// The other end of the server's [`commands`](Server::commands) is the handle: a
/// [`Controller`](relay_node::control::Controller), of which there may be as many clones as wished. It
/// opens and closes listeners, ends sessions, [drains](relay_node::control::Command::Drain) and
/// [aborts](relay_node::control::Command::Abort), and waits for nothing. Once all of them are dropped,
/// the node goes on as it is. Who is there, and how much has moved, stands in the server's table of
/// [`sessions`](Server::sessions); each session's end is told to its [`observer`](Server::observer).
///
/// Each session is a task of the runtime that polls this, so that runtime's threads are the node's;
/// [`threads`](Server::threads) is not looked at. Time is the system's: a clock that a test has paused
/// is not for it.
///
/// # Cancellation
/// Dropping the future closes its listeners at once, and socket files go with them. The sessions are told
/// to abort, which their tasks do as soon as the runtime polls them; so does dropping the runtime. Either
/// way peers see a reset where something is missing, and the observer is told.
///
/// # Errors
/// If a socket can't be registered with the runtime. A session's or an accept's failure is none.
///
/// # Panics
/// When polled outside of a tokio runtime, or of one without I/O and time enabled.
///
/// # Examples
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(node())
/// # }
/// # async fn node() -> Result<(), Box<dyn std::error::Error>> {
/// use relay_tokio::relay_node::control::{self, Command};
/// use relay_tokio::{Route, Server, Timeouts, serve};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// use tokio::net::{TcpListener, TcpStream};
///
/// // what it is to relay to
/// let backend = TcpListener::bind("127.0.0.1:0").await?;
/// let connect = format!("tcp:{}", backend.local_addr()?).parse()?;
///
/// // listens from here on; `tls:` and `unix:` work in the same way
/// let route = Route::open(&"tcp:127.0.0.1:0".parse()?, &connect, None, &Timeouts::default())?;
/// let at = route.listener.local().host_port().expect("it is TCP").port;
///
/// let (controller, commands) = control::channel()?;
/// let node = tokio::spawn(serve(Server::new([route], commands)));
///
/// let mut client = TcpStream::connect(("127.0.0.1", at)).await?;
/// client.write_all(b"through the node").await?;
/// client.shutdown().await?;
/// let (mut server, _) = backend.accept().await?;
/// let mut text = String::new();
/// server.read_to_string(&mut text).await?;
/// assert_eq!(text, "through the node");
///
/// controller.send(Command::Drain); // no new ones; this one may finish, within the drain timeout
/// drop((client, server));
/// assert_eq!(node.await??.sessions, 1);
/// # Ok(())
/// # }
/// ```
pub async fn serve(server: Server) -> Result<Served, ServeError> {
    let shared = Arc::new(Shared {
        clock: Clock::like(server.sessions.clock()),
        observer: Arc::clone(&server.observer),
        served: Mutex::default(),
    });
    // Ends with this.
    let mut aside = JoinSet::new();
    aside.spawn(watch_lag(server.sessions.tally().laps()));
    accepting::accept(server, Arc::clone(&shared)).await?;
    let served = *shared.served.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(served)
}

/// [`serve`] for a program that has no tokio runtime: makes one for each server, and blocks.
///
/// # Panics
/// [`Runtime::serve`] panics within an asynchronous task: no runtime can be run inside another. There,
/// await [`serve`], or call it by `spawn_blocking`.
///
/// # Examples
/// ```
/// use relay_tokio::relay_node::control::{self, Command};
/// use relay_tokio::{Route, Runtime, Server, Timeouts, Tokio};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let route =
///     Route::open(&"tcp:127.0.0.1:0".parse()?, &"tcp:127.0.0.1:1".parse()?, None, &Timeouts::default())?;
/// let (controller, commands) = control::channel()?;
/// let node = std::thread::spawn(|| Tokio::default().serve(Server::new([route], commands)));
///
/// controller.send(Command::Drain);
/// let served = node.join().expect("no panic")?;
/// assert_eq!(served.sessions, 0);
/// # Ok(())
/// # }
/// ```
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
}

impl Runtime for Tokio {
    fn serve(&self, server: Server) -> Result<Served, ServeError> {
        let mut builder = match server.loops(self.threads).get() {
            1 => Builder::new_current_thread(),
            // The thread that is here already accepts, and sleeps otherwise.
            threads => {
                let mut builder = Builder::new_multi_thread();
                builder.worker_threads(threads).thread_name("relay");
                builder
            }
        };
        let runtime = builder.enable_all().build();
        runtime.map_err(|error| ServeError::new("make a poller", error))?.block_on(serve(server))
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
