//! Opening what a command is to listen on: the routes, and what is to be told about them.
//!
//! For `source` and `target` it is relay-migration's registry that says what to open, finds ports and
//! undoes what was begun if one of them fails; here are the sockets. The same registry runs a node's
//! manager, so both mean the same by the same words.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use relay_core::Instant;
use relay_migration::PortMap;
use relay_migration::registry::{
    Config, Demand, Done, Event, Input, ListenerId, Network, OpenError, Refusal, Registry, Request,
    SourceRequest, TargetRequest, Ticket,
};
use serde::Serialize;

use crate::cli::{Address, Forward, Source, Target};
use crate::endpoint::Endpoint;
use crate::inherited::Inherited;
use crate::interface;
use crate::listen::{ListenOptions, Rights, listen};
use crate::logging::say;
use crate::metrics::{self, Metrics, Scrapes};
use crate::resolve::Backend;
use crate::server::{Label, Plan, Route};
use crate::site::{Site, Trouble};
use crate::tls::Tls;

/// What is open, and what standard output is told besides where it listens.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) routes: Vec<Route>,
    /// One line of JSON.
    pub(crate) answer: Option<String>,
}

/// Why a program ends early: one line.
#[derive(Debug)]
pub(crate) struct Failed(pub(crate) String);

impl Failed {
    pub(crate) fn at(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self(format!("{what}: {why}"))
    }

    fn dialing(what: &Endpoint, why: impl fmt::Display) -> Self {
        Self(format!("cannot dial {what}: {why}"))
    }
}

/// Answers those who ask for metrics from now on, if that is wished; says where.
pub(crate) fn begin_metrics(
    at: Option<&Endpoint>,
    metrics: &Arc<Metrics>,
    inherited: &mut Inherited,
) -> Result<Option<Scrapes>, Failed> {
    let Some(at) = at else { return Ok(None) };
    let listener = listen(at, &metrics_options(), inherited)
        .map_err(|e| Failed::at(format_args!("cannot listen on {at} for metrics"), e))?;
    let local = listener.local().clone();
    let scrapes = metrics::start(listener, Arc::clone(metrics))
        .map_err(|e| Failed::at("could not start a thread for metrics", e))?;
    say(&format!("metrics {local}"));
    Ok(Some(scrapes))
}

/// The same as soon as the process whose place is taken has let go of it.
pub(crate) fn begin_metrics_after(
    at: Option<&Endpoint>,
    metrics: &Arc<Metrics>,
) -> Result<Option<Scrapes>, Failed> {
    let Some(at) = at.cloned() else { return Ok(None) };
    let listen = move || {
        let listener = listen(&at, &metrics_options(), &mut Inherited::none())?;
        say(&format!("metrics {}", listener.local()));
        Ok(listener)
    };
    let scrapes = metrics::start_when_free(listen, Arc::clone(metrics));
    scrapes.map(Some).map_err(|e| Failed::at("could not start a thread for metrics", e))
}

/// Whoever reaches the file may read.
fn metrics_options() -> ListenOptions {
    ListenOptions { rights: Rights { mode: 0o666, owner: None }, ..ListenOptions::default() }
}

/// `forward`: pairs as they are.
pub(crate) fn forward(
    asked: &Forward,
    tls: Option<&Arc<Tls>>,
    inherited: &mut Inherited,
) -> Result<Opening, Failed> {
    let options = ListenOptions { rights: asked.rights, tcp: asked.serving.tcp, ..ListenOptions::default() };
    let route = |(listen_at, connect): &(Endpoint, Endpoint)| {
        let backend = Backend::new(connect).map_err(|e| Failed::dialing(connect, e))?;
        let listener = listen(listen_at, &options, inherited)
            .map_err(|e| Failed::at(format_args!("cannot listen on {listen_at}"), e))?;
        let backend = backend.with_options(asked.serving.tcp).held_by(asked.holder);
        let plan = Plan::new(listener.local().clone(), backend, tls, &asked.serving.timeouts)
            .map_err(|e| Failed::dialing(connect, e))?;
        Ok(Route { listener, plan: Arc::new(plan) })
    };
    let routes = asked.pairs.iter().map(route).collect::<Result<_, Failed>>()?;
    Ok(Opening { routes, answer: None })
}

/// What a source is told on standard output.
#[derive(Serialize)]
struct Files {
    files: Vec<String>,
}

/// `source`: unix sockets here, ports of the target's node there.
pub(crate) fn source(asked: &Source, tls: Option<&Arc<Tls>>) -> Result<Opening, Failed> {
    let request = SourceRequest {
        key: asked.key.clone(),
        target: asked.target.clone(),
        ports: asked.ports.clone(),
        base_dir: asked.base_dir.clone(),
        owner: asked.rights.owner,
        lease: None,
    };
    // Its network is for targets only.
    let nowhere = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let config = Config::new(Network { bind: nowhere, advertise: nowhere });
    let origin = asked.interface.as_deref().map(|name| {
        if let Err(why) = interface::Origin::of(name) {
            log::warn!(interface = name, error:% = why; "dialing from whatever address the kernel chooses, until the interface has one");
        }
        Arc::new(interface::SharedOrigin::looking_at(name))
    });
    let site = Site { mode: asked.rights.mode, origin, ..Site::new(tls, asked.serving) };
    let (routes, done) = site.answer(Registry::new(config), Request::SetSource(request))?;
    let Done::Source { files } = done else { return Err(unexpected()) };
    let files = files.into_iter().map(|(_, path)| path.to_string()).collect();
    Ok(Opening { routes, answer: Some(json(&Files { files })?) })
}

/// What a target is told on standard output.
#[derive(Serialize)]
struct Ports {
    ports: PortMap,
    address: IpAddr,
}

/// `target`: ports here, the pod's unix sockets behind them.
pub(crate) fn target(asked: &Target, tls: Option<&Arc<Tls>>) -> Result<Opening, Failed> {
    let (bind, zone) = bind_address(&asked.bind);
    let found = if asked.advertise.is_some() { None } else { Some(interface::advertised(bind)) };
    let advertise = asked.advertise.or(found).unwrap_or(bind);
    let config = Config { range: asked.range, ..Config::new(Network { bind, advertise }) };
    let request = TargetRequest {
        key: asked.key.clone(),
        backends: asked.backends.clone(),
        keep: PortMap::default(),
        lease: None,
    };
    let site = Site { zone, holder: asked.holder, ..Site::new(tls, asked.serving) };
    let (routes, done) = site.answer(Registry::new(config), Request::SetTarget(request))?;
    let Done::Target { ports, address } = done else { return Err(unexpected()) };
    if let Some(found) = found.filter(|found| *found != bind) {
        tell_advertised(found);
    }
    interface::warn_if_link_local(address);
    Ok(Opening { routes, answer: Some(json(&Ports { ports, address })?) })
}

fn json(answer: &impl Serialize) -> Result<String, Failed> {
    serde_json::to_string(answer).map_err(|e| Failed::at("could not print the answer", e))
}

fn unexpected() -> Failed {
    Failed("the listeners' manager gave no answer".to_owned())
}

/// Where to listen: as upstream, an interface that is not there or not ready is no reason not to.
fn bind_address(asked: &Address) -> (IpAddr, Option<String>) {
    match asked {
        Address::Any => (interface::any(), None),
        Address::Of(address, zone) => (*address, zone.clone()),
        Address::Interface(name) => match interface::first_global(name) {
            Ok(address) => (address, None),
            Err(why) => {
                log::warn!(interface = name.as_str(), error:% = why; "listening at every address instead of the interface's");
                (interface::any(), None)
            }
        },
    }
}

/// Tells the operator what was found.
fn tell_advertised(address: IpAddr) {
    if address.is_loopback() {
        log::warn!(address:% = address; "others can reach none of this machine's addresses; --advertise says what to tell sources");
    } else {
        log::info!(address:% = address; "sources are told the address of the default route; --advertise says another");
    }
}

impl Site {
    /// Does what the registry demands until it has answered.
    fn answer(&self, mut registry: Registry, request: Request) -> Result<(Vec<Route>, Done), Failed> {
        // Nothing here takes so long that a clock would matter, and there is no lease.
        let now = Instant::ZERO;
        let mut open: BTreeMap<ListenerId, Route> = BTreeMap::new();
        let mut events = registry.handle(now, Input::Request(Ticket(0), request));
        let mut failed = None;
        while let Some(demand) = next(&registry) {
            let fact = match demand {
                Demand::Open { id, name, channel, listen, dial } => {
                    let label = Label { key: name.key, channel };
                    match self.route(label, &listen, &dial) {
                        Ok(route) => {
                            let port = route.listener.port().unwrap_or(0);
                            open.insert(id, route);
                            Input::Opened { id, port }
                        }
                        Err(Trouble::Listen(why)) => Input::OpenFailed { id, why },
                        Err(Trouble::Dial(why)) => {
                            failed.get_or_insert(Failed(why));
                            Input::OpenFailed {
                                id,
                                why: OpenError::Other("there is nothing to dial".to_owned()),
                            }
                        }
                    }
                }
                Demand::Close { id } => {
                    open.remove(&id);
                    Input::Closed(id)
                }
                // Owners are right when a socket is opened, and nothing ever changes here.
                Demand::Own { id, owner } => Input::Owned { id, owner },
                Demand::Route { id, dial } => Input::Routed { id, dial },
            };
            events.extend(registry.handle(now, fact));
        }
        let answer = events.into_iter().find_map(|event| match event {
            Event::Answered { result, .. } => Some(result),
            Event::Changed(_) | Event::Expired(_) | Event::Failed { .. } => None,
        });
        match (failed, answer) {
            (Some(failed), _) => Err(failed),
            (None, Some(Ok(done))) => Ok((open.into_values().collect(), done)),
            (None, Some(Err(Refusal::PortsExhausted { range, .. }))) => Err(Failed(format!(
                "no port of {range} is free for a backend; widen --port-range, or end what listens there"
            ))),
            (None, Some(Err(refusal))) => Err(Failed(refusal.to_string())),
            (None, None) => Err(unexpected()),
        }
    }
}

/// The next thing that the registry demands.
fn next(registry: &Registry) -> Option<Demand> {
    registry.demands().next()
}
