//! An upload that nobody takes, beside an answer, under a limit of the rate: what is thrown away is not held back, and
//! costs the answer nothing.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroU64;
use core::time::Duration;
use std::format;

use super::rng::Rng;
use super::rules::{Rule, Violation, demand_that};
use super::sim::{Family, Parts, ToyFamily, ToyOrPlain};
use crate::bandwidth::{Bucket, Throttle};
use crate::codec::{Codec, Frame, Plain, Sealed};
use crate::config::Config;
use crate::error::Failure;
use crate::flow::Phase;
use crate::leg::{Leg, PerLeg};
use crate::pool::{LARGEST, Pool};
use crate::pump::{Pumped, Ready, Transport, TryError, pump_throttled};
use crate::relay::Relay;
use crate::time::Instant;

/// Rounds after the backend took nothing more.
const ROUNDS: u64 = 200;
/// Time of one.
const ROUND: Duration = Duration::from_millis(20);
/// What is uploaded in one.
const PIECE: usize = 900;

/// Front, who never stops, and Back, who answers and takes nothing any more.
#[derive(Default)]
struct Wires {
    to_relay: PerLeg<VecDeque<u8>>,
    from_relay: PerLeg<Vec<u8>>,
    refuses: bool,
}

impl Transport for Wires {
    fn try_read(&mut self, leg: Leg, slices: &mut [&mut [u8]]) -> Result<usize, TryError> {
        let bytes = slices.iter_mut().flat_map(|slice| slice.iter_mut());
        let there = &mut self.to_relay[leg];
        let count = bytes.map_while(|to| there.pop_front().map(|from| *to = from)).count();
        if count > 0 { Ok(count) } else { Err(TryError::WouldBlock) }
    }

    fn try_write(&mut self, leg: Leg, slices: &[&[u8]]) -> Result<usize, TryError> {
        if leg == Leg::Back && self.refuses {
            return Err(TryError::Failed(Failure::BrokenPipe));
        }
        slices.iter().for_each(|slice| self.from_relay[leg].extend_from_slice(slice));
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }

    fn shut_write(&mut self, _: Leg) -> Result<(), TryError> {
        Ok(())
    }
}

/// The uploader's end of its leg.
struct Uploader {
    codec: ToyOrPlain,
    came: Vec<u8>,
}

impl Uploader {
    /// Goes on with its handshake, or sends a piece; what of its own it has to send for that.
    fn act(&mut self, wires: &mut Wires) {
        self.came.append(&mut wires.from_relay.front);
        let mut at = 0;
        while let Ok(Frame::Whole { wire, .. }) = self.codec.frame(&self.came[at..])
            && at < self.came.len()
        {
            // What came is of no interest here.
            let _ = self.codec.open(&mut self.came[at..at + wire]);
            at += wire;
        }
        self.came.drain(..at);
        self.send_control(wires);
        if self.codec.is_secured() {
            let mut slot = vec![7; self.codec.layout().record(PIECE)];
            if let Ok(Sealed::Record(wire)) = self.codec.seal(&mut slot, PIECE) {
                wires.to_relay.front.extend(&slot[..wire]);
            }
            self.send_control(wires);
        }
    }

    fn send_control(&mut self, wires: &mut Wires) {
        let mut control = vec![0; self.codec.control_pending()];
        let taken = self.codec.take_control(&mut control);
        wires.to_relay.front.extend(&control[..taken]);
    }
}

/// B2: at half of the limit an answer never waits, whatever else is read meanwhile to be thrown away.
///
/// # Errors
/// The rule that was broken.
pub(super) fn thrown_away(seed: u64, secure: bool) -> Result<(), Violation> {
    let mut rng = Rng::new(seed);
    let parts = Parts { secure, dials: false, stranger: false, bulk: true, hasty: false };
    let (front, codec) = ToyFamily.pair(&mut rng, parts);
    let mut uploader = Uploader { codec, came: Vec::new() };
    let rate = 10_000 + rng.next() % 30_000;
    let answer = rate as usize * 20 / 1000 / 2;
    let mut now = Instant::ZERO + Duration::from_secs(1);
    let config = Config { secure: PerLeg::new(secure, false), ..Config::new(LARGEST) };
    let mut relay = Relay::new(config, front, now);
    let bucket = Arc::new(Bucket::new(NonZeroU64::new(rate).unwrap_or(NonZeroU64::MIN), now));
    let mut throttle = Throttle::new([bucket]);
    let (mut wires, mut pool) = (Wires::default(), Pool::default());
    let mut answering = 0;
    // A key that is used up ends it early.
    while answering < ROUNDS && relay.outcome().is_none() {
        now = now + ROUND;
        if relay.wants_connect() {
            relay.connected(now, ToyOrPlain::Plain(Plain));
        }
        uploader.act(&mut wires);
        wires.refuses |= relay.stats().delivered.front > 0;
        let discards = relay.session().phase(Leg::Front) == Phase::Discarding;
        if discards {
            answering += 1;
            // What was paid for the upload before is made up for by then.
            if answering > ROUNDS / 2 {
                wires.to_relay.back.extend((0..answer).map(|_| 9));
            }
        }
        let mut ready = PerLeg::both(Ready::BOTH);
        while pump_throttled(&mut relay, &mut wires, &mut ready, &mut pool, now, LARGEST, Some(&mut throttle))
            == Pumped::Again
        {}
        demand_that(Rule::B2, answering <= ROUNDS / 2 || !relay.session().is_held(), || {
            format!("an answer of {answer} bytes is held at {now:?}, of {rate} a second: {:?}", relay.stats())
        })?;
    }
    Ok(())
}
