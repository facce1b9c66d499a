//! What a session's loop notes about it, for others to read: counts, without a lock.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use relay_core::flow::Phase;
use relay_core::{EndReason, Instant, Leg, Outcome, PerLeg, Relay, Timer};
use relay_tls::LegCodec;

use crate::census::{Over, Records, Setup};

/// How far a session has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Stage {
    /// One of its peers is proving who it is: the one accepted, or, later, the one dialed.
    Handshake,
    /// Its backend is being dialed, or is about to be.
    Dialing,
    /// Bytes may move.
    Open,
    /// Over, but for bytes that the kernel has not delivered yet.
    Closing,
}

impl Stage {
    const ALL: [Self; 4] = [Self::Handshake, Self::Dialing, Self::Open, Self::Closing];

    fn of(relay: &Relay<LegCodec>) -> Self {
        let up = |leg| relay.session().is_up(leg);
        if relay.outcome().is_some() {
            Self::Closing
        } else if up(Leg::Front) && up(Leg::Back) {
            Self::Open
        } else if relay.wants_connect() {
            Self::Dialing
        } else {
            Self::Handshake
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handshake => "handshake",
            Self::Dialing => "dialing",
            Self::Open => "open",
            Self::Closing => "closing",
        })
    }
}

/// What a session's loop notes about it. Written by that loop only; what others read may be of
/// different moments, each of which has been.
#[derive(Debug)]
pub struct Meter {
    flows: PerLeg<FlowMeter>,
    /// Nanoseconds of the table's clock.
    pub(super) moved: AtomicU64,
    stage: AtomicU8,
    /// By the leg at whose other end they are.
    pub(super) peers: PerLeg<OnceLock<Proven>>,
    /// By the leg that has TLS.
    records: PerLeg<RecordMeter>,
    /// The handshakes that are complete.
    pub(super) secured: PerLeg<AtomicBool>,
    pub(super) connected: AtomicBool,
    /// Bytes of buffers on loan.
    pub(super) lent: AtomicU64,
    /// Last of all.
    pub(super) over: OnceLock<Over>,
}

/// A peer of whom it is known who it is.
#[derive(Debug)]
pub(super) struct Proven {
    pub(super) identity: String,
    /// What the logs of both nodes have in common.
    pub(super) correlation: String,
}

/// As [`Records`].
#[derive(Debug, Default)]
struct RecordMeter {
    sealed: AtomicU64,
    opened: AtomicU64,
    keys_sent: AtomicU64,
    keys_received: AtomicU64,
}

/// By the leg read from, as everywhere.
#[derive(Debug, Default)]
struct FlowMeter {
    read: AtomicU64,
    delivered: AtomicU64,
    is_shut: AtomicBool,
}

impl Meter {
    pub(super) fn new(at: Instant) -> Self {
        Self {
            flows: PerLeg::default(),
            moved: AtomicU64::new(at.as_nanos()),
            stage: AtomicU8::new(Stage::Handshake as u8),
            peers: PerLeg::default(),
            records: PerLeg::default(),
            secured: PerLeg::default(),
            connected: AtomicBool::new(false),
            lent: AtomicU64::new(0),
            over: OnceLock::new(),
        }
    }

    /// Notes where the session stands. To be called after each turn.
    pub fn update(&self, relay: &Relay<LegCodec>) {
        let stats = relay.stats();
        for leg in Leg::BOTH {
            self.flows[leg].read.store(stats.read[leg], Ordering::Relaxed);
            self.flows[leg].delivered.store(stats.delivered[leg], Ordering::Release);
            let is_shut = relay.session().phase(leg) == Phase::Shut;
            self.flows[leg].is_shut.store(is_shut, Ordering::Relaxed);
            if let Some(tls) = relay.codec(leg).and_then(LegCodec::as_tls) {
                let (counts, meter) = (tls.record_counts(), &self.records[leg]);
                meter.sealed.store(counts.sealed, Ordering::Relaxed);
                meter.opened.store(counts.opened, Ordering::Relaxed);
                meter.keys_sent.store(counts.keys_sent, Ordering::Relaxed);
                meter.keys_received.store(counts.keys_received, Ordering::Relaxed);
                self.secured[leg].store(relay.session().is_up(leg), Ordering::Relaxed);
                if let Some(info) = tls.info() {
                    self.peers[leg].get_or_init(|| Proven {
                        identity: info.peer.to_string(),
                        correlation: correlation(&info.correlation),
                    });
                }
            }
        }
        self.connected.store(relay.codec(Leg::Back).is_some(), Ordering::Relaxed);
        self.lent.store(relay.lent() as u64, Ordering::Relaxed);
        self.moved.store(relay.session().last_progress().as_nanos(), Ordering::Relaxed);
        self.stage.store(Stage::of(relay) as u8, Ordering::Relaxed);
        if let Some(outcome) = relay.outcome() {
            self.over.get_or_init(|| over(relay, outcome));
        }
    }

    pub(super) fn records(&self, leg: Leg) -> Records {
        let meter = &self.records[leg];
        Records {
            sealed: meter.sealed.load(Ordering::Relaxed),
            opened: meter.opened.load(Ordering::Relaxed),
            keys_sent: meter.keys_sent.load(Ordering::Relaxed),
            keys_received: meter.keys_received.load(Ordering::Relaxed),
        }
    }

    pub(super) fn moved(&self, leg: Leg) -> Moved {
        let meter = &self.flows[leg];
        // In this order: what is delivered was read before.
        let delivered = meter.delivered.load(Ordering::Acquire);
        let is_shut = meter.is_shut.load(Ordering::Relaxed);
        Moved { read: meter.read.load(Ordering::Relaxed).max(delivered), delivered, is_shut }
    }

    pub(super) fn stage(&self) -> Stage {
        // nothing else is ever stored
        Stage::ALL[usize::from(self.stage.load(Ordering::Relaxed)) % Stage::ALL.len()]
    }
}

/// A correlation as logs show it.
pub(crate) fn correlation(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is to be counted of a session that is over.
fn over(relay: &Relay<LegCodec>, outcome: &Outcome) -> Over {
    let reasons = PerLeg::new(outcome.flows.front.reason, outcome.flows.back.reason);
    // A leg that could not be brought up ends both directions, with one reason.
    let setup = |leg, timer| match reasons.front {
        EndReason::SetupFailed(failed, why) if failed == leg => Setup::Failed(why),
        EndReason::TimedOut(late) if late == timer => Setup::TimedOut,
        EndReason::Eof
        | EndReason::CloseNotify
        | EndReason::SourceFailed(_)
        | EndReason::SinkFailed(_)
        | EndReason::Severed
        | EndReason::SetupFailed(..)
        | EndReason::TimedOut(_)
        | EndReason::Distrusted(..)
        | EndReason::Aborted => Setup::Abandoned,
    };
    let up = |leg| relay.session().is_up(leg);
    let handshake = |leg| {
        let has_tls = relay.codec(leg).and_then(LegCodec::as_tls).is_some();
        has_tls.then(|| if up(leg) { Setup::Done } else { setup(leg, Timer::Secure(leg)) })
    };
    let is_connected = relay.codec(Leg::Back).is_some();
    let dial = if is_connected { Setup::Done } else { setup(Leg::Back, Timer::Dial) };
    Over {
        is_clean: outcome.is_clean(),
        reasons,
        handshakes: PerLeg::new(handshake(Leg::Front), handshake(Leg::Back)),
        dial: (is_connected || up(Leg::Front)).then_some(dial),
    }
}

/// Bytes of one direction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Moved {
    /// Plaintext bytes read from the leg.
    pub read: u64,
    /// Of these, delivered to the other one.
    pub delivered: u64,
    /// It is over: its end was read, and passed on. A session of which that is true is half closed.
    pub is_shut: bool,
}
