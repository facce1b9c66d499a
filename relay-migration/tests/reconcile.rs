//! From objects to listeners and back to the status that must be published: two nodes, one migration.
#![cfg(feature = "testing")]

mod common;

use std::net::IpAddr;
use std::time::Duration;

use common::merge;
use relay_core::Instant;
use relay_migration::reconcile::{Config, Pod, Publication, Reconciler, Step};
use relay_migration::registry::{self, Done, Event, Input, Name, Network, Refusal, Request, Side, Ticket};
use relay_migration::roles::RuleSet;
use relay_migration::testing::registry::rules::at_rest;
use relay_migration::testing::registry::world::World;
use relay_migration::vmi::{Seen, read};
use relay_migration::{BaseDir, Channel, Key};
use serde_json::{Value, json};

const UID: &str = "d62c2a6f-d8f3-4cc5-a22e-4cffb7d5eac1";

struct Node {
    reconciler: Reconciler,
    world: World,
    notes: Vec<String>,
    no_pod: bool,
}

impl Node {
    fn new(name: &str, rules: RuleSet, last: u8) -> Self {
        let address = IpAddr::from([10, 1, 1, last]);
        let config = Config { rules, ..Config::new(name).expect("name") };
        Self {
            reconciler: Reconciler::new(config),
            world: World::new(registry::Config::new(Network { bind: address, advertise: address })),
            notes: vec![],
            no_pod: false,
        }
    }

    /// Sees an object, does what it calls for, and gives what is to be published.
    fn see(&mut self, object: &Value) -> Option<Publication> {
        let seen = match read(object.to_string().as_bytes()) {
            Ok(seen) => seen,
            Err(error) => {
                self.notes.push(error.to_string());
                return None;
            }
        };
        self.observe(seen)
    }

    fn observe(&mut self, seen: Seen) -> Option<Publication> {
        let no_pod = self.no_pod;
        let mut find = |pod: &Pod<'_>| -> Option<BaseDir> {
            let pid = pod.uid.map_or(1, str::len);
            (!no_pod).then(|| format!("/proc/{pid}/root/var/run").parse().expect("directory"))
        };
        let steps = self.reconciler.observe(seen, &mut find);
        self.take(steps)
    }

    fn take(&mut self, steps: Vec<Step>) -> Option<Publication> {
        for step in steps {
            let Step::Request(_, request) = step else {
                self.notes.push(step.to_string());
                continue;
            };
            let name = match &request {
                Request::SetTarget(r) => Name::new(Side::Target, r.key.clone()),
                Request::SetSource(r) => Name::new(Side::Source, r.key.clone()),
                Request::Delete(name) | Request::Renew(name) => name.clone(),
                Request::Shutdown { .. } => continue,
            };
            match self.world.request(request) {
                Ok(_) => self.reconciler.succeeded(&name),
                Err(_) => self.reconciler.failed(self.world.now, &name),
            }
        }
        at_rest(&self.world).expect("rules");
        let names: Vec<_> = self.world.registry.names().cloned().collect();
        names.iter().find_map(|name| self.reconciler.publish(name, &self.world.registry, self.world.now))
    }

    fn listens(&self) -> usize {
        self.world.sockets.len()
    }
}

fn object(state: Value) -> Value {
    json!({
        "kind": "VirtualMachineInstance",
        "metadata": {
            "namespace": "default", "name": "vm", "uid": UID,
            "labels": { "kubevirt.io/migrationTargetNodeName": "node02" }
        },
        "status": {
            "phase": "Running", "nodeName": "node01", "migrationTransport": "Unix",
            "migrationMethod": "BlockMigration",
            "activePods": { "pod-a": "node01", "pod-bb": "node02" },
            "migrationState": state
        }
    })
}

fn begun() -> Value {
    json!({ "migrationUid": "m1", "sourceNode": "node01", "targetNode": "node02" })
}

#[test]
fn a_whole_migration_by_both_rule_sets() {
    for rules in [RuleSet::Classic, RuleSet::Current] {
        let (mut source, mut target) = (Node::new("node01", rules, 1), Node::new("node02", rules, 2));
        let mut vm = object(begun());
        assert_eq!(source.see(&vm), None);
        let publication = target.see(&vm).expect("to be published");
        assert_eq!((source.listens(), target.listens()), (0, 3));
        assert_eq!(publication.address.to_string(), "10.1.1.2");
        assert!(
            publication.event_message().starts_with("Migration Target is listening at 10.1.1.2, on ports: ")
        );

        merge(&mut vm, &publication.patch());
        assert_eq!(target.see(&vm), None, "published");
        assert_eq!(source.see(&vm), None);
        assert_eq!((source.listens(), target.listens()), (3, 3));
        let key: Key = UID.parse().expect("key");
        let socket = source.world.sockets_of(&Name::new(Side::Source, key.clone()))[&Channel::Memory].clone();
        let port = publication.ports.port(Channel::Memory).expect("port");
        assert_eq!(socket.dial.to_string(), format!("10.1.1.2:{port}"));
        let file = format!("/proc/5/root/var/run/kubevirt/migrationproxy/{UID}-49152-source.sock");
        assert_eq!(socket.listen.to_string(), file);

        // the object names its new node before all is done: nothing is torn down yet
        vm["status"]["nodeName"] = json!("node02");
        source.see(&vm);
        target.see(&vm);
        assert_eq!((source.listens(), target.listens()), (3, 3));

        merge(
            &mut vm,
            &json!({ "status": { "migrationState": { "completed": true, "endTimestamp": "t" } } }),
        );
        source.see(&vm);
        target.see(&vm);
        assert_eq!((source.listens(), target.listens()), (0, 0));
        assert!(source.notes.iter().all(|note| note.contains("waits")), "{:?}", source.notes);
    }
}

/// Upstream looks at the address only, and leaves the former ports in the status.
#[test]
fn after_a_restart_the_ports_are_the_same_or_published_anew() {
    let mut vm = object(begun());
    let first = Node::new("node02", RuleSet::Current, 2).see(&vm).expect("published");
    merge(&mut vm, &first.patch());
    // all of them are free: nothing changes
    let mut again = Node::new("node02", RuleSet::Current, 2);
    assert_eq!(again.see(&vm), None);
    assert_eq!(again.listens(), 3);
    // one is not: the status has the new one afterwards, and not the former
    let lost = first.ports.port(Channel::Memory).expect("port");
    let mut other = Node::new("node02", RuleSet::Current, 2);
    other.world.foreign.insert(lost);
    let second = other.see(&vm).expect("published again");
    merge(&mut vm, &second.patch());
    assert_eq!(other.see(&vm), None);
    let ports = &vm["status"]["migrationState"]["targetDirectMigrationNodePorts"];
    assert_eq!(ports.as_object().expect("object").len(), 3);
    assert_eq!(ports.get(lost.to_string()), None);
    let line: Value = serde_json::from_str(&second.to_json()).expect("one line of JSON");
    assert_eq!(line["targetDirectMigrationNodePorts"], *ports);
}

#[test]
fn objects_that_vanish_take_their_listeners_along() {
    let mut node = Node::new("node02", RuleSet::Current, 2);
    let vm = object(begun());
    for gone in [json!({ "type": "DELETED", "object": vm }), json!({ "kind": "List", "items": [] }), {
        let mut deleting = vm.clone();
        deleting["metadata"]["deletionTimestamp"] = json!("t");
        deleting
    }] {
        node.see(&vm);
        assert_eq!(node.listens(), 3);
        node.see(&gone);
        assert_eq!(node.listens(), 0, "{gone}");
    }
    node.see(&vm);
    // one of that name that can't be read may be anything
    node.see(&json!({ "kind": "List", "items": [{ "metadata": { "namespace": "default", "name": "vm" } }] }));
    assert_eq!(node.listens(), 3, "untouched");
    node.see(&json!({ "metadata": { "namespace": "default", "name": "vm", "uid": UID }, "status": 7 }));
    assert_eq!(node.listens(), 3, "untouched");
    // another object of the same name
    let mut other = vm.clone();
    other["metadata"]["uid"] = json!("another");
    node.see(&other);
    let keys: Vec<_> = node.world.registry.names().map(|name| name.key.to_string()).collect();
    assert_eq!(keys, ["another"]);
}

/// The key may come from a field that is cleared at the end; what was begun under it ends under it.
#[test]
fn listeners_of_a_decentralized_migration_end_under_the_key_they_began_with() {
    let mut node = Node::new("node02", RuleSet::Current, 2);
    let mut state = begun();
    state["sourceState"] = json!({ "virtualMachineInstanceUID": "source-uid", "syncAddress": "x" });
    state["targetState"] = json!({ "virtualMachineInstanceUID": UID });
    let mut vm = object(state);
    let publication = node.see(&vm).expect("published");
    assert_eq!(publication.patch()["status"]["migrationState"]["targetState"]["nodeAddress"], "10.1.1.2");
    assert_eq!(node.world.registry.names().next().expect("one").key.as_str(), "source-uid");
    // another object can't take them by naming the same source
    let mut thief = vm.clone();
    thief["metadata"]["name"] = json!("thief");
    thief["metadata"]["uid"] = json!("thief-uid");
    node.see(&thief);
    assert!(node.notes.last().expect("note").contains("belongs to 'default/vm'"), "{:?}", node.notes);
    assert_eq!(node.listens(), 3);

    let done = json!({ "completed": true, "endTimestamp": "t", "sourceState": null, "targetState": null });
    merge(&mut vm, &json!({ "status": { "migrationState": done } }));
    node.see(&vm);
    assert_eq!(node.listens(), 0);
}

#[test]
fn the_next_migration_the_other_way_ends_what_is_left_of_the_last() {
    let mut node = Node::new("node02", RuleSet::Current, 2);
    let mut vm = object(begun());
    node.see(&vm);
    // never said to be over; the object moves on to node03 with another migration
    vm["metadata"]["labels"]["kubevirt.io/migrationTargetNodeName"] = json!("node03");
    vm["status"]["migrationState"] =
        json!({ "migrationUid": "m2", "sourceNode": "node01", "targetNode": "node03" });
    node.see(&vm);
    assert_eq!(node.listens(), 0);
}

#[test]
fn what_was_refused_is_asked_again_later_and_later() {
    let mut node = Node::new("node02", RuleSet::Current, 2);
    node.world.bad_address = true;
    node.see(&object(begun()));
    assert_eq!(node.listens(), 0);
    let mut pauses = vec![];
    for _ in 0..7 {
        let at = node.reconciler.next_timeout().expect("a retry");
        pauses.push(at.since(node.world.now).as_secs());
        assert!(node.reconciler.handle_timeout(node.world.now).is_empty(), "early");
        node.world.now = at;
        let steps = node.reconciler.handle_timeout(at);
        node.take(steps);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
    node.world.bad_address = false;
    node.world.now = node.reconciler.next_timeout().expect("a retry");
    let steps = node.reconciler.handle_timeout(node.world.now);
    assert!(node.take(steps).is_some(), "listens, and is to be published");
    assert_eq!((node.listens(), node.reconciler.next_timeout()), (3, None));
}

#[test]
fn a_pod_that_is_not_there_yet_is_waited_for_and_one_that_goes_changes_nothing() {
    let mut node = Node::new("node02", RuleSet::Current, 2);
    node.no_pod = true;
    let vm = object(begun());
    node.see(&vm);
    assert_eq!(node.listens(), 0);
    assert!(node.notes.last().expect("note").contains("pod has not been found"), "{:?}", node.notes);
    node.no_pod = false;
    node.see(&vm);
    assert_eq!(node.listens(), 3);
    node.no_pod = true;
    node.see(&vm);
    assert_eq!(node.listens(), 3);
}

#[test]
fn a_manager_that_dies_does_not_end_a_migration_under_way() {
    let mut node = Node::new("node02", RuleSet::Current, 2);
    let request = |lease| {
        Request::SetTarget(registry::TargetRequest {
            key: "k".parse().expect("key"),
            backends: serde_json::from_str(r#"{"0":"/q"}"#).expect("backends"),
            keep: Default::default(),
            lease: Some(Duration::from_secs(lease)),
        })
    };
    assert!(matches!(node.world.request(request(60)), Ok(Done::Target { .. })));
    let id = *node.world.sockets.keys().next().expect("socket");
    node.world.pass(Duration::from_secs(59));
    node.world.open_session(id);
    assert_eq!(node.world.pass(Duration::from_secs(3600)), []);
    assert_eq!(node.listens(), 1);
    node.world.close_session();
    let events = node.world.pass(Duration::ZERO);
    assert!(matches!(&events[..], [Event::Expired(_)]), "{events:?}");
    node.world.settle();
    assert_eq!(node.listens(), 0);
    let again = node.world.registry.handle(
        Instant::ZERO,
        Input::Request(Ticket(99), Request::Renew(Name::new(Side::Target, "k".parse().expect("key")))),
    );
    assert!(matches!(&again[..], [Event::Answered { result: Err(Refusal::Unknown(_)), .. }]));
}
