//! A thread that works on one batch at a time, and how it and the loop wait for each other.

use std::hint;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crate::records::Batch;

/// How to wait for a batch, or for what became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// In the kernel (a futex, under the condition variable).
    Parked,
    /// By looking again and again. Fast, and a core is gone.
    Spinning,
}

/// Looks before a spinning thread lets others have the core.
const LOOKS: u32 = 20_000;

/// Batches on their way in one direction, at most as many as the loop has handed out.
#[derive(Debug, Default)]
struct Tray {
    batches: Mutex<Vec<Batch>>,
    /// How many there are, for those who spin.
    count: AtomicUsize,
    changed: Condvar,
}

impl Tray {
    fn put(&self, batch: Batch) {
        let mut batches = lock(&self.batches);
        batches.push(batch);
        self.count.store(batches.len(), Ordering::Release);
        drop(batches);
        self.changed.notify_one();
    }

    /// The oldest; `None` once it is over.
    fn take(&self, wait: Wait, over: &AtomicBool) -> Option<Batch> {
        let is_over = || over.load(Ordering::Acquire);
        if wait == Wait::Spinning {
            let mut looks = 0;
            while self.count.load(Ordering::Acquire) == 0 && !is_over() {
                looks += 1;
                if looks % LOOKS == 0 {
                    thread::yield_now();
                }
                hint::spin_loop();
            }
        }
        let batches = lock(&self.batches);
        let mut batches = self
            .changed
            .wait_while(batches, |batches| batches.is_empty() && !is_over())
            .unwrap_or_else(PoisonError::into_inner);
        let batch = if batches.is_empty() { None } else { Some(batches.remove(0)) };
        self.count.store(batches.len(), Ordering::Release);
        batch
    }
}

fn lock(batches: &Mutex<Vec<Batch>>) -> MutexGuard<'_, Vec<Batch>> {
    batches.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct Shared {
    given: Tray,
    done: Tray,
    over: AtomicBool,
}

/// See the top of this file. Batches come back in the order in which they were given.
#[derive(Debug)]
pub struct Helper {
    shared: Arc<Shared>,
    wait: Wait,
    thread: Option<JoinHandle<()>>,
}

impl Helper {
    /// One that does `work` to whatever it is given.
    pub fn new(wait: Wait, work: impl Fn(&mut Batch) + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                while let Some(mut batch) = shared.given.take(wait, &shared.over) {
                    work(&mut batch);
                    shared.done.put(batch);
                }
            }
        });
        Self { shared, wait, thread: Some(thread) }
    }

    /// Hands over a batch.
    pub fn give(&self, batch: Batch) {
        self.shared.given.put(batch);
    }

    /// The next batch that was given, worked on.
    ///
    /// # Panics
    /// Never, as long as one was given and not taken back.
    #[must_use]
    pub fn take_back(&self) -> Batch {
        self.shared.done.take(self.wait, &self.shared.over).expect("it is over only when dropped")
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Under the lock, or it could be missed between a look and a wait.
        let given = lock(&self.shared.given.batches);
        self.shared.over.store(true, Ordering::Release);
        drop(given);
        self.shared.given.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
