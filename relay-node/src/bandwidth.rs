//! The limits of the rate: one for the process, one for each migration's key. Told once by the command
//! line, and anew at any time by the control API.
//!
//! Sessions come here when they begin and when a limit has changed, and for no byte in between: what they
//! take away is a [`Throttle`] on the buckets that concern them, or none.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use relay_core::Instant;
use relay_core::bandwidth::{Bucket, Throttle};
use relay_migration::Key;

/// Bytes a second; `None` for as many as there are.
pub type Rate = Option<NonZeroU64>;

/// What is in force.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rates {
    /// For everything this process reads, both directions together.
    pub process: Rate,
    /// For each key, unless something else is said of it.
    pub per_key: Rate,
    /// What else is said.
    pub keys: BTreeMap<Key, Rate>,
}

impl Rates {
    fn of_key(&self, key: &Key) -> Rate {
        self.keys.get(key).copied().unwrap_or(self.per_key)
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Bandwidth(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    rates: Rates,
    process: Option<Arc<Bucket>>,
    /// While some session has it.
    keys: BTreeMap<Key, Weak<Bucket>>,
    /// At so many of those it is time to forget the ones that nobody has any more.
    prune_at: usize,
}

impl Bandwidth {
    /// What is in force.
    #[must_use]
    pub fn rates(&self) -> Rates {
        self.lock().rates.clone()
    }

    /// This is in force from now on, for new sessions. Those that are there are to be told
    /// ([`Command::Relimit`](crate::control::Command::Relimit)).
    pub fn set(&self, rates: Rates) {
        self.lock().rates = rates;
    }

    /// What holds back a session with this key, if anything does.
    #[must_use]
    pub fn throttle(&self, key: Option<&Key>, now: Instant) -> Option<Throttle> {
        let mut inner = self.lock();
        let of_key = key.and_then(|key| inner.of_key(key, now));
        let buckets: Vec<_> = [of_key, inner.of_process(now)].into_iter().flatten().collect();
        (!buckets.is_empty()).then(|| Throttle::new(buckets))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whoever panicked has left it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn of_process(&mut self, now: Instant) -> Option<Arc<Bucket>> {
        if self.process.as_ref().map(|bucket| bucket.rate()) != self.rates.process {
            self.process = self.rates.process.map(|rate| Arc::new(Bucket::new(rate, now)));
        }
        self.process.clone()
    }

    fn of_key(&mut self, key: &Key, now: Instant) -> Option<Arc<Bucket>> {
        let rate = self.rates.of_key(key)?;
        let known = self.keys.get(key).and_then(Weak::upgrade).filter(|bucket| bucket.rate() == rate);
        if known.is_some() {
            return known;
        }
        if self.keys.len() >= self.prune_at {
            self.keys.retain(|_, bucket| bucket.strong_count() > 0);
            self.prune_at = 2 * self.keys.len() + 16;
        }
        let bucket = Arc::new(Bucket::new(rate, now));
        self.keys.insert(key.clone(), Arc::downgrade(&bucket));
        Some(bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        text.parse().expect("a key")
    }

    fn rate(bytes: u64) -> Rate {
        NonZeroU64::new(bytes)
    }

    /// How much one gets at once, a throttle after the other.
    fn greedy(throttles: &mut [Throttle]) -> u64 {
        let now = Instant::from_nanos(1_000_000_000);
        throttles
            .iter_mut()
            .map(|throttle| {
                let mut got = 0;
                loop {
                    match throttle.grant(now) {
                        0 => return got,
                        bytes => {
                            got += bytes;
                            throttle.spend(relay_core::Leg::Front, bytes);
                        }
                    }
                }
            })
            .sum()
    }

    #[test]
    fn without_a_limit_there_is_nothing_to_ask() {
        let bandwidth = Bandwidth::default();
        assert!(bandwidth.throttle(Some(&key("a")), Instant::ZERO).is_none());
        bandwidth.set(Rates { per_key: rate(1 << 20), ..Rates::default() });
        assert!(bandwidth.throttle(None, Instant::ZERO).is_none(), "it has no key");
        assert!(bandwidth.throttle(Some(&key("a")), Instant::ZERO).is_some());
    }

    #[test]
    fn sessions_of_a_key_share_and_keys_do_not() {
        let bandwidth = Bandwidth::default();
        let keys = BTreeMap::from([(key("free"), None), (key("slow"), rate(1 << 20))]);
        bandwidth.set(Rates { process: None, per_key: rate(10 << 20), keys });
        let throttle = |name: &str| bandwidth.throttle(Some(&key(name)), Instant::ZERO);
        let (first, second) = (throttle("a").expect("limited"), throttle("a").expect("limited"));
        let together = greedy(&mut [first, second]);
        let alone = greedy(&mut [throttle("b").expect("limited")]);
        assert!(alone > 500_000 && together == alone, "{together} {alone}");
        assert!(throttle("free").is_none());
        assert!(greedy(&mut [throttle("slow").expect("limited")]) < alone / 5);
    }

    #[test]
    fn a_bucket_is_there_while_it_is_needed_and_its_rate_is_the_same() {
        let bandwidth = Bandwidth::default();
        bandwidth.set(Rates { process: rate(1 << 20), per_key: rate(1 << 20), ..Rates::default() });
        for number in 0..10_000 {
            let _ = bandwidth.throttle(Some(&key(&format!("vm{number}"))), Instant::ZERO);
        }
        assert!(bandwidth.lock().keys.len() <= 16);
        let before = bandwidth.lock().process.clone().expect("a bucket");
        let _ = bandwidth.throttle(None, Instant::ZERO);
        assert!(Arc::ptr_eq(&before, bandwidth.lock().process.as_ref().expect("a bucket")));
        bandwidth.set(Rates { process: rate(2 << 20), ..Rates::default() });
        let _ = bandwidth.throttle(None, Instant::ZERO);
        let after = bandwidth.lock().process.clone().expect("a bucket");
        assert_eq!(Some(after.rate()), rate(2 << 20));
    }
}
