//! A relay program as a child: its command line, its `listening` lines, its log, signals, exit code,
//! and what the kernel knows about it.

use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use crate::PATIENCE;
use crate::log::Log;
use crate::peer::Endpoint;
use crate::pki::Files;

/// The program under test.
#[must_use]
pub fn program() -> PathBuf {
    std::env::var_os("RELAY_BIN").map_or_else(|| built(runtimes().0), PathBuf::from)
}

/// The program that is the far one of two.
#[must_use]
pub fn back_program() -> PathBuf {
    let named = std::env::var_os("RELAY_BACK_BIN").or_else(|| std::env::var_os("RELAY_BIN"));
    named.map_or_else(|| built(runtimes().1), PathBuf::from)
}

/// Those that these tests are about, the near and the far one: by the name of the tests' executable.
fn runtimes() -> (&'static str, &'static str) {
    let this = std::env::current_exe().expect("a path");
    let name = this.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    if name.starts_with("on_tokio") {
        ("tokio", "mio")
    } else if name.starts_with("mixed") {
        ("mio", "tokio")
    } else if name.starts_with("tokio_pair") {
        ("tokio", "tokio")
    } else {
        ("mio", "mio")
    }
}

/// What cargo has built for this package: above the directory that the tests' executables are in.
fn built(runtime: &str) -> PathBuf {
    let this = std::env::current_exe().expect("a path");
    let name = format!("relay-under-test-{runtime}");
    let found = this.ancestors().skip(2).map(|directory| directory.join(&name));
    found
        .into_iter()
        .find(|path| path.is_file())
        .expect("cargo builds it before the tests run; or set RELAY_BIN")
}

/// A command line in the making.
#[derive(Debug)]
pub struct Setup {
    program: PathBuf,
    command: &'static str,
    wrapper: Vec<OsString>,
    arguments: Vec<String>,
    listeners: usize,
    descriptors: Option<u64>,
    inherited: Option<(OwnedFd, String)>,
    unread_log: bool,
    variables: Vec<(String, String)>,
}

impl Setup {
    /// The program under test, from `listen` to `connect`.
    #[must_use]
    pub fn new(listen: &str, connect: &str) -> Self {
        Self { listeners: 0, ..Self::of("forward") }.route(listen, connect)
    }

    /// `target` in plaintext, for channel 0 at this socket.
    #[must_use]
    pub fn target(backend: &Path) -> Self {
        let backend = format!("0={}", backend.display());
        let options = ["--plain", "--key", "vm", "--bind", "127.0.0.1", "--backend", backend.as_str()];
        Self::of("target").options(&options)
    }

    fn of(command: &'static str) -> Self {
        Self {
            program: program(),
            command,
            wrapper: Vec::new(),
            arguments: Vec::new(),
            listeners: 1,
            descriptors: None,
            inherited: None,
            unread_log: false,
            variables: Vec::new(),
        }
    }

    /// One more listener.
    #[must_use]
    pub fn route(mut self, listen: &str, connect: &str) -> Self {
        self.listeners += 1;
        self.options(&["--listen", listen, "--connect", connect])
    }

    /// Another program.
    #[must_use]
    pub fn program(self, program: PathBuf) -> Self {
        Self { program, ..self }
    }

    /// With certificates.
    #[must_use]
    pub fn tls(mut self, files: &Files) -> Self {
        self.arguments.extend(files.options());
        self
    }

    /// More options.
    #[must_use]
    pub fn options(mut self, options: &[&str]) -> Self {
        self.arguments.extend(options.iter().map(|&option| option.to_owned()));
        self
    }

    /// Run by another command, which becomes it (exec).
    #[must_use]
    pub fn wrapped(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(OsString::from).collect();
        self
    }

    /// With so many descriptors at most (RLIMIT_NOFILE, soft and hard).
    #[must_use]
    pub fn descriptors(self, most: u64) -> Self {
        Self { descriptors: Some(most), ..self }
    }

    /// With an inherited socket of this name (sd_listen_fds(3)).
    #[must_use]
    pub fn inherits(self, socket: OwnedFd, name: &str) -> Self {
        Self { inherited: Some((socket, name.to_owned())), ..self }
    }

    /// With a variable in its environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a log that nobody reads: a pipe that fills up.
    #[must_use]
    pub fn unread_log(self) -> Self {
        Self { unread_log: true, ..self }
    }

    /// As a command. A shell sets what only a process itself can, and becomes the program.
    fn command(&mut self) -> Command {
        let mut script = String::new();
        if let Some(most) = self.descriptors {
            script += &format!("ulimit -n {most}; ");
        }
        if let Some((_, name)) = &self.inherited {
            // std hands down standard input; the protocol wants descriptor 3, and the process' number
            script += "exec 3<&0 </dev/null; ";
            script += &format!("export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES={name}; ");
        }
        // A test that is killed takes its relays along (prctl(2), PR_SET_PDEATHSIG; it is the thread
        // that counts, so relays live and die in the thread that started them).
        script += "command -v setpriv >/dev/null && set -- setpriv --pdeathsig KILL \"$@\"; ";
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{script}exec \"$@\""), "sh"]);
        command.args(&self.wrapper).arg(&self.program).arg(self.command).args(&self.arguments);
        command
            .args(["--log-format", "json"])
            .env("RUST_LOG", "info,relay_node::noise=debug")
            .stdin(Stdio::null());
        command.envs(self.variables.drain(..));
        if let Some((socket, _)) = self.inherited.take() {
            command.stdin(socket);
        }
        command
    }

    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn start(self) -> Relay {
        let count = self.listeners;
        let mut relay = self.spawn();
        relay.wait_listening(count);
        relay
    }

    /// Starts it.
    ///
    /// # Panics
    /// If there is no such program.
    #[must_use]
    pub fn spawn(mut self) -> Relay {
        let mut command = self.command();
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let said = Log::of(child.stdout.take().expect("piped"));
        let stderr = child.stderr.take().expect("piped");
        let (log, unread) =
            if self.unread_log { (Arc::default(), Some(stderr)) } else { (Log::of(stderr), None) };
        Relay { child, said, log, listening: Vec::new(), unread }
    }
}

/// A program that runs. Killed at its end, if it has not ended before.
#[derive(Debug)]
pub struct Relay {
    child: Child,
    said: Arc<Log>,
    log: Arc<Log>,
    listening: Vec<Endpoint>,
    unread: Option<ChildStderr>,
}

impl Relay {
    /// Waits for an end by exit code or signal, as [`exit_code`](Self::exit_code), or for the first
    /// `listening` line; whether it listens.
    ///
    /// # Panics
    /// If neither comes.
    pub fn listens_or_ends(&mut self) -> bool {
        self.eventually("it listens or ends", |relay| {
            if !relay.said.text().is_empty() {
                relay.wait_listening(1);
                return Some(true);
            }
            relay.has_ended().then_some(false)
        })
    }

    /// Waits until so many listeners are there, or it has failed.
    fn wait_listening(&mut self, count: usize) {
        self.listening = self.said.wait("it listens", |lines| {
            // a target also answers with its ports
            let said: Vec<_> = lines.iter().filter_map(|line| line.text.strip_prefix("listening ")).collect();
            (said.len() >= count).then(|| said.into_iter().map(Endpoint::parse).collect())
        });
    }

    /// Where it listens.
    #[must_use]
    pub fn at(&self) -> &Endpoint {
        &self.listening[0]
    }

    /// Where all its listeners are, in the command line's order.
    #[must_use]
    pub fn listening(&self) -> &[Endpoint] {
        &self.listening
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If it is gone.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it is there");
    }

    /// Asks it to drain.
    pub fn drain(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits for its end; the exit code, `None` if a signal killed it.
    ///
    /// # Panics
    /// If it does not end, or has panicked.
    pub fn exit_code(&mut self) -> Option<i32> {
        let status = self.eventually("it ends", |relay| relay.child.try_wait().expect("a child"));
        if self.unread.is_none() {
            self.log.wait_over();
        }
        assert!(!self.log.text().contains("panicked at"), "{}", self.log.text());
        status.code()
    }

    /// Whether it has ended.
    ///
    /// # Panics
    /// If the kernel does not know.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Drains it, and demands that nothing was cut.
    ///
    /// # Panics
    /// If something was.
    pub fn finish(&mut self) {
        self.drain();
        assert_eq!(self.exit_code(), Some(0), "{}", self.log.text());
    }

    /// Waits until it lets nobody in any more.
    ///
    /// # Panics
    /// If it goes on, or leaves a socket's file behind.
    pub fn wait_closed(&mut self) {
        let at = self.at().clone();
        let id = self.child.id();
        self.eventually("nobody is let in", |_| (!at.is_listened_on(id)).then_some(()));
        if let Endpoint::Unix(path) = &at {
            assert!(!path.exists(), "its file is gone");
        }
    }

    /// Waits until `find` finds something.
    ///
    /// # Panics
    /// If it never does.
    pub fn eventually<T>(&mut self, what: &str, mut find: impl FnMut(&mut Self) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = find(self) {
                return found;
            }
            assert!(start.elapsed() < PATIENCE, "{what}? log:\n{}", self.log.text());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What the kernel knows about it (proc(5)).
impl Relay {
    fn proc(&self, name: &str) -> String {
        let path = format!("/proc/{}/{name}", self.child.id());
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The most memory it ever had at once, in bytes.
    ///
    /// # Panics
    /// If it is gone.
    #[must_use]
    pub fn peak_memory(&self) -> usize {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        let kib: usize = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib << 10
    }

    /// Processor time so far.
    ///
    /// # Panics
    /// If it is gone.
    #[must_use]
    pub fn processor_time(&self) -> Duration {
        let stat = self.proc("stat");
        // behind the program's name, which may hold anything
        let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
        let ticks = |index: usize| fields[index].parse::<u64>().expect("ticks");
        let per_second = rustix::param::clock_ticks_per_second();
        Duration::from_millis((ticks(11) + ticks(12)) * 1000 / per_second)
    }

    /// Its limits (proc(5)).
    ///
    /// # Panics
    /// If it is gone.
    #[must_use]
    pub fn limits(&self) -> String {
        self.proc("limits")
    }

    /// How many descriptors it has open.
    ///
    /// # Panics
    /// If it is gone.
    #[must_use]
    pub fn open_descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it is there").count()
    }

    /// The highest descriptor it has open.
    ///
    /// # Panics
    /// If it is gone.
    #[must_use]
    pub fn highest_descriptor(&self) -> u64 {
        let open = fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it is there");
        let number = |name: OsString| name.to_string_lossy().parse().expect("a number");
        open.map(|entry| number(entry.expect("an entry").file_name())).max().expect("some")
    }

    /// Changes how many descriptors it may have (prlimit(2), the soft limit).
    ///
    /// # Panics
    /// If the kernel does not allow it.
    pub fn limit_descriptors(&self, most: u64) {
        let hard = prlimit(Some(self.pid()), Resource::Nofile, Rlimit { current: Some(most), maximum: None });
        // without CAP_SYS_RESOURCE the hard limit can't be raised: keep what it is
        if hard.is_err() {
            let limits = self.proc("limits");
            let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
            let maximum = line.split_whitespace().nth(4).and_then(|word| word.parse().ok());
            let limit = Rlimit { current: Some(most), maximum };
            prlimit(Some(self.pid()), Resource::Nofile, limit).expect("prlimit");
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- what {:?} logged:\n{}\n---", self.listening, self.log.text());
        }
        self.kill();
    }
}
