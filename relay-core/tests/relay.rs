//! What a runtime asks of a relay beside pumping it.

use std::time::Duration;

use relay_core::codec::Plain;
use relay_core::{Config, Instant, Leg, PerLeg, Pool, Ready, Relay, Timer, Transport, TryError, pump};

const NOW: Instant = Instant::from_nanos(5_000_000_000);
const SECOND: Duration = Duration::from_secs(1);

/// Something comes from one leg, and the other takes nothing.
struct Once(Leg, &'static [u8]);

impl Transport for Once {
    fn try_read(&mut self, leg: Leg, slices: &mut [&mut [u8]]) -> Result<usize, TryError> {
        if leg != self.0 || self.1.is_empty() {
            return Err(TryError::WouldBlock);
        }
        let bytes = core::mem::take(&mut self.1);
        slices[0][..bytes.len()].copy_from_slice(bytes);
        Ok(bytes.len())
    }

    fn try_write(&mut self, _: Leg, _: &[&[u8]]) -> Result<usize, TryError> {
        Err(TryError::WouldBlock)
    }

    fn shut_write(&mut self, _: Leg) -> Result<(), TryError> {
        Err(TryError::WouldBlock)
    }
}

#[test]
fn who_has_said_something_has_been_heard() {
    for leg in Leg::BOTH {
        let mut relay = Relay::new(Config::new(100), Plain, NOW);
        assert!(relay.codec(Leg::Back).is_none());
        relay.connected(NOW, Plain);
        assert!(relay.codec(Leg::Back).is_some());
        assert_eq!((relay.has_heard(leg), relay.held(), relay.lent()), (false, 0, 0));
        let (mut ready, mut pool) = (PerLeg::both(Ready::BOTH), Pool::default());
        let _ = pump(&mut relay, &mut Once(leg, b"hello"), &mut ready, &mut pool, NOW, 1 << 10);
        assert_eq!((relay.has_heard(leg), relay.has_heard(leg.other())), (true, false));
        assert_eq!((relay.held(), relay.lent()), (5, pool.lent()));
        assert!(relay.lent() > 5, "whole buffers are lent");
        relay.release(&mut pool);
        assert_eq!((relay.held(), relay.lent(), pool.lent()), (0, 0, 0));
    }
}

#[test]
fn the_dial_clock_stands_until_it_is_its_turn() {
    let config = Config { dial_timeout: Some(10 * SECOND), ..Config::new(100) };
    let mut relay = Relay::new(config, Plain, NOW);
    assert_eq!(relay.next_timeout(), Some((NOW + 10 * SECOND, Timer::Dial)));
    relay.queued(NOW);
    assert_eq!(relay.next_timeout(), None);
    relay.turn(NOW + 3 * SECOND, NOW + 2 * SECOND);
    assert_eq!(relay.next_timeout(), Some((NOW + 12 * SECOND, Timer::Dial)));
    relay.connected(NOW + 3 * SECOND, Plain);
    relay.queued(NOW + 3 * SECOND);
    relay.turn(NOW + 3 * SECOND, NOW);
    assert_eq!(relay.next_timeout(), None, "it is there, and both words come late");
}

#[test]
fn a_point_in_time_is_what_it_was_made_of() {
    assert_eq!(NOW.as_nanos(), 5_000_000_000);
    assert_eq!((NOW + SECOND).since(NOW), SECOND);
    assert_eq!(format!("{NOW:?}"), "5s");
}
