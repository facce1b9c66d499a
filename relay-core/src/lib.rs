//! The two-leg relay of a live migration as a pure state machine.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

#[cfg(any(test, feature = "testing"))]
extern crate std;

pub mod admission;
pub mod bandwidth;
pub mod codec;
pub mod config;
pub mod error;
pub mod flow;
pub mod leg;
mod link;
pub mod pool;
pub mod pump;
mod queue;
pub mod relay;
pub mod session;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod time;

pub use config::Config;
pub use error::Failure;
pub use leg::{Leg, PerLeg};
pub use pool::Pool;
pub use pump::{Filled, Pumped, Ready, Transport, TryError, pump, pump_throttled};
pub use relay::Relay;
pub use session::{Close, Demand, Distrust, EndReason, FlowEnd, Input, Outcome, Session, Stats, Stop, Timer};
pub use time::Instant;
