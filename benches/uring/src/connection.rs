//! One session: the ledger, its sockets, and what is under way for it.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use relay_core::admission::{Linger, Lingering};
use relay_core::flow::Phase;
use relay_core::{Close, Config, Failure, Input, Instant, Leg, PerLeg, Session};
use socket2::{Domain, Socket};

use crate::endpoint::Endpoint;
use crate::ring::{Key, Ring, Work};

/// What a first read is offered, and what one that follows a read that was filled is.
const SMALL: usize = 4 << 10;
const LARGE: usize = 256 << 10;
/// A flow has one buffer being filled and one being emptied.
const CAPACITY: usize = 2 * LARGE;
/// Buffers of either size kept for the next one.
const KEPT: usize = 16;

/// What an operation of a connection's was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Connect,
    Read(Leg),
    Write(Leg),
    ShutDown(Leg),
}

impl Step {
    const ALL: [Self; 7] = [
        Self::Connect,
        Self::Read(Leg::Front),
        Self::Read(Leg::Back),
        Self::Write(Leg::Front),
        Self::Write(Leg::Back),
        Self::ShutDown(Leg::Front),
        Self::ShutDown(Leg::Back),
    ];

    fn number(self) -> usize {
        Self::ALL.iter().position(|step| *step == self).unwrap_or(0)
    }

    pub(crate) fn of(number: usize) -> Option<Self> {
        Self::ALL.get(number).copied()
    }
}

/// Bytes of a flow, in order.
#[derive(Debug)]
struct Chunk {
    buffer: Vec<u8>,
    from: usize,
    to: usize,
}

/// Buffers that nobody uses.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
}

impl Pool {
    fn of(&mut self, size: usize) -> (&mut Vec<Vec<u8>>, usize) {
        if size <= SMALL { (&mut self.small, SMALL) } else { (&mut self.large, LARGE) }
    }

    fn take(&mut self, size: usize) -> Vec<u8> {
        let (kept, length) = self.of(size);
        kept.pop().unwrap_or_else(|| vec![0; length])
    }

    fn give(&mut self, buffer: Vec<u8>) {
        let (kept, _) = self.of(buffer.len());
        if kept.len() < KEPT {
            kept.push(buffer);
        }
    }
}

/// See the top of this file.
#[derive(Debug)]
pub(crate) struct Connection {
    session: Session,
    sockets: PerLeg<Arc<Socket>>,
    /// Read from this leg, not yet handed to the kernel again.
    waiting: PerLeg<VecDeque<Chunk>>,
    /// Handed to the kernel, to be written to this leg: from where to where.
    sending: PerLeg<(usize, usize)>,
    /// What the next read is offered.
    appetite: PerLeg<usize>,
    under_way: [Option<Key>; Step::ALL.len()],
    cancelled: bool,
    lingering: PerLeg<Option<Lingering>>,
    look_again: Option<Instant>,
}

impl Connection {
    /// For somebody just accepted.
    ///
    /// # Errors
    /// As socket(2).
    pub(crate) fn new(front: Socket, to: &Endpoint, now: Instant) -> io::Result<Self> {
        let back = to.socket()?;
        if front.domain()? != Domain::UNIX {
            front.set_tcp_nodelay(true)?;
        }
        let config = Config {
            dial_timeout: Some(Duration::from_secs(10)),
            half_open_timeout: Some(Duration::from_secs(300)),
            linger: PerLeg::both(Duration::from_secs(5)),
            ..Config::new(CAPACITY)
        };
        Ok(Self {
            session: Session::new(config, now),
            sockets: PerLeg::new(Arc::new(front), Arc::new(back)),
            waiting: PerLeg::default(),
            sending: PerLeg::default(),
            appetite: PerLeg::both(SMALL),
            under_way: [None; Step::ALL.len()],
            cancelled: false,
            lingering: PerLeg::default(),
            look_again: None,
        })
    }

    /// When [`on_time`](Self::on_time) is next to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.session.next_timeout().map(|(at, _)| at).or(self.look_again)
    }

    pub(crate) fn on_time(&mut self, now: Instant) {
        self.session.handle_timeout(now);
    }

    /// Takes note of what became of an operation.
    pub(crate) fn on_done(
        &mut self,
        now: Instant,
        step: Step,
        result: io::Result<usize>,
        buffer: Option<Vec<u8>>,
        pool: &mut Pool,
    ) {
        self.under_way[step.number()] = None;
        let result = result.map_err(|error| failure(&error));
        match step {
            Step::Connect => self.tell_if(
                now,
                self.session.demand(Leg::Back).connect,
                match result {
                    Ok(_) => Input::Connected(Leg::Back),
                    Err(failure) => Input::ReadFailed(Leg::Back, failure),
                },
            ),
            Step::Read(leg) => self.on_read(now, leg, result, buffer, pool),
            Step::Write(leg) => self.on_written(now, leg, result, buffer, pool),
            Step::ShutDown(leg) => self.tell_if(
                now,
                self.session.demand(leg).shutdown,
                match result {
                    Ok(_) => Input::ShutDown(leg),
                    Err(failure) => Input::WriteFailed(leg, failure),
                },
            ),
        }
    }

    /// What was submitted may have ceased to be demanded meanwhile: then nobody wants to know.
    fn tell_if(&mut self, now: Instant, wanted: bool, input: Input) {
        if wanted && !self.is_over() {
            self.session.handle(now, input);
        }
    }

    fn on_read(
        &mut self,
        now: Instant,
        leg: Leg,
        result: Result<usize, Failure>,
        buffer: Option<Vec<u8>>,
        pool: &mut Pool,
    ) {
        let Some(buffer) = buffer else { return };
        let discards = self.session.phase(leg) == Phase::Discarding;
        let wanted = self.session.demand(leg).read > 0;
        match result {
            Ok(count) if count > 0 && wanted && !discards => {
                self.appetite[leg] = if count == buffer.len() || count > SMALL { LARGE } else { SMALL };
                self.waiting[leg].push_back(Chunk { buffer, from: 0, to: count });
            }
            Ok(_) | Err(_) => pool.give(buffer),
        }
        self.tell_if(
            now,
            wanted,
            match result {
                Ok(0) => Input::Eof(leg),
                Ok(count) => Input::Read(leg, count),
                Err(failure) => Input::ReadFailed(leg, failure),
            },
        );
    }

    fn on_written(
        &mut self,
        now: Instant,
        leg: Leg,
        result: Result<usize, Failure>,
        buffer: Option<Vec<u8>>,
        pool: &mut Pool,
    ) {
        let Some(buffer) = buffer else { return };
        let (from, to) = self.sending[leg];
        let input = match result {
            Ok(0) => Input::WriteFailed(leg, Failure::WriteZero),
            Ok(count) => Input::Wrote(leg, count),
            Err(failure) => Input::WriteFailed(leg, failure),
        };
        match result {
            Ok(count) if count > 0 && from + count < to => {
                self.waiting[leg.other()].push_front(Chunk { buffer, from: from + count, to });
            }
            Ok(_) | Err(_) => pool.give(buffer),
        }
        self.tell_if(now, self.session.demand(leg).write > 0, input);
        if let Input::WriteFailed(..) = input {
            self.waiting[leg.other()].drain(..).for_each(|chunk| pool.give(chunk.buffer));
        }
    }

    fn is_over(&self) -> bool {
        self.session.outcome().is_some()
    }

    fn is_under_way(&self, step: Step) -> bool {
        self.under_way[step.number()].is_some()
    }

    /// Submits what is demanded and not under way; whether the connection is still needed. `name` has room
    /// for the number of a step.
    ///
    /// # Errors
    /// As io_uring_enter(2).
    pub(crate) fn advance(
        &mut self,
        now: Instant,
        name: u64,
        to: &Endpoint,
        ring: &mut Ring,
        pool: &mut Pool,
    ) -> io::Result<bool> {
        if self.is_over() {
            return self.wind_up(now, ring, pool);
        }
        for leg in Leg::BOTH {
            let demand = self.session.demand(leg);
            if demand.connect && !self.is_under_way(Step::Connect) {
                self.submit(Step::Connect, name, Work::Connect(Box::new(to.address()?)), ring)?;
            }
            let writing = self.is_under_way(Step::Write(leg));
            if demand.write > 0
                && !writing
                && let Some(Chunk { buffer, from, to }) = self.waiting[leg.other()].pop_front()
            {
                self.sending[leg] = (from, to);
                self.submit(Step::Write(leg), name, Work::Send(buffer, from, to), ring)?;
            }
            if demand.shutdown && !self.is_under_way(Step::ShutDown(leg)) {
                self.submit(Step::ShutDown(leg), name, Work::ShutDown, ring)?;
            }
            let size = self.appetite[leg].min(demand.read);
            // Half a buffer is not worth a system call while the other half is being emptied.
            let worth = size == self.appetite[leg] || self.session.buffered(leg) == 0;
            if size > 0 && worth && !self.is_under_way(Step::Read(leg)) {
                self.submit(Step::Read(leg), name, Work::Receive(pool.take(size), size), ring)?;
            }
        }
        Ok(true)
    }

    fn submit(&mut self, step: Step, name: u64, work: Work, ring: &mut Ring) -> io::Result<()> {
        let leg = match step {
            Step::Connect => Leg::Back,
            Step::Read(leg) | Step::Write(leg) | Step::ShutDown(leg) => leg,
        };
        let key = ring.submit(name | step.number() as u64, &self.sockets[leg], work)?;
        self.under_way[step.number()] = Some(key);
        Ok(())
    }

    /// The session is closed: takes back what the kernel has, then closes the sockets as they are to be.
    fn wind_up(&mut self, now: Instant, ring: &mut Ring, pool: &mut Pool) -> io::Result<bool> {
        if !self.cancelled {
            self.cancelled = true;
            for key in self.under_way.into_iter().flatten() {
                ring.cancel(key)?;
            }
            for leg in Leg::BOTH {
                self.waiting[leg].drain(..).for_each(|chunk| pool.give(chunk.buffer));
            }
        }
        if self.under_way.iter().any(Option::is_some) {
            return Ok(true);
        }
        self.look_again = None;
        for leg in Leg::BOTH {
            if let Some(until) = self.linger(now, leg) {
                self.look_again = Some(self.look_again.map_or(until, |known| known.min(until)));
            }
        }
        Ok(self.look_again.is_some())
    }

    /// When to look again whether a leg that is to be reset has delivered its last bytes.
    fn linger(&mut self, now: Instant, leg: Leg) -> Option<Instant> {
        let reset = self.session.outcome().is_some_and(|outcome| outcome.close[leg] == Close::Reset);
        let socket = &self.sockets[leg];
        if !reset || socket.domain().ok()? == Domain::UNIX {
            return None;
        }
        let dead = !matches!(socket.take_error(), Ok(None));
        let unsent =
            if dead { 0 } else { relay_sys::unsent(std::os::fd::AsFd::as_fd(&**socket)).unwrap_or(0) };
        match self.lingering[leg].get_or_insert_with(|| Lingering::new(now)).look(now, unsent) {
            Linger::Wait { until } => Some(until),
            Linger::CloseNow => {
                // Should it fail, the socket is closed in good order; nothing better can be done.
                let _ = socket.set_linger(Some(Duration::ZERO));
                None
            }
        }
    }
}

/// The classes that a plain session can meet.
fn failure(error: &io::Error) -> Failure {
    match error.raw_os_error() {
        Some(libc::ECONNRESET | libc::ECONNABORTED) => Failure::Reset,
        Some(libc::EPIPE) => Failure::BrokenPipe,
        Some(libc::ETIMEDOUT) => Failure::TimedOut,
        Some(libc::ECONNREFUSED) => Failure::Refused,
        Some(libc::ENOENT) => Failure::NotFound,
        Some(libc::EAGAIN) => Failure::Busy,
        number => Failure::Os(number.unwrap_or(0)),
    }
}
