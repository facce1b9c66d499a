//! What the documents say of tests is so.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Names of all functions in a tree of sources.
fn functions(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source");
            let names = text.lines().filter_map(|line| {
                let (_, rest) = line.split_once("fn ")?;
                rest.split_once(['(', '<']).map(|(name, _)| name.to_owned())
            });
            found.extend(names);
        }
    }
}

/// Each threat's test is there, by that name.
#[test]
fn every_threat_has_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut there = BTreeSet::new();
    for tree in
        ["relay-core", "relay-tls", "relay-migration", "relay-node", "relay-mio", "relay-tokio", "tests"]
    {
        functions(&root.join(tree), &mut there);
    }
    let text = fs::read_to_string(root.join("docs/THREATS.md")).expect("the document");
    let rows: Vec<&str> =
        text.lines().filter(|line| line.starts_with("| ") && line.matches(" | ").count() == 3).collect();
    let threats: Vec<&&str> = rows
        .iter()
        .filter(|row| row.split(" | ").next().is_some_and(|id| id.chars().any(|c| c.is_ascii_digit())))
        .collect();
    assert!(threats.len() > 20, "{}", threats.len());
    for row in threats {
        let shown = row.rsplit(" | ").next().expect("the last column");
        let names: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test: {row}");
        for name in names {
            assert!(there.contains(name) || root.join(name).is_dir(), "there is no {name}");
        }
    }
}
