//! The kernel's two queues, and what it has been lent until an operation is done. The only `unsafe` here.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};
use slab::Slab;
use socket2::{SockAddr, Socket};

/// Entries of the submission queue; it is emptied whenever it is full.
const ENTRIES: u32 = 256;
/// Marks completions that nobody waits for.
const NOBODY: u64 = u64::MAX;

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Work {
    Accept,
    /// Boxed, for the kernel reads it later.
    Connect(Box<SockAddr>),
    /// Into the front of the buffer, so many bytes at most.
    Receive(Vec<u8>, usize),
    /// Bytes of the buffer from here to there.
    Send(Vec<u8>, usize, usize),
    ShutDown,
}

/// What became of it.
#[derive(Debug)]
pub(crate) struct Done {
    /// What the submitter called it.
    pub(crate) name: u64,
    /// Bytes moved, or a descriptor.
    pub(crate) result: io::Result<usize>,
    /// The buffer of a receive or send is its submitter's again.
    pub(crate) buffer: Option<Vec<u8>>,
    /// Who was accepted.
    pub(crate) accepted: Option<Socket>,
}

/// Names an operation under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Key(usize);

/// An operation that the kernel works on. Its socket is open and its memory in place until it is done.
#[derive(Debug)]
struct UnderWay {
    name: u64,
    _socket: Arc<Socket>,
    work: Work,
}

/// See the top of this file.
pub struct Ring {
    ring: IoUring,
    under_way: Slab<UnderWay>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("under_way", &self.under_way).finish_non_exhaustive()
    }
}

impl Ring {
    /// One for this thread.
    ///
    /// # Errors
    /// As io_uring_setup(2): `ENOSYS` or `EPERM` where it is not to be had.
    pub fn new() -> io::Result<Self> {
        // Completions are worked on when we come to wait for them, not in between (Linux 6.1).
        let modern = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(ENTRIES);
        let ring = match modern {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::new(ENTRIES)?,
            other => other?,
        };
        Ok(Self { ring, under_way: Slab::new() })
    }

    /// Hands an operation to the kernel, at the next [`wait`](Self::wait) at the latest.
    ///
    /// # Errors
    /// As io_uring_enter(2).
    pub(crate) fn submit(&mut self, name: u64, socket: &Arc<Socket>, work: Work) -> io::Result<Key> {
        let fd = Fd(socket.as_raw_fd());
        // First to where it stays: a buffer's bytes do not move with its owner, but only from there on is
        // it certain that nobody touches them.
        let key = self.under_way.insert(UnderWay { name, _socket: Arc::clone(socket), work });
        let entry = match &mut self.under_way[key].work {
            Work::Accept => opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut())
                .flags(libc::SOCK_CLOEXEC)
                .build(),
            Work::Connect(address) => {
                opcode::Connect::new(fd, address.as_ptr().cast(), address.len()).build()
            }
            Work::Receive(buffer, most) => {
                let most = u32::try_from((*most).min(buffer.len())).unwrap_or(u32::MAX);
                opcode::Recv::new(fd, buffer.as_mut_ptr(), most).build()
            }
            Work::Send(buffer, from, to) => {
                let bytes = &buffer[*from..*to];
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                opcode::Send::new(fd, bytes.as_ptr(), length)
                    .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
                    .build()
            }
            Work::ShutDown => opcode::Shutdown::new(fd, libc::SHUT_WR).build(),
        };
        self.push(entry.user_data(key as u64))?;
        Ok(Key(key))
    }

    /// Asks the kernel to give an operation up. It is done, one way or the other, all the same.
    ///
    /// # Errors
    /// As io_uring_enter(2).
    pub(crate) fn cancel(&mut self, key: Key) -> io::Result<()> {
        self.push(opcode::AsyncCancel::new(key.0 as u64).build().user_data(NOBODY))
    }

    fn push(&mut self, entry: Entry) -> io::Result<()> {
        loop {
            // SAFETY: whatever the entry points to is owned by `under_way`, which gives nothing away and
            // touches nothing before the operation's completion has come (and, when it is dropped, leaks
            // it): the bytes of a `Vec`, whose place on the heap does not change when the `Vec` itself
            // is moved, and a boxed address. The descriptor is open as long as the socket is there.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            if pushed.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }

    /// Waits until something is done, or for so long, and moves what is done to `done`.
    ///
    /// # Errors
    /// As io_uring_enter(2).
    pub(crate) fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Done>) -> io::Result<()> {
        let waited = match timeout {
            None => self.ring.submit_and_wait(1),
            Some(timeout) => {
                let time = Timespec::from(timeout);
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        match waited {
            Ok(_) => {}
            // A timer is due, a signal came, or the kernel wants completions taken first.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY)) => {}
            Err(error) => return Err(error),
        }
        for completion in self.ring.completion() {
            if completion.user_data() == NOBODY {
                continue;
            }
            let Ok(key) = usize::try_from(completion.user_data()) else { continue };
            let Some(UnderWay { name, work, .. }) = self.under_way.try_remove(key) else { continue };
            let result = match usize::try_from(completion.result()) {
                Ok(count) => Ok(count),
                Err(_) => Err(io::Error::from_raw_os_error(-completion.result())),
            };
            let accepted = match (&work, &result) {
                (Work::Accept, Ok(_)) => {
                    // SAFETY: a completed accept gives a descriptor that is new and nobody else's.
                    Some(Socket::from(unsafe { OwnedFd::from_raw_fd(completion.result()) }))
                }
                _ => None,
            };
            let buffer = match work {
                Work::Receive(buffer, _) | Work::Send(buffer, ..) => Some(buffer),
                Work::Accept | Work::Connect(_) | Work::ShutDown => None,
            };
            done.push(Done { name, result, buffer, accepted });
        }
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel may go on for a moment after the ring is closed; better lost than written to.
        std::mem::take(&mut self.under_way).into_iter().for_each(|(_, lent)| std::mem::forget(lent));
    }
}
