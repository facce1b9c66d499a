//! The simulated transport: two byte pipes a leg, with the manners of a kernel's sockets.

use alloc::collections::VecDeque;

use super::super::rng::Rng;
use crate::error::Failure;
use crate::leg::{Leg, PerLeg};
use crate::pump::{Ready, Transport, TryError};

/// Which kinds of trouble a run has. Swarm testing: each is on or off for all of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// Reads and writes move less than they could.
    pub short: bool,
    /// A call would block although it need not; an edge follows.
    pub would_block: bool,
    /// A signal comes first.
    pub interrupted: bool,
    /// Edges that mean nothing.
    pub spurious: bool,
    /// Peers reset.
    pub reset: bool,
    /// Peers vanish without their orderly end.
    pub truncate: bool,
    /// Peers stop reading for a while.
    pub stall: bool,
    /// Dials fail.
    pub dial: bool,
    /// The operator drains or aborts.
    pub stop: bool,
    /// Time jumps while work is waiting.
    pub late: bool,
    /// Front is somebody who must not get in.
    pub stranger: bool,
}

impl Faults {
    /// A choice of them.
    pub(super) fn choose(rng: &mut Rng) -> Self {
        let mut on = |percent| rng.chance(percent);
        Self {
            short: on(50),
            would_block: on(40),
            interrupted: on(30),
            spurious: on(40),
            reset: on(20),
            truncate: on(20),
            stall: on(40),
            dial: on(15),
            stop: on(15),
            late: on(25),
            stranger: on(5),
        }
    }
}

/// One direction of one connection.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    pub(super) bytes: VecDeque<u8>,
    pub(super) capacity: usize,
    /// The writer is done.
    pub(super) fin: bool,
}

/// One connection of the relay's.
#[derive(Debug, Default)]
pub(super) struct Wire {
    pub(super) to_relay: Pipe,
    pub(super) from_relay: Pipe,
    /// The peer reset; the first call that meets it is told, later ones are not (tcp(7)).
    pub(super) reset: Option<Failure>,
    /// The peer takes nothing more.
    pub(super) gone: bool,
    /// The relay found no room to write and waits for an edge.
    wants_room: bool,
    /// Edges that the runtime has not seen yet.
    pub(super) edges: Ready,
}

impl Wire {
    pub(super) fn peer_sent(&mut self) {
        self.edges.readable = true;
    }

    pub(super) fn peer_took(&mut self) {
        if self.wants_room {
            self.wants_room = false;
            self.edges.writable = true;
        }
    }

    pub(super) fn peer_reset(&mut self) {
        self.reset = Some(Failure::Reset);
        self.gone = true;
        self.edges = Ready::BOTH;
    }
}

/// Both connections.
#[derive(Debug)]
pub(super) struct Net {
    pub(super) wires: PerLeg<Wire>,
    pub(super) faults: Faults,
    pub(super) rng: Rng,
    /// Calls of the transport so far.
    pub(super) calls: u64,
}

impl Net {
    fn trouble(&mut self, leg: Leg, reading: bool) -> Result<(), TryError> {
        self.calls += 1;
        if self.faults.interrupted && self.rng.chance(5) {
            return Err(TryError::Interrupted);
        }
        if self.faults.would_block && self.rng.chance(20) {
            let edges = &mut self.wires[leg].edges;
            if reading {
                edges.readable = true;
            } else {
                edges.writable = true;
            }
            return Err(TryError::WouldBlock);
        }
        Ok(())
    }

    fn shorten(&mut self, count: usize) -> usize {
        if self.faults.short && self.rng.chance(60) { 1 + self.rng.below(count.min(9)) } else { count }
            .min(count)
    }
}

impl Transport for Net {
    fn try_read(&mut self, leg: Leg, slices: &mut [&mut [u8]]) -> Result<usize, TryError> {
        self.trouble(leg, true)?;
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        assert!(offered > 0, "the pump reads into nothing");
        let there = self.wires[leg].to_relay.bytes.len();
        if there == 0 {
            let wire = &mut self.wires[leg];
            if let Some(failure) = wire.reset.take() {
                wire.to_relay.fin = true;
                return Err(TryError::Failed(failure));
            }
            return if wire.to_relay.fin || wire.gone { Ok(0) } else { Err(TryError::WouldBlock) };
        }
        let count = self.shorten(there.min(offered));
        let mut bytes = self.wires[leg].to_relay.bytes.drain(..count);
        for (to, from) in slices.iter_mut().flat_map(|slice| slice.iter_mut()).zip(&mut bytes) {
            *to = from;
        }
        Ok(count)
    }

    fn try_write(&mut self, leg: Leg, slices: &[&[u8]]) -> Result<usize, TryError> {
        assert!(!self.wires[leg].from_relay.fin, "the pump writes after its FIN");
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        assert!(offered > 0, "the pump writes nothing");
        self.trouble(leg, false)?;
        let wire = &mut self.wires[leg];
        if let Some(failure) = wire.reset.take() {
            return Err(TryError::Failed(failure));
        }
        if wire.gone {
            return Err(TryError::Failed(Failure::BrokenPipe));
        }
        let room = wire.from_relay.capacity - wire.from_relay.bytes.len();
        if room == 0 {
            wire.wants_room = true;
            return Err(TryError::WouldBlock);
        }
        let count = self.shorten(room.min(offered));
        let wire = &mut self.wires[leg];
        wire.from_relay.bytes.extend(slices.iter().flat_map(|slice| slice.iter()).take(count));
        Ok(count)
    }

    fn shut_write(&mut self, leg: Leg) -> Result<(), TryError> {
        self.trouble(leg, false)?;
        let wire = &mut self.wires[leg];
        assert!(!wire.from_relay.fin, "the pump sends a second FIN");
        if let Some(failure) = wire.reset.take() {
            return Err(TryError::Failed(failure));
        }
        wire.from_relay.fin = true;
        Ok(())
    }
}
