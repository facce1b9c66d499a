//! How a session ended, in words that stay.

use core::fmt;

use super::Timer;
use crate::error::Failure;
use crate::leg::{Leg, PerLeg};

/// Why a peer that had proved who it is would not be let in any more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Distrust {
    /// A certificate of its chain has ended.
    Expired,
    /// A certificate of its chain was revoked.
    Revoked,
    /// Anything else: its authority is gone, its revocation status is not known, it is not whom we expect.
    Unverified,
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Unverified => "unverified",
        })
    }
}

/// Why a direction ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum EndReason {
    /// The source's FIN; everything was delivered and the FIN passed on.
    Eof,
    /// The same on a secure leg: the source's close_notify.
    CloseNotify,
    /// Reading from the source failed. What was read before was delivered if the sink took it.
    SourceFailed(Failure),
    /// Writing to the sink failed.
    SinkFailed(Failure),
    /// The opposite direction ended badly, and took this one's source along.
    Severed,
    /// A leg could not be brought up: dial or handshake failed.
    SetupFailed(Leg, Failure),
    /// A timer fired.
    TimedOut(Timer),
    /// The operator aborted.
    Aborted,
    /// This leg's peer, once let in, would not be let in any more.
    Distrusted(Leg, Distrust),
}

impl EndReason {
    /// Whether everything the source sent reached the sink, FIN included.
    #[must_use]
    pub const fn is_clean(self) -> bool {
        matches!(self, Self::Eof | Self::CloseNotify)
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Eof => f.write_str("eof"),
            Self::CloseNotify => f.write_str("close-notify"),
            Self::SourceFailed(failure) => write!(f, "source-{failure}"),
            Self::SinkFailed(failure) => write!(f, "sink-{failure}"),
            Self::Severed => f.write_str("severed"),
            Self::SetupFailed(leg, failure) => write!(f, "{leg}-setup-{failure}"),
            Self::TimedOut(timer) => write!(f, "timeout-{timer}"),
            Self::Aborted => f.write_str("aborted"),
            Self::Distrusted(leg, why) => write!(f, "{leg}-{why}"),
        }
    }
}

/// How a leg is to be closed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Close {
    /// Just close it: it has all it was to get.
    Orderly,
    /// Something may be missing: the peer must not take what it got for the whole. Reset it, once
    /// the kernel has delivered what it was given.
    Reset,
    /// The same, but the connection is dead already: close it and wait for nothing. The kernel keeps
    /// counting bytes as undelivered that it has given up (tcp(7), SIOCOUTQ after a reset).
    Dead,
}

/// How one direction went.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowEnd {
    /// Why it ended.
    pub reason: EndReason,
    /// Plaintext bytes read from the source.
    pub read: u64,
    /// Of these, bytes that the sink took.
    pub delivered: u64,
}

/// A closed session's result. Final.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Outcome {
    /// By the leg read from.
    pub flows: PerLeg<FlowEnd>,
    /// How to close each leg.
    pub close: PerLeg<Close>,
}

impl Outcome {
    /// Whether both directions ended well.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.flows.front.reason.is_clean() && self.flows.back.reason.is_clean()
    }
}
