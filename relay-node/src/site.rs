//! What this machine makes of a listener that the registry demands: its socket, and the plan for what
//! connects there.

use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::sync::Arc;

use relay_migration::Host;
use relay_migration::registry::{Dial, Listen, OpenError};

use crate::cli::Serving;
use crate::endpoint::{Endpoint, HostPort};
use crate::failure::in_words;
use crate::handed::Handed;
use crate::inherited::Inherited;
use crate::interface::SharedOrigin;
use crate::listen::{
    ListenOptions, Listener, Rights, listen, listen_beneath, take_over_beneath, take_over_tcp,
};
use crate::resolve::Backend;
use crate::server::{Label, Plan, Route};
use crate::socket::Holder;
use crate::tls::Tls;

/// What all listeners of a node have in common.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// `None` for plaintext between the nodes.
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) serving: Serving,
    /// Of the sockets that a source makes.
    pub(crate) mode: u32,
    /// Of the address that targets listen at.
    pub(crate) zone: Option<String>,
    /// Who must be listening at a target's backends.
    pub(crate) holder: Option<Holder>,
    /// From where a source dials.
    pub(crate) origin: Option<Arc<SharedOrigin>>,
    /// What a predecessor listened at.
    pub(crate) handed: Handed,
}

/// Why there is no listener.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It can't be opened.
    Listen(OpenError),
    /// What it would dial can't be.
    Dial(String),
}

impl Trouble {
    fn listen(at: &Listen, error: &io::Error) -> Self {
        Self::Listen(match at {
            Listen::Tcp { port, .. } => match error.raw_os_error() {
                Some(libc::EADDRINUSE) => OpenError::PortInUse,
                Some(libc::EACCES) => OpenError::Other(format!(
                    "this process may not listen on port {port}; below 1024 that takes root, or CAP_NET_BIND_SERVICE"
                )),
                _ => OpenError::Other(in_words(error)),
            },
            Listen::Unix { .. } => {
                let is_one_of = |kinds: &[ErrorKind]| kinds.contains(&error.kind());
                if is_one_of(&[ErrorKind::AddrInUse, ErrorKind::AlreadyExists]) {
                    OpenError::Occupied(in_words(error))
                } else if is_one_of(&[ErrorKind::NotFound, ErrorKind::NotADirectory, ErrorKind::InvalidInput])
                {
                    OpenError::Unfit(in_words(error))
                } else {
                    OpenError::Other(in_words(error))
                }
            }
        })
    }

    fn dial(what: &Endpoint, why: impl std::fmt::Display) -> Self {
        Self::Dial(format!("cannot dial {what}: {why}"))
    }
}

impl Site {
    /// With nothing special.
    pub(crate) fn new(tls: Option<&Arc<Tls>>, serving: Serving) -> Self {
        Self {
            tls: tls.cloned(),
            serving,
            mode: Rights::default().mode,
            zone: None,
            holder: None,
            origin: None,
            handed: Handed::default(),
        }
    }

    /// Opens a listener.
    ///
    /// # Errors
    /// Why it can't be, and then nothing of it is left.
    pub(crate) fn route(&self, label: Label, listen: &Listen, dial: &Dial) -> Result<Route, Trouble> {
        self.route_beside(label, listen, dial, false)
    }

    /// The same, possibly beside another listener of ours at that port.
    ///
    /// # Errors
    /// As [`route`](Self::route).
    pub(crate) fn route_beside(
        &self,
        label: Label,
        listen: &Listen,
        dial: &Dial,
        beside: bool,
    ) -> Result<Route, Trouble> {
        let backend = self.backend(dial)?;
        let listener = self.listener(listen, beside).map_err(|e| Trouble::listen(listen, &e))?;
        let plan = self.plan(label, listener.local().clone(), backend)?;
        Ok(Route { listener, plan })
    }

    /// The plan for connections of an open listener, with another dial.
    ///
    /// # Errors
    /// If that can't be dialed.
    pub(crate) fn replan(&self, former: &Plan, dial: &Dial) -> Result<Arc<Plan>, Trouble> {
        let Some(label) = former.label() else {
            return Err(Trouble::Dial("it belongs to no migration".to_owned()));
        };
        self.plan(label.clone(), former.listen().clone(), self.backend(dial)?)
    }

    fn plan(&self, label: Label, local: Endpoint, backend: Backend) -> Result<Arc<Plan>, Trouble> {
        let connect = backend.endpoint().clone();
        let plan = Plan::new(local, backend, self.tls.as_ref(), &self.serving.timeouts)
            .map_err(|e| Trouble::dial(&connect, e))?;
        Ok(Arc::new(plan.labeled(label)))
    }

    fn backend(&self, dial: &Dial) -> Result<Backend, Trouble> {
        let backend = match dial {
            Dial::Unix(path) => Backend::beneath(path).held_by(self.holder),
            Dial::Tcp { host, port } => {
                let endpoint = self.between(HostPort { host: host.clone(), port: *port });
                let backend = Backend::new(&endpoint).map_err(|e| Trouble::dial(&endpoint, e))?;
                backend.dialed_from(self.origin.clone())
            }
        };
        Ok(backend.with_options(self.serving.tcp))
    }

    const fn between(&self, at: HostPort) -> Endpoint {
        if self.tls.is_some() { Endpoint::Tls(at) } else { Endpoint::Tcp(at) }
    }

    fn listener(&self, at: &Listen, beside: bool) -> io::Result<Listener> {
        let (mode, tcp) = (self.mode, self.serving.tcp);
        if let Some(handed) = self.handed.take(at) {
            let kind = if self.tls.is_some() { Endpoint::Tls } else { Endpoint::Tcp };
            let taken = match at {
                Listen::Unix { path, .. } => take_over_beneath(handed, path),
                Listen::Tcp { .. } => take_over_tcp(handed, tcp, kind),
            };
            match taken {
                Ok(listener) => return Ok(listener),
                Err(error) => {
                    log::warn!(listen:% = at, error:%; "what was handed over can't be used; opened anew");
                }
            }
        }
        match at {
            Listen::Unix { path, owner } => {
                let rights = Rights { mode, owner: *owner };
                listen_beneath(path, &ListenOptions { rights, tcp, ..ListenOptions::default() })
            }
            Listen::Tcp { address, port } => {
                let host = match address {
                    IpAddr::V4(v4) => Host::V4(*v4),
                    IpAddr::V6(v6) => Host::V6(*v6, self.zone.clone()),
                };
                let options = ListenOptions { tcp, beside, ..ListenOptions::default() };
                listen(&self.between(HostPort { host, port: *port }), &options, &mut Inherited::none())
            }
        }
    }
}
