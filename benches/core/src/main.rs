//! One piece of work for an instruction counter: `relay-core-bench relay MIB`, `tls MIB`,
//! `handshake COUNT` or `session ROUNDS`. See `callgrind` beside it.

use std::process::ExitCode;

use relay_core::Pool;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let amount = arguments.get(1).and_then(|text| text.parse::<usize>().ok());
    match (arguments.first().map(String::as_str), amount) {
        (Some("relay"), Some(mib)) => {
            relay_core_bench::relay_plain(mib << 20, 64 << 10, &mut Pool::default())
        }
        (Some("tls"), Some(mib)) => {
            relay_core_bench::Pair::new().relay(mib << 20, &mut Pool::default());
        }
        (Some("handshake"), Some(count)) => {
            let (pair, mut pool) = (relay_core_bench::Pair::new(), Pool::default());
            (0..count).for_each(|_| pair.relay(0, &mut pool));
        }
        (Some("session"), Some(rounds)) => {
            let _ = relay_core_bench::session_life(rounds);
        }
        _ => return ExitCode::from(2),
    }
    ExitCode::SUCCESS
}
