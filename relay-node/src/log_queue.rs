//! The way of a log line to standard error: through a bounded queue and a thread of its own, so that
//! a reader who has stopped reading never stops a loop.

use std::io::{self, Write};
use std::iter;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

/// Lines that may wait. A burst of sessions that end at once fits; what a stuck reader costs is
/// about half a megabyte.
const LINES: usize = 1024;

/// How long the thread rests after it has written all there was: while many sessions come and go it is
/// woken, and writes, a hundred times a second at most.
const REST: Duration = Duration::from_millis(10);

/// Bytes that it writes at once, about.
const BATCH: usize = 64 << 10;

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
pub(crate) struct LineQueue {
    queue: SyncSender<Message>,
    /// Lines that there was no room for, and nobody has been told of.
    untold: &'static AtomicU64,
}

impl LineQueue {
    /// Starts the thread that writes to standard error.
    ///
    /// # Errors
    /// As spawning a thread.
    pub(crate) fn start() -> io::Result<Self> {
        let (sender, receiver) = sync_channel(LINES);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(&receiver, &UNTOLD, &mut io::stderr(), || thread::sleep(REST)))?;
        let _ = QUEUE.set(sender.clone());
        Ok(Self { queue: sender, untold: &UNTOLD })
    }
}

impl Write for LineQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.queue.try_send(Message::Line(line.to_vec())) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                LOST.fetch_add(1, Ordering::Relaxed);
                self.untold.fetch_add(1, Ordering::Relaxed);
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

fn write_all(queue: &Receiver<Message>, untold: &AtomicU64, out: &mut impl Write, rest: impl Fn()) {
    let mut lines = Vec::new();
    while let Ok(first) = queue.recv() {
        let mut waiting = Vec::new();
        let mut rests = true;
        for message in iter::once(first).chain(queue.try_iter()) {
            match message {
                Message::Line(line) => lines.extend(line),
                Message::Written(done) => waiting.push(done),
            }
            if lines.len() >= BATCH {
                rests = false;
                break;
            }
        }
        // Whoever closed it does not want to know.
        let _ = out.write_all(&lines);
        lines.clear();
        let lost = untold.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(out, "{lost} log lines were lost: standard error was not read");
        }
        for done in waiting {
            // Who had no time to wait is gone.
            let _ = done.send(());
        }
        if rests {
            rest();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody reads: as many lines as fit are kept, the others counted, and nobody has waited.
    #[test]
    fn a_reader_that_stopped_costs_lines_and_no_time() {
        static UNTOLD: AtomicU64 = AtomicU64::new(0);
        let (sender, receiver) = sync_channel(2);
        let mut queue = LineQueue { queue: sender, untold: &UNTOLD };
        for line in ["one\n", "two\n", "three\n", "four\n"] {
            assert_eq!(queue.write(line.as_bytes()).expect("never fails"), line.len());
        }
        drop(queue);
        let mut out = Vec::new();
        write_all(&receiver, &UNTOLD, &mut out, || {});
        let out = String::from_utf8(out).expect("text");
        assert_eq!(out, "one\ntwo\n2 log lines were lost: standard error was not read\n");
    }
    /// What has come meanwhile goes out in one write, and whoever waits for it is told after that.
    #[test]
    fn lines_that_wait_are_written_together() {
        struct Writes(Vec<usize>);
        impl Write for Writes {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.push(bytes.len());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        static UNTOLD: AtomicU64 = AtomicU64::new(0);
        let (sender, receiver) = sync_channel(200);
        let (done, written) = sync_channel(1);
        let mut queue = LineQueue { queue: sender, untold: &UNTOLD };
        for _ in 0..3 {
            queue.write_all(b"line\n").expect("never fails");
        }
        queue.queue.try_send(Message::Written(done)).expect("room");
        for _ in 0..100 {
            queue.write_all(&[b'x'; 1000]).expect("never fails");
        }
        drop(queue);
        let (mut out, rests) = (Writes(Vec::new()), std::cell::Cell::new(0));
        write_all(&receiver, &UNTOLD, &mut out, || rests.set(rests.get() + 1));
        assert_eq!(out.0, [66_015, 34_000], "a batch, and the rest");
        assert_eq!((rests.get(), written.try_recv()), (1, Ok(())), "only once there was no more");
    }
}
