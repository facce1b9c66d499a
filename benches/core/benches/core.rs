//! Inputs per second through a session; bytes per second through relay and pump.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use relay_core::Pool;
use relay_core_bench::{Pair, relay_plain, session_life};

fn session(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session");
    group.throughput(Throughput::Elements(session_life(1000) as u64));
    group.bench_function("inputs", |bencher| bencher.iter(|| session_life(black_box(1000))));
    group.finish();
}

fn relay(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("relay");
    let mut pool = Pool::default();
    for chunk in [4 << 10, 64 << 10, 256 << 10] {
        group.throughput(Throughput::Bytes(16 << 20));
        group.bench_function(format!("plain, {} KiB a call", chunk >> 10), |bencher| {
            bencher.iter(|| relay_plain(black_box(16 << 20), chunk, &mut pool));
        });
    }
    group.finish();
}

fn pair(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pair");
    let (pair, mut pool) = (Pair::new(), Pool::default());
    group.throughput(Throughput::Bytes(16 << 20));
    group.bench_function("plain, TLS, plain", |bencher| {
        bencher.iter(|| pair.relay(black_box(16 << 20), &mut pool));
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("handshake", |bencher| bencher.iter(|| pair.relay(0, &mut pool)));
    group.finish();
}

criterion_group!(core, session, relay, pair);
criterion_main!(core);
