//! A timer that follows a deadline which moves on with every byte.

use std::pin::Pin;
use std::task::Context;

use tokio::time::{Instant, Sleep, sleep_until};

/// Armed while there is a deadline, for it or for an earlier one: a deadline that moves away costs
/// nothing until the alarm goes off too early and is set anew.
#[derive(Debug, Default)]
pub(crate) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Whether the deadline is over. Otherwise the task is woken at it, or a little earlier.
    pub(crate) fn is_due(&mut self, deadline: Option<Instant>, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = deadline else {
            self.0 = None;
            return false;
        };
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= deadline {
                self.0 = None;
                return true;
            }
            sleep.as_mut().reset(deadline);
        }
        false
    }
}
