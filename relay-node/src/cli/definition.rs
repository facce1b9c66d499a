//! The definition for clap: every command, option, default and help text.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, Command};
use relay_tls::Identity;

use super::{Limit, Timeouts};
use crate::endpoint::Endpoint;
use crate::quantity;

/// The definition of the whole command line.
#[must_use]
pub fn command(name: &'static str) -> Command {
    Command::new(name)
        .version(env!("CARGO_PKG_VERSION"))
        .about(
            "Carries a virtual machine's live migration between nodes: unix sockets here, mutual TLS between",
        )
        .after_help(format!(
            "\
See it work, without files, root or network:
  {name} demo

'{name} COMMAND --help' shows a command's options and examples.
Exit codes: 0 done or drained, 1 failed, 2 bad usage, 3 drain deadline passed with sessions cut."
        ))
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(forward_command(name))
        .subcommand(demo_command(name))
}

fn forward_command(name: &str) -> Command {
    Command::new("forward")
        .about("Relay every connection taken at --listen to --connect")
        .after_help(forward_help(name))
        .arg(
            many("listen", "ENDPOINT", endpoint_parser())
                .required(true)
                .help("Take connections here; repeat it, each with its --connect, for more"),
        )
        .arg(
            many("connect", "ENDPOINT", endpoint_parser())
                .required(true)
                .help("Connect here for each of them; the first --connect belongs to the first --listen"),
        )
        .arg(
            one("socket-mode", "MODE", ValueParser::new(octal_mode))
                .help("Mode of the file of a unix:PATH listened on [default: 600]"),
        )
        .arg(
            one("max-sessions", "N", clap::value_parser!(u64).range(1..=1_000_000).into())
                .help("Connections relayed at once; more wait to be accepted [default: 10000]"),
        )
        .args(tls_args())
        .args(timeout_args())
        .arg(log_format_arg())
}

fn demo_command(name: &str) -> Command {
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
            one("size", "BYTES", ValueParser::new(demo_size))
                .default_value("2GiB")
                .help("How much to move, half of it each way"),
        )
        .arg(
            one("streams", "N", clap::value_parser!(u64).range(1..=256).into())
                .default_value("4")
                .help("How many connections to spread it over"),
        )
        .arg(log_format_arg())
}

fn forward_help(name: &str) -> String {
    format!(
        "\
ENDPOINT is one of
  unix:PATH         a unix socket; a stale file is replaced, a live one never stolen
  unix:@NAME        a unix socket in the abstract namespace
  tcp:HOST:PORT     TCP in plaintext (IPv6 in brackets; port 0 lets the kernel choose)
  tls:HOST:PORT     mutual TLS 1.3 over TCP; needs --tls-cert, --tls-key and --tls-ca
  fd:NAME           a listening socket inherited under that name (systemd); --listen only

Times are written 500ms, 10s, 5m or 1h; 'off' means no limit.

Examples:
  The source's node: a unix socket here, the other node by TLS
    {name} forward --listen unix:/run/relay/vm1.sock --connect tls:10.1.1.1:39497 \\
        --tls-cert node.crt --tls-key node.key --tls-ca ca.crt
  The target's node: only the migration client's certificate, on to QEMU
    {name} forward --listen tls:[::]:39497 --connect unix:/run/qemu/vm1.sock \\
        --tls-cert node.crt --tls-key node.key --tls-ca ca.crt \\
        --peer cn:kubevirt.io:system:client:migration
  Two channels in one process
    {name} forward --listen unix:@rpc --connect tcp:10.1.1.1:16509 \\
        --listen unix:@ram --connect tcp:10.1.1.1:49152

Once it accepts, one line for each listener is printed ('listening tls:[::]:39497', with the real
port). Logs go to standard error; RUST_LOG=debug shows more. SIGTERM and SIGINT stop accepting and
let the open sessions finish (--drain-timeout), the second one ends them."
    )
}

fn one(name: &'static str, value: &'static str, parser: ValueParser) -> Arg {
    Arg::new(name).long(name).value_name(value).value_parser(parser)
}

fn many(name: &'static str, value: &'static str, parser: ValueParser) -> Arg {
    one(name, value, parser).action(ArgAction::Append)
}

fn file(name: &'static str, help: &'static str) -> Arg {
    one(name, "FILE", clap::value_parser!(PathBuf)).help_heading("TLS").help(help)
}

fn tls_args() -> [Arg; 5] {
    [
        file("tls-cert", "Our certificate, then its intermediates (PEM)"),
        file("tls-key", "Its private key (PEM)"),
        file("tls-ca", "The authorities that the peer's certificate must come from (PEM)"),
        file("tls-crl", "Revocation lists, one for each authority that signs (PEM)"),
        many("peer", "IDENTITY", ValueParser::new(|text: &str| text.parse::<Identity>()))
            .help_heading("TLS")
            .help(
                "Whom to expect: cn:NAME, dns:NAME, uri:URI, ip:ADDRESS or spki:sha256:BASE64, with * at \
                 the end of a cn: or uri:. Any one of several will do. Without it, as a server any \
                 certificate of the authorities passes, as a client the host dialed must match",
            ),
    ]
}

fn timeout(name: &'static str, help: &'static str, default: Option<Duration>) -> Arg {
    let default = default.map_or_else(|| "off".to_owned(), quantity::display);
    one(name, "TIME", ValueParser::new(Limit::parse))
        .help_heading("Time limits")
        .help(format!("{help} [default: {default}]"))
}

fn timeout_args() -> [Arg; 6] {
    let default = Timeouts::default();
    [
        timeout("dial-timeout", "Until the backend is connected, retries included", default.dial),
        timeout("handshake-timeout", "Until a TLS handshake is complete", default.handshake),
        timeout("idle-timeout", "Without a byte in either direction", default.idle),
        timeout("half-open-timeout", "Without a byte once one direction has ended", default.half_open),
        timeout("max-lifetime", "From the start of a session to its end, whatever happens", default.lifetime),
        timeout("drain-timeout", "For open sessions to finish after SIGTERM", default.drain),
    ]
}

fn log_format_arg() -> Arg {
    one("log-format", "FORMAT", ["text", "json"].into())
        .default_value("text")
        .help("How log lines look: text for people and grep, or one JSON object each")
}

fn endpoint_parser() -> ValueParser {
    ValueParser::new(|text: &str| text.parse::<Endpoint>())
}

fn octal_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(mode),
        _ => Err("a mode is octal, from 000 to 777, as in 660".to_owned()),
    }
}

fn demo_size(text: &str) -> Result<u64, String> {
    match quantity::bytes(text) {
        Ok(size) if size >= 1 << 20 => Ok(size),
        Ok(_) => Err("too little to show anything; at least 1MiB".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}
