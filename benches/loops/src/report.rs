//! The table and the picture.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use crate::{Loop, Mode};

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Measure {
    /// One connection, as fast as it goes.
    Bulk,
    /// Eight of them.
    Streams,
    /// A message of 64 bytes there and back.
    RoundTrip,
    /// The same beside a connection that sends as fast as it goes.
    UnderBulk,
    /// Connections made, used once and closed, four at once.
    Connections,
    /// Memory of a connection that does nothing.
    Idle,
}

impl Measure {
    /// Those that criterion times.
    pub const TIMED: [Self; 5] =
        [Self::Bulk, Self::Streams, Self::RoundTrip, Self::UnderBulk, Self::Connections];
    const ALL: [Self; 6] =
        [Self::Bulk, Self::Streams, Self::RoundTrip, Self::UnderBulk, Self::Connections, Self::Idle];

    /// As it is called in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bulk => "1 stream",
            Self::Streams => "8 streams",
            Self::RoundTrip => "round trip",
            Self::UnderBulk => "round trip under bulk",
            Self::Connections => "connections",
            Self::Idle => "idle connection",
        }
    }

    /// How many of what a cost is told for are in one round: GiB, messages or connections.
    #[must_use]
    pub fn units(self, bulk: u64, connections: u64) -> f64 {
        match self {
            Self::Bulk | Self::Streams => bulk as f64 / (1_u64 << 30) as f64,
            Self::RoundTrip | Self::UnderBulk | Self::Idle => 1.0,
            Self::Connections => connections as f64,
        }
    }

    /// Time, or memory, as people read it.
    fn show(self, sample: Sample) -> String {
        match self {
            Self::Bulk | Self::Streams => format!("{:.2} GiB/s", 1.0 / sample.cost),
            Self::RoundTrip | Self::UnderBulk => format!("{:.0} µs", sample.cost * 1e6),
            Self::Connections => format!("{:.0}/s", 1.0 / sample.cost),
            Self::Idle => format!("{:.1} KiB", sample.cost),
        }
    }

    /// Processor time of both relays, where there is enough of it to be counted.
    fn show_cpu(self, sample: Sample) -> Option<String> {
        match self {
            Self::Bulk | Self::Streams => Some(format!("{:.2} s/GiB", sample.cpu_seconds)),
            Self::RoundTrip => Some(format!("{:.0} µs", sample.cpu_seconds * 1e6)),
            Self::Connections => Some(format!("{:.2} ms", sample.cpu_seconds * 1e3)),
            Self::UnderBulk | Self::Idle => None,
        }
    }
}

/// For one unit of what is measured.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sample {
    /// Seconds; KiB for memory.
    pub cost: f64,
    /// Of both relays.
    pub cpu_seconds: f64,
}

/// All that was measured.
#[derive(Debug)]
pub struct Report {
    samples: BTreeMap<(Mode, Measure, Loop), Vec<Sample>>,
    /// The machine's load before anything was measured.
    load: String,
}

impl Report {
    /// Of nothing yet.
    #[must_use]
    pub fn start() -> Self {
        Self { samples: BTreeMap::new(), load: load() }
    }

    /// More of the same.
    pub fn add(&mut self, measure: Measure, mode: Mode, who: Loop, more: impl IntoIterator<Item = Sample>) {
        self.samples.entry((mode, measure, who)).or_default().extend(more);
    }

    /// Whether everything that criterion times was measured.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let loops = |mode| Loop::ALL.into_iter().filter(move |who| who.has(mode));
        Mode::ALL.into_iter().all(|mode| {
            loops(mode).all(|who| Measure::TIMED.iter().all(|m| self.samples.contains_key(&(mode, *m, who))))
        })
    }

    /// The medians.
    fn of(&self, mode: Mode, measure: Measure, who: Loop) -> Option<Sample> {
        let samples = self.samples.get(&(mode, measure, who))?;
        let median = |of: fn(&Sample) -> f64| -> Option<f64> {
            let mut values: Vec<f64> = samples.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            let (low, high) = (values.get((values.len() - 1) / 2)?, values.get(values.len() / 2)?);
            Some((low + high) / 2.0)
        };
        Some(Sample { cost: median(|s| s.cost)?, cpu_seconds: median(|s| s.cpu_seconds)? })
    }

    /// Writes `BENCHMARKS.md` and `benchmarks.svg`.
    ///
    /// # Errors
    /// As write(2).
    pub fn write(&self, docs: &Path) -> io::Result<()> {
        fs::write(docs.join("BENCHMARKS.md"), self.table())?;
        fs::write(docs.join("benchmarks.svg"), self.picture())
    }

    fn table(&self) -> String {
        let mut text = format!(
            "# Loops, side by side\n\n\
             Written by `cargo bench -p relay-loops-bench`, on {}. Not to be edited. The load of the machine \
             (the last minute's, /proc/loadavg) was {} before and {} after, of which the benchmark itself \
             makes one to four: **with more than that, others ran beside it**.\n\n\
             client → unix socket → source ⇒ TCP ⇒ target → unix socket → sink; source and target are the same \
             program, a process each. Medians of ten samples, criterion's warm-up not among them; processor \
             time is that of both relays, to the nanosecond by their own clocks. Each was measured \
             after the other, not in turns: **trust the processor time, and of the rest what is far apart**; the \
             clock's time says as much about the machine and what else it did.\n\n\
             - `relay-mio`, `relay-tokio`: the nodes, with what a node does besides: limits, order, a table of \
             sessions, a line in the log for each; plain to plain by splice(2).\n\
             - `relay()`: the function `relay_tokio::relay` where `copy_bidirectional` would stand; any two \
             streams can't be spliced.\n\
             - `copy_bidirectional`: tokio's own with buffers of 64 KiB, with tokio-rustls where there is TLS.\n\
             - `threads`: a thread for each direction with `std::io::copy`, which splices; a rustls session \
             can't be split between two threads.\n\n\
             In brackets: time, processor time or memory against `copy_bidirectional`. Other \
             relays, HAProxy and nginx among them, are measured beside these by `benches/peers/run`.\n\n\
             ![Cost against copy_bidirectional](benchmarks.svg)\n",
            machine(),
            self.load,
            load(),
        );
        for mode in Mode::ALL {
            let loops: Vec<Loop> = Loop::ALL.into_iter().filter(|who| who.has(mode)).collect();
            let _ = write!(text, "\n## {}\n\n| |", mode.name());
            loops.iter().for_each(|who| _ = write!(text, " {} |", who.name()));
            let _ = write!(text, "\n| --- |{}\n", " --- |".repeat(loops.len()));
            for measure in Measure::ALL {
                let mut row = |name: &str, cell: &dyn Fn(Loop) -> Option<String>| {
                    let _ = write!(text, "| {name} |");
                    loops.iter().for_each(|who| _ = write!(text, " {} |", cell(*who).unwrap_or_default()));
                    text.push('\n');
                };
                row(measure.name(), &|who| {
                    let sample = self.of(mode, measure, who)?;
                    let ratio = sample.cost / self.of(mode, measure, Loop::Copy)?.cost;
                    Some(format!("{} (×{ratio:.2})", measure.show(sample)))
                });
                if Measure::show_cpu(measure, Sample { cost: 0.0, cpu_seconds: 0.0 }).is_some() {
                    row("… processor time", &|who| {
                        let sample = self.of(mode, measure, who)?;
                        let ratio = sample.cpu_seconds / self.of(mode, measure, Loop::Copy)?.cpu_seconds;
                        Some(format!("{} (×{ratio:.2})", measure.show_cpu(sample)?))
                    });
                }
            }
        }
        text
    }

    /// Bars: what each costs against copy_bidirectional. Shorter is better.
    fn picture(&self) -> String {
        const COLOURS: [&str; 5] = ["#1f6f8b", "#5fb49c", "#8cc6e0", "#9aa5b1", "#d9b08c"];
        const UNIT: f64 = 260.0;
        const MOST: f64 = 1.6;
        let mut rows = String::new();
        let mut y = 74.0;
        for mode in Mode::ALL {
            let _ = writeln!(rows, "<text x='16' y='{y}' class='mode'>{}</text>", mode.name());
            y += 10.0;
            for (name, measure, is_cpu) in [
                ("1 stream, CPU per GiB", Measure::Bulk, true),
                ("8 streams, CPU per GiB", Measure::Streams, true),
                ("round trip", Measure::RoundTrip, false),
                ("round trip under bulk", Measure::UnderBulk, false),
                ("connection, CPU", Measure::Connections, true),
                ("idle connection, memory", Measure::Idle, false),
            ] {
                let cost =
                    |who| self.of(mode, measure, who).map(|s| if is_cpu { s.cpu_seconds } else { s.cost });
                let Some(base) = cost(Loop::Copy).filter(|base| *base > 0.0) else { continue };
                let _ = writeln!(rows, "<text x='196' y='{}' class='name'>{name}</text>", y + 24.0);
                for (who, colour) in Loop::ALL.into_iter().zip(COLOURS) {
                    let Some(ratio) = cost(who).map(|cost| cost / base) else { continue };
                    let width = ratio.min(MOST) * UNIT;
                    let _ = writeln!(
                        rows,
                        "<rect x='206' y='{y}' width='{width:.1}' height='9' fill='{colour}'/>\
                         <text x='{:.1}' y='{}' class='value'>{ratio:.2}</text>",
                        210.0 + width,
                        y + 8.0
                    );
                    y += 11.0;
                }
                y += 8.0;
            }
            y += 22.0;
        }
        let mut legend = String::new();
        for (at, (who, colour)) in Loop::ALL.into_iter().zip(COLOURS).enumerate() {
            let x = 156 + at * 112;
            let _ = writeln!(
                legend,
                "<rect x='{x}' y='38' width='9' height='9' fill='{colour}'/>\
                 <text x='{}' y='46' class='value'>{}</text>",
                x + 13,
                who.name()
            );
        }
        format!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='720' height='{y}' viewBox='0 0 720 {y}'>\n\
             <style>text {{ font: 11px sans-serif; fill: #222 }} .mode {{ font: bold 13px sans-serif }} \
             .name {{ text-anchor: end }} .title {{ font: bold 14px sans-serif }}</style>\n\
             <rect width='100%' height='100%' fill='#fff'/>\n\
             <text x='16' y='24' class='title'>Cost against copy_bidirectional (shorter is better)</text>\n\
             {legend}<line x1='{one}' y1='60' x2='{one}' y2='{end}' stroke='#999' stroke-dasharray='3 3'/>\n{rows}</svg>\n",
            one = 206.0 + UNIT,
            end = y - 30.0
        )
    }
}

/// How many tasks ran or wanted to, on average over the last minute (proc(5)).
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// What it was measured on.
fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": some processor");
    let model = model.trim_start_matches(['\t', ' ', ':']);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} processors ({model}), Linux {}", kernel.trim())
}
