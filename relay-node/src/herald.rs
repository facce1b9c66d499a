//! What standard output is told once it is true: that we listen. It is not before every loop runs, for
//! until then a poller, a wake-up or a thread that can't be had may end it all.

use std::sync::{Arc, OnceLock};

use crate::control::{Beat, Command, Controller};
use crate::logging::say;

/// Speaks when the last loop has come to the first command of all.
#[derive(Debug)]
pub(crate) struct Herald(Arc<OnceLock<Vec<String>>>);

impl Herald {
    /// To be made before anybody else sends commands: loops that have none to do may be asked only so often
    /// whether they go on, and this has to be among those questions. `then` is done afterwards.
    pub(crate) fn new(controller: &Controller, then: impl Fn() + Send + Sync + 'static) -> Self {
        let lines = Arc::new(OnceLock::<Vec<String>>::new());
        let known = Arc::clone(&lines);
        controller.send(Command::Beat(Beat::new(move || {
            known.get().into_iter().flatten().for_each(|line| say(line));
            then();
        })));
        Self(lines)
    }

    /// What to say, a line each. To be called before the loops are started.
    pub(crate) fn announce(self, lines: Vec<String>) {
        // There is nobody else who could have set it.
        let _ = self.0.set(lines);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A loop that can't be set up drops what it was given, and with it the question.
    #[test]
    fn it_speaks_once_every_loop_runs_and_not_if_none_does() {
        for runs in [false, true] {
            let (controller, commands) = control::channel().expect("pair");
            let spoken = Arc::new(AtomicBool::new(false));
            let heard = Arc::clone(&spoken);
            let herald = Herald::new(&controller, move || heard.store(true, Ordering::Relaxed));
            // As many as may be waiting, and more: the herald's is the first.
            for _ in 0..8 {
                controller.send(Command::Beat(Beat::new(|| {})));
            }
            herald.announce(Vec::new());
            assert!(!spoken.load(Ordering::Relaxed));
            if runs && let Some(Command::Beat(beat)) = commands.next() {
                let other = beat.clone();
                beat.passed_on();
                drop(beat);
                assert!(!spoken.load(Ordering::Relaxed), "one of two loops");
                drop(other);
            }
            drop(commands);
            drop(controller);
            assert_eq!(spoken.load(Ordering::Relaxed), runs);
        }
    }
}
