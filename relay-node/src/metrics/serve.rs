//! Where metrics are asked for, besides the control API: `--metrics`. Plaintext, and whoever reaches it
//! may read: there are counts and dates here, no keys, names or addresses.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use relay_core::Instant;
use relay_migration::api::{ApiError, Call};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{CONTENT_TYPE, Metrics};
use crate::listen::Listener;
use crate::node::clients::Clients;
use crate::node::http::Answer;
use crate::sessions::SessionTable;

/// Answers until it is dropped.
#[derive(Debug)]
pub(crate) struct Scrapes {
    stop: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Scrapes {
    fn drop(&mut self) {
        let _ = self.stop.shutdown(Shutdown::Both);
        // The listener goes with it, and its file. If it panicked, that was told already.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Answers whoever asks there, in a thread of its own.
///
/// # Errors
/// If there is no socket pair or no thread to be had.
pub(crate) fn start(listener: Listener, metrics: Arc<Metrics>) -> io::Result<Scrapes> {
    spawn(metrics, move |_| Some(listener))
}

/// The same as soon as `listen` does not say any more that somebody else listens there (`AddrInUse`): a
/// predecessor, who will let go.
///
/// # Errors
/// If there is no socket pair or no thread to be had.
pub(crate) fn start_when_free(
    mut listen: impl FnMut() -> io::Result<Listener> + Send + 'static,
    metrics: Arc<Metrics>,
) -> io::Result<Scrapes> {
    spawn(metrics, move |stopped| {
        loop {
            match listen() {
                Ok(listener) => return Some(listener),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => {
                    log::error!(error:%; "cannot listen for metrics");
                    return None;
                }
            }
            let wait = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            let mut fds = [PollFd::new(stopped, PollFlags::IN)];
            if !matches!(poll(&mut fds, Some(&wait)), Ok(0) | Err(rustix::io::Errno::INTR)) {
                return None;
            }
        }
    })
}

fn spawn(
    metrics: Arc<Metrics>,
    listener: impl FnOnce(&UnixStream) -> Option<Listener> + Send + 'static,
) -> io::Result<Scrapes> {
    let (stop, stopped) = UnixStream::pair()?;
    let work = move || {
        let Some(listener) = listener(&stopped) else { return };
        let clients = Clients::of_anybody(listener, only_these);
        Desk { clients, sessions: Arc::clone(&metrics.sessions), metrics, stopped }.work();
    };
    let thread = thread::Builder::new().name("metrics".to_owned()).spawn(work)?;
    Ok(Scrapes { stop, thread: Some(thread) })
}

/// What may be asked for.
fn only_these(method: &str, path: &str, _: &[u8]) -> Result<Call, ApiError> {
    let call = match path {
        "/metrics" => Call::Metrics,
        "/healthz" => Call::Health,
        "/readyz" => Call::Ready,
        _ => {
            let message = "there are /metrics, /healthz and /readyz".to_owned();
            return Err(ApiError { status: 404, message });
        }
    };
    if method == "GET" {
        Ok(call)
    } else {
        Err(ApiError { status: 405, message: "it can only be read; use GET".to_owned() })
    }
}

struct Desk {
    clients: Clients,
    sessions: Arc<SessionTable>,
    metrics: Arc<Metrics>,
    stopped: UnixStream,
}

impl Desk {
    fn work(&mut self) {
        loop {
            match self.turn() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    // Nothing that could be done about it; and without pause it would only be faster.
                    log::error!(error:%; "metrics can't be waited for");
                    thread::sleep(Duration::from_secs(1));
                }
            }
        }
    }

    fn now(&self) -> Instant {
        self.sessions.clock().now()
    }

    /// Waits, and answers; whether to go on.
    ///
    /// # Errors
    /// As poll(2).
    fn turn(&mut self) -> io::Result<bool> {
        let (mut accept, mut ready) = (false, Vec::new());
        {
            let next = self.clients.next_timeout().map(|at| at.since(self.now()) + Duration::from_millis(1));
            let timeout = next.and_then(|timeout| Timespec::try_from(timeout).ok());
            let interests = self.clients.interests();
            let mut fds = vec![PollFd::new(&self.stopped, PollFlags::IN)];
            fds.extend(interests.iter().map(|(_, fd, flags)| PollFd::new(fd, *flags)));
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if !fds[0].revents().is_empty() {
                return Ok(false);
            }
            for ((id, ..), fd) in interests.iter().zip(&fds[1..]) {
                match id {
                    _ if fd.revents().is_empty() => {}
                    Some(id) => ready.push((*id, fd.revents())),
                    None => accept = true,
                }
            }
        }
        let now = self.now();
        self.clients.handle_timeout(now);
        if accept {
            self.clients.accept(now, &self.metrics.scrapes);
        }
        for (id, flags) in ready {
            if flags.contains(PollFlags::OUT) {
                self.clients.write(id, now);
            }
            if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                let mut call = self.clients.read(id, now, &self.metrics.scrapes);
                while let Some(asked) = call {
                    call = self.clients.answer(id, &self.answer(&asked), now, &self.metrics.scrapes);
                }
            }
        }
        Ok(true)
    }

    fn answer(&self, call: &Call) -> Answer {
        let text = |status, words: &str| Answer::text(status, "text/plain", words.to_owned());
        match call {
            Call::Metrics => Answer::text(200, CONTENT_TYPE, self.metrics.text()),
            Call::Ready if self.metrics.is_draining() => text(503, "draining\n"),
            Call::Ready => text(200, "ready\n"),
            Call::Health => text(200, "alive\n"),
            Call::Registry(_)
            | Call::Get(_)
            | Call::List(_)
            | Call::Sessions
            | Call::Limits
            | Call::SetLimits(_)
            | Call::EndSession(_)
            | Call::TakeOver
            | Call::Drain(_) => text(404, "there is no such thing here\n"),
        }
    }
}
