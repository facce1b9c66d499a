//! A URI from text.

use std::str::FromStr;

use super::escape::unescape;
use super::{MAX, Parameter, Parts, Transport, Uri};
use crate::host::Host;
use crate::invalid::{Invalid, invalid, shown};

impl FromStr for Uri {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.len() > MAX {
            return invalid(format!("the URI has {} bytes; it may have {MAX}", text.len()));
        }
        check_bytes(text)?;
        let Some((scheme, rest)) = text.split_once("://") else {
            return invalid(format!(
                "{} is no libvirt URI; it begins with a driver, as in qemu:///system or qemu+ssh://HOST/system",
                shown(text)
            ));
        };
        let (driver, transport) = match scheme.split_once('+') {
            Some((driver, transport)) => (driver, Some(transport.parse::<Transport>()?)),
            None => (scheme, None),
        };
        let (before_query, query) = match rest.split_once('?') {
            Some((before, query)) => (before, query),
            None => (rest, ""),
        };
        let (authority, path) = before_query.split_at(before_query.find('/').unwrap_or(before_query.len()));
        let (username, host, port) = parse_authority(authority)?;
        let effective = Transport::in_use(transport, host.as_ref());
        Self::new(Parts {
            driver: driver.to_ascii_lowercase(),
            transport,
            username,
            host,
            port,
            path: unescape(path)?,
            parameters: parse_query(effective, query)?,
        })
    }
}

fn check_bytes(text: &str) -> Result<(), Invalid> {
    let bad = text.chars().find(|c| c.is_control() || c.is_whitespace() || !c.is_ascii());
    if let Some(c) = bad {
        return invalid(format!(
            "the character {c:?} can't stand in a URI; write its bytes as %XX ({})",
            shown(text)
        ));
    }
    if text.contains('#') {
        return invalid(format!(
            "'#' begins a fragment, which a libvirt URI does not have; write %23 for the sign itself ({})",
            shown(text)
        ));
    }
    Ok(())
}

type Authority = (Option<String>, Option<Host>, Option<u16>);

fn parse_authority(text: &str) -> Result<Authority, Invalid> {
    let (username, at) = match text.rsplit_once('@') {
        Some((user, at)) => (Some(parse_user(user)?), at),
        None => (None, text),
    };
    let (host, port) = if let Some(inner) = at.strip_prefix('[') {
        let Some((address, after)) = inner.split_once(']') else {
            return invalid(format!("the bracket in {} is not closed; write [ADDRESS]", shown(at)));
        };
        let port = match after.strip_prefix(':') {
            Some(port) => Some(port),
            None if after.is_empty() => None,
            None => return invalid(format!("behind the bracket in {} comes ':PORT' or '/'", shown(at))),
        };
        (Some(parse_v6(address)?), port)
    } else {
        let (host, port) = match at.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (at, None),
        };
        if port.is_some_and(|port| port.contains(':')) {
            return invalid(format!("an IPv6 address stands in brackets: [{at}]"));
        }
        (if host.is_empty() { None } else { Some(host.parse()?) }, port)
    };
    Ok((username, host, port.map(parse_port).transpose()?))
}

fn parse_user(text: &str) -> Result<String, Invalid> {
    if text.contains(':') {
        return invalid("a password does not belong into a URI, libvirt asks for it; write user@host");
    }
    if text.is_empty() {
        return invalid("the user name before '@' is empty; leave the '@' out, or write one");
    }
    unescape(text)
}

fn parse_v6(text: &str) -> Result<Host, Invalid> {
    let host: Host = unescape(text)?.parse()?;
    match &host {
        Host::V6(_, zone) if zone.is_none() || text.contains("%25") => Ok(host),
        Host::V6(..) => invalid(format!("the zone in [{text}] stands behind %25 (RFC 6874)")),
        Host::V4(_) | Host::Name(_) => {
            invalid(format!("{} is no IPv6 address, and only those stand in brackets", shown(text)))
        }
    }
}

fn parse_port(text: &str) -> Result<u16, Invalid> {
    match text.parse() {
        Ok(port) if text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => invalid(format!("{} is no port; it is a number from 1 to 65535", shown(text))),
    }
}

/// As libvirt's virURIParseParams: `&` separates, and behind the last one `;` does, too; a section
/// without a name is ignored, one without `=` has an empty value.
fn parse_query(transport: Option<Transport>, query: &str) -> Result<Vec<Parameter>, Invalid> {
    let (with_amp, last) = match query.rsplit_once('&') {
        Some((sections, last)) => (Some(sections), last),
        None => (None, query),
    };
    let sections = with_amp.into_iter().flat_map(|sections| sections.split('&')).chain(last.split(';'));
    let mut parameters = vec![];
    for section in sections {
        let (name, value) = section.split_once('=').unwrap_or((section, ""));
        if !name.is_empty() {
            parameters.push(Parameter::new(transport, &unescape(name)?, &unescape(value)?)?);
        }
    }
    Ok(parameters)
}
