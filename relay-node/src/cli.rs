//! The command line, the same for every node program: defined once, so that completions and man page
//! come from the very same definition.

mod args;
mod check;
mod demo;
mod forward;
mod node;
mod pages;
mod serving;
mod source;
mod status;
mod target;
#[cfg(test)]
mod tests;
mod uri;

use std::ffi::OsString;

use clap::{ArgMatches, Command};

pub use check::Check;
pub use demo::Demo;
pub use forward::Forward;
pub use node::{Allowed, Node, Vmis};
pub use pages::{Shell, completions, man};
pub use serving::{ClientFiles, Serving, Timeouts, TlsFiles};
pub use source::Source;
pub use status::Status;
pub use target::{Address, Target};
pub use uri::{Build, UriTask};

/// What is to be done.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Action {
    /// `forward`.
    Forward(Box<Forward>),
    /// `source`.
    Source(Box<Source>),
    /// `target`.
    Target(Box<Target>),
    /// `node`.
    Node(Box<Node>),
    /// `status`.
    Status(Status),
    /// `check`.
    Check(Box<Check>),
    /// `uri`.
    Uri(Box<UriTask>),
    /// `demo`.
    Demo(Demo),
    /// `completions`.
    Completions(Shell),
    /// `man`.
    Man,
}

/// Why the program ends before it has begun.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Early {
    /// Help or the version was asked for: text for standard output.
    Told(String),
    /// What is wrong, and what would be right, on one line: for standard error.
    Misused(String),
}

/// The definition of the whole command line.
#[must_use]
pub fn command(name: &'static str) -> Command {
    Command::new(name)
        .version(env!("CARGO_PKG_VERSION"))
        .about(
            "Carries a virtual machine's live migration between nodes: unix sockets here, mutual TLS between",
        )
        .after_help(format!(
            "\
See it work, without files, root or network:
  {name} demo

Carry one migration, on the target's node and then on the source's:
  {name} target --key vm1 --backend 0=/run/libvirt/virtqemud-sock ...
  {name} source --key vm1 --base-dir /run/relay --target 10.1.1.1 --ports '{{\"32899\":0}}' ...

'{name} COMMAND --help' shows a command's options and examples.
Exit codes: 0 done or drained, 1 failed, 2 bad usage, 3 drain deadline passed with sessions cut."
        ))
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(forward::command(name))
        .subcommand(source::command(name))
        .subcommand(target::command(name))
        .subcommand(node::command(name))
        .subcommand(status::command(name))
        .subcommand(check::command(name))
        .subcommand(uri::command(name))
        .subcommand(demo::command(name))
        .subcommand(pages::completions_command(name))
        .subcommand(pages::man_command(name))
}

/// Reads a command line, `args` beginning with the program's name.
///
/// # Errors
/// [`Early`], for help as well as for anything wrong.
pub fn parse(name: &'static str, args: impl IntoIterator<Item = OsString>) -> Result<Action, Early> {
    let matches = command(name).try_get_matches_from(args).map_err(|e| early(&e))?;
    action(&matches).map_err(Early::Misused)
}

fn action(matches: &ArgMatches) -> Result<Action, String> {
    Ok(match matches.subcommand() {
        Some(("forward", given)) => Action::Forward(Box::new(forward::read(given)?)),
        Some(("source", given)) => Action::Source(Box::new(source::read(given)?)),
        Some(("target", given)) => Action::Target(Box::new(target::read(given)?)),
        Some(("node", given)) => Action::Node(Box::new(node::read(given)?)),
        Some(("status", given)) => Action::Status(status::read(given)?),
        Some(("check", given)) => Action::Check(Box::new(check::read(given)?)),
        Some(("uri", given)) => Action::Uri(Box::new(uri::read(given)?)),
        Some(("demo", given)) => Action::Demo(demo::read(given)),
        Some(("completions", given)) => Action::Completions(pages::read(given)),
        Some(("man", _)) => Action::Man,
        _ => return Err("a command is missing; try --help".to_owned()),
    })
}

/// clap's message on one line: what is wrong and its tips, without usage and pointers to help.
fn early(error: &clap::Error) -> Early {
    let text = error.to_string();
    if !error.use_stderr() {
        return Early::Told(text);
    }
    let words = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut line = String::new();
    for paragraph in text.split("\n\n").map(words) {
        if paragraph.is_empty() || paragraph.starts_with("Usage:") || paragraph.starts_with("For more") {
            continue;
        }
        let plain = paragraph.strip_prefix("error: ").or_else(|| paragraph.strip_prefix("tip: "));
        if !line.is_empty() {
            line.push_str("; ");
        }
        line.push_str(plain.unwrap_or(&paragraph));
    }
    Early::Misused(line)
}
