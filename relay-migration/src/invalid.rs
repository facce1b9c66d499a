//! What a text that is wrong gets for an answer.

use std::fmt;

/// The most characters of somebody's text that an error repeats.
const SHOWN_MAX: usize = 80;

/// Why something a user wrote can't be used: one line that says what was wrong and what would be
/// right.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Invalid(String);

impl Invalid {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Invalid {}

pub(crate) fn invalid<T>(text: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid::new(text))
}

/// Somebody's text as an error repeats it: in quotes, on one line, and not without end.
pub(crate) fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_MAX).is_some() {
        short.push('…');
    }
    format!("'{short}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_short_and_on_one_line() {
        assert_eq!(shown("a\nb"), "'a\\nb'");
        let long = shown(&"\u{1b}é".repeat(1000));
        assert!(long.len() < 1000 && !long.chars().any(char::is_control) && long.ends_with("…'"));
    }
}
