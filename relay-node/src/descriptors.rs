//! How many descriptors the process may have, and how many sessions that is room for.

use std::fs;

use relay_core::admission::Limits;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::server::Route;

/// Raises the soft limit of descriptors to the hard one and returns it. The low soft limit is for
/// programs that use select(2), which we do not (systemd.exec(5), LimitNOFILE=).
pub(crate) fn raise() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            limit.current = limit.maximum;
        }
    }
    limit.current.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX))
}

/// The limits once the first routes are open: `wished` sessions, or the default, as far as descriptors
/// allow.
pub(crate) fn limits(wished: Option<usize>) -> Limits {
    let taken = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let within = Limits::sessions_within(raise(), taken, Route::DESCRIPTORS);
    let default = Limits::default();
    if raise().saturating_sub(taken) < Limits::HEADROOM + Route::DESCRIPTORS {
        log::warn!(descriptors = raise(), taken; "too few descriptors to be sure of a single session: raise RLIMIT_NOFILE");
    }
    if let Some(wished) = wished
        && wished > within
    {
        log::warn!(max_sessions = wished, possible = within; "too few descriptors (RLIMIT_NOFILE)");
    }
    let sessions = wished.unwrap_or(default.sessions).min(within);
    // Half of them stay for those who have proved who they are, or need not.
    let strangers = default.strangers.min(sessions.div_ceil(2));
    log::info!(descriptors = raise(), max_sessions = sessions, unauthenticated = strangers; "limits");
    Limits { sessions, strangers, ..default }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_once() {
        let raised = raise();
        assert!(raised >= 20, "{raised}");
        assert_eq!(raise(), raised);
    }

    #[test]
    fn a_wish_is_a_bound_and_strangers_are_sessions_too() {
        let limits = limits(Some(2));
        assert_eq!((limits.sessions, limits.strangers), (2, 1));
        assert!(super::limits(Some(usize::MAX)).sessions <= raise() / Route::DESCRIPTORS);
    }
}
