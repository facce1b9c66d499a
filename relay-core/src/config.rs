//! What a session is told at its start and never again.

use core::time::Duration;

use crate::leg::PerLeg;

/// A session's limits. Every timer can be off (`None`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Config {
    /// The most plaintext bytes a flow may hold, by the leg it is read from. At least 1.
    ///
    /// A flow that is read from a secure leg holds one record at least, whatever is said here (16,384
    /// bytes with TLS): a record is opened whole or not at all.
    pub capacity: PerLeg<usize>,
    /// Whether a leg has a handshake to complete before anything may move.
    pub secure: PerLeg<bool>,
    /// From when it is Back's turn to be dialed until it is connected. Where there is no order to
    /// keep, its turn comes as soon as Front is up.
    pub dial_timeout: Option<Duration>,
    /// From when a leg is connected until it is secured.
    pub secure_timeout: Option<Duration>,
    /// Without progress in either direction. Off by default: a paused migration is silent for hours
    /// and a healthy one has directions that never speak.
    pub idle_timeout: Option<Duration>,
    /// Without progress once one direction is over and nothing is buffered any more. Progress resets
    /// it. A peer that takes nothing of what waits for it is no business of this timer: what is
    /// buffered may be the end of a complete answer ([`idle_timeout`](Self::idle_timeout) ends that,
    /// where it is set, and on TCP the kernel does).
    pub half_open_timeout: Option<Duration>,
    /// From accept to end, whatever happens.
    pub max_lifetime: Option<Duration>,
    /// How long a leg that has its answer and its FIN, but still uploads what nobody takes, is read
    /// and its bytes thrown away before it is closed. Closing a TCP socket with unread input
    /// destroys what is on its way to the peer (RFC 1122 section 4.2.2.13); a unix socket has no
    /// such trap, so zero is right for it.
    pub linger: PerLeg<Duration>,
}

impl Config {
    /// Room for `capacity` bytes each way, no handshake, no timer, no linger.
    #[must_use]
    pub const fn new(capacity: usize) -> Self {
        Self {
            capacity: PerLeg::both(capacity),
            secure: PerLeg::both(false),
            dial_timeout: None,
            secure_timeout: None,
            idle_timeout: None,
            half_open_timeout: None,
            max_lifetime: None,
            linger: PerLeg::both(Duration::ZERO),
        }
    }
}
