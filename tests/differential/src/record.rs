//! A script is played, and all that can be seen is written down.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use relay_node::{Runtime, Served};

use crate::node::{Ended, Node};
use crate::peer::{Peer, Seen, Sink};
use crate::script::{Kind, Script, Side, Step};

/// Bytes that may be on their way while nobody reads: they fit into every socket, relay or not.
const UNREAD: u64 = 60_000;

/// What could be seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// What the peers read, in order.
    pub trace: Vec<(Side, Seen)>,
    /// How the session ended at each relay, the first one first, and what that relay said of itself.
    pub relays: Vec<(Ended, Served)>,
}

/// A directory of its own.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
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

/// Plays a script on relays of this runtime.
///
/// # Panics
/// If a byte is wrong, or something that must happen does not within minutes.
#[must_use]
pub fn record(script: &Script, runtime: &(impl Runtime + ?Sized)) -> Record {
    let scratch = Scratch::new();
    let (sink, sink_at) = Sink::new(script.road.back, &scratch.0.join("sink"));
    let entry = match script.road.front {
        Kind::Unix => format!("unix:{}", scratch.0.join("entry").display()),
        Kind::Tcp => "tcp:127.0.0.1:0".to_owned(),
    };
    thread::scope(|scope| {
        let start = |from: &str, to: &str| Node::start(scope, runtime, script.threads, [from, to]);
        let nodes = match script.road.middle {
            None => vec![start(&entry, &sink_at)],
            Some(tls) => {
                let last = start(if tls { "tls:127.0.0.1:0" } else { "tcp:127.0.0.1:0" }, &sink_at);
                vec![start(&entry, &last.at.to_string()), last]
            }
        };
        let client = Peer::dial(&nodes[0].at);
        let play = Play { nodes: &nodes, client, server: sink.accept(), trace: Vec::new() };
        let trace = play.all(&script.steps);
        Record { trace, relays: nodes.into_iter().map(Node::finish).collect() }
    })
}

struct Play<'a> {
    nodes: &'a [Node<'a>],
    client: Peer,
    server: Peer,
    trace: Vec<(Side, Seen)>,
}

impl Play<'_> {
    fn all(mut self, steps: &[Step]) -> Vec<(Side, Seen)> {
        self.settle();
        for step in steps {
            if self.client.has_ended && self.server.has_ended {
                return self.trace; // both ends were read
            }
            match *step {
                Step::Send(side, len, writes) => self.send(side, len, writes),
                Step::Receive(side) => self.receive(side),
                Step::Transfer(side, len, pause) => self.transfer(side, len, pause),
                Step::HalfClose(side) => self.half_close(side),
                Step::Drain(last) => self.node(last).drain(),
                // Who has ended is not read from any more: nothing would tell when its going is noticed.
                Step::Close(side) | Step::Reset(side) if self.peers(side).0.has_ended => {}
                Step::End(last) | Step::Abort(last) if !self.is_noticed_by_the_other_relay(last) => {}
                Step::Close(side) => return self.close(side),
                Step::Reset(side) => {
                    self.peers(side).0.reset_when_closed().expect("option");
                    return self.close(side);
                }
                Step::End(last) => {
                    self.node(last).end_session();
                    return self.read_out();
                }
                Step::Abort(last) => {
                    self.node(last).abort();
                    return self.read_out();
                }
            }
        }
        self.half_close(Side::Client);
        self.half_close(Side::Server);
        self.trace
    }

    fn node(&self, last: bool) -> &Node<'_> {
        &self.nodes[if last { self.nodes.len() - 1 } else { 0 }]
    }

    /// The same holds between relays: one that is ended by its operator is noticed by the other one as
    /// long as that one still reads from it.
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
    fn close(mut self, side: Side) -> Vec<(Side, Seen)> {
        let mut trace = std::mem::take(&mut self.trace);
        let Play { client, server, .. } = self;
        let (closed, mut other) = match side {
            Side::Client => (client, server),
            Side::Server => (server, client),
        };
        drop(closed);
        other.receive_to_the_end(&mut trace);
        trace
    }

    /// Both read what is left, and close.
    fn read_out(mut self) -> Vec<(Side, Seen)> {
        let mut trace = std::mem::take(&mut self.trace);
        if !self.server.has_ended {
            self.client.receive_to_the_end(&mut trace);
        }
        if !self.client.has_ended {
            self.server.receive_to_the_end(&mut trace);
        }
        trace
    }
}
