//! Where to dial: addresses as they are, names by a thread of their own.
//!
//! getaddrinfo(3) can take half a minute when a name server is away, so it is never called on a
//! loop. A name is looked up in the background, again every 30 s and when a dial fails; dialing
//! takes the list that there is and walks it on successive attempts.

use std::io;
use std::net::{SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use relay_core::error::Failure;
use relay_migration::SocketPath;
use rustix::net::netdevice::name_to_index;

use crate::endpoint::{Endpoint, Host, HostPort};
use crate::failure::failure;
use crate::interface::SharedOrigin;
use crate::server::Label;
use crate::socket::{self, Holder, Target, TcpOptions};

/// How often a name is looked up without being asked.
const REFRESH: Duration = Duration::from_secs(30);
/// How long after a lookup the next one may begin, however often it is asked for.
const PAUSE: Duration = Duration::from_secs(1);

type LookUp = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// Looks a name up, waiting for the answer.
pub(crate) fn look_up(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok((name, port).to_socket_addrs()?.collect())
}

/// The address of a host that is none by name.
pub(crate) fn literal(at: &HostPort) -> io::Result<SocketAddr> {
    match &at.host {
        Host::V4(address) => Ok((*address, at.port).into()),
        Host::V6(address, zone) => {
            let scope = zone.as_deref().map_or(Ok(0), scope_id)?;
            Ok(SocketAddrV6::new(*address, at.port, 0, scope).into())
        }
        Host::Name(name) => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("'{name}' is a name"))),
    }
}

/// An IPv6 zone as the kernel wants it: an interface's number (netdevice(7)).
fn scope_id(zone: &str) -> io::Result<u32> {
    if let Ok(number) = zone.parse() {
        return Ok(number);
    }
    let missing = |_| io::Error::new(io::ErrorKind::NotFound, format!("there is no interface '{zone}'"));
    name_to_index(socket::new_unix()?, zone).map_err(missing)
}

/// Knows the addresses to dial for one endpoint. Cheap to clone; never waits. When to dial which, and
/// whether again, is `relay_core::admission::Dialer`'s business.
#[derive(Clone, Debug)]
pub struct Backend {
    endpoint: Endpoint,
    addresses: Addresses,
    options: TcpOptions,
    holder: Option<Holder>,
    origin: Option<Arc<SharedOrigin>>,
    /// For whom it is dialed.
    label: Option<Arc<Label>>,
}

#[derive(Clone, Debug)]
enum Addresses {
    Unix(Target),
    /// Its directory is to be found anew each time: it may not be there yet, or be another by then.
    Beneath(SocketPath),
    Tcp(SocketAddr),
    Named(Arc<Named>),
}

#[derive(Debug)]
struct Named {
    known: Arc<Mutex<Known>>,
    /// Dropping the last one ends the thread.
    ask: SyncSender<()>,
}

#[derive(Debug, Default)]
struct Known {
    /// In the order in which they are tried.
    list: Vec<SocketAddr>,
    /// The one that was connected last.
    good: Option<SocketAddr>,
}

impl Known {
    /// A lookup found these.
    fn replace(&mut self, found: Vec<SocketAddr>) {
        self.list = found;
        if let Some(at) = self.list.iter().position(|address| Some(*address) == self.good) {
            self.list[..=at].rotate_right(1);
        }
    }
}

impl Backend {
    /// Begins to look a name up; takes an address as it is.
    ///
    /// # Errors
    /// If the zone of an IPv6 address is no interface of this machine, a unix path is too long, no
    /// thread can be started, or the endpoint is `fd:`, which can only be listened on.
    pub fn new(endpoint: &Endpoint) -> io::Result<Self> {
        Self::with(endpoint, look_up)
    }

    fn with(endpoint: &Endpoint, look_up: LookUp) -> io::Result<Self> {
        let addresses = match endpoint {
            Endpoint::Unix(path) => Addresses::Unix(Target::unix(path)?),
            Endpoint::Abstract(name) => Addresses::Unix(Target::unix_abstract(name)?),
            Endpoint::Tcp(at) | Endpoint::Tls(at) => match &at.host {
                Host::Name(name) => Addresses::Named(Arc::new(Named::start(name, at.port, look_up)?)),
                Host::V4(_) | Host::V6(..) => Addresses::Tcp(literal(at)?),
            },
            Endpoint::Fd(_) => {
                let what = "an inherited socket can only be listened on";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
            }
        };
        Ok(Self {
            endpoint: endpoint.clone(),
            addresses,
            options: TcpOptions::default(),
            holder: None,
            origin: None,
            label: None,
        })
    }

    /// A unix socket beneath a directory that is trusted, in a tree that need not be: no link in there
    /// leads elsewhere. The path may be of any length.
    #[must_use]
    pub fn beneath(path: &SocketPath) -> Self {
        Self {
            endpoint: Endpoint::Unix(path.as_path().to_owned()),
            addresses: Addresses::Beneath(path.clone()),
            options: TcpOptions::default(),
            holder: None,
            origin: None,
            label: None,
        }
    }

    /// The same with other options for its sockets.
    #[must_use]
    pub fn with_options(self, options: TcpOptions) -> Self {
        Self { options, ..self }
    }

    /// The same, dialing a unix socket only if this one listens there.
    #[must_use]
    pub fn held_by(self, holder: Option<Holder>) -> Self {
        Self { holder, ..self }
    }

    /// The same, for this channel of a migration: the log says so where it is not dialed.
    #[must_use]
    pub(crate) fn of(self, label: Label) -> Self {
        Self { label: Some(Arc::new(label)), ..self }
    }

    /// The same, dialing from the present address of an interface.
    #[must_use]
    pub(crate) fn dialed_from(self, origin: Option<Arc<SharedOrigin>>) -> Self {
        Self { origin, ..self }
    }

    fn tcp(&self, address: SocketAddr) -> Target {
        let from = self.origin.as_ref().and_then(|origin| origin.get().towards(address.ip()));
        Target::tcp(address, self.options).from(from)
    }

    /// What was to be dialed, as written.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// How many addresses there are to try in turn; 1 while a name has none.
    #[must_use]
    pub fn addresses(&self) -> usize {
        match &self.addresses {
            Addresses::Unix(_) | Addresses::Beneath(_) | Addresses::Tcp(_) => 1,
            Addresses::Named(named) => named.known().list.len().max(1),
        }
    }

    /// The `index`th of them, from 0; beyond the last it begins anew, since a name may have lost
    /// addresses meanwhile.
    ///
    /// # Errors
    /// [`Failure::NotFound`] while a name has no address or a socket no directory (not yet, or not at
    /// all): worth a retry. Others if a socket's directory can't be reached.
    pub fn target(&self, index: usize) -> Result<Target, Failure> {
        match &self.addresses {
            Addresses::Unix(target) => Ok(target.clone().held_by(self.holder).of(self.label.clone())),
            Addresses::Beneath(path) => match Target::unix_beneath(path) {
                Ok(target) => Ok(target.held_by(self.holder).of(self.label.clone())),
                Err(error) => {
                    if error.kind() == io::ErrorKind::PermissionDenied {
                        let (key, channel) = Label::words(self.label.as_deref());
                        log::warn!(key = key.as_str(), channel = channel.as_str(), backend:% = path, error:%; "not dialed");
                    }
                    Err(failure(&error))
                }
            },
            Addresses::Tcp(address) => Ok(self.tcp(*address)),
            Addresses::Named(named) => {
                let known = named.known();
                let turn = index.checked_rem(known.list.len()).ok_or(Failure::NotFound)?;
                Ok(self.tcp(known.list[turn]))
            }
        }
    }

    /// The `index`th was connected: from now on it is tried first, for as long as the name has it, so
    /// that an address that is dead costs its share of the dial timeout once and not each time. Does
    /// nothing for an address.
    pub fn worked(&self, index: usize) {
        if let Addresses::Named(named) = &self.addresses {
            let mut known = named.known();
            if let Some(turn) = index.checked_rem(known.list.len()) {
                known.list[..=turn].rotate_right(1);
                known.good = known.list.first().copied();
            }
        }
    }

    /// A dial failed: have the name looked up again soon. Does nothing for an address.
    pub fn refresh(&self) {
        if let Addresses::Named(named) = &self.addresses {
            // Full: it is asked for already.
            let _ = named.ask.try_send(());
        }
    }
}

impl Named {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(name: &str, port: u16, look_up: LookUp) -> io::Result<Self> {
        let (ask, asked) = mpsc::sync_channel(1);
        let known = Arc::new(Mutex::new(Known::default()));
        let (name, list) = (name.to_owned(), Arc::clone(&known));
        thread::Builder::new()
            .name("resolver".to_owned())
            .spawn(move || keep_looking(&name, port, look_up, &list, &asked))?;
        Ok(Self { known, ask })
    }
}

fn keep_looking(name: &str, port: u16, look_up: LookUp, known: &Mutex<Known>, asked: &Receiver<()>) {
    let mut failing = false;
    loop {
        match look_up(name, port) {
            Ok(found) if !found.is_empty() => {
                if failing {
                    log::info!(host = name, addresses = found.len(); "name has an address again");
                }
                failing = false;
                known.lock().unwrap_or_else(PoisonError::into_inner).replace(found);
            }
            // What was known stays: an old address is better than none.
            result if !failing => {
                failing = true;
                let why = result.err().map_or_else(|| "it has no address".to_owned(), |e| e.to_string());
                log::warn!(host = name, error = why.as_str(); "name lookup failed");
            }
            _ => {}
        }
        thread::sleep(PAUSE);
        if asked.recv_timeout(REFRESH - PAUSE) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    fn backend(text: &str, look_up: LookUp) -> Backend {
        Backend::with(&text.parse().expect("endpoint"), look_up).expect("backend")
    }

    fn eventually(what: &str, mut check: impl FnMut() -> bool) {
        let start = Instant::now();
        while !check() {
            assert!(start.elapsed() < Duration::from_secs(10), "{what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn an_address_needs_no_lookup() {
        let never: LookUp = |_, _| panic!("looked up");
        assert_eq!(backend("tcp:10.0.0.1:5", never).target(3).expect("fixed").to_string(), "10.0.0.1:5");
        assert_eq!(
            backend("tls:[fe80::1%1]:5", never).target(0).expect("fixed").to_string(),
            "[fe80::1%1]:5"
        );
        assert_eq!(
            backend("tls:[fe80::1%lo]:5", never).target(0).expect("fixed").to_string(),
            "[fe80::1%1]:5"
        );
        assert_eq!(backend("unix:@x", never).target(0).expect("fixed").to_string(), "@x");
        for bad in ["tcp:[fe80::1%nosuchif0]:5", "tcp:[fe80::1%..]:5", "fd:x"] {
            assert!(Backend::with(&bad.parse().expect("endpoint"), never).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_addresses_of_a_name_are_walked() {
        let two: LookUp = |name, port| {
            assert_eq!(name, "node");
            Ok(vec![([10, 0, 0, 1], port).into(), ([10, 0, 0, 2], port).into()])
        };
        let backend = backend("tcp:node:7", two);
        eventually("looked up", || backend.target(0).is_ok());
        let walked: Vec<_> = (0..3).map(|n| backend.target(n).expect("known").to_string()).collect();
        assert_eq!(backend.addresses(), 2);
        assert_eq!(walked, ["10.0.0.1:7", "10.0.0.2:7", "10.0.0.1:7"]);
        backend.worked(1);
        let walked: Vec<_> = (0..3).map(|n| backend.target(n).expect("known").to_string()).collect();
        assert_eq!(walked, ["10.0.0.2:7", "10.0.0.1:7", "10.0.0.2:7"], "what worked is tried first");
    }

    #[test]
    fn a_failed_lookup_keeps_what_was_known_and_is_tried_again_on_request() {
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        let flaky: LookUp = |_, port| match CALLS.fetch_add(1, Ordering::SeqCst) {
            1 => Ok(vec![([10, 0, 0, 1], port).into()]),
            _ => Err(io::Error::other("no name server")),
        };
        let backend = backend("tcp:node:7", flaky);
        eventually("first", || CALLS.load(Ordering::SeqCst) == 1);
        assert_eq!(backend.target(0).err(), Some(Failure::NotFound));
        backend.refresh();
        eventually("second", || backend.target(0).is_ok());
        backend.refresh();
        eventually("third", || CALLS.load(Ordering::SeqCst) == 3);
        assert!(backend.target(0).is_ok());
    }

    #[test]
    fn a_slow_name_server_holds_nobody_up() {
        let slow: LookUp = |_, _| {
            thread::sleep(Duration::from_secs(5));
            Ok(Vec::new())
        };
        let start = Instant::now();
        let backend = backend("tcp:node:7", slow);
        assert_eq!(backend.target(0).err(), Some(Failure::NotFound));
        backend.refresh();
        drop(backend);
        assert!(start.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn what_worked_is_tried_first_also_after_the_next_lookup_if_it_is_still_there() {
        let address = |last| SocketAddr::from(([10, 0, 0, last], 7));
        let mut known = Known { list: vec![], good: Some(address(3)) };
        known.replace([1, 2, 3, 4].map(address).into());
        assert_eq!(known.list, [3, 1, 2, 4].map(address));
        known.replace([1, 2].map(address).into());
        assert_eq!(known.list, [1, 2].map(address));
    }
}
