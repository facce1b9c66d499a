//! Prometheus' text format, version 0.0.4, as it is written.

use std::fmt::Write as _;

/// The content's type.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What kind of number a family has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Only grows; its name ends in `_total`.
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A label's name and value.
pub(crate) type Label<'a> = (&'a str, &'a str);

/// Families one after the other, each with its samples.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    text: String,
    /// Of the family that is being written.
    name: &'static str,
}

impl Exposition {
    /// Begins a family.
    pub(crate) fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        self.name = name;
        let _ = write!(self.text, "# HELP {name} ");
        push_escaped(&mut self.text, help, false);
        let _ = writeln!(self.text, "\n# TYPE {name} {}", kind.word());
    }

    /// One number of the family, with labels that no other of its numbers has.
    pub(crate) fn sample(&mut self, labels: &[Label<'_>], value: u64) {
        self.line("", labels, &value.to_string());
    }

    /// The same with a fraction.
    pub(crate) fn fraction(&mut self, labels: &[Label<'_>], value: f64) {
        self.line("", labels, &float(value));
    }

    /// A histogram: how many were up to each bound, the last bound being infinite, and the sum of all.
    pub(crate) fn histogram(&mut self, buckets: impl IntoIterator<Item = (f64, u64)>, sum: f64) {
        let mut count = 0;
        for (bound, upto) in buckets {
            self.line("_bucket", &[("le", &float(bound))], &upto.to_string());
            count = upto;
        }
        self.line("_sum", &[], &float(sum));
        self.line("_count", &[], &count.to_string());
    }

    fn line(&mut self, suffix: &str, labels: &[Label<'_>], value: &str) {
        let _ = write!(self.text, "{}{suffix}", self.name);
        for (index, (name, value)) in labels.iter().enumerate() {
            let _ = write!(self.text, "{}{name}=\"", if index == 0 { '{' } else { ',' });
            push_escaped(&mut self.text, value, true);
            self.text.push('"');
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }

    /// All of it.
    pub(crate) fn finish(self) -> String {
        self.text
    }
}

/// What would end a line, and in a label's value also what would end that.
fn push_escaped(text: &mut String, raw: &str, quoted: bool) {
    for c in raw.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '"' if quoted => text.push_str("\\\""),
            c => text.push(c),
        }
    }
}

/// As Go reads it.
fn float(value: f64) -> String {
    if value == f64::INFINITY { "+Inf".to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::lint;

    #[test]
    fn what_it_writes_is_what_was_meant() {
        let mut exposition = Exposition::default();
        exposition.family("test_info", Kind::Gauge, "A \\ and\na second line.");
        exposition.sample(&[("name", "a \"b\"\\\nc"), ("other", "")], 1);
        exposition.sample(&[("name", "{},="), ("other", "é")], 2);
        exposition.family("test_lag_seconds", Kind::Histogram, "Lag.");
        exposition.histogram([(0.001, 2), (f64::INFINITY, 3)], 0.5);
        exposition.family("test_empty_total", Kind::Counter, "Nothing yet.");
        let text = exposition.finish();
        let read = lint::read(&text).unwrap_or_else(|faults| panic!("{faults:?}\n{text}"));
        assert_eq!(read.value("test_info", &[("name", "a \"b\"\\\nc"), ("other", "")]), Some(1.0));
        assert_eq!(read.value("test_info", &[("other", "é"), ("name", "{},=")]), Some(2.0));
        assert_eq!(read.value("test_lag_seconds_bucket", &[("le", "+Inf")]), Some(3.0));
        assert_eq!(read.value("test_lag_seconds_sum", &[]), Some(0.5));
        assert_eq!(read.families().count(), 3);
    }
}
