//! `status`: what a node has open, as a table or as JSON.

mod client;
mod table;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::thread;
use std::time::{Duration, Instant};

use relay_migration::api::{SessionsAnswer, SourcesAnswer, TargetsAnswer};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::cli::Status;
use crate::logging::say;
use client::Client;

/// Between the two looks that a rate takes.
const LOOK: Duration = Duration::from_millis(500);

/// Between two refreshes.
const REFRESH: Duration = Duration::from_secs(1);

/// What a node said, and when.
pub(crate) struct Seen {
    at: Instant,
    targets: TargetsAnswer,
    sources: SourcesAnswer,
    sessions: SessionsAnswer,
}

/// Bytes per second, forward and backward, by session.
pub(crate) type Rates = BTreeMap<u64, (f64, f64)>;

/// Prints it, again and again if asked to.
///
/// # Errors
/// One line, if the node can't be asked.
pub(crate) fn run(asked: &Status) -> Result<(), String> {
    let mut client = Client::new(&asked.control);
    let mut before = look(&mut client)?;
    if !asked.watch {
        // A rate takes two looks, and nobody waits for the rate of nothing.
        let is_idle = before.sessions.sessions.is_empty();
        if !is_idle {
            thread::sleep(LOOK);
        }
        let after = if is_idle { None } else { Some(look(&mut client)?) };
        let text = match &after {
            Some(after) => print(asked, after, &rates(&before, after)),
            None => print(asked, &before, &Rates::new()),
        };
        say(&text);
        return Ok(());
    }
    loop {
        thread::sleep(REFRESH);
        let after = look(&mut client)?;
        let text = print(asked, &after, &rates(&before, &after));
        if !asked.json && std::io::stdout().is_terminal() {
            // from the top, over what is there, and nothing below (ECMA-48: CUP, ED)
            say(&format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")));
        } else {
            say(&text);
        }
        before = after;
    }
}

fn look(client: &mut Client) -> Result<Seen, String> {
    let targets = get(client, "/v1/targets")?;
    let sources = get(client, "/v1/sources")?;
    let sessions = get(client, "/v1/sessions")?;
    Ok(Seen { at: Instant::now(), targets, sources, sessions })
}

fn get<T: DeserializeOwned>(client: &mut Client, path: &str) -> Result<T, String> {
    let body = client.get(path)?;
    serde_json::from_slice(&body).map_err(|error| format!("the answer to {path} can't be read: {error}"))
}

fn rates(before: &Seen, after: &Seen) -> Rates {
    let seconds = after.at.duration_since(before.at).as_secs_f64().max(0.001);
    let known: BTreeMap<u64, (u64, u64)> =
        before.sessions.sessions.iter().map(|s| (s.id, (s.bytes_forward, s.bytes_backward))).collect();
    let per_second = |after: u64, before: u64| after.saturating_sub(before) as f64 / seconds;
    let rate = |s: &relay_migration::api::SessionView| {
        let (forward, backward) = known.get(&s.id).copied().unwrap_or_default();
        (s.id, (per_second(s.bytes_forward, forward), per_second(s.bytes_backward, backward)))
    };
    after.sessions.sessions.iter().map(rate).collect()
}

fn print(asked: &Status, seen: &Seen, rates: &Rates) -> String {
    if !asked.json {
        return table::text(seen, rates);
    }
    let mut sessions = json!(seen.sessions.sessions);
    for session in sessions.as_array_mut().into_iter().flatten() {
        let id = session["id"].as_u64().unwrap_or(0);
        let (forward, backward) = rates.get(&id).copied().unwrap_or_default();
        session["rate_forward"] = json!(forward.round());
        session["rate_backward"] = json!(backward.round());
    }
    json!({ "targets": seen.targets.targets, "sources": seen.sources.sources, "sessions": sessions })
        .to_string()
}
