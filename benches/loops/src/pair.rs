//! Two relays as children, a sink, and what the kernel says that they cost.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::serving::ASKED;
use crate::{Loop, Mode, load, pki};

/// Clock ticks of /proc per second: USER_HZ, which is 100 on every Linux that this runs on (proc(5)).
const TICKS_PER_SECOND: f64 = 100.0;

/// A source and a target before a sink.
#[derive(Debug)]
pub struct Pair {
    relays: Vec<Child>,
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
        let start = |from: &str, to: &str| relay(who, mode, &directory, from, to);
        let (target, at) = start(between, &format!("unix:{}", sink.display()));
        let (source, _) = start(&format!("unix:{}", entry.display()), &at);
        Self { relays: vec![source, target], directory, entry }
    }

    /// Where to connect.
    #[must_use]
    pub fn entry(&self) -> &Path {
        &self.entry
    }

    /// Seconds of processor time that both relays have used, in user space and in the kernel.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        let ticks = |relay: &Child| -> f64 {
            let stat = fs::read_to_string(format!("/proc/{}/stat", relay.id())).expect("it lives");
            // After the name, which may hold anything: utime and stime are fields 14 and 15 (proc(5)).
            let rest = stat.rsplit(") ").next().unwrap_or_default();
            rest.split(' ').skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum()
        };
        self.relays.iter().map(ticks).sum::<f64>() / TICKS_PER_SECOND
    }

    /// Memory of both relays in KiB, shared pages by their share (PSS).
    #[must_use]
    pub fn memory_kib(&self) -> f64 {
        let pss = |relay: &Child| -> f64 {
            let path = format!("/proc/{}/smaps_rollup", relay.id());
            let rollup = fs::read_to_string(path).expect("it lives");
            let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or_default();
            line.trim().trim_end_matches(" kB").parse().expect("a number")
        };
        self.relays.iter().map(pss).sum()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for relay in &mut self.relays {
            let _ = relay.kill();
            let _ = relay.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn relay(who: Loop, mode: Mode, directory: &Path, from: &str, to: &str) -> (Child, String) {
    let asked = [who.name(), mode.name(), &directory.display().to_string(), from, to].join("|");
    let mut child = Command::new(std::env::current_exe().expect("a path"))
        .env(ASKED, asked)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    assert!(!line.trim().is_empty(), "{who:?} does not listen");
    (child, line.trim().to_owned())
}
