//! What the manager does for VirtualMachineInstances: listeners come and go as they call for, and what a
//! target has is printed to be published.

use relay_migration::reconcile::{Pod, Step};
use relay_migration::registry::{Done, Name, Refusal, Request};
use relay_migration::vmi::{Seen, VmiName};

use super::super::state::By;
use super::{Manager, Parts, Waiter};
use crate::metrics;

impl Manager {
    /// Objects were seen.
    pub(in crate::node) fn observe(&mut self, seen: Seen) {
        let Some(mut reconciler) = self.parts.reconciler.take() else { return };
        if let Some(daemon) = self.parts.metrics.daemon() {
            metrics::count(&daemon.objects);
        }
        let names = match &seen {
            Seen::Present(vmi) => vec![vmi.name.clone()],
            Seen::Gone(name) => {
                if let Some(printer) = &self.parts.printer {
                    printer.forget(name);
                }
                vec![]
            }
            Seen::All(vmis) => vmis.iter().flatten().map(|vmi| vmi.name.clone()).collect(),
            Seen::Nothing => vec![],
        };
        let pods = &self.parts.pods;
        let steps = reconciler.observe(seen, &mut |pod: &Pod<'_>| pods.find(pod));
        let held: Vec<_> = names.iter().flat_map(|name| reconciler.names_of(name)).collect();
        self.parts.reconciler = Some(reconciler);
        self.steps(steps);
        for name in held {
            self.publish(&name);
        }
    }

    /// Something came that is no object.
    pub(in crate::node) fn ignored(&self, why: &str) {
        if let Some(daemon) = self.parts.metrics.daemon() {
            metrics::count(&daemon.ignored);
        }
        log::warn!("{why}");
    }

    pub(super) fn steps(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Request(vmi, request) => {
                    self.waits.retain(|(of, _), _| *of != vmi);
                    if self.is_clients(&request) {
                        self.refuse_object(&vmi, &request);
                        continue;
                    }
                    let request = self.with_ports(request);
                    self.request(request.clone(), Waiter::Object(request));
                }
                Step::Waiting { vmi, side, what } => {
                    let known = self.waits.get(&(vmi.clone(), side));
                    if known != Some(&what) {
                        log::info!(vmi:%, side:%, what = what.as_str(); "waiting");
                        if self.waits.len() >= 10_000 {
                            self.waits.clear();
                        }
                        self.waits.insert((vmi, side), what);
                    }
                }
                Step::Ignored { why } => self.ignored(&why),
            }
        }
    }

    /// Whether a client of the control API asked for these listeners first. Then an object does not get
    /// them, as a client does not get an object's.
    pub(super) fn is_clients(&self, request: &Request) -> bool {
        let asked = request.name().and_then(|name| self.asked.get(&name));
        matches!(asked, Some((By::Api, _)))
    }

    pub(super) fn refuse_object(&mut self, vmi: &VmiName, request: &Request) {
        let now = self.now();
        let (Some(name), false) = (request.name(), matches!(request, Request::Delete(_))) else { return };
        log::warn!(vmi:%, name:%; "the object does not get its listeners: a client of the control API has them; they are the object's once they are deleted there");
        if let Some(reconciler) = &mut self.parts.reconciler {
            reconciler.failed(now, &name);
        }
    }

    pub(super) fn object_answered(&mut self, request: Request, result: &Result<Done, Refusal>) {
        let Some(name) = request.name() else { return };
        let now = self.now();
        match (result, &mut self.parts.reconciler) {
            (Ok(done), reconciler) => {
                if let Some(reconciler) = reconciler {
                    reconciler.succeeded(&name);
                }
                self.note(By::Vmi, request, done);
                self.publish(&name);
            }
            (Err(why), reconciler) => {
                log::warn!(name:%, error:% = why; "an object's listeners were refused; it is tried again");
                if let Some(reconciler) = reconciler {
                    reconciler.failed(now, &name);
                }
            }
        }
    }

    /// Prints what a target has to publish, if its object does not say so yet.
    pub(super) fn publish(&mut self, name: &Name) {
        if !matches!(self.asked.get(name), Some((By::Vmi, _))) {
            return; // a client's, whatever object wants it
        }
        let now = self.now();
        let Parts { reconciler: Some(reconciler), printer: Some(printer), registry, .. } = &mut self.parts
        else {
            return;
        };
        let Some(publication) = reconciler.publish(name, registry, now) else { return };
        log::info!(vmi:% = publication.vmi; "{}", publication.event_message());
        printer.print(&publication.vmi, publication.to_json());
    }
}
