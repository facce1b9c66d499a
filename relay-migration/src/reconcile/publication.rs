//! What a target writes into its object's status.
//!
//! It is a merge, and a merge keeps what it does not name. So a patch names every port that may be in
//! the status and is not to be: those that were seen there, and those that were published since this
//! object is followed, for the watch may show them only later, or never by themselves.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::ports::PortMap;
use crate::vmi::{MigrationState, Vmi, VmiName};

/// Where a target listens, for its object's status: sources learn it from there.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Publication {
    /// Which object.
    pub vmi: VmiName,
    /// Its UID.
    pub vmi_uid: String,
    /// `targetNodeAddress`
    pub address: IpAddr,
    /// `targetDirectMigrationNodePorts`
    pub ports: PortMap,
    /// What the status may have and should not.
    stale: BTreeSet<u16>,
    /// The status has a `targetState`, which says the same once more.
    has_target_state: bool,
}

impl Publication {
    /// None if the object's status says so already.
    ///
    /// Address *and* ports are compared. Upstream looks at the address only, so that a handler that is
    /// restarted with other ports leaves the former ones in the status.
    pub(super) fn of(vmi: &Vmi, address: IpAddr, ports: PortMap, before: &[u16]) -> Option<Self> {
        let state = vmi.migration.as_ref();
        let is_said = |state: &MigrationState| {
            state.target_address == address.to_string() && state.target_ports.map().as_ref() == Ok(&ports)
        };
        if state.is_some_and(is_said) {
            return None;
        }
        let seen = state.into_iter().flat_map(|state| state.target_ports.ports());
        let mut stale: BTreeSet<u16> = seen.chain(before.iter().copied()).collect();
        for (port, _) in ports.iter() {
            stale.remove(&port);
        }
        Some(Self {
            vmi: vmi.name.clone(),
            vmi_uid: vmi.uid.clone(),
            address,
            ports,
            stale,
            has_target_state: state.is_some_and(|state| state.target_state.is_some()),
        })
    }

    /// A JSON merge patch (RFC 7386) for the object, as `kubectl patch --type merge` takes it. Ports
    /// that are not in use any more are set to null: a merge would keep them.
    #[must_use]
    pub fn patch(&self) -> Value {
        let mut ports = Map::new();
        for port in &self.stale {
            ports.insert(port.to_string(), Value::Null);
        }
        for (port, channel) in self.ports.iter() {
            ports.insert(port.to_string(), json!(channel.id()));
        }
        let address = self.address.to_string();
        let mut state = json!({ "targetNodeAddress": address, "targetDirectMigrationNodePorts": ports });
        if self.has_target_state {
            state["targetState"] = json!({ "nodeAddress": address, "directMigrationNodePorts": ports });
        }
        json!({ "status": { "migrationState": state } })
    }

    /// All of it on one line of JSON, for programs.
    #[must_use]
    pub fn to_json(&self) -> String {
        json!({
            "namespace": self.vmi.namespace,
            "name": self.vmi.name,
            "uid": self.vmi_uid,
            "targetNodeAddress": self.address.to_string(),
            "targetDirectMigrationNodePorts": self.ports,
            "patch": self.patch(),
        })
        .to_string()
    }

    /// The message of upstream's event.
    #[must_use]
    pub fn event_message(&self) -> String {
        let ports: Vec<_> = self.ports.iter().map(|(port, _)| port.to_string()).collect();
        format!("Migration Target is listening at {}, on ports: {}", self.address, ports.join(","))
    }
}
