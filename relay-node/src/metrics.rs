//! What a node counts, as Prometheus reads it.
//!
//! Labels are sides, channels, directions and words of which there are not many: as many series for one
//! migration as for thousands, and nothing in them that a peer could choose. Everything is counted where
//! it happens ([`Census`], [`Tally`](crate::tally::Tally)) and put together when somebody asks.

mod exposition;
#[cfg(any(test, feature = "testing"))]
pub mod lint;
mod process;
mod serve;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use relay_core::{Leg, PerLeg};
use relay_migration::registry::Side;

use crate::census::{Census, Role, Series, Sum};
use crate::log_queue;
use crate::sessions::SessionTable;
use crate::tally::Counts;
use crate::tls::{Dates, Tls};
use exposition::{Exposition, Kind, Label};

pub(crate) use exposition::CONTENT_TYPE;
pub(crate) use serve::{Scrapes, start, start_when_free};

/// Answers of a listener, by the hundreds of their status.
#[derive(Debug, Default)]
pub(crate) struct Calls([AtomicU64; 6]);

impl Calls {
    /// A call was answered.
    pub(crate) fn count(&self, status: u16) {
        if let Some(counter) = self.0.get(usize::from(status / 100)) {
            count(counter);
        }
    }
}

/// What there is only in a daemon.
#[derive(Debug, Default)]
pub(crate) struct Daemon {
    /// Objects read.
    pub(crate) objects: AtomicU64,
    /// Objects that could not be used.
    pub(crate) ignored: AtomicU64,
    /// Sources and targets with listeners.
    migrations: [AtomicU64; 2],
    draining: AtomicBool,
}

impl Daemon {
    /// How many migrations there are now, and whether new ones are taken.
    pub(crate) fn note(&self, sources: usize, targets: usize, is_draining: bool) {
        for (counter, count) in self.migrations.iter().zip([sources, targets]) {
            counter.store(count as u64, Ordering::Relaxed);
        }
        self.draining.store(is_draining, Ordering::Relaxed);
    }
}

/// One more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Where everything is that is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    program: &'static str,
    started: Duration,
    sessions: Arc<SessionTable>,
    tls: Option<Arc<Tls>>,
    /// Of the control API.
    pub(crate) control: Calls,
    /// Of those who ask for metrics.
    pub(crate) scrapes: Calls,
    daemon: Option<Daemon>,
}

impl Metrics {
    /// Of a program that begins now.
    pub(crate) fn new(program: &'static str, sessions: Arc<SessionTable>, tls: Option<Arc<Tls>>) -> Self {
        let (control, scrapes) = Default::default();
        Self {
            program,
            started: since_1970(SystemTime::now()),
            sessions,
            tls,
            control,
            scrapes,
            daemon: None,
        }
    }

    /// Of one that is a daemon.
    pub(crate) fn with_daemon(self) -> Self {
        Self { daemon: Some(Daemon::default()), ..self }
    }

    pub(crate) const fn daemon(&self) -> Option<&Daemon> {
        self.daemon.as_ref()
    }

    /// Whether nothing new is taken any more.
    pub(crate) fn is_draining(&self) -> bool {
        let daemon = self.daemon.as_ref().is_some_and(|daemon| daemon.draining.load(Ordering::Relaxed));
        daemon || self.sessions.tally().is_draining()
    }

    /// All of it, at the moment.
    pub(crate) fn text(&self) -> String {
        let mut to = Exposition::default();
        to.family("relay_build_info", Kind::Gauge, "The program and its version.");
        to.sample(&[("program", self.program), ("version", env!("CARGO_PKG_VERSION"))], 1);
        to.family("relay_draining", Kind::Gauge, "Whether nothing new is taken.");
        to.sample(&[], self.is_draining().into());
        let counts = self.sessions.tally().count();
        let census = self.sessions.census();
        sessions(&mut to, &census, counts.listeners);
        bytes(&mut to, &census);
        setups(&mut to, &census, &counts.dials);
        records(&mut to, &census);
        if let Some(tls) = &self.tls {
            certificates(&mut to, tls.dates(), tls.reloads());
        }
        limits(&mut to, &counts);
        to.family(
            "relay_buffer_memory_bytes",
            Kind::Gauge,
            "Memory for bytes on their way: lent to sessions, and kept for the next.",
        );
        for (state, bytes) in [("lent", census.lent), ("kept", counts.kept)] {
            to.sample(&[("state", state)], bytes);
        }
        to.family("relay_loop_lag_seconds", Kind::Histogram, "How long an event may have waited: a loop's way round (relay-mio), a timer's delay (relay-tokio).");
        to.histogram(counts.lag.buckets(), counts.lag.seconds);
        to.family("relay_log_lines_lost_total", Kind::Counter, "Log lines that nobody took in time.");
        to.sample(&[], log_queue::lost());
        self.calls(&mut to);
        if let Some(daemon) = &self.daemon {
            migrations(&mut to, daemon);
        }
        process::families(&mut to, self.started);
        to.finish()
    }

    fn calls(&self, to: &mut Exposition) {
        to.family("relay_http_requests_total", Kind::Counter, "Requests answered, by listener and status.");
        let control = self.daemon.is_some().then_some(("control", &self.control));
        for (listener, calls) in control.into_iter().chain([("metrics", &self.scrapes)]) {
            for (hundreds, counter) in calls.0.iter().enumerate().skip(2) {
                let code = format!("{hundreds}xx");
                to.sample(&[("listener", listener), ("code", &code)], counter.load(Ordering::Relaxed));
            }
        }
    }
}

pub(crate) fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// By the leg read from.
const DIRECTIONS: [(Leg, &str); 2] = [(Leg::Front, "forward"), (Leg::Back, "backward")];

/// Samples by side and channel, and what more labels there are.
fn by_series(to: &mut Exposition, of: Series, more: &[Label<'_>], value: u64) {
    let (side, channel) = (of.role.to_string(), of.channel());
    let labels: Vec<Label<'_>> =
        [("side", &*side), ("channel", &*channel)].into_iter().chain(more.iter().copied()).collect();
    to.sample(&labels, value);
}

fn sessions(to: &mut Exposition, census: &Census, listeners: u64) {
    let series = &census.totals.series;
    to.family("relay_listeners", Kind::Gauge, "Open listeners.");
    to.sample(&[], listeners);
    to.family("relay_sessions", Kind::Gauge, "Sessions that are there, by how far they have come.");
    for ((of, stage), count) in &census.present {
        by_series(to, *of, &[("stage", &stage.to_string())], *count);
    }
    to.family("relay_sessions_accepted_total", Kind::Counter, "Connections taken.");
    for (of, sum) in series {
        by_series(to, *of, &[], sum.begun);
    }
    to.family(
        "relay_sessions_ended_total",
        Kind::Counter,
        "Sessions that are over: clean if both directions ended well.",
    );
    for (of, sum) in series {
        for (result, count) in [("clean", sum.clean), ("unclean", sum.unclean)] {
            by_series(to, *of, &[("result", result)], count);
        }
    }
    to.family(
        "relay_flow_ends_total",
        Kind::Counter,
        "Directions of sessions that are over, by why they ended.",
    );
    for ((role, leg, reason), count) in &census.totals.reasons {
        let direction = DIRECTIONS.into_iter().find(|(of, _)| of == leg).map_or("", |(_, word)| word);
        to.sample(&[("side", &role.to_string()), ("direction", direction), ("reason", reason)], *count);
    }
}

fn bytes(to: &mut Exposition, census: &Census) {
    let series = &census.totals.series;
    let mut family = |name, kind, help, pick: &dyn Fn(Series, &Sum, Leg) -> u64| {
        to.family(name, kind, help);
        for (of, sum) in series {
            for (leg, direction) in DIRECTIONS {
                by_series(to, *of, &[("direction", direction)], pick(*of, sum, leg));
            }
        }
    };
    let help = "Bytes received; forward is from the accepted connection to the dialed one. Received is delivered, cut and buffered together.";
    family("relay_received_bytes_total", Kind::Counter, help, &|_, sum, leg| sum.flows[leg].received);
    let help = "Bytes that the receiving side's kernel took.";
    family("relay_delivered_bytes_total", Kind::Counter, help, &|_, sum, leg| sum.flows[leg].delivered);
    let help = "Bytes received and never delivered, because the session had ended.";
    family("relay_cut_bytes_total", Kind::Counter, help, &|_, sum, leg| sum.flows[leg].cut);
    let help = "Bytes received and on their way.";
    let buffered =
        |of: Series, leg: Leg| census.buffered.get(&of).map_or(0, |bytes: &PerLeg<u64>| bytes[leg]);
    family("relay_buffered_bytes", Kind::Gauge, help, &|of, _, leg| buffered(of, leg));
}

fn setups(to: &mut Exposition, census: &Census, attempts: &BTreeMap<String, u64>) {
    to.family(
        "relay_handshakes_total",
        Kind::Counter,
        "TLS handshakes by result: front with who connected, back with who was dialed.",
    );
    for ((role, leg, result), count) in &census.totals.handshakes {
        to.sample(&[("side", &role.to_string()), ("leg", &leg.to_string()), ("result", result)], *count);
    }
    to.family(
        "relay_dials_total",
        Kind::Counter,
        "Sessions whose backend was dialed, by result, retries included.",
    );
    for ((role, result), count) in &census.totals.dials {
        to.sample(&[("side", &role.to_string()), ("result", result)], *count);
    }
    to.family(
        "relay_dial_attempts_failed_total",
        Kind::Counter,
        "Single attempts to dial that failed, by why.",
    );
    for (reason, count) in attempts {
        to.sample(&[("reason", reason)], *count);
    }
}

fn records(to: &mut Exposition, census: &Census) {
    let mut sums: BTreeMap<Role, crate::census::Records> = BTreeMap::new();
    for (of, sum) in &census.totals.series {
        let records = sums.entry(of.role).or_default();
        records.sealed += sum.records.sealed;
        records.opened += sum.records.opened;
        records.keys_sent += sum.records.keys_sent;
        records.keys_received += sum.records.keys_received;
    }
    let mut family = |name, help, pick: &dyn Fn(&crate::census::Records) -> [u64; 2]| {
        to.family(name, Kind::Counter, help);
        for (role, records) in &sums {
            for (direction, count) in ["sent", "received"].into_iter().zip(pick(records)) {
                to.sample(&[("side", &role.to_string()), ("direction", direction)], count);
            }
        }
    };
    family("relay_tls_records_total", "TLS records after the handshake.", &|of| [of.sealed, of.opened]);
    family("relay_tls_key_updates_total", "Changes of keys within TLS sessions.", &|of| {
        [of.keys_sent, of.keys_received]
    });
}

fn certificates(to: &mut Exposition, dates: Dates, [ok, failed]: [u64; 2]) {
    to.family(
        "relay_certificate_not_after_timestamp_seconds",
        Kind::Gauge,
        "When our certificate ends, and the first of the authorities, in seconds since 1970.",
    );
    for (certificate, end) in [("own", Some(dates.own)), ("authority", dates.authorities)] {
        if let Some(end) = end {
            to.sample(&[("certificate", certificate)], end);
        }
    }
    to.family(
        "relay_revocation_list_next_update_timestamp_seconds",
        Kind::Gauge,
        "When the first revocation list is out of date, in seconds since 1970: then nobody is let in.",
    );
    if let Some(end) = dates.lists {
        to.sample(&[], end);
    }
    to.family(
        "relay_tls_loaded_timestamp_seconds",
        Kind::Gauge,
        "When the present TLS files were read, in seconds since 1970.",
    );
    to.fraction(&[], dates.loaded.as_secs_f64());
    to.family(
        "relay_tls_reloads_total",
        Kind::Counter,
        "Times that the TLS files were read again: failed if what was there before stays.",
    );
    for (result, count) in [("ok", ok), ("failed", failed)] {
        to.sample(&[("result", result)], count);
    }
}

fn limits(to: &mut Exposition, counts: &Counts) {
    to.family(
        "relay_accept_pauses_total",
        Kind::Counter,
        "Pauses of accepting for want of descriptors or memory.",
    );
    to.sample(&[], counts.pauses);
    to.family("relay_held_up_total", Kind::Counter, "Times that somebody had to wait because of a limit.");
    for (limit, count) in &counts.held_up {
        to.sample(&[("limit", limit)], *count);
    }
    to.family(
        "relay_strangers_evicted_total",
        Kind::Counter,
        "Peers sent away for others before they had proved who they are.",
    );
    to.sample(&[], counts.evicted);
    to.family(
        "relay_dialed_out_of_order_total",
        Kind::Counter,
        "Connections dialed after one that was taken later.",
    );
    to.sample(&[], counts.disordered);
}

fn migrations(to: &mut Exposition, daemon: &Daemon) {
    to.family("relay_migrations", Kind::Gauge, "Migrations with listeners.");
    for (side, counter) in [Side::Source, Side::Target].into_iter().zip(&daemon.migrations) {
        to.sample(&[("side", &side.to_string())], counter.load(Ordering::Relaxed));
    }
    to.family("relay_objects_total", Kind::Counter, "VirtualMachineInstances read, by what came of it.");
    for (result, counter) in [("read", &daemon.objects), ("ignored", &daemon.ignored)] {
        to.sample(&[("result", result)], counter.load(Ordering::Relaxed));
    }
}
