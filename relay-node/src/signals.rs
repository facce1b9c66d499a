//! SIGTERM and SIGINT: the first asks to drain, every later one to abort. SIGHUP reloads, while
//! draining too.
//!
//! SIGPIPE is ignored by Rust's runtime before `main`, so that writing to a closed socket is an
//! error like any other.

use std::io;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::control::{Command, Controller};
use crate::service;

/// What SIGHUP does.
pub type Reload = Box<dyn Fn() + Send>;

/// Listens for signals from a thread of its own, until the process ends.
///
/// # Errors
/// If the handlers can't be installed or the thread not started.
pub fn listen(controller: Controller, reload: Reload) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut draining = false;
        for signal in signals.forever() {
            if signal == SIGHUP {
                reload();
                continue;
            }
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("signal");
            if draining {
                log::warn!(signal = name; "aborting");
                controller.send(Command::Abort);
            } else {
                log::info!(signal = name; "draining; once more to abort");
                controller.send(Command::Drain);
            }
            service::stopping();
            draining = true;
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control;
    use std::time::{Duration, Instant};

    #[test]
    fn the_first_drains_the_second_aborts_and_hangup_reloads_in_between() {
        let (controller, commands) = control::channel().expect("pair");
        let (heard, reloads) = std::sync::mpsc::channel();
        listen(controller, Box::new(move || heard.send(()).unwrap_or_default())).expect("handlers");
        for is_abort in [false, true, true] {
            signal_hook::low_level::raise(SIGHUP).expect("raise");
            reloads.recv_timeout(Duration::from_secs(10)).expect("a reload");
            signal_hook::low_level::raise(SIGTERM).expect("raise");
            let start = Instant::now();
            let command = loop {
                if let Some(command) = commands.next() {
                    break command;
                }
                assert!(start.elapsed() < Duration::from_secs(10), "no command came");
                thread::sleep(Duration::from_millis(1));
            };
            assert!(matches!((command, is_abort), (Command::Drain, false) | (Command::Abort, true)));
        }
    }
}
