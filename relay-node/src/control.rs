//! Telling a running node what to do: a queue of commands, and a socket that any loop can wait for,
//! which has a byte in it whenever there may be a new one.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::server::Route;
use crate::sessions::{RouteId, SessionId};

/// Sessions that may be waiting for their end to be asked of the loop. One that is this far behind does
/// not look at its commands at all.
const ENDS: usize = 1 << 16;

/// Beats that may be waiting. A loop that is this far behind does not go on.
const BEATS: usize = 4;

/// What an operator can wish for while a node serves.
#[derive(Debug)]
pub enum Command {
    /// Listen there too, from now on. Refused, and the listener closed, once a stop has been asked for.
    Open {
        /// No other route ever has it.
        id: RouteId,
        /// Where, and what for.
        route: Route,
    },
    /// Listen there no more; a socket file goes with its listener. Connections that nobody has accepted yet
    /// are, within the limits, if sessions are to go on; otherwise they go with it. Does nothing if there is no
    /// such route (any more).
    Close {
        /// Which.
        id: RouteId,
        /// What becomes of those who came by it.
        sessions: Sessions,
    },
    /// End this session at once, if there is one.
    End(SessionId),
    /// Show that you are alive: pass it on to every loop, each of which drops it when it comes to it.
    Beat(Beat),
    /// The limits of the rate have changed ([`Bandwidth`](crate::bandwidth::Bandwidth)).
    Relimit,
    /// Of some peers it has come out that they would not be let in any more: end their sessions at once
    /// ([`TlsCodec::distrust`](relay_tls::TlsCodec::distrust)).
    Review,
    /// Accept nothing more, let open sessions finish until the drain timeout.
    Drain,
    /// End everything at once.
    Abort,
}

/// A question to all loops at once whether they go on: once each has let its copy go, something is done.
#[derive(Clone)]
pub struct Beat(Arc<Beating>);

struct Beating {
    /// Nothing is to be done if it is lost on the way.
    passed_on: AtomicBool,
    then: Box<dyn Fn() + Send + Sync>,
}

impl Beat {
    /// `then` is done by the last loop that lets its copy go.
    pub fn new(then: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(Beating { passed_on: AtomicBool::new(false), then: Box::new(then) }))
    }

    /// Every loop has got a copy, or is about to.
    pub fn passed_on(&self) {
        self.0.passed_on.store(true, Ordering::Relaxed);
    }
}

impl fmt::Debug for Beat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Beat").field(&self.0.passed_on).finish()
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        if *self.passed_on.get_mut() {
            (self.then)();
        }
    }
}

/// What becomes of the sessions of a route that is closed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Sessions {
    /// They go on to their own end.
    Keep,
    /// They end at once.
    Abort,
}

/// The writing end. Clones write to the same node.
#[derive(Clone, Debug)]
pub struct Controller(Arc<Sending>);

/// The reading end, non-blocking. Ready for reading once there is a command.
#[derive(Debug)]
pub struct Commands {
    queue: Arc<Mutex<Queue>>,
    wake: UnixStream,
}

#[derive(Debug)]
struct Sending {
    queue: Arc<Mutex<Queue>>,
    wake: UnixStream,
}

/// Grows with what is asked for, not with how often: a stop is in it once, and so is each session's end;
/// each route that is opened has a descriptor already.
#[derive(Debug, Default)]
struct Queue {
    commands: VecDeque<Command>,
    /// Of those, the sessions to be ended.
    ending: BTreeSet<SessionId>,
    drain: bool,
    abort: bool,
    relimit: bool,
    review: bool,
    /// That are waiting.
    beats: usize,
    /// Every writing end is gone.
    closed: bool,
}

impl Drop for Sending {
    fn drop(&mut self) {
        // Before the socket is closed, which wakes the reader.
        lock(&self.queue).closed = true;
    }
}

impl Queue {
    /// Whether it is new.
    fn push(&mut self, command: Command) -> bool {
        let new = match &command {
            Command::Drain => !std::mem::replace(&mut self.drain, true),
            Command::Abort => !std::mem::replace(&mut self.abort, true),
            Command::Relimit => !std::mem::replace(&mut self.relimit, true),
            Command::Review => !std::mem::replace(&mut self.review, true),
            Command::Beat(_) if self.beats >= BEATS => false,
            Command::Beat(_) => {
                self.beats += 1;
                true
            }
            Command::End(id) => self.ending.len() < ENDS && self.ending.insert(*id),
            Command::Open { .. } | Command::Close { .. } => true,
        };
        if new {
            self.commands.push_back(command);
        }
        new
    }

    fn pop(&mut self) -> Option<Command> {
        let command = self.commands.pop_front()?;
        match &command {
            Command::Drain => self.drain = false,
            Command::Abort => self.abort = false,
            Command::Relimit => self.relimit = false,
            Command::Review => self.review = false,
            Command::Beat(_) => self.beats -= 1,
            Command::End(id) => _ = self.ending.remove(id),
            Command::Open { .. } | Command::Close { .. } => {}
        }
        Some(command)
    }
}

/// A pair of ends.
///
/// # Errors
/// As socketpair(2).
pub fn channel() -> io::Result<(Controller, Commands)> {
    let (writer, reader) = UnixStream::pair()?;
    // A full socket has been told often enough: never wait for a stuck loop.
    writer.set_nonblocking(true)?;
    reader.set_nonblocking(true)?;
    let queue = Arc::default();
    let sending = Sending { queue: Arc::clone(&queue), wake: writer };
    Ok((Controller(Arc::new(sending)), Commands { queue, wake: reader }))
}

impl Controller {
    /// Sends a command. Never waits. If nobody listens any more, there is nothing left to command.
    ///
    /// A wish that is waiting already is not repeated: a drain, an abort, the end of a session.
    pub fn send(&self, command: Command) {
        if lock(&self.0.queue).push(command) {
            let _ = (&self.0.wake).write_all(b"!");
        }
    }
}

impl Commands {
    /// The next command that has come, if any. To be called until `None` after each readiness, as
    /// edge-triggered loops must; `None` also once every writing end is gone.
    #[must_use]
    pub fn next(&self) -> Option<Command> {
        let command = lock(&self.queue).pop();
        if command.is_some() {
            return command;
        }
        self.clear();
        // What was put in before its byte could be cleared away.
        lock(&self.queue).pop()
    }

    /// Whether nothing will come any more: every command was taken, and every writing end is gone. The
    /// socket stays ready then, so whoever polls it has to stop.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let queue = lock(&self.queue);
        queue.closed && queue.commands.is_empty()
    }

    /// Takes all that was written to wake us.
    fn clear(&self) {
        let mut scratch = [0; 64];
        loop {
            match (&self.wake).read(&mut scratch) {
                Ok(1..) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return,
            }
        }
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    // Whoever panicked has left it whole.
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsFd for Commands {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl AsRawFd for Commands {
    fn as_raw_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_ready(commands: &Commands) -> bool {
        let wake = commands.wake.try_clone().expect("clone");
        socket2::SockRef::from(&wake)
            .peek(&mut [std::mem::MaybeUninit::uninit()])
            .is_ok_and(|count| count > 0)
    }

    #[test]
    fn commands_arrive_in_order_and_nobody_waits() {
        let (controller, commands) = channel().expect("pair");
        assert!(commands.next().is_none() && !is_ready(&commands));
        controller.send(Command::Drain);
        controller.clone().send(Command::End(SessionId(7)));
        controller.send(Command::Abort);
        assert!(is_ready(&commands));
        assert!(matches!(commands.next(), Some(Command::Drain)));
        assert!(matches!(commands.next(), Some(Command::End(SessionId(7)))));
        assert!(matches!(commands.next(), Some(Command::Abort)));
        assert!(commands.next().is_none() && !is_ready(&commands));
        drop(commands);
        controller.send(Command::Abort);
    }

    #[test]
    fn a_stuck_loop_is_told_everything_once_and_the_queue_stays_short() {
        let (controller, commands) = channel().expect("pair");
        for round in 0..100_000 {
            controller.send(Command::Drain);
            controller.send(Command::End(SessionId(round % 3)));
            controller.send(Command::Abort);
            controller.send(Command::Relimit);
            controller.send(Command::Review);
        }
        assert_eq!(std::iter::from_fn(|| commands.next()).count(), 7);
        controller.send(Command::End(SessionId(1)));
        assert!(is_ready(&commands) && commands.next().is_some(), "said anew, it is asked for anew");
        for id in 0..ENDS as u64 + 10 {
            controller.send(Command::End(SessionId(id)));
        }
        assert_eq!(std::iter::from_fn(|| commands.next()).count(), ENDS);
    }

    #[test]
    fn a_beat_tells_once_every_copy_is_gone_and_not_if_it_was_lost() {
        let (controller, commands) = channel().expect("pair");
        let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let beat = || {
            let count = Arc::clone(&count);
            Command::Beat(Beat::new(move || _ = count.fetch_add(1, Ordering::Relaxed)))
        };
        // a stuck loop is not asked for ever
        for _ in 0..100 {
            controller.send(beat());
        }
        let Some(Command::Beat(beat)) = commands.next() else { panic!("a beat") };
        assert_eq!(std::iter::from_fn(|| commands.next()).count(), BEATS - 1);
        assert_eq!(count.load(Ordering::Relaxed), 0, "the others were not passed on");
        let copies = [beat.clone(), beat.clone()];
        beat.passed_on();
        drop(beat);
        let [first, second] = copies;
        drop(first);
        assert_eq!(count.load(Ordering::Relaxed), 0, "one loop is stuck");
        drop(second);
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn with_every_controller_gone_there_is_nothing_more() {
        let (controller, commands) = channel().expect("pair");
        controller.send(Command::Drain);
        let clone = controller.clone();
        drop(controller);
        assert!(!commands.is_closed(), "there is another one");
        drop(clone);
        assert!(!commands.is_closed(), "there is a command");
        assert!(matches!(commands.next(), Some(Command::Drain)));
        assert!(commands.next().is_none() && commands.is_closed());
    }
}
