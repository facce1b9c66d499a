//! What reaches the manager from other threads: listeners that are closed, sessions that are over, the
//! end of all loops; and a socket to wait on until there is something.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::sessions::RouteId;

/// What has happened since it was looked at last.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// Listeners that loops have closed. As many as were opened, at most.
    pub(super) closed: Vec<RouteId>,
    /// A session has ended.
    pub(super) sessions: bool,
    /// All loops run.
    pub(super) started: bool,
    /// All loops run, and have what they were given: what a predecessor left may be taken over for good.
    pub(super) running: bool,
    /// What became of handing over: whether the control socket went along, or why nothing did.
    pub(super) handed: Option<Result<bool, String>>,
    /// The loops are through.
    pub(super) over: bool,
}

/// The writing end.
#[derive(Clone, Debug)]
pub(super) struct Post(Arc<Shared>);

/// The reading end.
#[derive(Debug)]
pub(super) struct Inbox {
    shared: Arc<Shared>,
    woken: UnixStream,
}

#[derive(Debug)]
struct Shared {
    news: Mutex<News>,
    wake: UnixStream,
}

/// A pair of ends.
///
/// # Errors
/// As socketpair(2).
pub(super) fn inbox() -> io::Result<(Post, Inbox)> {
    let (wake, woken) = UnixStream::pair()?;
    wake.set_nonblocking(true)?;
    woken.set_nonblocking(true)?;
    let shared = Arc::new(Shared { news: Mutex::default(), wake });
    Ok((Post(Arc::clone(&shared)), Inbox { shared, woken }))
}

impl Post {
    /// Tells, and wakes.
    pub(super) fn tell(&self, what: impl FnOnce(&mut News)) {
        let mut news = lock(&self.0.news);
        let was_empty = *news == News::default();
        what(&mut news);
        drop(news);
        if was_empty {
            self.wake();
        }
    }

    /// Wakes only: there is something elsewhere.
    pub(super) fn wake(&self) {
        // a full socket has been told often enough
        let _ = (&self.0.wake).write(b"!");
    }
}

impl Inbox {
    /// All that is new.
    pub(super) fn take(&self) -> News {
        let mut scratch = [0; 256];
        while (&self.woken).read(&mut scratch).is_ok_and(|count| count == scratch.len()) {}
        std::mem::take(&mut *lock(&self.shared.news))
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.woken.as_fd()
    }
}

fn lock(news: &Mutex<News>) -> MutexGuard<'_, News> {
    // Whoever panicked has left it whole.
    news.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_add_up_and_wake_until_they_are_taken() {
        let (post, inbox) = inbox().expect("pair");
        assert_eq!(inbox.take(), News::default());
        for id in 0..3 {
            post.tell(|news| news.closed.push(RouteId(id)));
        }
        post.tell(|news| news.sessions = true);
        let mut byte = [std::mem::MaybeUninit::uninit()];
        assert!(socket2::SockRef::from(&inbox.woken).peek(&mut byte).is_ok(), "awake");
        let closed = vec![RouteId(0), RouteId(1), RouteId(2)];
        assert_eq!(inbox.take(), News { closed, sessions: true, ..News::default() });
        assert!(socket2::SockRef::from(&inbox.woken).peek(&mut byte).is_err(), "asleep");
        for _ in 0..1_000_000 {
            post.wake();
        }
        assert_eq!(inbox.take(), News::default());
    }
}
