//! A pair of relays, each a process of its own, and a load that goes through both:
//!
//! ```text
//! client -> unix socket -> source ==TCP, plain or mutual TLS 1.3==> target -> unix socket -> sink
//! ```
//!
//! A relay here is one of five [`Loop`]s. They are this very program: [`serve_if_asked`] makes it one.

mod copying;
mod joining;
mod load;
mod pair;
mod pki;
mod report;
mod serving;

pub use load::{Connection, Flood, bulk, connections};
pub use pair::Pair;
pub use report::{Measure, Report, Sample};
pub use serving::serve_if_asked;

/// Who moves the bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Loop {
    /// relay-mio, the node.
    Mio,
    /// relay-tokio, the node.
    Tokio,
    /// `relay_tokio::relay`, the function, in a program like that for `copy_bidirectional`.
    Relay,
    /// `tokio::io::copy_bidirectional` with buffers of 64 KiB; with TLS, of tokio-rustls.
    Copy,
    /// A thread for each direction with `std::io::copy`, which splices. It has no TLS: a rustls session
    /// can't be shared by two threads without a lock around both directions.
    Threads,
}

impl Loop {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Mio, Self::Tokio, Self::Relay, Self::Copy, Self::Threads];

    /// As it is called in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mio => "relay-mio",
            Self::Tokio => "relay-tokio",
            Self::Relay => "relay()",
            Self::Copy => "copy_bidirectional",
            Self::Threads => "threads",
        }
    }

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }

    /// Whether it can be measured so.
    #[must_use]
    pub fn has(self, mode: Mode) -> bool {
        (self, mode) != (Self::Threads, Mode::Tls)
    }
}

/// What is between the two relays.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Mode {
    /// Plain TCP.
    Plain,
    /// Mutual TLS 1.3, AES-128-GCM.
    Tls,
}

impl Mode {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Plain, Self::Tls];

    /// As it is called in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tls => "mTLS",
        }
    }
}
