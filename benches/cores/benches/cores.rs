//! One stream's records on several cores: wall time and processor time of a GiB, by size of batch and by
//! who works on it, as a table. Many short interleaved repetitions: of the clock the fastest, for others use
//! the machine, too, and of the processors the median.
//!
//! `-- --test` runs everything once and little.
#![expect(clippy::print_stdout, reason = "the table is what it is for")]

use std::num::NonZeroUsize;
use std::thread;
use std::time::{Duration, Instant};

use relay_cores_bench::{PAYLOAD, Path, Plan, Wait, Work};
use rustix::time::{ClockId, clock_gettime};

/// Payload of a batch, in KiB. A turn of the pump, and what a buffer holds at most, is 256.
const SIZES: [usize; 7] = [64, 128, 256, 512, 1024, 2048, 4096];
const REPETITIONS: usize = 201;
/// Payload that goes through in each repetition.
const MEASURED: usize = 8 << 20;

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Seconds per GiB by the clock and of the processors.
#[derive(Clone, Copy)]
struct Cost {
    wall: f64,
    processor: f64,
}

fn measure(work: Work, plan: Plan, size: usize, measured: usize) -> Cost {
    let mut path = Path::new(work, plan, size / PAYLOAD);
    let turns = measured.div_ceil(size);
    (0..turns.min(8)).for_each(|_| path.turn());
    path.finish();
    let (wall, processor) = (Instant::now(), processor_time());
    (0..turns).for_each(|_| path.turn());
    path.finish();
    let gib = (turns * size) as f64 / (1_u64 << 30) as f64;
    Cost {
        wall: wall.elapsed().as_secs_f64() / gib,
        processor: (processor_time() - processor).as_secs_f64() / gib,
    }
}

fn sorted(costs: &[Cost], of: fn(&Cost) -> f64) -> Vec<f64> {
    let mut values: Vec<f64> = costs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// What stands at the head of each column, and who does it.
fn plans() -> Vec<(String, Plan)> {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let mut plans = vec![("alone".to_owned(), Plan::Alone)];
    let mut threads = vec![2, 4];
    threads.retain(|&count| count == 2 || count <= cores);
    for count in threads.into_iter().filter_map(NonZeroUsize::new) {
        for (how, wait) in [("parked", Wait::Parked), ("spinning", Wait::Spinning)] {
            plans.push((format!("split by {count}, {how}"), Plan::Split(count, wait)));
        }
    }
    for (how, wait) in [("parked", Wait::Parked), ("spinning", Wait::Spinning)] {
        plans.push((format!("staged, {how}"), Plan::Staged(wait)));
    }
    plans
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--test");
    let (repetitions, measured) = if quick { (1, 8 << 20) } else { (REPETITIONS, MEASURED) };
    let plans = plans();
    for (title, work) in [("sealing", Work::Seal), ("opening", Work::Open)] {
        println!(
            "\n| {title}, KiB a batch | {} |",
            plans.iter().map(|(name, _)| &**name).collect::<Vec<_>>().join(" | ")
        );
        println!("| ---: |{}", " --- |".repeat(plans.len()));
        for size in SIZES {
            let mut costs = vec![Vec::new(); plans.len()];
            for _ in 0..repetitions {
                for ((_, plan), costs) in plans.iter().zip(&mut costs) {
                    costs.push(measure(work, *plan, size << 10, measured));
                }
            }
            let cell = |costs: &Vec<Cost>| {
                let (wall, processor) = (sorted(costs, |c| c.wall), sorted(costs, |c| c.processor));
                format!(" {:.3} / {:.3} |", wall[0], processor[processor.len() / 2])
            };
            println!("| {size} |{}", costs.iter().map(cell).collect::<String>());
        }
    }
    println!("\nSeconds per GiB, by the clock / of the processors; copied in, sealed or opened, copied out.");
}
