//! Two relays as children, a sink, and what the kernel says that they cost.

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::serving::ASKED;
use crate::{Loop, Mode, load, pki};

/// A source and a target before a sink.
#[derive(Debug)]
pub struct Pair {
    relays: [Relay; 2],
    directory: PathBuf,
    entry: PathBuf,
}

impl Pair {
    /// Starts all three.
    ///
    /// # Panics
    /// If one does not start.
    #[must_use]
    pub fn start(who: Loop, mode: Mode) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("relay-bench-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).expect("a directory");
        pki::write(&directory);
        let (entry, sink) = (directory.join("entry"), directory.join("sink"));
        load::sink(&sink);
        let between = if mode == Mode::Tls { "tls:127.0.0.1:0" } else { "tcp:127.0.0.1:0" };
        let start = |from: &str, to: &str| Relay::start(who, mode, &directory, from, to);
        let (target, at) = start(between, &format!("unix:{}", sink.display()));
        let (source, _) = start(&format!("unix:{}", entry.display()), &at);
        Self { relays: [source, target], directory, entry }
    }

    /// Where to connect.
    #[must_use]
    pub fn entry(&self) -> &Path {
        &self.entry
    }

    /// Seconds of processor time that both relays have used, in user space and in the kernel, to the
    /// nanosecond: they look at their own clocks (CLOCK_PROCESS_CPUTIME_ID).
    ///
    /// # Panics
    /// If one is gone.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        self.relays.iter().map(Relay::cpu_seconds).sum()
    }

    /// Memory of both relays in KiB, shared pages by their share (PSS).
    #[must_use]
    pub fn memory_kib(&self) -> f64 {
        let pss = |relay: &Relay| -> f64 {
            let path = format!("/proc/{}/smaps_rollup", relay.child.id());
            let rollup = fs::read_to_string(path).expect("it lives");
            let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or_default();
            line.trim().trim_end_matches(" kB").parse().expect("a number")
        };
        self.relays.iter().map(pss).sum()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for Relay { child, .. } in &mut self.relays {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// This program as a relay.
#[derive(Debug)]
struct Relay {
    child: Child,
    /// Where it is asked, and where it answers.
    lines: RefCell<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Relay {
    /// Starts it, and says where it listens.
    fn start(who: Loop, mode: Mode, directory: &Path, from: &str, to: &str) -> (Self, String) {
        let asked = [who.name(), mode.name(), &directory.display().to_string(), from, to].join("|");
        let mut child = Command::new(std::env::current_exe().expect("a path"))
            .env(ASKED, asked)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let ask = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        let relay = Self { child, lines: RefCell::new((ask, answers)) };
        let at = relay.line();
        (relay, at)
    }

    fn line(&self) -> String {
        let mut line = String::new();
        self.lines.borrow_mut().1.read_line(&mut line).expect("a line");
        assert!(!line.trim().is_empty(), "a relay is gone");
        line.trim().to_owned()
    }

    fn cpu_seconds(&self) -> f64 {
        self.lines.borrow_mut().0.write_all(b"?").expect("it listens");
        self.line().parse::<f64>().expect("nanoseconds") / 1e9
    }
}
