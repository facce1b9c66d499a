//! Time, CPU time and progress, shown to a person.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::logging::say;

/// Columns of the bar.
const WIDTH: u64 = 32;
/// How often a line is printed where none can be overwritten.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// CPU time of this process so far, user and system, all threads.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

const GIB: f64 = (1_u64 << 30) as f64;

/// An amount with its unit, to three digits or so.
pub(super) fn amount(bytes: u64) -> String {
    let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(size, _)| bytes >= *size) {
        Some((size, unit)) => format!("{:.1} {unit}", bytes as f64 / size as f64),
        None => format!("{bytes} B"),
    }
}

/// From a beginning until now, and how far it has come of `total` bytes.
pub(super) struct Meter {
    total: u64,
    since: Instant,
    cpu_before: Duration,
    terminal: bool,
    last_line: Instant,
}

impl Meter {
    pub(super) fn new(total: u64) -> Self {
        let now = Instant::now();
        let terminal = io::stdout().is_terminal();
        Self { total, since: now, cpu_before: cpu(), terminal, last_line: now }
    }

    /// Shows that `done` bytes have come so far.
    pub(super) fn show(&mut self, done: u64) {
        let percent = done.saturating_mul(100) / self.total.max(1);
        let rate = done as f64 / self.since.elapsed().as_secs_f64().max(1e-9);
        let state = format!("{percent:3} %  {}/s", amount(rate as u64));
        if self.terminal {
            let full = (done.saturating_mul(WIDTH) / self.total.max(1)).min(WIDTH);
            let bar: String = (0..WIDTH).map(|column| if column < full { '#' } else { '.' }).collect();
            let mut out = io::stdout().lock();
            // \x1b[K: what was longer before is wiped (ECMA-48, EL)
            let _ = write!(out, "\r      [{bar}] {state}\x1b[K").and_then(|()| out.flush());
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            say(&format!("      {state}"));
        }
    }

    /// The bar's line is free again.
    pub(super) fn clear(&self) {
        if self.terminal {
            let _ = write!(io::stdout().lock(), "\r\x1b[K");
        }
    }

    /// Rate and CPU time, for all of it.
    pub(super) fn summary(&self) -> String {
        let (seconds, cpu) = (self.since.elapsed().as_secs_f64(), (cpu() - self.cpu_before).as_secs_f64());
        let gib = self.total as f64 / GIB;
        format!(
            "{seconds:.2} s, {}/s, {:.2} s of CPU per GiB",
            amount((self.total as f64 / seconds) as u64),
            cpu / gib
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        assert_eq!(amount(17), "17 B");
        assert_eq!(amount(1536), "1.5 KiB");
        assert_eq!(amount(1 << 30), "1.0 GiB");
        assert_eq!(amount(u64::MAX), "16777216.0 TiB");
    }

    #[test]
    fn cpu_time_goes_on() {
        let before = cpu();
        let mut n = 1_u64;
        while cpu() == before {
            n = std::hint::black_box(n.wrapping_mul(3));
        }
        assert!(Meter::new(1 << 30).summary().contains("s of CPU per GiB"));
    }
}
