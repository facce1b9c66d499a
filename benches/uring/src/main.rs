//! `relay-uring forward --listen ENDPOINT --connect ENDPOINT`, as the other programs have it; plain only.

use std::io::{Write, stdout};
use std::process::ExitCode;

use relay_uring_bench::{Endpoint, EventLoop, Ring};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ["forward", "--listen", from, "--connect", to] = words[..] else {
        eprintln!("usage: relay-uring forward --listen ENDPOINT --connect ENDPOINT");
        return ExitCode::from(2);
    };
    match run(from, to) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("relay-uring: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(from: &str, to: &str) -> Result<(), String> {
    let (from, to): (Endpoint, Endpoint) = (from.parse()?, to.parse()?);
    let ring = Ring::new().map_err(|error| format!("io_uring is not to be had: {error}"))?;
    let (listener, at) = from.listen().map_err(|error| format!("{from}: {error}"))?;
    writeln!(stdout(), "listening {at}").map_err(|error| error.to_string())?;
    EventLoop::new(ring, listener, to).run().map_err(|error| error.to_string())
}
