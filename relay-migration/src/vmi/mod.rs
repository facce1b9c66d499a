//! What a VirtualMachineInstance says about its migration.
//!
//! Field names are those of KubeVirt's API `kubevirt.io/v1`. Everything that is not asked for here is
//! ignored; `null` stands for absent, as Go reads it.

mod object;
mod published;
mod stream;

use std::collections::BTreeMap;
use std::fmt;

use crate::invalid::Invalid;

pub use published::PublishedPorts;
pub use stream::{OBJECT_MAX, ObjectStream};

/// Which object it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VmiName {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
}

impl fmt::Display for VmiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// As much of a VirtualMachineInstance as its migration needs.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Vmi {
    /// Namespace and name.
    pub name: VmiName,
    /// `metadata.uid`
    pub uid: String,
    /// The label `kubevirt.io/migrationTargetNodeName`.
    pub target_node_label: Option<String>,
    /// `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// `status.phase`
    pub phase: String,
    /// `status.nodeName`: where it runs.
    pub node_name: String,
    /// `status.activePods`: the UID of each launcher pod, and its node.
    pub active_pods: BTreeMap<String, String>,
    /// `status.migrationTransport`: `Unix`, or empty for the older one over TCP in the pod.
    pub transport: String,
    /// Disks are copied: `status.migrationMethod` is `BlockMigration`, or there are
    /// `status.migratedVolumes`.
    pub copies_disks: bool,
    /// `status.migrationState`
    pub migration: Option<MigrationState>,
}

impl Vmi {
    /// It has ended, well or not.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.phase == "Succeeded" || self.phase == "Failed"
    }

    /// The UID of its launcher pod on `node`; none if there is no such pod, or more than one.
    #[must_use]
    pub fn pod_on(&self, node: &str) -> Option<&str> {
        let mut pods = self.active_pods.iter().filter(|(_, on)| *on == node).map(|(uid, _)| uid.as_str());
        let pod = pods.next();
        if pods.next().is_some() { None } else { pod }
    }
}

/// `status.migrationState`
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct MigrationState {
    /// `migrationUid`
    pub uid: String,
    /// `sourceNode`
    pub source_node: String,
    /// `targetNode`
    pub target_node: String,
    /// `targetNodeAddress`: where the target's proxies listen.
    pub target_address: String,
    /// `targetDirectMigrationNodePorts`: on which ports, for which channels.
    pub target_ports: PublishedPorts,
    /// `completed`
    pub completed: bool,
    /// `failed`
    pub failed: bool,
    /// `endTimestamp` is set.
    pub ended: bool,
    /// `sourceState`, which newer versions have.
    pub source_state: Option<SideState>,
    /// `targetState`, likewise.
    pub target_state: Option<SideState>,
}

impl MigrationState {
    /// Source and target are different objects, possibly in different clusters: both sides' states
    /// are there, and exactly one of them has an address to synchronise with. (KubeVirt's
    /// `IsDecentralizedMigration`.)
    #[must_use]
    pub fn is_decentralized(&self) -> bool {
        match (&self.source_state, &self.target_state) {
            (Some(source), Some(target)) => source.has_sync_address != target.has_sync_address,
            _ => false,
        }
    }
}

/// What one side's own state says.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct SideState {
    /// `virtualMachineInstanceUID`; empty if it is not known yet.
    pub vmi_uid: String,
    /// `syncAddress` is set.
    pub has_sync_address: bool,
}

/// What one JSON value of a stream of objects tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    /// The object is, or became, so.
    Present(Box<Vmi>),
    /// It is gone.
    Gone(VmiName),
    /// These are all there are. One that can't be read is told, and says nothing about whether its
    /// object exists.
    All(Vec<Result<Vmi, Unreadable>>),
    /// Nothing about any object: a bookmark of the watch.
    Nothing,
}

/// An object that can't be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unreadable {
    /// Which one, as far as that can be told.
    pub name: Option<VmiName>,
    /// One line, with the name.
    pub why: Invalid,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(f)
    }
}

impl std::error::Error for Unreadable {}

/// Reads one JSON value as `kubectl get vmi -o json` prints it, with or without `--watch` and
/// `--output-watch-events`: an object, an event around one, or a list.
///
/// # Errors
/// If it is none of these, or a field that matters has the wrong type. Nothing is to be done then.
pub fn read(data: &[u8]) -> Result<Seen, Unreadable> {
    object::read(data)
}
