//! `completions` and `man`: what else is made of the definition.

use clap::{Arg, ArgMatches, Command};
use clap_mangen::Man;

/// A shell that completions are made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shell {
    /// GNU bash.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}

impl Shell {
    const ALL: [(&'static str, Self); 3] = [("bash", Self::Bash), ("zsh", Self::Zsh), ("fish", Self::Fish)];
}

pub(super) fn completions_command(name: &str) -> Command {
    Command::new("completions")
        .about("Print what a shell needs to complete this program's commands and options")
        .after_help(format!(
            "\
Examples:
  {name} completions bash > /etc/bash_completion.d/{name}
  {name} completions zsh > ~/.zfunc/_{name}
  {name} completions fish > ~/.config/fish/completions/{name}.fish"
        ))
        .arg(
            Arg::new("shell")
                .value_name("SHELL")
                .required(true)
                .value_parser(Shell::ALL.map(|(name, _)| name))
                .help("Which shell"),
        )
}

pub(super) fn man_command(name: &str) -> Command {
    Command::new("man").about("Print this program's manual page").after_help(format!(
        "\
Examples:
  {name} man | man -l -
  {name} man > /usr/local/share/man/man1/{name}.1"
    ))
}

pub(super) fn read(matches: &ArgMatches) -> Shell {
    let asked = matches.get_one::<String>("shell").map(String::as_str);
    Shell::ALL.into_iter().find(|(name, _)| Some(*name) == asked).map_or(Shell::Bash, |(_, shell)| shell)
}

/// A completion script.
#[must_use]
pub fn completions(name: &'static str, shell: Shell) -> String {
    let (mut command, mut script) = (super::command(name), Vec::new());
    match shell {
        Shell::Bash => clap_complete::generate(clap_complete::Shell::Bash, &mut command, name, &mut script),
        Shell::Zsh => clap_complete::generate(clap_complete::Shell::Zsh, &mut command, name, &mut script),
        Shell::Fish => clap_complete::generate(clap_complete::Shell::Fish, &mut command, name, &mut script),
    }
    String::from_utf8_lossy(&script).into_owned()
}

/// The manual page, in roff, every command in a section of its own.
#[must_use]
pub fn man(name: &'static str) -> String {
    let mut command = super::command(name);
    command.build();
    let whole = Man::new(command.clone().override_usage(format!("{name} COMMAND [OPTIONS]"))).manual("relay");
    let front: [Section; 5] = [
        |man, page| man.render_title(page),
        |man, page| man.render_name_section(page),
        |man, page| man.render_synopsis_section(page),
        |man, page| man.render_description_section(page),
        |man, page| man.render_extra_section(page),
    ];
    let parts: [Section; 4] = [
        |man, page| man.render_synopsis_section(page),
        |man, page| man.render_description_section(page),
        |man, page| man.render_options_section(page),
        |man, page| man.render_extra_section(page),
    ];
    let mut page = format!("{PREAMBLE}{}", render(&whole, &front));
    for subcommand in command.get_subcommands_mut() {
        // All options one by one stand below.
        let usage = subcommand.render_usage().to_string();
        let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).to_owned();
        let section = render(&Man::new(subcommand.clone().override_usage(usage)), &parts);
        page.push_str(&format!(".SH COMMAND {}\n", subcommand.get_name().to_uppercase()));
        page.push_str(&section.replace(".SH ", ".SS "));
    }
    page.replace("EXTRA\n", "NOTES\n")
}

/// How roff shows an apostrophe. It comes with every section, and is wanted once.
const PREAMBLE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

type Section = fn(&Man, &mut dyn std::io::Write) -> std::io::Result<()>;

fn render(man: &Man, sections: &[Section]) -> String {
    let mut page = Vec::new();
    for section in sections {
        // Memory takes everything.
        let _ = section(man, &mut page);
    }
    let (mut as_it_is, mut lines) = (false, String::new());
    for line in String::from_utf8_lossy(&page).replace(PREAMBLE, "").lines() {
        // An example's lines stay lines.
        let is_example = line.starts_with("  ");
        if is_example != as_it_is {
            as_it_is = is_example;
            lines.push_str(if is_example { ".nf\n" } else { ".fi\n" });
        }
        lines.push_str(line);
        lines.push('\n');
    }
    if as_it_is { lines + ".fi\n" } else { lines }
}
