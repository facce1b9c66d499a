//! `relay_tokio::relay_dialing` between real sockets, in the place of a node: what any program may call.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

use relay_core::Outcome;
use relay_node::endpoint::Endpoint;
use relay_tls::{ClientTls, ServerTls};
use relay_tokio::{Config, Side, StopSignal, relay_dialing};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Builder;

use crate::certificates::Authorities;
use crate::peer::{Peer, Sink};
use crate::record::{Scratch, Trace, among_peers};
use crate::script::{Kind, Script};

/// What the nodes give a flow.
const CAPACITY: usize = 256 << 10;

/// Any stream.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Where one session is accepted.
enum Door {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// What is dialed for it.
#[derive(Clone)]
enum Way {
    Unix(PathBuf),
    Tcp(u16),
}

impl Door {
    fn tcp() -> (Self, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.set_nonblocking(true).expect("flag");
        let port = listener.local_addr().expect("address").port();
        (Self::Tcp(listener), port)
    }

    fn unix(path: &PathBuf) -> Self {
        let listener = UnixListener::bind(path).expect("bind");
        listener.set_nonblocking(true).expect("flag");
        Self::Unix(listener)
    }

    async fn accept(self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Unix(listener) => Box::new(tokio::net::UnixListener::from_std(listener)?.accept().await?.0),
            Self::Tcp(listener) => Box::new(tokio::net::TcpListener::from_std(listener)?.accept().await?.0),
        })
    }
}

impl Way {
    async fn dial(self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Self::Tcp(port) => Box::new(TcpStream::connect(("127.0.0.1", port)).await?),
        })
    }
}

/// Relays one session in a thread of its own. With TLS at its front, at its back, or at none.
fn join(door: Door, way: Way, front: Option<ServerTls>, back: Option<ClientTls>) -> JoinHandle<Outcome> {
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let stream = door.accept().await.expect("a client");
            let front = match front {
                None => Side::plain(stream),
                Some(tls) => Side::tls(stream, tls.codec()),
            };
            let back_is_tls = back.is_some();
            let dial = async {
                let stream = way.dial().await?;
                Ok(match back {
                    None => Side::plain(stream),
                    Some(tls) => Side::tls(stream, tls.codec("127.0.0.1").map_err(io::Error::other)?),
                })
            };
            let config = Config::new(CAPACITY);
            relay_dialing(front, dial, back_is_tls, config, StopSignal::never()).await.outcome
        })
    })
}

/// Plays a script of [`scripts_among_peers`](crate::scripts_among_peers): what the peers read, and the outcome
/// of each relaying, the first one first.
///
/// # Panics
/// If a byte is wrong, or something that must happen does not within minutes; if the script has other
/// steps, or a client in TLS.
#[must_use]
pub fn record_joined(script: &Script) -> (Trace, Vec<Outcome>) {
    let scratch = Scratch::new();
    let sink = Sink::new(script.road.back, &scratch.path("sink"), false);
    let to_sink = match sink.at.parse().expect("an endpoint") {
        Endpoint::Unix(path) => Way::Unix(path),
        Endpoint::Tcp(at) => Way::Tcp(at.port),
        at @ (Endpoint::Abstract(_) | Endpoint::Tls(_) | Endpoint::Fd(_)) => panic!("no sink: {at}"),
    };
    let (door, entry) = match script.road.front {
        Kind::Unix => {
            let path = scratch.path("entry");
            (Door::unix(&path), format!("unix:{}", path.display()))
        }
        Kind::Tcp => {
            let (door, port) = Door::tcp();
            (door, format!("tcp:127.0.0.1:{port}"))
        }
        Kind::Tls => panic!("a client in TLS"),
    };
    let relays = match script.road.middle {
        None => vec![join(door, to_sink, None, None)],
        Some(tls) => {
            let (middle, port) = Door::tcp();
            let material = Authorities::common().relay();
            let server = tls.then(|| ServerTls::builder(&material).build().expect("settings"));
            let client = tls.then(|| ClientTls::builder(&material).build().expect("settings"));
            vec![join(door, Way::Tcp(port), None, client), join(middle, to_sink, server, None)]
        }
    };
    let client = Peer::dial(&entry.parse().expect("an endpoint"), false);
    let trace = among_peers(client, sink.accept(), &script.steps);
    let outcomes = relays.into_iter().map(|relay| relay.join().expect("no panic"));
    (trace, outcomes.collect())
}
