//! Why an operation on a leg failed, sorted by what it means to a relay.

use core::fmt;

/// What went wrong on one leg.
///
/// A class rather than a message: `Copy`, comparable and hashable, so that it can be part of a
/// session's state. The words behind it (an operating system's, a TLS library's) are logged by
/// whoever met them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Failure {
    /// The peer reset the connection (ECONNRESET, ECONNABORTED).
    Reset,
    /// The peer no longer takes bytes (EPIPE).
    BrokenPipe,
    /// The kernel gave up waiting for the peer (ETIMEDOUT: keepalive, TCP_USER_TIMEOUT).
    TimedOut,
    /// Nobody listens at the address dialed (ECONNREFUSED).
    Refused,
    /// The unix socket dialed does not exist (ENOENT).
    NotFound,
    /// There is no way to the address dialed (EHOSTUNREACH, ENETUNREACH, EADDRNOTAVAIL).
    Unreachable,
    /// We may not reach it (EACCES, EPERM).
    Denied,
    /// The listener's backlog is full (EAGAIN from connect(2) on a unix socket): worth a retry.
    Busy,
    /// The process or the machine has no descriptors or memory left (EMFILE, ENFILE, ENOBUFS, ENOMEM).
    Exhausted,
    /// The connection ended in the middle of a handshake or without the codec's orderly end
    /// (RFC 8446 section 6.1: no `close_notify`).
    Truncated,
    /// The peer sent what the codec does not allow (a bad record, plaintext to a TLS port).
    Protocol,
    /// The peer's certificate or identity was not accepted by us.
    Rejected,
    /// The peer ended the session with this fatal alert (RFC 8446 section 6.2).
    Alert(u8),
    /// The peer had to make room for others before it had proved who it is
    /// ([`Gate`](crate::admission::Gate)).
    Evicted,
    /// The peer closed the connection in both directions before anything could be relayed.
    HungUp,
    /// A key may not protect any more bytes and could not be renewed (RFC 8446 section 5.5).
    KeyExhausted,
    /// A write took nothing although bytes were offered.
    WriteZero,
    /// Any other error number of the operating system.
    Os(i32),
    /// An error without a number or a meaning that is known: of a stream that is no socket.
    Other,
}

impl Failure {
    /// Whether the connection itself is dead: nothing can be sent or received on it any more, and
    /// what the kernel still holds for it goes nowhere. Its peer knows, or is gone.
    ///
    /// Whatever else fails, out of memory or for a reason that nobody here knows, leaves a peer that has
    /// noticed nothing: just closed, it would take what it got for the whole.
    #[must_use]
    pub const fn is_of_transport(self) -> bool {
        match self {
            Self::Reset
            | Self::BrokenPipe
            | Self::TimedOut
            | Self::Refused
            | Self::NotFound
            | Self::Unreachable
            | Self::HungUp => true,
            Self::Denied
            | Self::Busy
            | Self::Exhausted
            | Self::WriteZero
            | Self::Os(_)
            | Self::Other
            | Self::Evicted
            | Self::Truncated
            | Self::Protocol
            | Self::Rejected
            | Self::Alert(_)
            | Self::KeyExhausted => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Self::Reset => "reset",
            Self::BrokenPipe => "broken-pipe",
            Self::TimedOut => "unresponsive",
            Self::Refused => "refused",
            Self::NotFound => "not-found",
            Self::Unreachable => "unreachable",
            Self::Denied => "denied",
            Self::Busy => "busy",
            Self::Exhausted => "exhausted",
            Self::Truncated => "truncated",
            Self::Protocol => "protocol",
            Self::Rejected => "rejected",
            Self::KeyExhausted => "key-exhausted",
            Self::WriteZero => "write-zero",
            Self::Evicted => "evicted",
            Self::HungUp => "hung-up",
            Self::Other => "other-error",
            Self::Alert(code) => return write!(f, "alert-{code}"),
            Self::Os(number) => return write!(f, "errno-{number}"),
        };
        f.write_str(word)
    }
}

impl core::error::Error for Failure {}
