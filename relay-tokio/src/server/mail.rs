//! Messages from one task to another.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

/// A queue that one task reads and others write to. What is put in wakes the reader.
#[derive(Debug)]
pub(super) struct Mailbox<T>(Mutex<Inner<T>>);

#[derive(Debug)]
struct Inner<T> {
    messages: Vec<T>,
    /// The reader, once it found nothing.
    reader: Option<Waker>,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self(Mutex::new(Inner { messages: Vec::new(), reader: None }))
    }
}

impl<T> Mailbox<T> {
    pub(super) fn send(&self, message: T) {
        let mut inner = self.lock();
        inner.messages.push(message);
        let reader = inner.reader.take();
        drop(inner);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Everything that has come since the last time, oldest first. If there is nothing, the task is woken
    /// once there is.
    pub(super) fn take(&self, cx: &Context<'_>) -> Vec<T> {
        let mut inner = self.lock();
        if inner.messages.is_empty() && !inner.reader.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            inner.reader = Some(cx.waker().clone());
        }
        std::mem::take(&mut inner.messages)
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        // Whoever panicked has left it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
