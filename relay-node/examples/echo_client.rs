//! Says something to a unix socket and checks that it comes back: the beginning of the README's
//! walk-through, in the place of a virtual machine's.
//!
//! `cargo run -p relay-node --example echo_client -- [PATH [TIMES]]`; the path is /tmp/echo.sock unless
//! another is given. Without TIMES it goes on, once a second.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let path = args.next().unwrap_or_else(|| "/tmp/echo.sock".into());
    let times = args.next().map(|times| times.to_string_lossy().parse::<u64>());
    let Ok(times) = times.transpose() else {
        eprintln!("echo_client: TIMES is a number, as in: echo_client /tmp/echo.sock 3");
        return ExitCode::from(2);
    };
    match UnixStream::connect(&path).and_then(|server| talk(server, times)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo_client: {}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}

fn talk(mut server: UnixStream, times: Option<u64>) -> io::Result<()> {
    server.set_read_timeout(Some(PATIENCE))?;
    for number in (1..).take_while(|number| times.is_none_or(|times| *number <= times)) {
        if number > 1 {
            thread::sleep(Duration::from_secs(1));
        }
        let (said, since) = (format!("hi {number}\n"), Instant::now());
        server.write_all(said.as_bytes())?;
        let mut heard = vec![0; said.len()];
        server.read_exact(&mut heard)?;
        if heard != said.as_bytes() {
            return Err(io::Error::other("something else came back"));
        }
        let took = since.elapsed().as_secs_f64() * 1000.0;
        writeln!(io::stdout(), "{} came back after {took:.3} ms", said.trim_end())?;
    }
    // Our end goes all the way, and the server's comes back.
    server.shutdown(Shutdown::Write)?;
    let mut rest = Vec::new();
    server.read_to_end(&mut rest)?;
    if rest.is_empty() { Ok(()) } else { Err(io::Error::other("more came back than was said")) }
}
