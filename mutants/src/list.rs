//! The list of mutants: text files that a person reads and writes.
//!
//! ```text
//! mutant NAME            what it gets wrong, in words joined by hyphens
//! file FILE              beneath relay-core/src
//! by CHECKER             the one of the judge's checkers that catches it
//! rule TEXT [or TEXT]    what the checker says then; two where the seed decides which comes first
//! -
//! lines as they are      must occur exactly once, or the mutant is stale
//! +
//! lines as they are in the mutant
//! end
//! ```
//! Lines between mutants are comments.

use std::path::Path;

/// One seeded bug.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mutant {
    /// What it gets wrong.
    pub(crate) name: String,
    /// Which file is changed.
    pub(crate) file: String,
    /// Which checker catches it; empty: any may.
    pub(crate) by: String,
    /// What it says.
    pub(crate) rule: String,
    pub(crate) change: Change,
}

/// What is done to the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// A text that occurs exactly once is replaced.
    Text { search: String, replace: String },
    /// What stands from a place up to another is replaced.
    Span { start: Place, end: Place, replacement: String },
}

/// Where in a file; both count from 1, columns in characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl Place {
    /// How many bytes stand before it.
    fn offset(self, text: &str) -> Option<usize> {
        let line: usize = text.split_inclusive('\n').take(self.line.checked_sub(1)?).map(str::len).sum();
        let rest = text.get(line..)?;
        rest.char_indices().nth(self.column.checked_sub(1)?).map(|(at, _)| line + at)
    }
}

impl Mutant {
    /// The file's text with the bug in it.
    pub(crate) fn apply(&self, text: &str) -> Result<String, String> {
        match &self.change {
            Change::Text { search, replace } => match text.matches(search).count() {
                1 => Ok(text.replace(search, replace)),
                count => Err(format!("stale: its text occurs {count} times in {}", self.file)),
            },
            Change::Span { start, end, replacement } => start
                .offset(text)
                .zip(end.offset(text))
                .and_then(|(start, end)| {
                    Some(format!("{}{replacement}{}", text.get(..start)?, text.get(end..)?))
                })
                .ok_or_else(|| format!("stale: {} is shorter than that", self.file)),
        }
    }
}

/// Reads every list in `folder`, in the order of their names.
pub(crate) fn read(folder: &Path) -> Result<Vec<Mutant>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .map_err(failed)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    files.sort();
    let mut mutants: Vec<Mutant> = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        mutants.extend(parse(&text).map_err(|error| format!("{}: {error}", file.display()))?);
    }
    for (at, mutant) in mutants.iter().enumerate() {
        if mutants[..at].iter().any(|other| other.name == mutant.name) {
            return Err(format!("two mutants are called {}", mutant.name));
        }
    }
    Ok(mutants)
}

fn parse(text: &str) -> Result<Vec<Mutant>, String> {
    let mut mutants = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("mutant ") {
            let mut field = |key: &str| {
                let line = lines.next().unwrap_or_default();
                line.strip_prefix(key).map(str::to_string).ok_or_else(|| format!("{name}: no line {key}…"))
            };
            let (file, by, rule) = (field("file ")?, field("by ")?, field("rule ")?);
            field("-")?;
            let mut until = |end: &str| {
                let found: Vec<&str> = lines.by_ref().take_while(|line| *line != end).collect();
                found.join("\n")
            };
            let (search, replace) = (until("+"), until("end"));
            if search.is_empty() {
                return Err(format!("{name}: no text to look for"));
            }
            let change = Change::Text { search, replace };
            mutants.push(Mutant { name: name.to_string(), file, by, rule, change });
        }
    }
    Ok(mutants)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "A comment.\nmutant a-b\nfile x.rs\nby lane\nrule S1 broken\n-\n1 + 1\n2\n+\n\nend\n";

    #[test]
    fn a_mutant_is_applied_where_its_text_stands_exactly_once() {
        let mutants = parse(LIST).expect("a list");
        assert_eq!((mutants.len(), mutants[0].rule.as_str()), (1, "S1 broken"));
        assert_eq!(mutants[0].apply("x\n1 + 1\n2\ny"), Ok("x\n\ny".to_string()));
        assert!(mutants[0].apply("x").is_err());
        assert!(mutants[0].apply("1 + 1\n2\n1 + 1\n2").is_err());
        assert!(parse("mutant a\nby lane\n").is_err());
    }

    #[test]
    fn every_mutant_still_fits_the_code() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mutants = read(&root.join("list")).expect("the lists");
        assert!(mutants.len() >= 40);
        let mut stale = Vec::new();
        for mutant in &mutants {
            let file = root.join("../relay-core/src").join(&mutant.file);
            let text = std::fs::read_to_string(file).expect("its file");
            if mutant.apply(&text).is_ok_and(|changed| changed != text) {
                continue;
            }
            stale.push(&mutant.name);
        }
        assert!(stale.is_empty(), "stale: {stale:?}");
    }
}
