//! Roles: the rules of both generations, side by side, on the status of a real migration and on
//! everything around it.
#![cfg(feature = "testing")]

use proptest::prelude::*;
use relay_migration::roles::{Roles, RuleSet, SourceTask, TargetTask, Wish, Wishes};
use relay_migration::testing::fuzz;
use relay_migration::vmi::{Seen, Vmi, read};
use serde_json::{Value, json};

const UID: &str = "d62c2a6f-d8f3-4cc5-a22e-4cffb7d5eac1";
const NEITHER: Roles = Roles::NEITHER;
const TARGET: Roles = Roles { target: true, source: false };
const SOURCE: Roles = Roles { target: false, source: true };

/// A virtual machine that runs on node01, with nothing to do.
fn object() -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": { "namespace": "default", "name": "vmi-migratable", "uid": UID, "labels": null },
        "spec": { "domain": { "devices": {} } },
        "status": { "phase": "Running", "nodeName": "node01", "migrationTransport": "Unix" }
    })
}

/// The status that a real migration from node01 to node02 had on its way.
fn migration() -> Value {
    json!({
        "migrationUid": "m1",
        "sourceNode": "node01",
        "targetNode": "node02",
        "targetPod": "virt-launcher-vmi-migratable-llcq5",
        "targetNodeAddress": "10.1.1.1",
        "targetDirectMigrationNodePorts": { "32899": 0, "39497": 49153, "42691": 49152 },
        "targetNodeDomainDetected": true
    })
}

/// The object with that label and status; `change` has what is different, `null` for what is not there.
fn vmi(label: Option<&str>, state: Value, change: &[(&str, Value)]) -> Vmi {
    let mut object = object();
    if let Some(label) = label {
        object["metadata"]["labels"] = json!({ "kubevirt.io/migrationTargetNodeName": label, "app": "x" });
    }
    object["status"]["migrationState"] = state;
    for (pointer, value) in change {
        let (parent, field) = pointer.rsplit_once('/').expect("pointer");
        object.pointer_mut(parent).expect("parent")[field] = value.clone();
    }
    match read(object.to_string().as_bytes()) {
        Ok(Seen::Present(vmi)) => *vmi,
        other => panic!("{other:?}"),
    }
}

fn roles(vmi: &Vmi, node: &str) -> (Roles, Roles) {
    (RuleSet::Classic.roles(vmi, node), RuleSet::Current.roles(vmi, node))
}

fn wishes(rules: RuleSet, vmi: &Vmi, node: &str) -> Wishes {
    rules.wishes(vmi, node).expect("wishes")
}

const STATE: &str = "/status/migrationState";

#[test]
fn a_migration_from_beginning_to_end_on_both_nodes() {
    // (what, object, node01 by classic and current, node02 by classic and current)
    let state = |fields: &[(&str, Value)]| {
        let mut state = migration();
        for (field, value) in fields {
            state[*field] = value.clone();
        }
        state
    };
    let unpublished = [("targetNodeAddress", Value::Null), ("targetDirectMigrationNodePorts", Value::Null)];
    let arrived = [("/status/nodeName", json!("node02"))];
    let ended = [("endTimestamp", json!("2022-05-30T18:30:24Z")), ("completed", json!(true))];
    let table = [
        ("nothing", vmi(None, Value::Null, &[]), (NEITHER, NEITHER), (NEITHER, NEITHER)),
        (
            "handed over to the target's node",
            vmi(Some("node02"), state(&unpublished), &[]),
            (NEITHER, SOURCE), // current waits for the ports instead
            (TARGET, TARGET),
        ),
        (
            "the target has published",
            vmi(Some("node02"), migration(), &[]),
            (SOURCE, SOURCE),
            (TARGET, TARGET),
        ),
        (
            "the object names its new node, and source and target are not done yet",
            vmi(Some("node02"), migration(), &arrived),
            (SOURCE, NEITHER),
            (NEITHER, TARGET),
        ),
        (
            "completed, as the status in the walk through KubeVirt's network shows it",
            vmi(Some("node02"), state(&ended), &arrived),
            (NEITHER, NEITHER),
            (NEITHER, TARGET), // its cleanup
        ),
        ("the label is gone", vmi(None, state(&ended), &arrived), (NEITHER, NEITHER), (NEITHER, NEITHER)),
    ];
    for (what, vmi, node01, node02) in table {
        assert_eq!(roles(&vmi, "node01"), node01, "{what}, node01");
        assert_eq!(roles(&vmi, "node02"), node02, "{what}, node02");
        assert_eq!(roles(&vmi, "node03"), (NEITHER, NEITHER), "{what}, node03");
        assert_eq!(roles(&vmi, ""), (NEITHER, NEITHER), "{what}, no name");
    }
}

#[test]
fn what_is_to_be_done_on_the_way() {
    let table = [
        ("published", vmi(Some("node02"), migration(), &[])),
        ("arrived", vmi(Some("node02"), migration(), &[("/status/nodeName", json!("node02"))])),
    ];
    for rules in [RuleSet::Classic, RuleSet::Current] {
        for (what, vmi) in &table {
            let (source, target) = (wishes(rules, vmi, "node01"), wishes(rules, vmi, "node02"));
            assert!(matches!(source.source, Wish::Start(_) | Wish::Keep), "{what}: {source:?}");
            assert!(matches!(target.target, Wish::Start(_) | Wish::Keep), "{what}: {target:?}");
            assert_eq!((&source.target, &target.source), (&Wish::Stop, &Wish::Stop), "{what}");
        }
        let vmi = &table[0].1;
        let ports = r#"{"32899":0,"39497":49153,"42691":49152}"#.parse().expect("ports");
        let key = UID.parse().expect("key");
        let source = SourceTask { key, target: "10.1.1.1".parse().expect("host"), ports };
        assert_eq!(wishes(rules, vmi, "node01").source, Wish::Start(source.clone()));
        let target = TargetTask { key: source.key, copies_disks: false, published: source.ports };
        assert_eq!(wishes(rules, vmi, "node02").target, Wish::Start(target));
    }
}

#[test]
fn when_it_is_over_everything_stops() {
    let end = json!("2022-05-30T18:30:24Z");
    for (field, with_end, classic, current) in [
        ("completed", true, true, true),
        ("failed", true, true, true),
        ("completed", false, true, false), // today an end time is wanted as well
        ("failed", false, true, false),
        ("abortRequested", true, false, false), // an abort is not over before the source says so
    ] {
        let mut state = migration();
        state[field] = json!(true);
        if with_end {
            state["endTimestamp"] = end.clone();
        }
        let vmi = vmi(Some("node02"), state, &[]);
        for (rules, over) in [(RuleSet::Classic, classic), (RuleSet::Current, current)] {
            let stopped = [
                wishes(rules, &vmi, "node01").source == Wish::Stop,
                wishes(rules, &vmi, "node02").target == Wish::Stop,
            ];
            assert_eq!(stopped, [over; 2], "{rules} {field} {with_end}");
        }
    }
    for change in [
        ("/status/phase", json!("Failed")),
        ("/status/phase", json!("Succeeded")),
        ("/metadata/deletionTimestamp", json!("2022-05-30T18:30:24Z")),
    ] {
        let vmi = vmi(Some("node02"), migration(), &[change]);
        for rules in [RuleSet::Classic, RuleSet::Current] {
            assert_eq!(wishes(rules, &vmi, "node01").source, Wish::Stop);
            assert_eq!(wishes(rules, &vmi, "node02").target, Wish::Stop);
        }
    }
}

#[test]
fn what_is_missing_is_waited_for() {
    for (field, says) in
        [("targetDirectMigrationNodePorts", "its ports"), ("targetNodeAddress", "its address")]
    {
        let vmi = vmi(Some("node02"), migration(), &[(&format!("{STATE}/{field}"), Value::Null)]);
        let wish = wishes(RuleSet::Current, &vmi, "node01").source;
        assert!(matches!(wish, Wish::Wait(what) if what.contains(says)), "{wish:?}");
    }
}

#[test]
fn disks_are_copied_if_either_field_says_so() {
    for (field, value, copies) in [
        ("migrationMethod", json!("BlockMigration"), true),
        ("migrationMethod", json!("LiveMigration"), false),
        ("migratedVolumes", json!([{ "volumeName": "x" }]), true),
        ("migratedVolumes", json!([]), false),
        ("migratedVolumes", Value::Null, false),
    ] {
        let vmi = vmi(Some("node02"), migration(), &[(&format!("/status/{field}"), value)]);
        let wish = wishes(RuleSet::Current, &vmi, "node02").target;
        assert!(matches!(&wish, Wish::Start(task) if task.copies_disks == copies), "{wish:?}");
    }
}

/// Where the two sides are different objects, QEMU's sockets are named after the source's.
#[test]
fn the_key_of_a_decentralized_target_is_the_sources() {
    let sides = |source: Value, target: Value| {
        let mut state = migration();
        state["sourceState"] = source;
        state["targetState"] = target;
        state
    };
    let other = json!({ "virtualMachineInstanceUID": "source-uid", "syncAddress": "10.0.0.1:9185" });
    let own = json!({ "virtualMachineInstanceUID": UID });
    let tcp = ("/status/migrationTransport", Value::Null);
    for (what, vmi, key) in [
        ("decentralized", vmi(Some("node02"), sides(other.clone(), own.clone()), &[]), "source-uid"),
        ("over TCP in the pod", vmi(Some("node02"), sides(other.clone(), own.clone()), &[tcp]), UID),
        ("no source UID", vmi(Some("node02"), sides(json!({ "syncAddress": "x" }), own.clone()), &[]), UID),
        ("regular, with both states", vmi(Some("node02"), sides(own.clone(), own.clone()), &[]), UID),
        ("no states", vmi(Some("node02"), migration(), &[]), UID),
        ("no migration", vmi(Some("node02"), Value::Null, &[]), UID),
    ] {
        assert_eq!(RuleSet::Current.target_key(&vmi), key, "{what}");
        assert_eq!(RuleSet::Classic.target_key(&vmi), UID, "{what}");
    }
    // the source's own object: its node is where the source is, wherever it says it runs
    let source =
        vmi(None, sides(own, json!({ "syncAddress": "x" })), &[("/status/nodeName", json!("node07"))]);
    assert_eq!(roles(&source, "node01").1, SOURCE);
    // the receiving object waits to be told whence and how
    for change in [(&*format!("{STATE}/sourceState"), Value::Null), tcp_of()] {
        let waiting = ("/status/phase", json!("WaitingForSync"));
        let vmi = vmi(Some("node02"), sides(other.clone(), json!({})), &[waiting, change]);
        assert!(matches!(wishes(RuleSet::Current, &vmi, "node02").target, Wish::Wait(_)));
    }
}

fn tcp_of() -> (&'static str, Value) {
    ("/status/migrationTransport", Value::Null)
}

#[test]
fn malformed_objects_get_one_line_and_touch_nothing() {
    let mut object = object();
    object["status"]["migrationState"] = migration();
    let with = |pointer: &str, value: Value| {
        let mut object = object.clone();
        let (parent, field) = pointer.rsplit_once('/').expect("pointer");
        object.pointer_mut(parent).expect("parent")[field] = value;
        object.to_string()
    };
    for (text, says) in [
        ("{".to_owned(), "EOF"),
        ("[]".to_owned(), "expected an object"),
        (with("/status", json!(["Running", "node01"])), "expected an object"),
        (with(STATE, json!(["m1"])), "expected an object"),
        (with("/kind", json!("Pod")), "it is a 'Pod'"),
        (with("/metadata/uid", Value::Null), "metadata.uid is missing"),
        (with("/metadata/name", json!("")), "metadata.name is missing"),
        (with("/metadata/labels", json!({ "kubevirt.io/migrationTargetNodeName": 7 })), "integer `7`"),
        (with("/status/nodeName", json!(["x"])), "sequence"),
        (with(&format!("{STATE}/completed"), json!("yes")), "boolean"),
        (
            with(&format!("{STATE}/targetDirectMigrationNodePorts"), json!({ "1": 1 })),
            "there is no channel 1",
        ),
        (with(&format!("{STATE}/targetDirectMigrationNodePorts"), json!({ "01": 0 })), "'01' is no port"),
        // they become parts of paths, so they are what Kubernetes allows and nothing else
        (with("/metadata/name", json!("../../x")), "metadata.name '../../x' is no name"),
        (with("/metadata/namespace", json!("a/b")), "metadata.namespace 'a/b' is no name"),
        (with("/metadata/uid", json!("../../etc")), "metadata.uid: '../../etc' is no key"),
        (format!("{{\"type\":\"RENAMED\",\"object\":{object}}}"), "event 'RENAMED' is unknown"),
        (
            r#"{"type":"ERROR","object":{"kind":"Status","message":"too old\nresource version"}}"#.to_owned(),
            "the watch ended",
        ),
    ] {
        let error = read(text.as_bytes()).expect_err(&text).to_string();
        assert!(error.contains(says) && !error.contains('\n'), "{error}");
    }
    // which one it is, is told
    let error = read(with("/status/phase", json!(1)).as_bytes()).expect_err("phase").to_string();
    assert!(error.contains("'default/vmi-migratable'"), "{error}");
    // what can't be used is told when it is to be used
    for (field, value) in [
        ("targetNodeAddress", json!("10.1.1")),
        ("targetNodeAddress", json!("a b")),
        ("targetDirectMigrationNodePorts", json!({ "1": 0, "2": 0 })),
    ] {
        let vmi = vmi(None, migration(), &[(&format!("{STATE}/{field}"), value)]);
        assert!(RuleSet::Current.wishes(&vmi, "node01").is_err());
        assert!(RuleSet::Current.wishes(&vmi, "node02").is_ok(), "it does not matter there");
    }
}

#[test]
fn events_and_lists() {
    let object = object();
    let event = |kind: &str| format!("{{\"type\":\"{kind}\",\"object\":{object}}}");
    for kind in ["ADDED", "MODIFIED"] {
        assert!(matches!(read(event(kind).as_bytes()), Ok(Seen::Present(_))));
    }
    match read(event("DELETED").as_bytes()) {
        Ok(Seen::Gone(name)) => assert_eq!(name.to_string(), "default/vmi-migratable"),
        other => panic!("{other:?}"),
    }
    assert_eq!(read(br#"{"type":"BOOKMARK","object":{}}"#), Ok(Seen::Nothing));
    let list = format!(
        "{{\"kind\":\"List\",\"items\":[{object},{{\"metadata\":{{\"name\":\"x\",\"namespace\":\"y\"}}}}]}}"
    );
    match read(list.as_bytes()) {
        Ok(Seen::All(vmis)) => {
            assert!(vmis[0].is_ok());
            let error = vmis[1].as_ref().expect_err("no UID");
            assert!(error.to_string().contains("'y/x'") && error.to_string().contains("metadata.uid"));
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    /// What the rules say depends on nothing but what they name, and never on both at once.
    #[test]
    fn classic_roles_exclude_each_other(
        label in prop::option::of("node0[1-3]"), node_name in "(node0[1-3])?", source in "(node0[1-3])?",
        address in prop::bool::ANY, completed in prop::bool::ANY, state in prop::bool::ANY, node in "node0[1-3]",
    ) {
        let mut migration = migration();
        migration["sourceNode"] = json!(source);
        migration["completed"] = json!(completed);
        if !address {
            migration["targetNodeAddress"] = json!("");
        }
        let migration = if state { migration } else { Value::Null };
        let vmi = vmi(label.as_deref(), migration, &[("/status/nodeName", json!(node_name))]);
        let (classic, current) = roles(&vmi, &node);
        let labelled = label.as_deref() == Some(&*node);
        prop_assert_eq!(classic.target, labelled && node_name != node);
        prop_assert_eq!(
            classic.source,
            !classic.target && state && source == node && address && !completed
        );
        prop_assert_eq!(current.target, labelled && state);
        prop_assert_eq!(current.source, state && source == node && node_name == node);
    }

    #[test]
    fn no_bytes_panic(
        data in prop::collection::vec(any::<u8>(), 0..100),
        cut in 0..900_usize,
        at in 0..900_usize,
        byte: u8,
    ) {
        fuzz::vmis(&data);
        fuzz::api_call(&data);
        let mut object = object();
        object["status"]["migrationState"] = migration();
        let mut text = object.to_string().into_bytes();
        let place = at % text.len();
        text[place] = byte;
        fuzz::vmis(&text);
        text.truncate(cut);
        fuzz::vmis(&text);
    }
}
