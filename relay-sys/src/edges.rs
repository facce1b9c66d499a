//! Readiness of a socket under tokio, as edges.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use socket2::Socket;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// A socket that a tokio runtime watches, until this is dropped.
#[derive(Debug)]
pub struct Edges(AsyncFd<Arc<Socket>>);

impl Edges {
    /// Watches a non-blocking socket for both kinds of readiness. Within a tokio runtime.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(socket: Arc<Socket>) -> io::Result<Self> {
        // SAFETY: a `Socket` owns its descriptor and closes it when it is dropped. It can't be dropped,
        // consumed or replaced while this shares in it: the `AsyncFd` keeps its `Arc`, and nothing here
        // gives access to that one. So the descriptor stays open, and the same.
        let watched = unsafe { AsyncFd::register(socket) };
        Ok(Self(watched?))
    }

    /// Whether something has come to be read since the last time this was asked. If not, the task is woken
    /// once it has.
    ///
    /// Readiness is cleared before anything is tried, so that what comes meanwhile is not lost. An end or
    /// an error is not cleared (that is tokio's way): who has seen one must not wait for more.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_read_ready(cx).map(|ready| _ = clear(ready))
    }

    /// The same for room to write; and whether both directions are over (EPOLLHUP, EPOLLERR).
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<bool> {
        self.0.poll_write_ready(cx).map(clear)
    }
}

/// Whether writing is over for good.
fn clear(ready: io::Result<AsyncFdReadyGuard<'_, Arc<Socket>>>) -> bool {
    // An error: the runtime is going away. Whoever tries finds out.
    ready.is_ok_and(|mut guard| {
        let is_over = guard.ready().is_write_closed();
        guard.clear_ready();
        is_over
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::task::Waker;
    use tokio::runtime::Builder;

    #[test]
    fn an_edge_is_told_once_and_an_end_again_and_again() {
        let runtime = Builder::new_current_thread().enable_io().build().expect("a runtime");
        runtime.block_on(async {
            let (ours, mut peer) = UnixStream::pair().expect("pair");
            ours.set_nonblocking(true).expect("flag");
            let socket = Arc::new(Socket::from(ours));
            let edges = Edges::new(Arc::clone(&socket)).expect("watched");
            let readable = || std::future::poll_fn(|cx| edges.poll_readable(cx));
            for _ in 0..3 {
                peer.write_all(b"x").expect("taken");
                readable().await;
                assert_eq!((&*socket).read(&mut [0; 8]).expect("a byte"), 1);
                let mut cx = Context::from_waker(Waker::noop());
                assert_eq!(edges.poll_readable(&mut cx), Poll::Pending);
            }
            let writable = || std::future::poll_fn(|cx| edges.poll_writable(cx));
            assert!(!writable().await, "there is room");
            peer.shutdown(std::net::Shutdown::Write).expect("shut down");
            let mut cx = Context::from_waker(Waker::noop());
            for _ in 0..3 {
                readable().await;
                assert!(edges.poll_writable(&mut cx) != Poll::Ready(true), "it only ended its own direction");
            }
            drop(peer);
            for _ in 0..3 {
                readable().await;
                assert!(writable().await, "hung up");
            }
        });
    }
}
