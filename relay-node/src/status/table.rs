//! Tables for people.

use relay_migration::api::SessionView;

use super::{Rates, Seen};

/// All of it.
pub(super) fn text(seen: &Seen, rates: &Rates) -> String {
    let mut listeners = vec![row(["KEY", "SIDE", "LISTENS", "SESSIONS", "LEASE", "PROBLEM"])];
    let left = |lease: Option<u64>| lease.map_or_else(|| "-".to_owned(), |seconds| age(seconds as f64));
    for (key, target) in &seen.targets.targets {
        let ports = target.ports.iter().map(|(port, channel)| format!("{port}={channel}"));
        listeners.push(vec![
            key.clone(),
            "target".to_owned(),
            format!("{} {}", target.address, ports.collect::<Vec<_>>().join(" ")),
            target.sessions.unwrap_or(0).to_string(),
            left(target.lease_left_s),
            target.problem.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    for (key, source) in &seen.sources.sources {
        // the first one says where the others are
        let file = source.files.first().map(String::as_str).unwrap_or_default();
        let others = source.files.len().saturating_sub(1);
        listeners.push(vec![
            key.clone(),
            "source".to_owned(),
            if others > 0 { format!("{file} +{others}") } else { file.to_owned() },
            source.sessions.unwrap_or(0).to_string(),
            left(source.lease_left_s),
            source.problem.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    let head =
        ["ID", "KEY", "SIDE", "CHANNEL", "STAGE", "AGE", "FORWARD", "BACKWARD", "RATE", "STALLED", "PEER"];
    let mut sessions = vec![row(head)];
    sessions.extend(seen.sessions.sessions.iter().map(|session| of_session(session, rates)));
    format!("{}\n\n{}", aligned(&listeners), aligned(&sessions))
}

fn of_session(session: &SessionView, rates: &Rates) -> Vec<String> {
    let rate = rates.get(&session.id).map(|(forward, backward)| forward + backward);
    vec![
        session.id.to_string(),
        session.key.clone(),
        session.side.clone(),
        session.channel.to_string(),
        session.stage.clone(),
        age(session.age_s),
        amount(session.bytes_forward as f64),
        amount(session.bytes_backward as f64),
        rate.map_or_else(|| "-".to_owned(), |rate| format!("{}/s", amount(rate))),
        age(session.stalled_for_s),
        session.identity.clone().unwrap_or_else(|| session.peer.clone()),
    ]
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// In columns as wide as what they hold, two spaces apart.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// `0.3s`, `59s`, `4m10s`, `3h05m`, `2d04h`
fn age(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..10 => format!("{seconds:.1}s"),
        10..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// `0B`, `999B`, `1.5KiB`, `2.0GiB`
fn amount(bytes: f64) -> String {
    let mut value = bytes;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{value:.0}{unit}") } else { format!("{value:.1}{unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1}TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_amounts_are_short() {
        let ages = [0.04, 9.96, 10.0, 59.9, 60.0, 3599.0, 3600.0, 90_000.0].map(age);
        assert_eq!(ages, ["0.0s", "10.0s", "10s", "59s", "1m00s", "59m59s", "1h00m", "1d01h"]);
        let amounts = [0.0, 999.0, 1000.0, 1536.0, 1e9, 1.5e12, 1e15].map(amount);
        assert_eq!(amounts, ["0B", "999B", "1.0KiB", "1.5KiB", "953.7MiB", "1.4TiB", "909.5TiB"]);
    }

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [row(["A", "B"]), row(["long", "x"]), row(["é", ""])];
        assert_eq!(aligned(&rows), "A     B\nlong  x\né");
    }
}
