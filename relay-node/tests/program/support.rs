//! Programs to be started, directories and sockets for them, and peers.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

pub(crate) fn program() -> Command {
    let mut path = std::env::current_exe().expect("this test's path");
    path.pop();
    path.pop();
    let mut command = Command::new(path.join("examples").join("threads"));
    command.env_remove("RUST_LOG").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub(crate) fn run(line: &str) -> Output {
    program().args(line.split_whitespace()).output().expect("the example is built with the tests")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// A directory of its own, removed at the end.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("relay-program-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a scratch directory");
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running program.
pub(crate) struct Node {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Node {
    pub(crate) fn start(line: &str) -> Self {
        let mut command = program();
        command.args(line.split_whitespace());
        Self::spawn(command)
    }

    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().expect("spawn");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, out }
    }

    /// Says this on its standard input, which is to be a pipe.
    pub(crate) fn feed(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().expect("piped"), "{line}").expect("it reads");
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("stdout");
        line.trim_end().to_owned()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("our own child");
    }

    /// Exit status and log.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        let mut log = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut log).expect("log");
        (self.child.wait().expect("wait"), log)
    }
}

impl Drop for Node {
    /// A test that failed leaves no program behind.
    fn drop(&mut self) {
        let _ = self.child.kill();
        // Only then it holds nothing any more.
        let _ = self.child.wait();
    }
}

pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a word by `front` and gets it back, if all is well.
pub(crate) fn echo(front: &str) -> Option<String> {
    let mut client = UnixStream::connect(front).expect("connect");
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("option");
    client.write_all(b"hello").ok()?;
    client.shutdown(Shutdown::Write).ok()?;
    let mut answer = String::new();
    client.read_to_string(&mut answer).ok()?;
    (!answer.is_empty()).then_some(answer)
}

/// A backend at a unix socket that answers each connection with what it was sent, once that has ended.
pub(crate) struct Backend {
    touched: Arc<AtomicUsize>,
}

impl Backend {
    pub(crate) fn echo(path: &str) -> Self {
        Self::start(path, |stream| {
            let mut heard = Vec::new();
            let _ = (&*stream).read_to_end(&mut heard);
            let _ = (&*stream).write_all(&heard);
        })
    }

    /// One that does something with each connection, and then closes it.
    pub(crate) fn start(path: &str, serve: fn(&UnixStream)) -> Self {
        let listener = UnixListener::bind(path).expect("bind");
        let touched = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&touched);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                let stream = stream.expect("accept");
                std::thread::spawn(move || serve(&stream));
            }
        });
        Self { touched }
    }

    /// How many connections have come.
    pub(crate) fn touched(&self) -> usize {
        self.touched.load(Ordering::SeqCst)
    }
}
