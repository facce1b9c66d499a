//! Many sessions: when to accept, when to dial, in which order, when to close.
//!
//! Everything here owns **counts and times, never sessions**, so it does not matter whether those
//! live in a slab, in tasks or in other threads. Like [`Session`](crate::Session), each part takes
//! facts with the present time and answers with pure functions of its state; the randomness of a
//! backoff comes from a seed.
//!
//! - [`Gate`]: may a connection be accepted now, and from which listener;
//! - [`Order`]: whose turn it is to be dialed, one per listener;
//! - [`Dialer`]: when to try again, and when not;
//! - [`Lingering`]: how long a closed session's socket is kept for the bytes still in it.
//!
//! A stop is [`Gate::stop`] for those who come and [`Relay::stop`](crate::Relay::stop) for each that
//! is there; to both a second one is harmless.
//!
//! # A runtime's turn
//! ```text
//! gate.begin_turn();
//! loop {
//!     while let Some(listener) = gate.wants_accept() { accept(2) and report what came of it }
//!     while let Some(stranger) = gate.wants_evicted(now) { gate.evicted(stranger); end its session }
//!     break unless somebody was evicted
//! }
//! …
//! sleep until the earliest next_timeout(), or not at all if gate.is_owing()
//! ```

mod backoff;
mod dialer;
mod gate;
mod lingering;
mod order;

pub use backoff::{Backoff, Range};
pub use dialer::Dialer;
pub use gate::{Gate, Limits, ListenerId, Peers, Shut, Stranger};
pub use lingering::{Linger, Lingering};
pub use order::{Order, Ticket};
