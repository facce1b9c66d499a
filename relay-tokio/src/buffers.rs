//! The buffers that a thread keeps for its sessions.

use std::cell::Cell;

use relay_core::Pool;

/// Bytes that a thread keeps at most, while none of its sessions needs them.
const KEEP: usize = 2 << 20;

thread_local! {
    /// Buffers wander with their sessions from thread to thread and are handed back wherever that is.
    static POOL: Cell<Pool> = const { Cell::new(Pool::new(KEEP)) };
}

/// Takes this thread's pool. Meanwhile there is another, for a stream may be made of another relaying
/// in this thread.
pub(crate) fn take() -> Pool {
    POOL.replace(Pool::new(KEEP))
}

/// Gives it back.
pub(crate) fn give(pool: Pool) {
    POOL.set(pool);
}
