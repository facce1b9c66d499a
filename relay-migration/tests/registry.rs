//! The registry: everything that can happen to one migration, long random lives of many against a
//! model, and defects that must be noticed.
#![cfg(feature = "testing")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use relay_migration::registry::{
    Config, Done, Input, Listen, Name, Network, Owner, Refusal, Request, Side, SourceRequest, TargetRequest,
};
use relay_migration::testing::registry::explorer::{Budget, Scene, explore};
use relay_migration::testing::registry::rules::{Rule, Violation, at_rest, demand_that};
use relay_migration::testing::registry::world::{Mutant, World};
use relay_migration::{Backends, Channel, Key, PortMap, PortRange, SocketPath};

fn network(last: u8) -> Network {
    let address = IpAddr::from([10, 1, 1, last]);
    Network { bind: address, advertise: address }
}

fn key(text: &str) -> Key {
    text.parse().expect("key")
}

fn backends(json: &str) -> Backends {
    serde_json::from_str(json).expect("backends")
}

fn ports(json: &str) -> PortMap {
    json.parse().expect("ports")
}

const BACKENDS: [&str; 5] = [
    r#"{"0":"/a","49152":"/b"}"#,
    r#"{"49152":"/b2","0":"/a"}"#,
    r#"{"0":"/a"}"#,
    r#"{"0":"/a","49152":"/b","49153":"/c"}"#,
    "{}",
];
const PORTS: [&str; 4] = [
    r#"{"1000":0,"1001":49152}"#,
    r#"{"1001":0,"1000":49152}"#, // the same ports, the other way round
    r#"{"1000":0,"1001":49152,"1002":49153}"#,
    "{}",
];
const TARGETS: [&str; 2] = ["10.1.1.2", "fe80::1%eth1"];
const DIRS: [&str; 3] = ["/p/1", "/p/2", "/p/bad"];
const OWNERS: [Option<Owner>; 4] =
    [None, Some(Owner::QEMU), Some(Owner { uid: 0, gid: 0 }), Some(Owner { uid: 666, gid: 666 })];

fn set_target(name: &str, index: usize, lease: Option<u64>) -> Request {
    Request::SetTarget(TargetRequest {
        key: key(name),
        backends: backends(BACKENDS[index]),
        keep: PortMap::default(),
        lease: lease.map(Duration::from_secs),
    })
}

fn set_source(name: &str, (target, map, dir, owner): (usize, usize, usize, usize)) -> Request {
    Request::SetSource(SourceRequest {
        key: key(name),
        target: TARGETS[target].parse().expect("host"),
        ports: ports(PORTS[map]),
        base_dir: DIRS[dir].parse().expect("directory"),
        owner: OWNERS[owner],
        lease: None,
    })
}

fn world(range: Option<&str>) -> World {
    world_before(range, false)
}

fn world_before(range: Option<&str>, has_successor: bool) -> World {
    let range = range.map(|text| text.parse::<PortRange>().expect("range"));
    let mut world = World::new(Config { range, max: 4, has_successor, ..Config::new(network(1)) });
    world.bad_owner = OWNERS[3];
    // what a socket's path is trusted up to is its base directory
    world.bad_dir = Some(DIRS[2].to_owned());
    world
}

fn scenes() -> Vec<(&'static str, Scene, Vec<Request>)> {
    let budget = Budget { requests: 3, failures: 2, losses: 1, sessions: 0 };
    let delete = |side| Request::Delete(Name::new(side, key("k")));
    vec![
        (
            "a target on ports of the kernel's",
            Scene::new(world(None), Budget { failures: 1, ..budget }),
            vec![
                set_target("k", 0, None),
                set_target("k", 1, None),
                set_target("k", 2, None),
                delete(Side::Target),
            ],
        ),
        (
            "a target in a narrow range",
            Scene::new(world(Some("49200-49202")), budget),
            vec![set_target("k", 0, None), set_target("k", 3, None), delete(Side::Target)],
        ),
        (
            "a source",
            Scene::new(world(None), Budget { losses: 0, ..budget }),
            vec![
                set_source("k", (0, 0, 0, 1)),
                set_source("k", (1, 1, 0, 2)),
                set_source("k", (0, 0, 1, 1)),
                delete(Side::Source),
            ],
        ),
        (
            "a source whose listeners get lost",
            Scene::new(world(None), Budget { losses: 2, failures: 1, requests: 2, sessions: 1 }),
            vec![set_source("k", (0, 0, 0, 1)), set_source("k", (1, 1, 0, 2))],
        ),
        (
            "a shutdown before a successor",
            Scene::new(world_before(None, true), Budget { requests: 2, failures: 1, losses: 1, sessions: 2 }),
            vec![set_target("k", 2, None), Request::Shutdown { until: None }],
        ),
        (
            "leases, sessions, shutdown",
            Scene::new(world(None), Budget { requests: 3, failures: 1, losses: 0, sessions: 2 }),
            vec![
                set_target("k", 2, Some(60)),
                Request::Renew(Name::new(Side::Target, key("k"))),
                Request::Shutdown { until: Some(relay_core::Instant::from_nanos(200_000_000_000)) },
            ],
        ),
    ]
}

#[test]
fn whatever_happens_to_a_migration_keeps_every_rule() {
    for (what, scene, requests) in scenes() {
        match explore(scene, &requests) {
            Ok(states) => println!("{what}: {states} states"),
            Err(violation) => panic!("{what}: {violation}"),
        }
    }
}

#[test]
fn every_mutant_is_noticed() {
    for mutant in [
        Mutant::LeaksAfterFailure,
        Mutant::ClosesFormerFirst,
        Mutant::HidesLoss,
        Mutant::AnswersTwice,
        Mutant::SwallowsAnswer,
        Mutant::ForgetsSessionEnd,
        Mutant::RoutesNothing,
    ] {
        // the smallest first
        let found = scenes().into_iter().rev().find_map(|(_, mut scene, requests)| {
            scene.world.mutant = mutant;
            scene.world.bad_owner = OWNERS[2];
            explore(scene, &requests).err()
        });
        let violation = found.unwrap_or_else(|| panic!("{mutant:?} passes"));
        println!("{mutant:?}: {}", violation.lines().next().unwrap_or_default());
    }
}

/// What is asked, one thing at a time, each done before the next.
#[derive(Clone, Debug)]
enum Op {
    Target(usize, usize, Option<u64>),
    Source(usize, (usize, usize, usize, usize)),
    Delete(Side, usize),
    Renew(Side, usize),
    Foreign(u16),
    Network(u8),
    Session(usize),
    EndSession,
    Lose(usize),
    Pass(u64),
    Shutdown,
}

const KEYS: [&str; 3] = ["a", "b", "c"];
const RANGE: std::ops::RangeInclusive<u16> = 49200..=49205;

fn op() -> impl Strategy<Value = Op> {
    let side = || prop_oneof![Just(Side::Target), Just(Side::Source)];
    let source = (0..2_usize, 0..4_usize, 0..3_usize, 0..4_usize);
    prop_oneof![
        16 => (0..3_usize, 0..5_usize, prop::option::of(1..100_u64)).prop_map(|(k, b, l)| Op::Target(k, b, l)),
        16 => (0..3_usize, source).prop_map(|(k, s)| Op::Source(k, s)),
        6 => (side(), 0..3_usize).prop_map(|(s, k)| Op::Delete(s, k)),
        4 => (side(), 0..3_usize).prop_map(|(s, k)| Op::Renew(s, k)),
        3 => RANGE.prop_map(Op::Foreign),
        2 => (1..3_u8).prop_map(Op::Network),
        4 => (0..6_usize).prop_map(Op::Session),
        4 => Just(Op::EndSession),
        2 => (0..6_usize).prop_map(Op::Lose),
        6 => (1..80_u64).prop_map(Op::Pass),
        1 => Just(Op::Shutdown),
    ]
}

/// What is in force, told a second time.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Held {
    /// Without its lease.
    request: Request,
    /// Length and end, in seconds.
    lease: Option<(u64, u64)>,
}

/// The registry as formulas over what was asked and what the kernel has.
struct Model {
    held: BTreeMap<Name, Held>,
    sessions: Vec<Name>,
    network: Network,
    shutting_down: bool,
    has_successor: bool,
    now_s: u64,
}

fn essence(request: &Request) -> Request {
    match request.clone() {
        Request::SetTarget(r) => Request::SetTarget(TargetRequest { lease: None, ..r }),
        Request::SetSource(r) => Request::SetSource(SourceRequest { lease: None, ..r }),
        other @ (Request::Renew(_) | Request::Delete(_) | Request::Shutdown { .. }) => other,
    }
}

impl Model {
    fn is_in_force(&self, world: &World, name: &Name, request: &Request) -> bool {
        let asked = self.held.get(name).is_some_and(|held| held.request == essence(request));
        let here = world.sockets_of(name).values().all(|socket| match socket.listen {
            Listen::Tcp { address, .. } => address == self.network.bind,
            Listen::Unix { .. } => true,
        });
        asked && here && world.sockets_of(name).len() == channels(request).len()
    }

    /// Why the request must be refused, by the facts.
    fn refusal(&self, world: &World, name: &Name, request: &Request) -> Option<&'static str> {
        if self.shutting_down {
            return Some("unable to process new migration connections during virt-handler shutdown");
        }
        if channels(request).is_empty() {
            return Some(if name.side == Side::Target {
                "there are no backends"
            } else {
                "there are no ports"
            });
        }
        if !self.held.contains_key(name) && self.held.len() >= 4 {
            return Some("there are 4 migrations already");
        }
        if self.is_in_force(world, name, request) {
            return None;
        }
        match request {
            Request::SetTarget(r) => {
                self.lacks_ports(world, name, r).then_some("no port of 49200-49205 is free")
            }
            Request::SetSource(r) => {
                let known = world.sockets_of(name);
                let fails = |channel: &Channel| {
                    let path = SocketPath::of_source(&r.base_dir, &r.key, *channel);
                    let kept = known.get(channel).and_then(|s| s.file()).filter(|(held, _)| **held == path);
                    let bad_owner = r.owner == OWNERS[3];
                    match kept {
                        Some((_, is)) => bad_owner && is != r.owner,
                        None => bad_owner || r.base_dir.as_str() == DIRS[2],
                    }
                };
                channels(request).iter().any(fails).then_some("channel")
            }
            Request::Renew(_) | Request::Delete(_) | Request::Shutdown { .. } => None,
        }
    }

    fn lacks_ports(&self, world: &World, name: &Name, request: &TargetRequest) -> bool {
        let known = world.sockets_of(name);
        let is_kept = |channel: &Channel| {
            known.get(channel).is_some_and(|socket| match socket.listen {
                // at another address the port can be had again, unless somebody else has it there
                Listen::Tcp { address, port } => {
                    address == self.network.bind || !world.foreign.contains(&port)
                }
                Listen::Unix { .. } => false,
            })
        };
        let new = request.backends.iter().filter(|(channel, _)| !is_kept(channel)).count();
        let ours: Vec<_> = world.sockets.values().filter_map(|socket| socket.port()).collect();
        new > RANGE.filter(|port| !ours.contains(port) && !world.foreign.contains(port)).count()
    }

    fn expire(&mut self) {
        let (now, sessions) = (self.now_s, self.sessions.clone());
        let is_over = |held: &Held| held.lease.is_some_and(|(_, until)| until <= now);
        self.held.retain(|name, held| sessions.contains(name) || !is_over(held));
        if self.shutting_down && self.has_successor && sessions.is_empty() {
            self.held.clear();
        }
    }
}

fn channels(request: &Request) -> Vec<Channel> {
    match request {
        Request::SetTarget(r) => r.backends.iter().map(|(channel, _)| channel).collect(),
        Request::SetSource(r) => r.ports.iter().map(|(_, channel)| channel).collect(),
        Request::Renew(_) | Request::Delete(_) | Request::Shutdown { .. } => vec![],
    }
}

/// Asks, and compares what comes of it with what the model says.
fn ask(
    model: &mut Model,
    world: &mut World,
    name: &Name,
    request: &Request,
    lease: Option<u64>,
) -> Result<(), Violation> {
    let before = world.clone();
    let expected = model.refusal(world, name, request);
    let was_in_force = model.is_in_force(world, name, request);
    let result = world.request(request.clone());
    match (&result, expected) {
        (Err(refusal), Some(says)) => {
            let told = refusal.to_string();
            demand_that(Rule::R3, told.contains(says), || format!("{told:?} instead of {says:?}"))?;
            demand_that(Rule::R3, world.sockets == before.sockets, || {
                "a refusal changed what listens".into()
            })?;
            let views =
                |w: &World| (w.registry.names().cloned().collect::<Vec<_>>(), w.registry.next_timeout());
            demand_that(Rule::R3, views(world) == views(&before), || {
                "a refusal changed what is in force".into()
            })?;
            return demand_that(Rule::R7, !model.shutting_down || *refusal == Refusal::ShuttingDown, || told);
        }
        (Ok(_), None) => {}
        _ => {
            return demand_that(Rule::R3, false, || {
                format!("{request:?}: {result:?}, by the model {expected:?}")
            });
        }
    }
    demand_that(Rule::R10, !was_in_force || world.sockets == before.sockets, || {
        "the same set was no no-op".into()
    })?;
    let lease = lease.map(|ttl| (ttl, model.now_s + ttl));
    model.held.insert(name.clone(), Held { request: essence(request), lease });
    for (channel, socket) in before.sockets_of(name) {
        let now = world.sockets_of(name).get(&channel).and_then(|socket| socket.port());
        let may = channels(request).contains(&channel)
            && socket.port().is_some_and(|p| !world.foreign.contains(&p));
        let moved = before.registry != world.registry && socket.port() != now;
        demand_that(Rule::R10, !(may && moved), || format!("{name}: {:?} became {now:?}", socket.port()))?;
    }
    check_answer(model, world, name, request, result)
}

/// What was answered is what was asked for.
fn check_answer(
    model: &Model,
    world: &World,
    name: &Name,
    request: &Request,
    result: Result<Done, Refusal>,
) -> Result<(), Violation> {
    match (result, request) {
        (Ok(Done::Target { ports, address }), Request::SetTarget(r)) => {
            let mut is: Vec<_> = ports.iter().map(|(_, channel)| channel).collect();
            is.sort();
            demand_that(Rule::R1, is == channels(request), || format!("{ports}"))?;
            demand_that(Rule::R1, address == model.network.advertise, || address.to_string())?;
            let view = world.registry.target(&r.key, world.now);
            demand_that(
                Rule::R2,
                view.is_some_and(|view| view.backends == r.backends && view.problem.is_none()),
                || "view".into(),
            )?;
            demand_that(Rule::R10, ports.iter().all(|(port, _)| RANGE.contains(&port)), || ports.to_string())
        }
        (Ok(Done::Source { files }), Request::SetSource(r)) => {
            let expected: Vec<_> = channels(request)
                .into_iter()
                .map(|c| (c, SocketPath::of_source(&r.base_dir, &r.key, c)))
                .collect();
            demand_that(Rule::R1, files == expected, || format!("{files:?}"))?;
            let owned = world
                .sockets_of(name)
                .values()
                .all(|s| r.owner.is_none() || s.file().is_some_and(|f| f.1 == r.owner));
            demand_that(Rule::R2, owned, || "a file has another owner".into())
        }
        (other, _) => demand_that(Rule::R4, false, || format!("{request:?} was answered {other:?}")),
    }
}

fn apply(model: &mut Model, world: &mut World, op: &Op) -> Result<(), Violation> {
    let name = |side: Side, index: usize| Name::new(side, key(KEYS[index]));
    let nth = |world: &World, index: usize| world.sockets.keys().copied().nth(index);
    match *op {
        Op::Target(k, index, lease) => {
            ask(model, world, &name(Side::Target, k), &set_target(KEYS[k], index, lease), lease)?;
        }
        Op::Source(k, source) => {
            ask(model, world, &name(Side::Source, k), &set_source(KEYS[k], source), None)?
        }
        Op::Delete(side, k) => {
            let existed = model.held.remove(&name(side, k)).is_some();
            let done = world.request(Request::Delete(name(side, k)));
            demand_that(Rule::R4, done == Ok(Done::Deleted { existed }), || format!("{done:?}"))?;
        }
        Op::Renew(side, k) => {
            let now = model.now_s;
            let held = model.held.get_mut(&name(side, k));
            let known = held.is_some();
            if let Some(Held { lease: Some((ttl, until)), .. }) = held {
                *until = now + *ttl;
            }
            let done = world.request(Request::Renew(name(side, k)));
            demand_that(Rule::R8, done.is_ok() == known, || format!("{done:?}"))?;
        }
        Op::Foreign(port) => {
            if !world.foreign.remove(&port) && !world.sockets.values().any(|s| s.port() == Some(port)) {
                world.foreign.insert(port);
            }
        }
        Op::Network(last) => {
            model.network = network(last);
            let before = world.sockets.clone();
            world.tell(Input::Network(network(last)));
            world.settle();
            for former in before.values().filter(|socket| socket.name.side == Side::Target) {
                let now =
                    world.sockets_of(&former.name).get(&former.channel).and_then(|socket| socket.port());
                let can = former.port().is_some_and(|port| !world.foreign.contains(&port));
                demand_that(Rule::R10, !can || now == former.port(), || {
                    format!("{former:?} moved to {now:?}")
                })?;
            }
        }
        Op::Session(index) => {
            if let Some(id) = nth(world, index) {
                model.sessions.push(world.sockets[&id].name.clone());
                world.open_session(id);
            }
        }
        Op::EndSession => {
            if !model.sessions.is_empty() {
                model.sessions.remove(0);
            }
            world.close_session();
        }
        Op::Lose(index) => {
            if let Some(id) = nth(world, index) {
                let before = world.sockets[&id].clone();
                world.lose(id);
                world.settle();
                let again = world
                    .sockets_of(&before.name)
                    .get(&before.channel)
                    .is_some_and(|s| s.port() == before.port());
                let can = before.port().is_none_or(|port| !world.foreign.contains(&port));
                demand_that(Rule::R10, again || !can, || format!("{before:?} did not come back"))?;
            }
        }
        Op::Pass(seconds) => {
            model.now_s += seconds;
            world.pass(Duration::from_secs(seconds));
            world.settle();
        }
        Op::Shutdown => {
            model.shutting_down = true;
            let done = world.request(Request::Shutdown { until: None });
            demand_that(Rule::R7, matches!(done, Ok(Done::ShuttingDown(_))), || format!("{done:?}"))?;
        }
    }
    compare(model, world)
}

/// Whatever happened, the world at rest is what the model says.
fn compare(model: &mut Model, world: &mut World) -> Result<(), Violation> {
    // timers are looked at whenever something happened
    world.pass(Duration::ZERO);
    world.settle();
    model.expire();
    at_rest(world)?;
    let (is, ought): (Vec<_>, Vec<_>) = (world.registry.names().collect(), model.held.keys().collect());
    demand_that(Rule::R8, is == ought, || format!("in force {is:?}, by the model {ought:?}"))?;
    let count = world.registry.open_count();
    demand_that(Rule::R9, count.migrations == model.held.len(), || format!("{count:?}"))?;
    let empty = model.shutting_down && model.held.is_empty() && model.sessions.is_empty();
    demand_that(Rule::R7, world.registry.is_shut_down() == empty, || "shut down, or not".into())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn long_lives_agree_with_the_model(ops in prop::collection::vec(op(), 1..60), has_successor in any::<bool>()) {
        let mut world = world_before(Some("49200-49205"), has_successor);
        let mut model = Model {
            held: BTreeMap::new(),
            sessions: vec![],
            network: network(1),
            shutting_down: false,
            has_successor,
            now_s: 0,
        };
        for op in &ops {
            if let Err(violation) = apply(&mut model, &mut world, op) {
                prop_assert!(false, "{violation}\n  at {op:?}");
            }
        }
    }
}
