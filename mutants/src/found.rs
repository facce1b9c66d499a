//! Mutants that cargo-mutants finds by itself, from what it prints:
//! `cargo mutants -p relay-core -e 'relay-core/src/testing/**' --list --json`.
//! Here each costs seconds rather than minutes, for it is built and judged as those of our own list are.

use serde::Deserialize;

use crate::list::{Change, Mutant, Place};

/// As cargo-mutants prints one. Lines and columns count from 1, columns in characters, the end is
/// exclusive.
#[derive(Deserialize)]
struct Found {
    name: String,
    file: String,
    replacement: String,
    span: Span,
}

#[derive(Deserialize)]
struct Span {
    start: Position,
    end: Position,
}

#[derive(Deserialize)]
struct Position {
    line: usize,
    column: usize,
}

/// Reads what cargo-mutants printed.
pub(crate) fn parse(json: &str) -> Result<Vec<Mutant>, String> {
    let found: Vec<Found> = serde_json::from_str(json).map_err(|error| error.to_string())?;
    found.into_iter().map(mutant).collect()
}

fn mutant(found: Found) -> Result<Mutant, String> {
    let Some(file) = found.file.strip_prefix("relay-core/src/") else {
        return Err(format!("{} is not of relay-core", found.file));
    };
    let place = |position: &Position| Place { line: position.line, column: position.column };
    Ok(Mutant {
        name: found.name.trim_start_matches("relay-core/src/").to_string(),
        file: file.to_string(),
        by: String::new(),
        rule: String::new(),
        change: Change::Span {
            start: place(&found.span.start),
            end: place(&found.span.end),
            // An operator may stand between words without spaces.
            replacement: format!(" {} ", found.replacement),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_replaced() {
        let json = r#"[{"name":"relay-core/src/a.rs:2:5: replace < with >","file":"relay-core/src/a.rs",
            "replacement":">","span":{"start":{"line":2,"column":5},"end":{"line":2,"column":6}},"genre":"x"}]"#;
        let mutants = parse(json).expect("a list");
        assert_eq!(
            (mutants[0].name.as_str(), mutants[0].file.as_str()),
            ("a.rs:2:5: replace < with >", "a.rs")
        );
        assert_eq!(mutants[0].apply("é\né + <b\nc"), Ok("é\né +  > b\nc".to_string()));
        assert!(mutants[0].apply("one line").is_err());
        assert!(parse("{}").is_err());
    }
}
