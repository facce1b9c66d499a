//! What docs/ says about the life of a flow is what the code does. `RELAY_BLESS=1` writes it anew.
#![cfg(feature = "testing")]

use std::path::Path;

use relay_core::testing::transitions::{dot, svg, table};

#[test]
fn the_documents_show_the_table_that_the_code_has() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    for (name, text) in [("transitions.md", table()), ("transitions.dot", dot()), ("transitions.svg", svg())]
    {
        println!("{text}");
        let path = docs.join(name);
        if std::env::var_os("RELAY_BLESS").is_some() {
            std::fs::write(&path, &text).expect("docs/ can be written");
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(written == text, "docs/{name} is stale: RELAY_BLESS=1 writes it anew");
    }
}
