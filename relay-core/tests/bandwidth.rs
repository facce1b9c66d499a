//! Many sessions on one bucket, with a clock: never more than the rate, never less for want of care, a
//! fair share for everybody who wants it.
#![cfg(feature = "testing")]

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use relay_core::bandwidth::{Bucket, Throttle};
use relay_core::testing::bandwidth::{Appetite, Client, after_slices, check_rate, check_shares, play, scene};
use relay_core::{Instant, Leg};

fn bucket(rate: u64, now: Instant) -> Arc<Bucket> {
    Arc::new(Bucket::new(NonZeroU64::new(rate).expect("a rate"), now))
}

fn rates() -> impl Strategy<Value = u64> {
    (10_u32..34, 0_u64..1000).prop_map(|(log, more)| (1 << log) + (more << log) / 1000)
}

fn appetites() -> impl Strategy<Value = Appetite> {
    let sips = (1_u64..2_000_000, 0_u64..50_000)
        .prop_map(|(bytes, micros)| Appetite::Sips { bytes, pause: Duration::from_micros(1 + micros) });
    prop_oneof![Just(Appetite::Hungry), sips]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_more_than_the_rate_and_a_burst_in_any_time(
        rate in rates(),
        start in 0_u64..10_000_000_000,
        appetites in prop::collection::vec((appetites(), 0_u64..30_000_000), 1..20),
        late in prop_oneof![Just(0_u64), 0..60_000_000_u64],
        seed in any::<u64>(),
    ) {
        let start = Instant::from_nanos(start);
        let bucket = bucket(rate, start);
        let mut clients: Vec<_> = appetites
            .into_iter()
            .map(|(appetite, after)| Client::new(&[&bucket], appetite, start + Duration::from_nanos(after)))
            .collect();
        let end = after_slices(&bucket, 300, start);
        let reads = play(&mut clients, end.max(start + Duration::from_millis(40)), Duration::from_nanos(late), seed).expect("B2");
        // who looks later than it may brings one slice at most
        let late = if late == 0 { 0 } else { clients.len() as u64 * bucket.slice() };
        let checked = check_rate(&reads[..reads.len().min(1500)], &bucket, late);
        prop_assert!(checked.is_ok(), "{checked:?}");
    }

    #[test]
    fn each_of_the_hungry_gets_its_share_and_nothing_is_left_over(
        rate in rates(),
        hungry in 1_usize..20,
        sips in prop::collection::vec((1_u64..2000, 1000_u64..50_000), 0..5),
        late in 0_u64..100,
        seed in any::<u64>(),
    ) {
        let bucket = bucket(rate, Instant::ZERO);
        // Up to a round of everybody's turns, but what the burst makes up for: who comes late finds what was not
        // taken meanwhile, and that evens out only with time.
        let round = bucket.slice() * hungry as u64 * 1_000_000_000 / rate;
        let late = (round * late / 100).min(20_000_000);
        let mut clients: Vec<_> =
            (0..hungry).map(|_| Client::new(&[&bucket], Appetite::Hungry, Instant::ZERO)).collect();
        clients.extend(sips.into_iter().map(|(bytes, micros)| {
            Client::new(&[&bucket], Appetite::Sips { bytes, pause: Duration::from_micros(micros) }, Instant::ZERO)
        }));
        let count = clients.len() as u64;
        let end = after_slices(&bucket, 60 * count, Instant::ZERO).max(Instant::ZERO + Duration::from_millis(500));
        play(&mut clients, end, Duration::from_nanos(late), seed).expect("B2");
        let allowed = (u128::from(end.as_nanos()) * u128::from(rate) / 1_000_000_000) as u64;
        let total: u64 = clients.iter().map(|client| client.got).sum();
        let waiting = count * bucket.slice();
        // a single reader who is late is late by that much each time, but for what the burst makes up for
        prop_assert!(total + waiting >= allowed - allowed / 10, "{total} of {allowed} bytes were read");
        let checked = check_shares(&clients, hungry, bucket.slice());
        prop_assert!(checked.is_ok(), "{checked:?}");
    }

    #[test]
    fn both_limits_hold_where_there_are_two(
        of_process in rates(),
        of_key in rates(),
        first in 1_usize..8,
        second in 1_usize..8,
        seed in any::<u64>(),
    ) {
        let process = bucket(of_process, Instant::ZERO);
        let keys = [bucket(of_key, Instant::ZERO), bucket(of_key, Instant::ZERO)];
        let mut clients = Vec::new();
        for (key, count) in keys.iter().zip([first, second]) {
            clients.extend((0..count).map(|_| Client::new(&[&process, key], Appetite::Hungry, Instant::ZERO)));
        }
        let slowest = if of_process < of_key { &process } else { &keys[0] };
        let end = after_slices(slowest, 400, Instant::ZERO);
        play(&mut clients, end, Duration::ZERO, seed).expect("B2");
        let allowed = |bucket: &Bucket, sessions: usize| {
            let time = u128::from(end.as_nanos()) * u128::from(bucket.rate().get()) / 1_000_000_000;
            time + u128::from(bucket.burst() + sessions as u64 * bucket.slice())
        };
        let got = |clients: &[Client]| clients.iter().map(|client| u128::from(client.got)).sum::<u128>();
        let (one, other) = clients.split_at(first);
        prop_assert!(got(one) <= allowed(&keys[0], first), "B1 broken: of a key");
        prop_assert!(got(other) <= allowed(&keys[1], second), "B1 broken: of a key");
        prop_assert!(got(one) + got(other) <= allowed(&process, first + second), "B1 broken: of all");
    }
}

#[test]
fn every_scene_keeps_every_rule() {
    for seed in 0..1000 {
        scene(seed).unwrap_or_else(|story| panic!("{story}"));
    }
}

#[test]
fn who_wants_nothing_costs_the_others_nothing() {
    // a thousand sessions that say a little now and then, a tenth of the rate in all, never wait
    let bucket = bucket(10 << 20, Instant::ZERO);
    let sips = Appetite::Sips { bytes: 100, pause: Duration::from_millis(100) };
    let mut clients: Vec<_> =
        (0..1000).map(|n| Client::new(&[&bucket], sips, Instant::from_nanos(n * 100_000))).collect();
    let reads = play(&mut clients, Instant::from_nanos(2_000_000_000), Duration::ZERO, 1).expect("B2");
    assert_eq!(reads.len(), 20_000, "B2 broken: somebody had to wait");
}

#[test]
fn a_session_that_ends_gives_back_what_it_has() {
    let bucket = bucket(1 << 20, Instant::ZERO);
    let mut first = Throttle::new([Arc::clone(&bucket)]);
    let now = Instant::ZERO + Duration::from_secs(1);
    let mut granted = 0;
    loop {
        let bytes = first.grant(now);
        if bytes == 0 {
            break;
        }
        granted += bytes;
        first.spend(Leg::Back, bytes);
    }
    assert!(granted > 0 && first.ready_at().is_some_and(|at| at > now));
    let mut second = Throttle::new([Arc::clone(&bucket)]);
    let later = first.ready_at().expect("in line");
    assert!(first.grant(later) > 0);
    drop(first);
    assert!(second.grant(later) > 0, "what was given back is there at once");
}

#[test]
fn without_a_bucket_there_is_no_limit() {
    let mut throttle = Throttle::new([]);
    assert_eq!((throttle.grant(Instant::ZERO), throttle.ready_at()), (u64::MAX, None));
}

#[test]
fn threads_share_without_losing_count() {
    let bucket = bucket(1 << 30, Instant::ZERO);
    let now = Instant::ZERO + Duration::from_secs(100);
    let total: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let (mut got, mut throttle) = (0, Throttle::new([Arc::clone(&bucket)]));
                    loop {
                        let granted = throttle.grant(now);
                        if granted == 0 {
                            return got;
                        }
                        got += granted;
                        throttle.spend(Leg::Front, granted);
                    }
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    let burst = (1_u64 << 30) * 50 / 1000;
    assert!(total <= bucket.burst() && total + 2 * bucket.slice() >= burst, "{total} of {burst}");
}
