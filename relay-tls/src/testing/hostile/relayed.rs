//! An end that is a whole relay: the link and the pump that ship stand between the network and a peer
//! in plaintext, who is served in memory. What the relay promises that peer must hold whatever the
//! network does.

use relay_core::codec::Codec;
use relay_core::pool::LARGEST;
use relay_core::session::EndReason;
use relay_core::testing::rng::stream_byte;
use relay_core::{Config, Instant, Leg, PerLeg, Pool, Pumped, Ready, Relay, Transport, TryError, pump};

use super::{Party, Tally, checked_sentence};
use crate::{LegCodec, TlsCodec};

const NOW: Instant = Instant::ZERO;
/// What the kernel would hold for the network; then the relay has to wait.
const SOCKET: usize = 64 << 10;
/// Of a turn, as a node's loop has it.
const BUDGET: usize = 256 << 10;
/// More turns than anything takes that is ever on its way at once.
const TURNS: usize = 10_000;

/// To and from the network, and to the peer; each is one of the pool's at most.
const BUFFERS: usize = 3;

/// See the [module](self).
pub(super) struct Relayed {
    relay: Relay<LegCodec>,
    /// The leg with TLS.
    secure: Leg,
    pool: Pool,
    io: Io,
    was_secured: bool,
    peer_closed_well: bool,
}

/// Both connections.
struct Io {
    secure: Leg,
    tally: Tally,
    /// From the network, and how much of it was read.
    wire: Vec<u8>,
    read: usize,
    wire_ended: bool,
    /// To the network.
    out: Vec<u8>,
    /// Bytes that the plain peer has yet to send, and whether it ends after that.
    unsent: u64,
    ends: bool,
    /// It takes nothing.
    stalled: bool,
    /// It was told that its stream is whole.
    told_end: bool,
}

impl Transport for Io {
    fn try_read(&mut self, leg: Leg, slices: &mut [&mut [u8]]) -> Result<usize, TryError> {
        let from_wire = leg == self.secure;
        let (there, ended) = if from_wire {
            (self.wire.len() - self.read, self.wire_ended)
        } else {
            (self.unsent.min(SOCKET as u64) as usize, self.ends)
        };
        let room: usize = slices.iter().map(|slice| slice.len()).sum();
        assert!(room > 0, "a read with room for nothing");
        match there.min(room) {
            0 if ended => return Ok(0),
            0 => return Err(TryError::WouldBlock),
            count if from_wire => self.fill_from_wire(slices, count),
            count => self.fill_from_peer(slices, count),
        }
        Ok(there.min(room))
    }

    fn try_write(&mut self, leg: Leg, slices: &[&[u8]]) -> Result<usize, TryError> {
        let to_wire = leg == self.secure;
        let room = if to_wire { SOCKET.saturating_sub(self.out.len()) } else { SOCKET };
        if room == 0 || (!to_wire && self.stalled) {
            return Err(TryError::WouldBlock);
        }
        let mut taken = 0;
        for slice in slices {
            let part = &slice[..slice.len().min(room - taken)];
            if to_wire {
                self.out.extend_from_slice(part);
            } else {
                self.tally.receive(part);
            }
            taken += part.len();
        }
        Ok(taken)
    }

    fn shut_write(&mut self, leg: Leg) -> Result<(), TryError> {
        self.told_end |= leg != self.secure;
        Ok(())
    }
}

impl Io {
    fn fill_from_wire(&mut self, slices: &mut [&mut [u8]], count: usize) {
        let end = self.read + count;
        for slice in slices {
            let part = slice.len().min(end - self.read);
            slice[..part].copy_from_slice(&self.wire[self.read..self.read + part]);
            self.read += part;
        }
        if self.read == self.wire.len() {
            self.wire.clear();
            self.read = 0;
        }
    }

    fn fill_from_peer(&mut self, slices: &mut [&mut [u8]], count: usize) {
        let (stream, start) = (self.tally.stream, self.tally.sent);
        let bytes = (start..start + count as u64).map(|position| stream_byte(stream, position));
        for (to, byte) in slices.iter_mut().flat_map(|slice| slice.iter_mut()).zip(bytes) {
            *to = byte;
        }
        self.tally.sent += count as u64;
        self.unsent -= count as u64;
    }
}

impl Party for Relayed {
    fn tally(&mut self) -> &mut Tally {
        &mut self.io.tally
    }

    fn codec(&self) -> &TlsCodec {
        self.relay.codec(self.secure).and_then(LegCodec::as_tls).expect("it is there from the start")
    }

    fn out(&mut self) -> &mut Vec<u8> {
        self.turn();
        &mut self.io.out
    }

    fn send(&mut self, payload: usize) {
        if !self.io.ends {
            self.io.unsent += payload as u64;
            self.turn();
        }
    }

    fn close(&mut self) {
        (self.io.ends, self.io.tally.closed) = (true, true);
        self.turn();
    }

    fn arrive(&mut self, bytes: &[u8]) {
        if self.relay.outcome().is_none() && !self.io.wire_ended {
            self.io.wire.extend_from_slice(bytes);
            self.turn();
        }
    }

    fn eof(&mut self) {
        self.io.wire_ended = true;
        self.turn();
    }

    fn stall(&mut self, stalled: bool) {
        self.io.stalled = stalled;
        self.turn();
    }

    fn check(&mut self) {
        self.turn();
        let held = self.relay.held();
        assert!(held <= BUFFERS * LARGEST, "{held} bytes are held");
        let secured = self.codec().is_secured();
        assert!(secured || !self.was_secured, "never goes back");
        self.was_secured = secured;
        let stats = self.relay.stats();
        assert_eq!(
            stats.delivered[self.secure], self.io.tally.received,
            "what the peer got is what is counted"
        );
        assert_eq!(stats.read[self.secure.other()], self.io.tally.sent, "and what it sent");
        self.check_end();
        self.check_nothing_left_undone();
    }

    fn is_over(&self) -> bool {
        self.relay.outcome().is_some()
    }

    fn heard_end(&self) -> bool {
        self.peer_closed_well || self.io.told_end
    }
}

impl Relayed {
    /// A server, with its backend yet to be dialed, or a client, whose own client is there.
    pub(super) fn new(codec: TlsCodec, is_server: bool, capacity: usize, stream: u64) -> Self {
        let secure = if is_server { Leg::Front } else { Leg::Back };
        let mut config = Config::new(capacity);
        config.secure[secure] = true;
        let codec = LegCodec::tls(codec);
        let (front, back) = if is_server { (codec, None) } else { (LegCodec::Plain, Some(codec)) };
        let mut relay = Relay::new(config, front, NOW);
        if let Some(back) = back {
            relay.connected(NOW, back);
        }
        let io = Io {
            secure,
            tally: Tally::new(stream),
            wire: Vec::new(),
            read: 0,
            wire_ended: false,
            out: Vec::new(),
            unsent: 0,
            ends: false,
            stalled: false,
            told_end: false,
        };
        Self { relay, secure, pool: Pool::default(), io, was_secured: false, peer_closed_well: false }
    }

    /// Pumps until there is nothing to do; the backend is dialed once the client is known.
    fn turn(&mut self) {
        let mut ready = PerLeg::both(Ready::BOTH);
        for _ in 0..TURNS {
            if self.relay.outcome().is_some() {
                return;
            }
            let Self { relay, io, pool, .. } = self;
            match pump(relay, io, &mut ready, pool, NOW, BUDGET) {
                Pumped::Again => {}
                Pumped::Idle if self.relay.wants_connect() => {
                    assert!(self.codec().is_secured(), "the backend is touched for a stranger");
                    self.relay.connected(NOW, LegCodec::Plain);
                }
                Pumped::Idle => return,
                Pumped::Done => return self.end(),
            }
        }
        panic!("it goes round and round");
    }

    fn end(&mut self) {
        let outcome = *self.relay.outcome().expect("it is done");
        for leg in Leg::BOTH {
            let flow = outcome.flows[leg];
            assert!(flow.delivered <= flow.read, "{flow:?}");
            assert!(!flow.reason.is_clean() || flow.delivered == flow.read, "{flow:?} is no clean end");
        }
        self.peer_closed_well = outcome.flows[self.secure].reason == EndReason::CloseNotify;
        let failed = |reason| matches!(reason, EndReason::SourceFailed(_) | EndReason::SetupFailed(..));
        if failed(outcome.flows[self.secure].reason) {
            checked_sentence(self.codec());
        }
        self.relay.release(&mut self.pool);
        assert_eq!(self.pool.lent(), 0, "a buffer is missing");
    }

    /// The plain peer is told of an end if there was one, and of nothing else.
    fn check_end(&self) {
        let Some(outcome) = self.relay.outcome() else { return };
        if self.io.told_end {
            let reason = outcome.flows[self.secure].reason;
            assert!(reason.is_clean(), "the peer takes its stream for whole, and it ended as {reason}");
        }
    }

    /// With room before it nothing stays where it is: of what came, and of what the peer sends.
    fn check_nothing_left_undone(&self) {
        if self.relay.outcome().is_some() || self.io.stalled || self.io.out.len() >= SOCKET {
            return;
        }
        let left = self.io.wire.len() - self.io.read;
        assert!(left == 0 || self.io.told_end, "{left} bytes from the network are left unread");
        if self.relay.session().is_up(self.secure) {
            assert_eq!(self.io.unsent, 0, "bytes of the peer's are left unread");
        }
    }
}
