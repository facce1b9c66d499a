//! A daemon (`node`) as a child, and its control API.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::scratch::Scratch;
use crate::{PATIENCE, api};

/// A daemon that runs. Killed at its end, if it has not ended before.
#[derive(Debug)]
pub struct Node {
    child: Child,
    control: PathBuf,
    log: PathBuf,
}

impl Node {
    /// Starts it, in plaintext unless `options` have certificates, and waits until it listens at the
    /// control socket of this name.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn start(program: PathBuf, scratch: &Scratch, control: &str, options: &[&str]) -> Self {
        let mut node = Self::spawn(program, scratch, control, options);
        let out = BufReader::new(node.child.stdout.take().expect("piped"));
        let lines = out.lines().map(|line| line.expect("a line"));
        let line = lines.into_iter().find(|line| !line.starts_with("metrics ")).unwrap_or_default();
        assert_eq!(line, format!("listening unix:{}", node.control.display()), "{}", node.logged());
        node
    }

    /// Starts it.
    ///
    /// # Panics
    /// If there is no such program.
    #[must_use]
    pub fn spawn(program: PathBuf, scratch: &Scratch, control: &str, options: &[&str]) -> Self {
        let control = scratch.path(control);
        let log = (0..).map(|number| scratch.path(&format!("node-{number}.log")));
        let log = log.into_iter().find(|path| !path.exists()).expect("a free name");
        // A test that is killed takes it along.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program).arg("node");
        command.args([OsStr::new("--control"), format!("unix:{}", control.display()).as_ref()]).args(options);
        if !options.contains(&"--tls-cert") {
            command.arg("--plain");
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).env("RUST_LOG", "info");
        let child = command.stderr(fs::File::create(&log).expect("a log")).spawn().expect("setpriv");
        Self { child, control, log }
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// What it logged so far.
    #[must_use]
    pub fn logged(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Calls its control API: status and body.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn call(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        api::call(&self.control, method, path, body)
    }

    /// A call that has to succeed: its answer.
    ///
    /// # Panics
    /// If it does not.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Value {
        let (status, answer) = self.call(method, path, body);
        assert_eq!(status, 200, "{method} {path} {body}: {answer}\n{}", self.logged());
        answer
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If it is gone.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it is there");
    }

    /// Waits until its log has this.
    ///
    /// # Panics
    /// If it never has.
    pub fn wait_logged(&self, what: &str) {
        let start = Instant::now();
        while !self.logged().contains(what) {
            assert!(start.elapsed() < PATIENCE, "no '{what}' in the log:\n{}", self.logged());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether it has ended.
    ///
    /// # Panics
    /// If the kernel does not know.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    /// Waits for its end; the exit code, `None` if a signal killed it.
    ///
    /// # Panics
    /// If it does not end, or has panicked.
    pub fn exit_code(&mut self) -> Option<i32> {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end; log:\n{}", self.logged());
            thread::sleep(Duration::from_millis(5));
        };
        assert!(!self.logged().contains("panicked at"), "{}", self.logged());
        status.code()
    }

    /// Drains it, and demands that it ends with nothing cut.
    ///
    /// # Panics
    /// If something was.
    pub fn finish(&mut self) {
        self.signal(Signal::TERM);
        assert_eq!(self.exit_code(), Some(0), "{}", self.logged());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- what {} logged:\n{}\n---", self.log.display(), self.logged());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
