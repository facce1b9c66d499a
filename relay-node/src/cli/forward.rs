//! `forward`.

use clap::{ArgMatches, Command};

use super::args::{all, endpoint, given, holder_arg, many, rights, rights_args, those_given};
use super::serving::{Serving, TlsFiles, metrics, serving, tls_files, with_serving};
use crate::endpoint::{Endpoint, Host};
use crate::listen::Rights;
use crate::socket::Holder;

/// `forward`: relay whatever connects.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Where to listen, and where to connect for each connection taken there.
    pub pairs: Vec<(Endpoint, Endpoint)>,
    /// Of the files of unix sockets listened on.
    pub rights: Rights,
    /// Who must be listening where it connects to a unix socket; `None` for whoever does.
    pub holder: Option<Holder>,
    /// Present exactly if an endpoint is `tls:`.
    pub tls: Option<TlsFiles>,
    /// Where metrics are asked for.
    pub metrics: Option<Endpoint>,
    /// How to do it.
    pub serving: Serving,
}

pub(super) fn command(name: &str) -> Command {
    let command = Command::new("forward")
        .about("Relay every connection taken at --listen to --connect")
        .after_help(help(name))
        .arg(
            many("listen", "ENDPOINT", endpoint())
                .required(true)
                .help("Take connections here; repeat it, each with its --connect, for more"),
        )
        .arg(
            many("connect", "ENDPOINT", endpoint())
                .required(true)
                .help("Connect here for each of them; the first --connect belongs to the first --listen"),
        )
        .args(rights_args())
        .arg(holder_arg());
    with_serving(command)
}

fn help(name: &str) -> String {
    format!(
        "\
ENDPOINT is one of
  unix:PATH         a unix socket; a stale file is replaced, a live one never stolen
  unix:@NAME        a unix socket in the abstract namespace
  tcp:HOST:PORT     TCP in plaintext (port 0 lets the kernel choose; IPv6 in brackets, a link-local address
                    with its interface: [fe80::1%eth0])
  tls:HOST:PORT     mutual TLS 1.3 over TCP; needs --tls-cert, --tls-key and --tls-ca
  fd:NAME           a listening socket inherited under that name (systemd), as it is; --listen only, once
                    for each socket if several have that name

Times are written 500ms, 10s, 5m or 1h; 'off' means no limit.

Examples:
  The source's node: a unix socket here, the other node by TLS
    {name} forward --listen unix:/run/relay/vm1.sock --connect tls:10.1.1.1:39497 \\
        --tls-cert node.crt --tls-key node.key --tls-ca ca.crt \\
        --peer cn:kubevirt.io:system:node:virt-handler
  The target's node: only the migration client's certificate, on to QEMU
    {name} forward --listen tls:[::]:39497 --connect unix:/run/qemu/vm1.sock \\
        --tls-cert node.crt --tls-key node.key --tls-ca ca.crt \\
        --peer cn:kubevirt.io:system:client:migration
  Two channels in one process
    {name} forward --listen unix:@rpc --connect tcp:10.1.1.1:16509 \\
        --listen unix:@ram --connect tcp:10.1.1.1:49152

Once it accepts, one line for each listener is printed ('listening tls:[::]:39497', with the real
port). Logs go to standard error; RUST_LOG=debug shows more. In a session's line, front_... is what
came in by --listen, back_... what came from --connect. SIGTERM and SIGINT stop accepting and let the
open sessions finish (--drain-timeout), the second one ends them. TLS files are read
again when they change, and at SIGHUP."
    )
}

pub(super) fn read(matches: &ArgMatches) -> Result<Forward, String> {
    let (listen, connect) = (all::<Endpoint>(matches, "listen"), all::<Endpoint>(matches, "connect"));
    if listen.len() != connect.len() {
        return Err(format!(
            "--listen is given {} times and --connect {} times; they belong together in their order, so there must be as many",
            listen.len(),
            connect.len()
        ));
    }
    for endpoint in &connect {
        check_connect(endpoint)?;
    }
    for (number, endpoint) in listen.iter().enumerate() {
        if listen[..number].iter().any(|other| is_same_place(other, endpoint)) {
            return Err(format!(
                "--listen {endpoint} is there already; each place can be listened at once only"
            ));
        }
    }
    if let Some(circle) = circle(&listen, &connect) {
        return Err(circle);
    }
    if let Some((flags, verb)) = those_given(matches, &["mode", "owner"])
        && !listen.iter().any(|e| matches!(e, Endpoint::Unix(_)))
    {
        return Err(format!("{flags} {verb} given, but no --listen is unix:PATH"));
    }
    if matches.contains_id("backend-owner")
        && !connect.iter().any(|e| matches!(e, Endpoint::Unix(_) | Endpoint::Abstract(_)))
    {
        return Err("--backend-owner is given, but no --connect is unix:PATH or unix:@NAME".to_owned());
    }
    let secured = listen.iter().zip(&connect).flat_map(|(l, c)| [l, c]).find(|e| e.is_tls());
    let secured = secured.map(ToString::to_string);
    Ok(Forward {
        tls: tls_files(matches, secured.as_deref(), "no endpoint is tls:HOST:PORT")?,
        pairs: listen.into_iter().zip(connect).collect(),
        rights: rights(matches),
        metrics: metrics(matches)?,
        holder: given(matches, "backend-owner"),
        serving: serving(matches),
    })
}

pub(super) fn check_connect(endpoint: &Endpoint) -> Result<(), String> {
    match endpoint {
        Endpoint::Fd(_) => Err(format!("--connect {endpoint}: an inherited socket can only be listened on")),
        Endpoint::Tcp(at) | Endpoint::Tls(at) if at.port == 0 => {
            Err(format!("--connect {endpoint}: port 0 can only be listened on; say which one to connect to"))
        }
        Endpoint::Unix(_) | Endpoint::Abstract(_) | Endpoint::Tcp(_) | Endpoint::Tls(_) => Ok(()),
    }
}

/// Whether there can be only one listener at these. Of a name there may be several sockets that are inherited.
fn is_same_place(a: &Endpoint, b: &Endpoint) -> bool {
    match (a.host_port(), b.host_port()) {
        (Some(a), Some(b)) => a == b && a.port != 0,
        _ => a == b && !matches!(a, Endpoint::Fd(_)),
    }
}

/// What is wrong if a connection would come back to where it was taken, for ever: by one pair or by way
/// of several. Only what is certain from the words; a name may be anybody's.
fn circle(listen: &[Endpoint], connect: &[Endpoint]) -> Option<String> {
    for start in 0..listen.len() {
        let mut at = start;
        // no circle is longer than there are pairs
        for _ in 0..listen.len() {
            let Some(next) = listen.iter().position(|listen| is_taken_by(&connect[at], listen)) else {
                break;
            };
            if next == start {
                return Some(format!(
                    "--connect {} leads back to --listen {}: each connection would make another one, for ever",
                    connect[at], listen[start]
                ));
            }
            at = next;
        }
    }
    None
}

/// Whether a connection to `to` is certain to be taken at `listen`.
fn is_taken_by(to: &Endpoint, listen: &Endpoint) -> bool {
    match (to, listen) {
        (Endpoint::Unix(to), Endpoint::Unix(at)) => to == at,
        (Endpoint::Abstract(to), Endpoint::Abstract(at)) => to == at,
        // in plaintext a TLS listener takes nobody
        (Endpoint::Tcp(to), Endpoint::Tcp(at))
        | (Endpoint::Tls(to), Endpoint::Tcp(at) | Endpoint::Tls(at)) => {
            to.port == at.port && (to.host == at.host || (is_any(&at.host) && is_here(&to.host)))
        }
        _ => false,
    }
}

const fn is_any(host: &Host) -> bool {
    match host {
        Host::V4(address) => address.is_unspecified(),
        Host::V6(address, _) => address.is_unspecified(),
        Host::Name(_) => false,
    }
}

/// Loopback, or the unspecified address, which connect(2) takes for it.
const fn is_here(host: &Host) -> bool {
    match host {
        Host::V4(address) => address.is_loopback() || address.is_unspecified(),
        Host::V6(address, _) => address.is_loopback() || address.is_unspecified(),
        Host::Name(_) => false,
    }
}
