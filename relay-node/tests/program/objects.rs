//! `node --vmis -`: listeners from objects, beside the control API and across restarts.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::api::{call, ok};
use crate::support::{Node, Scratch, eventually, program};

/// A daemon that follows objects, and where its control API is. The pods' run directory is made.
fn follow(dir: &Scratch, options: &str) -> (Node, String) {
    let (control, run) = (dir.path("control"), dir.path("run"));
    let _ = std::fs::create_dir(&run);
    let mut command = program();
    let line = format!("node --control unix:{control} --plain --bind 127.0.0.1 --vmis - --name node02");
    command.args(line.split_whitespace()).args(options.split_whitespace());
    command.args(["--pod-run-dir", &run]).stdin(Stdio::piped());
    let mut node = Node::spawn(command);
    assert_eq!(node.line(), format!("listening unix:{control}"));
    (node, control)
}

/// An object that calls for a target here, with that status.
fn object(state: Value) -> Value {
    json!({
        "metadata": { "namespace": "default", "name": "vm", "uid": "u-1",
            "labels": { "kubevirt.io/migrationTargetNodeName": "node02" } },
        "status": { "nodeName": "node01", "migrationTransport": "Unix", "migrationState": state },
    })
}

fn begun() -> Value {
    json!({ "sourceNode": "node01", "targetNode": "node02" })
}

fn ended() -> Value {
    json!({ "sourceNode": "node01", "targetNode": "node02", "completed": true, "endTimestamp": "t" })
}

fn published(node: &mut Node) -> Value {
    serde_json::from_str(&node.line()).expect("one line of JSON")
}

fn gone(control: &str) {
    eventually("gone", || (call(control, "GET", "/v1/targets/u-1", "").0 == 404).then_some(()));
}

/// Each keeps what it asked for first: the API would take an object's listeners away under a migration.
#[test]
fn neither_the_api_nor_an_object_takes_the_others_listeners_away() {
    let dir = Scratch::new();
    let (mut node, control) = follow(&dir, "");
    node.feed(&object(begun()).to_string());
    let ports = published(&mut node)["targetDirectMigrationNodePorts"].clone();
    for (method, body) in [("PUT", r#"{"backends":{"0":"/other"}}"#), ("DELETE", "")] {
        let (status, answer) = call(&control, method, "/v1/targets/u-1", body);
        assert_eq!(status, 409, "{answer}");
        assert!(answer.contains("belongs to the VirtualMachineInstance default/vm"), "{answer}");
    }
    assert_eq!(ok(&control, "GET", "/v1/targets/u-1", "")["ports"], ports);
    node.feed(&object(ended()).to_string());
    gone(&control);

    // now the client is first; the object gets it when the client is done
    let body = r#"{"backends":{"0":"/mine"}}"#;
    let mine = ok(&control, "PUT", "/v1/targets/u-1", body)["ports"].clone();
    node.feed(&object(begun()).to_string());
    node.feed(&object(ended()).to_string());
    node.feed(&object(begun()).to_string());
    assert_eq!(ok(&control, "PUT", "/v1/targets/u-1", body)["ports"], mine);
    ok(&control, "DELETE", "/v1/targets/u-1", "");
    let ports = published(&mut node)["targetDirectMigrationNodePorts"].clone();
    assert_eq!(ports.as_object().map(serde_json::Map::len), Some(2), "the object's, not the client's");
}

/// Although nothing is published yet, and although it is killed.
#[test]
fn a_restart_that_sees_the_object_again_listens_on_the_same_ports() {
    let dir = Scratch::new();
    let options = format!("--state-dir {}", dir.path("state"));
    let (mut node, _) = follow(&dir, &options);
    node.feed(&object(begun()).to_string());
    let first = published(&mut node);
    drop(node); // kills it
    let (mut node, control) = follow(&dir, &options);
    assert_eq!(call(&control, "GET", "/v1/targets/u-1", "").0, 404, "not before its object is seen");
    node.feed(&object(begun()).to_string());
    assert_eq!(published(&mut node), first);
    // once it is over its ports are nobody's
    node.feed(&object(ended()).to_string());
    gone(&control);
    eventually("forgotten", || {
        let files = std::fs::read_dir(dir.path("state")).expect("there").flatten();
        files.map(|entry| entry.file_name()).eq(["lock"]).then_some(())
    });
}
