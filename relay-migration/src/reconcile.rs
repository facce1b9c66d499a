//! From a stream of VirtualMachineInstances to requests, and to what each target must publish.
//!
//! Level-triggered: whenever an object is seen, what it calls for is asked for again (the registry
//! knows whether that is news), and what a target listens on is compared with what the object's status
//! says. So a lost message costs nothing but time, and a restart needs no memory: the ports that the
//! status has are asked for again.

mod publication;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use relay_core::Instant;

use crate::api::ApiError;
use crate::backends::{Backends, pod_base_dir};
use crate::invalid::{Invalid, invalid, shown};
use crate::key::Key;
use crate::registry::{Name, Owner, Registry, Request, Side, SourceRequest, TargetRequest};
use crate::roles::{RuleSet, SourceTask, TargetTask, Wish};
use crate::socket_path::BaseDir;
use crate::vmi::{Seen, Vmi, VmiName};

pub use publication::Publication;

/// What does not change while a reconciler lives.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Config {
    /// Whose rules.
    pub rules: RuleSet,
    /// This node's name, as Kubernetes has it.
    pub node: String,
    /// Whose a source's sockets are to be.
    pub owner: Option<Owner>,
}

impl Config {
    /// Today's rules and KubeVirt's owner.
    ///
    /// # Errors
    /// If the name is empty: it would match objects that name no node.
    pub fn new(node: &str) -> Result<Self, Invalid> {
        if node.is_empty() {
            return invalid("the node's name is empty; it is the one that kubectl get nodes shows");
        }
        Ok(Self { rules: RuleSet::default(), node: node.to_owned(), owner: Some(Owner::QEMU) })
    }
}

/// The launcher's pod on this node, to be found.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Pod<'a> {
    /// Whose.
    pub vmi: &'a VmiName,
    /// The object's UID.
    pub vmi_uid: &'a str,
    /// The pod's UID, if the object's status names one on this node.
    pub uid: Option<&'a str>,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Ask the registry, and tell what came of it: [`Reconciler::failed`] if it refused.
    Request(VmiName, Request),
    /// Nothing yet, since something is missing.
    Waiting {
        /// For which object.
        vmi: VmiName,
        /// On which side.
        side: Side,
        /// What.
        what: String,
    },
    /// Nothing at all: the object can't be what it says.
    Ignored {
        /// One line, with the object's name where that is known.
        why: String,
    },
}

/// One side of what an object called for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Held {
    key: Key,
    /// As it was asked last.
    request: Request,
    retry: Option<Retry>,
    /// What was published since the object was seen last.
    said: Option<Publication>,
    /// Ports that were published since it is held, the latest last.
    published: Vec<u16>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Retry {
    at: Instant,
    pause: Duration,
}

/// What is known of an object that called for something.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Tracked {
    vmi_uid: String,
    migration_uid: String,
    sides: BTreeMap<Side, Held>,
    /// As it was seen last.
    seen: Vmi,
}

/// Objects that migrate to or from here, at most.
const TRACKED_MAX: usize = 10_000;

/// Ports of one object that are remembered as published, at most: a patch names them all.
const PUBLISHED_MAX: usize = 48;

/// Pauses between attempts to have what the registry refused.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(30);

/// See the [module](self).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reconciler {
    config: Config,
    tracked: BTreeMap<VmiName, Tracked>,
    /// Who has which name. The first who asks has it: an object can't take another one's listeners by
    /// naming its UID.
    claims: BTreeMap<Name, VmiName>,
}

/// Handlers.
impl Reconciler {
    /// That knows of no object.
    #[must_use]
    pub const fn new(config: Config) -> Self {
        Self { config, tracked: BTreeMap::new(), claims: BTreeMap::new() }
    }

    /// Objects were seen. `find_run_dir` gives the `/var/run` of a pod on this node, as this process
    /// can reach it (KubeVirt's is `/proc/PID/root/var/run`), or none if the pod can't be found yet.
    pub fn observe(&mut self, seen: Seen, find_run_dir: &mut RunDirs<'_>) -> Vec<Step> {
        let mut steps = vec![];
        match seen {
            Seen::Present(vmi) => self.observe_one(*vmi, find_run_dir, &mut steps),
            Seen::Gone(name) => self.drop_all(&name, &mut steps),
            Seen::All(vmis) => {
                let gone: Vec<_> =
                    self.tracked.keys().filter(|name| !is_listed(name, &vmis)).cloned().collect();
                for name in gone {
                    self.drop_all(&name, &mut steps);
                }
                for vmi in vmis {
                    match vmi {
                        Ok(vmi) => self.observe_one(vmi, find_run_dir, &mut steps),
                        Err(unreadable) => steps.push(Step::Ignored { why: unreadable.to_string() }),
                    }
                }
            }
            Seen::Nothing => {}
        }
        steps
    }

    /// The registry refused what this name asked for: it is asked again later.
    pub fn failed(&mut self, now: Instant, name: &Name) {
        let held = self.claims.get(name).and_then(|vmi| self.tracked.get_mut(vmi));
        if let Some(held) = held.and_then(|tracked| tracked.sides.get_mut(&name.side)) {
            let pause = held.retry.map_or(RETRY_FIRST, |retry| (retry.pause * 2).min(RETRY_LAST));
            held.retry = Some(Retry { at: now + pause, pause });
        }
    }

    /// The registry has what this name asked for.
    pub fn succeeded(&mut self, name: &Name) {
        let held = self.claims.get(name).and_then(|vmi| self.tracked.get_mut(vmi));
        if let Some(held) = held.and_then(|tracked| tracked.sides.get_mut(&name.side)) {
            held.retry = None;
        }
    }

    /// Asks again for what was refused, if its time has come. Harmless when called early.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Step> {
        let mut steps = vec![];
        for (name, tracked) in &mut self.tracked {
            for held in tracked.sides.values_mut() {
                if let Some(retry) = &mut held.retry
                    && now >= retry.at
                {
                    // should nobody tell how it went, it is asked again all the same
                    retry.at = now + retry.pause;
                    steps.push(Step::Request(name.clone(), held.request.clone()));
                }
            }
        }
        steps
    }

    fn observe_one(&mut self, vmi: Vmi, find_run_dir: &mut RunDirs<'_>, steps: &mut Vec<Step>) {
        let name = vmi.name.clone();
        let another = |tracked: &Tracked| {
            let migration = vmi.migration.as_ref().map_or("", |state| state.uid.as_str());
            let is_known = !tracked.migration_uid.is_empty();
            tracked.vmi_uid != vmi.uid || (is_known && tracked.migration_uid != migration)
        };
        let wishes = match self.config.rules.wishes(&vmi, &self.config.node) {
            Ok(wishes) => wishes,
            Err(why) => {
                let why = format!("VirtualMachineInstance {} ignored: {why}", shown(&name.to_string()));
                return steps.push(Step::Ignored { why });
            }
        };
        // Another migration, or another object of that name: what is left of the former one goes, also
        // where this one would leave alone what is there.
        let is_another = self.tracked.get(&name).is_some_and(another);
        if self.tracked.get(&name).is_some_and(|tracked| tracked.vmi_uid != vmi.uid) {
            self.drop_all(&name, steps);
        }
        let target = wishes.target.and_then(|task| self.target_request(&vmi, task, find_run_dir));
        let source = wishes.source.and_then(|task| self.source_request(&vmi, task, find_run_dir));
        for (side, wish) in [(Side::Target, target), (Side::Source, source)] {
            match wish {
                Ok(Wish::Start((key, request))) => self.hold(&vmi, side, key, request, steps),
                Ok(Wish::Wait(what)) => {
                    steps.push(Step::Waiting { vmi: name.clone(), side, what: what.to_owned() });
                }
                Ok(Wish::Keep) if !is_another => {}
                Ok(Wish::Keep | Wish::Stop) => self.drop_side(&name, side, steps),
                Err(why) => {
                    let why = format!("VirtualMachineInstance {} ignored: {why}", shown(&name.to_string()));
                    steps.push(Step::Ignored { why });
                }
            }
        }
        if let Some(tracked) = self.tracked.get_mut(&name) {
            tracked.migration_uid = vmi.migration.as_ref().map(|state| state.uid.clone()).unwrap_or_default();
            tracked.seen = vmi;
            for held in tracked.sides.values_mut() {
                // if it still does not say it, it is to be said again
                held.said = None;
            }
        }
    }

    fn target_request(&self, vmi: &Vmi, task: TargetTask, find: &mut RunDirs<'_>) -> Prepared {
        let Some(run_dir) = self.run_dir(vmi, find) else { return Ok(Wish::Wait(NO_POD)) };
        let backends = Backends::of_pod(&run_dir, &task.key, task.copies_disks)?;
        // What is published is worth keeping only if it was published by us.
        let is_ours = vmi.migration.as_ref().is_some_and(|state| state.target_node == self.config.node);
        let keep = if is_ours { task.published } else { Default::default() };
        let request = TargetRequest { key: task.key.clone(), backends, keep, lease: None };
        Ok(Wish::Start((task.key, Request::SetTarget(request))))
    }

    fn source_request(&self, vmi: &Vmi, task: SourceTask, find: &mut RunDirs<'_>) -> Prepared {
        let Some(run_dir) = self.run_dir(vmi, find) else { return Ok(Wish::Wait(NO_POD)) };
        let request = SourceRequest {
            key: task.key.clone(),
            target: task.target,
            ports: task.ports,
            base_dir: pod_base_dir(&run_dir)?,
            owner: self.config.owner,
            lease: None,
        };
        Ok(Wish::Start((task.key, Request::SetSource(request))))
    }

    fn run_dir(&self, vmi: &Vmi, find: &mut RunDirs<'_>) -> Option<BaseDir> {
        find(&Pod { vmi: &vmi.name, vmi_uid: &vmi.uid, uid: vmi.pod_on(&self.config.node) })
    }

    /// Asks for it, and remembers under which key: what the object says later may give another one.
    fn hold(&mut self, vmi: &Vmi, side: Side, key: Key, request: Request, steps: &mut Vec<Step>) {
        let name = Name::new(side, key.clone());
        if let Some(other) = self.claims.get(&name).filter(|other| **other != vmi.name) {
            let why = format!(
                "VirtualMachineInstance {} ignored: {name} belongs to {}",
                shown(&vmi.name.to_string()),
                shown(&other.to_string())
            );
            return steps.push(Step::Ignored { why });
        }
        if !self.tracked.contains_key(&vmi.name) && self.tracked.len() >= TRACKED_MAX {
            let why = format!(
                "VirtualMachineInstance {} ignored: {TRACKED_MAX} others are migrating here already",
                shown(&vmi.name.to_string())
            );
            return steps.push(Step::Ignored { why });
        }
        let former = self.tracked.get(&vmi.name).and_then(|tracked| tracked.sides.get(&side));
        if former.is_some_and(|held| held.key != key) {
            self.drop_side(&vmi.name, side, steps);
        }
        self.claims.insert(name, vmi.name.clone());
        let tracked = self.tracked.entry(vmi.name.clone()).or_insert_with(|| Tracked {
            vmi_uid: vmi.uid.clone(),
            migration_uid: String::new(),
            sides: BTreeMap::new(),
            seen: vmi.clone(),
        });
        let former = tracked.sides.remove(&side);
        let (retry, published) = former.map(|held| (held.retry, held.published)).unwrap_or_default();
        let held = Held { key, request: request.clone(), retry, said: None, published };
        tracked.sides.insert(side, held);
        steps.push(Step::Request(vmi.name.clone(), request));
    }

    fn drop_side(&mut self, vmi: &VmiName, side: Side, steps: &mut Vec<Step>) {
        let Some(tracked) = self.tracked.get_mut(vmi) else { return };
        if let Some(held) = tracked.sides.remove(&side) {
            let name = Name::new(side, held.key);
            self.claims.remove(&name);
            steps.push(Step::Request(vmi.clone(), Request::Delete(name)));
        }
        if tracked.sides.is_empty() {
            self.tracked.remove(vmi);
        }
    }

    fn drop_all(&mut self, vmi: &VmiName, steps: &mut Vec<Step>) {
        for side in [Side::Target, Side::Source] {
            self.drop_side(vmi, side, steps);
        }
    }
}

/// Demands and getters.
impl Reconciler {
    /// What this target must publish now: nothing if it does not listen, or its object's status says
    /// it already. To be asked whenever its object was seen, and whenever what it listens on changed
    /// ([`Event::Changed`](crate::registry::Event::Changed)).
    #[must_use]
    pub fn publication(&self, name: &Name, registry: &Registry, now: Instant) -> Option<Publication> {
        if name.side == Side::Source {
            return None;
        }
        let tracked = self.tracked.get(self.claims.get(name)?)?;
        let before = tracked.sides.get(&name.side).map_or(&[][..], |held| &held.published);
        let view = registry.target(&name.key, now)?;
        Publication::of(&tracked.seen, view.address, view.ports, before)
    }

    /// The same, once: not again until its object was seen again, or something else is to be published.
    /// What it gives counts as published.
    #[must_use = "it is not given again"]
    pub fn publish(&mut self, name: &Name, registry: &Registry, now: Instant) -> Option<Publication> {
        let publication = self.publication(name, registry, now)?;
        let held = self.tracked.get_mut(self.claims.get(name)?)?.sides.get_mut(&name.side)?;
        if held.said.as_ref() == Some(&publication) {
            return None;
        }
        let ports: Vec<u16> = publication.ports.iter().map(|(port, _)| port).collect();
        held.published.retain(|port| !ports.contains(port));
        held.published.extend(ports);
        let excess = held.published.len().saturating_sub(PUBLISHED_MAX);
        held.published.drain(..excess);
        held.said = Some(publication.clone());
        Some(publication)
    }

    /// Whether a client of the control API may ask for this: not if an object called for these
    /// listeners.
    ///
    /// # Errors
    /// Whose they are.
    pub fn check_client(&self, request: &Request) -> Result<(), ApiError> {
        match request.name().as_ref().and_then(|name| Some((name, self.claims.get(name)?))) {
            Some((name, vmi)) => Err(ApiError::of_object(name, vmi)),
            None => Ok(()),
        }
    }

    /// The names that an object called for.
    #[must_use]
    pub fn names_of(&self, vmi: &VmiName) -> Vec<Name> {
        let sides = self.tracked.get(vmi).into_iter().flat_map(|tracked| &tracked.sides);
        sides.map(|(side, held)| Name::new(*side, held.key.clone())).collect()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is next to be called.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let sides = self.tracked.values().flat_map(|tracked| tracked.sides.values());
        sides.filter_map(|held| held.retry).map(|retry| retry.at).min()
    }
}

/// Finds a pod's `/var/run`.
pub type RunDirs<'a> = dyn FnMut(&Pod<'_>) -> Option<BaseDir> + 'a;

type Prepared = Result<Wish<(Key, Request)>, Invalid>;

const NO_POD: &str = "its launcher's pod has not been found yet";

fn is_listed(name: &VmiName, vmis: &[Result<Vmi, crate::vmi::Unreadable>]) -> bool {
    vmis.iter().any(|vmi| match vmi {
        Ok(vmi) => vmi.name == *name,
        // it is there, whatever it says; one without a name could be any
        Err(unreadable) => unreadable.name.as_ref().is_none_or(|of| of == name),
    })
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(vmi, Request::SetTarget(r)) => write!(f, "{vmi}: target {} is to listen", r.key),
            Self::Request(vmi, Request::SetSource(r)) => write!(f, "{vmi}: source {} is to listen", r.key),
            Self::Request(vmi, Request::Delete(name)) => write!(f, "{vmi}: {name} is over"),
            Self::Request(vmi, Request::Renew(_) | Request::Shutdown { .. }) => write!(f, "{vmi}"),
            Self::Waiting { vmi, side, what } => write!(f, "{vmi}: {side} waits: {what}"),
            Self::Ignored { why } => f.write_str(why),
        }
    }
}
