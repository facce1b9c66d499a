//! From when on a flow is to have a pipe: the transport with thresholds to choose from, and what is known of how
//! much a flow's reads are offered, from the reads alone.

use super::super::rng::Rng;
use super::net::Net;
use crate::error::Failure;
use crate::leg::Leg;
use crate::pool::LARGEST;
use crate::pump::{Filled, Transport, TryError};

/// For which flows pipes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PipeFrom {
    /// All of them.
    Always,
    /// Those whose reads are offered as much as the first one is: all, but the threshold is met exactly.
    First,
    /// One byte more: the first read goes by the queue.
    Second,
    /// As in the runtimes.
    Usual,
}

pub(super) const FIRST: usize = 4 << 10;
pub(super) const USUAL: usize = 64 << 10;

impl PipeFrom {
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::Always => 0,
            Self::First => FIRST,
            Self::Second => FIRST + 1,
            Self::Usual => USUAL,
        }
    }

    /// A choice for each seed.
    pub(super) const fn choose(seed: u64) -> Self {
        [Self::Always, Self::First, Self::Second, Self::Usual][Rng::new(seed ^ 0x919e).below(4)]
    }
}

/// The network with pipes for flows whose reads are offered so many bytes.
pub(super) struct PipesFrom<'a, const BYTES: usize>(pub(super) &'a mut Net);

impl<const BYTES: usize> Transport for PipesFrom<'_, BYTES> {
    const PIPE_FROM: usize = BYTES;

    fn try_read(&mut self, leg: Leg, slices: &mut [&mut [u8]]) -> Result<usize, TryError> {
        self.0.try_read(leg, slices)
    }

    fn try_write(&mut self, leg: Leg, slices: &[&[u8]]) -> Result<usize, TryError> {
        self.0.try_write(leg, slices)
    }

    fn shut_write(&mut self, leg: Leg) -> Result<(), TryError> {
        self.0.shut_write(leg)
    }

    fn open_pipe(&mut self, source: Leg) -> bool {
        self.0.open_pipe(source)
    }

    fn fill_pipe(&mut self, source: Leg, most: usize) -> Result<Filled, TryError> {
        self.0.fill_pipe(source, most)
    }

    fn drain_pipe(&mut self, source: Leg, most: usize) -> Result<usize, TryError> {
        self.0.drain_pipe(source, most)
    }

    fn close_pipe(&mut self, source: Leg, left: usize) {
        self.0.close_pipe(source, left);
    }

    fn has_unread(&mut self, leg: Leg) -> Result<bool, TryError> {
        self.0.has_unread(leg)
    }

    fn take_error(&mut self, leg: Leg) -> Option<Failure> {
        self.0.take_error(leg)
    }
}

/// What a source's reads are offered: four times as much once they fill that, half once it runs dry with less
/// than a quarter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    pub(super) most: usize,
    /// Read since the source last ran dry.
    burst: usize,
}

impl Offer {
    pub(super) const fn new() -> Self {
        Self { most: FIRST, burst: 0 }
    }

    pub(super) fn on_read(&mut self, offered: usize, count: usize) {
        self.burst += count;
        if count == offered {
            self.most = (4 * self.most).min(LARGEST);
        }
    }

    pub(super) fn on_dry(&mut self) {
        if self.burst < self.most / 4 {
            self.most = (self.most / 2).max(FIRST);
        }
        self.burst = 0;
    }
}
