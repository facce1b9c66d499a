//! `node`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::ValueParser;
use clap::{Arg, ArgMatches, Command, ValueHint};
use relay_migration::registry::Owner;
use relay_migration::roles::RuleSet;
use relay_migration::{BaseDir, PortRange};

use super::args::{
    all, endpoint, flag, given, holder_arg, many, one, required, rights, rights_args, text, those_given,
};
use super::serving::{
    Serving, TlsFiles, limit, metrics, rate, rate_arg, serving, timeout, tls_files, with_serving,
};
use super::target::{self, Address};
use crate::bandwidth::Rate;
use crate::endpoint::Endpoint;
use crate::listen::Rights;
use crate::node::pods::{Pods, Template};
use crate::socket::Holder;

/// `node`: the daemon.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where the control API listens.
    pub control: Endpoint,
    /// Who may use it, besides ourselves and root.
    pub allowed: Vec<Allowed>,
    /// Objects to follow; `None` for the control API only.
    pub vmis: Option<Vmis>,
    /// How the pods of objects are found.
    pub(crate) pods: Pods,
    /// Where targets listen.
    pub bind: Address,
    /// What to tell sources; `None` to find out.
    pub advertise: Option<IpAddr>,
    /// Ports to listen on; `None` for the kernel's choice.
    pub range: Option<PortRange>,
    /// The control socket of a process whose place is to be taken.
    pub takeover: Option<Endpoint>,
    /// How long open sessions may go on once another process has taken over; `None` for ever.
    pub retire: Option<Duration>,
    /// What a restart is to know.
    pub state_dir: Option<PathBuf>,
    /// Where requests may name sockets; empty for anywhere.
    pub socket_dirs: Vec<BaseDir>,
    /// Of the sockets that sources make.
    pub rights: Rights,
    /// Who must be listening at targets' backends; `None` for whoever does.
    pub holder: Option<Holder>,
    /// `None` for plaintext.
    pub tls: Option<TlsFiles>,
    /// Where metrics are asked for.
    pub metrics: Option<Endpoint>,
    /// How to do it.
    pub serving: Serving,
    /// Bytes a second for each migration.
    pub bandwidth_per_key: Rate,
}

/// Longer than any migration takes. Nobody's connection is to keep a former process for weeks.
const RETIRE: Option<Duration> = Some(Duration::from_secs(24 * 3600));

/// Who may use the control API besides this process' own user and root.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Allowed {
    /// A user.
    Uid(u32),
    /// Whose primary group it is.
    Gid(u32),
}

/// VirtualMachineInstances on standard input.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vmis {
    /// This node's name in them.
    pub node: String,
    /// By whose rules.
    pub rules: RuleSet,
}

pub(super) fn command(name: &str) -> Command {
    let command = Command::new("node")
        .about(
            "The daemon of a node: any number of migrations, by a control API or from what Kubernetes says",
        )
        .after_help(help(name))
        .arg(
            one("control", "ENDPOINT", endpoint())
                .required(true)
                .help("Where the control API listens: unix:PATH, unix:@NAME or fd:NAME"),
        )
        .arg(
            many("control-allow", "uid:N|gid:N", ValueParser::new(allowed))
                .help("Who may use it, besides root and this process' own user; a group is a primary one"),
        )
        .arg(
            one("state-dir", "DIR", clap::value_parser!(PathBuf)).value_hint(ValueHint::DirPath).help(
                "Keep here what a restart must know, to listen on the same ports again; as in /run/relay",
            ),
        )
        .arg(one("takeover", "ENDPOINT", endpoint()).help(
            "Take over what the node with this control socket listens at, the control socket included; it\n\
             finishes what it carries and ends. If this one does not get as far, nothing changes",
        ))
        .arg(many("socket-dir", "DIR", text::<BaseDir>()).value_hint(ValueHint::DirPath).help(
            "Requests may name backends and base directories in these directories only; repeat it for more.\n\
             The sandbox then keeps sockets to them, too [default: anywhere]",
        ))
        .args(target::network_args())
        .arg(flag("plain").help("TCP in plaintext: nothing is encrypted and nobody authenticated"))
        .args(vmi_args())
        .args(rights_args())
        .arg(holder_arg());
    with_serving(command)
        .arg(rate_arg(
            "bandwidth-per-key",
            "The same for each migration, whatever the number of its connections [default: off]",
        ))
        .arg(timeout(
            "retire-timeout",
            "For open sessions to finish here once another process has taken over (--takeover)",
            RETIRE,
        ))
}

fn vmi_args() -> [Arg; 4] {
    let vmis = |arg: Arg| arg.help_heading("Kubernetes");
    [
        vmis(one("vmis", "-", ["-"])).requires("name").help(
            "Follow VirtualMachineInstances on standard input, as 'kubectl get vmi -A --watch -o json'\n\
             prints them",
        ),
        vmis(one("name", "NODE", ValueParser::new(node_name)))
            .requires("vmis")
            .help("This node's name, as Kubernetes has it"),
        vmis(one("rules", "RULES", text::<RuleSet>())).requires("vmis").help(
            "Whose rules say when a node is source or target: current, or classic (2022) [default: current]",
        ),
        vmis(one("pod-run-dir", "TEMPLATE", ValueParser::new(Template::parse))).requires("vmis").help(
            "Where a pod's /var/run is, with {namespace}, {name}, {uid} (the instance's) and {pod} (the\n\
                 pod's UID) in it [default: that of the pod's virt-launcher, /proc/PID/root/var/run]",
        ),
    ]
}

fn help(name: &str) -> String {
    format!(
        "\
The control API is HTTP/1.1 with JSON, on a unix socket:
  PUT    /v1/targets/KEY   {{\"backends\":{{\"0\":\"/...\",\"49152\":\"/...\"}},\"lease_s\":60}} -> {{\"ports\":{{...}},\"address\":\"...\"}}
  PUT    /v1/sources/KEY   {{\"target\":\"10.1.1.1\",\"ports\":{{...}},\"base_dir\":\"/...\",\"owner\":{{\"uid\":107,\"gid\":107}}}} -> {{\"files\":[...]}}
  GET    /v1/limits, PUT /v1/limits {{\"bandwidth\":\"100MiB/s\",\"bandwidth_per_key\":\"off\",\"keys\":{{\"vm1\":\"10MiB/s\"}}}}
  GET    /v1/targets[/KEY]  /v1/sources[/KEY]  /v1/sessions  /healthz  /readyz  /metrics
  DELETE /v1/targets/KEY  /v1/sources/KEY  /v1/sessions/ID        POST /v1/drain
The same PUT again changes nothing and renews the lease; another one changes what differs and keeps
ports. \"keep\":{{\"39497\":0}} in a target's body asks for ports that an earlier answer gave, if they are free.
lease_s, keep and owner may be left out. DELETE closes listeners and lets open sessions finish;
DELETE /v1/sessions/ID ends one by force.
'{name} status' shows all of it.

With --vmis, listeners come and go as the objects call for, and for each target a line of JSON is printed
whenever its status has to be published: \"patch\" in it is for 'kubectl patch vmi --type merge'. What
an object called for is its own: the API answers 409 if it is to change that.

Examples:
  {name} node --control unix:/run/relay/control.sock --interface migration0 --state-dir /run/relay/state \\
      --tls-cert node.crt --tls-key node.key --tls-ca ca.crt --peer 'cn:kubevirt.io:system:*'
  curl --unix-socket /run/relay/control.sock http://relay/v1/targets/vm1 -X PUT \\
      -d '{{\"backends\":{{\"0\":\"/run/libvirt/virtqemud-sock\"}}}}'
  kubectl get vmi -A --watch -o json | {name} node --control unix:/run/relay/control.sock \\
      --vmis - --name \"$NODE_NAME\" --interface migration0 --owner 107:107 --tls-cert node.crt ...

SIGTERM and SIGINT, as POST /v1/drain: nothing new is taken; what listens goes on until it is deleted, and
sessions until they end, for --drain-timeout at most. With --state-dir only sessions are waited for: the next
one listens where this one did. The second signal ends everything. SIGHUP reads the TLS files again."
    )
}

pub(super) fn read(matches: &ArgMatches) -> Result<Node, String> {
    let control: Endpoint = required(matches, "control")?;
    match &control {
        Endpoint::Unix(_) | Endpoint::Abstract(_) | Endpoint::Fd(_) => {}
        Endpoint::Tcp(_) | Endpoint::Tls(_) => {
            return Err(format!(
                "--control {control}: it tells users by their unix credentials, so it is unix:PATH, unix:@NAME or fd:NAME"
            ));
        }
    }
    let takeover: Option<Endpoint> = given(matches, "takeover");
    if let Some(at @ (Endpoint::Tcp(_) | Endpoint::Tls(_) | Endpoint::Fd(_))) = &takeover {
        return Err(format!("--takeover {at}: a control socket is unix:PATH or unix:@NAME"));
    }
    let vmis = given::<String>(matches, "name")
        .map(|node| Vmis { node, rules: given(matches, "rules").unwrap_or_default() });
    let mut rights = rights(matches);
    if vmis.is_some() {
        rights.owner = rights.owner.or(Some(Owner::QEMU));
    } else if let Some((flags, verb)) = those_given(matches, &["owner"]) {
        return Err(format!(
            "{flags} {verb} given, but there is no --vmis; by the control API each source has an owner of its own"
        ));
    }
    let wanted = (!matches.get_flag("plain")).then_some("node without --plain");
    let (bind, advertise, range) = target::network(matches);
    Ok(Node {
        control,
        allowed: all(matches, "control-allow"),
        vmis,
        pods: given::<Template>(matches, "pod-run-dir")
            .map_or_else(|| Pods::Processes(PathBuf::from("/proc")), Pods::Template),
        bind,
        advertise,
        range,
        state_dir: given(matches, "state-dir"),
        socket_dirs: all(matches, "socket-dir"),
        takeover,
        retire: limit(matches, "retire-timeout", RETIRE),
        rights,
        holder: given(matches, "backend-owner"),
        tls: tls_files(matches, wanted, "so is --plain")?,
        metrics: metrics(matches)?,
        serving: serving(matches),
        bandwidth_per_key: rate(matches, "bandwidth-per-key"),
    })
}

fn allowed(text: &str) -> Result<Allowed, String> {
    let number = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
    match text.split_once(':') {
        Some(("uid", id)) => number(id).map(Allowed::Uid),
        Some(("gid", id)) => number(id).map(Allowed::Gid),
        _ => None,
    }
    .ok_or_else(|| "who is allowed is a user or a group by number, as in uid:1000 or gid:107".to_owned())
}

fn node_name(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("it is empty; it is the name that 'kubectl get nodes' shows".to_owned());
    }
    Ok(text.to_owned())
}
