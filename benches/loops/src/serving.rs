//! This program as a relay.

use std::path::Path;
use std::sync::Arc;

use relay_core::admission::Limits;
use relay_node::cli::{Timeouts, TlsFiles};
use relay_node::control;
use relay_node::endpoint::Endpoint;
use relay_node::inherited::Inherited;
use relay_node::listen::{ListenOptions, listen};
use relay_node::observer::LogObserver;
use relay_node::resolve::Backend;
use relay_node::server::numbered;
use relay_node::tls::Tls;
use relay_node::{Plan, Route, Runtime, Server, SessionTable};

use crate::copying::{self, Task};
use crate::{Loop, Mode};

/// The variable that makes this program a relay: loop, mode, directory of the certificates, where to
/// listen, what to dial.
pub(crate) const ASKED: &str = "RELAY_BENCH_SERVE";

/// Becomes a relay if a parent wants so, for ever.
pub fn serve_if_asked() {
    let Ok(asked) = std::env::var(ASKED) else { return };
    let words: Vec<&str> = asked.split('|').collect();
    let [name, mode, directory, from, to] = words[..] else { panic!("{ASKED}: {asked}") };
    let mode = if mode == Mode::Tls.name() { Mode::Tls } else { Mode::Plain };
    let directory = Path::new(directory);
    match Loop::of(name) {
        Some(Loop::Mio) => node(&relay_mio::Mio::default(), directory, from, to),
        Some(Loop::Tokio) => node(&relay_tokio::Tokio::default(), directory, from, to),
        Some(Loop::Copy) => copying::tokio(&Task { mode, directory, from, to }),
        Some(Loop::Threads) => copying::threads(&Task { mode, directory, from, to }),
        None => panic!("no such loop: {name}"),
    }
}

/// Tells the parent where to connect.
pub(crate) fn tell(at: &str) {
    use std::io::Write;
    writeln!(std::io::stdout(), "{at}").expect("the parent listens");
}

fn node(runtime: &impl Runtime, directory: &Path, from: &str, to: &str) {
    let file = |name| directory.join(name);
    let files = TlsFiles {
        cert: file("cert"),
        key: file("key"),
        client: None,
        ca: file("ca"),
        crl: None,
        peers: Vec::new(),
    };
    let tls = Arc::new(Tls::load(files).expect("certificates"));
    let from: Endpoint = from.parse().expect("an endpoint");
    let listener = listen(&from, &ListenOptions::default(), &mut Inherited::none()).expect("a listener");
    let backend = Backend::new(&to.parse().expect("an endpoint")).expect("a backend");
    let timeouts = Timeouts::default();
    let plan = Plan::new(listener.local().clone(), backend, Some(&tls), &timeouts).expect("a plan");
    let (_controller, commands) = control::channel().expect("a pair");
    tell(&listener.local().to_string());
    let server = Server {
        routes: numbered([Route { listener, plan: Arc::new(plan) }]),
        sessions: SessionTable::new(),
        limits: Limits::default(),
        threads: None,
        drain_timeout: None,
        observer: Arc::new(LogObserver),
        commands,
    };
    runtime.serve(server).expect("it serves");
}
