//! A machine of its own, as far as the network goes.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// A network namespace, held by a process that ends when this one does.
#[derive(Debug)]
pub struct Namespace(Child);

impl Namespace {
    /// A new one, its loopback up.
    ///
    /// # Errors
    /// Why there is none: not root, or a kernel that does not have them.
    pub fn new() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("not root".to_owned());
        }
        let mut holder = Command::new("unshare");
        // it ends with its standard input, and that with us
        holder.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let namespace = Self(holder.spawn().map_err(|error| format!("unshare: {error}"))?);
        let own = std::fs::read_link("/proc/self/ns/net").map_err(|error| error.to_string())?;
        // until it has one of its own
        for _ in 0..2000 {
            if std::fs::read_link(namespace.path()).is_ok_and(|theirs| theirs != own) {
                namespace.run("ip link set lo up")?;
                return Ok(namespace);
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err("unshare --net does not work here".to_owned())
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    /// The process that holds it.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// What runs a command in it, in front of the command.
    #[must_use]
    pub fn enter(&self) -> [String; 2] {
        ["nsenter".to_owned(), format!("--net={}", self.path())]
    }

    /// Runs a command in it.
    ///
    /// # Errors
    /// What it complained about.
    pub fn run(&self, command: &str) -> Result<(), String> {
        let [program, option] = self.enter();
        let output = Command::new(program).arg(option).args(command.split(' ')).output();
        let output = output.map_err(|error| error.to_string())?;
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(format!("{command}: {complaint}")) }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
