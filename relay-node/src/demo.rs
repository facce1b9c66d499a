//! `demo`: two nodes in one process, data moved both ways and verified, and what else a migration
//! relies on. Nothing is touched but memory, loopback and abstract unix sockets.

mod meter;
mod pattern;
mod pki;
mod sink;
mod stage;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant, SystemTime};

use relay_core::Failure;

use crate::cli::Demo;
use crate::control::{Command, Controller};
use crate::endpoint::Endpoint;
use crate::logging::say;
use crate::server::{Runtime, ServeError, Served};
use meter::{Meter, amount};
use sink::{Mode, Order, PATIENCE, Sink, connect, run_client};
use stage::{Ended, Names, Stage, Witness, tell};

/// Bytes each way of a half-close: more than all buffers on the way together hold.
const HALF_CLOSE: u64 = 4 << 20;
/// Bytes each way of the session that is open while its nodes drain.
const DRAINED: u64 = 8 << 20;

type Report = Result<(), String>;

/// Shows what a node does, on `runtime`.
///
/// # Errors
/// What was not as promised.
pub(crate) fn run(runtime: &dyn Runtime, asked: &Demo) -> Result<(), String> {
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |t| t.subsec_nanos());
    let stage = Stage::new(&format!("{}-{nanos}", std::process::id()))?;
    let sink = Sink::new(&stage.names.sink).map_err(|e| format!("no sink: {e}"))?;
    let verified = AtomicU64::new(0);
    let (reports, results) = mpsc::channel();
    say("A client, a node, mutual TLS 1.3 over loopback, another node, a backend: all in this process.");
    let Stage { source, target, names } = stage;
    thread::scope(|scope| {
        let _quit = Quit(&sink);
        scope.spawn(|| sink.serve(&verified, &reports));
        let show = Show {
            names,
            sink: &sink,
            verified: &verified,
            results,
            witnesses: [source.witness, target.witness],
            controllers: [&source.controller, &target.controller],
        };
        let nodes = [source.server, target.server].map(|server| scope.spawn(|| runtime.serve(server)));
        let shown = show.acts(asked);
        if shown.is_err() {
            tell(&show.controllers, || Command::Abort);
        }
        finish(nodes, shown)
    })?;
    say("All as promised.");
    Ok(())
}

/// Lets the sink go whatever happens, or its thread would be waited for in vain.
struct Quit<'a>(&'a Sink);

impl Drop for Quit<'_> {
    fn drop(&mut self) {
        self.0.quit();
    }
}

/// Waits for both nodes. Their own failure explains more than what it led to.
fn finish(nodes: [ScopedJoinHandle<'_, Result<Served, ServeError>>; 2], shown: Report) -> Report {
    let mut cut = 0;
    for node in nodes {
        match node.join() {
            Ok(Ok(served)) => cut += served.cut_by_deadline,
            Ok(Err(error)) => return Err(format!("a node {error}")),
            Err(_) => return Err("a node panicked".to_owned()),
        }
    }
    shown?;
    if cut == 0 { Ok(()) } else { Err(format!("draining cut {cut} sessions")) }
}

/// What the acts have in common.
struct Show<'a> {
    names: Names,
    sink: &'a Sink,
    verified: &'a AtomicU64,
    results: Receiver<Report>,
    /// The source's, the target's.
    witnesses: [std::sync::Arc<Witness>; 2],
    controllers: [&'a Controller; 2],
}

impl Show<'_> {
    fn acts(&self, asked: &Demo) -> Report {
        self.bulk(asked)?;
        self.half_close()?;
        self.stranger()?;
        self.plaintext()?;
        self.drain()
    }

    fn bulk(&self, asked: &Demo) -> Report {
        let streams = asked.streams as u64;
        let each = asked.size / 2 / streams;
        let total = each * 2 * streams;
        let connections = if streams == 1 { "connection" } else { "connections" };
        say(&format!("  ..  moving {} over {streams} {connections}, both ways at once", amount(total)));
        let mut meter = Meter::new(total);
        let (done, ends) = mpsc::channel();
        let (front, verified) = (self.names.front.as_str(), self.verified);
        thread::scope(|scope| {
            for seed in 0..streams {
                let done = done.clone();
                let order = Order { mode: Mode::Together, seed, size: each };
                scope.spawn(move || done.send(run_client(front, order, verified, || Ok(()))));
            }
            let mut left = streams;
            while left > 0 {
                match ends.recv_timeout(Duration::from_millis(100)) {
                    Ok(end) => {
                        end?;
                        left -= 1;
                    }
                    Err(RecvTimeoutError::Timeout) => meter.show(verified.load(Ordering::Relaxed)),
                    Err(RecvTimeoutError::Disconnected) => return Err("a client vanished".to_owned()),
                }
            }
            Ok(())
        })
        .and_then(|()| (0..streams).try_for_each(|_| self.sink_report()))
        .inspect_err(|_| meter.clear())?;
        meter.clear();
        say(&format!("  ok  every byte of {} is the one that was sent: {}", amount(total), meter.summary()));
        say("      (the CPU time is that of both nodes, and of making and checking the data)");
        Ok(())
    }

    fn half_close(&self) -> Report {
        for (mode, what) in [
            (
                Mode::ClientFirst,
                "the client ended its direction; the backend's answer came after that, complete",
            ),
            (
                Mode::SinkFirst,
                "the backend ended its direction; what the client sent after that arrived, complete",
            ),
        ] {
            let order = Order { mode, seed: 1 << 32, size: HALF_CLOSE };
            run_client(&self.names.front, order, self.verified, || Ok(()))?;
            self.sink_report()?;
            say(&format!("  ok  {what}"));
        }
        Ok(())
    }

    /// A peer with a certificate of another authority, by way of a node that has one.
    fn stranger(&self) -> Report {
        let touched = self.sink.touched();
        let mut stream = connect(&self.names.stranger)
            .map_err(|e| format!("the stranger's node can't be reached: {e}"))?;
        match stream.read(&mut [0]) {
            Ok(1..) => return Err("a stranger was answered".to_owned()),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                return Err("a stranger was left waiting".to_owned());
            }
            Ok(0) | Err(_) => {}
        }
        let [source, target] = &self.witnesses;
        let alert = |why| matches!(why, Failure::Alert(_));
        let told = wait_for("the stranger got no TLS alert", || source.find(|e| e.failed_by(alert)))?;
        wait_for("the target's node did not say that it rejected a stranger", || {
            target.find(|e| e.failed_by(|why| why == Failure::Rejected))
        })?;
        self.untouched_since(touched, "a stranger")?;
        let said = told.said.unwrap_or_else(|| "an alert".to_owned());
        say(&format!("  ok  a stranger's certificate was rejected ({said}), the backend never touched"));
        Ok(())
    }

    /// A client that speaks no TLS.
    fn plaintext(&self) -> Report {
        let touched = self.sink.touched();
        let mut stream = TcpStream::connect(("127.0.0.1", self.names.port))
            .and_then(|stream| stream.set_read_timeout(Some(PATIENCE)).map(|()| stream))
            .map_err(|e| format!("the target's node can't be reached: {e}"))?;
        let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
        let mut answer = Vec::new();
        if let Err(e) = stream.read_to_end(&mut answer)
            && e.kind() == std::io::ErrorKind::WouldBlock
        {
            return Err("a plaintext client was left waiting".to_owned());
        }
        let target = &self.witnesses[1];
        let sink = Endpoint::Abstract(self.names.sink.clone());
        let protocol = |e: &Ended| e.connect == sink && e.failed_by(|why| why == Failure::Protocol);
        wait_for("the target's node did not notice plaintext", || target.find(protocol))?;
        self.untouched_since(touched, "a plaintext client")?;
        say("  ok  a client that speaks no TLS was turned away, the backend never touched");
        Ok(())
    }

    fn drain(&self) -> Report {
        let order = Order { mode: Mode::Together, seed: 2 << 32, size: DRAINED };
        let (front, port, controllers) = (self.names.front.as_str(), self.names.port, self.controllers);
        let stop_halfway = move || {
            tell(&controllers, || Command::Drain);
            // Without connecting: a session that only asks would have to be drained, too.
            wait_for("the source's node still listens while it drains", || {
                (!sink::listens(front)).then_some(())
            })?;
            wait_for("the target's node still accepts while it drains", || {
                TcpStream::connect(("127.0.0.1", port)).is_err().then_some(())
            })
        };
        run_client(&self.names.front, order, self.verified, stop_halfway)?;
        self.sink_report()?;
        say("  ok  told to stop, both nodes accepted nothing more, and the open session came to its own end");
        Ok(())
    }

    fn untouched_since(&self, touched: u64, who: &str) -> Report {
        match self.sink.touched() - touched {
            0 => Ok(()),
            _ => Err(format!("{who} reached the backend")),
        }
    }

    fn sink_report(&self) -> Report {
        self.results.recv_timeout(PATIENCE).unwrap_or_else(|_| Err("the sink did not end".to_owned()))
    }
}

/// Asks until there is an answer, for some seconds.
fn wait_for<T>(otherwise: &str, mut ask: impl FnMut() -> Option<T>) -> Result<T, String> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if start.elapsed() > Duration::from_secs(10) {
            return Err(otherwise.to_owned());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::Format;
    use crate::server::Server;
    use std::io;

    const SMALL: Demo = Demo { size: 1 << 20, streams: 2, log_format: Format::Text };

    /// A loop that cannot even begin.
    struct Broken;

    impl Runtime for Broken {
        fn serve(&self, _: Server) -> Result<Served, ServeError> {
            Err(ServeError::new("make a poller", io::Error::other("no such thing")))
        }
    }

    /// A loop that closes its listeners at once.
    struct Closed;

    impl Runtime for Closed {
        fn serve(&self, _: Server) -> Result<Served, ServeError> {
            Ok(Served::default())
        }
    }

    /// A loop that drops whatever it accepts.
    struct Dropping;

    impl Runtime for Dropping {
        fn serve(&self, server: Server) -> Result<Served, ServeError> {
            while server.commands.next().is_none() {
                for (_, route) in &server.routes {
                    drop(route.listener.accept());
                }
                thread::sleep(Duration::from_millis(1));
            }
            Ok(Served::default())
        }
    }

    #[test]
    fn a_loop_that_does_not_do_its_part_fails_the_demo_with_a_clear_line() {
        let failures = [run(&Broken, &SMALL), run(&Closed, &SMALL), run(&Dropping, &SMALL)];
        // A client may be a moment earlier or later than the loop's misdeed.
        let client = ["the source's node can't be reached", "the order was not taken", "at the client, "];
        for (failure, says) in failures.into_iter().zip([
            &["a node could not make a poller: no such thing"][..],
            &client,
            &client,
        ]) {
            let message = failure.expect_err("the demo noticed");
            assert!(says.iter().any(|says| message.contains(says)) && !message.contains('\n'), "{message}");
        }
    }
}
