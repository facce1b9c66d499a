//! What a target publishes reaches its object's status, whatever crosses it on the way: the watch lags and
//! leaves versions out, what is to be published waits and is overtaken, ports and addresses change,
//! the daemon is started anew. At rest the status has the ports that are listened at, and no other.
#![cfg(feature = "testing")]

mod common;

use std::net::IpAddr;

use common::merge;
use proptest::prelude::*;
use relay_migration::BaseDir;
use relay_migration::reconcile::{Config, Pod, Publication, Reconciler, Step};
use relay_migration::registry::{self, Input, Name, Network, Request, Side};
use relay_migration::testing::registry::world::World;
use relay_migration::vmi::read;
use serde_json::{Value, json};

const UID: &str = "d62c2a6f-d8f3-4cc5-a22e-4cffb7d5eac1";
const STATE: &str = "/status/migrationState";

#[derive(Clone, Copy, Debug)]
enum Event {
    /// The watch shows the next version of the object.
    Shown,
    /// The watch shows the latest version and leaves out those before.
    ShownLatest,
    /// Whoever takes what is to be published writes it into the status.
    Written,
    /// Somebody changes the object: its disks are copied, or not.
    DisksChanged,
    /// A listener is lost, and its port to somebody else: the next one is another.
    PortLost(usize),
    /// The migration network has another address.
    AddressChanged(u8),
    /// The daemon is killed and started, and somebody else has its ports.
    Restarted,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => Just(Event::Shown),
        2 => Just(Event::ShownLatest),
        4 => Just(Event::Written),
        1 => Just(Event::DisksChanged),
        2 => (0usize..3).prop_map(Event::PortLost),
        1 => (1u8..4).prop_map(Event::AddressChanged),
        1 => Just(Event::Restarted),
    ]
}

struct Cluster {
    /// All versions of the object, the latest last.
    versions: Vec<Value>,
    shown: usize,
    reconciler: Reconciler,
    world: World,
    network: Network,
    /// Waits to be written; a later one takes its place.
    waiting: Option<Publication>,
}

fn network(last: u8) -> Network {
    let address = IpAddr::from([10, 1, 1, last]);
    Network { bind: address, advertise: address }
}

fn reconciler() -> Reconciler {
    Reconciler::new(Config::new("node02").expect("name"))
}

impl Cluster {
    fn new() -> Self {
        let object = json!({
            "metadata": { "namespace": "default", "name": "vm", "uid": UID,
                "labels": { "kubevirt.io/migrationTargetNodeName": "node02" } },
            "status": { "nodeName": "node01", "migrationTransport": "Unix", "migrationMethod": "LiveMigration",
                "migrationState": { "sourceNode": "node01", "targetNode": "node02" } },
        });
        let network = network(1);
        let world = World::new(registry::Config::new(network));
        let mut cluster = Self {
            versions: vec![object],
            shown: 0,
            reconciler: reconciler(),
            world,
            network,
            waiting: None,
        };
        cluster.show(0);
        cluster
    }

    fn latest(&self) -> &Value {
        self.versions.last().expect("one at least")
    }

    fn show(&mut self, version: usize) {
        self.shown = version;
        let seen = read(self.versions[version].to_string().as_bytes()).expect("readable");
        let mut find = |_: &Pod<'_>| -> Option<BaseDir> { "/run".parse().ok() };
        for step in self.reconciler.observe(seen, &mut find) {
            // it is on its source's node that two ports for a channel stop it
            let Step::Request(_, request @ Request::SetTarget(_)) = step else { panic!("{step}") };
            self.world.request(request).expect("listens");
        }
        self.publish();
    }

    fn publish(&mut self) {
        let name = Name::new(Side::Target, UID.parse().expect("key"));
        let new = self.reconciler.publish(&name, &self.world.registry, self.world.now);
        self.waiting = new.or_else(|| self.waiting.take());
    }

    fn change(&mut self, change: impl FnOnce(&mut Value)) {
        let mut object = self.latest().clone();
        change(&mut object);
        self.versions.push(object);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Shown if self.shown + 1 < self.versions.len() => self.show(self.shown + 1),
            Event::Shown => {}
            Event::ShownLatest => self.show(self.versions.len() - 1),
            Event::Written => {
                if let Some(publication) = self.waiting.take() {
                    self.change(|object| merge(object, &publication.patch()));
                }
            }
            Event::DisksChanged => self.change(|object| {
                let method = &mut object["status"]["migrationMethod"];
                *method =
                    if *method == "LiveMigration" { json!("BlockMigration") } else { json!("LiveMigration") };
            }),
            Event::PortLost(which) => {
                let all: Vec<_> =
                    self.world.sockets.iter().map(|(id, socket)| (*id, socket.port())).collect();
                let (id, port) = all[which % all.len()];
                self.world.foreign.extend(port);
                self.world.lose(id);
                self.world.settle();
                self.publish();
            }
            Event::AddressChanged(last) => {
                self.network = network(last);
                self.world.tell(Input::Network(self.network));
                self.world.settle();
                self.publish();
            }
            Event::Restarted => {
                let mut foreign = self.world.foreign.clone();
                foreign.extend(self.world.sockets.values().filter_map(|socket| socket.port()));
                self.world = World::new(registry::Config::new(self.network));
                self.world.foreign = foreign;
                self.reconciler = reconciler();
                self.waiting = None;
                self.show(self.versions.len() - 1);
            }
        }
    }

    /// Nothing happens any more but what has begun.
    fn rest(&mut self) {
        for _ in 0..20 {
            if self.shown + 1 == self.versions.len() && self.waiting.is_none() {
                return;
            }
            self.happen(Event::Written);
            self.happen(Event::ShownLatest);
        }
        panic!("it never comes to rest: {}", self.latest());
    }

    fn check(&self) {
        let status = self.latest().pointer(STATE).expect("there");
        let name = Name::new(Side::Target, UID.parse().expect("key"));
        let view = self.world.registry.target(&name.key, self.world.now).expect("listens");
        assert_eq!(status["targetNodeAddress"], view.address.to_string());
        let said = status["targetDirectMigrationNodePorts"].to_string();
        assert_eq!(said, view.ports.to_string(), "status and listeners");
    }
}

/// The first publication is written, and withdrawn before the watch has shown it.
#[test]
fn a_port_that_is_withdrawn_before_the_watch_shows_it_is_taken_out_of_the_status() {
    let mut cluster = Cluster::new();
    cluster.happen(Event::Written);
    cluster.happen(Event::PortLost(0));
    cluster.happen(Event::Written);
    // now, and not only once somebody has shown it
    cluster.check();
    cluster.rest();
    cluster.check();
}

/// Two ports for one channel: no source can use that, and the target they belong to mends it.
#[test]
fn a_status_with_two_ports_for_a_channel_is_mended_by_its_target() {
    let mut cluster = Cluster::new();
    cluster.happen(Event::Written);
    cluster.change(|object| {
        object["status"]["migrationState"]["targetDirectMigrationNodePorts"]["7"] = json!(0)
    });
    cluster.happen(Event::ShownLatest);
    cluster.rest();
    cluster.check();
}

#[test]
fn the_same_is_published_once_until_it_is_seen_again() {
    let mut cluster = Cluster::new();
    assert!(cluster.waiting.take().is_some());
    cluster.publish();
    assert_eq!(cluster.waiting, None);
    cluster.happen(Event::ShownLatest);
    assert!(cluster.waiting.is_some(), "its status still does not say it");
}

proptest! {
    #[test]
    fn at_rest_the_status_has_the_ports_that_are_listened_at(events in prop::collection::vec(event(), 0..40)) {
        let mut cluster = Cluster::new();
        for event in events {
            cluster.happen(event);
        }
        cluster.rest();
        cluster.check();
    }
}
