//! Building blocks of definitions, and readers of what was given.

use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches};
use relay_migration::Host;
use relay_migration::registry::Owner;

use crate::endpoint::Endpoint;
use crate::listen::Rights;
use crate::socket::Holder;

pub(super) fn one(name: &'static str, value: &'static str, parser: impl Into<ValueParser>) -> Arg {
    Arg::new(name).long(name).value_name(value).value_parser(parser)
}

pub(super) fn many(name: &'static str, value: &'static str, parser: impl Into<ValueParser>) -> Arg {
    one(name, value, parser).action(ArgAction::Append)
}

pub(super) fn flag(name: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue)
}

pub(super) fn file(name: &'static str, help: &'static str) -> Arg {
    one(name, "FILE", clap::value_parser!(PathBuf)).help_heading("TLS").help(help)
}

/// A parser for what has a `FromStr` whose error is one good line.
pub(super) fn text<T>() -> ValueParser
where
    T: std::str::FromStr + Clone + Send + Sync + 'static,
    T::Err: std::error::Error + Send + Sync,
{
    ValueParser::new(|text: &str| text.parse::<T>())
}

/// What was given once.
pub(super) fn given<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, name: &str) -> Option<T> {
    matches.get_one::<T>(name).cloned()
}

/// What clap made sure of.
pub(super) fn required<T: Clone + Send + Sync + 'static>(
    matches: &ArgMatches,
    name: &str,
) -> Result<T, String> {
    given(matches, name).ok_or_else(|| format!("--{name} is missing"))
}

pub(super) fn all<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, name: &str) -> Vec<T> {
    matches.get_many::<T>(name).unwrap_or_default().cloned().collect()
}

/// Joins words as people do: `a`, `a and b`, `a, b and c`.
pub(super) fn listed(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// The flags among these that were given, and the verb for them.
pub(super) fn those_given(matches: &ArgMatches, names: &[&str]) -> Option<(String, &'static str)> {
    let flags: Vec<_> =
        names.iter().filter(|name| matches.contains_id(name)).map(|name| format!("--{name}")).collect();
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let verb = if flags.len() == 1 { "is" } else { "are" };
    (!flags.is_empty()).then(|| (listed(&flags), verb))
}

pub(super) fn rights_args() -> [Arg; 2] {
    [
        one("mode", "MODE", ValueParser::new(octal_mode))
            .help_heading("Unix sockets")
            .help("Mode of the socket files made: who may write to one may connect [default: 600]"),
        // zsh takes a colon for a separator, so its name has none.
        one("owner", "OWNER", ValueParser::new(owner))
            .help_heading("Unix sockets")
            .help("Whose they are, UID:GID, as in 107:107 for QEMU in a KubeVirt pod [default: ours]"),
    ]
}

pub(super) fn rights(matches: &ArgMatches) -> Rights {
    let Rights { mode, owner } = Rights::default();
    Rights { mode: given(matches, "mode").unwrap_or(mode), owner: given(matches, "owner").or(owner) }
}

pub(super) fn endpoint() -> ValueParser {
    ValueParser::new(|text: &str| {
        let endpoint = text.parse::<Endpoint>().map_err(|error| error.to_string())?;
        if let Some(at) = endpoint.host_port() {
            reachable(at.host.clone())?;
        }
        Ok::<_, String>(endpoint)
    })
}

/// A host that can be dialed or listened at.
pub(super) fn reachable(host: Host) -> Result<Host, String> {
    host.reachable().map_err(|error| error.to_string())
}

/// A host by itself, in brackets or not; whether it is [`reachable`] is another question.
pub(super) fn host(text: &str) -> Result<Host, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|error: relay_migration::Invalid| error.to_string())
}

/// Who must be listening at a backend.
pub(super) fn holder_arg() -> Arg {
    one("backend-owner", "OWNER", ValueParser::new(holder)).help_heading("Unix sockets").help(
        "Dial a backend only if a process of this UID or UID:GID listens there, as in 107:107; asked of\n\
         the kernel for each connection [default: whoever does]",
    )
}

fn holder(text: &str) -> Result<Holder, String> {
    let read = |text: &str| {
        Some(match text.split_once(':') {
            Some((uid, gid)) => Holder { uid: id(uid)?, gid: Some(id(gid)?) },
            None => Holder { uid: id(text)?, gid: None },
        })
    };
    read(text).ok_or_else(|| "a backend's owner is a number or two, UID or UID:GID, as in 107:107".to_owned())
}

fn octal_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(mode),
        _ => Err("a mode is octal, from 000 to 777, as in 660".to_owned()),
    }
}

/// Of a user or a group. (uid_t)-1 is none: chown(2) takes it for "as it is".
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX && text.bytes().all(|b| b.is_ascii_digit()))
}

fn owner(text: &str) -> Result<Owner, String> {
    text.split_once(':')
        .and_then(|(uid, gid)| Some(Owner { uid: id(uid)?, gid: id(gid)? }))
        .ok_or_else(|| "an owner is two numbers, UID:GID, as in 107:107".to_owned())
}

/// An interface's name.
pub(super) fn interface(text: &str) -> Result<String, String> {
    // The kernel's rules (dev_valid_name): 15 bytes, no '/', no white space.
    let fits = (1..=15).contains(&text.len())
        && !matches!(text, "." | "..")
        && text.bytes().all(|b| b.is_ascii_graphic() && !b"/:".contains(&b));
    if fits {
        Ok(text.to_owned())
    } else {
        Err("an interface's name has 1 to 15 characters, as in eth0".to_owned())
    }
}
