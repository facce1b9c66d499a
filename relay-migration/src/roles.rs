//! What a node has to do with a virtual machine's migration.
//!
//! KubeVirt's rules have changed over time; both generations are here under a name, to be chosen from
//! ([`RuleSet`]). A rule says when listeners are **begun**. They are **ended** when the migration is
//! over, the object is, or the migration is another one; in between they are left alone, even while a
//! rule no longer holds: the object names the new node as its own a while before source and target
//! are done with each other.

use std::fmt;
use std::str::FromStr;

use crate::host::Host;
use crate::invalid::{Invalid, invalid, shown};
use crate::key::Key;
use crate::ports::PortMap;
use crate::vmi::{MigrationState, Vmi};

/// Whose rules.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum RuleSet {
    /// Those of 2022 (around KubeVirt 0.53): one controller that asks `isPreMigrationTarget`, then
    /// `isMigrationSource`. A migration is over when it is completed or has failed.
    Classic,
    /// Today's: a controller for each side, with `isMigrationTarget` and `isMigrationSource` of
    /// `migration-target.go` and `migration-source.go`. A migration is over when it has an end time as
    /// well.
    #[default]
    Current,
}

impl fmt::Display for RuleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Classic => "classic",
            Self::Current => "current",
        })
    }
}

impl FromStr for RuleSet {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "classic" => Ok(Self::Classic),
            "current" => Ok(Self::Current),
            _ => invalid(format!("{} is no set of rules; it is classic or current", shown(text))),
        }
    }
}

/// Which roles a node has. With [`RuleSet::Classic`] one of them at most.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Roles {
    /// The virtual machine is to be received here.
    pub target: bool,
    /// It is to be sent from here.
    pub source: bool,
}

impl Roles {
    /// None of them.
    pub const NEITHER: Self = Self { target: false, source: false };
}

/// What to do about one side's listeners.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Wish<T> {
    /// They are to be there, so.
    Start(T),
    /// They are to be there, but this is missing. What is there is left alone.
    Wait(&'static str),
    /// What is there is left alone.
    Keep,
    /// They are to be gone.
    Stop,
}

impl<T> Wish<T> {
    /// What to do, with the task made ready.
    pub(crate) fn and_then<U>(
        self,
        prepare: impl FnOnce(T) -> Result<Wish<U>, Invalid>,
    ) -> Result<Wish<U>, Invalid> {
        match self {
            Self::Start(task) => prepare(task),
            Self::Wait(what) => Ok(Wish::Wait(what)),
            Self::Keep => Ok(Wish::Keep),
            Self::Stop => Ok(Wish::Stop),
        }
    }
}

/// Listeners for a virtual machine that is to come.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TargetTask {
    /// The migration's key.
    pub key: Key,
    /// Whether a channel for disks is needed.
    pub copies_disks: bool,
    /// The ports that the object's status has already: others may know them.
    pub published: PortMap,
}

/// Listeners for a virtual machine that is to go.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SourceTask {
    /// The migration's key.
    pub key: Key,
    /// The target node's address.
    pub target: Host,
    /// Its ports.
    pub ports: PortMap,
}

/// What to do on either side.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Wishes {
    /// About listeners on ports.
    pub target: Wish<TargetTask>,
    /// About listeners on unix sockets.
    pub source: Wish<SourceTask>,
}

impl RuleSet {
    /// The rules themselves: whose turn it is to begin, `node` being the name of this one.
    #[must_use]
    pub fn roles(self, vmi: &Vmi, node: &str) -> Roles {
        match self {
            Self::Classic if is_labelled(vmi, node) && vmi.node_name != node => {
                Roles { target: true, source: false }
            }
            Self::Classic => Roles {
                target: false,
                source: vmi.migration.as_ref().is_some_and(|state| {
                    is_source_node(state, node) && !state.target_address.is_empty() && !state.completed
                }),
            },
            Self::Current => Roles {
                target: vmi.migration.is_some() && is_labelled(vmi, node),
                source: vmi.migration.as_ref().is_some_and(|state| {
                    let is_here = if state.is_decentralized() {
                        is_source_object(vmi, state)
                    } else {
                        vmi.node_name == node
                    };
                    is_source_node(state, node) && is_here
                }),
            },
        }
    }

    /// Whether the migration is over.
    #[must_use]
    pub const fn is_done(self, state: &MigrationState) -> bool {
        let ended = match self {
            Self::Classic => true,
            Self::Current => state.ended,
        };
        ended && (state.completed || state.failed)
    }

    /// The key of the target's listeners: the object's own UID; today also the *source* object's
    /// where that is another one and QEMU listens on unix sockets, because their names come from the
    /// source. (KubeVirt's `migrationProxyKey`.)
    #[must_use]
    pub fn target_key(self, vmi: &Vmi) -> &str {
        match &vmi.migration {
            Some(state)
                if self == Self::Current && is_remote_target(vmi, state) && vmi.transport == "Unix" =>
            {
                state.source_state.as_ref().map(|s| s.vmi_uid.as_str()).filter(|uid| !uid.is_empty())
            }
            _ => None,
        }
        .unwrap_or(&vmi.uid)
    }

    /// What to do on either side.
    ///
    /// # Errors
    /// If the object has what is needed, but it is none: one line, and nothing is to be done.
    pub fn wishes(self, vmi: &Vmi, node: &str) -> Result<Wishes, Invalid> {
        if vmi.deleting || vmi.is_final() || vmi.migration.as_ref().is_some_and(|state| self.is_done(state)) {
            return Ok(Wishes { target: Wish::Stop, source: Wish::Stop });
        }
        let roles = self.roles(vmi, node);
        let target = match roles.target {
            true => self.begin_target(vmi)?,
            false if is_labelled(vmi, node) && vmi.migration.is_some() => Wish::Keep,
            false => Wish::Stop,
        };
        let source = match (&vmi.migration, roles.source) {
            (Some(state), true) => begin_source(vmi, state)?,
            (Some(state), false) if is_source_node(state, node) => Wish::Keep,
            _ => Wish::Stop,
        };
        Ok(Wishes { target, source })
    }

    fn begin_target(self, vmi: &Vmi) -> Result<Wish<TargetTask>, Invalid> {
        // The receiving object of a decentralized migration is made before it is told whence and how.
        let knows_source = vmi.migration.as_ref().and_then(|state| state.source_state.as_ref());
        let knows_source = knows_source.is_some_and(|source| !source.vmi_uid.is_empty());
        let is_told = knows_source && !vmi.transport.is_empty();
        if self == Self::Current && vmi.phase == "WaitingForSync" && !is_told {
            return Ok(Wish::Wait("the source's state has not been synchronised yet"));
        }
        Ok(Wish::Start(TargetTask {
            key: self.target_key(vmi).parse()?,
            copies_disks: vmi.copies_disks,
            // one that makes no sense is nothing to keep, and is mended by what is published next
            published: vmi.migration.as_ref().and_then(|s| s.target_ports.map().ok()).unwrap_or_default(),
        }))
    }
}

fn begin_source(vmi: &Vmi, state: &MigrationState) -> Result<Wish<SourceTask>, Invalid> {
    if state.target_ports.is_empty() {
        return Ok(Wish::Wait("the target has not published its ports yet"));
    }
    if state.target_address.is_empty() {
        return Ok(Wish::Wait("the target has not published its address yet"));
    }
    Ok(Wish::Start(SourceTask {
        key: vmi.uid.parse()?,
        target: state.target_address.parse()?,
        ports: state.target_ports.map()?,
    }))
}

fn is_labelled(vmi: &Vmi, node: &str) -> bool {
    !node.is_empty() && vmi.target_node_label.as_deref() == Some(node)
}

fn is_source_node(state: &MigrationState, node: &str) -> bool {
    !node.is_empty() && state.source_node == node
}

fn is_source_object(vmi: &Vmi, state: &MigrationState) -> bool {
    state.source_state.as_ref().is_some_and(|source| source.vmi_uid == vmi.uid)
}

/// The receiving object of a decentralized migration. KubeVirt marks it with an annotation; that the
/// source is another object says the same.
fn is_remote_target(vmi: &Vmi, state: &MigrationState) -> bool {
    state.is_decentralized() && !is_source_object(vmi, state)
}
