//! The two nodes, and what they report.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rcgen::ExtendedKeyUsagePurpose as Purpose;
use relay_core::admission::Limits;
use relay_core::{EndReason, Failure, Leg};
use relay_tls::Identity;

use super::pki::Authority;
use crate::cli::Timeouts;
use crate::control::{self, Command, Controller};
use crate::crowd::Crowded;
use crate::endpoint::{Endpoint, Host, HostPort};
use crate::inherited::Inherited;
use crate::listen::{ListenOptions, listen};
use crate::observer::{LogObserver, Observer, SessionEnded};
use crate::resolve::Backend;
use crate::server::{self, Plan, Route, Server};
use crate::sessions::SessionTable;
use crate::tls::Tls;

/// A short drain: whatever is open has at most this long.
const DRAIN: Duration = Duration::from_secs(20);

/// What a node said when a session ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) connect: Endpoint,
    pub(super) front: EndReason,
    pub(super) back: EndReason,
    pub(super) said: Option<String>,
}

impl Ended {
    /// Whether this failure is a reason of either direction.
    pub(super) fn failed_by(&self, failure: impl Fn(Failure) -> bool) -> bool {
        [self.front, self.back].into_iter().any(|reason| match reason {
            EndReason::SourceFailed(why) | EndReason::SinkFailed(why) | EndReason::SetupFailed(_, why) => {
                failure(why)
            }
            EndReason::Eof
            | EndReason::CloseNotify
            | EndReason::Severed
            | EndReason::TimedOut(_)
            | EndReason::Distrusted(..)
            | EndReason::Aborted => false,
        })
    }
}

/// Remembers every session's end, and logs it for whoever sets `RUST_LOG`.
#[derive(Debug, Default)]
pub(super) struct Witness(Mutex<Vec<Ended>>);

impl Witness {
    pub(super) fn find(&self, wanted: impl Fn(&Ended) -> bool) -> Option<Ended> {
        let ended = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ended.iter().find(|ended| wanted(ended)).cloned()
    }
}

impl Observer for Witness {
    fn session_ended(&self, ended: &SessionEnded<'_>) {
        LogObserver.session_ended(ended);
        let said = Leg::BOTH.into_iter().find_map(|leg| ended.tls_error(leg)).map(str::to_owned);
        let flows = &ended.outcome.flows;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Ended {
            connect: ended.plan.backend().endpoint().clone(),
            front: flows.front.reason,
            back: flows.back.reason,
            said,
        });
    }

    fn accept_paused(&self, listen: &Endpoint, why: &io::Error) {
        LogObserver.accept_paused(listen, why);
    }

    fn crowded(&self, crowded: &Crowded) {
        LogObserver.crowded(crowded);
    }

    fn order_broken(&self, listen: &Endpoint, window: Duration) {
        LogObserver.order_broken(listen, window);
    }

    fn accept_resumed(&self, listen: &Endpoint) {
        LogObserver.accept_resumed(listen);
    }
}

/// A node that is ready to be served.
pub(super) struct Node {
    pub(super) server: Server,
    pub(super) controller: Controller,
    pub(super) witness: Arc<Witness>,
}

/// The abstract socket names of one demo, and the port between its nodes.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// Where the source's node listens.
    pub(super) front: String,
    /// Where a node with a stranger's certificate does.
    pub(super) stranger: String,
    /// Where the sink does.
    pub(super) sink: String,
    /// Where the target's node listens, on 127.0.0.1.
    pub(super) port: u16,
}

/// Both nodes, listening.
pub(super) struct Stage {
    pub(super) source: Node,
    pub(super) target: Node,
    pub(super) names: Names,
}

fn node(routes: Vec<Route>) -> Result<Node, String> {
    let (controller, commands) = control::channel().map_err(|e| format!("no socket pair: {e}"))?;
    let witness = Arc::new(Witness::default());
    let observer = Arc::clone(&witness) as Arc<dyn Observer>;
    let server = Server {
        routes: server::numbered(routes),
        sessions: SessionTable::new(),
        limits: Limits::default(),
        threads: None,
        drain_timeout: Some(DRAIN),
        observer,
        commands,
    };
    Ok(Node { server, controller, witness })
}

fn route(listen_at: &Endpoint, connect: &Endpoint, tls: &Arc<Tls>) -> Result<Route, String> {
    let listener = listen(listen_at, &ListenOptions::default(), &mut Inherited::none())
        .map_err(|e| format!("cannot listen on {listen_at}: {e}"))?;
    let backend = Backend::new(connect).map_err(|e| format!("cannot dial {connect}: {e}"))?;
    let plan = Plan::new(listener.local().clone(), backend, Some(tls), &Timeouts::default())
        .map_err(|e| format!("cannot dial {connect}: {e}"))?;
    Ok(Route { listener, plan: Arc::new(plan) })
}

/// The settings of one that is `own`, and expects `peer`.
fn tls(
    authority: &Authority,
    own: &str,
    purpose: Purpose,
    trusted: &Authority,
    peer: &str,
) -> Result<Arc<Tls>, String> {
    let material = authority.identity(own, purpose, trusted)?;
    let peer: Identity = format!("cn:{peer}").parse().map_err(|e| format!("{e}"))?;
    Tls::new(&material, &[peer]).map(Arc::new).map_err(|e| e.to_string())
}

impl Stage {
    /// Makes the certificates and both nodes. `tag` makes the sockets' names unique.
    pub(super) fn new(tag: &str) -> Result<Self, String> {
        let (source, target) = ("demo:source", "demo:target");
        let ours = Authority::new("demo CA")?;
        let theirs = Authority::new("a stranger's CA")?;
        let names = Names {
            front: format!("relay-demo-{tag}-front"),
            stranger: format!("relay-demo-{tag}-stranger"),
            sink: format!("relay-demo-{tag}-sink"),
            port: 0,
        };
        let between = |port| Endpoint::Tls(HostPort { host: Host::V4([127, 0, 0, 1].into()), port });
        let inward = route(
            &between(0),
            &Endpoint::Abstract(names.sink.clone()),
            &tls(&ours, target, Purpose::ServerAuth, &ours, source)?,
        )?;
        let port = inward.listener.port().ok_or("the target's node has no port")?;
        let outward = route(
            &Endpoint::Abstract(names.front.clone()),
            &between(port),
            &tls(&ours, source, Purpose::ClientAuth, &ours, target)?,
        )?;
        // It bears the right name and accepts the target; only its authority is another.
        let stranger = route(
            &Endpoint::Abstract(names.stranger.clone()),
            &between(port),
            &tls(&theirs, source, Purpose::ClientAuth, &ours, target)?,
        )?;
        Ok(Self {
            source: node(vec![outward, stranger])?,
            target: node(vec![inward])?,
            names: Names { port, ..names },
        })
    }
}

/// Tells several nodes the same.
pub(super) fn tell(nodes: &[&Controller], command: impl Fn() -> Command) {
    for controller in nodes {
        controller.send(command());
    }
}
