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
    /// Mutual TLS on TCP; of a client only.
    Tls,
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

impl Step {
    /// Whether nothing comes after it.
    pub(crate) const fn is_last(self) -> bool {
        match self {
            Self::Close(_) | Self::Reset(_) | Self::End(_) | Self::Abort(_) => true,
            Self::Send(..) | Self::Receive(_) | Self::Transfer(..) | Self::HalfClose(_) | Self::Drain(_) => {
                false
            }
        }
    }

    /// Whether only the peers take part in it, and wait for each other.
    const fn is_among_peers(self) -> bool {
        !self.is_last() && !matches!(self, Self::Drain(_))
    }
}

/// What ends the wait for a backend that is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Absence {
    /// The dial timeout. With one relay only: another one might be told before it has looked.
    Timeout,
    /// The operator lets the relay drain.
    Drain,
    /// The operator ends the session.
    End,
    /// The operator aborts the relay.
    Abort,
}

/// Somebody at a TLS front who does not get in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stranger {
    /// It has no certificate.
    Nameless,
    /// It has one of another authority.
    Foreign,
    /// It speaks HTTP.
    Plaintext,
    /// It says nothing; the handshake timeout ends it.
    Silent,
}

/// What the script is about, if not only about its steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plot {
    /// The steps, with no limit that is ever reached.
    Steps,
    /// After the steps, as far as they leave the session open, the first relay or the last drains, and its
    /// deadline comes.
    Deadline(bool),
    /// There is no backend; no steps.
    Absent(Absence),
    /// One relay and no steps: nobody says anything until the idle timer has fired.
    Idle,
    /// One relay and no steps: the client sends so many bytes and ends, the server says nothing until the
    /// half-open timer has fired.
    HalfOpen(usize),
    /// One relay with a TLS front, and no steps.
    Refused(Stranger),
    /// No steps: this one, by TCP, sends so many bytes and resets; the other one, by TCP with little room,
    /// reads only once all sessions are over.
    LastBytes(Side, usize),
}

/// All of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Script {
    /// Where.
    pub road: Road,
    /// With how many threads.
    pub threads: usize,
    /// What about.
    pub plot: Plot,
    /// What.
    pub steps: Vec<Step>,
}

impl Script {
    /// What a plot needs of its road, and no steps where there is no place for them.
    #[must_use]
    pub fn fitting(mut self) -> Self {
        match self.plot {
            Plot::Deadline(_) if self.road.middle.is_none() => {
                self.plot = Plot::Deadline(true); // the only one is the last one
                return self;
            }
            Plot::Steps | Plot::Deadline(_) => return self,
            Plot::Absent(Absence::Timeout) | Plot::Idle | Plot::HalfOpen(_) => self.road.middle = None,
            Plot::Absent(_) => {}
            Plot::Refused(_) => self.road = Road { front: Kind::Tls, middle: None, ..self.road },
            Plot::LastBytes(..) => self.road = Road { front: Kind::Tcp, back: Kind::Tcp, ..self.road },
        }
        self.steps.clear();
        self
    }
}

fn sides() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Client), Just(Side::Server)]
}

fn roads() -> impl Strategy<Value = Road> {
    let fronts = prop_oneof![2 => Just(Kind::Unix), 2 => Just(Kind::Tcp), 1 => Just(Kind::Tls)];
    let backs = prop_oneof![Just(Kind::Unix), Just(Kind::Tcp)];
    (fronts, backs, proptest::option::of(any::<bool>())).prop_map(|(front, back, middle)| Road {
        front,
        back,
        middle,
    })
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

fn plots() -> impl Strategy<Value = Plot> {
    let absences = vec![Absence::Timeout, Absence::Drain, Absence::End, Absence::Abort];
    let strangers = vec![Stranger::Nameless, Stranger::Foreign, Stranger::Plaintext, Stranger::Silent];
    prop_oneof![
        16 => Just(Plot::Steps),
        2 => any::<bool>().prop_map(Plot::Deadline),
        2 => prop::sample::select(absences).prop_map(Plot::Absent),
        1 => Just(Plot::Idle),
        1 => (1..60_000_usize).prop_map(Plot::HalfOpen),
        2 => prop::sample::select(strangers).prop_map(Plot::Refused),
        2 => (sides(), 20_000..60_000_usize).prop_map(|(side, len)| Plot::LastBytes(side, len)),
    ]
}

/// Any script.
pub fn scripts() -> impl Strategy<Value = Script> {
    (roads(), 1..3_usize, plots(), vec(steps(), 0..12))
        .prop_map(|(road, threads, plot, steps)| Script { road, threads, plot, steps }.fitting())
}

/// Scripts without an operator, and without a client in TLS, in which the peers wait for nobody but each other:
/// those that can be told to relays of which nothing can be asked while they run.
pub fn scripts_among_peers() -> impl Strategy<Value = Script> {
    let steps = vec(steps().prop_filter("among peers", |step| step.is_among_peers()), 0..12);
    (roads(), 1..3_usize, steps).prop_map(|(mut road, threads, steps)| {
        if road.front == Kind::Tls {
            road.front = Kind::Tcp;
        }
        Script { road, threads, plot: Plot::Steps, steps }
    })
}
