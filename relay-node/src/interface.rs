//! Addresses of this machine: those of an interface, and the one that others are likely to reach.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Mutex, PoisonError};

use socket2::Domain;

use crate::socket::{self, TcpOptions};

/// Whether others can reach it, on this network or beyond: Go's `IsGlobalUnicast`, by which KubeVirt
/// chooses. Private addresses (RFC 1918, RFC 4193) are among them.
const fn is_global_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_unspecified()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast())
        }
        IpAddr::V6(v6) => {
            !(v6.is_unspecified()
                || v6.is_loopback()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || v6.to_ipv4_mapped().is_some())
        }
    }
}

/// Sources are told an address without a zone, which is a matter of each node.
pub(crate) fn warn_if_link_local(told: IpAddr) {
    if matches!(told, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        log::warn!(address:% = told; "the address that sources are told is link-local: each has to add the interface that it has on that link, as in {told}%eth0");
    }
}

/// Why an interface has no address for us.
#[derive(Debug)]
pub(crate) enum NoAddress {
    /// There is no such interface, or it has no address of any kind.
    Absent,
    /// It has addresses, and others can reach none of them.
    OnlyLocal(Vec<IpAddr>),
    /// The kernel could not be asked.
    Unknown(io::Error),
}

impl fmt::Display for NoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("there is no such interface, or it has no address"),
            Self::OnlyLocal(addresses) => {
                f.write_str("it has no address that others can reach, only")?;
                addresses.iter().try_for_each(|address| write!(f, " {address}"))
            }
            Self::Unknown(error) => write!(f, "its addresses can't be read: {error}"),
        }
    }
}

/// The first global unicast address of the interface called `name`, of either family.
///
/// # Errors
/// Why there is none.
pub(crate) fn first_global(name: &str) -> Result<IpAddr, NoAddress> {
    let known = if_addrs::get_if_addrs().map_err(NoAddress::Unknown)?;
    choose(known.into_iter().map(|found| (found.name.clone(), found.ip())), name)
}

/// The addresses that an interface sends from: the first global one of each family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Origin {
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
}

impl Origin {
    /// Those of the interface called `name`.
    ///
    /// # Errors
    /// Why there is none of either family.
    pub(crate) fn of(name: &str) -> Result<Self, NoAddress> {
        let known = if_addrs::get_if_addrs().map_err(NoAddress::Unknown)?;
        let of_family = |is_v4: bool| {
            let of = known.iter().filter(|found| found.ip().is_ipv4() == is_v4);
            choose(of.map(|found| (found.name.clone(), found.ip())), name)
        };
        match (of_family(true), of_family(false)) {
            (Err(_), Err(_)) => Err(first_global(name).err().unwrap_or(NoAddress::Absent)),
            (v4, v6) => Ok(Self { v4: v4.ok(), v6: v6.ok() }),
        }
    }

    /// The one of the family that `peer` is of, if there is one.
    pub(crate) const fn towards(&self, peer: IpAddr) -> Option<IpAddr> {
        match peer {
            IpAddr::V4(_) => self.v4,
            IpAddr::V6(_) => self.v6,
        }
    }
}

/// The present one, for those who dial. It changes with the interface's addresses.
#[derive(Debug, Default)]
pub(crate) struct SharedOrigin {
    known: Mutex<Origin>,
    /// The interface to look at for each connection, where nobody watches it.
    looked_at: Option<String>,
}

impl SharedOrigin {
    /// That looks at the interface called `name` whenever it is asked.
    pub(crate) fn looking_at(name: &str) -> Self {
        Self { known: Mutex::default(), looked_at: Some(name.to_owned()) }
    }

    pub(crate) fn get(&self) -> Origin {
        match &self.looked_at {
            Some(name) => Origin::of(name).unwrap_or_default(),
            None => *self.known.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    pub(crate) fn set(&self, origin: Origin) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = origin;
    }
}

/// Every address of this machine: of both families by `::`, unless the kernel knows one only.
pub(crate) fn any() -> IpAddr {
    let knows_v6 = socket::new(Domain::IPV6, TcpOptions::default()).is_ok();
    if knows_v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

/// What to tell sources of a target that listens at `bind`, if nobody said it.
pub(crate) fn advertised(bind: IpAddr) -> IpAddr {
    let local = if bind.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    if bind.is_unspecified() { outward(bind).unwrap_or(local) } else { bind }
}

fn choose(known: impl Iterator<Item = (String, IpAddr)>, name: &str) -> Result<IpAddr, NoAddress> {
    // An IPv4 address may have a label of its own, as in eth0:1 (ip-address(8)).
    let is_of =
        |label: &str| label.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'));
    let addresses: Vec<_> = known.filter(|(label, _)| is_of(label)).map(|(_, address)| address).collect();
    match addresses.iter().find(|address| is_global_unicast(**address)) {
        Some(address) => Ok(*address),
        None if addresses.is_empty() => Err(NoAddress::Absent),
        None => Err(NoAddress::OnlyLocal(addresses)),
    }
}

/// The address that this machine would send from to somewhere far away, for what listens at `bind`:
/// IPv4 first if that takes both families. Nothing is sent.
pub(crate) fn outward(bind: IpAddr) -> Option<IpAddr> {
    // Addresses for documentation (RFC 5737, RFC 3849): far away from everybody.
    let far_v4 = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9));
    let far_v6 = SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9));
    let towards = |far: SocketAddr| {
        let any: IpAddr =
            if far.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(far).ok()?;
        let own = socket.local_addr().ok()?.ip();
        is_global_unicast(own).then_some(own)
    };
    match bind {
        IpAddr::V4(_) => towards(far_v4),
        IpAddr::V6(_) => towards(far_v4).or_else(|| towards(far_v6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(known: &[(&str, &str)]) -> Result<String, String> {
        let known =
            known.iter().map(|(name, address)| ((*name).to_owned(), address.parse().expect("address")));
        choose(known, "migration0").map(|address| address.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_global_address_of_either_family() {
        let eth0 = ("eth0", "10.0.0.9");
        assert_eq!(
            chosen(&[eth0, ("migration0", "10.1.1.1"), ("migration0", "fd00::1")]),
            Ok("10.1.1.1".into())
        );
        assert_eq!(
            chosen(&[eth0, ("migration0", "fe80::1"), ("migration0", "fd00::1")]),
            Ok("fd00::1".into())
        );
        assert_eq!(
            chosen(&[("migration0", "169.254.1.1"), ("migration0:1", "10.1.1.2")]),
            Ok("10.1.1.2".into())
        );
        for (known, says) in [
            (&[eth0][..], "no such interface"),
            (&[("migration00", "10.1.1.1")], "no such interface"),
            (&[("migration0", "fe80::1"), ("migration0", "127.0.0.1")], "only fe80::1 127.0.0.1"),
        ] {
            let error = chosen(known).expect_err("none");
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn the_kernel_can_be_asked() {
        assert!(matches!(first_global("nosuchif0"), Err(NoAddress::Absent)));
        match first_global("lo") {
            // Somebody may have given it a global address.
            Ok(address) => assert!(is_global_unicast(address)),
            Err(NoAddress::OnlyLocal(found)) => assert!(found.iter().any(IpAddr::is_loopback)),
            Err(NoAddress::Absent) => {} // a namespace whose loopback is down
            Err(NoAddress::Unknown(error)) => panic!("{error}"),
        }
        for bind in [Ipv4Addr::UNSPECIFIED.into(), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            assert!(outward(bind).is_none_or(is_global_unicast));
        }
        assert!(outward(Ipv4Addr::UNSPECIFIED.into()).is_none_or(|own| own.is_ipv4()));
    }

    #[test]
    fn what_is_global() {
        for (address, global) in [
            ("10.0.0.1", true),
            ("8.8.8.8", true),
            ("fd00::1", true),
            ("2001:db8::1", true),
            ("0.0.0.0", false),
            ("127.0.0.1", false),
            ("169.254.0.1", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("::", false),
            ("::1", false),
            ("fe80::1", false),
            ("ff02::1", false),
            ("::ffff:10.0.0.1", false),
        ] {
            assert_eq!(is_global_unicast(address.parse().expect("address")), global, "{address}");
        }
    }
}
