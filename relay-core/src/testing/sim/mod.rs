//! A seeded simulation of one relayed connection: the very [`pump`](crate::pump::pump), [`Relay`]
//! and codecs that ship, over a network and a clock that lie in wait for every mistake.
//!
//! A run has two parts. First chaos: faults chosen by the seed, each kind on or off for the whole
//! run (swarm testing: some runs are all resets, some none). Then healing: no more faults, both
//! peers read and finish, and the relay must close within a bound. Time passes only when nothing
//! else can happen, and then exactly to the next timer.
//!
//! [`Relay`]: crate::relay::Relay

mod batch;
mod conn;
mod crowd;
mod fuzz;
mod limits;
mod net;
mod peer;
mod piping;
mod plan;
mod run;
mod setup;
mod silence;

pub use batch::{Seeds, tell_all};
pub use crowd::{CrowdPlan, CrowdSummary, crowd};
pub use fuzz::relay_states;
pub use piping::PipeFrom;
pub use plan::{Ends, Faults, Plan};
use run::guarded;
pub use run::{Summary, run, run_at_any_time};

use alloc::boxed::Box;

use super::rng::Rng;
use super::toy::{Toy, ToyConfig};
use crate::codec::{Codec, Frame, Layout, Opened, Plain, Sealed};
use crate::error::Failure;

/// Where a simulation gets its codecs from.
pub trait Family {
    /// Both plain and secure ones.
    type Codec: Codec;

    /// The relay's end and the peer's end of one leg.
    fn pair(&mut self, rng: &mut Rng, parts: Parts) -> (Self::Codec, Self::Codec);
}

/// Who plays which part on a leg.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parts {
    /// There is a handshake.
    pub secure: bool,
    /// The relay dials, and so is the client.
    pub dials: bool,
    /// The peer is one whom the relay must not accept.
    pub stranger: bool,
    /// Much is to be sent.
    pub bulk: bool,
    /// The peer sends data before its handshake is complete.
    pub hasty: bool,
}

/// Plain legs and legs with the toy channel.
#[derive(Clone, Copy, Debug, Default)]
pub struct ToyFamily;

/// A codec of the [`ToyFamily`].
#[derive(Debug)]
pub enum ToyOrPlain {
    /// No framing.
    Plain(Plain),
    /// The toy channel.
    Toy(Box<Toy>),
}

impl Family for ToyFamily {
    type Codec = ToyOrPlain;

    fn pair(&mut self, rng: &mut Rng, parts: Parts) -> (ToyOrPlain, ToyOrPlain) {
        if !parts.secure {
            return (ToyOrPlain::Plain(Plain), ToyOrPlain::Plain(Plain));
        }
        let sizes: &[usize] = if parts.bulk { &[1000, 16_384] } else { &[4, 7, 64, 1000, 16_384] };
        let ours = ToyConfig {
            client: parts.dials,
            credential: 1,
            expects: 2,
            payload_max: sizes[rng.below(sizes.len())],
            hello: 1 + rng.below(40),
            rekey_after: 1 + rng.next() % 40,
            ask_rekey: rng.chance(50),
            worn_after: if rng.chance(3) { 1 + rng.next() % 30 } else { u64::MAX },
            hasty: false,
            lenient: true,
        };
        let theirs = ToyConfig {
            client: !parts.dials,
            credential: if parts.stranger { 3 } else { 2 },
            worn_after: u64::MAX,
            hasty: parts.hasty,
            lenient: false,
            expects: 1,
            hello: 1 + rng.below(40),
            rekey_after: 1 + rng.next() % 40,
            ..ours
        };
        (ToyOrPlain::Toy(Box::new(Toy::new(ours))), ToyOrPlain::Toy(Box::new(Toy::new(theirs))))
    }
}

macro_rules! delegate {
    ($self:ident, $codec:ident => $call:expr) => {
        match $self {
            ToyOrPlain::Plain($codec) => $call,
            ToyOrPlain::Toy($codec) => $call,
        }
    };
}

impl Codec for ToyOrPlain {
    fn layout(&self) -> Layout {
        delegate!(self, codec => codec.layout())
    }

    fn is_secured(&self) -> bool {
        delegate!(self, codec => codec.is_secured())
    }

    fn frame(&mut self, wire: &[u8]) -> Result<Frame, Failure> {
        delegate!(self, codec => codec.frame(wire))
    }

    fn open(&mut self, record: &mut [u8]) -> Result<Opened, Failure> {
        delegate!(self, codec => codec.open(record))
    }

    fn seal(&mut self, slot: &mut [u8], payload: usize) -> Result<Sealed, Failure> {
        delegate!(self, codec => codec.seal(slot, payload))
    }

    fn control_pending(&self) -> usize {
        delegate!(self, codec => codec.control_pending())
    }

    fn take_control(&mut self, out: &mut [u8]) -> usize {
        delegate!(self, codec => codec.take_control(out))
    }

    fn close(&mut self) {
        delegate!(self, codec => codec.close());
    }

    fn transport_eof(&mut self) -> Result<(), Failure> {
        delegate!(self, codec => codec.transport_eof())
    }
}
