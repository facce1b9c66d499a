//! A prototype beside relay-mio: the same ledger, `relay_core::Session`, on an io_uring loop.
//!
//! A loop on epoll is told that something *could* be done, does it, and reports. Here operations are
//! handed to the kernel **before** they can be done, together with their buffers, and the kernel reports
//! what became of them. The ledger does not care: it is told the same facts, and asked the same demands.
//! What it demands is submitted, at most one read and one write per leg at a time; buffers belong to the
//! [`Ring`] while the kernel has them.
//!
//! Plain legs only. TLS would need links that lend their buffers out while records are laid out in them,
//! which relay-core's pump does not do: it fills and empties them within one call.

mod connection;
mod endpoint;
mod event_loop;
mod ring;

pub use endpoint::Endpoint;
pub use event_loop::EventLoop;
pub use ring::Ring;
