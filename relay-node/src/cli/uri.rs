//! `uri`.

use clap::{Arg, ArgAction, ArgMatches, Command};
use relay_migration::uri::{Daemon, Uri};
use relay_migration::{BaseDir, Key};

use super::args::{flag, given, one, required, text};

/// Where KubeVirt's launcher sees the sockets.
const LAUNCHER_DIR: &str = "/var/run/kubevirt";

/// `uri`: libvirt's connection URIs.
#[derive(Clone, Debug)]
pub struct UriTask {
    /// The URI to take apart, or what to build some from.
    pub task: Result<Uri, Build>,
    /// For programs.
    pub json: bool,
}

/// What the URIs of a migration are built from.
#[derive(Clone, Debug)]
pub struct Build {
    /// Which migration.
    pub key: Key,
    /// Below which directory the sockets are, as libvirt sees it.
    pub base_dir: BaseDir,
    /// Which of libvirt's daemons is meant.
    pub daemon: Daemon,
    /// Disks are copied, too.
    pub disks: bool,
}

pub(super) fn command(name: &str) -> Command {
    Command::new("uri")
        .about("Take a libvirt URI apart, or build the ones that a migration needs")
        .after_help(help(name))
        .arg(
            Arg::new("uri")
                .value_name("URI")
                .value_parser(text::<Uri>())
                .action(ArgAction::Set)
                .conflicts_with("key")
                .help("driver[+transport]://[username@][hostname][:port]/[path][?extraparameters]"),
        )
        .arg(one("key", "KEY", text::<Key>()).help("Build the URIs of this migration"))
        .arg(
            one("base-dir", "DIR", text::<BaseDir>())
                .conflicts_with("uri")
                .default_value(LAUNCHER_DIR)
                .help("Where the sockets are, as libvirt and QEMU see them"),
        )
        .arg(flag("disks").conflicts_with("uri").help("Disks are copied: print disks_uri, too"))
        .arg(
            flag("system")
                .conflicts_with("uri")
                .help("The machine's libvirt daemon rather than the user's own"),
        )
        .arg(flag("json").help("One line of JSON, for programs"))
}

fn help(name: &str) -> String {
    format!(
        "\
Examples:
  What a URI means: its transport, its port if none is given, each parameter, and what libvirt would
  accept but not do as one may think
    {name} uri 'qemu+ssh://root@node-2/system?keyfile=/root/.ssh/id'
  What libvirt is given to migrate through the sockets that '{name} source --key vm1' made
    {name} uri --key vm1 --base-dir /run/relay --disks
  The same, with virsh
    {name} uri --key vm1 --base-dir /run/relay --json | jq -r '
        \"virsh migrate --live --p2p vm1 \\(.dconnuri) --migrateuri \\(.migrate_uri)\"'"
    )
}

pub(super) fn read(matches: &ArgMatches) -> Result<UriTask, String> {
    let build = || {
        let daemon = if matches.get_flag("system") { Daemon::System } else { Daemon::Session };
        Ok::<_, String>(Build {
            key: required(matches, "key")?,
            base_dir: required(matches, "base-dir")?,
            daemon,
            disks: matches.get_flag("disks"),
        })
    };
    let task = match given(matches, "uri") {
        Some(uri) => Ok(uri),
        None if matches.contains_id("key") => Err(build()?),
        None => {
            return Err(
                "say which URI to take apart, or with --key KEY of which migration to build the URIs"
                    .to_owned(),
            );
        }
    };
    Ok(UriTask { task, json: matches.get_flag("json") })
}
