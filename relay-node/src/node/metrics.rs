//! What is counted, and how Prometheus reads it (its text format, version 0.0.4). Labels are sides,
//! channels and a few words: as many series for one migration as for thousands.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use relay_core::Leg;
use relay_migration::registry::{Registry, Side};

use super::answers::side;
use crate::observer::SessionEnded;
use crate::server::Plan;
use crate::sessions::SessionTable;

/// The content's type.
pub(super) const TYPE: &str = "text/plain; version=0.0.4";

/// A side and a channel.
type Series = (Side, u16);

/// What has been, beyond what is.
#[derive(Debug, Default)]
pub(super) struct Counters {
    ended: Mutex<BTreeMap<Series, Ended>>,
    /// Objects read.
    pub(super) objects: AtomicU64,
    /// Objects that could not be used.
    pub(super) ignored: AtomicU64,
    /// Calls of the control API, by the hundreds of their status.
    pub(super) calls: [AtomicU64; 6],
}

#[derive(Clone, Copy, Debug, Default)]
struct Ended {
    clean: u64,
    unclean: u64,
    forward: u64,
    backward: u64,
}

/// One more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    /// A session is over.
    pub(super) fn ended(&self, session: &SessionEnded<'_>) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = ended.entry(series(session.plan)).or_default();
        *(if session.outcome.is_clean() { &mut sum.clean } else { &mut sum.unclean }) += 1;
        sum.forward += session.outcome.flows[Leg::Front].delivered;
        sum.backward += session.outcome.flows[Leg::Back].delivered;
    }

    /// A call was answered.
    pub(super) fn called(&self, status: u16) {
        if let Some(counter) = self.calls.get(usize::from(status / 100)) {
            count(counter);
        }
    }
}

fn series(plan: &Plan) -> Series {
    (side(plan), plan.label().map_or(0, |label| label.channel.id()))
}

/// All of it.
pub(super) fn text(registry: &Registry, sessions: &SessionTable, counters: &Counters) -> String {
    let mut text = Text(String::new());
    text.family("relay_build_info", "gauge", "The program's version.");
    text.sample("relay_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    text.family("relay_draining", "gauge", "Whether nothing new is taken.");
    text.sample("relay_draining", &[], u64::from(registry.is_shutting_down()));
    text.family("relay_migrations", "gauge", "Migrations with listeners.");
    for side in [Side::Source, Side::Target] {
        let count = registry.names().filter(|name| name.side == side).count();
        text.sample("relay_migrations", &[("side", &side.to_string())], count as u64);
    }
    text.family("relay_listeners", "gauge", "Open listeners.");
    text.sample("relay_listeners", &[], registry.open_count().listeners as u64);

    let ended = counters.ended.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut open: BTreeMap<(Series, String), u64> = BTreeMap::new();
    let mut moved: BTreeMap<Series, (u64, u64)> =
        ended.iter().map(|(of, sum)| (*of, (sum.forward, sum.backward))).collect();
    for session in sessions.snapshot() {
        let of = series(&session.plan);
        *open.entry((of, session.stage.to_string())).or_default() += 1;
        let sum = moved.entry(of).or_default();
        sum.0 += session.flows[Leg::Front].delivered;
        sum.1 += session.flows[Leg::Back].delivered;
    }
    text.family("relay_sessions", "gauge", "Open sessions, by how far they have come.");
    for (((side, channel), stage), count) in open {
        let labels = [("side", &*side.to_string()), ("channel", &*channel.to_string()), ("stage", &*stage)];
        text.sample("relay_sessions", &labels, count);
    }
    text.family("relay_sessions_ended_total", "counter", "Sessions that are over.");
    for ((side, channel), sum) in ended {
        for (result, count) in [("clean", sum.clean), ("unclean", sum.unclean)] {
            let labels =
                [("side", &*side.to_string()), ("channel", &*channel.to_string()), ("result", result)];
            text.sample("relay_sessions_ended_total", &labels, count);
        }
    }
    text.family(
        "relay_delivered_bytes_total",
        "counter",
        "Bytes delivered, forward being from the accepted connection to the dialed one.",
    );
    for ((side, channel), (forward, backward)) in moved {
        for (direction, count) in [("forward", forward), ("backward", backward)] {
            let labels =
                [("side", &*side.to_string()), ("channel", &*channel.to_string()), ("direction", direction)];
            text.sample("relay_delivered_bytes_total", &labels, count);
        }
    }
    text.family("relay_objects_total", "counter", "VirtualMachineInstances read, by what came of it.");
    for (result, counter) in [("read", &counters.objects), ("ignored", &counters.ignored)] {
        text.sample("relay_objects_total", &[("result", result)], counter.load(Ordering::Relaxed));
    }
    text.family("relay_control_calls_total", "counter", "Calls of the control API, by status.");
    for (hundreds, counter) in counters.calls.iter().enumerate().skip(2) {
        let code = format!("{hundreds}xx");
        text.sample("relay_control_calls_total", &[("code", &code)], counter.load(Ordering::Relaxed));
    }
    text.0
}

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// No label's value has anything to be escaped: they are words and numbers.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}
