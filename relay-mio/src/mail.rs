//! Messages between the acceptor and the workers, which may live in different threads.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mio::Waker;
use relay_core::{Instant, Stop};
use relay_node::acceptor::{Accepted, Report, Which};
use relay_node::control::Beat;
use relay_node::sessions::SessionId;

use crate::acceptor::Address;
use crate::token::Id;

/// A queue that one reads and others write to. What is put in while the reader sleeps wakes it.
///
/// The reader owns the waker, too: closing its descriptor, as the last owner does, takes a wake-up
/// that is still underway with it (epoll(7), question 6).
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    queue: Arc<Mutex<VecDeque<T>>>,
    /// None if nobody writes from another thread.
    waker: Option<Arc<Waker>>,
}

/// The writing end.
#[derive(Debug)]
pub(crate) struct Sender<T> {
    queue: Arc<Mutex<VecDeque<T>>>,
    /// None if reader and writer share a thread: it looks before it sleeps.
    waker: Option<Arc<Waker>>,
}

impl<T> Mailbox<T> {
    pub(crate) fn new(waker: Option<Arc<Waker>>) -> Self {
        Self { queue: Arc::default(), waker }
    }

    /// For a writer in whatever thread.
    pub(crate) fn sender(&self) -> Sender<T> {
        Sender { queue: Arc::clone(&self.queue), waker: self.waker.clone() }
    }

    /// For a writer in the reader's own thread.
    pub(crate) fn local_sender(&self) -> Sender<T> {
        Sender { queue: Arc::clone(&self.queue), waker: None }
    }

    /// Everything that has come since the last time, oldest first.
    pub(crate) fn take(&self) -> VecDeque<T> {
        std::mem::take(&mut *lock(&self.queue))
    }
}

impl<T> Sender<T> {
    pub(crate) fn send(&self, message: T) {
        let was_empty = {
            let mut queue = lock(&self.queue);
            queue.push_back(message);
            queue.len() == 1
        };
        // The reader takes all at once, so whoever finds it empty is the one to wake it.
        if let (true, Some(waker)) = (was_empty, &self.waker)
            && let Err(error) = waker.wake()
        {
            // An eventfd that can't be written to; the reader finds the message when it next wakes.
            log::error!("could not wake a loop: {error}");
        }
    }
}

fn lock<T>(queue: &Mutex<VecDeque<T>>) -> MutexGuard<'_, VecDeque<T>> {
    // A thread that panicked has left a queue that is whole.
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From the acceptor to a worker.
#[derive(Debug)]
pub(crate) enum ToWorker {
    /// A connection that is yours from now on.
    Accepted(Box<Accepted>),
    /// It is this one's turn to be dialed, and counts as so since then.
    Dial(Id, Instant),
    /// This one has to make room for others.
    Evict(SessionId),
    /// To be let go.
    Beat(Beat),
    /// The limits of the rate have changed.
    Relimit,
    /// Peers may not be trusted any more.
    Review,
    /// The operator's wish, for these sessions.
    Abort(Which),
    /// The operator's wish, for every session.
    Stop(Stop),
    /// Nothing more will come.
    Quit,
}

/// From a worker to the acceptor.
#[derive(Debug)]
pub(crate) enum ToAcceptor {
    /// What a session has to tell.
    Report {
        /// Its worker's number.
        worker: usize,
        report: Report<Address>,
    },
    /// The worker's poller failed, and the worker is no more.
    Failed(io::Error),
}
