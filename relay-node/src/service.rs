//! What a service manager is told, if one asked to be (sd_notify(3)): that we listen, reload, stop.
//! Without `NOTIFY_SOCKET` in the environment nobody is told anything.

use std::io;
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::control::{Beat, Command, Controller};

/// Every listener accepts.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Does `reload` and tells of its beginning and its end.
pub(crate) fn while_reloading(reload: impl FnOnce()) {
    let begins = NotifyState::monotonic_usec_now().map(|now| [NotifyState::Reloading, now]);
    match &begins {
        Ok(states) => tell(states),
        // Without the time a manager that does not need it understands all the same.
        Err(_) => tell(&[NotifyState::Reloading]),
    }
    reload();
    ready();
}

/// Shows a manager that wants it (`WatchdogSec=`) that all loops go on, for as long as they do: they are asked three
/// times in its time, and it is told when the last one has come to the question. A loop that is stuck, or a
/// manager's thread before it, leaves it unanswered.
///
/// # Errors
/// If the thread that asks can't be started.
pub(crate) fn watch(controller: Controller) -> io::Result<()> {
    let Some(limit) = sd_notify::watchdog_enabled() else { return Ok(()) };
    let pause = (limit / 3).max(Duration::from_millis(1));
    let ask = move || {
        loop {
            controller.send(Command::Beat(Beat::new(|| tell(&[NotifyState::Watchdog]))));
            thread::sleep(pause);
        }
    };
    thread::Builder::new().name("watchdog".to_owned()).spawn(ask).map(|_| ())
}

/// Another process of this service is its main one from now on.
pub(crate) fn succeeded_by(process: i32) {
    if let Ok(process) = u32::try_from(process) {
        tell(&[NotifyState::MainPid(process)]);
    }
}

/// Nothing new is accepted from here on.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// No service is worth less for a manager that does not listen.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!(error:% = error; "the service manager could not be told");
    }
}
