//! Where targets listen, what they tell, and where sources dial from; found again when the interface's
//! addresses change.
//!
//! The kernel tells of changes (rtnetlink(7)), and since such a message can be lost it is looked at
//! every so often as well. Nothing is concluded from a message but that it is time to look.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use relay_core::Instant;
use relay_migration::registry::Network;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use crate::cli::Address;
use crate::interface::{self, Origin, SharedOrigin};

/// RTMGRP_LINK, RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR (rtnetlink(7)).
const GROUPS: u32 = 0x1 | 0x10 | 0x100;

/// From the first message until we look: an address comes with several.
const SETTLE: Duration = Duration::from_millis(100);

/// How often we look without being told.
const AGAIN: Duration = Duration::from_secs(10);

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Networks {
    bind: Address,
    advertise: Option<IpAddr>,
    /// What it was when it was looked at last.
    network: Network,
    /// Why the interface has no address.
    missing: Option<String>,
    origin: Option<Arc<SharedOrigin>>,
    /// Only for an interface.
    told: Option<OwnedFd>,
    next: Option<Instant>,
}

impl Networks {
    /// Looks for the first time.
    pub(super) fn new(bind: Address, advertise: Option<IpAddr>, now: Instant) -> Self {
        let is_interface = matches!(bind, Address::Interface(_));
        let told = if is_interface { subscribe() } else { None };
        let unknown = IpAddr::from([0, 0, 0, 0]);
        let mut networks = Self {
            bind,
            advertise,
            network: Network { bind: unknown, advertise: unknown },
            missing: None,
            origin: is_interface.then(Arc::default),
            told,
            next: is_interface.then(|| now + AGAIN),
        };
        networks.look();
        networks
    }

    /// What it is.
    pub(super) const fn network(&self) -> Network {
        self.network
    }

    /// The zone of the address that is bound to, if it has one.
    pub(super) fn zone(&self) -> Option<String> {
        match &self.bind {
            Address::Of(_, zone) => zone.clone(),
            Address::Any | Address::Interface(_) => None,
        }
    }

    /// From where to dial; `None` leaves it to the kernel.
    pub(super) fn origin(&self) -> Option<Arc<SharedOrigin>> {
        self.origin.clone()
    }

    /// What to wait on for reading.
    pub(super) fn told(&self) -> Option<BorrowedFd<'_>> {
        self.told.as_ref().map(AsFd::as_fd)
    }

    /// There was something to read: it is time to look soon.
    pub(super) fn hear(&mut self, now: Instant) {
        let Some(told) = &self.told else { return };
        let mut scratch = [0; 8192];
        // ENOBUFS says that messages were lost, which is as good as one
        while recv(told, &mut scratch[..], RecvFlags::DONTWAIT).is_ok() {}
        self.next = Some(self.next.map_or(now + SETTLE, |next| next.min(now + SETTLE)));
    }

    /// When to look.
    pub(super) const fn next_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// Looks if it is time; what is to be told to the registry, new or not: a listener that could not be
    /// moved then is tried again.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Network> {
        if self.next.is_none_or(|next| now < next) {
            return None;
        }
        self.next = Some(now + AGAIN);
        self.look();
        Some(self.network)
    }

    fn look(&mut self) {
        let (bind, missing) = match &self.bind {
            Address::Any => (interface::any(), None),
            Address::Of(address, _) => (*address, None),
            Address::Interface(name) => match interface::first_global(name) {
                Ok(address) => (address, None),
                // As upstream, one that is not there or not ready is no reason not to listen.
                Err(why) => (interface::any(), Some(why.to_string())),
            },
        };
        if let (Some(shared), Address::Interface(name)) = (&self.origin, &self.bind) {
            shared.set(Origin::of(name).unwrap_or_default());
        }
        let advertise = self.advertise.unwrap_or_else(|| interface::advertised(bind));
        let network = Network { bind, advertise };
        if network != self.network || missing != self.missing {
            match (&missing, &self.bind) {
                (Some(why), Address::Interface(name)) => {
                    log::warn!(interface = name.as_str(), error = why.as_str(), advertise:%; "no address to listen at; every address is listened at instead, until there is one");
                }
                _ => log::info!(bind:%, advertise:%; "where targets listen, and what sources are told"),
            }
        }
        (self.network, self.missing) = (network, missing);
    }
}

/// Messages about links and addresses. Without them, and a warning, changes are noticed later.
fn subscribe() -> Option<OwnedFd> {
    let open = || -> Result<OwnedFd, io::Error> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // protocol 0 is NETLINK_ROUTE (netlink(7))
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(socket)
    };
    open()
        .inspect_err(|error| log::warn!(error:%; "the kernel does not tell of changed addresses; they are looked at every 10 s"))
        .ok()
}
