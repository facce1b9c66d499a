//! `status`.

use clap::{ArgMatches, Command};

use super::args::{endpoint, flag, one, required};
use crate::endpoint::Endpoint;

/// `status`: what a node has open.
#[derive(Clone, Debug)]
pub struct Status {
    /// Where its control API is.
    pub control: Endpoint,
    /// Again and again.
    pub watch: bool,
    /// For programs.
    pub json: bool,
}

pub(super) fn command(name: &str) -> Command {
    Command::new("status")
        .about("What a node has open: migrations with their listeners, and live sessions")
        .after_help(format!(
            "\
A session's FORWARD is what went from the connection accepted to the one dialed, RATE both ways together
over the last half second (with --watch: second), STALLED how long nothing has moved. 'curl --unix-socket
CONTROL -X DELETE http://relay/v1/sessions/ID' ends one.

Examples:
  {name} status --control unix:/run/relay/control.sock --watch
  {name} status --control unix:/run/relay/control.sock --json | jq '.sessions[] | select(.stalled_for_s > 60)'"
        ))
        .arg(
            one("control", "ENDPOINT", endpoint())
                .required(true)
                .help("Where the node's control API is: unix:PATH or unix:@NAME"),
        )
        .arg(flag("watch").help("Refresh every second, in place on a terminal"))
        .arg(flag("json").help("One line of JSON (with --watch: each second), for programs"))
}

pub(super) fn read(matches: &ArgMatches) -> Result<Status, String> {
    let control: Endpoint = required(matches, "control")?;
    if !matches!(control, Endpoint::Unix(_) | Endpoint::Abstract(_)) {
        return Err(format!(
            "--control {control}: the control API is at a unix socket, unix:PATH or unix:@NAME"
        ));
    }
    Ok(Status { control, watch: matches.get_flag("watch"), json: matches.get_flag("json") })
}
