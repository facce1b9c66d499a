//! A node as a future in a runtime of the caller's: how it ends, and what is left behind.

use std::future::Future;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use relay_core::{EndReason, Timer};
use relay_node::control::{self, Command, Controller};
use relay_node::{Observer, Route, SessionTable};
use relay_tokio::{Server, Timeouts, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::rig::{PATIENCE, Scratch, Watch};

/// One thread: what never waits keeps everybody else from running.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn patiently<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("in time")
}

/// What a node is made of, and who talks through it.
struct Stage {
    scratch: Scratch,
    backend: TcpListener,
    watch: Arc<Watch>,
    sessions: Arc<SessionTable>,
    controller: Controller,
}

impl Stage {
    /// From TCP, and from a unix socket, to TCP.
    async fn new(drain_timeout: Option<Duration>) -> (Self, Server, u16) {
        let scratch = Scratch::new();
        let backend = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let connect = format!("tcp:{}", backend.local_addr().expect("address"));
        let open = |listen: &str| {
            let [listen, connect] = [listen, &connect].map(|text| text.parse().expect("an endpoint"));
            Route::open(&listen, &connect, None, &Timeouts::default()).expect("a route")
        };
        let routes = [open("tcp:127.0.0.1:0"), open(&scratch.unix("entry"))];
        let port = routes[0].listener.port().expect("it is TCP");
        let (controller, commands) = control::channel().expect("a pair");
        let watch = Arc::new(Watch::default());
        let observer = Arc::clone(&watch) as Arc<dyn Observer>;
        let server = Server { drain_timeout, observer, ..Server::new(routes, commands) };
        let sessions = Arc::clone(&server.sessions);
        (Self { scratch, backend, watch, sessions, controller }, server, port)
    }

    async fn connect(&self, port: u16) -> (TcpStream, TcpStream) {
        let mut client = TcpStream::connect(("127.0.0.1", port)).await.expect("connect");
        let (mut server, _) = patiently(self.backend.accept()).await.expect("accept");
        client.write_all(b"hello").await.expect("taken");
        let mut hello = [0; 5];
        patiently(server.read_exact(&mut hello)).await.expect("hello");
        (client, server)
    }

    /// Both peers are reset, whoever came by the socket file sees the end, nobody comes any more, and the
    /// observer was told.
    async fn expect_end(self, port: u16, peers: [TcpStream; 2], mut unix: UnixStream) {
        for mut peer in peers {
            let error = patiently(peer.read(&mut [0; 1])).await.expect_err("a reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        assert!(!matches!(patiently(unix.read(&mut [0; 1])).await, Ok(1..)));
        assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
        assert!(!self.scratch.path("entry").exists());
        for ended in self.watch.ended(2) {
            assert_eq!(ended.outcome.flows.front.reason, EndReason::Aborted);
        }
        assert!(self.sessions.is_empty());
        self.controller.send(Command::Abort); // to nobody
    }

    async fn unix_client(&self) -> (UnixStream, TcpStream) {
        let client = UnixStream::connect(self.scratch.path("entry")).await.expect("connect");
        let (server, _) = patiently(self.backend.accept()).await.expect("accept");
        (client, server)
    }
}

#[test]
fn with_nobody_left_to_command_it_goes_on_and_leaves_others_their_turn() {
    runtime().block_on(async {
        let (stage, server, port) = Stage::new(None).await;
        let node = tokio::spawn(serve(server));
        let other = stage.controller.clone();
        let stage = Stage { controller: control::channel().expect("a pair").0, ..stage };
        other.send(Command::Relimit);
        drop(other);
        for _ in 0..3 {
            let (mut client, mut server) = stage.connect(port).await;
            client.shutdown().await.expect("shut down");
            assert_eq!(patiently(server.read(&mut [0; 1])).await.expect("an end"), 0);
        }
        assert!(!node.is_finished());
        node.abort();
        assert!(node.await.expect_err("cancelled").is_cancelled());
        assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
    });
}

#[test]
fn a_drain_by_the_handle_has_a_deadline_and_the_result_says_who_was_cut() {
    runtime().block_on(async {
        let (stage, server, port) = Stage::new(Some(Duration::from_millis(50))).await;
        let node = tokio::spawn(serve(server));
        let (mut client, _server) = stage.connect(port).await;
        stage.controller.send(Command::Drain);
        let served = patiently(node).await.expect("no panic").expect("no failure");
        assert_eq!((served.sessions, served.cut_by_deadline, served.aborted), (1, 1, 0));
        assert_eq!(stage.watch.only_ended().outcome.flows.front.reason, EndReason::TimedOut(Timer::Drain));
        patiently(client.read(&mut [0; 1])).await.expect_err("a reset");
    });
}

#[test]
fn a_node_that_is_dropped_aborts_its_sessions_and_is_gone() {
    runtime().block_on(async {
        let (stage, server, port) = Stage::new(None).await;
        let node = tokio::spawn(serve(server));
        let (client, server) = stage.connect(port).await;
        let (unix, _server) = stage.unix_client().await;
        node.abort();
        assert!(node.await.expect_err("cancelled").is_cancelled());
        stage.expect_end(port, [client, server], unix).await;
    });
}

#[test]
fn so_is_one_whose_runtime_is_dropped() {
    let ours = runtime();
    let (stage, server, port) = ours.block_on(Stage::new(None));
    let its = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let _node = its.spawn(serve(server));
    ours.block_on(async {
        let (client, server) = stage.connect(port).await;
        let (unix, _server) = stage.unix_client().await;
        tokio::task::spawn_blocking(|| drop(its)).await.expect("no panic");
        stage.expect_end(port, [client, server], unix).await;
    });
}

/// What the documentation says of it.
#[test]
#[should_panic(expected = "Cannot start a runtime from within a runtime")]
fn the_blocking_form_panics_in_a_task() {
    use relay_tokio::{Runtime, Tokio};
    runtime().block_on(async {
        let (_controller, commands) = control::channel().expect("a pair");
        let _ = Tokio::default().serve(Server::new([], commands));
    });
}
