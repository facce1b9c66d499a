//! What the pump needs of the two connections: calls that do not block, and what is known of their readiness.

use crate::error::Failure;
use crate::leg::Leg;

/// Why a transport did nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TryError {
    /// Not now; the runtime will see a fresh readiness edge when it is worth another try.
    WouldBlock,
    /// A signal came first (EINTR): try again.
    Interrupted,
    /// It never will again.
    Failed(Failure),
}

/// What came of filling a pipe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filled {
    /// So many bytes went in. None: the source's end of file.
    Moved(usize),
    /// Not from this source, or not on this system (splice(2), EINVAL): nothing was moved.
    Unsupported,
}

/// Two connected byte streams that do not block.
///
/// One that has **pipes** of the kernel's (splice(2)) can move bytes between two plain legs without
/// taking them to user space. The defaults say that there are none.
pub trait Transport {
    /// A plain flow whose reads are offered so many bytes, because they fill what they are offered, is
    /// to have a pipe if there is one.
    const PIPE_FROM: usize = usize::MAX;

    /// Fills `slices` in order, as readv(2) does. `Ok(0)` is the end of file; there is always room
    /// for at least one byte.
    ///
    /// # Errors
    /// See [`TryError`].
    fn try_read(&mut self, leg: Leg, slices: &mut [&mut [u8]]) -> Result<usize, TryError>;

    /// Takes bytes of `slices` in order, as writev(2) does. There is always at least one.
    ///
    /// What it takes counts as delivered: nobody asks again. A transport that only puts bytes by, to be
    /// flushed later, has not taken them before that is done.
    ///
    /// # Errors
    /// See [`TryError`].
    fn try_write(&mut self, leg: Leg, slices: &[&[u8]]) -> Result<usize, TryError>;

    /// Sends the FIN, as shutdown(2) with `SHUT_WR` does. Called once per leg at most.
    ///
    /// # Errors
    /// See [`TryError`]; `WouldBlock` means that a WRITABLE edge will follow.
    fn shut_write(&mut self, leg: Leg) -> Result<(), TryError>;

    /// Lends an empty pipe to the flow that is read from `source`; whether there was one to lend. Asked
    /// before each read of a flow that is to have one, so a refusal must cost little.
    fn open_pipe(&mut self, source: Leg) -> bool {
        let _ = source;
        false
    }

    /// Moves up to `most` bytes from `source` into its flow's pipe.
    ///
    /// # Errors
    /// See [`TryError`]. `WouldBlock` also if the pipe takes no more; while there is something in it
    /// nobody can tell.
    fn fill_pipe(&mut self, source: Leg, most: usize) -> Result<Filled, TryError> {
        let _ = (source, most);
        Ok(Filled::Unsupported)
    }

    /// Moves up to `most` bytes from the pipe of the flow that is read from `source` into the opposite
    /// leg. The pipe holds as many, and at least one.
    ///
    /// # Errors
    /// See [`TryError`].
    fn drain_pipe(&mut self, source: Leg, most: usize) -> Result<usize, TryError> {
        let _ = (source, most);
        Ok(0)
    }

    /// Takes the pipe back. `left` bytes are in it, for nobody; it can be lent again if that is none.
    fn close_pipe(&mut self, source: Leg, left: usize) {
        let _ = (source, left);
    }

    /// Whether a read would give bytes, as recv(2) with `MSG_PEEK` tells. Only asked once the leg has
    /// [`hung_up`](Ready::hung_up); whoever never says so need not answer.
    ///
    /// # Errors
    /// See [`TryError`].
    fn has_unread(&mut self, _leg: Leg) -> Result<bool, TryError> {
        Ok(true)
    }

    /// Why the connection is dead (`SO_ERROR`), if it is for a failure. Only asked once the leg has
    /// [`hung_up`](Ready::hung_up) and everything from it was read; whoever never says so need not
    /// answer.
    fn take_error(&mut self, _leg: Leg) -> Option<Failure> {
        None
    }
}

/// What is known of a transport's readiness. A runtime sets a bit when it sees the edge (and both at
/// the start, to be on the safe side); the pump clears it when the transport would block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ready {
    /// A read may give something, an end of file or an error included.
    pub readable: bool,
    /// A write may take something.
    pub writable: bool,
    /// **Both** directions are over (EPOLLHUP, EPOLLERR): what has come can still be read, and nobody
    /// is there to write to. Not to be set for a peer that has only ended its own direction
    /// (EPOLLRDHUP): it waits for its answer. A runtime that can't tell the difference leaves it
    /// unset; then a hang-up is noticed by the next write.
    pub hung_up: bool,
}

impl Ready {
    /// Nothing is known to block.
    pub const BOTH: Self = Self { readable: true, writable: true, hung_up: false };
}
