//! Two relays as a migration has them, plain → TLS ⇒ TLS → plain, with memory between them.

use relay_core::{Config, Leg, PerLeg, Pool, Pumped, Ready, Relay, Transport, TryError, pump};
use relay_tls::testing::pki::Authority;
use relay_tls::{ClientTls, LegCodec, ServerTls};

use crate::NOW;

/// What one relay has sent the other and that one has not read.
#[derive(Default)]
struct Wire {
    bytes: Vec<u8>,
    taken: usize,
    fin: bool,
}

/// What the network holds at most, as a socket would.
const HOLDS: usize = 256 << 10;

impl Wire {
    fn read(&mut self, slices: &mut [&mut [u8]]) -> Result<usize, TryError> {
        let mut count = 0;
        for slice in slices {
            let rest = &self.bytes[self.taken..];
            let part = rest.len().min(slice.len());
            slice[..part].copy_from_slice(&rest[..part]);
            self.taken += part;
            count += part;
        }
        if self.taken == self.bytes.len() {
            self.bytes.clear();
            self.taken = 0;
        }
        if count == 0 && !self.fin { Err(TryError::WouldBlock) } else { Ok(count) }
    }

    fn write(&mut self, slices: &[&[u8]]) -> Result<usize, TryError> {
        let room = HOLDS.saturating_sub(self.bytes.len());
        let mut count = 0;
        for slice in slices {
            let part = slice.len().min(room - count);
            self.bytes.extend_from_slice(&slice[..part]);
            count += part;
        }
        if count == 0 { Err(TryError::WouldBlock) } else { Ok(count) }
    }
}

/// Where one relay's bytes come from and go to.
struct Io<'a> {
    /// The leg towards the other relay.
    inner: Leg,
    inward: &'a mut Wire,
    outward: &'a mut Wire,
    /// Bytes that the outer peer has still to send, and has taken.
    left: usize,
    taken: usize,
}

impl Transport for Io<'_> {
    fn try_read(&mut self, leg: Leg, slices: &mut [&mut [u8]]) -> Result<usize, TryError> {
        if leg == self.inner {
            return self.inward.read(slices);
        }
        let count = slices.iter().map(|slice| slice.len()).sum::<usize>().min(self.left);
        self.left -= count;
        Ok(count)
    }

    fn try_write(&mut self, leg: Leg, slices: &[&[u8]]) -> Result<usize, TryError> {
        if leg == self.inner {
            return self.outward.write(slices);
        }
        let count = slices.iter().map(|slice| slice.len()).sum();
        self.taken += count;
        Ok(count)
    }

    fn shut_write(&mut self, leg: Leg) -> Result<(), TryError> {
        if leg == self.inner {
            self.outward.fin = true;
        }
        Ok(())
    }
}

/// Both sides' settings.
#[derive(Debug)]
pub struct Pair {
    client: ClientTls,
    server: ServerTls,
}

impl Pair {
    /// With certificates made on the spot.
    ///
    /// # Panics
    /// If the TLS library does not take them.
    #[must_use]
    pub fn new() -> Self {
        let authority = Authority::new("authority");
        let material = authority.issue("node").trusting(&authority);
        Self {
            client: ClientTls::builder(&material).build().expect("settings"),
            server: ServerTls::builder(&material).build().expect("settings"),
        }
    }

    /// Moves `bytes` from the outer peer of one to that of the other, from accept to close: one mutual
    /// handshake, each byte sealed once and opened once.
    ///
    /// # Panics
    /// If fewer arrive.
    pub fn relay(&self, bytes: usize, pool: &mut Pool) {
        let config = |secure| Config { secure, ..Config::new(256 << 10) };
        let mut source = Relay::new(config(PerLeg::new(false, true)), LegCodec::Plain, NOW);
        let mut target =
            Relay::new(config(PerLeg::new(true, false)), LegCodec::tls(self.server.codec()), NOW);
        let codec = self.client.codec("192.0.2.1").expect("a host");
        source.connected(NOW, LegCodec::tls(codec));
        let (mut there, mut back) = (Wire::default(), Wire::default());
        let (mut left, mut taken) = (bytes, 0);
        let mut over = [false; 2];
        while over != [true; 2] {
            let mut io = Io { inner: Leg::Back, inward: &mut back, outward: &mut there, left, taken: 0 };
            over[0] = turn(&mut source, &mut io, pool);
            left = io.left;
            let mut io = Io { inner: Leg::Front, inward: &mut there, outward: &mut back, left: 0, taken };
            over[1] = turn(&mut target, &mut io, pool);
            taken = io.taken;
        }
        source.release(pool);
        target.release(pool);
        assert_eq!(taken, bytes, "everything arrives");
    }
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether it is over.
fn turn(relay: &mut Relay<LegCodec>, io: &mut Io<'_>, pool: &mut Pool) -> bool {
    if relay.outcome().is_some() {
        return true;
    }
    if relay.wants_connect() {
        relay.connected(NOW, LegCodec::Plain);
    }
    let mut ready = PerLeg::both(Ready::BOTH);
    pump(relay, io, &mut ready, pool, NOW, 1 << 20) == Pumped::Done
}
