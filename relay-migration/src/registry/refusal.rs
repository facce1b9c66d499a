//! Why a request was refused.

use std::fmt;

use super::input::{Name, Owner, Side};
use crate::channel::Channel;
use crate::ports::PortRange;

/// Who can do something about a listener that could not be opened.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fault {
    /// Whoever put something where its socket was to be.
    Place,
    /// Whoever asked.
    Request,
    /// Whoever cares for the machine.
    System,
}

/// Why a request was refused. What was in force before still is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// Nothing new is taken. In upstream's words, which others wait for.
    ShuttingDown,
    /// There is nothing to listen for.
    Empty(Side),
    /// As many migrations as allowed.
    TooMany {
        /// So many.
        max: usize,
    },
    /// A lease of no time, or of more than a year.
    BadLease,
    /// As many wait for this change as allowed.
    TooManyWaiting,
    /// No port of the range is free.
    PortsExhausted {
        /// Which range.
        range: PortRange,
        /// So many are this relay's.
        ours: usize,
        /// So many are others'.
        others: usize,
    },
    /// A listener could not be opened.
    OpenFailed {
        /// For which channel.
        channel: Channel,
        /// Where.
        at: String,
        /// One line.
        why: String,
        /// Whose it is to mend.
        fault: Fault,
    },
    /// A socket file could not be given to its owner.
    OwnFailed {
        /// For which channel.
        channel: Channel,
        /// To whom.
        owner: Owner,
        /// In the operating system's words.
        why: String,
    },
    /// A listener closed by itself.
    Lost {
        /// Whose.
        channel: Channel,
        /// In the operating system's words.
        why: String,
    },
    /// Another request for the same side of the same migration came before this one was done.
    Superseded,
    /// It was deleted before this one was done.
    Deleted,
    /// The shutdown's time had come.
    Stopped,
    /// There is no such migration here.
    Unknown(Name),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShuttingDown => {
                f.write_str("unable to process new migration connections during virt-handler shutdown")
            }
            Self::Empty(Side::Target) => {
                f.write_str("there are no backends; name at least one channel's socket")
            }
            Self::Empty(Side::Source) => f.write_str("there are no ports; name at least one channel's port"),
            Self::TooMany { max } => {
                write!(f, "there are {max} migrations already, which is the limit; delete one that is over")
            }
            Self::BadLease => f.write_str("a lease is longer than 0 and at most 366 days"),
            Self::TooManyWaiting => {
                f.write_str("too many wait for the same change; ask again when it is done")
            }
            Self::PortsExhausted { range, ours, others } => write!(
                f,
                "no port of {range} is free: {ours} are this relay's, {others} are others'; widen the range, or delete migrations that are over"
            ),
            Self::OpenFailed { channel, at, why, fault: _ } => {
                write!(f, "can't listen for channel {channel} at {at}: {why}")
            }
            Self::OwnFailed { channel, owner, why } => {
                write!(f, "can't give the socket of channel {channel} to {owner}: {why}")
            }
            Self::Lost { channel, why } => write!(f, "the listener of channel {channel} was lost: {why}"),
            Self::Superseded => f.write_str("another request for the same migration came in between"),
            Self::Deleted => f.write_str("the migration was deleted in between"),
            Self::Stopped => f.write_str("the relay was stopped in between"),
            Self::Unknown(name) => write!(f, "there is no {name} here"),
        }
    }
}

impl std::error::Error for Refusal {}
