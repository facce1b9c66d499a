//! The command line, the same for every node program: defined once, so that man page and
//! completions can come from the very same definition.

mod definition;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;
use relay_tls::Identity;

use crate::endpoint::Endpoint;
use crate::listen::DEFAULT_SOCKET_MODE;
use crate::logging::Format;
use crate::quantity;

pub use definition::command;

/// What is to be done.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Action {
    /// `forward`.
    Forward(Box<Forward>),
    /// `demo`.
    Demo(Demo),
}

/// `forward`: relay whatever connects.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Where to listen, and where to connect for each connection taken there.
    pub pairs: Vec<(Endpoint, Endpoint)>,
    /// The mode of the files of unix sockets listened on.
    pub socket_mode: u32,
    /// Present exactly if an endpoint is `tls:`.
    pub tls: Option<TlsFiles>,
    /// How long what may take.
    pub timeouts: Timeouts,
    /// Sessions that may be open at once; `None` for the default.
    pub max_sessions: Option<usize>,
    /// How log lines look.
    pub log_format: Format,
}

/// Where certificates, key and authorities are, and whom to expect.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Our certificate and its intermediates, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The authorities that peers' certificates must come from, PEM.
    pub ca: PathBuf,
    /// Revocation lists, PEM.
    pub crl: Option<PathBuf>,
    /// Whom to expect at the other end, any of these. Empty: as a server whoever has a certificate
    /// of the authorities, as a client the host that was dialed.
    pub peers: Vec<Identity>,
}

/// How long what may take; `None` for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// Until the backend is connected, retries included.
    pub dial: Option<Duration>,
    /// Until a TLS handshake is complete.
    pub handshake: Option<Duration>,
    /// Without a byte in either direction.
    pub idle: Option<Duration>,
    /// Without a byte in one direction, once the other one has ended.
    pub half_open: Option<Duration>,
    /// From accept to end.
    pub lifetime: Option<Duration>,
    /// From the wish to stop until what is left is cut.
    pub drain: Option<Duration>,
}

impl Default for Timeouts {
    /// The defaults that `--help` shows, and why:
    /// - dial and handshake: long enough for a lost SYN or two (RFC 6298 section 2: 1, 2, 4 s);
    /// - idle: off, since a paused migration is silent for hours, and a healthy one has directions
    ///   that never speak;
    /// - half-open: whoever still answers may think for minutes; dead machines are found by
    ///   keepalive after 150 s;
    /// - drain: what KubeVirt gives its proxy (`--graceful-shutdown-seconds`).
    fn default() -> Self {
        Self {
            dial: Some(Duration::from_secs(10)),
            handshake: Some(Duration::from_secs(10)),
            idle: None,
            half_open: Some(Duration::from_secs(300)),
            lifetime: None,
            drain: Some(Duration::from_secs(300)),
        }
    }
}

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

/// Why the program ends before it has begun.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Early {
    /// Help or the version was asked for: text for standard output.
    Told(String),
    /// What is wrong, and what would be right, on one line: for standard error.
    Misused(String),
}

/// Reads a command line, `args` beginning with the program's name.
///
/// # Errors
/// [`Early`], for help as well as for anything wrong.
pub fn parse(name: &'static str, args: impl IntoIterator<Item = OsString>) -> Result<Action, Early> {
    let matches = command(name).try_get_matches_from(args).map_err(|e| early(&e))?;
    match matches.subcommand() {
        Some(("forward", given)) => {
            forward(given).map(|given| Action::Forward(Box::new(given))).map_err(Early::Misused)
        }
        Some(("demo", given)) => Ok(Action::Demo(demo(given))),
        _ => Err(Early::Misused("a command is missing; try --help".to_owned())),
    }
}

/// clap's message on one line: what is wrong and its tips, without usage and pointers to help.
fn early(error: &clap::Error) -> Early {
    let text = error.to_string();
    if !error.use_stderr() {
        return Early::Told(text);
    }
    let words = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut line = String::new();
    for paragraph in text.split("\n\n").map(words) {
        if paragraph.is_empty() || paragraph.starts_with("Usage:") || paragraph.starts_with("For more") {
            continue;
        }
        let plain = paragraph.strip_prefix("error: ").or_else(|| paragraph.strip_prefix("tip: "));
        if !line.is_empty() {
            line.push_str("; ");
        }
        line.push_str(plain.unwrap_or(&paragraph));
    }
    Early::Misused(line)
}

/// A time limit as given; clap wants a type of its own to tell "absent" from "off".
#[derive(Clone, Copy)]
struct Limit(Option<Duration>);

impl Limit {
    fn parse(text: &str) -> Result<Self, quantity::QuantityError> {
        quantity::duration_or_off(text).map(Self)
    }
}

fn demo(given: &ArgMatches) -> Demo {
    let streams = given.get_one::<u64>("streams").copied().unwrap_or(1);
    Demo {
        size: given.get_one::<u64>("size").copied().unwrap_or(2 << 30),
        streams: usize::try_from(streams).unwrap_or(1),
        log_format: log_format(given),
    }
}

fn log_format(given: &ArgMatches) -> Format {
    match given.get_one::<String>("log-format").map(String::as_str) {
        Some("json") => Format::Json,
        _ => Format::Text,
    }
}

fn forward(given: &ArgMatches) -> Result<Forward, String> {
    let all = |name| given.get_many::<Endpoint>(name).unwrap_or_default().cloned().collect::<Vec<_>>();
    let (listen, connect) = (all("listen"), all("connect"));
    if listen.len() != connect.len() {
        return Err(format!(
            "--listen is given {} times and --connect {} times; they belong together in their order, so there must be as many",
            listen.len(),
            connect.len()
        ));
    }
    for endpoint in &connect {
        check_connect(endpoint)?;
    }
    let socket_mode = given.get_one::<u32>("socket-mode").copied();
    if socket_mode.is_some() && !listen.iter().any(|e| matches!(e, Endpoint::Unix(_))) {
        return Err("--socket-mode is given, but no --listen is unix:PATH".to_owned());
    }
    let pairs: Vec<_> = listen.into_iter().zip(connect).collect();
    Ok(Forward {
        tls: tls_files(given, &pairs)?,
        pairs,
        socket_mode: socket_mode.unwrap_or(DEFAULT_SOCKET_MODE),
        timeouts: timeouts(given),
        max_sessions: given.get_one::<u64>("max-sessions").and_then(|n| usize::try_from(*n).ok()),
        log_format: log_format(given),
    })
}

fn check_connect(endpoint: &Endpoint) -> Result<(), String> {
    match endpoint {
        Endpoint::Fd(_) => Err(format!("--connect {endpoint}: an inherited socket can only be listened on")),
        Endpoint::Tcp(at) | Endpoint::Tls(at) if at.port == 0 => {
            Err(format!("--connect {endpoint}: port 0 can only be listened on; say which one to connect to"))
        }
        Endpoint::Unix(_) | Endpoint::Abstract(_) | Endpoint::Tcp(_) | Endpoint::Tls(_) => Ok(()),
    }
}

/// Joins words as people do: `a`, `a and b`, `a, b and c`.
fn listed(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

fn tls_files(given: &ArgMatches, pairs: &[(Endpoint, Endpoint)]) -> Result<Option<TlsFiles>, String> {
    let path = |name: &str| given.get_one::<PathBuf>(name).cloned();
    let is_given = |name: &str| given.contains_id(name);
    let Some(tls) = pairs.iter().flat_map(|(listen, connect)| [listen, connect]).find(|e| e.is_tls()) else {
        let idle: Vec<_> = ["tls-cert", "tls-key", "tls-ca", "tls-crl", "peer"]
            .into_iter()
            .filter(|name| is_given(name))
            .map(|name| format!("--{name}"))
            .collect();
        if idle.is_empty() {
            return Ok(None);
        }
        let idle: Vec<_> = idle.iter().map(String::as_str).collect();
        let (verb, flags) = (if idle.len() == 1 { "is" } else { "are" }, listed(&idle));
        return Err(format!("{flags} {verb} given, but no endpoint is tls:HOST:PORT"));
    };
    match (path("tls-cert"), path("tls-key"), path("tls-ca")) {
        (Some(cert), Some(key), Some(ca)) => {
            let peers = given.get_many::<Identity>("peer").unwrap_or_default().cloned().collect();
            Ok(Some(TlsFiles { cert, key, ca, crl: path("tls-crl"), peers }))
        }
        (cert, key, ca) => {
            let missing: Vec<_> =
                [("--tls-cert", cert.is_none()), ("--tls-key", key.is_none()), ("--tls-ca", ca.is_none())]
                    .into_iter()
                    .filter_map(|(flag, missing)| missing.then_some(flag))
                    .collect();
            Err(format!("{tls} needs {} too (TLS here is always mutual)", listed(&missing)))
        }
    }
}

fn timeouts(given: &ArgMatches) -> Timeouts {
    let limit = |name: &str, default| given.get_one::<Limit>(name).map_or(default, |limit| limit.0);
    let default = Timeouts::default();
    Timeouts {
        dial: limit("dial-timeout", default.dial),
        handshake: limit("handshake-timeout", default.handshake),
        idle: limit("idle-timeout", default.idle),
        half_open: limit("half-open-timeout", default.half_open),
        lifetime: limit("max-lifetime", default.lifetime),
        drain: limit("drain-timeout", default.drain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Action, Early> {
        parse("relay-x", std::iter::once("relay-x").chain(line.split_whitespace()).map(OsString::from))
    }

    fn misuse(line: &str) -> String {
        match run(line) {
            Err(Early::Misused(message)) => {
                assert!(!message.contains('\n'), "one line: {message}");
                message
            }
            other => panic!("{line}: {other:?}"),
        }
    }

    fn forwarded(line: &str) -> Forward {
        match run(line) {
            Ok(Action::Forward(forward)) => *forward,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        command("relay-x").debug_assert();
    }

    #[test]
    fn pairs_are_made_in_order() {
        let forward = forwarded(
            "forward --listen unix:@a --listen unix:@b --connect tcp:h:1 --connect tcp:h:2 --idle-timeout 5m --dial-timeout off",
        );
        let pairs: Vec<_> = forward.pairs.iter().map(|(l, c)| format!("{l} {c}")).collect();
        assert_eq!(pairs, ["unix:@a tcp:h:1", "unix:@b tcp:h:2"]);
        assert!(forward.tls.is_none());
        assert_eq!(forward.socket_mode, 0o600);
        assert_eq!(forward.log_format, Format::Text);
        let expected = Timeouts { idle: Some(Duration::from_secs(300)), dial: None, ..Timeouts::default() };
        assert_eq!(forward.timeouts, expected);
    }

    #[test]
    fn tls_takes_files_and_peers() {
        let forward = forwarded(
            "forward --listen tls:[::]:0 --connect unix:/x --tls-cert c --tls-key k --tls-ca a --peer cn:one --peer cn:two* --log-format json",
        );
        let tls = forward.tls.expect("tls");
        assert_eq!((tls.cert, tls.key, tls.ca, tls.crl), ("c".into(), "k".into(), "a".into(), None));
        let peers: Vec<_> = tls.peers.iter().map(ToString::to_string).collect();
        assert_eq!(peers, ["cn:one", "cn:two*"]);
        assert_eq!(forward.log_format, Format::Json);
    }

    #[test]
    fn misuse_is_told_on_one_line_that_says_what_would_be_right() {
        let long = format!("forward --listen unix:/{} --connect unix:@b", "x".repeat(107));
        for (line, says) in [
            ("", "subcommand"),
            ("forwrd", "similar subcommand exists: 'forward'"),
            ("forward", "--listen <ENDPOINT> --connect <ENDPOINT>"),
            ("forward --lisen unix:@a", "'--listen'"),
            ("forward --listen unix:@a --connect unix:@b --connect unix:@c", "1 times and --connect 2 times"),
            (
                "forward --listen tls:h:1 --connect unix:@b",
                "tls:h:1 needs --tls-cert, --tls-key and --tls-ca too",
            ),
            ("forward --listen tls:h:1 --connect unix:@b --tls-cert c --tls-ca a", "needs --tls-key too"),
            (
                "forward --listen unix:@a --connect unix:@b --tls-cert c",
                "--tls-cert is given, but no endpoint is tls:",
            ),
            (
                "forward --listen unix:@a --connect unix:@b --tls-key c --peer cn:x",
                "--tls-key and --peer are given",
            ),
            ("forward --listen unix:@a --connect unix:@b --socket-mode 660", "no --listen is unix:PATH"),
            ("forward --listen unix:a --connect unix:@b --socket-mode 999", "a mode is octal"),
            ("forward --listen unix:@a --connect tcp:h:0", "port 0 can only be listened on"),
            ("forward --listen unix:@a --connect fd:x", "can only be listened on"),
            ("forward --listen unix:@a --connect /run/x", "unix:/run/x"),
            (
                "forward --listen unix:@a --connect unix:@b --idle-timeout 5",
                "write 500ms, 10s, 5m or 1h, or off",
            ),
            ("forward --listen unix:@a --connect unix:@b --log-format xml", "possible values: text, json"),
            ("forward --listen tls:h:1 --connect unix:@b --peer x:y", "is not an identity"),
            (&long, "may have 107 bytes"),
            ("demo --size 5", "at least 1MiB"),
            ("demo --streams 0", "0 is not in 1..=256"),
        ] {
            let message = misuse(line);
            assert!(message.contains(says), "{line}\n  gave {message}");
        }
    }

    #[test]
    fn help_teaches() {
        for (line, says) in [
            ("--help", "relay-x demo"),
            ("--version", "relay-x 0"),
            ("forward --help", "relay-x forward --listen unix:/run/relay/vm1.sock"),
            ("forward --help", "[default: 10s]"),
            ("demo --help", "relay-x demo --size 16GiB"),
        ] {
            match run(line) {
                Err(Early::Told(text)) => assert!(text.contains(says), "{text}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }
}
