//! What is asked.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::error::ApiError;
use crate::backends::Backends;
use crate::host::Host;
use crate::invalid::shown;
use crate::key::Key;
use crate::ports::PortMap;
use crate::registry::{Name, Owner, Request, Side, SourceRequest, TargetRequest};
use crate::strict::{Strict, object_or_none, whole, whole_or_none};

/// Bytes a body may have: a few paths of 4 KiB each.
pub const BODY_MAX: usize = 64 << 10;

/// Bytes an address may have.
pub const PATH_MAX: usize = 1024;

/// The longest lease, in seconds: a week.
pub const LEASE_MAX_S: u64 = 7 * 24 * 3600;

/// A call, understood and checked.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Call {
    /// To the registry: `PUT` and `DELETE` of a target or a source.
    Registry(Request),
    /// What is in force: `GET` of a target or a source.
    Get(Name),
    /// What is in force, all of one side.
    List(Side),
    /// All sessions.
    Sessions,
    /// End that session.
    EndSession(u64),
    /// How fast bytes may come.
    Limits,
    /// How fast from now on.
    SetLimits(LimitsWish),
    /// Hand everything that listens over to the process that asks.
    TakeOver,
    /// Take nothing new and wait, so long if it is said.
    Drain(Option<Duration>),
    /// Is the process alive.
    Health,
    /// Does it take something new.
    Ready,
    /// For Prometheus.
    Metrics,
}

/// How fast bytes may come, by the words of a client: `100MiB/s`, `off`. What is left out stays as it is.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct LimitsWish {
    /// For the whole process.
    pub bandwidth: Option<String>,
    /// For each migration that nothing else is said of.
    pub bandwidth_per_key: Option<String>,
    /// For these; `None` for what all others have.
    pub keys: BTreeMap<Key, Option<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsBody {
    #[serde(default)]
    bandwidth: Option<String>,
    #[serde(default)]
    bandwidth_per_key: Option<String>,
    #[serde(default)]
    keys: BTreeMap<String, Option<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetBody {
    backends: Backends,
    #[serde(default, deserialize_with = "whole_or_none")]
    lease_s: Option<u64>,
    /// Ports to have again, as the answer gave them.
    #[serde(default)]
    keep: PortMap,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceBody {
    target: String,
    ports: PortMap,
    base_dir: String,
    #[serde(default, deserialize_with = "object_or_none")]
    owner: Option<OwnerBody>,
    #[serde(default, deserialize_with = "whole_or_none")]
    lease_s: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnerBody {
    #[serde(deserialize_with = "whole")]
    uid: u32,
    #[serde(deserialize_with = "whole")]
    gid: u32,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct DrainBody {
    #[serde(default, deserialize_with = "whole_or_none")]
    timeout_s: Option<u64>,
}

/// Understands a call. `path` is without query.
///
/// # Errors
/// 400 for a body or a key that is none, 404 for an address and 405 for a method there is not, 413 and
/// 414 for what is too long.
pub fn parse(method: &str, path: &str, body: &[u8]) -> Result<Call, ApiError> {
    if path.len() > PATH_MAX {
        return Err(ApiError::new(414, format!("the address is longer than {PATH_MAX} bytes")));
    }
    if body.len() > BODY_MAX {
        return Err(ApiError::new(413, format!("the body is longer than {BODY_MAX} bytes")));
    }
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    match parts.as_slice() {
        ["v1", "targets"] => without_body(only(method, "GET", Call::List(Side::Target))?, body),
        ["v1", "sources"] => without_body(only(method, "GET", Call::List(Side::Source))?, body),
        ["v1", "targets", key] => of_migration(method, Side::Target, key, body),
        ["v1", "sources", key] => of_migration(method, Side::Source, key, body),
        ["v1", "sessions"] => without_body(only(method, "GET", Call::Sessions)?, body),
        ["v1", "sessions", id] => {
            let plain = !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
            match id.parse() {
                Ok(id) if plain => without_body(only(method, "DELETE", Call::EndSession(id))?, body),
                _ => Err(ApiError::bad(format!("{} is no session; it is a number", shown(id)))),
            }
        }
        ["v1", "limits"] => limits(method, body),
        ["v1", "takeover"] => without_body(only(method, "POST", Call::TakeOver)?, body),
        ["v1", "drain"] => drain(only(method, "POST", ())?, body),
        ["healthz"] => without_body(only(method, "GET", Call::Health)?, body),
        ["readyz"] => without_body(only(method, "GET", Call::Ready)?, body),
        ["metrics"] => without_body(only(method, "GET", Call::Metrics)?, body),
        _ => Err(ApiError::not_found(format!(
            "{}; there are /v1/targets, /v1/targets/KEY, /v1/sources, /v1/sources/KEY, /v1/sessions, /v1/limits, /v1/drain, /healthz, /readyz and /metrics",
            shown(path)
        ))),
    }
}

fn of_migration(method: &str, side: Side, key: &str, body: &[u8]) -> Result<Call, ApiError> {
    let key: Key = key.parse()?;
    match (method, side) {
        ("PUT", Side::Target) => set_target(key, body),
        ("PUT", Side::Source) => set_source(key, body),
        ("GET", _) => without_body(Call::Get(Name::new(side, key)), body),
        ("DELETE", _) => without_body(Call::Registry(Request::Delete(Name::new(side, key))), body),
        _ => Err(wrong_method(method, "PUT, GET or DELETE")),
    }
}

fn set_target(key: Key, body: &[u8]) -> Result<Call, ApiError> {
    let TargetBody { backends, lease_s, keep } = json(body)?;
    if backends.is_empty() {
        return Err(ApiError::bad("backends is empty; name at least one channel's socket"));
    }
    let request = TargetRequest { key, backends, keep, lease: lease(lease_s)? };
    Ok(Call::Registry(Request::SetTarget(request)))
}

fn set_source(key: Key, body: &[u8]) -> Result<Call, ApiError> {
    let SourceBody { target, ports, base_dir, owner, lease_s } = json(body)?;
    if ports.is_empty() {
        return Err(ApiError::bad("ports is empty; name at least one channel's port"));
    }
    Ok(Call::Registry(Request::SetSource(SourceRequest {
        key,
        target: target.parse::<Host>()?.reachable()?,
        ports,
        base_dir: base_dir.parse()?,
        owner: owner.map(|OwnerBody { uid, gid }| Owner::new(uid, gid)).transpose()?,
        lease: lease(lease_s)?,
    })))
}

fn limits(method: &str, body: &[u8]) -> Result<Call, ApiError> {
    match method {
        "GET" => without_body(Call::Limits, body),
        "PUT" => {
            let LimitsBody { bandwidth, bandwidth_per_key, keys } = json(body)?;
            let key = |(key, rate): (String, _)| Ok((key.parse()?, rate));
            let keys = keys.into_iter().map(key).collect::<Result<_, ApiError>>()?;
            Ok(Call::SetLimits(LimitsWish { bandwidth, bandwidth_per_key, keys }))
        }
        _ => Err(wrong_method(method, "GET or PUT")),
    }
}

fn drain((): (), body: &[u8]) -> Result<Call, ApiError> {
    let DrainBody { timeout_s } = if body.is_empty() { DrainBody::default() } else { json(body)? };
    match timeout_s {
        Some(seconds) if seconds > LEASE_MAX_S => {
            Err(ApiError::bad(format!("timeout_s is {seconds}; it may be {LEASE_MAX_S} at most")))
        }
        _ => Ok(Call::Drain(timeout_s.map(Duration::from_secs))),
    }
}

fn lease(seconds: Option<u64>) -> Result<Option<Duration>, ApiError> {
    match seconds {
        Some(seconds) if !(1..=LEASE_MAX_S).contains(&seconds) => Err(ApiError::bad(format!(
            "lease_s is {seconds}; it is from 1 to {LEASE_MAX_S} seconds, or left out for ever"
        ))),
        _ => Ok(seconds.map(Duration::from_secs)),
    }
}

fn json<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, ApiError> {
    if body.is_empty() {
        return Err(ApiError::bad("the body is empty; it is a JSON object"));
    }
    let Strict(object) = serde_json::from_slice::<Strict<T>>(body).map_err(|error| {
        // it repeats names of fields as they were sent
        let text: String = error.to_string().chars().filter(|c| !c.is_control()).take(400).collect();
        ApiError::bad(format!("the body can't be read: {text}"))
    })?;
    Ok(object)
}

fn only<T>(method: &str, allowed: &str, then: T) -> Result<T, ApiError> {
    if method == allowed { Ok(then) } else { Err(wrong_method(method, allowed)) }
}

fn wrong_method(method: &str, allowed: &str) -> ApiError {
    ApiError::new(405, format!("{} is not possible here; use {allowed}", shown(method)))
}

fn without_body(call: Call, body: &[u8]) -> Result<Call, ApiError> {
    if body.is_empty() { Ok(call) } else { Err(ApiError::bad("this call has no body; leave it out")) }
}
