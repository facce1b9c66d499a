//! A runtime that does what the registry demands, on a simulated kernel, with faults.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use relay_core::Instant;

use super::rules::{Rule, Violation, violated};
use crate::registry::{
    Config, Demand, Dial, Done, Event, Input, Listen, ListenerId, Name, OpenError, Owner, Refusal, Registry,
    Request, Ticket,
};
use crate::{Channel, SocketPath};

/// A defect of the runtime or of the registry, re-enacted where both meet. Each must be noticed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Mutant {
    /// None.
    #[default]
    None,
    /// What failed to get its owner is left open: upstream's leak.
    LeaksAfterFailure,
    /// The former is closed before the new one is open: upstream's order.
    ClosesFormerFirst,
    /// A listener that was lost is not told: upstream's dead accept loop.
    HidesLoss,
    /// Answers are passed on twice.
    AnswersTwice,
    /// An answer is swallowed.
    SwallowsAnswer,
    /// A closed session is not told.
    ForgetsSessionEnd,
    /// What is routed is not done.
    RoutesNothing,
}

/// A socket that really listens.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Socket {
    /// Whose.
    pub name: Name,
    /// For which channel.
    pub channel: Channel,
    /// Where: with its port and its owner.
    pub listen: Listen,
    /// Whom it dials.
    pub dial: Dial,
}

impl Socket {
    /// Its port.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        match self.listen {
            Listen::Tcp { port, .. } => Some(port),
            Listen::Unix { .. } => None,
        }
    }

    /// Its path and owner.
    #[must_use]
    pub const fn file(&self) -> Option<(&SocketPath, Option<Owner>)> {
        match &self.listen {
            Listen::Unix { path, owner } => Some((path, *owner)),
            Listen::Tcp { .. } => None,
        }
    }
}

/// A registry, a runtime and a kernel.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    /// What is tested.
    pub registry: Registry,
    /// The time.
    pub now: Instant,
    /// What really listens.
    pub sockets: BTreeMap<ListenerId, Socket>,
    /// Ports that other programs have.
    pub foreign: BTreeSet<u16>,
    /// The registry chooses ports, not the kernel.
    ranged: bool,
    /// Nothing can be given to this one.
    pub bad_owner: Option<Owner>,
    /// No port can be bound.
    pub bad_address: bool,
    /// Nothing can be bound in this directory.
    pub bad_dir: Option<String>,
    /// Open sessions.
    pub sessions: Vec<ListenerId>,
    /// How often each ticket was answered.
    pub answered: BTreeMap<Ticket, u32>,
    /// Names whose change failed without anybody to be told.
    pub failed: Vec<Name>,
    /// What is wrong on purpose.
    pub mutant: Mutant,
    violation: Option<Violation>,
    next_ticket: u64,
    next_port: u16,
}

/// The most demands that one input can make necessary here.
const STEPS: usize = 200;

impl World {
    /// Nothing listens.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            registry: Registry::new(config),
            ranged: config.range.is_some(),
            now: Instant::ZERO,
            sockets: BTreeMap::new(),
            foreign: BTreeSet::new(),
            bad_owner: None,
            bad_address: false,
            bad_dir: None,
            sessions: vec![],
            answered: BTreeMap::new(),
            failed: vec![],
            mutant: Mutant::None,
            violation: None,
            next_ticket: 0,
            next_port: 32768,
        }
    }

    /// Tells the registry something.
    pub fn tell(&mut self, input: Input) -> Vec<Event> {
        let events = self.registry.handle(self.now, input);
        self.note(&events);
        events
    }

    /// Time passes, and timers fire.
    pub fn pass(&mut self, time: Duration) -> Vec<Event> {
        self.now = self.now + time;
        let events = self.registry.handle_timeout(self.now);
        self.note(&events);
        events
    }

    /// Asks, without waiting for the answer.
    pub fn ask(&mut self, request: Request) -> (Ticket, Vec<Event>) {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.answered.insert(ticket, 0);
        (ticket, self.tell(Input::Request(ticket, request)))
    }

    /// Asks, does all that is to be done, and gives the answer.
    ///
    /// # Panics
    /// If there is none.
    pub fn request(&mut self, request: Request) -> Result<Done, Refusal> {
        let (ticket, mut events) = self.ask(request);
        events.extend(self.settle());
        let answers = events.into_iter().find_map(|event| match event {
            Event::Answered { ticket: of, result } if of == ticket => Some(result),
            Event::Answered { .. } | Event::Changed(_) | Event::Expired(_) | Event::Failed { .. } => None,
        });
        answers.unwrap_or_else(|| panic!("{}: no answer", Rule::R4))
    }

    /// Does all that is demanded, in the order given.
    pub fn settle(&mut self) -> Vec<Event> {
        let mut events = vec![];
        for _ in 0..STEPS {
            let next = self.registry.demands().next();
            let Some(demand) = next else { return events };
            events.extend(self.perform(demand));
        }
        self.violation.get_or_insert_with(|| violated(Rule::R6, format!("no end after {STEPS} demands")));
        events
    }

    /// Does one thing that is demanded, and reports what came of it.
    pub fn perform(&mut self, demand: Demand) -> Vec<Event> {
        let before = self.registry.clone();
        let input = match demand {
            Demand::Open { id, name, channel, listen, dial } => self.open(id, name, channel, listen, dial),
            Demand::Own { id, owner } if self.bad_owner == Some(owner) => {
                Input::OwnFailed { id, owner, why: "not permitted".into() }
            }
            Demand::Own { id, owner } => {
                if let Some(Socket { listen: Listen::Unix { owner: of, .. }, .. }) = self.sockets.get_mut(&id)
                {
                    *of = Some(owner);
                }
                Input::Owned { id, owner }
            }
            Demand::Route { id, dial } => {
                if let Some(socket) =
                    self.sockets.get_mut(&id).filter(|_| self.mutant != Mutant::RoutesNothing)
                {
                    socket.dial = dial.clone();
                }
                Input::Routed { id, dial }
            }
            Demand::Close { id } => {
                self.sockets.remove(&id);
                Input::Closed(id)
            }
        };
        let events = self.tell(input);
        if before == self.registry {
            self.violation.get_or_insert_with(|| violated(Rule::R6, "a demand that changes nothing".into()));
        }
        events
    }

    /// What is demanded fails.
    pub fn fail(&mut self, demand: Demand) -> Vec<Event> {
        match demand {
            Demand::Open { id, .. } => {
                self.tell(Input::OpenFailed { id, why: OpenError::Other("no such directory".into()) })
            }
            Demand::Own { id, owner } => self.tell(Input::OwnFailed { id, owner, why: "no".into() }),
            other @ (Demand::Route { .. } | Demand::Close { .. }) => self.perform(other),
        }
    }

    /// A listener closes by itself.
    pub fn lose(&mut self, id: ListenerId) -> Vec<Event> {
        self.sockets.remove(&id);
        if self.mutant == Mutant::HidesLoss {
            return vec![];
        }
        self.tell(Input::Lost { id, why: "gone".into() })
    }

    /// A connection is accepted.
    pub fn open_session(&mut self, id: ListenerId) {
        self.sessions.push(id);
        self.tell(Input::SessionOpened(id));
    }

    /// The oldest session ends.
    pub fn close_session(&mut self) {
        if !self.sessions.is_empty() {
            let id = self.sessions.remove(0);
            if self.mutant != Mutant::ForgetsSessionEnd {
                self.tell(Input::SessionClosed(id));
            }
        }
    }

    /// The sockets of one name, by channel.
    #[must_use]
    pub fn sockets_of(&self, name: &Name) -> BTreeMap<Channel, &Socket> {
        let of_name = self.sockets.values().filter(|socket| socket.name == *name);
        of_name.map(|socket| (socket.channel, socket)).collect()
    }

    /// What was noticed on the way.
    ///
    /// # Errors
    /// The first violation.
    pub fn noticed(&self) -> Result<(), Violation> {
        self.violation.clone().map_or(Ok(()), Err)
    }

    fn open(&mut self, id: ListenerId, name: Name, channel: Channel, listen: Listen, dial: Dial) -> Input {
        if self.mutant == Mutant::ClosesFormerFirst {
            self.sockets.retain(|_, socket| socket.name != name || socket.channel != channel);
        }
        let mut listen = listen;
        let result = match &mut listen {
            Listen::Tcp { address, port } => self.bind_port(*address, *port).map(|got| *port = got),
            Listen::Unix { path, owner } => self.bind_file(path, *owner),
        };
        let leaks = self.mutant == Mutant::LeaksAfterFailure;
        match result {
            Ok(()) => {
                let socket = Socket { name, channel, listen, dial };
                let port = socket.port().unwrap_or_default();
                self.sockets.insert(id, socket);
                Input::Opened { id, port }
            }
            Err(why) => {
                if leaks {
                    self.sockets.insert(id, Socket { name, channel, listen, dial });
                }
                Input::OpenFailed { id, why }
            }
        }
    }

    fn bind_port(&mut self, address: IpAddr, port: u16) -> Result<u16, OpenError> {
        let held = |port: u16| {
            self.sockets.values().any(|socket| {
                matches!(socket.listen, Listen::Tcp { address: a, port: p } if p == port && a == address)
            })
        };
        if self.bad_address {
            return Err(OpenError::Other("cannot assign requested address".into()));
        }
        if port != 0 {
            if held(port) && !self.ranged {
                // the kernel chose for another one what this one wants to keep
                return Err(OpenError::PortInUse);
            }
            if held(port) {
                let detail = format!("port {port} of {address} is demanded while it is open");
                self.violation.get_or_insert_with(|| violated(Rule::R5, detail));
            }
            return if self.foreign.contains(&port) { Err(OpenError::PortInUse) } else { Ok(port) };
        }
        while self.foreign.contains(&self.next_port) || held(self.next_port) {
            self.next_port += 1;
        }
        Ok(self.next_port)
    }

    fn bind_file(&mut self, path: &SocketPath, owner: Option<Owner>) -> Result<(), OpenError> {
        let is_held = |socket: &Socket| socket.file().is_some_and(|(held, _)| held == path);
        if self.sockets.values().any(is_held) {
            let detail = format!("{path} is demanded while it is open");
            self.violation.get_or_insert_with(|| violated(Rule::R5, detail));
        }
        if self.bad_dir.as_deref() == Some(path.base().as_str()) {
            return Err(OpenError::Other("no such directory".into()));
        }
        if owner.is_some() && owner == self.bad_owner {
            return Err(OpenError::Other("not permitted".into()));
        }
        Ok(())
    }

    fn note(&mut self, events: &[Event]) {
        for event in events {
            match event {
                Event::Answered { ticket, .. } => {
                    let twice = u32::from(self.mutant == Mutant::AnswersTwice);
                    let swallowed = u32::from(self.mutant == Mutant::SwallowsAnswer);
                    *self.answered.entry(*ticket).or_default() += 1 + twice - swallowed;
                }
                Event::Failed { name, .. } => self.failed.push(name.clone()),
                Event::Changed(_) | Event::Expired(_) => {}
            }
        }
    }
}
