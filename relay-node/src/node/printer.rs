//! Status to publish, on standard output: by a thread of its own, so that a reader who does not read
//! stops nobody else. What waits is the latest of each object, so it does not grow with their changes.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use relay_migration::vmi::VmiName;

/// How long the last lines may take at the end.
const PATIENCE: Duration = Duration::from_secs(1);

/// See the [module](self).
#[derive(Clone, Debug)]
pub(super) struct Printer(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: BTreeMap<VmiName, String>,
    writing: bool,
}

impl Printer {
    /// Begins to print to `out`.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn start(mut out: impl Write + Send + 'static) -> io::Result<Self> {
        let printer = Self(Arc::default());
        let shared = Arc::clone(&printer.0);
        thread::Builder::new().name("status".to_owned()).spawn(move || {
            loop {
                let line = shared.next();
                let written = writeln!(out, "{line}").and_then(|()| out.flush());
                shared.done();
                if let Err(error) = written {
                    log::error!(error:%; "nobody reads the status to publish any more");
                    return;
                }
            }
        })?;
        Ok(printer)
    }

    /// In the place of what waits for the same object, if anything does.
    pub(super) fn print(&self, of: &VmiName, line: String) {
        self.0.lock().lines.insert(of.clone(), line);
        self.0.changed.notify_all();
    }

    /// The object is gone.
    pub(super) fn forget(&self, of: &VmiName) {
        self.0.lock().lines.remove(of);
    }

    /// Waits a little until all is printed.
    pub(super) fn finish(&self) {
        let is_busy = |waiting: &mut Waiting| waiting.writing || !waiting.lines.is_empty();
        drop(self.0.changed.wait_timeout_while(self.0.lock(), PATIENCE, is_busy));
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        // Whoever panicked has left it whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> String {
        let mut waiting = self.lock();
        loop {
            if let Some((_, line)) = waiting.lines.pop_first() {
                waiting.writing = true;
                return line;
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn done(&self) {
        self.lock().writing = false;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn name(name: &str) -> VmiName {
        VmiName { namespace: "n".into(), name: name.into() }
    }

    #[test]
    fn the_latest_of_each_is_printed_and_a_reader_who_does_not_read_stops_nobody() {
        let (out, mut reader) = UnixStream::pair().expect("pair");
        let printer = Printer::start(out).expect("thread");
        let long = "x".repeat(100_000);
        for number in 0..1000 {
            printer.print(&name("a"), format!("{number} {long}"));
        }
        printer.print(&name("b"), "b".to_owned());
        printer.print(&name("c"), "c".to_owned());
        printer.forget(&name("c"));
        let waiting = printer.0.lock().lines.len();
        assert!(waiting <= 2, "{waiting}");
        let mut text = Vec::new();
        while !text.ends_with(b"b\n") {
            let mut piece = vec![0; 1 << 20];
            let length = reader.read(&mut piece).expect("read");
            text.extend_from_slice(&piece[..length]);
        }
        printer.finish();
        let text = String::from_utf8(text).expect("text");
        assert!(text.contains("\n999 x") || text.starts_with("999 x"), "the latest");
        assert!(text.lines().count() < 1000 && !text.contains("\nc\n"));
    }
}
