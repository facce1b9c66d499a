//! Prometheus' text format, as it is read: for tests and for whoever checks a running node.
//!
//! A parser of the whole format, version 0.0.4, and the rules that `promtool check metrics` holds names
//! to. Written from their descriptions, not for speed.

use std::collections::{BTreeMap, BTreeSet};

type Labels = BTreeMap<String, String>;

/// A metrics page without a fault.
#[derive(Debug, Default)]
pub struct Page {
    families: BTreeMap<String, Family>,
    samples: BTreeMap<(String, Labels), f64>,
}

#[derive(Debug, Default)]
struct Family {
    help: Option<String>,
    kind: Option<String>,
    /// Its samples have begun.
    has_samples: bool,
}

/// Reads a page.
///
/// # Errors
/// All its faults, a line for each: of the format, of names, of histograms that do not add up.
pub fn read(text: &str) -> Result<Page, Vec<String>> {
    let mut reader = Reader::default();
    if !text.is_empty() && !text.ends_with('\n') {
        reader.faults.push("the last line has no end".to_owned());
    }
    for (index, line) in text.lines().enumerate() {
        if let Err(fault) = reader.line(line) {
            reader.faults.push(format!("line {}: {fault}: {line}", index + 1));
        }
    }
    reader.finish()
}

impl Page {
    /// The families, with or without samples.
    pub fn families(&self) -> impl Iterator<Item = &str> {
        self.families.keys().map(String::as_str)
    }

    /// A sample's value, by its name and all of its labels.
    #[must_use]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.samples.get(&(name.to_owned(), labels)).copied()
    }

    /// The sum of all samples of this name that have these labels, and whatever others.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |of: &Labels| labels.iter().all(|(name, value)| of.get(*name).is_some_and(|v| v == value));
        self.samples.iter().filter(|((of, with), _)| of == name && has(with)).map(|(_, value)| value).sum()
    }

    /// The values that a label has in samples of this name.
    #[must_use]
    pub fn values_of(&self, name: &str, label: &str) -> BTreeSet<&str> {
        let of_name = self.samples.keys().filter(|(of, _)| of == name);
        of_name.filter_map(|(_, labels)| labels.get(label).map(String::as_str)).collect()
    }

    /// Samples that are there, whatever their labels: names as a query writes them.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        let base = ["_bucket", "_sum", "_count"].into_iter().find_map(|suffix| name.strip_suffix(suffix));
        self.families.contains_key(name)
            || base.and_then(|base| self.families.get(base)).is_some_and(|f| f.kind() == "histogram")
    }
}

impl Family {
    fn kind(&self) -> &str {
        self.kind.as_deref().unwrap_or("untyped")
    }
}

#[derive(Default)]
struct Reader {
    page: Page,
    /// The family of the line before.
    present: Option<String>,
    faults: Vec<String>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            let help = unescaped(help, false)?;
            let family = self.family(name)?;
            return put(&mut family.help, help, "a second HELP");
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or("a TYPE without one")?;
            let known = ["counter", "gauge", "histogram", "summary", "untyped"];
            if !known.contains(&kind) {
                return Err(format!("there is no type {kind}"));
            }
            let family = self.family(name)?;
            if family.has_samples {
                return Err("a TYPE behind its samples".to_owned());
            }
            return put(&mut family.kind, kind.to_owned(), "a second TYPE");
        }
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        self.sample(line)
    }

    /// A family whose lines stand together.
    fn family(&mut self, name: &str) -> Result<&mut Family, String> {
        if !is_name(name, ':') {
            return Err(format!("{name} is no metric's name"));
        }
        let is_known = self.page.families.contains_key(name);
        if is_known && self.present.as_deref() != Some(name) {
            return Err(format!("{name} is in two places"));
        }
        self.present = Some(name.to_owned());
        Ok(self.page.families.entry(name.to_owned()).or_default())
    }

    fn sample(&mut self, line: &str) -> Result<(), String> {
        let end = line.find(['{', ' ']).ok_or("no value")?;
        let (name, rest) = line.split_at(end);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest)?,
            None => (Labels::new(), rest),
        };
        let mut words = rest.split_ascii_whitespace();
        let value = number(words.next().ok_or("no value")?)?;
        if words.next().is_some() {
            return Err("something behind the value; a time has no place here".to_owned());
        }
        let suffixes = ["_bucket", "_sum", "_count"];
        let base = suffixes.into_iter().find_map(|suffix| name.strip_suffix(suffix));
        let kinds = ["histogram", "summary"];
        let base =
            base.filter(|base| self.page.families.get(*base).is_some_and(|f| kinds.contains(&f.kind())));
        let family = self.family(base.unwrap_or(name))?;
        family.has_samples = true;
        if family.kind() == "counter" && (value < 0.0 || !value.is_finite()) {
            return Err("a counter is not negative, and a number".to_owned());
        }
        let key = (name.to_owned(), labels);
        if self.page.samples.insert(key, value).is_some() {
            return Err("the same series twice".to_owned());
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Page, Vec<String>> {
        for (name, family) in &self.page.families {
            let of_family = self.page.samples.keys().filter(|(of, _)| {
                of == name
                    || (family.kind() == "histogram" && of.rsplit_once('_').is_some_and(|(b, _)| b == name))
            });
            let labels: BTreeSet<&str> =
                of_family.flat_map(|(_, labels)| labels.keys().map(String::as_str)).collect();
            self.faults
                .extend(faults(name, family, &labels).into_iter().map(|fault| format!("{name}: {fault}")));
            if family.kind() == "histogram" && family.has_samples {
                self.faults.extend(histogram(name, &self.page.samples));
            }
        }
        if self.faults.is_empty() { Ok(self.page) } else { Err(self.faults) }
    }
}

fn put(place: &mut Option<String>, value: String, fault: &str) -> Result<(), String> {
    if place.replace(value).is_some() { Err(fault.to_owned()) } else { Ok(()) }
}

/// `[a-zA-Z_:][a-zA-Z0-9_:]*`, with `also` or without.
fn is_name(name: &str, also: char) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == also;
    !name.is_empty() && name.chars().all(good) && !name.starts_with(|c: char| c.is_ascii_digit())
}

fn number(text: &str) -> Result<f64, String> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        "-Inf" => Ok(f64::NEG_INFINITY),
        "NaN" => Ok(f64::NAN),
        _ if text.starts_with(|c: char| c.is_ascii_digit() || c == '-') => {
            text.parse().map_err(|_| format!("{text} is no number"))
        }
        _ => Err(format!("{text} is no number")),
    }
}

/// What stands between braces, and what behind them.
fn labels(mut rest: &str) -> Result<(Labels, &str), String> {
    let mut labels = Labels::new();
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            return Ok((labels, rest));
        }
        let (name, behind) = rest.split_once("=\"").ok_or("a label without a value")?;
        if !is_name(name, '_') || name.starts_with("__") {
            return Err(format!("{name} is no label's name"));
        }
        let end = closing_quote(behind).ok_or("a label's value without an end")?;
        let value = unescaped(&behind[..end], true)?;
        if labels.insert(name.to_owned(), value).is_some() {
            return Err(format!("the label {name} twice"));
        }
        rest = &behind[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(index, c)| {
        let is_end = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        is_end.then_some(index)
    })
}

fn unescaped(text: &str, quoted: bool) -> Result<String, String> {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(match (c, quoted) {
            ('\\', _) => match (chars.next(), quoted) {
                (Some('\\'), _) => '\\',
                (Some('n'), _) => '\n',
                (Some('"'), true) => '"',
                _ => return Err("a backslash before what needs none".to_owned()),
            },
            _ => c,
        });
    }
    Ok(plain)
}

/// Units by other names than Prometheus' base units (its naming practices).
const UNITS: [(&str, &str); 22] = [
    ("milliseconds", "seconds"),
    ("microseconds", "seconds"),
    ("nanoseconds", "seconds"),
    ("minutes", "seconds"),
    ("hours", "seconds"),
    ("days", "seconds"),
    ("kilobytes", "bytes"),
    ("megabytes", "bytes"),
    ("gigabytes", "bytes"),
    ("kibibytes", "bytes"),
    ("mebibytes", "bytes"),
    ("gibibytes", "bytes"),
    ("bits", "bytes"),
    ("percent", "ratio"),
    ("ms", "seconds"),
    ("us", "seconds"),
    ("ns", "seconds"),
    ("s", "seconds"),
    ("sec", "seconds"),
    ("kb", "bytes"),
    ("mb", "bytes"),
    ("gb", "bytes"),
];

/// What is wrong with a family's name, type, help and labels.
fn faults(name: &str, family: &Family, labels: &BTreeSet<&str>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut wrong = |is_wrong: bool, fault: &str| {
        if is_wrong {
            faults.push(fault.to_owned());
        }
    };
    let kind = family.kind();
    wrong(family.help.as_deref().is_none_or(|help| help.trim().is_empty()), "no help text");
    wrong(kind == "untyped", "no type");
    wrong(name.contains(':'), "colons are for recording rules");
    wrong(name.chars().any(|c| c.is_ascii_uppercase()), "names are in snake_case");
    wrong(labels.iter().any(|l| l.chars().any(|c| c.is_ascii_uppercase())), "labels are in snake_case");
    wrong(kind == "counter" && !name.ends_with("_total"), "a counter's name ends in _total");
    wrong(kind != "counter" && name.ends_with("_total"), "only a counter's name ends in _total");
    let is_compound = ["histogram", "summary"].contains(&kind);
    let reserved = ["_count", "_sum", "_bucket"].iter().any(|suffix| name.ends_with(suffix));
    wrong(!is_compound && reserved, "_count, _sum and _bucket are a histogram's");
    wrong(kind != "histogram" && labels.contains("le"), "the label le is a histogram's");
    wrong(kind != "summary" && labels.contains("quantile"), "the label quantile is a summary's");
    let parts: Vec<&str> = name.split('_').collect();
    let kinds = ["counter", "gauge", "histogram", "summary", "untyped"];
    wrong(parts.iter().any(|part| kinds.contains(part)), "a type has no place in a name");
    for (unit, base) in UNITS {
        wrong(parts.contains(&unit), &format!("{unit}: use {base}"));
    }
    faults
}

/// What is wrong with a histogram's numbers. Of histograms with further labels each has to be right.
fn histogram(name: &str, samples: &BTreeMap<(String, Labels), f64>) -> Vec<String> {
    let mut series: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
    let mut faults = Vec::new();
    for ((of, labels), value) in samples.iter().filter(|((of, _), _)| *of == format!("{name}_bucket")) {
        let mut others = labels.clone();
        match others.remove("le").map(|le| number(&le)) {
            Some(Ok(bound)) => series.entry(others).or_default().push((bound, *value)),
            _ => faults.push(format!("{of}: a bucket without a bound")),
        }
    }
    if series.is_empty() {
        faults.push(format!("{name}: no bucket"));
    }
    for (labels, mut buckets) in series {
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        if !buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1) {
            faults.push(format!("{name}: its buckets are not cumulative"));
        }
        let all = buckets.last().filter(|(bound, _)| bound.is_infinite()).map(|(_, count)| *count);
        let value = |suffix: &str| samples.get(&(format!("{name}{suffix}"), labels.clone())).copied();
        if all.is_none() || all != value("_count") || value("_sum").is_none() {
            faults.push(format!("{name}: no bucket for all, or it is not the count, or there is no sum"));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found() {
        for (text, fault) in [
            ("a_total 1\n", "no type"),
            ("# TYPE a_total counter\na_total 1\n", "no help"),
            ("# HELP a x\n# TYPE a counter\na 1\n", "ends in _total"),
            ("# HELP a_total x\n# TYPE a_total gauge\na_total 1\n", "only a counter's"),
            ("# HELP a_total x\n# TYPE a_total counter\na_total -1\n", "not negative"),
            ("# HELP a x\n# TYPE a gauge\na 1\na 2\n", "the same series twice"),
            (
                "# HELP a x\n# TYPE a gauge\na{b=\"c\",d=\"e\"} 1\na{d=\"e\",b=\"c\"} 2\n",
                "the same series twice",
            ),
            ("# HELP a x\n# HELP a x\n# TYPE a gauge\n", "a second HELP"),
            (
                "# HELP a x\n# TYPE a gauge\na 1\n# HELP b x\n# TYPE b gauge\nb 1\na{c=\"d\"} 1\n",
                "in two places",
            ),
            ("# HELP a x\na 1\n# TYPE a gauge\n", "behind its samples"),
            ("# HELP a x\n# TYPE a gauge\na{b=\"\\x\"} 1\n", "a backslash"),
            ("# HELP a x\n# TYPE a gauge\na{b=\"c} 1\n", "without an end"),
            ("# HELP a x\n# TYPE a gauge\na{1b=\"c\"} 1\n", "no label's name"),
            ("# HELP a x\n# TYPE a gauge\na{b=\"c\",b=\"d\"} 1\n", "the label b twice"),
            ("# HELP a x\n# TYPE a gauge\na one\n", "no number"),
            ("# HELP a x\n# TYPE a gauge\na\n", "no value"),
            ("# HELP a x\n# TYPE a gauge\na 1", "no end"),
            ("# HELP a x\n# TYPE a fish\na 1\n", "no type fish"),
            ("# HELP a_milliseconds x\n# TYPE a_milliseconds gauge\n", "use seconds"),
            ("# HELP a_ms x\n# TYPE a_ms gauge\n", "use seconds"),
            ("# HELP a_gauge x\n# TYPE a_gauge gauge\n", "a type has no place"),
            ("# HELP aB x\n# TYPE aB gauge\n", "snake_case"),
            ("# HELP a_count x\n# TYPE a_count gauge\n", "a histogram's"),
            ("# HELP a x\n# TYPE a gauge\na{le=\"1\"} 1\n", "le is a histogram's"),
            ("# HELP a x\n# TYPE a histogram\na_sum 1\na_count 1\n", "no bucket"),
            (
                "# HELP a x\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 1\n",
                "not cumulative",
            ),
            (
                "# HELP a x\n# TYPE a histogram\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 2\n",
                "not the count",
            ),
        ] {
            let faults = read(text).map(|_| ()).expect_err(text);
            assert!(faults.iter().any(|found| found.contains(fault)), "{text}: {faults:?}");
        }
    }
}
