//! Durations and rates as written on a command line: `500ms`, `10s`, `5m`, `100MiB/s`.

use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

/// The longest duration accepted, so that adding one to a point in time never matters to a clock.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Why a text is no quantity: one line that says what would be right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuantityError(String);

impl fmt::Display for QuantityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for QuantityError {}

/// Splits `12.5MiB` into a count of thousandths and a unit. Whole arithmetic: no rounding surprises.
fn thousandths(text: &str) -> Option<(u64, &str)> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if fraction.is_empty() || fraction.len() > 3 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let scale = [100, 10, 1][fraction.len() - 1];
    let fraction: u64 = fraction.parse().ok()?;
    Some((whole.checked_mul(1000)?.checked_add(fraction * scale)?, unit))
}

/// Reads `500ms`, `10s`, `1.5s`, `5m` or `2h`.
///
/// # Errors
/// If there is no unit (seconds and milliseconds are too easily mistaken for each other), or the
/// duration is zero or longer than 366 days.
pub fn duration(text: &str) -> Result<Duration, QuantityError> {
    let parsed = thousandths(text).and_then(|(count, unit)| {
        let micros_per_thousandth = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        count.checked_mul(micros_per_thousandth).map(Duration::from_micros)
    });
    match parsed {
        Some(Duration::ZERO) => {
            Err(QuantityError(format!("'{text}' is no time at all; the shortest is 0.001ms")))
        }
        Some(duration) if duration <= LONGEST => Ok(duration),
        Some(_) => {
            Err(QuantityError(format!("'{text}' is too long; the longest is {}h", LONGEST.as_secs() / 3600)))
        }
        None => Err(QuantityError(format!("'{text}' is no duration; write 500ms, 10s, 5m or 1h"))),
    }
}

/// Like [`duration`], or `off` for none.
///
/// # Errors
/// As [`duration`].
pub fn duration_or_off(text: &str) -> Result<Option<Duration>, QuantityError> {
    match text {
        "off" => Ok(None),
        _ => duration(text).map(Some).map_err(|e| QuantityError(format!("{e}, or off"))),
    }
}

/// Prints a duration as [`duration`] reads it, exactly, in the largest unit that needs no fraction.
#[must_use]
pub fn display(duration: Duration) -> String {
    let micros = duration.as_micros();
    for (unit, size) in [("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000)] {
        if micros.is_multiple_of(size) {
            return format!("{}{unit}", micros / size);
        }
    }
    format!("{}.{:03}ms", micros / 1000, micros % 1000)
}

/// Reads an amount in bytes: `512`, `64KiB`, `100MiB`, `1.5GiB`, `1TiB`; powers of 1024 (IEC 80000-13).
///
/// # Errors
/// If the unit is another (`MB` is ambiguous in practice), or the number too large.
pub fn bytes(text: &str) -> Result<u64, QuantityError> {
    let parsed = thousandths(text).and_then(|(count, unit)| {
        let shift = match unit {
            "" | "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            _ => return None,
        };
        let exact = (u128::from(count) << shift) / 1000;
        u64::try_from(exact).ok().filter(|n| *n <= i64::MAX.unsigned_abs())
    });
    parsed.ok_or_else(|| QuantityError(format!("'{text}' is no amount; write 512, 64KiB, 100MiB or 1GiB")))
}

/// The least rate that can be meant: below, a slip of the pen has stopped everything.
const LEAST_RATE: u64 = 1 << 10;

/// Reads a rate of 1 KiB/s at least, or `off` for none.
///
/// # Errors
/// As [`rate`], and if it is less.
pub fn rate_or_off(text: &str) -> Result<Option<NonZeroU64>, QuantityError> {
    if text == "off" {
        return Ok(None);
    }
    match rate(text) {
        Ok(rate) if rate < LEAST_RATE => {
            Err(QuantityError(format!("'{text}' is too slow; the least is 1KiB/s")))
        }
        Ok(rate) => Ok(NonZeroU64::new(rate)),
        Err(error) => Err(QuantityError(format!("{error}, or off"))),
    }
}

/// Prints a rate as [`rate_or_off`] reads it, exactly, in the largest unit that needs no fraction.
#[must_use]
pub fn display_rate(rate: Option<NonZeroU64>) -> String {
    let Some(rate) = rate.map(NonZeroU64::get) else { return "off".to_owned() };
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.into_iter().find(|(_, shift)| rate.is_multiple_of(1 << shift));
    unit.map_or_else(|| format!("{rate}B/s"), |(unit, shift)| format!("{}{unit}/s", rate >> shift))
}

/// Reads a rate in bytes per second: `100MiB/s`.
///
/// # Errors
/// As [`bytes`]; and if the rate is zero, which would move nothing (say `off` instead).
pub fn rate(text: &str) -> Result<u64, QuantityError> {
    match text.strip_suffix("/s").map(bytes) {
        Some(Ok(rate)) if rate > 0 => Ok(rate),
        _ => Err(QuantityError(format!("'{text}' is no rate; write 100MiB/s or 1GiB/s"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(duration_or_off("off"), Ok(None));
        for text in [
            "",
            "10",
            "s",
            "0s",
            "-1s",
            "1 s",
            "1.s",
            ".5s",
            "1.2345s",
            "1e3s",
            "999999h",
            "99999999999999999999s",
            "off",
        ] {
            let message = duration(text).expect_err(text).to_string();
            assert!(message.contains(text) && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn amounts_and_rates() {
        assert_eq!(bytes("512"), Ok(512));
        assert_eq!(bytes("1.5GiB"), Ok(3 << 29));
        assert_eq!(rate("100MiB/s"), Ok(100 << 20));
        assert_eq!(rate_or_off("off"), Ok(None));
        for text in ["1023B/s", "0B/s", "never"] {
            let message = rate_or_off(text).expect_err(text).to_string();
            assert!(message.contains(text) && !message.contains('\n'), "{message}");
        }
        for text in ["100MB/s", "100MiB", "0MiB/s", "9999999999TiB/s", "/s"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read(micros in 1..=LONGEST.as_micros() as u64) {
            let exact = Duration::from_micros(micros);
            prop_assert_eq!(duration(&display(exact)), Ok(exact));
        }

        #[test]
        fn a_rate_that_is_printed_is_read(rate in (LEAST_RATE..1 << 40, 0..20_u32).prop_map(|(n, shift)| n << shift)) {
            let exact = NonZeroU64::new(rate);
            prop_assert_eq!(rate_or_off(&display_rate(exact)), Ok(exact));
        }

        #[test]
        fn no_text_panics(text in "[0-9.]{0,30}\\PC{0,6}") {
            let _ = (duration_or_off(&text), bytes(&text), rate(&text));
        }
    }
}
