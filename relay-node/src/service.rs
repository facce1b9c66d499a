//! What a service manager is told, if one asked to be (sd_notify(3)): that we listen, reload, stop.
//! Without `NOTIFY_SOCKET` in the environment nobody is told anything.

use sd_notify::NotifyState;

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
