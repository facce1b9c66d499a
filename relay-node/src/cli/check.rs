//! `check`.

use std::time::Duration;

use clap::builder::ValueParser;
use clap::{ArgMatches, Command};

use super::args::{endpoint, given, interface, one, required};
use super::serving::{TlsFiles, tls_args, tls_files};
use crate::endpoint::Endpoint;
use crate::quantity;

/// `check`: would a connection there work?
#[derive(Clone, Debug)]
pub struct Check {
    /// Where.
    pub connect: Endpoint,
    /// From this interface's address; `None` leaves that to the kernel.
    pub interface: Option<String>,
    /// Present exactly if it is `tls:`.
    pub tls: Option<TlsFiles>,
    /// For all of it.
    pub timeout: Duration,
}

pub(super) fn command(name: &str) -> Command {
    Command::new("check")
        .about("Preflight: is the other node reached, who is it, until when, how fast, and why not")
        .after_help(help(name))
        .arg(
            one("connect", "ENDPOINT", endpoint())
                .required(true)
                .help("Where a relay would connect: tls:HOST:PORT, tcp:HOST:PORT, unix:PATH, unix:@NAME"),
        )
        .arg(
            one("interface", "NAME", ValueParser::new(interface))
                .help("Connect from the address of this interface, as 'node --interface' does"),
        )
        .arg(
            one("timeout", "TIME", ValueParser::new(quantity::duration))
                .default_value("5s")
                .help("For all of it"),
        )
        .args(tls_args())
}

fn help(name: &str) -> String {
    format!(
        "\
Makes one connection, as a relay would, and says nothing on it: a backend behind the other node sees
somebody who connects and ends. That is harmless to libvirt (channel 0), and not to a QEMU that waits
for its migration: check the port of channel 0, or one with another backend.

Prints what is found, line by line; on failure one line on standard error says what was wrong and what
can be done. The rate is that of half a megabyte of TLS padding, which reaches no backend: a floor.

Examples:
  {name} check --connect tls:10.1.1.1:39497 --interface migration0 \\
      --tls-cert client.crt --tls-key client.key --tls-ca ca.crt --peer cn:kubevirt.io:system:node:virt-handler
  {name} check --connect unix:/run/libvirt/virtqemud-sock

Exit codes: 0 it would work, 1 it would not, 2 bad usage."
    )
}

pub(super) fn read(matches: &ArgMatches) -> Result<Check, String> {
    let connect: Endpoint = required(matches, "connect")?;
    super::forward::check_connect(&connect)?;
    let secured = connect.is_tls().then(|| format!("--connect {connect}"));
    Ok(Check {
        interface: given(matches, "interface"),
        tls: tls_files(matches, secured.as_deref(), "--connect is not tls:HOST:PORT")?,
        timeout: required(matches, "timeout")?,
        connect,
    })
}
