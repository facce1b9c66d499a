//! Many simulations, on every core, each from a seed that its failure names.

use std::format;
use std::string::String;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::vec::Vec;

/// Which seeds a test runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seeds {
    /// The first.
    pub from: u64,
    /// How many.
    pub runs: u64,
}

impl Seeds {
    /// `usual` runs from seed 0, unless the environment wants otherwise: `RELAY_SIM_SEED=N` replays
    /// one, `RELAY_SIM_RUNS=N` says how many, `RELAY_SIM_FROM=N` where they begin. Numbers are decimal,
    /// or hexadecimal after `0x`, so that a commit's hash will do.
    ///
    /// # Panics
    /// If one of them is no number.
    #[must_use]
    pub fn from_environment(usual: u64) -> Self {
        match number("RELAY_SIM_SEED") {
            Some(seed) => Self { from: seed, runs: 1 },
            None => Self {
                from: number("RELAY_SIM_FROM").unwrap_or(0),
                runs: number("RELAY_SIM_RUNS").unwrap_or(usual),
            },
        }
    }

    /// A part of them, for stories that take longer; at least one.
    #[must_use]
    pub const fn one_in(self, part: u64) -> Self {
        let runs = self.runs / part;
        Self { from: self.from, runs: if runs == 0 { 1 } else { runs } }
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let (digits, radix) = text.strip_prefix("0x").map_or((text.as_str(), 10), |digits| (digits, 16));
    Some(u64::from_str_radix(digits, radix).unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Tells the story of every seed, on as many threads as there are cores; returns what came of them,
/// in no order.
///
/// # Panics
/// With the first story that breaks a rule, and the variable that replays it.
pub fn tell_all<T: Send>(seeds: Seeds, story: impl Fn(u64) -> Result<T, String> + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, told, failed) = (AtomicU64::new(0), Mutex::new(Vec::new()), Mutex::new(None::<String>));
    let work = || {
        let mut mine = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= seeds.runs {
                break;
            }
            let seed = seeds.from.wrapping_add(at);
            // A panic that nobody else has caught must not get away without its seed.
            let story = std::panic::AssertUnwindSafe(|| story(seed));
            match std::panic::catch_unwind(story).unwrap_or_else(|panic| Err(words(panic.as_ref()))) {
                Ok(result) => mine.push(result),
                Err(text) => {
                    next.store(u64::MAX / 2, Ordering::Relaxed);
                    let text = format!("RELAY_SIM_SEED={seed} replays this: {text}");
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
                }
            }
        }
        told.lock().unwrap_or_else(PoisonError::into_inner).append(&mut mine);
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    if let Some(text) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        panic!("{text}");
    }
    told.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// What a panic said.
pub(super) fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").into()
}
