//! The sandbox from inside, entered by the same code as a program's, as a command line calls for it. Each test runs again
//! in a process of its own, for there is no way out.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use rustix::io::Errno;

use super::{Needs, Sandbox, State};
use crate::cli::{self, Action};
use crate::testing::Scratch;

/// Set where a test is to enter the sandbox: its directory.
const INSIDE: &str = "RELAY_TEST_SANDBOX";

/// Runs `inside` in another process, with a directory that has `relay.crt`, `relay.key` and `ca.crt` in `tls`, and
/// `precious` beside that. Whether it got to its end, and how it ended.
fn in_a_process(name: &str, inside: impl FnOnce(&Path)) -> Option<(bool, Option<i32>)> {
    if let Some(dir) = env::var_os(INSIDE) {
        inside(Path::new(&dir));
        println!("to its end");
        return None;
    }
    let dir = Scratch::new();
    fs::create_dir(dir.path("tls")).expect("mkdir");
    fs::create_dir(dir.path("sockets")).expect("mkdir");
    for file in ["tls/relay.crt", "tls/relay.key", "tls/ca.crt", "precious"] {
        fs::write(dir.path(file), "old").expect("write");
    }
    let test = format!("sandbox::tests::{name}");
    let mut command = Command::new(env::current_exe().expect("this test"));
    command.args([&test, "--exact", "--nocapture"]).env(INSIDE, dir.root());
    let output = command.output().expect("the test once more");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    println!("{text}");
    Some((text.contains("to its end") && output.status.success(), output.status.signal()))
}

fn enter(line: &str) -> Sandbox {
    Sandbox::enter(&needs(line))
}

fn tls(dir: &Path) -> String {
    let dir = dir.display();
    format!("--tls-cert {dir}/tls/relay.crt --tls-key {dir}/tls/relay.key --tls-ca {dir}/tls/ca.crt")
}

/// If the kernel has no Landlock there is nothing to be seen of it.
fn hides_files(sandbox: &Sandbox) -> bool {
    match &sandbox.landlock {
        State::On(_) => true,
        State::Off(why) if why.contains("kernel has none") || why.contains("lsm=") => {
            println!("SKIPPED: {why}");
            false
        }
        State::Off(why) => panic!("{why}"),
    }
}

fn denied<T>(what: &str, done: io::Result<T>) {
    match done {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        Err(error) => panic!("{what}: {error}"),
        Ok(_) => panic!("{what}: it is allowed"),
    }
}

fn absent<T>(what: &str, done: Result<T, Errno>) {
    assert_eq!(done.err(), Some(Errno::NOSYS), "{what}");
}

#[test]
fn files_elsewhere_are_out_of_reach_and_what_is_needed_is_not() {
    let ended = in_a_process("files_elsewhere_are_out_of_reach_and_what_is_needed_is_not", |dir| {
        // A thread that was there before is not held to anything: it changes the files, as others do.
        let (asked, ask) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            while let Ok(wish) = ask.recv() {
                wish();
                tell.send(()).expect("somebody waits");
            }
        });
        let outside = |wish: Box<dyn FnOnce() + Send>| {
            asked.send(wish).expect("it waits");
            told.recv().expect("done");
        };
        let at = |name: &str| dir.join(name);
        let here = dir.display();
        let line = format!("forward --listen unix:{here}/sockets/in --connect tls:127.0.0.1:1 {}", tls(dir));
        let before = File::open(at("precious")).expect("before");
        if !hides_files(&enter(&line)) {
            return;
        }
        // What it was given goes on; names can be looked at, as ever.
        assert_eq!(io::read_to_string(before).expect("it is open"), "old");
        fs::metadata(at("precious")).expect("stat");
        for path in [at("precious"), "/etc/passwd".into(), "/proc/1/status".into(), "/proc/version".into()] {
            denied(&path.display().to_string(), fs::read(&path));
        }
        for directory in [dir, Path::new("/"), Path::new("/etc")] {
            denied(&directory.display().to_string(), fs::read_dir(directory));
        }
        for name in ["precious", "tls/relay.crt"] {
            denied(name, OpenOptions::new().append(true).open(at(name)));
            denied(name, File::create(at(name)));
        }
        for name in ["tls/new", "sockets/new", "new"] {
            denied(name, File::create_new(at(name)));
        }
        denied("rename", fs::rename(at("tls/relay.crt"), at("tls/relay.old")));
        denied("link", fs::hard_link(at("precious"), at("sockets/precious")));
        denied("remove", fs::remove_file(at("precious")));
        denied("mkdir", fs::create_dir(at("new")));
        denied("a socket elsewhere", UnixListener::bind(at("tls/in")));
        // Certificates, in all ways in which they are changed.
        let read = |name: &str| fs::read_to_string(at(name)).expect("readable");
        assert_eq!(read("tls/relay.crt"), "old");
        let (file, new) = (at("tls/relay.crt"), at("tls/new"));
        outside(Box::new(move || {
            fs::write(&new, "new").expect("write");
            fs::rename(&new, &file).expect("rename");
        }));
        assert_eq!(read("tls/relay.crt"), "new");
        // A socket, made, moved aside and removed.
        let listener = UnixListener::bind(at("sockets/in")).expect("its place");
        UnixStream::connect(at("sockets/in")).expect("dialed");
        drop(listener);
        fs::rename(at("sockets/in"), at("sockets/aside")).expect("rename");
        assert_eq!(fs::read_dir(at("sockets")).expect("listed").count(), 1);
        fs::remove_file(at("sockets/aside")).expect("removed");
        // What it tells of itself.
        assert!(fs::read_to_string("/proc/self/status").expect("its own").contains("VmRSS"));
        assert!(fs::read_dir("/proc/self/fd").expect("its own").count() > 3);
        // Whoever it starts is held to the same.
        let path = at("precious");
        thread::spawn(move || denied("in a thread", fs::read(path))).join().expect("the same");
    });
    assert!(ended.is_none_or(|(well, _)| well));
}

#[test]
fn mounted_secrets_are_followed_and_nothing_else() {
    let ended = in_a_process("mounted_secrets_are_followed_and_nothing_else", |dir| {
        let at = |name: &str| dir.join(name);
        let set = |name: &str| {
            fs::create_dir(at(name)).expect("mkdir");
            ["relay.crt", "relay.key", "ca.crt"]
                .into_iter()
                .for_each(|file| fs::write(at(name).join(file), name).expect("write"));
        };
        let (mount, one, elsewhere) = (at("mount"), "mount/..1", "elsewhere");
        fs::create_dir(&mount).expect("mkdir");
        set(one);
        set(elsewhere);
        symlink("..1", mount.join("..data")).expect("symlink");
        for file in ["relay.crt", "relay.key", "ca.crt"] {
            symlink(format!("..data/{file}"), mount.join(file)).expect("symlink");
        }
        let (tell, told) = mpsc::channel();
        let (ask, asked) = mpsc::channel::<String>();
        let (swapped, from) = (mount.join("..data"), dir.to_owned());
        thread::spawn(move || {
            for target in asked {
                if target == "..2" {
                    fs::create_dir(from.join("mount/..2")).expect("mkdir");
                    fs::write(from.join("mount/..2/relay.crt"), "two").expect("write");
                }
                symlink(target, from.join("mount/next")).expect("symlink");
                fs::rename(from.join("mount/next"), &swapped).expect("rename");
                tell.send(()).expect("somebody waits");
            }
        });
        let swap = |target: &str| {
            ask.send(target.to_owned()).expect("it waits");
            told.recv().expect("done");
        };
        let options = tls(dir).replace("/tls/", "/mount/");
        if !hides_files(&enter(&format!("forward --listen unix:@x --connect tls:127.0.0.1:1 {options}"))) {
            return;
        }
        let read = || fs::read_to_string(mount.join("relay.crt"));
        assert_eq!(read().expect("as it was"), one);
        swap("..2");
        assert_eq!(read().expect("what it is now"), "two");
        swap("../elsewhere");
        denied("a link to elsewhere", read());
    });
    assert!(ended.is_none_or(|(well, _)| well));
}

#[test]
fn other_ports_abstract_sockets_and_signals_are_out_of_reach() {
    let ended = in_a_process("other_ports_abstract_sockets_and_signals_are_out_of_reach", |dir| {
        let listener = || TcpListener::bind("127.0.0.1:0").expect("bind");
        let (known, other, free) = (listener(), listener(), listener());
        let port = |of: &TcpListener| of.local_addr().expect("address").port();
        let (connect, stranger, listen) = (port(&known), port(&other), port(&free));
        drop(free);
        let name = format!("relay-sandbox-{}", std::process::id());
        let address = <SocketAddr as SocketAddrExt>::from_abstract_name(&name).expect("address");
        let abstract_listener = UnixListener::bind_addr(&address).expect("bind");
        let line = format!("forward --listen tcp:127.0.0.1:{listen} --connect tcp:127.0.0.1:{connect}");
        let sandbox = enter(&line);
        if !hides_files(&sandbox) {
            return;
        }
        let State::On(how) = &sandbox.landlock else { panic!("it is on") };
        if how != "on, ABI 7" && !how.starts_with("on, ABI") {
            println!("SKIPPED: {how}");
            return;
        }
        TcpListener::bind(("127.0.0.1", listen)).expect("its own");
        TcpStream::connect(("127.0.0.1", connect)).expect("its own");
        denied("bind", TcpListener::bind("127.0.0.1:0"));
        denied("connect", TcpStream::connect(("127.0.0.1", stranger)));
        denied("abstract", UnixStream::connect_addr(&address));
        drop((known, other, abstract_listener, dir));
    });
    assert!(ended.is_none_or(|(well, _)| well));
}

#[test]
fn what_nothing_here_calls_is_not_there() {
    let ended = in_a_process("what_nothing_here_calls_is_not_there", |dir| {
        let sandbox = enter("forward --listen unix:@x --connect unix:@y");
        assert!(matches!(sandbox.seccomp, State::On(_)), "{sandbox:?}");
        let own = rustix::process::getpid();
        absent("kill", rustix::process::test_kill_process(own));
        absent("memfd", rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::empty()));
        absent("chroot", rustix::process::chroot("/"));
        absent("chdir", rustix::process::chdir("/"));
        absent("a symlink", rustix::fs::symlink("x", dir.join("sockets/link")));
        let of_family = |family| rustix::net::socket(family, rustix::net::SocketType::STREAM, None);
        absent("vsock", of_family(rustix::net::AddressFamily::VSOCK));
        absent("packets", of_family(rustix::net::AddressFamily::PACKET));
        absent(
            "another's limits",
            rustix::process::prlimit(
                rustix::process::Pid::from_raw(1),
                rustix::process::Resource::Core,
                rustix::process::Rlimit { current: None, maximum: None },
            ),
        );
        // And all of this is: threads, randomness, time, every kind of socket.
        thread::spawn(|| thread::sleep(std::time::Duration::from_millis(1))).join().expect("a thread");
        UnixDatagram::pair().expect("a pair");
        TcpListener::bind("127.0.0.1:0").expect_err("but not this port");
    });
    assert!(ended.is_none_or(|(well, _)| well));
}

#[test]
fn whoever_runs_another_program_is_killed() {
    let ended = in_a_process("whoever_runs_another_program_is_killed", |_| {
        enter("forward --listen unix:@x --connect unix:@y");
        // Not by Command, which makes a process first: that is refused, too.
        let forked = Command::new("/bin/true").status();
        assert_eq!(forked.expect_err("no process").raw_os_error(), Some(libc::ENOSYS));
        let error = std::os::unix::process::CommandExt::exec(&mut Command::new("/bin/true"));
        panic!("still here: {error}");
    });
    assert!(ended.is_none_or(|ended| ended == (false, Some(libc::SIGSYS))), "{ended:?}");
}

#[test]
fn names_are_looked_up_inside() {
    let ended = in_a_process("names_are_looked_up_inside", |dir| {
        let sandbox = enter("forward --listen unix:@x --connect tcp:localhost:1");
        assert!(("localhost", 1).to_socket_addrs().expect("looked up").next().is_some());
        let state: Result<Vec<_>, _> = ("nosuchhost.invalid", 1).to_socket_addrs().map(Iterator::collect);
        assert!(state.is_err());
        if hides_files(&sandbox) {
            denied("elsewhere", fs::read(dir.join("precious")));
            denied("elsewhere", fs::read("/etc/passwd"));
        }
    });
    assert!(ended.is_none_or(|(well, _)| well));
}

#[test]
fn a_daemon_writes_its_state_and_makes_sockets_where_it_was_told() {
    let ended = in_a_process("a_daemon_writes_its_state_and_makes_sockets_where_it_was_told", |dir| {
        let here = dir.display();
        fs::create_dir(dir.join("control")).expect("mkdir");
        let line = format!(
            "node --control unix:{here}/control/sock --state-dir {here}/new/state --socket-dir {here}/sockets {}",
            tls(dir)
        );
        if !hides_files(&enter(&line)) {
            return;
        }
        let at = |name: &str| dir.join(name);
        fs::write(at("new/state/x.new"), "state").expect("write");
        fs::rename(at("new/state/x.new"), at("new/state/x.json")).expect("rename");
        File::options()
            .write(true)
            .open(at("new/state/x.json"))
            .and_then(|file| file.set_len(1))
            .expect("truncated");
        assert_eq!(fs::read_to_string(at("new/state/x.json")).expect("read"), "s");
        fs::remove_file(at("new/state/x.json")).expect("removed");
        denied("beside it", fs::write(at("new/x"), ""));
        UnixListener::bind(at("control/sock")).expect("its control socket");
        fs::create_dir(at("sockets/migrationproxy")).expect("mkdir");
        UnixListener::bind(at("sockets/migrationproxy/vm-source.sock")).expect("where requests may name it");
        denied("elsewhere", UnixListener::bind(at("tls/sock")));
        TcpListener::bind("127.0.0.1:0").expect("any port");
    });
    assert!(ended.is_none_or(|(well, _)| well));
}

/// Reads a command line, and does not enter.
fn needs(line: &str) -> Needs {
    let args = ["relay"].into_iter().chain(line.split_whitespace()).map(OsString::from);
    match cli::parse("relay", args).expect("a command line") {
        Action::Forward(asked) => Needs::of_forward(&asked),
        Action::Source(asked) => Needs::of_source(&asked),
        Action::Target(asked) => Needs::of_target(&asked),
        Action::Node(asked) => Needs::of_node(&asked),
        Action::Status(_)
        | Action::Check(_)
        | Action::Uri(_)
        | Action::Demo(_)
        | Action::Completions(_)
        | Action::Man => panic!("{line}"),
    }
}

#[test]
fn what_cannot_be_done_under_landlock_is_said_by_its_option() {
    let node = "node --plain --control unix:@c --socket-dir /run/x";
    for (line, says) in [
        (
            "source --plain --key k --target ::1 --ports {\"7\":0} --base-dir /proc/1/root/run",
            "--base-dir /proc/1/root/run",
        ),
        ("target --plain --key k --backend 0=/proc/1/root/run/q", "--backend /proc/1/root/run/q"),
        ("forward --listen unix:@x --connect unix:/proc/1/root/run/q", "--connect /proc/1/root"),
        ("forward --listen unix:/proc/1/root/x --connect unix:@y", "--listen /proc/1/root"),
        (&format!("{node} --vmis - --name n"), "--vmis without --pod-run-dir"),
        (
            &format!("{node} --vmis - --name n --pod-run-dir /proc/1/root/{{pod}}"),
            "--pod-run-dir /proc/1/root",
        ),
        ("node --plain --control unix:@c --socket-dir /proc/1/root/run", "--socket-dir /proc/1/root/run"),
    ] {
        let why = needs(line).impossible.unwrap_or_else(|| panic!("{line}"));
        assert!(why.starts_with(says), "{why}");
    }
    for line in [node.to_owned(), format!("{node} --vmis - --name n --pod-run-dir /run/pods/{{pod}}")] {
        assert_eq!(needs(&line).impossible, None, "{line}");
    }
}

#[test]
fn ports_and_names_as_the_command_line_has_them() {
    let ports = |ports: &[u16]| Some(ports.iter().copied().collect::<BTreeSet<_>>());
    let plain = "--plain --key k";
    for (line, names, bind, connect) in [
        ("forward --listen tcp:[::]:7 --connect tcp:[::1]:8".to_owned(), false, ports(&[7]), ports(&[8])),
        ("forward --listen unix:@x --connect tcp:there:8".to_owned(), true, ports(&[]), None),
        ("forward --listen tcp:here:7 --connect unix:@y".to_owned(), true, ports(&[7]), ports(&[])),
        (format!("target {plain} --backend 0=/q --metrics tcp:[::]:9"), false, ports(&[0, 9]), ports(&[])),
        (format!("target {plain} --backend 0=/q --port-range 5-6"), false, ports(&[5, 6]), ports(&[])),
        (format!("target {plain} --backend 0=/q --port-range 5-2000"), false, None, ports(&[])),
        (
            format!("source {plain} --base-dir /r --target ::1 --ports {{\"7\":0,\"8\":49152}}"),
            false,
            ports(&[]),
            ports(&[7, 8]),
        ),
        (
            format!("source {plain} --base-dir /r --target ::1 --ports {{\"7\":0}} --interface lo"),
            false,
            ports(&[0]),
            ports(&[7]),
        ),
        (format!("source {plain} --base-dir /r --target there --ports {{\"7\":0}}"), true, ports(&[]), None),
        ("node --plain --control unix:@c".to_owned(), true, None, None),
    ] {
        let needs = needs(&line);
        assert_eq!((needs.names, needs.bind, needs.connect), (names, bind, connect), "{line}");
    }
    assert!(needs("forward --listen unix:@x --connect unix:@y").abstract_sockets);
    assert!(!needs("forward --listen unix:@x --connect tcp:[::1]:8").abstract_sockets);
}
