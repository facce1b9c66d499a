//! The README's walk through the whole path is run as it is written, so that it can't rot.

use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::support::{Scratch, program, text};

/// The shell's blocks of that section, in order.
fn blocks(readme: &str, section: &str) -> Vec<String> {
    let (_, section) = readme.split_once(section).expect("the section");
    let section = section.split("\n## ").next().expect("it ends");
    let shell = section.split("```sh\n").skip(1);
    shell.map(|block| block.split("```").next().expect("it ends").to_owned()).collect()
}

fn is_there(tool: &str) -> bool {
    Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

#[test]
fn the_walk_through_works_as_it_is_written() {
    if !["bash", "curl", "openssl"].into_iter().all(is_there) {
        eprintln!("!!! SKIPPED: the README's walk-through: it needs bash, curl and openssl");
        return;
    }
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let blocks = blocks(&std::fs::read_to_string(readme).expect("README.md"), "### The whole path by hand");
    // the first one builds, as was done for this test, and says where the programs are
    assert!(blocks[0].starts_with("cargo build "), "{}", blocks[0]);
    let dir = Scratch::new();
    let examples = Path::new(program().get_program()).parent().expect("a directory").to_owned();
    symlink(program().get_program(), dir.path("relay-mio")).expect("symlink");
    std::fs::create_dir(dir.path("tmp")).expect("mkdir");
    let script = blocks[1..].join("")
        + "echo \"left: $(ls migrationproxy | wc -l) sockets, $(jobs -r | wc -l) jobs\"\n";
    let mut shell = Command::new("bash");
    let path = std::env::var("PATH").expect("PATH");
    shell
        .args(["-c", &script])
        .env("PATH", format!("{}:{}:{path}", dir.path(""), examples.display()))
        .env("TMPDIR", dir.path("tmp"))
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .process_group(0);
    let child = shell.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("bash");
    let group = Pid::from_child(&child);
    // two minutes are for a walk that has gone astray, and would wait for ever
    let (done, walking) = std::sync::mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        let _ = walking.recv_timeout(std::time::Duration::from_secs(120));
        let _ = kill_process_group(group, Signal::KILL);
    });
    let output = child.wait_with_output().expect("it ends");
    drop(done);
    guard.join().expect("guard");
    let (out, errors) = (text(&output.stdout), text(&output.stderr));
    for says in [
        "{\"ports\":{\"",
        "\"address\":\"127.0.0.1\"}",
        "TLS",
        "/migrationproxy/vm1-source.sock\"]}",
        "hi 3 came back after ",
        "{\"existed\":true}\n{\"existed\":true}\n",
        "left: 0 sockets, 0 jobs",
    ] {
        assert!(out.contains(says), "{says}: {out}\n{errors}");
    }
    let ended: Vec<_> = out.lines().filter(|line| line.contains("session ended")).collect();
    for (node, peer) in [("source.log", "cn:target"), ("target.log", "cn:source")] {
        let of_node =
            |line: &&&str| line.starts_with(node) && line.contains("key=vm1") && line.contains(peer);
        assert!(ended.iter().any(|line| of_node(&line)), "{node} {peer}: {out}\n{errors}");
    }
    let table = out.lines().find(|line| line.contains("vm1") && line.contains("open"));
    assert!(table.is_some_and(|line| line.contains("cn:source")), "{out}");
}
