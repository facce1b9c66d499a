//! What is told is in order, documented, and what alerts and dashboard ask for.

use std::collections::BTreeSet;
use std::sync::Arc;

use relay_core::{Failure, Instant, PerLeg, Pool, Ready, Relay, Stop, Transport, TryError, pump};
use relay_migration::Channel;
use relay_tls::{LegCodec, Material, Pem};

use super::*;
use crate::cli::Timeouts;
use crate::resolve::Backend;
use crate::server::{Label as PlanLabel, Plan};
use crate::sessions::{RouteId, Seat};
use crate::socket::Peer;
use lint::Page;

/// A daemon with certificates: whatever any program tells, it tells.
fn metrics() -> Metrics {
    let made = rcgen::generate_simple_self_signed(["node".to_owned()]).expect("a certificate");
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let pem = |bytes| Pem { file: "-", bytes };
    let material = Material::from_pem(pem(chain.as_bytes()), pem(key.as_bytes()), pem(chain.as_bytes()));
    let tls = Tls::new(&material.expect("material"), &[]).expect("TLS");
    Metrics::new("relay-test", SessionTable::new(), Some(Arc::new(tls))).with_daemon()
}

fn page(metrics: &Metrics) -> Page {
    let text = metrics.text();
    lint::read(&text).unwrap_or_else(|faults| panic!("{}\n{text}", faults.join("\n")))
}

fn plan(listen: &str, label: Option<(&str, Channel)>) -> Arc<Plan> {
    let backend = Backend::new(&"unix:@nobody".parse().expect("endpoint")).expect("backend");
    let plan =
        Plan::new(listen.parse().expect("endpoint"), backend, None, &Timeouts::default()).expect("a plan");
    Arc::new(match label {
        Some((key, channel)) => plan.labeled(PlanLabel { key: key.parse().expect("a key"), channel }),
        None => plan,
    })
}

/// Front sends once; Back takes so many bytes and no more.
struct Peers {
    sent: Option<&'static [u8]>,
    takes: usize,
}

impl Transport for Peers {
    fn try_read(&mut self, leg: Leg, slices: &mut [&mut [u8]]) -> Result<usize, TryError> {
        match (leg, self.sent.take(), slices) {
            (Leg::Front, Some(bytes), [slice, ..]) => {
                slice[..bytes.len()].copy_from_slice(bytes);
                Ok(bytes.len())
            }
            _ => Err(TryError::WouldBlock),
        }
    }

    fn try_write(&mut self, _: Leg, slices: &[&[u8]]) -> Result<usize, TryError> {
        match slices.iter().map(|slice| slice.len()).sum::<usize>().min(std::mem::take(&mut self.takes)) {
            0 => Err(TryError::WouldBlock),
            count => Ok(count),
        }
    }

    fn shut_write(&mut self, _: Leg) -> Result<(), TryError> {
        Ok(())
    }
}

/// A session that received ten bytes and delivered seven.
fn session(sessions: &Arc<SessionTable>, plan: &Arc<Plan>) -> (Relay<LegCodec>, Seat, Pool) {
    let now = sessions.clock().now();
    let seat = sessions.enter(RouteId(1), Arc::clone(plan), Peer::Local, now);
    let mut relay = Relay::new(*plan.config(), LegCodec::Plain, now);
    relay.connected(now, LegCodec::Plain);
    let mut pool = Pool::default();
    let mut peers = Peers { sent: Some(b"0123456789"), takes: 7 };
    pump(&mut relay, &mut peers, &mut PerLeg::both(Ready::BOTH), &mut pool, now, 100);
    seat.meter().update(&relay);
    (relay, seat, pool)
}

#[test]
fn a_page_is_in_order_even_if_nothing_has_happened_yet() {
    let metrics = metrics();
    let page = page(&metrics);
    assert_eq!(
        page.value("relay_build_info", &[("program", "relay-test"), ("version", env!("CARGO_PKG_VERSION"))]),
        Some(1.0)
    );
    assert_eq!(page.value("relay_draining", &[]), Some(0.0));
    let own = page.value("relay_certificate_not_after_timestamp_seconds", &[("certificate", "own")]);
    assert!(own > Some(4e9), "{own:?}");
    // Counters are there, and zero, before the first session comes.
    metrics.sessions.opened(&plan("unix:@here", Some(("vm", Channel::Control))));
    let page = self::page(&metrics);
    let labels = [("side", "source"), ("channel", "0"), ("direction", "backward")];
    assert_eq!(page.value("relay_received_bytes_total", &labels), Some(0.0));
    assert_eq!(page.value("relay_listeners", &[]), Some(1.0));
}

#[test]
fn sessions_are_told_by_side_and_channel_and_their_bytes_add_up() {
    let metrics = metrics();
    let source = plan("unix:@here", Some(("vm", Channel::Control)));
    let (mut relay, seat, _pool) = session(&metrics.sessions, &source);
    let forward = |name: &str, page: &Page| page.sum(name, &[("direction", "forward")]);
    let seen = page(&metrics);
    assert_eq!(
        seen.value("relay_sessions", &[("side", "source"), ("channel", "0"), ("stage", "open")]),
        Some(1.0)
    );
    let names = [
        "relay_received_bytes_total",
        "relay_delivered_bytes_total",
        "relay_cut_bytes_total",
        "relay_buffered_bytes",
    ];
    assert_eq!(names.map(|name| forward(name, &seen)), [10.0, 7.0, 0.0, 3.0]);
    let lent = |page: &Page| page.sum("relay_buffer_memory_bytes", &[("state", "lent")]);
    assert_eq!(lent(&seen), relay.lent() as f64);
    assert!(relay.lent() >= 4096);
    // Over, but for its descriptors; then gone. Nothing is counted twice, nothing is lost.
    relay.stop(metrics.sessions.clock().now(), Stop::Abort);
    seat.meter().update(&relay);
    let closing = page(&metrics);
    drop(seat);
    let gone = page(&metrics);
    for page in [&closing, &gone] {
        assert_eq!(names.map(|name| forward(name, page)), [10.0, 7.0, 3.0, 0.0]);
        assert_eq!(page.sum("relay_sessions_ended_total", &[("result", "unclean")]), 1.0);
        assert_eq!(page.sum("relay_flow_ends_total", &[("reason", "aborted")]), 2.0);
        assert_eq!(lent(page), 0.0);
    }
    assert_eq!(closing.sum("relay_sessions", &[("stage", "closing")]), 1.0);
    assert_eq!(gone.sum("relay_sessions", &[]), 0.0);
}

/// However many keys there are, and whatever their names: the page has as many lines.
#[test]
fn a_thousand_migrations_are_as_many_lines_as_one() {
    let lines = |migrations: usize| {
        let metrics = metrics();
        for number in 0..migrations {
            let key = format!("vm-{number}");
            for channel in Channel::ALL {
                for listen in ["unix:@here", "tcp:127.0.0.1:1"] {
                    drop(session(&metrics.sessions, &plan(listen, Some((&key, channel)))));
                }
            }
            metrics.sessions.tally().dial_failed(Failure::Os(i32::try_from(number).expect("small")));
            metrics.sessions.tally().dial_failed(Failure::Alert(u8::try_from(number % 256).expect("small")));
        }
        page(&metrics);
        metrics.text().lines().count()
    };
    assert_eq!(lines(1), lines(500));
}

/// Names of metrics in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("relay_") || word.starts_with("process_")).collect()
}

/// A metric's name, and the labels it is to have, with their values if these are no patterns.
type Selector<'a> = (&'a str, Vec<(&'a str, Option<&'a str>)>);

/// The selectors `name{label="value",...}` of an expression.
fn selectors(expr: &str) -> Vec<Selector<'_>> {
    let mut found = Vec::new();
    for name in names(expr) {
        for (at, _) in expr.match_indices(name) {
            let rest = &expr[at + name.len()..];
            let labels = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(l, _)| l);
            let label = |matcher: &'_ str| -> Option<(usize, usize, bool)> {
                let end = matcher.find(['=', '!'])?;
                Some((end, matcher.find('"')?, matcher[end..].starts_with("=\"")))
            };
            let labels = labels.split(',').filter_map(|matcher| {
                let (end, quote, is_plain) = label(matcher)?;
                Some((&matcher[..end], is_plain.then(|| matcher[quote..].trim_matches('"'))))
            });
            found.push((name, labels.collect()));
        }
    }
    found
}

/// All that an expression names is told; labels that a sample has, and values that a sample can have.
fn check(expr: &str, page: &Page) {
    let parentheses = |c| expr.chars().filter(|found| *found == c).count();
    assert_eq!(parentheses('('), parentheses(')'), "{expr}");
    let found = selectors(expr);
    assert!(!found.is_empty(), "{expr} asks for nothing");
    for (name, labels) in found {
        assert!(page.knows(name), "{name} is not told: {expr}");
        for (label, value) in labels.into_iter().filter(|(label, _)| *label != "instance") {
            let values = page.values_of(name, label);
            assert!(!values.is_empty(), "{name} has no label {label}: {expr}");
            if let Some(value) = value {
                assert!(values.contains(value), "{label} of {name} is never {value}: {expr}");
            }
        }
    }
}

/// A page on which everything has happened that rules and dashboard ask for.
fn eventful() -> Page {
    let metrics = metrics();
    for channel in Channel::ALL {
        for listen in ["unix:@here", "tcp:127.0.0.1:1"] {
            let (mut relay, seat, _pool) = session(&metrics.sessions, &plan(listen, Some(("vm", channel))));
            relay.stop(Instant::from_nanos(u64::MAX), Stop::Abort);
            seat.meter().update(&relay);
        }
    }
    let (_relay, _seat, _pool) =
        session(&metrics.sessions, &plan("unix:@here", Some(("vm", Channel::Memory))));
    metrics.sessions.tally().held_up(relay_core::admission::Shut::Full);
    metrics.sessions.tally().dial_failed(Failure::Refused);
    // handshakes need peers
    let text = metrics.text().replace(
        "# TYPE relay_handshakes_total counter\n",
        "# TYPE relay_handshakes_total counter\nrelay_handshakes_total{side=\"source\",leg=\"back\",result=\"ok\"} 1\n",
    );
    lint::read(&text).expect("in order")
}

#[test]
fn alerts_ask_for_what_is_told() {
    let rules = include_str!("../../../deploy/monitoring/rules.yaml");
    let page = eventful();
    // As OPERATIONS.md says to make a plain file of it.
    let (_, spec) = rules.split_once("\nspec:\n").expect("a spec");
    assert!(spec.lines().all(|line| line.starts_with("  ")) && spec.starts_with("  groups:\n"));
    let (mut alerts, mut asked) = (BTreeSet::new(), BTreeSet::new());
    for rule in spec.split("- alert: ").skip(1) {
        let name = rule.lines().next().expect("a name");
        assert!(alerts.insert(name), "{name} twice");
        let (_, expr) = rule.split_once("expr: ").unwrap_or_else(|| panic!("{name} has no expression"));
        let (expr, rest) =
            expr.split_once("\n          labels:").unwrap_or_else(|| panic!("{name} has no labels"));
        let expr = expr.split("\n          for: ").next().expect("the first").trim_start_matches(">-");
        check(expr, &page);
        for part in ["severity: ", "annotations:", "summary: \"", "action: \""] {
            assert!(rest.contains(part), "{name} has no {part}");
        }
        asked.extend(names(expr));
    }
    assert!(alerts.len() > 10);
    for name in [
        "relay_certificate_not_after_timestamp_seconds",
        "relay_accept_pauses_total",
        "relay_cut_bytes_total",
    ] {
        assert!(asked.contains(name), "nobody is told of {name}");
    }
}

#[test]
fn the_dashboard_asks_for_what_is_told_and_for_all_of_it() {
    let text = include_str!("../../../deploy/monitoring/dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(text).expect("JSON");
    let page = eventful();
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut ids = BTreeSet::new();
    let mut asked = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().expect("a number")), "{panel}");
        let at = &panel["gridPos"];
        assert!(at["x"].as_u64().expect("x") + at["w"].as_u64().expect("w") <= 24, "{panel}");
        let Some(targets) = panel["targets"].as_array() else {
            assert_eq!(panel["type"], "row");
            continue;
        };
        assert!(!targets.is_empty(), "{panel}");
        for target in targets {
            let expr = target["expr"].as_str().expect("an expression");
            check(&expr.replace("$__rate_interval", "5m"), &page);
            asked.extend(names(expr).into_iter().map(|name| {
                ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|s| name.strip_suffix(s))
                    .unwrap_or(name)
                    .to_owned()
            }));
        }
    }
    let told: BTreeSet<String> = page.families().map(str::to_owned).collect();
    let unseen: Vec<_> = told.difference(&asked).collect();
    assert!(unseen.is_empty(), "on no panel: {unseen:?}");
}

/// The table in docs/OPERATIONS.md has a line for each family, and no other.
#[test]
fn every_metric_is_documented() {
    let text = include_str!("../../../docs/OPERATIONS.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let documented: BTreeSet<&str> = rows.map(|(name, _)| name.split('{').next().unwrap_or(name)).collect();
    let documented: BTreeSet<&str> = documented.into_iter().filter(|name| !names(name).is_empty()).collect();
    let page = page(&metrics());
    let told: BTreeSet<&str> = page.families().collect();
    assert_eq!(documented, told);
}
