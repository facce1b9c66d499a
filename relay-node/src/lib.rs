//! What a node program is, whatever its loop: command line, sockets, names, certificates, logging,
//! signals, and the demo.
//!
//! A program is this crate and a [`Runtime`]:
//! ```no_run
//! # struct Loop;
//! # impl relay_node::Runtime for Loop {
//! #     fn serve(&self, _: relay_node::Server) -> Result<relay_node::Served, relay_node::ServeError> {
//! #         Ok(relay_node::Served::default())
//! #     }
//! # }
//! fn main() -> std::process::ExitCode {
//!     relay_node::main(&Loop, "relay-loop")
//! }
//! ```
//! What a loop is given is a [`Server`]; what it needs to know of sockets is in [`listen`] and
//! [`socket`], of failures in [`failure`], of what to dial in [`resolve`]. Whom to let in, and when to
//! dial, the [`acceptor`] decides for it; what a session does until its last descriptor is closed, its
//! [`lifecycle`]; who is there stands in the table of [`sessions`]. Whom it tells what happens is an
//! [`Observer`].
#![forbid(unsafe_code)]

pub mod acceptor;
mod advice;
pub mod bandwidth;
mod census;
mod check;
pub mod cli;
pub mod clock;
pub mod closing;
pub mod control;
pub mod crowd;
mod demo;
mod descriptors;
pub mod endpoint;
mod enforcement;
pub mod failure;
#[cfg(feature = "testing")]
pub mod fuzz;
mod handed;
mod herald;
pub mod inherited;
mod interface;
pub mod lifecycle;
pub mod listen;
pub mod live;
mod log_queue;
pub mod logging;
#[cfg(any(test, feature = "testing"))]
pub mod metrics;
#[cfg(not(any(test, feature = "testing")))]
mod metrics;
mod node;
mod noise;
pub mod observer;
mod opening;
pub mod pipes;
mod place;
mod program;
pub mod quantity;
pub mod reserve;
pub mod resolve;
mod sandbox;
mod secrets;
pub mod server;
mod service;
pub mod sessions;
mod shortage;
pub mod signals;
mod site;
pub mod socket;
mod socket_file;
mod status;
pub mod tally;
#[cfg(test)]
mod testing;
pub mod timers;
pub mod tls;
pub mod transport;
mod uri;
mod watch;
mod words;

pub use observer::{Observer, SessionEnded};
pub use program::main;
pub use relay_tls::LegCodec;
pub use server::{Label, Plan, Route, Runtime, ServeError, Served, Server};
pub use sessions::{RouteId, SessionId, SessionTable};
