//! A host to dial: an address or a name.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::invalid::{Invalid, invalid, shown};

/// A host as written. `Display` prints what [`FromStr`] reads, without brackets.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Host {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address, with its zone (an interface's name or number, RFC 4007 section 11) if one
    /// was given.
    V6(Ipv6Addr, Option<String>),
    /// A name to be looked up.
    Name(String),
}

impl Host {
    /// Refuses a link-local address without its zone: it may be on any link, so nothing can be sent to it or
    /// bound to it (RFC 4007 section 6, ipv6(7)).
    ///
    /// # Errors
    /// One line that says what to write.
    pub fn reachable(self) -> Result<Self, Invalid> {
        match self {
            Self::V6(address, None) if address.is_unicast_link_local() => invalid(format!(
                "{address} is link-local, and so on every link: add this node's interface to it, as in {address}%eth0"
            )),
            Self::V4(_) | Self::V6(..) | Self::Name(_) => Ok(self),
        }
    }
}

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::V4(v4),
            IpAddr::V6(v6) => Self::V6(v6, None),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(address) => address.fmt(f),
            Self::V6(address, None) => address.fmt(f),
            Self::V6(address, Some(zone)) => write!(f, "{address}%{zone}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl FromStr for Host {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() {
            return invalid("the host is empty; it is an address or a name, as in 10.1.1.1");
        }
        if text.contains(':') {
            return parse_v6(text);
        }
        match text.parse() {
            Ok(address) => Ok(Self::V4(address)),
            Err(_) => parse_name(text),
        }
    }
}

fn parse_v6(text: &str) -> Result<Host, Invalid> {
    let (address, zone) = match text.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (text, None),
    };
    let Ok(address) = address.parse() else {
        return invalid(not_v6(text));
    };
    // The kernel's limits (dev_valid_name): 15 bytes, no '/', no white space.
    let is_interface = |zone: &str| {
        (1..=15).contains(&zone.len()) && zone.bytes().all(|b| b.is_ascii_graphic() && !b"/%[]".contains(&b))
    };
    match zone {
        Some(zone) if !is_interface(zone) => invalid(format!(
            "{} is no interface; the zone is its name or number, as in fe80::1%eth0",
            shown(zone)
        )),
        zone => Ok(Host::V6(address, zone.map(str::to_owned))),
    }
}

/// One colon makes no IPv6 address: a port was meant.
fn not_v6(text: &str) -> String {
    if let Some(bare) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        return format!(
            "{} has brackets; the host is {} without them, and without a port",
            shown(text),
            shown(bare.0)
        );
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => {
            format!("{} has a port; the host alone is {}", shown(text), shown(host))
        }
        _ => format!("{} is no IPv6 address; one looks like fd00::1", shown(text)),
    }
}

fn parse_name(text: &str) -> Result<Host, Invalid> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    // Lengths: RFC 1035 section 2.3.4. Underscores are met in practice.
    if name.len() > 253 || !name.split('.').all(is_label) {
        return invalid(format!("{} is neither an address nor a host name", shown(text)));
    }
    // RFC 1123 section 2.1: a name's last label is not all digits, so this was meant as an address.
    if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
        return invalid(format!("{} is no IPv4 address; it has four numbers from 0 to 255", shown(text)));
    }
    Ok(Host::Name(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_is_told() {
        for (text, says) in [
            ("127.0.0.1:80", "has a port; the host alone is '127.0.0.1'"),
            ("node:80", "has a port; the host alone is 'node'"),
            ("[::1]", "the host is '::1' without them"),
            ("[::1]:80", "the host is '::1' without them, and without a port"),
            ("1:2:3", "looks like fd00::1"),
        ] {
            let error = text.parse::<Host>().expect_err(text).to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_link_local_address_needs_its_link() {
        for text in ["fe80::1%eth0", "fd00::1", "::1", "10.1.1.1", "169.254.1.1", "node"] {
            let host: Host = text.parse().expect(text);
            assert_eq!(host.clone().reachable(), Ok(host));
        }
        for text in ["fe80::1", "febf::2"] {
            let error = text.parse::<Host>().expect(text).reachable().expect_err(text).to_string();
            assert!(error.contains(&format!("as in {text}%eth0")), "{error}");
        }
    }

    #[test]
    fn hosts_there_and_back() {
        for text in ["10.1.1.1", "::1", "fe80::1%eth0", "node-02.example.org", "localhost.", "node_2"] {
            assert_eq!(text.parse::<Host>().expect(text).to_string(), text);
        }
        for text in ["", "1.2.3", "1.2.3.4.5", "[::1]", "::1%", "::1%a/b", "a b", "a..b", "é", "::1:99999"] {
            assert!(!text.parse::<Host>().expect_err(text).to_string().contains('\n'));
        }
    }
}
