//! What a command needs of files and ports once it runs, read from its command line: all else is given up.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use relay_migration::PortRange;
use rustix::thread::{CapabilitySet, capabilities};

use super::reach;
use crate::cli::{Forward, Node, Source, Target, TlsFiles};
use crate::endpoint::{Endpoint, Host};
use crate::node::pods::Pods;

/// Ports that are worth a rule each. A range with more is not looked at.
const RANGE_MAX: u32 = 1024;

/// See the [module](self).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Needs {
    /// Files that are read, at the start and whenever they change.
    pub(super) files: Vec<PathBuf>,
    /// A directory of its own, in which it writes.
    pub(super) state: Option<PathBuf>,
    /// Where sockets are made, and removed.
    pub(super) sockets: Sockets,
    /// Names are looked up.
    pub(super) names: bool,
    /// TCP ports that are listened at, 0 for whichever the kernel chooses; `None` for any.
    pub(super) bind: Option<BTreeSet<u16>>,
    /// TCP ports that are dialed; `None` for any.
    pub(super) connect: Option<BTreeSet<u16>>,
    /// Abstract unix sockets of others are dialed.
    pub(super) abstract_sockets: bool,
    /// What there is no way to do under Landlock: no rules are possible then.
    pub(super) impossible: Option<String>,
}

/// Directories in which sockets are made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Sockets {
    /// These, and what is beneath them.
    In(BTreeSet<PathBuf>),
    /// Whatever a request says.
    Anywhere,
}

impl Sockets {
    fn add(&mut self, directory: &Path) {
        if let Self::In(directories) = self {
            directories.insert(directory.to_owned());
        }
    }
}

/// Why what is behind another process' root is out of reach (ptrace(2) says who may look into it, and Landlock has a say
/// there).
const CLOSED: &str = "and the kernel closes other processes' roots to whoever is under Landlock";

impl Needs {
    /// Nothing of anybody's, but for any port.
    pub(crate) fn of_demo() -> Self {
        Self {
            files: Vec::new(),
            state: None,
            sockets: Sockets::In(BTreeSet::new()),
            names: false,
            bind: None,
            connect: None,
            abstract_sockets: false,
            impossible: None,
        }
    }

    fn new(tls: Option<&TlsFiles>, metrics: Option<&Endpoint>) -> Self {
        let notify = std::env::var("NOTIFY_SOCKET");
        let mut needs = Self {
            files: tls.map(TlsFiles::paths).unwrap_or_default(),
            bind: Some(BTreeSet::new()),
            connect: Some(BTreeSet::new()),
            abstract_sockets: notify.is_ok_and(|socket| socket.starts_with('@')),
            ..Self::of_demo()
        };
        if let Some(metrics) = metrics {
            needs.listens("--metrics", metrics);
        }
        needs
    }

    /// `forward`: everything is on the command line.
    pub(crate) fn of_forward(asked: &Forward) -> Self {
        let mut needs = Self::new(asked.tls.as_ref(), asked.metrics.as_ref());
        for (listen, connect) in &asked.pairs {
            needs.listens("--listen", listen);
            needs.dials("--connect", connect);
        }
        needs
    }

    /// `source`: sockets in one directory, and the target's ports.
    pub(crate) fn of_source(asked: &Source) -> Self {
        let mut needs = Self::new(asked.tls.as_ref(), asked.metrics.as_ref());
        needs.goes_through("--base-dir", asked.base_dir.as_path());
        needs.sockets.add(asked.base_dir.as_path());
        match asked.target {
            Host::Name(_) => needs.looks_up_what_it_dials(),
            Host::V4(_) | Host::V6(..) => {
                needs.connect = Some(asked.ports.iter().map(|(port, _)| port).collect())
            }
        }
        if asked.interface.is_some() {
            needs.binds(0); // the address to dial from
        }
        needs
    }

    /// `target`: ports, and unix sockets behind them. It dials no port at all.
    pub(crate) fn of_target(asked: &Target) -> Self {
        let mut needs = Self::new(asked.tls.as_ref(), asked.metrics.as_ref());
        for (_, backend) in asked.backends.iter() {
            needs.goes_through("--backend", backend.as_path());
        }
        match asked.range {
            Some(range) if range.size() > RANGE_MAX => needs.bind = None,
            Some(range) => ports(range).for_each(|port| needs.binds(port)),
            None => needs.binds(0),
        }
        needs
    }

    /// `node`: whatever it will be asked for, within what the command line says.
    pub(crate) fn of_node(asked: &Node) -> Self {
        let mut needs = Self::new(asked.tls.as_ref(), asked.metrics.as_ref());
        needs.state.clone_from(&asked.state_dir);
        needs.looks_up_what_it_dials();
        needs.bind = None;
        if matches!(asked.takeover, Some(Endpoint::Abstract(_))) {
            needs.abstract_sockets = true;
        }
        match asked.vmis.as_ref().map(|_| &asked.pods) {
            Some(Pods::Processes(_)) => {
                needs.impossible("--vmis without --pod-run-dir reaches pods by /proc/PID/root")
            }
            Some(Pods::Template(template)) => needs.goes_through("--pod-run-dir", template.fixed()),
            None => {}
        }
        if asked.socket_dirs.is_empty() {
            if may_look_into_others() {
                needs.impossible(
                    "requests may name sockets by /proc/PID/root, unless --socket-dir says where they are",
                );
            }
            needs.sockets = Sockets::Anywhere;
        }
        for directory in &asked.socket_dirs {
            needs.goes_through("--socket-dir", directory.as_path());
            needs.sockets.add(directory.as_path());
        }
        if let Some(Pods::Template(template)) = asked.vmis.as_ref().map(|_| &asked.pods) {
            needs.sockets.add(template.fixed());
        }
        needs.listens("--control", &asked.control);
        needs
    }

    fn listens(&mut self, option: &str, at: &Endpoint) {
        match at {
            Endpoint::Unix(path) => {
                self.goes_through(option, path);
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                self.sockets.add(path.parent().unwrap_or_else(|| Path::new("/")));
            }
            Endpoint::Tcp(at) | Endpoint::Tls(at) => {
                self.names |= matches!(at.host, Host::Name(_));
                self.binds(at.port);
            }
            Endpoint::Abstract(_) | Endpoint::Fd(_) => {}
        }
    }

    fn dials(&mut self, option: &str, at: &Endpoint) {
        match at {
            Endpoint::Unix(path) => self.goes_through(option, path),
            Endpoint::Abstract(_) => self.abstract_sockets = true,
            Endpoint::Tcp(at) | Endpoint::Tls(at) => match (&at.host, &mut self.connect) {
                (Host::Name(_), _) => self.looks_up_what_it_dials(),
                (Host::V4(_) | Host::V6(..), Some(ports)) => {
                    ports.insert(at.port);
                }
                (Host::V4(_) | Host::V6(..), None) => {}
            },
            Endpoint::Fd(_) => {}
        }
    }

    /// A library asks whomever it was told to ask, by TCP too.
    fn looks_up_what_it_dials(&mut self) {
        self.names = true;
        self.connect = None;
    }

    fn binds(&mut self, port: u16) {
        if let Some(ports) = &mut self.bind {
            ports.insert(port);
        }
    }

    fn goes_through(&mut self, option: &str, path: &Path) {
        if reach::follow(path).through_process {
            self.impossible(&format!("{option} {} leads through another process' root", path.display()));
        }
    }

    fn impossible(&mut self, why: &str) {
        self.impossible.get_or_insert_with(|| format!("{why}, {CLOSED}"));
    }
}

fn ports(range: PortRange) -> impl Iterator<Item = u16> {
    (1..=u16::MAX).filter(move |port| range.contains(*port))
}

/// Whether it could reach a pod by its processes at all (ptrace(2), PTRACE_MODE_READ_FSCREDS).
fn may_look_into_others() -> bool {
    // Who can't be asked may have been given anything.
    capabilities(None).map_or(true, |sets| sets.effective.contains(CapabilitySet::SYS_PTRACE))
}
