//! What every command that serves is told in the same way: TLS, limits, log.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::ValueParser;
use clap::{Arg, ArgMatches, Command};
use relay_tls::Identity;

use super::args::{all, endpoint, file, flag, given, listed, many, one, text, those_given};
use crate::bandwidth::Rate;
use crate::endpoint::Endpoint;
use crate::logging::Format;
use crate::quantity;
use crate::socket::TcpOptions;

/// Where certificates, key and authorities are, and whom to expect.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Our certificate and its intermediates, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The same two for where we connect, if they are others.
    pub client: Option<ClientFiles>,
    /// The authorities that peers' certificates must come from, PEM.
    pub ca: PathBuf,
    /// Revocation lists, PEM.
    pub crl: Option<PathBuf>,
    /// Whom to expect at the other end, any of these. Empty: as a server whoever has a certificate
    /// of the authorities, as a client the host that was dialed.
    pub peers: Vec<Identity>,
    /// Open sessions are held to certificates' dates, and to what a reload brings, as new ones are.
    pub revoke_live: bool,
}

/// Certificate and key to show where we connect: KubeVirt has one pair for servers and one for clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientFiles {
    /// Our certificate and its intermediates, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

impl TlsFiles {
    /// All of them.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let client = self.client.iter().flat_map(|client| [&client.cert, &client.key]);
        [&self.cert, &self.key, &self.ca].into_iter().chain(client).chain(&self.crl).cloned().collect()
    }
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

/// How to serve, whatever it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Serving {
    /// How long what may take.
    pub timeouts: Timeouts,
    /// Bytes a second for all of it.
    pub bandwidth: Rate,
    /// For TCP sockets on both sides.
    pub tcp: TcpOptions,
    /// Sessions that may be open at once; `None` for the default.
    pub max_sessions: Option<usize>,
    /// Loops; `None` for as many as there are processors.
    pub threads: Option<NonZeroUsize>,
    /// How log lines look.
    pub log_format: Format,
    /// Whether it goes without what the kernel could keep it from.
    pub no_sandbox: bool,
}

/// A time limit as given; clap wants a type of its own to tell "absent" from "off".
#[derive(Clone, Copy)]
struct Limit(Option<Duration>);

impl Limit {
    fn parse(text: &str) -> Result<Self, quantity::QuantityError> {
        quantity::duration_or_off(text).map(Self)
    }
}

/// Adds the options that [`serving`] and [`tls_files`] read.
pub(super) fn with_serving(command: Command) -> Command {
    command
        .args(tls_args())
        .arg(
            flag("revoke-live")
                .requires("tls-cert")
                .help_heading("TLS")
                .help(
                    "End open sessions, too, once their peer would not be let in any more: by what the files hold\n\
                     after a reload (--tls-crl, --tls-ca), or because a certificate of its chain or a revocation\n\
                     list has expired [default: a session is its peer's until it ends]",
                ),
        )
        .arg(
            one("max-sessions", "N", clap::value_parser!(u64).range(1..=1_000_000))
                .help_heading("Limits")
                .help("Connections relayed at once; more wait to be accepted [default: 10000]"),
        )
        .arg(
            one("threads", "N", clap::value_parser!(u64).range(1..=1024))
                .help_heading("Limits")
                .help("Loops to spread them over [default: one for each processor]"),
        )
        .arg(rate_arg(
            "bandwidth",
            "Bytes a second that are read from all connections together, both directions counted, as in\n\
             100MiB/s; shared out in turns [default: off]",
        ))
        .args(timeout_args())
        .arg(one("metrics", "ENDPOINT", endpoint()).help(
            "Answer Prometheus here, over HTTP in plaintext: tcp:HOST:PORT, unix:PATH, unix:@NAME or fd:NAME;\n\
             also /healthz and /readyz",
        ))
        .arg(log_format_arg())
        .arg(flag("no-sandbox").help(
            "Leave the process every right it was started with. Otherwise it gives up at the start what it does\n\
             not need, as far as the kernel can hold it to that; the log says what that is",
        ))
}

/// An option whose value is a rate or `off`.
pub(super) fn rate_arg(name: &'static str, help: &'static str) -> Arg {
    one(name, "RATE", ValueParser::new(|text: &str| quantity::rate_or_off(text).map(RateOrOff)))
        .help_heading("Limits")
        .help(help)
}

pub(super) fn rate(matches: &ArgMatches, name: &str) -> Rate {
    matches.get_one::<RateOrOff>(name).and_then(|rate| rate.0)
}

/// What clap holds for a rate.
#[derive(Clone, Copy)]
struct RateOrOff(Rate);

/// Where metrics are asked for.
pub(super) fn metrics(matches: &ArgMatches) -> Result<Option<Endpoint>, String> {
    match given::<Endpoint>(matches, "metrics") {
        Some(Endpoint::Tls(at)) => {
            Err(format!("--metrics tls:{at}: metrics are told in plaintext, to tcp:{at} or a unix socket"))
        }
        metrics => Ok(metrics),
    }
}

pub(super) fn serving(matches: &ArgMatches) -> Serving {
    let number = |name| given::<u64>(matches, name).and_then(|n| usize::try_from(n).ok());
    let tcp = matches.get_one::<Limit>("tcp-user-timeout");
    Serving {
        timeouts: timeouts(matches),
        bandwidth: rate(matches, "bandwidth"),
        tcp: tcp.map_or_else(TcpOptions::default, |limit| TcpOptions { user_timeout: limit.0 }),
        max_sessions: number("max-sessions"),
        threads: number("threads").and_then(NonZeroUsize::new),
        log_format: log_format(matches),
        no_sandbox: matches.get_flag("no-sandbox"),
    }
}

const TLS_FLAGS: [&str; 7] =
    ["tls-cert", "tls-key", "tls-client-cert", "tls-client-key", "tls-ca", "tls-crl", "peer"];

pub(super) fn tls_args() -> [Arg; 7] {
    [
        file("tls-cert", "Our certificate, then its intermediates (PEM)"),
        file("tls-key", "Its private key (PEM)"),
        file(
            "tls-client-cert",
            "Our certificate where we connect, if it is another one [default: --tls-cert]",
        )
        .requires("tls-client-key"),
        file("tls-client-key", "Its private key (PEM) [default: --tls-key]").requires("tls-client-cert"),
        file("tls-ca", "The authorities that the peer's certificate must come from (PEM)"),
        file(
            "tls-crl",
            "Revocation lists (PEM). With any, every authority of a peer's chain needs a current one",
        ),
        many("peer", "IDENTITY", text::<Identity>()).help_heading("TLS").help(
            "Whom to expect: cn:NAME, dns:NAME, uri:URI, ip:ADDRESS or spki:sha256:BASE64; a cn: or uri:\n\
             may end in *. Of several any one will do. Without it, as a server any certificate of the\n\
             authorities passes; as a client the host dialed must be in the certificate",
        ),
    ]
}

/// The TLS files, if `wanted` says what they are for; else there must be none, for `otherwise`.
pub(super) fn tls_files(
    matches: &ArgMatches,
    wanted: Option<&str>,
    otherwise: &str,
) -> Result<Option<TlsFiles>, String> {
    let Some(wanted) = wanted else {
        return match those_given(matches, &TLS_FLAGS) {
            Some((flags, verb)) => Err(format!("{flags} {verb} given, but {otherwise}")),
            None => Ok(None),
        };
    };
    let path = |name: &str| given::<PathBuf>(matches, name);
    match (path("tls-cert"), path("tls-key"), path("tls-ca")) {
        (Some(cert), Some(key), Some(ca)) => {
            let client = path("tls-client-cert").zip(path("tls-client-key"));
            let client = client.map(|(cert, key)| ClientFiles { cert, key });
            let peers = all(matches, "peer");
            // `check` has none.
            let revoke_live = matches.try_get_one("revoke-live").ok().flatten().copied().unwrap_or(false);
            Ok(Some(TlsFiles { cert, key, client, ca, crl: path("tls-crl"), peers, revoke_live }))
        }
        (cert, key, ca) => {
            let missing: Vec<_> =
                [("--tls-cert", cert.is_none()), ("--tls-key", key.is_none()), ("--tls-ca", ca.is_none())]
                    .into_iter()
                    .filter_map(|(flag, missing)| missing.then_some(flag))
                    .collect();
            Err(format!("{wanted} needs {} too (TLS here is always mutual)", listed(&missing)))
        }
    }
}

/// An option whose value is a time or `off`.
pub(super) fn timeout(name: &'static str, help: &'static str, default: Option<Duration>) -> Arg {
    let default = default.map_or_else(|| "off".to_owned(), quantity::display);
    one(name, "TIME", ValueParser::new(Limit::parse))
        .help_heading("Time limits")
        .help(format!("{help} [default: {default}]"))
}

fn timeout_args() -> [Arg; 7] {
    let default = Timeouts::default();
    [
        timeout("dial-timeout", "Until the backend is connected, retries included", default.dial),
        timeout("handshake-timeout", "Until a TLS handshake is complete", default.handshake),
        timeout("idle-timeout", "Without a byte in either direction", default.idle),
        timeout("half-open-timeout", "Without a byte once one direction has ended", default.half_open),
        timeout("max-lifetime", "From the start of a session to its end, whatever happens", default.lifetime),
        timeout("drain-timeout", "For open sessions to finish after SIGTERM", default.drain),
        timeout(
            "tcp-user-timeout",
            "Without a TCP peer acknowledging or taking anything that waits for it",
            TcpOptions::default().user_timeout,
        ),
    ]
}

/// What was given for it.
pub(super) fn limit(matches: &ArgMatches, name: &str, default: Option<Duration>) -> Option<Duration> {
    matches.get_one::<Limit>(name).map_or(default, |limit| limit.0)
}

fn timeouts(matches: &ArgMatches) -> Timeouts {
    let limit = |name, default| limit(matches, name, default);
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

pub(super) fn log_format_arg() -> Arg {
    one("log-format", "FORMAT", ["text", "json"])
        .default_value("text")
        .help("How log lines look: text for people and grep, json for one object each")
}

pub(super) fn log_format(matches: &ArgMatches) -> Format {
    match given::<String>(matches, "log-format").as_deref() {
        Some("json") => Format::Json,
        _ => Format::Text,
    }
}
