//! The way of a log line to standard error: through a bounded queue and a thread of its own, so that
//! a reader who has stopped reading never stops a loop.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

/// Lines that may wait. A burst of sessions that end at once fits; what a stuck reader costs is
/// about half a megabyte.
const LINES: usize = 1024;

/// How long the last lines may take at the end of the program.
const LAST_LINES: Duration = Duration::from_millis(500);

static QUEUE: OnceLock<SyncSender<Message>> = OnceLock::new();
/// Lines lost, and of those how many nobody has been told of.
static LOST: AtomicU64 = AtomicU64::new(0);
static UNTOLD: AtomicU64 = AtomicU64::new(0);

/// Lines lost so far.
pub(crate) fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    /// Everything before this is written.
    Written(SyncSender<()>),
}

/// The writing end as the log library wants it: a line at a time, never waiting.
#[derive(Debug)]
pub(crate) struct LineQueue(SyncSender<Message>);

impl LineQueue {
    /// Starts the thread that writes to standard error.
    ///
    /// # Errors
    /// As spawning a thread.
    pub(crate) fn start() -> io::Result<Self> {
        let (sender, receiver) = sync_channel(LINES);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(&receiver, &mut io::stderr()))?;
        let _ = QUEUE.set(sender.clone());
        Ok(Self(sender))
    }
}

impl Write for LineQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.0.try_send(Message::Line(line.to_vec())) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                LOST.fetch_add(1, Ordering::Relaxed);
                UNTOLD.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until what was logged so far is written, for half a second at most.
pub(crate) fn finish() {
    let Some(queue) = QUEUE.get() else { return };
    let (done, written) = sync_channel(1);
    // A full queue has a reader that does not read: nothing to wait for.
    if queue.try_send(Message::Written(done)).is_ok() {
        let _ = written.recv_timeout(LAST_LINES);
    }
}

fn write_all(queue: &Receiver<Message>, out: &mut impl Write) {
    for message in queue {
        match message {
            // Whoever closed it does not want to know.
            Message::Line(line) => drop(out.write_all(&line)),
            Message::Written(done) => drop(done.send(())),
        }
        let lost = UNTOLD.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(out, "{lost} log lines were lost: standard error was not read");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody reads: as many lines as fit are kept, the others counted, and nobody has waited.
    #[test]
    fn a_reader_that_stopped_costs_lines_and_no_time() {
        let (sender, receiver) = sync_channel(2);
        let mut queue = LineQueue(sender);
        for line in ["one\n", "two\n", "three\n", "four\n"] {
            assert_eq!(queue.write(line.as_bytes()).expect("never fails"), line.len());
        }
        drop(queue);
        let mut out = Vec::new();
        write_all(&receiver, &mut out);
        let out = String::from_utf8(out).expect("text");
        assert_eq!(out, "one\n2 log lines were lost: standard error was not read\ntwo\n");
    }
}
