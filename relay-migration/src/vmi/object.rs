//! JSON to [`Vmi`].

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde_json::Value;

use super::{MigrationState, PublishedPorts, Seen, SideState, Unreadable, Vmi, VmiName};
use crate::invalid::{Invalid, shown};
use crate::key::Key;
use crate::strict::{Strict, object_or_default, object_or_none, or_default};

const KIND: &str = "VirtualMachineInstance";

/// Enough to tell what a value is.
#[derive(serde::Deserialize)]
struct Envelope {
    #[serde(default, deserialize_with = "or_default")]
    kind: String,
    #[serde(default, rename = "type", deserialize_with = "or_default")]
    event: String,
    #[serde(default)]
    object: Option<IgnoredAny>,
    #[serde(default)]
    items: Option<Vec<IgnoredAny>>,
}

#[derive(serde::Deserialize)]
struct Event {
    object: Strict<Object>,
}

#[derive(serde::Deserialize)]
struct List {
    items: Vec<Value>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Object {
    #[serde(default, deserialize_with = "or_default")]
    kind: String,
    #[serde(default, deserialize_with = "object_or_default")]
    metadata: Metadata,
    #[serde(default, deserialize_with = "object_or_default")]
    status: Status,
}

#[derive(serde::Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    #[serde(deserialize_with = "or_default")]
    namespace: String,
    #[serde(deserialize_with = "or_default")]
    name: String,
    #[serde(deserialize_with = "or_default")]
    uid: String,
    #[serde(deserialize_with = "object_or_default")]
    labels: Labels,
    deletion_timestamp: Option<String>,
}

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct Labels {
    #[serde(rename = "kubevirt.io/migrationTargetNodeName")]
    target_node: Option<String>,
}

#[derive(serde::Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    #[serde(deserialize_with = "or_default")]
    phase: String,
    #[serde(deserialize_with = "or_default")]
    node_name: String,
    #[serde(deserialize_with = "or_default")]
    active_pods: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    migration_transport: String,
    #[serde(deserialize_with = "or_default")]
    migration_method: String,
    #[serde(deserialize_with = "or_default")]
    migrated_volumes: Vec<IgnoredAny>,
    #[serde(deserialize_with = "object_or_none")]
    migration_state: Option<State>,
}

#[derive(serde::Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct State {
    #[serde(deserialize_with = "or_default")]
    migration_uid: String,
    #[serde(deserialize_with = "or_default")]
    source_node: String,
    #[serde(deserialize_with = "or_default")]
    target_node: String,
    #[serde(deserialize_with = "or_default")]
    target_node_address: String,
    #[serde(deserialize_with = "or_default")]
    target_direct_migration_node_ports: PublishedPorts,
    #[serde(deserialize_with = "or_default")]
    completed: bool,
    #[serde(deserialize_with = "or_default")]
    failed: bool,
    end_timestamp: Option<String>,
    #[serde(deserialize_with = "object_or_none")]
    source_state: Option<Side>,
    #[serde(deserialize_with = "object_or_none")]
    target_state: Option<Side>,
}

#[derive(serde::Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Side {
    #[serde(rename = "virtualMachineInstanceUID", deserialize_with = "or_default")]
    vmi_uid: String,
    sync_address: Option<String>,
}

impl From<Side> for SideState {
    fn from(side: Side) -> Self {
        Self { vmi_uid: side.vmi_uid, has_sync_address: side.sync_address.is_some() }
    }
}

impl From<State> for MigrationState {
    fn from(state: State) -> Self {
        Self {
            uid: state.migration_uid,
            source_node: state.source_node,
            target_node: state.target_node,
            target_address: state.target_node_address,
            target_ports: state.target_direct_migration_node_ports,
            completed: state.completed,
            failed: state.failed,
            ended: state.end_timestamp.is_some(),
            source_state: state.source_state.map(SideState::from),
            target_state: state.target_state.map(SideState::from),
        }
    }
}

impl TryFrom<Object> for Vmi {
    type Error = Invalid;

    fn try_from(object: Object) -> Result<Self, Invalid> {
        if !object.kind.is_empty() && object.kind != KIND {
            return Err(Invalid::new(format!("it is a {}, not a {KIND}", shown(&object.kind))));
        }
        let Metadata { namespace, name, uid, labels, deletion_timestamp } = object.metadata;
        for (field, value) in [("namespace", &namespace), ("name", &name), ("uid", &uid)] {
            if value.is_empty() {
                return Err(Invalid::new(format!("metadata.{field} is missing")));
            }
        }
        check_name("namespace", &namespace)?;
        check_name("name", &name)?;
        uid.parse::<Key>().map_err(|why| Invalid::new(format!("metadata.uid: {why}")))?;
        let status = object.status;
        Ok(Self {
            name: VmiName { namespace, name },
            uid,
            target_node_label: labels.target_node,
            deleting: deletion_timestamp.is_some(),
            phase: status.phase,
            node_name: status.node_name,
            active_pods: status.active_pods,
            transport: status.migration_transport,
            copies_disks: status.migration_method == "BlockMigration" || !status.migrated_volumes.is_empty(),
            migration: status.migration_state.map(MigrationState::from),
        })
    }
}

/// Bytes of a name: a DNS name's (RFC 1123), as Kubernetes has it.
const NAME_MAX: usize = 253;

/// Names become parts of paths (`--pod-run-dir`), so they are what Kubernetes allows, and nothing else.
fn check_name(field: &str, name: &str) -> Result<(), Invalid> {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        let ends = [bytes.first(), bytes.last()].into_iter().flatten();
        !bytes.is_empty() && ends.copied().all(is_plain) && bytes.iter().all(|b| is_plain(*b) || *b == b'-')
    };
    if name.len() <= NAME_MAX && name.split('.').all(is_label) {
        return Ok(());
    }
    Err(Invalid::new(format!(
        "metadata.{field} {} is no name; it is made of lower case letters, digits, '-' and '.'",
        shown(name)
    )))
}

pub(super) fn read(data: &[u8]) -> Result<Seen, Unreadable> {
    let unreadable = |name: Option<VmiName>, why: &dyn std::fmt::Display| {
        let of = name.as_ref().map(|name| format!(" {}", shown(&name.to_string()))).unwrap_or_default();
        Unreadable { name, why: Invalid::new(format!("{KIND}{of} ignored: {}", plain(&why.to_string()))) }
    };
    let name = || serde_json::from_slice(data).ok().and_then(|value: Value| name_of(&value));
    let Strict(envelope) =
        serde_json::from_slice::<Strict<Envelope>>(data).map_err(|error| unreadable(name(), &error))?;
    if envelope.items.is_some() && (envelope.kind.is_empty() || envelope.kind.ends_with("List")) {
        let list: List = serde_json::from_slice(data).map_err(|error| unreadable(None, &error))?;
        let item = |value: Value| {
            let name = name_of(&value);
            let object = serde_json::from_value::<Strict<Object>>(value);
            let Strict(object) = object.map_err(|error| unreadable(name.clone(), &error))?;
            Vmi::try_from(object).map_err(|error| unreadable(name, &error))
        };
        return Ok(Seen::All(list.items.into_iter().map(item).collect()));
    }
    let is_event = envelope.object.is_some() && !envelope.event.is_empty();
    match envelope.event.as_str() {
        "BOOKMARK" if is_event => return Ok(Seen::Nothing),
        "ERROR" if is_event => return Err(unreadable(None, &error_message(data))),
        _ => {}
    }
    let object = if is_event {
        serde_json::from_slice(data).map(|event: Event| event.object)
    } else {
        serde_json::from_slice(data)
    };
    let Strict(object) = object.map_err(|error| unreadable(name(), &error))?;
    let vmi = Vmi::try_from(object).map_err(|error| unreadable(name(), &error))?;
    Ok(match envelope.event.as_str() {
        "DELETED" if is_event => Seen::Gone(vmi.name),
        "" | "ADDED" | "MODIFIED" => Seen::Present(Box::new(vmi)),
        other => return Err(unreadable(Some(vmi.name), &format!("the event {} is unknown", shown(other)))),
    })
}

/// `metadata.namespace` and `metadata.name` of an object or of an event's, if it has them.
fn name_of(value: &Value) -> Option<VmiName> {
    let object = value.get("object").unwrap_or(value);
    let text = |field: &str| object.get("metadata")?.get(field)?.as_str().map(str::to_owned);
    Some(VmiName { namespace: text("namespace")?, name: text("name")? })
}

fn error_message(data: &[u8]) -> String {
    let value: Value = serde_json::from_slice(data).unwrap_or_default();
    let message = value.get("object").and_then(|object| object.get("message")).and_then(Value::as_str);
    format!("the watch ended: {}", shown(message.unwrap_or("no reason given")))
}

/// A message with somebody's text in it, on one line and not without end.
fn plain(message: &str) -> String {
    message.chars().filter(|c| !c.is_control()).take(400).collect()
}
