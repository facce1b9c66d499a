//! Reaching the other end.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{Wrong, left};
use crate::endpoint::{Endpoint, Host, HostPort};
use crate::interface::Origin;
use crate::resolve;
use crate::socket::abstract_address;

/// A connection that is there.
pub(super) struct Reached {
    pub(super) stream: Socket,
    pub(super) at: String,
    /// How long connect(2) took.
    pub(super) took: Duration,
}

/// Connects, to the first address of a name that takes it.
pub(super) fn dial(endpoint: &Endpoint, from: Option<Origin>, deadline: Instant) -> Result<Reached, Wrong> {
    let local = |address: std::io::Result<SockAddr>| {
        let address = address.map_err(|error| format!("{endpoint}: {error}"))?;
        connect(&address, None, deadline)
            .map(|(stream, took)| Reached { stream, at: endpoint.to_string(), took })
            .map_err(|error| format!("{endpoint} can't be reached: {error}"))
    };
    let at = match endpoint {
        Endpoint::Unix(path) => return local(SockAddr::unix(path)),
        Endpoint::Abstract(name) => return local(abstract_address(name)),
        Endpoint::Fd(_) => return Err("an inherited socket can only be listened on".to_owned()),
        Endpoint::Tcp(at) | Endpoint::Tls(at) => at,
    };
    let mut failures = Vec::new();
    for address in addresses(at, deadline)? {
        match connect(&address.into(), from.as_ref(), deadline) {
            Ok((stream, took)) => return Ok(Reached { stream, at: address.to_string(), took }),
            Err(error) => failures.push(format!("{address} can't be reached: {error}")),
        }
    }
    Err(failures.join("; "))
}

fn addresses(at: &HostPort, deadline: Instant) -> Result<Vec<SocketAddr>, Wrong> {
    let Host::Name(name) = &at.host else {
        return resolve::literal(at).map(|address| vec![address]).map_err(|error| format!("{at}: {error}"));
    };
    // getaddrinfo(3) knows no deadline
    let (tell, told) = mpsc::channel();
    let (owned, port) = (name.clone(), at.port);
    let looking = thread::Builder::new().spawn(move || tell.send(resolve::look_up(&owned, port)));
    looking.map_err(|error| format!("no thread to look {name} up: {error}"))?;
    let wait = left(deadline).unwrap_or_default();
    match told.recv_timeout(wait) {
        Ok(Ok(found)) if !found.is_empty() => Ok(found),
        Ok(Ok(_)) => Err(format!("the name {name} has no address")),
        Ok(Err(error)) => Err(format!("the name {name} can't be looked up: {error}")),
        Err(_) => Err(format!("the name {name} could not be looked up in time")),
    }
}

fn connect(to: &SockAddr, from: Option<&Origin>, deadline: Instant) -> std::io::Result<(Socket, Duration)> {
    let socket = Socket::new(to.domain(), Type::STREAM.cloexec(), None)?;
    if to.domain() != Domain::UNIX {
        socket.set_tcp_nodelay(true)?;
    }
    if let Some(own) = from.zip(to.as_socket()).and_then(|(from, to)| from.towards(to.ip())) {
        socket.bind(&SocketAddr::new(own, 0).into())?;
    }
    let since = Instant::now();
    socket.connect_timeout(to, left(deadline)?)?;
    Ok((socket, since.elapsed()))
}

/// Who listens at a unix socket.
pub(super) fn listener(stream: &Socket) -> String {
    match rustix::net::sockopt::socket_peercred(stream) {
        Ok(found) => {
            let (uid, gid) = (found.uid.as_raw(), found.gid.as_raw());
            format!("process {}, owner {uid}:{gid}", found.pid.as_raw_nonzero())
        }
        Err(error) => format!("unknown: {error}"),
    }
}
