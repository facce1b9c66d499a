//! What is understood, what is not, and what is said about it.

use std::net::IpAddr;
use std::time::Duration;

use relay_migration::Channel;
use relay_migration::registry::Owner;

use super::*;
use crate::logging::Format;

fn run(line: &str) -> Result<Action, Early> {
    parse("relay-x", std::iter::once("relay-x").chain(line.split_whitespace()).map(OsString::from))
}

fn misuse(line: &str) -> String {
    match run(line) {
        Err(Early::Misused(message)) => {
            assert!(!message.contains('\n'), "one line: {message}");
            message
        }
        other => panic!("{line}: {other:?}"),
    }
}

fn forwarded(line: &str) -> Forward {
    match run(line) {
        Ok(Action::Forward(forward)) => *forward,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn the_definition_is_sound() {
    command("relay-x").debug_assert();
}

#[test]
fn pairs_are_made_in_order() {
    let forward = forwarded(
        "forward --listen unix:@a --listen unix:@b --connect tcp:h:1 --connect tcp:h:2 --idle-timeout 5m --dial-timeout off",
    );
    let pairs: Vec<_> = forward.pairs.iter().map(|(l, c)| format!("{l} {c}")).collect();
    assert_eq!(pairs, ["unix:@a tcp:h:1", "unix:@b tcp:h:2"]);
    assert!(forward.tls.is_none());
    assert_eq!((forward.rights.mode, forward.rights.owner), (0o600, None));
    assert_eq!(forward.serving.log_format, Format::Text);
    let expected = Timeouts { idle: Some(Duration::from_secs(300)), dial: None, ..Timeouts::default() };
    assert_eq!(forward.serving.timeouts, expected);
}

#[test]
fn tls_takes_files_and_peers() {
    let forward = forwarded(
        "forward --listen tls:[::]:0 --connect unix:/x --tls-cert c --tls-key k --tls-ca a --peer cn:one --peer cn:two* --log-format json",
    );
    let tls = forward.tls.expect("tls");
    assert_eq!((tls.cert, tls.key, tls.ca, tls.crl), ("c".into(), "k".into(), "a".into(), None));
    let peers: Vec<_> = tls.peers.iter().map(ToString::to_string).collect();
    assert_eq!(peers, ["cn:one", "cn:two*"]);
    assert_eq!(forward.serving.log_format, Format::Json);
}

/// Without its interface nothing can be sent to one.
#[test]
fn a_link_local_address_needs_its_interface() {
    let source = "source --key k --base-dir /d --plain --ports {\"1\":0} --target";
    let target = "target --key k --backend 0=/x --plain --bind";
    for line in [
        "forward --listen unix:@a --connect tcp:[fe80::1]:1".to_owned(),
        "forward --listen tcp:[fe80::1]:0 --connect unix:@b".to_owned(),
        "check --connect tcp:[fe80::1]:1".to_owned(),
        format!("{source} fe80::1"),
        format!("{target} fe80::1"),
    ] {
        let message = misuse(&line);
        assert!(message.contains("as in fe80::1%eth0"), "{message}");
    }
    for line in [
        "forward --listen unix:@a --connect tcp:[fe80::1%eth0]:1".to_owned(),
        format!("{target} fe80::1%eth0"),
    ] {
        assert!(run(&line).is_ok(), "{line}");
    }
    for (line, expected) in [
        ("fe80::1%v0", "fe80::1%v0"),
        ("fe80::1 --interface v1", "fe80::1%v1"),
        ("fd00::1 --interface v1", "fd00::1"),
    ] {
        match run(&format!("{source} {line}")) {
            Ok(Action::Source(source)) => assert_eq!(source.target.to_string(), expected),
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn sockets_and_loops_are_as_wished() {
    let serving = forwarded("forward --listen unix:@a --connect unix:@b").serving;
    assert_eq!((serving.threads, serving.tcp.user_timeout), (None, Some(Duration::from_secs(150))));
    let forward = forwarded(
        "forward --listen unix:/a --connect unix:@b --mode 660 --owner 107:0 --threads 3 --tcp-user-timeout off --max-sessions 7",
    );
    let owner = Some(Owner { uid: 107, gid: 0 });
    assert_eq!((forward.rights.mode, forward.rights.owner), (0o660, owner));
    let Serving { threads, tcp, max_sessions, .. } = forward.serving;
    assert_eq!((threads.map(usize::from), tcp.user_timeout, max_sessions), (Some(3), None, Some(7)));
    assert_eq!(
        forwarded("forward --listen unix:@a --connect unix:@b --tcp-user-timeout 30s")
            .serving
            .tcp
            .user_timeout,
        Some(Duration::from_secs(30))
    );
}

const TLS: &str = "--tls-cert c --tls-key k --tls-ca a";

#[test]
fn a_daemon_that_was_succeeded_stays_for_a_day_unless_told_otherwise() {
    let retire = |more: &str| match run(&format!("node --control unix:/c --plain {more}")) {
        Ok(Action::Node(asked)) => asked.retire,
        other => panic!("{other:?}"),
    };
    let hours = |hours: u64| Some(Duration::from_secs(hours * 3600));
    assert_eq!((retire(""), retire("--retire-timeout 2h")), (hours(24), hours(2)));
    assert_eq!(retire("--retire-timeout off"), None);
    assert!(misuse("forward --listen unix:@a --connect unix:@b --retire-timeout 2h").contains("retire"));
}

#[test]
fn revoke_live_is_for_whoever_relays_with_tls() {
    let lines = [
        "forward --listen tls:[::]:0 --connect unix:/x",
        r#"source --key vm1 --base-dir /x --target h --ports {"1":0}"#,
        "target --key vm1 --backend 0=/run/a",
        "node --control unix:/c",
    ];
    for line in lines {
        let asked = |more: &str| match run(&format!("{line} {TLS} {more}")) {
            Ok(Action::Forward(asked)) => asked.tls,
            Ok(Action::Source(asked)) => asked.tls,
            Ok(Action::Target(asked)) => asked.tls,
            Ok(Action::Node(asked)) => asked.tls,
            other => panic!("{line}: {other:?}"),
        };
        let is_live = |more| asked(more).expect("TLS").revoke_live;
        assert_eq!((is_live("--revoke-live"), is_live("")), (true, false), "{line}");
        assert!(misuse(&format!("{line} --revoke-live")).contains("--tls-cert"), "{line}");
    }
    let message = misuse(&format!("check --connect tls:h:1 {TLS} --revoke-live"));
    assert!(message.contains("--revoke-live"), "{message}");
}

#[test]
fn a_source_is_a_key_a_directory_and_the_targets_ports() {
    let line = r#"source --key vm1 --base-dir /run/x/ --target [fd00::1] --ports {"1":0,"2":49152} --plain"#;
    let source = match run(line) {
        Ok(Action::Source(source)) => *source,
        other => panic!("{other:?}"),
    };
    assert_eq!((source.key.as_str(), source.base_dir.as_str()), ("vm1", "/run/x"));
    assert_eq!((source.target.to_string(), source.ports.port(Channel::Memory)), ("fd00::1".into(), Some(2)));
    assert!(source.tls.is_none() && source.rights.mode == 0o600);
    for (line, says) in [
        ("source", "--key <KEY> --base-dir <DIR> --target <HOST> --ports <JSON>"),
        (
            r#"source --key vm1 --base-dir /x --target h --ports {"1":0}"#,
            "source without --plain needs --tls-cert, --tls-key and --tls-ca too",
        ),
        (
            r#"source --key vm1 --base-dir /x --target h --ports {"1":0} --plain --tls-ca a"#,
            "--tls-ca is given, but so is --plain",
        ),
        ("source --key vm1 --base-dir /x --target h --ports {} --plain", "--ports is empty"),
        (r#"source --key vm1 --base-dir /x --target h --ports {"1":7} --plain"#, "there is no channel 7"),
        (r#"source --key vm1 --base-dir x --target h --ports {"1":0} --plain"#, "does not begin with '/'"),
        (r#"source --key a/b --base-dir /x --target h --ports {"1":0} --plain"#, "is no key"),
        (r#"source --key a --base-dir /x --target h:1 --ports {"1":0} --plain"#, "the host alone is 'h'"),
    ] {
        let message = misuse(line);
        assert!(message.contains(says), "{line}\n  gave {message}");
    }
}

fn targeted(line: &str) -> Target {
    match run(line) {
        Ok(Action::Target(target)) => *target,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn a_target_is_a_key_and_backends() {
    let address = |text: &str| text.parse::<IpAddr>().expect("address");
    let target = targeted(&format!("target --key vm1 --backend 0=/run/a --backend 49153=/run/b {TLS}"));
    assert_eq!((target.backends.len(), target.bind, target.advertise), (2, Address::Any, None));
    assert!(target.tls.is_some() && target.range.is_none());
    let target = targeted(
        "target --key vm1 --backend 0=/run/a --plain --bind [fe80::1%eth0] --advertise 10.0.0.1 --port-range 5-6",
    );
    assert_eq!(target.bind, Address::Of(address("fe80::1"), Some("eth0".into())));
    assert_eq!((target.advertise, target.range.map(|r| r.size())), (Some(address("10.0.0.1")), Some(2)));
    let target = targeted("target --key vm1 --backend 0=/run/a --plain --interface migration0");
    assert_eq!(target.bind, Address::Interface("migration0".into()));
    for (options, says) in [
        ("--backend 0=/run/a", "target without --plain needs --tls-cert, --tls-key and --tls-ca too"),
        ("--plain", "--backend <CHANNEL=PATH>"),
        ("--plain --backend /run/a", "a backend is a channel and a path"),
        ("--plain --backend 1=/run/a", "there is no channel 1"),
        ("--plain --backend 0=run/a", "does not begin with '/'"),
        ("--plain --backend 0=/a --backend 0=/b", "channel 0 is there twice"),
        ("--plain --backend 0=/a --backend 49152=/a", "both have the backend /a"),
        ("--plain --backend 0=/a --bind node1", "'node1' is a name"),
        ("--plain --backend 0=/a --bind :: --interface eth0", "cannot be used with"),
        ("--plain --backend 0=/a --interface a/b", "an interface's name"),
        ("--plain --backend 0=/a --advertise ::", "can't be dialed"),
        ("--plain --backend 0=/a --advertise fe80::1%eth0", "means nothing to others"),
        ("--plain --backend 0=/a --port-range 9-8", "is no range of ports"),
    ] {
        let message = misuse(&format!("target --key vm1 {options}"));
        assert!(message.contains(says), "{options}\n  gave {message}");
    }
}

#[test]
fn a_uri_is_read_or_built() {
    let task = |line: &str| match run(line) {
        Ok(Action::Uri(task)) => *task,
        other => panic!("{line}: {other:?}"),
    };
    let read = task("uri qemu:///system --json");
    assert_eq!((read.json, read.task.expect("a URI").to_string()), (true, "qemu:///system".into()));
    let build = task("uri --key vm1 --disks").task.expect_err("to be built");
    assert_eq!((build.base_dir.as_str(), build.disks), ("/var/run/kubevirt", true));
    for (line, says) in [
        ("uri", "or with --key KEY"),
        ("uri qemu:///system --key vm1", "cannot be used with"),
        ("uri qemu:///system --disks", "cannot be used with"),
        ("uri qemu:///system --base-dir /x", "cannot be used with"),
        ("uri qemu", "is no libvirt URI"),
    ] {
        let message = misuse(line);
        assert!(message.contains(says), "{line}\n  gave {message}");
    }
}

/// Every command with every flag, by name.
fn commands_and_flags() -> Vec<(String, Vec<String>)> {
    let mut whole = command("relay-x");
    whole.build();
    let flags = |command: &Command| {
        command.get_arguments().filter_map(|arg| arg.get_long()).map(str::to_owned).collect()
    };
    whole.get_subcommands().map(|command| (command.get_name().to_owned(), flags(command))).collect()
}

#[test]
fn completions_and_man_page_mention_every_flag_of_every_command() {
    let commands = commands_and_flags();
    assert!(commands.iter().any(|(name, flags)| name == "target" && flags.len() > 20), "{commands:?}");
    let page = man("relay-x");
    let unescaped = page.replace("\\-", "-");
    for (name, flags) in &commands {
        let section = unescaped.split(&format!(".SH COMMAND {}\n", name.to_uppercase())).nth(1).expect(name);
        let section = section.split(".SH COMMAND").next().expect("its beginning");
        for flag in flags {
            assert!(section.contains(&format!("--{flag}")), "--{flag} of {name}");
        }
        for (shell, script) in
            [Shell::Bash, Shell::Zsh, Shell::Fish].map(|shell| (shell, completions("relay-x", shell)))
        {
            let long = |flag: &String| match shell {
                Shell::Fish => format!("-l {flag}"),
                Shell::Bash | Shell::Zsh => format!("--{flag}"),
            };
            assert!(script.contains(name.as_str()), "{name} for {shell:?}");
            assert!(flags.iter().all(|flag| script.contains(&long(flag))), "{name} for {shell:?}");
        }
    }
    assert!(page.starts_with(".ie") && page.matches(".TH ").count() == 1);
}

#[test]
fn misuse_is_told_on_one_line_that_says_what_would_be_right() {
    let long = format!("forward --listen unix:/{} --connect unix:@b", "x".repeat(107));
    for (line, says) in [
        ("", "subcommand"),
        ("forwrd", "similar subcommand exists: 'forward'"),
        ("forward", "--listen <ENDPOINT> --connect <ENDPOINT>"),
        ("forward --lisen unix:@a", "'--listen'"),
        ("forward --listen unix:@a --connect unix:@b --connect unix:@c", "1 times and --connect 2 times"),
        (
            "forward --listen tls:h:1 --connect unix:@b",
            "tls:h:1 needs --tls-cert, --tls-key and --tls-ca too",
        ),
        ("forward --listen tls:h:1 --connect unix:@b --tls-cert c --tls-ca a", "needs --tls-key too"),
        (
            "forward --listen unix:@a --connect unix:@b --tls-cert c",
            "--tls-cert is given, but no endpoint is tls:",
        ),
        (
            "forward --listen unix:@a --connect unix:@b --tls-key c --peer cn:x",
            "--tls-key and --peer are given",
        ),
        (
            "forward --listen unix:@a --connect unix:@b --mode 660",
            "--mode is given, but no --listen is unix:PATH",
        ),
        ("forward --listen unix:a --connect unix:@b --mode 999", "a mode is octal"),
        ("forward --listen unix:a --connect unix:@b --owner qemu", "two numbers, UID:GID"),
        ("forward --listen unix:a --connect unix:@b --owner 0:4294967295", "two numbers, UID:GID"),
        ("forward --listen unix:/a --connect unix:/a", "leads back to --listen unix:/a"),
        ("forward --listen tcp:[::]:7 --connect tcp:127.0.0.1:7", "leads back to --listen tcp:[::]:7"),
        (
            "forward --listen unix:@a --connect unix:@b --listen unix:@b --connect unix:@a",
            "--connect unix:@a leads back",
        ),
        ("forward --listen unix:@a --connect tcp:h:0", "port 0 can only be listened on"),
        ("forward --listen unix:@a --connect fd:x", "can only be listened on"),
        ("forward --listen unix:@a --connect /run/x", "unix:/run/x"),
        ("forward --listen unix:@a --connect unix:@b --idle-timeout 5", "write 500ms, 10s, 5m or 1h, or off"),
        ("forward --listen unix:@a --connect unix:@b --log-format xml", "possible values: text, json"),
        ("forward --listen tls:h:1 --connect unix:@b --peer x:y", "is not an identity"),
        (&long, "may have 107 bytes"),
        ("forward --listen unix:@a --connect unix:@b --threads 0", "0 is not in 1..=1024"),
        ("forward --listen unix:@a --connect unix:@b --tcp-user-timeout 150", "write 500ms, 10s"),
        ("demo --size 5", "at least 1MiB"),
        ("demo --streams 0", "0 is not in 1..=256"),
    ] {
        let message = misuse(line);
        assert!(message.contains(says), "{line}\n  gave {message}");
    }
}

#[test]
fn help_teaches() {
    for (line, says) in [
        ("--help", "relay-x demo"),
        ("--version", "relay-x 0"),
        ("forward --help", "relay-x forward --listen unix:/run/relay/vm1.sock"),
        ("forward --help", "[default: 10s]"),
        ("demo --help", "relay-x demo --size 16GiB"),
        ("source --help", "relay-x source --key vm1 --base-dir /run/relay --target fd00::1 --plain"),
        ("target --help", "--backend 0=/proc/4711/root/var/run/libvirt/virtqemud-sock"),
        ("target --help", "[default: 150s]"),
        ("uri --help", "relay-x uri --key vm1 --base-dir /run/relay --disks"),
        ("completions --help", "relay-x completions bash >"),
        ("man --help", "relay-x man | man -l -"),
    ] {
        match run(line) {
            Err(Early::Told(text)) => assert!(text.contains(says), "{text}"),
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn what_was_meant_is_told() {
    for (line, says) in [
        ("uri", "or with --key KEY"),
        (
            "forward --listen unix:/s --connect unix:@a --listen unix:/s --connect unix:@b",
            "--listen unix:/s is there already",
        ),
        (
            "forward --listen tcp:[::]:7 --connect unix:@a --listen tls:[::]:7 --connect unix:@b",
            "is there already",
        ),
        (
            r#"source --key k --base-dir /d --plain --target h --ports {"ports":{"1":0},"address":"10.1.1.1"}"#,
            r#"pass the value of its "ports": {"1":0}"#,
        ),
    ] {
        let message = misuse(line);
        assert!(message.contains(says), "{message}");
    }
    for twice in ["tcp:[::]:0", "fd:ram"] {
        assert!(
            run(&format!("forward --listen {twice} --connect unix:@a --listen {twice} --connect unix:@b"))
                .is_ok()
        );
    }
}
