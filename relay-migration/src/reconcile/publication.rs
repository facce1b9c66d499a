//! What a target writes into its object's status.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::ports::PortMap;
use crate::vmi::{Vmi, VmiName};

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
    /// What the status has and should not.
    stale: PortMap,
    /// The status has a `targetState`, which says the same once more.
    has_target_state: bool,
}

impl Publication {
    /// None if the object's status says so already.
    ///
    /// Address *and* ports are compared. Upstream looks at the address only, so that a handler that is
    /// restarted with other ports leaves the former ones in the status.
    pub(super) fn of(vmi: &Vmi, address: IpAddr, ports: PortMap) -> Option<Self> {
        let state = vmi.migration.as_ref();
        let published = state.map(|state| state.target_ports.clone()).unwrap_or_default();
        let is_said = state.is_some_and(|state| state.target_address == address.to_string());
        if is_said && published == ports {
            return None;
        }
        Some(Self {
            vmi: vmi.name.clone(),
            vmi_uid: vmi.uid.clone(),
            address,
            ports,
            stale: published,
            has_target_state: state.is_some_and(|state| state.target_state.is_some()),
        })
    }

    /// A JSON merge patch (RFC 7386) for the object, as `kubectl patch --type merge` takes it. Ports
    /// that are not in use any more are set to null: a merge would keep them.
    #[must_use]
    pub fn patch(&self) -> Value {
        let mut ports = Map::new();
        for (port, _) in self.stale.iter() {
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
