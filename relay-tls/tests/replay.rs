//! What fuzzing has found worth keeping, replayed with the compiler that everybody has; and some
//! inputs that nobody chose.
#![cfg(feature = "testing")]

use std::path::{Path, PathBuf};

use relay_core::testing::replay::replay;
use relay_core::testing::rng::Rng;
use relay_tls::testing::fuzz::{identity, link_tls};

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target)
}

#[test]
fn nothing_that_a_network_does_to_a_session_is_too_much() {
    replay(&corpus("link_tls"), link_tls);
}

#[test]
fn nothing_that_a_certificate_says_is_too_much() {
    replay(&corpus("identity"), identity);
}

/// Without a corpus: scripts of small numbers, which mean something more often than large ones do.
#[test]
fn scripts_that_nobody_wrote() {
    for seed in 0..3000 {
        let mut rng = Rng::new(seed);
        let length = rng.below(120);
        let mut script = vec![rng.next() as u8];
        // how much each relay may hold, if there are relays
        script.extend((0..(script[0] >> 6).count_ones()).map(|_| rng.next() as u8));
        // Begun by a handshake most of the time: what is interesting comes after it.
        script.push(if rng.chance(70) { 14 } else { 0 });
        script.extend((0..length).map(|_| match rng.below(4) {
            0 => rng.next() as u8,
            1 => rng.below(32) as u8,
            _ => rng.below(16) as u8 | (rng.next() as u8 & 0x80),
        }));
        let held = std::panic::catch_unwind(|| link_tls(&script)).is_ok();
        assert!(held, "seed {seed} is a finding, see above: {script:?}");
    }
}
