//! The relay for those who embed it in a tokio program: any two streams, plain or TLS, as a future.
//!
//! [`relay`] is the better `copy_bidirectional`; [`relay_until`] can be told to drain or to abort;
//! [`relay_dialing`] connects its back only once the front has proved who it is. All three drive the
//! very ledger and pump that `relay-mio` drives: what a half-closed stream, a reset, a truncated TLS
//! session or a timer means is decided in `relay-core`, and nowhere here.
//!
//! # Between TLS and a unix socket
//! A whole node's way, from one end to the other:
//! ```no_run
//! use relay_tokio::relay_tls::{Material, Pem, ServerTls};
//! use relay_tokio::{Config, Leg, Side, StopSignal, prepare_close, relay_dialing};
//! use std::time::Duration;
//! use tokio::net::{TcpListener, UnixStream};
//!
//! # async fn node() -> Result<(), Box<dyn std::error::Error>> {
//! let (chain, key, ca) = (std::fs::read("tls.crt")?, std::fs::read("tls.key")?, std::fs::read("ca.crt")?);
//! let material = Material::from_pem(
//!     Pem { file: "tls.crt", bytes: &chain },
//!     Pem { file: "tls.key", bytes: &key },
//!     Pem { file: "ca.crt", bytes: &ca },
//! )?;
//! let tls = ServerTls::builder(&material).build()?;
//! let config = Config {
//!     secure_timeout: Some(Duration::from_secs(10)),
//!     half_open_timeout: Some(Duration::from_secs(60)),
//!     ..Config::new(256 << 10)
//! };
//! let listener = TcpListener::bind("[::]:49152").await?;
//! loop {
//!     let (stream, _) = listener.accept().await?;
//!     let front = Side::tls(stream, tls.codec());
//!     tokio::spawn(async move {
//!         let dial = async { UnixStream::connect("/run/backend.sock").await.map(Side::plain) };
//!         let over = relay_dialing(front, dial, false, config, StopSignal::never()).await;
//!         let peer = over.tls(Leg::Front).map(|session| session.peer.to_string());
//!         println!("{peer:?}: {:?}", over.outcome.flows);
//!         prepare_close(&over.front, over.outcome.close.front)
//!     });
//! }
//! # }
//! ```
//!
//! # A whole node
//! With the feature `server`, which is on by default, there is `serve`, a node as a future: listeners,
//! limits, dialing in order, timers, draining and aborting by a handle, all of it from [`relay_node`]. Its
//! documentation has an example that runs. `Tokio` is the same for a program without a tokio runtime, and
//! what the program `relay-tokio` is made of. Who only joins streams turns default features off.
//!
//! # Units and clocks
//! Sizes are bytes. Time is tokio's ([`tokio::time::Instant`]): a test with a paused clock moves a
//! session's timers on like any other. Nothing blocks, and nothing is spawned but by `serve`.
//!
//! # How it runs
//! A session is polled, moves 256 KiB at most, and lets other tasks have their turn. Its buffers
//! come from a pool of the thread that polls it, 2 MiB at most when idle, and an idle session holds
//! none. Reads from a plain stream to a TLS one go straight into the records to be sealed, one poll
//! for each record, since [`AsyncRead`](tokio::io::AsyncRead) cannot scatter.
#![forbid(unsafe_code)]

mod alarm;
mod buffers;
mod clock;
mod close;
mod relaying;
#[cfg(feature = "server")]
mod server;
mod side;
mod stop;
mod streams;

pub use close::prepare_close;
pub use relay_core::{Close, Config, EndReason, Failure, FlowEnd, Leg, Outcome, PerLeg, Stats, Timer};
pub use relay_node;
#[cfg(feature = "server")]
pub use relay_node::cli::Timeouts;
#[cfg(feature = "server")]
pub use relay_node::{Plan, Route, Runtime, ServeError, Served, Server};
pub use relay_tls;
pub use relaying::{Relayed, relay, relay_dialing, relay_until};
#[cfg(feature = "server")]
pub use server::{Tokio, serve};
pub use side::Side;
pub use stop::{StopSignal, Stopper, stopper};

/// What the README shows compiles.
#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../../README.md")]
struct Readme;
