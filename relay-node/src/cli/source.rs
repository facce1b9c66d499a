//! `source`.

use clap::builder::ValueParser;
use clap::{ArgMatches, Command, ValueHint};
use relay_migration::{BaseDir, Host, Key, PortMap};

use super::args::{flag, given, host, interface, one, reachable, required, rights, rights_args, text};
use super::serving::{Serving, TlsFiles, metrics, serving, tls_files, with_serving};
use crate::endpoint::Endpoint;
use crate::listen::Rights;

/// `source`: the side that a virtual machine leaves.
#[derive(Clone, Debug)]
pub struct Source {
    /// Which migration.
    pub key: Key,
    /// Below which directory the sockets are.
    pub base_dir: BaseDir,
    /// The target's node.
    pub target: Host,
    /// Its ports.
    pub ports: PortMap,
    /// The interface to dial from; `None` leaves it to the kernel.
    pub interface: Option<String>,
    /// Of the sockets.
    pub rights: Rights,
    /// `None` for plaintext.
    pub tls: Option<TlsFiles>,
    /// Where metrics are asked for.
    pub metrics: Option<Endpoint>,
    /// How to do it.
    pub serving: Serving,
}

pub(super) fn command(name: &str) -> Command {
    let command = Command::new("source")
        .about(
            "The node that a virtual machine leaves: a unix socket per channel here, the target's node there",
        )
        .after_help(help(name))
        .arg(
            one("key", "KEY", text::<Key>())
                .required(true)
                .help("Which migration: part of the sockets' names. KubeVirt's is the UID of the instance"),
        )
        .arg(
            one("base-dir", "DIR", text::<BaseDir>())
                .value_hint(ValueHint::DirPath)
                .required(true)
                .help("Where the sockets are made, as DIR/migrationproxy/KEY[-CHANNEL]-source.sock"),
        )
        .arg(
            one("target", "HOST", ValueParser::new(host))
                .required(true)
                .help("The target's node: the address that its 'target' printed, or a name; fe80::1%eth0 if it is link-local"),
        )
        .arg(
            one("ports", "JSON", ValueParser::new(ports))
                .required(true)
                .help("Its port for each channel, as its 'target' printed them: {\"PORT\":CHANNEL,...}"),
        )
        .arg(
            one("interface", "NAME", ValueParser::new(interface))
                .help("Dial from the address of this interface, as 'node --interface' does; looked at for each connection"),
        )
        .arg(flag("plain").help("TCP in plaintext: nothing is encrypted and nobody authenticated"))
        .args(rights_args());
    with_serving(command)
}

fn help(name: &str) -> String {
    format!(
        "\
A migration has up to three channels: 0 libvirt, 49152 memory, 49153 disks. For each one in --ports a
unix socket is made, which libvirt and QEMU in the source's pod connect to ('{name} uri --key KEY'
prints the URIs). Whatever connects there is carried to that port of the target's node.

The base directory must exist; 'migrationproxy' in it is made if it does not. If it lies in a pod
(/proc/PID/root/...), no link in there leads out of the pod. Nobody can connect before a socket has its
owner and mode; a stale socket is replaced, a live one never; at the end they are removed.

Examples:
  From a KubeVirt pod whose launcher is process 4711
    {name} source --key d62c2a6f-d8f3-4cc5-a22e-4cffb7d5eac1 \\
        --base-dir /proc/4711/root/var/run/kubevirt --owner 107:107 \\
        --target 10.1.1.1 --ports '{{\"32899\":0,\"39497\":49153,\"42691\":49152}}' \\
        --tls-cert client.crt --tls-key client.key --tls-ca ca.crt \\
        --peer cn:kubevirt.io:system:node:virt-handler
  Without TLS, on a network of its own
    {name} source --key vm1 --base-dir /run/relay --target fd00::1 --plain \\
        --ports '{{\"49200\":0,\"49201\":49152}}'

Once they accept, one line for each socket is printed ('listening unix:/run/...'), then all of them as
one line of JSON: {{\"files\":[\"/run/...\",...]}}. Logs go to standard error; a session's line has key and
channel. SIGTERM and SIGINT stop accepting and let the open sessions finish (--drain-timeout), the
second one ends them. TLS files are read
again when they change, and at SIGHUP."
    )
}

fn ports(text: &str) -> Result<PortMap, String> {
    text.parse::<PortMap>().map_err(|error| match serde_json::from_str::<serde_json::Value>(text) {
        Ok(whole) if whole["ports"].is_object() => {
            format!("this is the target's whole answer; pass the value of its \"ports\": {}", whole["ports"])
        }
        Ok(_) | Err(_) => error.to_string(),
    })
}

pub(super) fn read(matches: &ArgMatches) -> Result<Source, String> {
    let ports: PortMap = required(matches, "ports")?;
    if ports.is_empty() {
        return Err("--ports is empty; name at least one channel's port, as in {\"32899\":0}".to_owned());
    }
    let interface = given::<String>(matches, "interface");
    // It is there that the target must be.
    let target = match (required(matches, "target")?, &interface) {
        (Host::V6(address, None), Some(zone)) if address.is_unicast_link_local() => {
            Host::V6(address, Some(zone.clone()))
        }
        (target, _) => {
            reachable(target).map_err(|error| format!("--target: {error}, or give --interface"))?
        }
    };
    let wanted = (!matches.get_flag("plain")).then_some("source without --plain");
    Ok(Source {
        key: required(matches, "key")?,
        base_dir: required(matches, "base-dir")?,
        target,
        ports,
        interface,
        rights: rights(matches),
        tls: tls_files(matches, wanted, "so is --plain")?,
        metrics: metrics(matches)?,
        serving: serving(matches),
    })
}
