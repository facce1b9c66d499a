//! `target` and `source`: a migration's channels from unix sockets to unix sockets, and what they are
//! told about it that start them.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::process::Signal;

use crate::pki::{Leaf, Pki};
use crate::support::{Backend, Node, Scratch, echo, run, text};

/// The ports in a target's answer, as a source is given them.
fn ports(answer: &str) -> &str {
    let rest = answer.strip_prefix(r#"{"ports":"#).expect(answer);
    &rest[..=rest.find('}').expect("the map's end")]
}

/// A target's lines: where it listens, and the answer.
fn lines(target: &mut Node, listeners: usize) -> (Vec<String>, String) {
    let at = (0..listeners).map(|_| target.line().strip_prefix("listening ").expect("a listener").to_owned());
    (at.collect(), target.line())
}

fn port(endpoint: &str) -> &str {
    endpoint.rsplit(':').next().expect("a port")
}

#[test]
fn three_channels_by_tls() {
    let (dir, pki) = (Scratch::new(), Pki::new());
    let backends = ["rpc", "ram", "disk"].map(|name| Backend::echo(&dir.path(name)));
    let mut target = Node::start(&format!(
        "target --key vm1 --backend 49152={} --backend 0={} --backend 49153={} {} --peer cn:the-source --advertise 127.0.0.1",
        dir.path("ram"),
        dir.path("rpc"),
        dir.path("disk"),
        pki.issue("target", &Leaf::target())
    ));
    let (at, answer) = lines(&mut target, 3);
    assert!(at.iter().all(|at| at.starts_with("tls:[::]:") || at.starts_with("tls:0.0.0.0:")), "{at:?}");
    let mut expected: Vec<_> = at
        .iter()
        .zip([0, 49152, 49153])
        .map(|(at, channel)| format!(r#""{}":{channel}"#, port(at)))
        .collect();
    expected.sort();
    assert_eq!(answer, format!(r#"{{"ports":{{{}}},"address":"127.0.0.1"}}"#, expected.join(",")));

    let base = dir.path("");
    let mut source = Node::start(&format!(
        "source --key vm1 --base-dir {base} --target 127.0.0.1 --ports {} {}",
        ports(&answer),
        pki.issue("source", &Leaf::source())
    ));
    let names = ["vm1", "vm1-49152", "vm1-49153"];
    let files = names.map(|name| dir.path(&format!("migrationproxy/{name}-source.sock")));
    for file in &files {
        assert_eq!(source.line(), format!("listening unix:{file}"));
    }
    let quoted = files.each_ref().map(|file| format!("\"{file}\""));
    assert_eq!(source.line(), format!(r#"{{"files":[{}]}}"#, quoted.join(",")));
    for (file, backend) in files.iter().zip(&backends) {
        assert_eq!(fs::metadata(file).expect("stat").mode() & 0o777, 0o600);
        assert_eq!((echo(file).as_deref(), backend.touched()), (Some("hello"), 1));
    }

    source.signal(Signal::TERM);
    target.signal(Signal::TERM);
    let logs = [source, target].map(|node| {
        let (status, log) = node.end();
        assert_eq!(status.code(), Some(0), "{log}");
        log
    });
    for log in &logs {
        for channel in ["0", "49152", "49153"] {
            let label = format!("session ended key=vm1 channel={channel} ");
            assert_eq!(log.matches(&label).count(), 1, "{label} in {log}");
        }
    }
    assert!(files.iter().all(|file| !Path::new(file).exists()), "removed at the end");
}

/// QEMU's socket comes into being long after the target listens.
#[test]
fn a_backend_may_come_later() {
    let dir = Scratch::new();
    // A directory that is not there yet either, by a path that is longer than a socket's may be.
    let deep = format!("{}/{}", dir.path(""), "long-directory-name/".repeat(8));
    let mut target =
        Node::start(&format!("target --key vm1 --backend 49152={deep}sock --bind 127.0.0.1 --plain"));
    let (_, answer) = lines(&mut target, 1);
    assert!(answer.ends_with(r#""address":"127.0.0.1"}"#), "{answer}");
    let mut source = Node::start(&format!(
        "source --key vm1 --base-dir {} --target 127.0.0.1 --ports {} --plain",
        dir.path(""),
        ports(&answer)
    ));
    let file = source.line().strip_prefix("listening unix:").expect("a line").to_owned();
    let client = std::thread::spawn(move || echo(&file));
    std::thread::sleep(std::time::Duration::from_millis(100));
    fs::create_dir_all(&deep).expect("mkdir");
    std::os::unix::fs::symlink(&deep, dir.path("short")).expect("symlink");
    let _backend = Backend::echo(&dir.path("short/sock"));
    assert_eq!(client.join().expect("no panic").as_deref(), Some("hello"));
}

/// A base directory in another process' file system, as pods' are, and a path that needs a descriptor.
#[test]
fn sources_in_a_pod() {
    let dir = Scratch::new();
    let deep = format!("{}{}", dir.path(""), "long-directory-name/".repeat(8));
    fs::create_dir_all(&deep).expect("mkdir");
    fs::create_dir(dir.path("elsewhere")).expect("mkdir");
    let base = format!("/proc/{}/root{deep}", std::process::id());
    let line = format!(
        "source --key vm1 --base-dir {base} --target 127.0.0.1 --ports {{\"1\":49152}} --plain --mode 666"
    );
    let mut source = Node::start(&line);
    let file = format!("{base}migrationproxy/vm1-49152-source.sock");
    assert_eq!(source.line(), format!("listening unix:{file}"));
    assert_eq!(fs::metadata(&file).expect("stat").mode() & 0o777, 0o666);
    source.signal(Signal::TERM);
    assert_eq!(source.end().0.code(), Some(0));
    assert!(!Path::new(&file).exists());

    // What a pod could do: a link beneath the base that leads away.
    fs::remove_dir(format!("{deep}migrationproxy")).expect("rmdir");
    std::os::unix::fs::symlink(dir.path("elsewhere"), format!("{deep}migrationproxy")).expect("symlink");
    let output = run(&line);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("is a symbolic link, which is not followed"),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(fs::read_dir(dir.path("elsewhere")).expect("dir").count(), 0);
}

#[test]
fn a_live_socket_is_not_stolen_a_stale_one_is_replaced_and_what_was_begun_is_undone() {
    let dir = Scratch::new();
    let file = |name: &str| dir.path(&format!("migrationproxy/{name}-source.sock"));
    let line = format!(
        r#"source --key vm1 --base-dir {} --target 127.0.0.1 --ports {{"1":0,"2":49152}} --plain"#,
        dir.path("")
    );
    fs::create_dir(dir.path("migrationproxy")).expect("mkdir");
    let theirs = UnixListener::bind(file("vm1-49152")).expect("bind");
    let output = run(&line);
    assert_eq!(output.status.code(), Some(1));
    let log = text(&output.stderr);
    assert!(log.lines().count() == 1 && log.contains("can't listen for channel 49152"), "{log}");
    assert!(log.contains("another process listens there"), "{log}");
    assert!(!Path::new(&file("vm1")).exists(), "the other channel's is gone again");
    UnixStream::connect(file("vm1-49152")).expect("theirs is as it was");
    drop(theirs);
    let mut source = Node::start(&line);
    assert!(source.line().ends_with("vm1-source.sock") && source.line().ends_with("vm1-49152-source.sock"));
    // A second one with the same key is told so; the first does not notice.
    assert!(text(&run(&line).stderr).contains("another process listens there"));
    // Somebody removes our file and puts another there: that one is not ours to remove.
    fs::remove_file(file("vm1")).expect("remove");
    let _theirs = UnixListener::bind(file("vm1")).expect("bind");
    source.signal(Signal::TERM);
    assert_eq!(source.end().0.code(), Some(0));
    UnixStream::connect(file("vm1")).expect("theirs is still there");
    assert!(!Path::new(&file("vm1-49152")).exists());
}

/// As root the sockets are QEMU's; as anybody else that is told, and there is no socket.
#[test]
fn sockets_have_the_owner_wished_or_are_not_there() {
    let dir = Scratch::new();
    let file = dir.path("migrationproxy/vm1-source.sock");
    let mut source = Node::start(&format!(
        r#"source --key vm1 --base-dir {} --target 127.0.0.1 --ports {{"1":0}} --plain --owner 107:108 --mode 660"#,
        dir.path("")
    ));
    if source.line().is_empty() {
        let (status, log) = source.end();
        assert_eq!(status.code(), Some(1));
        assert!(log.contains("can't be given to 107:108") && log.contains("CAP_CHOWN"), "{log}");
        assert!(!Path::new(&file).exists());
        return;
    }
    let found = fs::metadata(&file).expect("stat");
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (107, 108, 0o660));
}

#[test]
fn ports_come_from_the_range_until_it_is_exhausted() {
    // Two neighbours that are free, below those that the kernel gives to others meanwhile.
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let start = 20_000 + u16::try_from(std::process::id() % 10_000).expect("below 10,000");
    let low = (start..32_000).find(|low| free(low) && free(&(low + 1))).expect("two free ports");
    let high = low + 1;
    let line = format!("target --key vm1 --bind 127.0.0.1 --plain --port-range {low}-{high}");
    let mut target = Node::start(&format!("{line} --backend 0=/x --backend 49152=/y"));
    let (at, answer) = lines(&mut target, 2);
    assert_eq!(at, [format!("tcp:127.0.0.1:{low}"), format!("tcp:127.0.0.1:{high}")]);
    assert!(answer.contains(&format!(r#""{low}":0"#)) && answer.contains(&format!(r#""{high}":49152"#)));
    let output = run(&format!("{line} --backend 0=/x"));
    let log = text(&output.stderr);
    assert_eq!((output.status.code(), log.lines().count()), (Some(1), 1), "{log}");
    assert!(log.contains(&format!("no port of {low}-{high} is free")), "{log}");
}

#[test]
fn an_interface_that_is_not_there_is_a_warning() {
    let mut target =
        Node::start("target --key vm1 --backend 0=/x --plain --interface nosuchif0 --advertise 10.9.8.7");
    let (at, answer) = lines(&mut target, 1);
    assert!(at[0].starts_with("tcp:[::]:") || at[0].starts_with("tcp:0.0.0.0:"), "{at:?}");
    assert!(answer.ends_with(r#""address":"10.9.8.7"}"#), "{answer}");
    target.signal(Signal::TERM);
    let (_, log) = target.end();
    assert!(log.contains("WARN listening at every address") && log.contains("interface=nosuchif0"), "{log}");
}

/// Link-local addresses need their zone, on both sides.
#[test]
fn ipv6_with_its_scope() {
    let known = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    // address, number, prefix length, scope (20 is link-local), flags (40 is tentative), name
    let local = known.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find_map(|f| {
        (f.len() == 6 && f[3] == "20" && f[4] == "80").then(|| {
            let address = u128::from_str_radix(f[0], 16).expect("hexadecimal");
            (std::net::Ipv6Addr::from(address), f[5].to_owned())
        })
    });
    let Some((address, interface)) = local else { return };
    let dir = Scratch::new();
    let _backend = Backend::echo(&dir.path("backend"));
    let mut target = Node::start(&format!(
        "target --key vm1 --backend 0={} --plain --bind {address}%{interface}",
        dir.path("backend")
    ));
    let (at, answer) = lines(&mut target, 1);
    assert!(at[0].starts_with(&format!("tcp:[{address}%")), "{at:?}");
    assert!(answer.ends_with(&format!(r#""address":"{address}"}}"#)), "{answer}");
    let mut source = Node::start(&format!(
        "source --key vm1 --base-dir {} --target {address}%{interface} --ports {} --plain",
        dir.path(""),
        ports(&answer)
    ));
    let file = source.line().strip_prefix("listening unix:").expect("a line").to_owned();
    assert_eq!(echo(&file).as_deref(), Some("hello"));
}

#[test]
fn uris_completions_and_man_are_printed() {
    for (line, says) in [
        ("uri qemu+unix:///session?socket=/x", "socket     /x"),
        ("uri qemu://h/system --json", r#""transport":"tls""#),
        (
            "uri --key vm1 --base-dir /run/relay --disks",
            "disks_uri    unix:///run/relay/migrationproxy/vm1-49153-source.sock",
        ),
        ("completions bash", "complete -F _relay__threads"),
        ("man", ".SH COMMAND TARGET"),
    ] {
        let output = run(line);
        assert!(output.status.success() && output.stderr.is_empty(), "{line}");
        assert!(text(&output.stdout).contains(says), "{line}: {}", text(&output.stdout));
    }
    assert_eq!(run("uri qemu").status.code(), Some(2));
}
