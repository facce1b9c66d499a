//! Pipes of the kernel's, through which bytes go from socket to socket without coming by here.
//!
//! One pool per loop. A flow has a pipe only while bytes move, so an idle connection costs none; and
//! there are never so many that connections could run out of descriptors.

use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use relay_core::Pool;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use rustix::process::{Resource, getrlimit};

/// Pipes that one pool makes, lent and kept together, at most.
const MOST: usize = 64;

/// Pipes kept for the next flow, at most.
const KEPT: usize = 8;

/// What a pipe is to hold. A byte takes a page of it at worst, so this is more than a flow may hold.
/// Beyond fs.pipe-user-pages-soft, 64 MiB, only the privileged get it (pipe(7)); and a pipe of the
/// usual size is slower than none.
const SIZE: usize = 1 << 20;

/// For how many requests none is looked for after there was none.
const PATIENCE: u32 = 1000;

/// What a loop lends its sessions while bytes move.
#[derive(Debug, Default)]
pub struct Stock {
    /// Buffers.
    pub pool: Pool,
    /// Pipes.
    pub pipes: Pipes,
    /// Where it says how many bytes the pool keeps for reuse.
    keeper: Option<Arc<AtomicU64>>,
}

impl Stock {
    /// Says how many bytes the pool keeps for reuse, the first time at a place that `find` finds.
    pub(crate) fn tell(&mut self, find: impl FnOnce() -> Arc<AtomicU64>) {
        self.keeper.get_or_insert_with(find).store(self.pool.kept() as u64, Ordering::Relaxed);
    }
}

/// A pipe.
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// Counts it as one of its pool's for as long as it is there, wherever it is given back.
    _share: Arc<()>,
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pipe({}, {})", self.read.as_raw_fd(), self.write.as_raw_fd())
    }
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

impl Pipe {
    /// # Errors
    /// As pipe2(2) and fcntl(2), F_SETPIPE_SZ.
    fn new(share: Arc<()>) -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        fcntl_setpipe_size(&write, SIZE)?;
        Ok(Self { read, write, _share: share })
    }

    /// Whether more than half of the descriptors are in use: the kernel gives the lowest that is free.
    fn is_one_of_the_last(&self) -> bool {
        let number = u64::try_from(self.write.as_raw_fd()).unwrap_or(u64::MAX);
        getrlimit(Resource::Nofile).current.is_some_and(|limit| number >= limit / 2)
    }

    /// Moves up to `most` bytes in, from a socket that does not block.
    ///
    /// # Errors
    /// As splice(2).
    pub(crate) fn fill(&self, source: impl AsFd, most: usize) -> io::Result<usize> {
        Ok(splice(source, None, &self.write, None, most, FLAGS)?)
    }

    /// Moves up to `most` bytes out, to a socket that does not block.
    ///
    /// # Errors
    /// As splice(2).
    pub(crate) fn drain(&self, sink: impl AsFd, most: usize) -> io::Result<usize> {
        Ok(splice(&self.read, None, sink, None, most, FLAGS)?)
    }
}

/// Whether splice(2) can't be had for this socket, or on this system, as opposed to having failed.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported | ErrorKind::PermissionDenied)
}

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Pipes {
    kept: Vec<Pipe>,
    /// As many others have it as there are pipes.
    share: Arc<()>,
    /// Requests to refuse before looking again.
    refusals: u32,
}

impl Pipes {
    /// An empty pipe, if there is one to be had.
    pub(crate) fn take(&mut self) -> Option<Pipe> {
        self.kept.pop().or_else(|| self.make())
    }

    fn make(&mut self) -> Option<Pipe> {
        if Arc::strong_count(&self.share) > MOST {
            return None;
        }
        if let Some(fewer) = self.refusals.checked_sub(1) {
            self.refusals = fewer;
            return None;
        }
        let made = Pipe::new(Arc::clone(&self.share)).ok().filter(|pipe| !pipe.is_one_of_the_last());
        if made.is_none() {
            self.refusals = PATIENCE;
        }
        made
    }

    /// Takes a pipe back; one with something in it is of no more use.
    pub(crate) fn give(&mut self, pipe: Pipe, left: usize) {
        if left == 0 && self.kept.len() < KEPT {
            self.kept.push(pipe);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn moves_bytes_from_socket_to_socket() {
        let ((mut sender, source), (sink, mut receiver)) =
            (UnixStream::pair().expect("pair"), UnixStream::pair().expect("pair"));
        let mut pipes = Pipes::default();
        let pipe = pipes.take().expect("a pipe");
        let error = pipe.fill(&source, 10).expect_err("nothing is there");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        sender.write_all(b"abc").expect("write");
        assert_eq!(pipe.fill(&source, 10).expect("filled"), 3);
        assert_eq!(pipe.drain(&sink, 3).expect("drained"), 3);
        let mut got = [0; 3];
        receiver.read_exact(&mut got).expect("read");
        assert_eq!(&got, b"abc");
        drop(sender);
        assert_eq!(pipe.fill(&source, 10).expect("end of file"), 0);
        let directory = std::fs::File::open("/").expect("open");
        assert!(is_unsupported(&pipe.fill(&directory, 10).expect_err("no stream")));
        assert!(!is_unsupported(&error));
    }

    #[test]
    fn lends_a_bounded_number_and_keeps_only_empty_ones() {
        let mut pipes = Pipes::default();
        let mut lent: Vec<Pipe> = std::iter::from_fn(|| pipes.take()).take(2 * MOST).collect();
        assert!((1..=MOST).contains(&lent.len()), "{}", lent.len());
        let numbers = |pipe: &Pipe| (pipe.read.as_raw_fd(), pipe.write.as_raw_fd());
        pipes.give(lent.pop().expect("one"), 1);
        assert!(pipes.kept.is_empty());
        let last = lent.pop().expect("one");
        let known = numbers(&last);
        pipes.give(last, 0);
        assert_eq!(pipes.take().as_ref().map(numbers), Some(known));
        for pipe in lent {
            pipes.give(pipe, 0);
        }
        assert!(pipes.kept.len() <= KEPT);
    }

    #[test]
    fn does_not_look_again_at_once_where_there_was_none() {
        let mut pipes = Pipes { refusals: 2, ..Pipes::default() };
        assert!(pipes.take().is_none() && pipes.take().is_none());
        assert!(pipes.take().is_some());
    }
}
