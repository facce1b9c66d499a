//! What fuzzing has found worth keeping, replayed with the compiler that everybody has.
#![cfg(feature = "testing")]

use std::path::Path;

use relay_core::testing::sim::relay_states;

#[test]
fn every_story_of_the_corpus_keeps_every_rule() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/relay_states");
    let mut stories = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus") {
        let path = entry.expect("an entry").path();
        let story = std::fs::read(&path).expect("a story");
        assert!(
            std::panic::catch_unwind(|| relay_states(&story)).is_ok(),
            "{} breaks a rule, see above",
            path.display()
        );
        stories += 1;
    }
    assert!(stories > 20, "the corpus is gone: {stories}");
}
