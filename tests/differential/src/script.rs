//! What is done, in which order.

use proptest::collection::vec;
use proptest::prelude::*;

/// One of the two who talk through the relays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// It connects to the first relay.
    Client,
    /// The last relay connects to it.
    Server,
}

impl Side {
    /// The opposite one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// A kind of socket at an end of the road.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A unix socket.
    Unix,
    /// TCP.
    Tcp,
}

/// How bytes get from the client to the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Road {
    /// Where the client connects.
    pub front: Kind,
    /// What the server is.
    pub back: Kind,
    /// Two relays, and whether there is TLS between them; one otherwise.
    pub middle: Option<bool>,
}

/// One step. A step that is not possible where it stands is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// So many bytes in so many writes, which nobody reads for now.
    Send(Side, usize, usize),
    /// Reads all that was sent to it.
    Receive(Side),
    /// So many bytes, more than fit anywhere, read while they are written; after a pause, or at once.
    Transfer(Side, usize, bool),
    /// Says that it sends no more; the other one reads up to that end.
    HalfClose(Side),
    /// Closes its socket, whatever is unread in it. The last step.
    Close(Side),
    /// Resets its connection; a unix socket, which cannot, is closed. The last step.
    Reset(Side),
    /// The operator ends the session, at the first relay or the last. The last step.
    End(bool),
    /// The operator aborts the first relay or the last. The last step.
    Abort(bool),
    /// The operator lets the first relay or the last drain, which then goes on with what is open.
    Drain(bool),
}

/// All of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Script {
    /// Where.
    pub road: Road,
    /// With how many threads.
    pub threads: usize,
    /// What.
    pub steps: Vec<Step>,
}

fn sides() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Client), Just(Side::Server)]
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Unix), Just(Kind::Tcp)]
}

fn steps() -> impl Strategy<Value = Step> {
    // around the sizes of records and buffers, and anything between
    let short = prop_oneof![1..100_usize, 4_000..4_200_usize, 16_300..16_500_usize, 1..20_000_usize];
    let long = prop_oneof![1..200_000_usize, 262_000..263_000_usize, 200_000..1_500_000_usize];
    prop_oneof![
        6 => (sides(), short, 1..5_usize).prop_map(|(side, len, writes)| Step::Send(side, len, writes)),
        3 => sides().prop_map(Step::Receive),
        3 => (sides(), long, any::<bool>()).prop_map(|(side, len, pause)| Step::Transfer(side, len, pause)),
        2 => sides().prop_map(Step::HalfClose),
        1 => sides().prop_map(Step::Close),
        1 => sides().prop_map(Step::Reset),
        1 => any::<bool>().prop_map(Step::End),
        1 => any::<bool>().prop_map(Step::Abort),
        1 => any::<bool>().prop_map(Step::Drain),
    ]
}

/// Any script.
pub fn scripts() -> impl Strategy<Value = Script> {
    let roads = (kinds(), kinds(), proptest::option::of(any::<bool>()))
        .prop_map(|(front, back, middle)| Road { front, back, middle });
    (roads, 1..3_usize, vec(steps(), 0..12)).prop_map(|(road, threads, steps)| Script {
        road,
        threads,
        steps,
    })
}
