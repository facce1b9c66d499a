//! Log lines on standard error: `key=value` text for people and grep, or one JSON object each.
//!
//! The `log` crate carries message and key-value pairs apart, so both formats come from the same
//! call. What peers can put into a line (a certificate's name, say) cannot break out of it.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use log::kv::{self, Key, Value, VisitSource, VisitValue};
use log::{LevelFilter, Record};

use crate::failure::in_words;
use crate::log_queue::LineQueue;

/// How lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// `2026-01-02T03:04:05.678Z INFO message key=value key="two words"`
    #[default]
    Text,
    /// `{"time":"…","level":"info","message":"…","key":"value"}`
    Json,
}

/// Starts logging to standard error at `level`, unless `RUST_LOG` says otherwise. Only the first
/// call has an effect. Lines are written by a thread of their own: a reader who has stopped reading
/// costs lines, which are counted, and never stops a loop.
pub fn start(format: Format, level: LevelFilter) {
    let env = env_logger::Env::default().default_filter_or(level.as_str());
    let target = LineQueue::start()
        .map_or(env_logger::Target::Stderr, |queue| env_logger::Target::Pipe(Box::new(queue)));
    let started = env_logger::Builder::from_env(env)
        .target(target)
        .format(move |out, record| {
            let mut line = match format {
                Format::Text => text(record, SystemTime::now()),
                Format::Json => json(record, SystemTime::now()),
            };
            line.push('\n');
            out.write_all(line.as_bytes())
        })
        .try_init();
    if started.is_err() {
        log::debug!("logging was started before");
    }
}

/// Why a line could not be written to standard output, the first time.
static UNWRITTEN: OnceLock<String> = OnceLock::new();

/// A line for standard output, where programs read. It goes out at once. That it could not be written is no
/// reason to stop relaying, but one to warn, unless it is because the reader has gone away.
pub(crate) fn say(line: &str) {
    let mut out = io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let why = UNWRITTEN.get_or_init(|| in_words(&error)).as_str();
            log::warn!(error = why; "could not write to standard output: {line}");
        }
        Ok(()) | Err(_) => {}
    }
}

/// Whether all that was said could be written, for a command that has done nothing else.
///
/// # Errors
/// One line.
pub(crate) fn all_said() -> Result<(), String> {
    UNWRITTEN.get().map_or(Ok(()), |why| Err(format!("could not write to standard output: {why}")))
}

/// A line for people, on standard error.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn text(record: &Record<'_>, now: SystemTime) -> String {
    let mut line = format!("{} {} ", timestamp(now), record.level());
    push_escaped(&mut line, &record.args().to_string(), false);
    let _ = record.key_values().visit(&mut TextPairs(&mut line));
    line
}

fn json(record: &Record<'_>, now: SystemTime) -> String {
    let level = record.level().as_str().to_ascii_lowercase();
    let mut line = format!(r#"{{"time":"{}","level":"{level}","message":""#, timestamp(now));
    push_escaped(&mut line, &record.args().to_string(), true);
    line.push('"');
    let _ = record.key_values().visit(&mut JsonPairs(&mut line));
    line.push('}');
    line
}

/// RFC 3339 in UTC with milliseconds.
fn timestamp(now: SystemTime) -> String {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_millis()
    )
}

/// Days since 1970 as a date of the Gregorian calendar. Years are counted from March, so that the
/// leap day is a year's last.
const fn civil(days: u64) -> (u64, u64, u64) {
    let since_0000_march = days + 719_468;
    let era = since_0000_march / 146_097;
    let day_of_era = since_0000_march % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + (month <= 2) as u64;
    (year, month, day)
}

/// Escapes what would end a line or a quoted string (RFC 8259 section 7), and what a terminal might
/// obey; `quoted` says whether quotes and backslashes matter here.
fn push_escaped(line: &mut String, text: &str, quoted: bool) {
    for c in text.chars() {
        match c {
            '"' | '\\' if quoted => line.extend(['\\', c]),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(line, "\\u{:04x}", u32::from(c));
            }
            c => line.push(c),
        }
    }
}

struct TextPairs<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for TextPairs<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let value = value.to_string();
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '=' | '\\');
        let _ = write!(self.0, " {key}=");
        if !value.is_empty() && value.chars().all(plain) {
            self.0.push_str(&value);
        } else {
            self.0.push('"');
            push_escaped(self.0, &value, true);
            self.0.push('"');
        }
        Ok(())
    }
}

struct JsonPairs<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for JsonPairs<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        self.0.push_str(",\"");
        push_escaped(self.0, key.as_str(), true);
        self.0.push_str("\":");
        value.visit(JsonValue(self.0))
    }
}

struct JsonValue<'a>(&'a mut String);

impl JsonValue<'_> {
    fn bare(&mut self, value: impl std::fmt::Display) -> Result<(), kv::Error> {
        write!(self.0, "{value}").map_err(kv::Error::from)
    }
}

impl<'v> VisitValue<'v> for JsonValue<'_> {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), kv::Error> {
        self.0.push('"');
        push_escaped(self.0, &value.to_string(), true);
        self.0.push('"');
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), kv::Error> {
        self.bare("null")
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        self.bare(value)
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), kv::Error> {
        self.bare(value)
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), kv::Error> {
        // JSON has no infinities (RFC 8259 section 6).
        if value.is_finite() { self.bare(value) } else { self.visit_null() }
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), kv::Error> {
        self.bare(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;
    use proptest::prelude::*;

    fn both(message: &str, pairs: &[(&str, Value<'_>)]) -> (String, String) {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let args = format_args!("{message}");
        let record = Record::builder().args(args).level(Level::Info).key_values(&pairs).build();
        (text(&record, at), json(&record, at))
    }

    #[test]
    fn dates() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            (1_767_225_599, "2025-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn one_call_two_formats() {
        let pairs = [
            ("key", Value::from("vm-1")),
            ("bytes", Value::from(5_u64)),
            ("seconds", Value::from(1.5)),
            ("peer", Value::from("cn:two \"words\"\n")),
            ("none", Value::from("")),
        ];
        let (text, json) = both("session ended", &pairs);
        assert_eq!(
            text,
            r#"2023-11-14T22:13:20.123Z INFO session ended key=vm-1 bytes=5 seconds=1.5 peer="cn:two \"words\"\n" none="""#
        );
        assert_eq!(
            json,
            r#"{"time":"2023-11-14T22:13:20.123Z","level":"info","message":"session ended","key":"vm-1","bytes":5,"seconds":1.5,"peer":"cn:two \"words\"\n","none":""}"#
        );
    }

    proptest! {
        #[test]
        fn nothing_breaks_out_of_its_line(message in "[\\PC\u{0}-\u{1f}\"\\\\]{0,20}", value in "[\\PC\u{0}-\u{1f}\"\\\\\u{9b}]{0,20}") {
            let (text, json) = both(&message, &[("key", Value::from(value.as_str()))]);
            prop_assert!(!text.chars().any(char::is_control) && !json.chars().any(char::is_control));
            let inner = json.strip_suffix("\"}").expect("its end");
            let key_at = inner.find(r#"","key":""#).expect("the key");
            let raw = &inner[key_at + 9..];
            let mut unescaped = false;
            for c in raw.chars() {
                prop_assert!(unescaped || c != '"');
                unescaped = c == '\\' && !unescaped;
            }
        }
    }
}
