//! A script is played, and all that can be seen is written down.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use relay_node::cli::Timeouts;
use relay_node::sessions::Stage;
use relay_node::{Runtime, Served};

use crate::certificates::Authorities;
use crate::node::{Ended, Node};
use crate::peer::{Peer, Seen, Sink};
use crate::script::{Absence, Kind, Plot, Script, Side, Step, Stranger};

/// Bytes that may be on their way while nobody reads: they fit into every socket, relay or not.
const UNREAD: u64 = 60_000;

/// What could be seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// What the peers read, in order.
    pub trace: Trace,
    /// How the session ended at each relay, the first one first, and what that relay said of itself.
    pub relays: Vec<(Ended, Served)>,
    /// There was a backend, and nobody had come to it where nobody must.
    pub is_untouched: bool,
}

/// What the peers read, in order.
pub type Trace = Vec<(Side, Seen)>;

/// A directory of its own.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("relay-diff-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a scratch directory");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a limit is where it is to be reached: long enough for a relay to have its turn before it, short
/// enough to be waited for a thousand times.
const SOON: Duration = Duration::from_millis(150);

/// Plays a script on relays of this runtime.
///
/// # Panics
/// If a byte is wrong, or something that must happen does not within minutes.
#[must_use]
pub fn record(script: &Script, runtime: &(impl Runtime + ?Sized)) -> Record {
    let scratch = Scratch::new();
    let little = matches!(script.plot, Plot::LastBytes(Side::Client, _));
    let sink = Sink::new(script.road.back, &scratch.path("sink"), little);
    let nobody = Sink::nowhere(script.road.back, scratch.path("nobody"));
    let sink_at = if matches!(script.plot, Plot::Absent(_)) { &nobody } else { &sink.at };
    let entry = match script.road.front {
        Kind::Unix => format!("unix:{}", scratch.path("entry").display()),
        Kind::Tcp => "tcp:127.0.0.1:0".to_owned(),
        Kind::Tls => "tls:127.0.0.1:0".to_owned(),
    };
    thread::scope(|scope| {
        let start = |last: bool, from: &str, to: &str| {
            Node::start(scope, runtime, script.threads, [from, to], &timeouts(script.plot, last))
        };
        let nodes = match script.road.middle {
            None => vec![start(true, &entry, sink_at)],
            Some(tls) => {
                let last = start(true, if tls { "tls:127.0.0.1:0" } else { "tcp:127.0.0.1:0" }, sink_at);
                vec![start(false, &entry, &last.at.to_string()), last]
            }
        };
        let trace = match script.plot {
            Plot::Steps => Play::begin(&nodes, &sink, false).all(&script.steps),
            Plot::Deadline(last) => {
                Play::begin(&nodes, &sink, false).until_the_deadline(&script.steps, last || nodes.len() == 1)
            }
            Plot::Absent(absence) => without_backend(&nodes, absence),
            Plot::Idle => Play::begin(&nodes, &sink, false).in_silence(),
            Plot::HalfOpen(len) => half_open(&nodes, &sink, len),
            Plot::Refused(stranger) => refused(&nodes, stranger),
            Plot::LastBytes(side, len) => {
                Play::begin(&nodes, &sink, side == Side::Server).until_the_last_bytes(side, len)
            }
        };
        let relays = nodes.into_iter().map(Node::finish).collect();
        let is_untouched = matches!(script.plot, Plot::Absent(_) | Plot::Refused(_)) && sink.is_untouched();
        Record { trace, relays, is_untouched }
    })
}

/// The limits of a relay, the last one or another.
fn timeouts(plot: Plot, is_last: bool) -> Timeouts {
    let (unlimited, soon) = (Node::unlimited(), Some(SOON));
    match plot {
        Plot::Deadline(last) if last == is_last => Timeouts { drain: soon, ..unlimited },
        Plot::Absent(Absence::Timeout) => Timeouts { dial: soon, ..unlimited },
        Plot::Idle => Timeouts { idle: soon, ..unlimited },
        Plot::HalfOpen(_) => Timeouts { half_open: soon, ..unlimited },
        Plot::Refused(Stranger::Silent) => Timeouts { handshake: soon, ..unlimited },
        Plot::Steps | Plot::Deadline(_) | Plot::Absent(_) | Plot::Refused(_) | Plot::LastBytes(..) => {
            unlimited
        }
    }
}

fn without_backend(nodes: &[Node<'_>], absence: Absence) -> Trace {
    let (first, last) = (&nodes[0], &nodes[nodes.len() - 1]);
    let mut client = Peer::dial(&first.at, false);
    if absence != Absence::Timeout {
        if nodes.len() > 1 {
            first.has_come_to(Stage::Open);
        }
        last.has_come_to(Stage::Dialing);
    }
    match absence {
        Absence::Timeout => {}
        Absence::Drain => last.drain(),
        Absence::End => last.end_session(),
        Absence::Abort => last.abort(),
    }
    let mut trace = Vec::new();
    client.receive_to_the_end(&mut trace);
    nodes.iter().for_each(Node::has_ended);
    trace
}

fn half_open(nodes: &[Node<'_>], sink: &Sink, len: usize) -> Trace {
    let mut trace = Vec::new();
    let mut client = Peer::dial(&nodes[0].at, false);
    client.send(len, 1);
    client.half_close();
    let mut server = sink.accept();
    server.receive_to_the_end(&mut trace);
    client.receive_to_the_end(&mut trace);
    trace
}

fn refused(nodes: &[Node<'_>], stranger: Stranger) -> Trace {
    let at = &nodes[0].at;
    let dialed = match stranger {
        Stranger::Nameless => Peer::dial_as(at, &Authorities::common().nameless()),
        Stranger::Foreign => Peer::dial_as(at, &Authorities::common().foreign()),
        Stranger::Plaintext | Stranger::Silent => Ok(Peer::dial_plain(at)),
    };
    let client = dialed.expect("complete before it is judged");
    if stranger == Stranger::Plaintext {
        client.send_raw(b"GET / HTTP/1.1\r\nhost: relay\r\n\r\n");
    }
    let (bytes, end) = client.receive_raw();
    nodes[0].has_ended();
    vec![(Side::Client, Seen::Raw(bytes)), (Side::Client, end)]
}

/// Steps of peers alone, through relays of which nothing can be asked.
pub(crate) fn among_peers(client: Peer, server: Peer, steps: &[Step]) -> Trace {
    Play { nodes: &[], client, server, trace: Vec::new() }.all(steps)
}

struct Play<'a> {
    nodes: &'a [Node<'a>],
    client: Peer,
    server: Peer,
    trace: Trace,
}

impl<'a> Play<'a> {
    /// Both peers are connected; the client has little room to read, if so wished.
    fn begin(nodes: &'a [Node<'a>], sink: &Sink, little: bool) -> Self {
        let client = Peer::dial(&nodes[0].at, little);
        Self { nodes, client, server: sink.accept(), trace: Vec::new() }
    }

    fn all(mut self, steps: &[Step]) -> Trace {
        self.settle();
        for step in steps {
            if self.client.has_ended && self.server.has_ended {
                return self.trace; // both ends were read
            }
            match *step {
                Step::Close(side) | Step::Reset(side) => {
                    let resets = matches!(step, Step::Reset(_));
                    let (peer, other) = self.peers(side);
                    if resets {
                        peer.reset_when_closed();
                    }
                    if !peer.has_ended {
                        return self.close(side);
                    }
                    let is_written_to = peer.is_written_to_at_the_end();
                    if peer.goes_with_reset(resets, other.sent) {
                        // A relay that has to give up a direction does not tell the one behind it, which has
                        // read that end.
                        if self.nodes.len() == 1 {
                            return self.close_before_reading(side, true);
                        }
                    } else if !is_written_to {
                        return self.close_in_good_order(side);
                    }
                }
                Step::End(last) | Step::Abort(last) if !self.is_noticed_by_the_other_relay(last) => {}
                Step::End(last) => {
                    self.node(last).end_session();
                    return self.read_out();
                }
                Step::Abort(last) => {
                    self.node(last).abort();
                    return self.read_out();
                }
                Step::Send(..)
                | Step::Receive(_)
                | Step::Transfer(..)
                | Step::HalfClose(_)
                | Step::Drain(_) => {
                    self.one(*step);
                }
            }
        }
        self.half_close(Side::Client);
        self.half_close(Side::Server);
        self.trace
    }

    /// A step after which there may be others.
    fn one(&mut self, step: Step) {
        match step {
            Step::Send(side, len, writes) => self.send(side, len, writes),
            Step::Receive(side) => self.receive(side),
            Step::Transfer(side, len, pause) => self.transfer(side, len, pause),
            Step::HalfClose(side) => self.half_close(side),
            Step::Drain(last) => self.node(last).drain(),
            Step::Close(_) | Step::Reset(_) | Step::End(_) | Step::Abort(_) => {}
        }
    }

    fn until_the_deadline(mut self, steps: &[Step], last: bool) -> Trace {
        self.settle();
        for step in steps {
            if self.client.has_ended && self.server.has_ended {
                return self.trace;
            }
            if !matches!(step, Step::Drain(_)) {
                self.one(*step);
            }
        }
        if self.client.has_ended && self.server.has_ended {
            return self.trace;
        }
        if !self.is_noticed_by_the_other_relay(last) {
            self.half_close(Side::Client);
            self.half_close(Side::Server);
            return self.trace;
        }
        self.node(last).drain();
        self.read_out()
    }

    fn in_silence(self) -> Trace {
        self.nodes.iter().for_each(Node::has_ended);
        self.read_out()
    }

    fn until_the_last_bytes(mut self, side: Side, len: usize) -> Trace {
        self.settle();
        self.send(side, len, 1);
        self.peers(side).0.reset_when_closed();
        self.close_before_reading(side, true)
    }

    fn node(&self, last: bool) -> &Node<'_> {
        &self.nodes[if last { self.nodes.len() - 1 } else { 0 }]
    }

    /// A relay that ends a session is noticed by the other one as long as that one still reads from it.
    fn is_noticed_by_the_other_relay(&self, last: bool) -> bool {
        self.nodes.len() == 1 || !if last { self.server.has_ended } else { self.client.has_ended }
    }

    /// That one, and the other one.
    const fn peers(&mut self, side: Side) -> (&mut Peer, &mut Peer) {
        match side {
            Side::Client => (&mut self.client, &mut self.server),
            Side::Server => (&mut self.server, &mut self.client),
        }
    }

    /// Waits until every relay has delivered all that was sent.
    fn settle(&self) {
        for node in self.nodes {
            node.settle([&self.client, &self.server].map(|peer| (peer.sent, peer.has_ended)));
        }
    }

    fn send(&mut self, side: Side, len: usize, writes: usize) {
        let (from, to) = self.peers(side);
        if !from.has_ended && from.sent - to.received + len as u64 <= UNREAD {
            from.send(len, writes);
            self.settle();
        }
    }

    fn receive(&mut self, side: Side) {
        let mut trace = std::mem::take(&mut self.trace);
        let (to, from) = self.peers(side);
        // to its end already, if it has one
        if !from.has_ended {
            to.receive(from.sent, &mut trace);
        }
        self.trace = trace;
    }

    fn transfer(&mut self, side: Side, len: usize, pause: bool) {
        let (mut trace, nodes) = (std::mem::take(&mut self.trace), self.nodes);
        let (from, to) = self.peers(side);
        if !from.has_ended {
            let some = from.sent + (len as u64).min(UNREAD);
            let begin = || {
                if pause {
                    nodes.iter().for_each(|node| node.has_read(side == Side::Client, some));
                }
            };
            from.transfer(to, len, &mut trace, begin);
            self.settle();
        }
        self.trace = trace;
    }

    fn half_close(&mut self, side: Side) {
        let mut trace = std::mem::take(&mut self.trace);
        let (from, to) = self.peers(side);
        if !from.has_ended {
            from.half_close();
            to.receive_to_the_end(&mut trace);
            // The relays close by themselves once both have ended.
            if !to.has_ended {
                self.settle();
            }
        }
        self.trace = trace;
    }

    /// Closes one, and the other one once it has read the end of that.
    fn close(self, side: Side) -> Trace {
        self.close_before_reading(side, false)
    }

    /// The other one reads at once, or only once the sessions are over: so must one that has read that end
    /// before, lest it goes before the relays have noticed.
    fn close_before_reading(mut self, side: Side, until_over: bool) -> Trace {
        let mut trace = std::mem::take(&mut self.trace);
        let Play { nodes, client, server, .. } = self;
        let (closed, mut other) = match side {
            Side::Client => (client, server),
            Side::Server => (server, client),
        };
        drop(closed);
        if until_over {
            nodes.iter().for_each(Node::has_ended);
        }
        other.receive_to_the_end(&mut trace);
        trace
    }

    /// Closes one that has ended and read all there was; then the other one ends, too.
    fn close_in_good_order(self, side: Side) -> Trace {
        let Play { nodes, client, server, trace } = self;
        let (closed, mut other) = match side {
            Side::Client => (client, server),
            Side::Server => (server, client),
        };
        drop(closed);
        other.half_close();
        nodes.iter().for_each(Node::has_ended);
        trace
    }

    /// Both read what is left, and close once the relays are done with them.
    fn read_out(mut self) -> Trace {
        let mut trace = std::mem::take(&mut self.trace);
        if !self.server.has_ended {
            self.client.receive_to_the_end(&mut trace);
        }
        if !self.client.has_ended {
            self.server.receive_to_the_end(&mut trace);
        }
        self.nodes.iter().for_each(Node::has_ended);
        trace
    }
}
