//! This program as a relay.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use relay_node::cli::{Timeouts, TlsFiles};
use relay_node::tls::Tls;
use relay_node::{Route, Runtime, Server, control};
use rustix::time::{ClockId, clock_gettime};

use crate::copying::{self, Task};
use crate::{Loop, Mode, joining};

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
    tell_cpu_time();
    match Loop::of(name) {
        Some(Loop::Mio) => node(&relay_mio::Mio::default(), directory, from, to),
        Some(Loop::Tokio) => node(&relay_tokio::Tokio::default(), directory, from, to),
        Some(Loop::Relay) => joining::run(&Task { mode, directory, from, to }),
        Some(Loop::Copy) => copying::tokio(&Task { mode, directory, from, to }),
        Some(Loop::Threads) => copying::threads(&Task { mode, directory, from, to }),
        None => panic!("no such loop: {name}"),
    }
}

/// Tells the parent where to connect.
pub(crate) fn tell(at: &str) {
    writeln!(std::io::stdout(), "{at}").expect("the parent listens");
}

fn node(runtime: &impl Runtime, directory: &Path, from: &str, to: &str) {
    let [listen, connect] = [from, to].map(|text| text.parse().expect("an endpoint"));
    let file = |name| directory.join(name);
    let files = TlsFiles {
        cert: file("cert"),
        key: file("key"),
        client: None,
        ca: file("ca"),
        crl: None,
        peers: Vec::new(),
        revoke_live: false,
    };
    let tls = Arc::new(Tls::load(files).expect("certificates"));
    let route = Route::open(&listen, &connect, Some(&tls), &Timeouts::default()).expect("a route");
    let (_controller, commands) = control::channel().expect("a pair");
    tell(&route.listener.local().to_string());
    runtime.serve(Server::new([route], commands)).expect("it serves");
}

/// Answers each byte on standard input with the nanoseconds of processor time that this process has used so
/// far, of all its threads, also of those that are no more. Ends with the parent.
fn tell_cpu_time() {
    std::thread::spawn(|| {
        let mut input = std::io::stdin();
        while input.read_exact(&mut [0]).is_ok() {
            let time = clock_gettime(ClockId::ProcessCPUTime);
            tell(&(time.tv_sec * 1_000_000_000 + time.tv_nsec).to_string());
        }
        std::process::exit(0);
    });
}
