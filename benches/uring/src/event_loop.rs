//! Accepts, hands out what is done, lets timers fire.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use relay_core::Instant;
use slab::Slab;
use socket2::Socket;

use crate::connection::{Connection, Pool, Step};
use crate::endpoint::Endpoint;
use crate::ring::{Done, Ring, Work};

/// The listener's name; a connection's has its slot and its step.
const ACCEPT: u64 = u64::MAX;
const STEP_BITS: u32 = 3;
/// How long to wait where there was no descriptor for somebody.
const PAUSE: Duration = Duration::from_millis(100);

/// See the top of this file.
#[derive(Debug)]
pub struct EventLoop {
    ring: Ring,
    listener: Arc<Socket>,
    to: Endpoint,
    start: Clock,
    connections: Slab<Connection>,
    timers: BTreeSet<(Instant, usize)>,
    armed: Vec<Option<Instant>>,
    pool: Pool,
}

impl EventLoop {
    /// One that relays whoever comes to `listener` to `to`.
    #[must_use]
    pub fn new(ring: Ring, listener: Socket, to: Endpoint) -> Self {
        Self {
            ring,
            listener: Arc::new(listener),
            to,
            start: Clock::now(),
            connections: Slab::new(),
            timers: BTreeSet::new(),
            armed: Vec::new(),
            pool: Pool::default(),
        }
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Goes on for as long as the kernel lets it.
    ///
    /// # Errors
    /// As io_uring_enter(2).
    pub fn run(mut self) -> io::Result<()> {
        let mut done = Vec::new();
        self.ring.submit(ACCEPT, &self.listener, Work::Accept)?;
        loop {
            let next = self.timers.first().map(|(at, _)| at.since(self.now()));
            self.ring.wait(next, &mut done)?;
            let now = self.now();
            for done in done.drain(..) {
                self.on_done(now, done)?;
            }
            while let Some(&(at, slot)) = self.timers.first()
                && at <= now
            {
                self.timers.pop_first();
                self.armed[slot] = None;
                self.connections[slot].on_time(now);
                self.advance(now, slot)?;
            }
        }
    }

    fn on_done(&mut self, now: Instant, done: Done) -> io::Result<()> {
        let Done { name, result, buffer, accepted } = done;
        if name == ACCEPT {
            match accepted.map(|front| Connection::new(front, &self.to, now)) {
                Some(Ok(connection)) => {
                    let slot = self.connections.insert(connection);
                    if self.armed.len() <= slot {
                        self.armed.resize(slot + 1, None);
                    }
                    self.advance(now, slot)?;
                }
                // Out of descriptors: they come back as connections end.
                Some(Err(_)) | None => std::thread::sleep(PAUSE),
            }
            self.ring.submit(ACCEPT, &self.listener, Work::Accept)?;
            return Ok(());
        }
        let slot = usize::try_from(name >> STEP_BITS).unwrap_or(usize::MAX);
        let step = Step::of((name & ((1 << STEP_BITS) - 1)) as usize);
        if let (Some(connection), Some(step)) = (self.connections.get_mut(slot), step) {
            connection.on_done(now, step, result, buffer, &mut self.pool);
            self.advance(now, slot)?;
        }
        Ok(())
    }

    /// A slot is not given again before all of its operations are done.
    fn advance(&mut self, now: Instant, slot: usize) -> io::Result<()> {
        let connection = &mut self.connections[slot];
        let name = (slot as u64) << STEP_BITS;
        let needed = connection.advance(now, name, &self.to, &mut self.ring, &mut self.pool)?;
        let deadline = connection.deadline().filter(|_| needed);
        if self.armed[slot] != deadline {
            if let Some(at) = self.armed[slot] {
                self.timers.remove(&(at, slot));
            }
            self.timers.extend(deadline.map(|at| (at, slot)));
            self.armed[slot] = deadline;
        }
        if !needed {
            self.connections.remove(slot);
        }
        Ok(())
    }
}
