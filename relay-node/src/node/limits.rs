//! `/v1/limits`: how fast bytes may come.

use relay_migration::api::{self, ApiError, LimitsAnswer, LimitsWish};

use super::MIGRATIONS_MAX;
use super::http::Answer;
use crate::bandwidth::{Bandwidth, Rate, Rates};
use crate::quantity;

/// What is in force.
pub(super) fn answer(bandwidth: &Bandwidth) -> Result<Answer, ApiError> {
    api::to_json(&told(&bandwidth.rates())).map(Answer::json)
}

/// The same in words.
pub(super) fn told(rates: &Rates) -> LimitsAnswer {
    let of = quantity::display_rate;
    LimitsAnswer {
        bandwidth: of(rates.process),
        bandwidth_per_key: of(rates.per_key),
        keys: rates.keys.iter().map(|(key, rate)| (key.to_string(), of(*rate))).collect(),
    }
}

/// All of the wish, or, if something in it can't be, nothing.
pub(super) fn set(bandwidth: &Bandwidth, wish: &LimitsWish) -> Result<(), ApiError> {
    let mut rates = bandwidth.rates();
    if let Some(text) = &wish.bandwidth {
        rates.process = read("bandwidth", text)?;
    }
    if let Some(text) = &wish.bandwidth_per_key {
        rates.per_key = read("bandwidth_per_key", text)?;
    }
    for (key, text) in &wish.keys {
        match text {
            Some(text) => _ = rates.keys.insert(key.clone(), read(key, text)?),
            None => _ = rates.keys.remove(key),
        }
    }
    if rates.keys.len() > MIGRATIONS_MAX {
        return Err(ApiError::bad(format!(
            "these would be limits for {} keys, and there may be {MIGRATIONS_MAX}; null takes a key's away",
            rates.keys.len()
        )));
    }
    let (process, per_key) = (quantity::display_rate(rates.process), quantity::display_rate(rates.per_key));
    log::info!(bandwidth = process.as_str(), bandwidth_per_key = per_key.as_str(), keys = rates.keys.len(); "limits set");
    bandwidth.set(rates);
    Ok(())
}

fn read(what: impl std::fmt::Display, text: &str) -> Result<Rate, ApiError> {
    quantity::rate_or_off(text).map_err(|error| ApiError::bad(format!("{what}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use relay_migration::api::{Call, parse};

    fn put(bandwidth: &Bandwidth, body: &str) -> Result<(), String> {
        match parse("PUT", "/v1/limits", body.as_bytes()) {
            Ok(Call::SetLimits(wish)) => set(bandwidth, &wish).map_err(|error| error.to_string()),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn what_is_left_out_stays_and_a_wish_that_cannot_be_changes_nothing() {
        let bandwidth = Bandwidth::default();
        put(&bandwidth, r#"{"bandwidth":"100MiB/s","keys":{"a":"off","b":"1MiB/s"}}"#).expect("set");
        put(&bandwidth, r#"{"bandwidth_per_key":"10MiB/s","keys":{"a":null}}"#).expect("set");
        let rates = bandwidth.rates();
        assert_eq!(rates.process.map(|rate| rate.get()), Some(100 << 20));
        assert_eq!(rates.per_key.map(|rate| rate.get()), Some(10 << 20));
        assert_eq!(rates.keys.len(), 1);
        for wrong in [
            r#"{"bandwidth":"off","bandwidth_per_key":"fast"}"#,
            r#"{"bandwidth":"off","keys":{"b":"1"}}"#,
            r#"{"bandwidth":"off","keys":{"../b":"1MiB/s"}}"#,
            r#"{"bandwith":"off"}"#,
            r#"{"bandwidth":100}"#,
            "",
        ] {
            put(&bandwidth, wrong).expect_err(wrong);
            assert_eq!(bandwidth.rates(), rates, "{wrong}");
        }
    }

    #[test]
    fn there_is_an_end_to_keys() {
        let bandwidth = Bandwidth::default();
        let mut refused = None;
        for round in 0..20 {
            let keys: Vec<_> = (0..1000).map(|n| format!(r#""vm{round}-{n}":"1MiB/s""#)).collect();
            if let Err(why) = put(&bandwidth, &format!(r#"{{"keys":{{{}}}}}"#, keys.join(","))) {
                refused = Some(why);
            }
        }
        assert!(refused.is_some_and(|why| why.contains("16384")));
        assert_eq!(bandwidth.rates().keys.len(), 16_000);
    }
}
