//! What a relay writes to standard output and standard error: JSON lines, and whatever else.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use serde_json::Value;

use crate::PATIENCE;

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    /// As it was written.
    pub text: String,
    json: Value,
}

impl Line {
    fn new(text: String) -> Self {
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Self { text, json }
    }

    /// A field's text; empty if it has none.
    #[must_use]
    pub fn field(&self, name: &str) -> &str {
        self.json[name].as_str().unwrap_or_default()
    }

    /// A field's count; 0 if it has none.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        self.json[name].as_u64().unwrap_or_default()
    }

    /// Why the direction read from the accepted connection ended.
    #[must_use]
    pub fn front_end(&self) -> &str {
        self.field("front_end")
    }

    /// Why the direction read from the dialed connection ended.
    #[must_use]
    pub fn back_end(&self) -> &str {
        self.field("back_end")
    }

    /// Whether both directions of the session ended well.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        [self.front_end(), self.back_end()].iter().all(|end| matches!(*end, "eof" | "close-notify"))
    }
}

/// All lines so far.
#[derive(Debug, Default)]
pub struct Log {
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Seen {
    lines: Vec<Line>,
    /// Nothing more will come.
    over: bool,
}

impl Log {
    /// Reads lines in a thread of its own until there are no more.
    pub(crate) fn of(from: impl Read + Send + 'static) -> Arc<Self> {
        let log = Arc::new(Self::default());
        let filled = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
                filled.lock().lines.push(Line::new(String::from_utf8_lossy(&line).into_owned()));
                filled.changed.notify_all();
            }
            filled.lock().over = true;
            filled.changed.notify_all();
        });
        log
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything so far, as text.
    #[must_use]
    pub fn text(&self) -> String {
        self.lock().lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>().join("\n")
    }

    /// Waits until something can be found in the lines.
    ///
    /// # Panics
    /// If it never can.
    pub fn wait<T>(&self, what: &str, mut find: impl FnMut(&[Line]) -> Option<T>) -> T {
        let start = Instant::now();
        let mut seen = self.lock();
        loop {
            if let Some(found) = find(&seen.lines) {
                return found;
            }
            let left = PATIENCE.saturating_sub(start.elapsed());
            assert!(!left.is_zero() && !seen.over, "waited in vain: {what}");
            (seen, _) = self.changed.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for a line with this message.
    pub fn wait_for(&self, message: &str) -> Line {
        self.wait(message, |lines| lines.iter().find(|line| line.field("message") == message).cloned())
    }

    /// Waits until nothing more will come.
    pub fn wait_over(&self) {
        let start = Instant::now();
        let mut seen = self.lock();
        while !seen.over && start.elapsed() < PATIENCE {
            (seen, _) = self.changed.wait_timeout(seen, PATIENCE).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// So many lines have this message by now.
    #[must_use]
    pub fn count(&self, message: &str) -> usize {
        self.lock().lines.iter().filter(|line| line.field("message") == message).count()
    }

    /// Waits until so many sessions have ended; their lines.
    pub fn ended(&self, count: usize) -> Vec<Line> {
        self.wait(&format!("{count} sessions end"), |lines| {
            let ended: Vec<_> =
                lines.iter().filter(|line| line.field("message") == "session ended").collect();
            (ended.len() >= count).then(|| ended.into_iter().cloned().collect())
        })
    }
}
