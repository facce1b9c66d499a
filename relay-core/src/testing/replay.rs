//! A fuzzer's corpus, replayed with the compiler that everybody has.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;
use std::vec::Vec;

use super::rng::Rng;

/// Plays every input in a folder, and each again with its end cut off and with a bit changed: always in
/// the same way.
///
/// # Panics
/// If an input is a finding, or there are hardly any.
pub fn replay(folder: &Path, body: fn(&[u8])) {
    let mut inputs = 0;
    for entry in fs::read_dir(folder).expect("the corpus") {
        let path = entry.expect("an entry").path();
        let input = fs::read(&path).expect("an input");
        let mut rng = Rng::new(input.len() as u64);
        let cut = input[..rng.below(input.len())].to_vec();
        let mut changed = input.clone();
        if let Some(byte) = changed.get_mut(rng.below(input.len())) {
            *byte ^= 1 << rng.below(8);
        }
        let variants: [(&str, Vec<u8>); 3] = [("", input), (", cut off", cut), (", changed", changed)];
        for (how, input) in variants {
            let held = catch_unwind(|| body(&input)).is_ok();
            assert!(held, "{}{how}, is a finding, see above: {input:?}", path.display());
        }
        inputs += 1;
    }
    assert!(inputs >= 20, "the corpus is gone: {inputs}");
}
