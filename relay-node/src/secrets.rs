//! Keys are in memory: nobody finds them in a core dump.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// No core dumps from now on, to a file (setrlimit(2), RLIMIT_CORE) or to whatever program collects them, which that
/// limit does not keep from it (core(5)); and nobody but root looks into this process (prctl(2),
/// PR_SET_DUMPABLE). What can't be had is logged: it is no reason not to relay.
pub(crate) fn keep() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let kept =
        setrlimit(Resource::Core, none).and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable));
    match kept {
        Ok(()) => log::debug!("no core dumps: they would show keys"),
        Err(error) => log::warn!(error:%; "a core dump of this process would show its keys"),
    }
}
