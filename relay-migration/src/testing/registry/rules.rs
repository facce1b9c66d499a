//! What must hold of a registry in its world, each rule a named checker.

use std::collections::BTreeSet;
use std::fmt;

use super::world::{Socket, World};
use crate::registry::{Dial, Name, OpenCount, Side};

/// A rule's name, as docs/ARCHITECTURE.md lists them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Rule {
    /// What is in force really listens: every channel, where it is said to, at any time.
    R1,
    /// When all is done, nothing else listens, and everything is as it was asked for.
    R2,
    /// A request that fails leaves what was there before.
    R3,
    /// Every ticket is answered once.
    R4,
    /// Nothing is to be opened where something of ours is open.
    R5,
    /// Doing what is demanded comes to an end; each time something changes.
    R6,
    /// After a shutdown began, nothing new is taken.
    R7,
    /// Leases run out neither early nor late, and not under a session.
    R8,
    /// Counts are those of the facts.
    R9,
    /// What can be kept is kept: ports above all.
    R10,
    /// What is demanded is what a look at every listener finds.
    R11,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A rule and how it was broken.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Violation {
    /// Which one.
    pub rule: Rule,
    /// What was seen.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} broken: {}", self.rule, self.detail)
    }
}

impl std::error::Error for Violation {}

pub(super) const fn violated(rule: Rule, detail: String) -> Violation {
    Violation { rule, detail }
}

/// Fails with `rule` unless `holds`.
///
/// # Errors
/// The violation.
pub fn demand_that(rule: Rule, holds: bool, detail: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(violated(rule, detail())) }
}

/// What must hold whenever.
///
/// # Errors
/// The first rule that is broken.
pub fn always(world: &World) -> Result<(), Violation> {
    world.noticed()?;
    let registry = &world.registry;
    demand_that(Rule::R11, registry.demands().eq(registry.demands_of_all()), || {
        let [some, all] = [registry.demands().collect(), registry.demands_of_all().collect::<Vec<_>>()];
        format!("{some:?} of {all:?}")
    })?;
    for name in world.registry.names() {
        let listening = in_force(world, name);
        let sockets = world.sockets_of(name);
        for (channel, place) in &listening {
            let there = world.sockets.values().any(|s| s.name == *name && place_of(s) == *place);
            demand_that(Rule::R1, there, || {
                format!("{name}: channel {channel} is said to listen at {place}, and has {sockets:?}")
            })?;
        }
    }
    for (ticket, times) in &world.answered {
        demand_that(Rule::R4, *times <= 1, || format!("{ticket:?} was answered {times} times"))?;
    }
    let counted = world.registry.open_count();
    let is = OpenCount {
        migrations: world.registry.names().count(),
        listeners: world.sockets.len(),
        sessions: world.sessions.len() as u64,
    };
    demand_that(Rule::R9, counted.sessions == is.sessions, || {
        format!("counted {counted:?}, there are {is:?}")
    })
}

/// What must hold when nothing is demanded any more.
///
/// # Errors
/// The first rule that is broken.
pub fn at_rest(world: &World) -> Result<(), Violation> {
    always(world)?;
    let mut expected = BTreeSet::new();
    for name in world.registry.names() {
        for (channel, place) in in_force(world, name) {
            expected.insert((name.clone(), channel, place));
        }
    }
    let is: BTreeSet<_> =
        world.sockets.values().map(|s| (s.name.clone(), s.channel.to_string(), place_of(s))).collect();
    demand_that(Rule::R2, is == expected, || format!("listening {is:?}, in force {expected:?}"))?;
    for socket in world.sockets.values() {
        let wanted = dial_in_force(world, socket);
        demand_that(Rule::R2, wanted.as_ref() == Some(&socket.dial.to_string()), || {
            format!("{socket:?} should dial {wanted:?}")
        })?;
    }
    for (ticket, times) in &world.answered {
        demand_that(Rule::R4, *times == 1, || format!("{ticket:?} was answered {times} times"))?;
    }
    let (counted, listeners) = (world.registry.open_count(), world.sockets.len());
    demand_that(Rule::R9, counted.listeners == listeners, || {
        format!("counted {counted:?}, {listeners} sockets listen")
    })
}

/// Channel and place of all that is said to listen.
fn in_force(world: &World, name: &Name) -> Vec<(String, String)> {
    match name.side {
        Side::Target => {
            let view = world.registry.target(&name.key, world.now);
            let ports = view.map(|view| view.ports).unwrap_or_default();
            ports.iter().map(|(port, channel)| (channel.to_string(), port.to_string())).collect()
        }
        Side::Source => {
            let view = world.registry.source(&name.key, world.now);
            let files = view.map(|view| view.files).unwrap_or_default();
            files.iter().map(|(channel, path)| (channel.to_string(), path.to_string())).collect()
        }
    }
}

fn place_of(socket: &Socket) -> String {
    match (socket.port(), socket.file()) {
        (Some(port), _) => port.to_string(),
        (None, file) => file.map(|(path, _)| path.to_string()).unwrap_or_default(),
    }
}

fn dial_in_force(world: &World, socket: &Socket) -> Option<String> {
    let (key, channel) = (&socket.name.key, socket.channel);
    match socket.name.side {
        Side::Target => {
            let view = world.registry.target(key, world.now)?;
            Some(view.backends.get(channel)?.to_string())
        }
        Side::Source => {
            let view = world.registry.source(key, world.now)?;
            let port = view.ports.port(channel)?;
            Some(Dial::Tcp { host: view.target, port }.to_string())
        }
    }
}
