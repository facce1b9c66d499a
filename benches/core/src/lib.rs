//! A transport that costs next to nothing: what is measured is the core.

mod pair;

pub use pair::Pair;

use relay_core::codec::Plain;
use relay_core::{
    Config, Input, Instant, Leg, PerLeg, Pool, Pumped, Ready, Relay, Session, Transport, TryError, pump,
};

/// The time at which everything happens.
const NOW: Instant = Instant::from_nanos(1);

/// Front sends so many bytes and ends; Back takes everything and ends at once.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    left: usize,
    /// Most bytes that one call moves, as a socket's buffer would have it.
    chunk: usize,
    taken: usize,
}

impl Transport for Memory {
    fn try_read(&mut self, leg: Leg, slices: &mut [&mut [u8]]) -> Result<usize, TryError> {
        if leg == Leg::Back {
            return Ok(0);
        }
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let count = offered.min(self.chunk).min(self.left);
        self.left -= count;
        Ok(count)
    }

    fn try_write(&mut self, _leg: Leg, slices: &[&[u8]]) -> Result<usize, TryError> {
        let count = slices.iter().map(|slice| slice.len()).sum::<usize>().min(self.chunk);
        self.taken += count;
        Ok(count)
    }

    fn shut_write(&mut self, _leg: Leg) -> Result<(), TryError> {
        Ok(())
    }
}

/// Moves `bytes` through a relay of two plain legs, from accept to close.
///
/// # Panics
/// If fewer arrive.
pub fn relay_plain(bytes: usize, chunk: usize, pool: &mut Pool) {
    let mut relay = Relay::new(Config::new(256 << 10), Plain, NOW);
    relay.connected(NOW, Plain);
    let mut io = Memory { left: bytes, chunk, taken: 0 };
    let mut ready = PerLeg::both(Ready::BOTH);
    while pump(&mut relay, &mut io, &mut ready, pool, NOW, 256 << 10) != Pumped::Done {}
    relay.release(pool);
    assert_eq!(io.taken, bytes, "everything arrives");
}

/// A session's life of `rounds` reads and writes in each direction; returns how many inputs that was.
#[must_use]
pub fn session_life(rounds: usize) -> usize {
    let mut session = Session::new(Config::new(64 << 10), NOW);
    let mut inputs = 0;
    let mut tell = |input| {
        session.handle(NOW, input);
        inputs += 1;
        core::hint::black_box((
            session.demand(Leg::Front),
            session.demand(Leg::Back),
            session.next_timeout(),
        ));
    };
    tell(Input::Connected(Leg::Back));
    for _ in 0..rounds {
        for leg in Leg::BOTH {
            tell(Input::Read(leg, 16 << 10));
            tell(Input::Wrote(leg.other(), 16 << 10));
        }
    }
    for leg in Leg::BOTH {
        tell(Input::Eof(leg));
        tell(Input::ShutDown(leg.other()));
    }
    assert!(session.outcome().is_some_and(relay_core::Outcome::is_clean), "it ends well");
    inputs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_works() {
        let mut pool = Pool::default();
        relay_plain(3 << 20, 64 << 10, &mut pool);
        Pair::new().relay(3 << 20, &mut pool);
        assert_eq!((session_life(10), pool.lent()), (45, 0));
    }
}
