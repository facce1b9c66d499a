//! `demo`.

use clap::builder::ValueParser;
use clap::{ArgMatches, Command};

use super::args::{given, one};
use super::serving::{log_format, log_format_arg};
use crate::logging::Format;
use crate::quantity;

/// `demo`.
#[derive(Clone, Copy, Debug)]
pub struct Demo {
    /// Bytes to move in all, half of them each way.
    pub size: u64,
    /// Connections to spread them over.
    pub streams: usize,
    /// How log lines look.
    pub log_format: Format,
}

pub(super) fn command(name: &str) -> Command {
    Command::new("demo")
        .about("Two nodes in this process, with TLS made on the spot: data moved both ways and verified")
        .after_help(format!(
            "\
Examples:
  {name} demo
  {name} demo --size 16GiB --streams 8

Nothing is written to disk, and nothing but loopback and abstract unix sockets is used."
        ))
        .arg(
            one("size", "BYTES", ValueParser::new(size))
                .default_value("2GiB")
                .help("How much to move, half of it each way"),
        )
        .arg(
            one("streams", "N", clap::value_parser!(u64).range(1..=256))
                .default_value("4")
                .help("How many connections to spread it over"),
        )
        .arg(log_format_arg())
}

pub(super) fn read(matches: &ArgMatches) -> Demo {
    let streams = given::<u64>(matches, "streams").unwrap_or(1);
    Demo {
        size: given(matches, "size").unwrap_or(2 << 30),
        streams: usize::try_from(streams).unwrap_or(1),
        log_format: log_format(matches),
    }
}

fn size(text: &str) -> Result<u64, String> {
    match quantity::bytes(text) {
        Ok(size) if size >= 1 << 20 => Ok(size),
        Ok(_) => Err("too little to show anything; at least 1MiB".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}
