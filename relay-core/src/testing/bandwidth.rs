//! Many sessions on one bucket, with a clock: never more than the rate, a fair share for each who wants it.

use alloc::sync::Arc;
use core::num::NonZeroU64;
use core::time::Duration;
use std::format;
use std::string::String;
use std::vec::Vec;

use super::rng::Rng;
use super::rules::{Rule, Violation, demand_that};
use super::upload::thrown_away;
use crate::bandwidth::{Bucket, Throttle};
use crate::codec::Plain;
use crate::config::Config;
use crate::leg::{Leg, PerLeg};
use crate::pool::{LARGEST, Pool};
use crate::pump::{Pumped, Ready, Transport, TryError, pump_throttled};
use crate::relay::Relay;
use crate::time::Instant;

/// What a session wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Appetite {
    /// All it can get.
    Hungry,
    /// A little, now and then.
    Sips {
        /// So many bytes.
        bytes: u64,
        /// Then nothing for so long.
        pause: Duration,
    },
}

/// A session as far as a bucket knows it.
#[derive(Debug)]
pub struct Client {
    throttle: Throttle,
    appetite: Appetite,
    /// When it looks next.
    at: Instant,
    /// Bytes of the present sip that are still to come.
    wants: u64,
    /// What it has read.
    pub got: u64,
}

/// What was read when.
pub type Reads = Vec<(Instant, u64)>;

impl Client {
    /// One that comes at `at`.
    #[must_use]
    pub fn new(buckets: &[&Arc<Bucket>], appetite: Appetite, at: Instant) -> Self {
        let throttle = Throttle::new(buckets.iter().map(|bucket| Arc::clone(bucket)));
        let wants = match appetite {
            Appetite::Hungry => u64::MAX,
            Appetite::Sips { bytes, .. } => bytes,
        };
        Self { throttle, appetite, at, wants, got: 0 }
    }

    /// Its time has come: reads what it is granted; how much that is.
    fn act(&mut self, late: Duration) -> Result<u64, Violation> {
        let now = self.at;
        let granted = self.throttle.grant(now);
        if granted == 0 {
            let ready = self.throttle.ready_at();
            demand_that(Rule::B2, ready.is_some_and(|at| at > now), || {
                format!("held at {now:?} until {ready:?}")
            })?;
            self.at = ready.unwrap_or(now) + late;
            return Ok(0);
        }
        let bytes = granted.min(self.wants);
        self.throttle.spend(Leg::Front, bytes);
        self.got += bytes;
        // Others who may read now have a turn first, as in a run queue.
        self.at = now + Duration::from_nanos(1);
        if let Appetite::Sips { bytes: sip, pause } = self.appetite {
            self.wants -= bytes;
            if self.wants == 0 {
                self.throttle.settle();
                let ready = self.throttle.ready_at();
                demand_that(Rule::B2, ready.is_none(), || format!("in line for nothing, until {ready:?}"))?;
                (self.wants, self.at) = (sip, now + pause);
            }
        }
        Ok(bytes)
    }
}

/// Whoever's time has come acts, in the order of time, until `end`; each looks up to `late` after its
/// time.
///
/// # Errors
/// B2.
pub fn play(clients: &mut [Client], end: Instant, late: Duration, seed: u64) -> Result<Reads, Violation> {
    let (mut reads, mut rng) = (Vec::new(), Rng::new(seed));
    while let Some(client) =
        clients.iter_mut().min_by_key(|client| client.at).filter(|client| client.at < end)
    {
        let (now, late) = (client.at, rng.next() % (late.as_nanos() as u64 + 1));
        let bytes = client.act(Duration::from_nanos(late))?;
        if bytes > 0 {
            reads.push((now, bytes));
        }
    }
    Ok(reads)
}

/// B1: over each window from one read to another. `late` bytes more if somebody looks late.
///
/// # Errors
/// The first window that has too much.
pub fn check_rate(reads: &[(Instant, u64)], bucket: &Bucket, late: u64) -> Result<(), Violation> {
    for (first, (from, _)) in reads.iter().enumerate() {
        let mut total = 0;
        for (to, bytes) in &reads[first..] {
            total += bytes;
            let time = to.since(*from).as_nanos() * u128::from(bucket.rate().get()) / 1_000_000_000;
            let most = time + u128::from(bucket.burst() + late);
            demand_that(Rule::B1, u128::from(total) <= most, || {
                format!("{total} bytes from {from:?} to {to:?}, {most} at most")
            })?;
        }
    }
    Ok(())
}

/// B3: of so many `clients` the first ones are hungry; each of those has its share.
///
/// # Errors
/// The first that has not.
pub fn check_shares(clients: &[Client], hungry: usize, slice: u64) -> Result<(), Violation> {
    let total: u64 = clients.iter().map(|client| client.got).sum();
    // Those who sip may be hungrier than the rate allows, too.
    let least = total / clients.len() as u64 / 2;
    let most = clients[..hungry].iter().map(|client| client.got).min().map(|got| 2 * got + slice);
    for client in &clients[..hungry] {
        demand_that(Rule::B3, client.got + slice >= least && Some(client.got) <= most, || {
            format!("{} bytes of {total}, {hungry} of {} are hungry", client.got, clients.len())
        })?;
    }
    Ok(())
}

/// When so many slices have flowed.
#[must_use]
pub fn after_slices(bucket: &Bucket, slices: u64, from: Instant) -> Instant {
    let nanos = u128::from(bucket.slice() * slices) * 1_000_000_000 / u128::from(bucket.rate().get());
    from + Duration::from_nanos(nanos as u64)
}

/// B1 although many had taken a place in line and all give back what they got: that is not added up.
fn hoarding(bucket: &Arc<Bucket>) -> Result<(), Violation> {
    let mut now = Instant::ZERO;
    let mut hoard = |count: usize| {
        let mut throttles: Vec<_> = (0..count).map(|_| Throttle::new([Arc::clone(bucket)])).collect();
        for throttle in &mut throttles {
            if throttle.grant(now) == 0 {
                now = throttle.ready_at().unwrap_or(now).max(now);
            }
            throttle.grant(now);
        }
        now
    };
    let now = hoard(100);
    let mut greedy = Throttle::new([Arc::clone(bucket)]);
    let mut got = 0;
    loop {
        match greedy.grant(now) {
            0 => break,
            bytes => {
                got += bytes;
                greedy.spend(Leg::Front, bytes);
            }
        }
    }
    demand_that(Rule::B1, got <= bucket.burst(), || format!("{got} bytes at once, of a hoard"))
}

/// One scene. All of it follows from the seed.
///
/// # Errors
/// The rule that was broken.
pub fn scene(seed: u64) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let rate = (1 << (10 + rng.below(24))) + rng.next() % 1000;
    let rate_of = |rate| NonZeroU64::new(rate).unwrap_or(NonZeroU64::MIN);
    both_ways(rate_of(rate))?;
    thrown_away(seed, seed.is_multiple_of(2)).map_err(|violation| format!("{violation}\n  seed {seed}"))?;
    hoarding(&Arc::new(Bucket::new(rate_of(rate), Instant::ZERO)))
        .map_err(|violation| format!("{violation}\n  seed {seed}, {rate} bytes/s"))?;
    let start = Instant::from_nanos(rng.next() % 10_000_000_000);
    // Nobody has wanted anything until they come.
    let bucket = Arc::new(Bucket::new(rate_of(rate), Instant::ZERO));
    let (hungry, sipping) = (1 + rng.below(12), rng.below(5));
    let mut clients = Vec::new();
    for number in 0..hungry + sipping {
        let pause = Duration::from_micros(1000 + rng.next() % 50_000);
        let sips = Appetite::Sips { bytes: 1 + rng.next() % 2000, pause };
        let appetite = if number < hungry { Appetite::Hungry } else { sips };
        clients.push(Client::new(&[&bucket], appetite, start));
    }
    let end = after_slices(&bucket, 40 * clients.len() as u64, start);
    let story = play(&mut clients, end, Duration::ZERO, rng.next()).and_then(|reads| {
        check_rate(&reads[..reads.len().min(600)], &bucket, 0)?;
        let allowed = end.since(start).as_nanos() * u128::from(rate) / 1_000_000_000;
        let total: u64 = clients.iter().map(|client| client.got).sum();
        let waiting = clients.len() as u64 * bucket.slice();
        demand_that(Rule::B2, u128::from(total + waiting) >= allowed, || {
            format!("{total} bytes of {allowed} were read, although somebody always wanted more")
        })?;
        check_shares(&clients, hungry, bucket.slice())
    });
    story.map_err(|violation| {
        format!("{violation}\n  seed {seed}, {rate} bytes/s, {hungry} hungry, {sipping} sip")
    })
}

/// Peers that send all the time, and take everything.
struct Endless;

impl Transport for Endless {
    fn try_read(&mut self, _: Leg, slices: &mut [&mut [u8]]) -> Result<usize, TryError> {
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }

    fn try_write(&mut self, _: Leg, slices: &[&[u8]]) -> Result<usize, TryError> {
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }

    fn shut_write(&mut self, _: Leg) -> Result<(), TryError> {
        Ok(())
    }
}

/// B3 within one session: neither direction takes what both may.
///
/// # Errors
/// The rule that was broken.
fn both_ways(rate: NonZeroU64) -> Result<(), String> {
    let mut now = Instant::ZERO;
    let bucket = Arc::new(Bucket::new(rate, now));
    let mut throttle = Throttle::new([Arc::clone(&bucket)]);
    let mut relay = Relay::new(Config::new(LARGEST), Plain, now);
    relay.connected(now, Plain);
    let (mut ready, mut pool) = (PerLeg::both(Ready::BOTH), Pool::default());
    for _ in 0..1000 {
        let mut io = Endless;
        while pump_throttled(&mut relay, &mut io, &mut ready, &mut pool, now, LARGEST, Some(&mut throttle))
            == Pumped::Again
        {}
        now = throttle.ready_at().unwrap_or(now);
    }
    let read = relay.stats().read;
    demand_that(Rule::B3, read.front < 2 * read.back && read.back < 2 * read.front, || {
        format!("{rate} bytes/s: read {read:?}")
    })
    .map_err(|violation| format!("{violation}"))
}
