//! What a node program gives up at its start, before it has a second thread or has heard a byte of anybody: so that
//! whoever takes it over has little to go on with. The kernel holds it to that, in every thread, whatever happens.
//!
//! - **Landlock**: files and TCP ports, as far as the command line says which are needed ([`needs`], [`files`]).
//! - **seccomp**: system calls, the same for every command ([`calls`]).
//!
//! What can't be had is no reason not to relay; the log says what is on, what is not, and why.

mod calls;
mod files;
mod needs;
mod reach;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use files::Rules;
pub(crate) use needs::Needs;

use crate::cli::Serving;
use crate::server;

/// One of the kernel's means, and what became of it.
#[derive(Debug)]
enum State {
    On(String),
    Off(String),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::On(how) => f.write_str(how),
            Self::Off(why) => write!(f, "off: {why}"),
        }
    }
}

/// What is on, to be told once there is a log.
#[derive(Debug)]
pub(crate) struct Sandbox {
    landlock: State,
    seccomp: State,
    rules: Rules,
}

/// Whether files are out of reach, for messages.
static HIDES_FILES: AtomicBool = AtomicBool::new(false);

impl Sandbox {
    /// Gives up what is not needed, for good. To be called before there is any other thread: those that it
    /// starts have what it has.
    pub(crate) fn enter(needs: &Needs) -> Self {
        // Counted while files that tell of it can be read.
        server::processors();
        let rules = Rules::of(needs);
        Self { landlock: hide_files(needs, &rules), seccomp: filter_calls(), rules }
    }

    /// The same, unless it was asked not to.
    pub(crate) fn wished(serving: &Serving, needs: impl FnOnce() -> Needs) -> Self {
        if !serving.no_sandbox {
            return Self::enter(&needs());
        }
        let off = || State::Off("--no-sandbox".to_owned());
        Self { landlock: off(), seccomp: off(), rules: Rules::default() }
    }

    /// One line; what is allowed, for whoever wants to know. And what was hardly meant.
    pub(crate) fn tell(&self) {
        log::info!(landlock:% = self.landlock, seccomp:% = self.seccomp; "sandbox");
        if !matches!(self.landlock, State::On(_)) {
            return;
        }
        for (path, rights) in &self.rules.paths {
            log::debug!(path:% = path.display(), rights:% = rights; "sandbox allows");
        }
        for directory in &self.rules.wide {
            log::warn!(path:% = directory.display(); "the sandbox lets all of it be read, for a TLS file is right in there; give these files a directory of their own");
        }
    }
}

/// What to tell with an error that the sandbox may be the reason for.
pub(crate) fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied && HIDES_FILES.load(Ordering::Relaxed) {
        "; is it outside of the directories that were named at the start? The sandbox keeps to those (--no-sandbox)"
    } else {
        ""
    }
}

/// Lets the kernel keep files and ports away that the command line does not speak of.
fn hide_files(needs: &Needs, rules: &Rules) -> State {
    if let Some(why) = &needs.impossible {
        return State::Off(why.clone());
    }
    if let Some(state) = &needs.state {
        // Whoever loads the state tells why it can't be made.
        let _ = fs::create_dir_all(state);
    }
    let status = files::restrict(needs, rules).map_err(|error| error.to_string());
    match status.and_then(|status| files::in_words(&status)) {
        Ok(how) => {
            HIDES_FILES.store(true, Ordering::Relaxed);
            State::On(how)
        }
        Err(why) => State::Off(why),
    }
}

/// Lets the kernel refuse system calls that nothing here makes.
fn filter_calls() -> State {
    let filters = match calls::filters() {
        Ok(filters) => filters,
        Err(error) => {
            return State::Off(format!("there is no list of system calls for this processor: {error}"));
        }
    };
    match filters.iter().try_for_each(|filter| seccompiler::apply_filter(filter)) {
        Ok(()) => State::On("on".to_owned()),
        Err(error) => State::Off(format!("the kernel did not take it: {error}")),
    }
}
