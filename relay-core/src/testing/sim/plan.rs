//! What one simulated connection is about. All of it follows from a seed.

use core::num::NonZeroU64;
use core::time::Duration;

use super::super::rng::Rng;
use super::piping::PipeFrom;
use crate::config::Config;
use crate::leg::PerLeg;
use crate::pool::LARGEST;
use crate::time::Instant;

/// Which kinds of trouble a run has. Swarm testing: each is on or off for all of it, so that some
/// runs are all resets and some have none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// Reads and writes move less than they could.
    pub short: bool,
    /// A call would block although it need not; an edge follows.
    pub would_block: bool,
    /// For a while nearly every call does, or is interrupted every time.
    pub storm: bool,
    /// A signal comes first.
    pub interrupted: bool,
    /// Edges that mean nothing.
    pub spurious: bool,
    /// Edges that are seen late.
    pub drowsy: bool,
    /// The network holds few writes, however short they are.
    pub slots: bool,
    /// Peers reset.
    pub reset: bool,
    /// Writes take nothing, or fail for a reason of our own machine; the peer knows nothing of it.
    pub dead_end: bool,
    /// Peers vanish without their orderly end.
    pub truncate: bool,
    /// Peers close without waiting for anything.
    pub hang_up: bool,
    /// Peers of secure legs send what nobody can open.
    pub garbage: bool,
    /// Peers stop reading, or writing, for a while.
    pub stall: bool,
    /// Dials fail, and may be tried again.
    pub dial: bool,
    /// The operator drains or aborts.
    pub stop: bool,
    /// Time jumps while work is waiting.
    pub late: bool,
    /// Front is somebody who must not get in.
    pub stranger: bool,
    /// Peers send data before their handshake is complete.
    pub hasty: bool,
    /// Back is not whom the relay meant to reach.
    pub impostor: bool,
    /// The transport has pipes to lend, now and then.
    pub pipes: bool,
    /// But can't use them.
    pub no_splice: bool,
    /// Peers that were let in are trusted no longer.
    pub distrust: bool,
    /// Peers take nothing any more, and go on sending.
    pub refuse: bool,
    /// Peers whose upload is thrown away go on with it, for as long as anybody reads it.
    pub flood: bool,
}

impl Faults {
    /// Whether they change when things happen, and nothing of what happens in the end.
    pub(super) const fn are_harmless(&self) -> bool {
        let ends = self.reset
            || self.hang_up
            || self.dead_end
            || self.truncate
            || self.garbage
            || self.dial
            || self.stop
            || self.distrust
            || self.refuse;
        let delays = self.stall || self.late;
        let misleads = self.stranger || self.hasty || self.impostor;
        !(ends || delays || misleads)
    }

    /// A choice of them.
    fn choose(rng: &mut Rng) -> Self {
        let mut on = |percent| rng.chance(percent);
        Self {
            short: on(50),
            would_block: on(40),
            storm: on(10),
            interrupted: on(30),
            spurious: on(40),
            drowsy: on(20),
            slots: on(20),
            reset: on(20),
            dead_end: on(5),
            truncate: on(20),
            hang_up: on(20),
            garbage: on(8),
            stall: on(40),
            dial: on(25),
            stop: on(15),
            late: on(25),
            stranger: on(5),
            hasty: on(3),
            impostor: on(5),
            pipes: on(50),
            no_splice: on(5),
            distrust: on(8),
            refuse: on(20),
            flood: on(60),
        }
    }
}

/// When a peer ends its sending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ends {
    /// Once it has sent everything.
    Early,
    /// Once it has also seen the other one's end.
    Late,
}

/// A limit of the rate for every third run. The slowest has sessions wait for longer than any timer of
/// theirs that could mistake it for silence.
pub(super) fn limit(seed: u64, is_bulk: bool) -> Option<NonZeroU64> {
    let mut rng = Rng::new(seed ^ 0xba4d);
    let rates = rates(is_bulk);
    NonZeroU64::new(rates[rng.below(rates.len())]).filter(|_| rng.chance(33))
}

const fn rates(is_bulk: bool) -> [u64; 3] {
    if is_bulk { [100_000, 1 << 20, 1 << 30] } else { [10, 2000, 30_000] }
}

/// A second limit for every other run that has one: what a node has for all its sessions, and for those of one key.
pub(super) fn key_limit(seed: u64, is_bulk: bool, limit: Option<NonZeroU64>) -> Option<NonZeroU64> {
    let (mut rng, rates) = (Rng::new(seed ^ 0x6e7), rates(is_bulk));
    let second = limit.map(|first| match rng.below(3) {
        // about as much, so that now one of them is the narrower one and now the other
        0 => first.saturating_add(rng.next() % (1 + first.get() / 10)),
        1 => NonZeroU64::new(rates[rng.below(rates.len())]).unwrap_or(first),
        _ => first,
    });
    second.filter(|_| rng.chance(50))
}

/// For how long Back may be dialed, and for how long a handshake may last: mostly what a node allows, sometimes
/// anything from a millisecond to a minute, the one less than the other or more, sometimes for ever.
fn timeouts(seed: u64) -> (Option<Duration>, Option<Duration>) {
    let mut rng = Rng::new(seed ^ 0x71e0);
    let mut draw = |usual| match rng.below(10) {
        0..=5 => Some(usual),
        6..=8 => Some(Duration::from_millis((1 << rng.below(16)) + rng.next() % 1000)),
        _ => None,
    };
    (draw(USUAL_DIAL_TIMEOUT), draw(USUAL_SECURE_TIMEOUT))
}

pub(super) const USUAL_DIAL_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const USUAL_SECURE_TIMEOUT: Duration = Duration::from_secs(11);

/// What the clock shows when a story begins: a program's first moment, its first moments, some days, or up to
/// a century. Nobody but the clock is to know the difference.
pub(super) fn epoch(seed: u64) -> Instant {
    const DAY_NANOS: u64 = 86_400_000_000_000;
    let mut rng = Rng::new(seed ^ 0xe90c);
    let longest = [1, 100_000_000, 50 * DAY_NANOS, 36_525 * DAY_NANOS][rng.below(4)];
    Instant::from_nanos(rng.next() % longest)
}

/// What one run is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Tells the whole story.
    pub seed: u64,
    /// Which legs have a handshake.
    pub secure: PerLeg<bool>,
    /// Bytes that each peer sends.
    pub bytes: PerLeg<u64>,
    /// Most bytes that a peer or the network moves at once.
    pub most: usize,
    /// Rounds before healing begins.
    pub chaos: usize,
    /// How rare great trouble is: a reset every so many rounds, about.
    pub calm: usize,
    /// When each peer ends.
    pub ends: PerLeg<Ends>,
    /// The kinds of trouble.
    pub faults: Faults,
    /// Bytes a second that the relay reads, if there is a limit.
    pub limit: Option<NonZeroU64>,
    /// Another such limit, beside that.
    pub key_limit: Option<NonZeroU64>,
    /// What the clock shows at the beginning.
    pub epoch: Instant,
    /// [`Config::dial_timeout`].
    pub dial_timeout: Option<Duration>,
    /// [`Config::secure_timeout`].
    pub secure_timeout: Option<Duration>,
    /// Which flows are to have a pipe, if there is one to lend.
    pub pipe_from: PipeFrom,
}

impl Plan {
    /// The plan that `seed` stands for. Most are short stories, which meet as many states as long
    /// ones; a few are long enough for buffers to grow and keys to wear out.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let secure = PerLeg::new(rng.chance(40), rng.chance(40));
        let (sizes, steps, chaos): (&[usize], _, _) = match rng.below(1000) {
            0..=899 => (&[3, 40, 700], 12, 60),
            900..=979 => (&[3, 40, 700], 60, 400),
            980..=997 => (&[9000, 40_000], 20, 400),
            _ => (&[40, 9000, 100_000], 100, 4000),
        };
        let most = sizes[rng.below(sizes.len())];
        let bound = (most * steps).min(2 << 20);
        let mut bytes = || if rng.chance(10) { 0 } else { rng.below(bound) as u64 };
        let bytes = PerLeg::new(bytes(), bytes());
        let ends = match rng.below(10) {
            0..=5 => PerLeg::both(Ends::Early),
            6 | 7 => PerLeg::new(Ends::Early, Ends::Late),
            _ => PerLeg::new(Ends::Late, Ends::Early),
        };
        let calm = chaos / 4 + rng.below(3 * chaos);
        let chaos = rng.below(chaos);
        let (dial_timeout, secure_timeout) = timeouts(seed);
        let plan = Self {
            seed,
            secure,
            bytes,
            most,
            chaos,
            calm,
            ends,
            faults: Faults::choose(&mut rng),
            limit: None,
            key_limit: None,
            epoch: epoch(seed),
            dial_timeout,
            secure_timeout,
            pipe_from: PipeFrom::choose(seed),
        };
        let limit = limit(seed, plan.is_bulk());
        Self { limit, key_limit: key_limit(seed, plan.is_bulk(), limit), ..plan }
    }

    /// So much is sent that it must not go byte by byte.
    #[must_use]
    pub const fn is_bulk(&self) -> bool {
        self.bytes.front + self.bytes.back > 2000
    }

    /// The session's limits.
    #[must_use]
    pub fn config(&self) -> Config {
        let mut rng = Rng::new(self.seed ^ 0xc0f1);
        let mut limit = |percent, secs| rng.chance(percent).then(|| Duration::from_secs(secs));
        let timers = Config {
            dial_timeout: self.dial_timeout,
            secure_timeout: self.secure_timeout,
            idle_timeout: limit(10, 40),
            half_open_timeout: limit(80, 60),
            max_lifetime: limit(10, 3600),
            ..Config::new(1)
        };
        // Small ones are less than a record of most secure legs.
        let capacities = [16_384, 40_000, LARGEST];
        let small = [1, 2, 10, 300];
        let mut capacity = || {
            if self.is_bulk() || rng.chance(50) {
                capacities[rng.below(capacities.len())]
            } else {
                small[rng.below(small.len())]
            }
        };
        Config {
            capacity: PerLeg::new(capacity(), capacity()),
            secure: self.secure,
            linger: PerLeg::new(rng.next() % 2, rng.next() % 2).map(Duration::from_secs),
            ..timers
        }
    }
}
