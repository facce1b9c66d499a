//! relay-mio, relay-tokio as a node and as a function, tokio's copy_bidirectional and a thread for each direction, plain and mutual
//! TLS. Writes docs/BENCHMARKS.md and its picture when all of it was measured.

use std::cell::RefCell;
use std::hint::black_box;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};
use relay_loops_bench::{
    Connection, Flood, Loop, Measure, Mode, Pair, Report, Sample, bulk, connections, serve_if_asked,
};

/// Bytes of one transfer.
const BULK: u64 = 128 << 20;
/// Connections of one round.
const CONNECTIONS: u64 = 40;
/// Criterion's smallest. What it tries before, to warm up, does not count.
const SAMPLES: usize = 10;
/// Connections that do nothing.
const IDLE: usize = 400;

fn main() {
    serve_if_asked();
    let mut criterion = Criterion::default()
        .sample_size(SAMPLES)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    let report = RefCell::new(Report::start());
    for mode in Mode::ALL {
        for measure in Measure::TIMED {
            group(&mut criterion, &report, mode, measure);
        }
    }
    criterion.final_summary();
    let mut report = report.into_inner();
    if !report.is_whole() {
        return; // `-- --test`, or a filter
    }
    for mode in Mode::ALL {
        for who in Loop::ALL.into_iter().filter(|who| who.has(mode)) {
            let sample = Sample { cost: idle_kib(who, mode), cpu_seconds: 0.0 };
            report.add(Measure::Idle, mode, who, [sample]);
        }
    }
    report.write(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")).expect("docs/ can be written to");
}

fn group(criterion: &mut Criterion, report: &RefCell<Report>, mode: Mode, measure: Measure) {
    let mut group = criterion.benchmark_group(format!("{}, {}", measure.name(), mode.name()));
    group.sampling_mode(SamplingMode::Flat);
    if let Measure::Bulk | Measure::Streams = measure {
        group.throughput(Throughput::Bytes(BULK));
    }
    let is_test = std::env::args().any(|argument| argument == "--test");
    for who in Loop::ALL.into_iter().filter(|who| who.has(mode)) {
        group.bench_function(who.name(), |bencher| {
            let pair = Pair::start(who, mode);
            let mut samples = Vec::new();
            bencher.iter_custom(|rounds| {
                let (elapsed, cpu_seconds) = run(&pair, measure, rounds);
                let units = rounds as f64 * measure.units(BULK, CONNECTIONS);
                let sample = Sample { cost: elapsed.as_secs_f64() / units, cpu_seconds: cpu_seconds / units };
                samples.push(sample);
                elapsed
            });
            if !is_test {
                let warmup = samples.len().saturating_sub(SAMPLES);
                report.borrow_mut().add(measure, mode, who, samples.split_off(warmup));
            }
        });
    }
    group.finish();
}

/// Time, and processor time of both relays in seconds.
fn run(pair: &Pair, measure: Measure, rounds: u64) -> (Duration, f64) {
    let entry = pair.entry();
    match measure {
        Measure::Bulk => metered(pair, || (0..rounds).map(|_| bulk(entry, 1, black_box(BULK))).sum()),
        Measure::Streams => metered(pair, || (0..rounds).map(|_| bulk(entry, 8, black_box(BULK))).sum()),
        Measure::RoundTrip => round_trips(pair, rounds),
        Measure::UnderBulk => {
            let flood = Flood::start(entry);
            let cost = round_trips(pair, rounds);
            drop(flood); // it fails here if it did not go on
            cost
        }
        Measure::Connections => metered(pair, || (0..rounds).map(|_| connections(entry, CONNECTIONS)).sum()),
        Measure::Idle => unreachable!("not timed"),
    }
}

fn metered(pair: &Pair, work: impl FnOnce() -> Duration) -> (Duration, f64) {
    let before = pair.cpu_seconds();
    let elapsed = work();
    (elapsed, pair.cpu_seconds() - before)
}

/// Making the connection, which may take a handshake, does not count.
fn round_trips(pair: &Pair, count: u64) -> (Duration, f64) {
    let mut connection = Connection::new(pair.entry()).expect("connected");
    metered(pair, || {
        let start = Instant::now();
        for _ in 0..count {
            connection.round_trip().expect("a message");
        }
        start.elapsed()
    })
}

/// What a connection adds to both relays once it has said something and is silent.
fn idle_kib(who: Loop, mode: Mode) -> f64 {
    let pair = Pair::start(who, mode);
    let _ = connections(pair.entry(), 8);
    let before = pair.memory_kib();
    let open: Vec<_> = (0..IDLE).map(|_| Connection::new(pair.entry()).expect("connected")).collect();
    thread::sleep(Duration::from_millis(300)); // what is to be given back is
    (pair.memory_kib() - before) / open.len() as f64
}
