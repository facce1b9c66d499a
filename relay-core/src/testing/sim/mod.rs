//! A seeded simulation of one relayed connection: the very [`pump`](crate::pump::pump), [`Relay`]
//! and codecs that ship, over a network and a clock that lie in wait for every mistake.
//!
//! A run has two parts. First chaos: faults chosen by the seed, each kind on or off for the whole
//! run (swarm testing: some runs are all resets, some none). Then healing: no more faults, both
//! peers read and finish, and the relay must close within a bound. Time passes only when nothing
//! else can happen, and then exactly to the next timer.
//!
//! [`Relay`]: crate::relay::Relay

mod net;
mod peer;
mod run;

pub use net::Faults;
pub use run::{Plan, Summary, run};

use alloc::boxed::Box;

use super::rng::Rng;
use super::toy::{Toy, ToyConfig};
use crate::codec::{Codec, Frame, Layout, Opened, Plain, Sealed};
use crate::error::Failure;

/// Where a simulation gets its codecs from.
pub trait Family {
    /// Both plain and secure ones.
    type Codec: Codec;

    /// The relay's end and the peer's end of one leg. `dials` says whether the relay is the client;
    /// `stranger` that the peer is one whom the relay must not accept.
    fn pair(
        &mut self,
        rng: &mut Rng,
        secure: bool,
        dials: bool,
        stranger: bool,
    ) -> (Self::Codec, Self::Codec);
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

    fn pair(&mut self, rng: &mut Rng, secure: bool, dials: bool, stranger: bool) -> (ToyOrPlain, ToyOrPlain) {
        if !secure {
            return (ToyOrPlain::Plain(Plain), ToyOrPlain::Plain(Plain));
        }
        let sizes = [4, 7, 64, 1000, 16_384];
        let ours = ToyConfig {
            client: dials,
            credential: 1,
            expects: 2,
            payload_max: sizes[rng.below(sizes.len())],
            hello: 1 + rng.below(40),
            rekey_after: 1 + rng.next() % 40,
            ask_rekey: rng.chance(50),
        };
        let theirs = ToyConfig {
            client: !dials,
            credential: if stranger { 3 } else { 2 },
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
