//! `target`.

use std::net::IpAddr;

use clap::builder::ValueParser;
use clap::{Arg, ArgMatches, Command};
use relay_migration::{Backends, Channel, Host, Invalid, Key, PortRange, SocketPath};

use super::args::{all, flag, given, holder_arg, host, interface, many, one, reachable, required, text};
use super::serving::{Serving, TlsFiles, metrics, serving, tls_files, with_serving};
use crate::endpoint::Endpoint;
use crate::socket::Holder;

/// `target`: the side that a virtual machine comes to.
#[derive(Clone, Debug)]
pub struct Target {
    /// Which migration.
    pub key: Key,
    /// What to dial, by channel.
    pub backends: Backends,
    /// Where to listen.
    pub bind: Address,
    /// What to tell sources; `None` to find out.
    pub advertise: Option<IpAddr>,
    /// Ports to listen on; `None` for the kernel's choice.
    pub range: Option<PortRange>,
    /// Who must be listening at the backends; `None` for whoever does.
    pub holder: Option<Holder>,
    /// `None` for plaintext.
    pub tls: Option<TlsFiles>,
    /// Where metrics are asked for.
    pub metrics: Option<Endpoint>,
    /// How to do it.
    pub serving: Serving,
}

/// Where to listen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// Every address of this machine, of both families if it has both.
    Any,
    /// An address, with its zone if it has one.
    Of(IpAddr, Option<String>),
    /// The first address of an interface that others can reach.
    Interface(String),
}

pub(super) fn command(name: &str) -> Command {
    let command = Command::new("target")
        .about(
            "The node that a virtual machine comes to: a port per channel here, the pod's sockets behind it",
        )
        .after_help(help(name))
        .arg(
            one("key", "KEY", text::<Key>())
                .required(true)
                .help("Which migration, for the log. KubeVirt's is the UID of the instance"),
        )
        .arg(
            many("backend", "CHANNEL=PATH", ValueParser::new(backend))
                .required(true)
                .help("Carry channel 0, 49152 or 49153 to this unix socket; once for each channel"),
        )
        .args(network_args())
        .arg(flag("plain").help("TCP in plaintext: nothing is encrypted and nobody authenticated"))
        .arg(holder_arg());
    with_serving(command)
}

fn help(name: &str) -> String {
    format!(
        "\
A migration has up to three channels: 0 libvirt, 49152 memory, 49153 disks. Each --backend gets a port
of its own. Whoever connects there must have a certificate of the authorities (--tls-ca) and, if given,
be a --peer; only then the backend is dialed, for each connection anew, so that its socket need not
exist before QEMU makes it. Connections reach it in the order in which they were made.

Examples:
  To a KubeVirt pod whose launcher is process 4711
    {name} target --key d62c2a6f-d8f3-4cc5-a22e-4cffb7d5eac1 --interface migration0 \\
        --backend 0=/proc/4711/root/var/run/libvirt/virtqemud-sock \\
        --backend 49152=/proc/4711/root/var/run/kubevirt/migrationproxy/d62c2a6f-d8f3-4cc5-a22e-4cffb7d5eac1-49152-source.sock \\
        --tls-cert server.crt --tls-key server.key --tls-ca ca.crt \\
        --peer cn:kubevirt.io:system:client:migration
  Behind a firewall with ten ports open, and an address translated on the way
    {name} target --key vm1 --backend 0=/run/libvirt/virtqemud-sock --port-range 49200-49209 \\
        --advertise 203.0.113.7 --tls-cert node.crt --tls-key node.key --tls-ca ca.crt
  Without TLS, on a network of its own
    {name} target --key vm1 --backend 0=/run/libvirt/virtqemud-sock --bind fd00::1 --plain

Once they accept, one line for each port is printed ('listening tls:[::]:39497'), then what a source has
to know as one line of JSON: {{\"ports\":{{\"39497\":0}},\"address\":\"10.1.1.1\"}}. Logs go to standard error; a
session's line has key and channel. SIGTERM and SIGINT stop accepting and let the open sessions finish
(--drain-timeout), the second one ends them. TLS files are read
again when they change, and at SIGHUP."
    )
}

/// Where targets listen, and what sources are told.
pub(super) fn network_args() -> [Arg; 4] {
    [
        one("bind", "ADDRESS", ValueParser::new(bind))
            .conflicts_with("interface")
            .help("Listen at this address, fe80::1%eth0 if it is link-local [default: ::, every one of both families]"),
        one("interface", "NAME", ValueParser::new(interface)).help(
            "Listen at the first global address of this interface; at every address, with a warning, if\n\
             it has none. KubeVirt's is migration0",
        ),
        one("advertise", "ADDRESS", ValueParser::new(advertise))
            .help("What to tell sources as the address to dial [default: where we listen]"),
        one("port-range", "FIRST-LAST", text::<PortRange>())
            .help("Listen on ports of this range only [default: whatever is free]"),
    ]
}

/// What they say.
pub(super) fn network(matches: &ArgMatches) -> (Address, Option<IpAddr>, Option<PortRange>) {
    let interface = given(matches, "interface").map(Address::Interface);
    let bind = interface.or_else(|| given(matches, "bind")).unwrap_or(Address::Any);
    (bind, given(matches, "advertise"), given(matches, "port-range"))
}

pub(super) fn read(matches: &ArgMatches) -> Result<Target, String> {
    let mut backends = Backends::default();
    for (channel, path) in all::<(Channel, SocketPath)>(matches, "backend") {
        backends.insert(channel, path).map_err(|error| format!("--backend: {error}"))?;
    }
    let wanted = (!matches.get_flag("plain")).then_some("target without --plain");
    let (bind, advertise, range) = network(matches);
    Ok(Target {
        key: required(matches, "key")?,
        backends,
        bind,
        advertise,
        range,
        holder: given(matches, "backend-owner"),
        tls: tls_files(matches, wanted, "so is --plain")?,
        metrics: metrics(matches)?,
        serving: serving(matches),
    })
}

fn backend(text: &str) -> Result<(Channel, SocketPath), String> {
    let Some((channel, path)) = text.split_once('=') else {
        return Err("a backend is a channel and a path, as in 0=/run/libvirt/virtqemud-sock".to_owned());
    };
    let read = || Ok((channel.parse()?, path.parse()?));
    read().map_err(|error: Invalid| error.to_string())
}

fn bind(text: &str) -> Result<Address, String> {
    match reachable(host(text)?)? {
        Host::V4(address) => Ok(Address::Of(address.into(), None)),
        Host::V6(address, zone) => Ok(Address::Of(address.into(), zone)),
        Host::Name(name) => Err(format!("'{name}' is a name; write an address, or :: for all of them")),
    }
}

fn advertise(text: &str) -> Result<IpAddr, String> {
    let address = match host(text)? {
        Host::V4(address) => IpAddr::V4(address),
        Host::V6(address, None) => IpAddr::V6(address),
        Host::V6(address, Some(zone)) => {
            return Err(format!("the zone '{zone}' means nothing to others; write {address}"));
        }
        Host::Name(name) => return Err(format!("'{name}' is a name; write an address")),
    };
    if address.is_unspecified() {
        return Err(format!("{address} can't be dialed; write the address that sources are to dial"));
    }
    Ok(address)
}
