//! What Prometheus' own libraries tell of every process, by the same names.

use std::fs;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::exposition::{Exposition, Kind};

/// As far as the kernel tells: of what a sandbox hides there is no sample.
pub(super) fn families(to: &mut Exposition, started: Duration) {
    to.family("process_start_time_seconds", Kind::Gauge, "When the process began, in seconds since 1970.");
    to.fraction(&[], started.as_secs_f64());
    to.family("process_cpu_seconds_total", Kind::Counter, "CPU time, the kernel's part included.");
    to.fraction(&[], cpu().as_secs_f64());
    to.family("process_resident_memory_bytes", Kind::Gauge, "Memory in use that is not swapped out.");
    if let Some(bytes) = resident() {
        to.sample(&[], bytes);
    }
    to.family("process_open_fds", Kind::Gauge, "Descriptors in use.");
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // one of them is for looking
        to.sample(&[], open.count().saturating_sub(1) as u64);
    }
    to.family("process_max_fds", Kind::Gauge, "Descriptors that may be in use.");
    if let Some(most) = getrlimit(Resource::Nofile).current {
        to.sample(&[], most);
    }
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
