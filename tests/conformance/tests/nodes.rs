//! The daemon on two machines: both nodes of a migration from what Kubernetes says alone, and a migration
//! network whose addresses come, go and change. For root only.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use relay_conformance::pki::Files;
use relay_conformance::relay::{back_program, program};
use relay_conformance::{Authority, Namespace, PATIENCE, Scratch, api, skipped};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const UID: &str = "d62c2a6f-d8f3-4cc5-a22e-4cffb7d5eac1";
const CHANNELS: [u64; 3] = [0, 49152, 49153];

/// A `node` that runs in a namespace.
struct Node {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    control: PathBuf,
    log: PathBuf,
}

impl Node {
    fn start(
        program: PathBuf,
        namespace: &Namespace,
        scratch: &Scratch,
        name: &str,
        options: &[&str],
    ) -> Self {
        let (control, log) = (scratch.path(&format!("{name}.ctl")), scratch.path(&format!("{name}.log")));
        let [enter, network] = namespace.enter();
        // one that a killed test leaves behind ends with it
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", &enter, &network]).arg(program).arg("node");
        command.args(["--control", &format!("unix:{}", control.display()), "--interface", "migration0"]);
        command.args(options).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(fs::File::create(&log).expect("a log")).env_remove("RUST_LOG");
        let mut child = command.spawn().expect("setpriv and nsenter");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let (send, lines) = mpsc::channel();
        thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let stdin = child.stdin.take();
        let node = Self { child, stdin, lines, control, log };
        let first = node.line();
        assert_eq!(first, format!("listening unix:{}", node.control.display()), "{}", node.logged());
        node
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line; log:\n{}", self.logged()))
    }

    fn logged(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// As `kubectl get vmi -A --watch -o json` prints it.
    fn see(&mut self, vmi: &Value) {
        let text = serde_json::to_string_pretty(vmi).expect("JSON");
        let stdin = self.stdin.as_mut().expect("open");
        writeln!(stdin, "{text}").and_then(|()| stdin.flush()).expect("it reads");
    }

    fn call(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        api::call(&self.control, method, path, body)
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it is there").count()
    }

    /// How many it has open once it has settled.
    fn settled_descriptors(&self) -> usize {
        let mut last = (self.descriptors(), 0);
        while last.1 < 30 {
            thread::sleep(Duration::from_millis(10));
            let now = self.descriptors();
            last = if now == last.0 { (now, last.1 + 1) } else { (now, 0) };
        }
        last.0
    }

    /// Drains it; it must have nothing left to wait for.
    fn finish(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it is there");
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end; log:\n{}", self.logged());
            thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(status.code(), Some(0), "{}", self.logged());
        assert!(!self.control.exists() && !self.logged().contains("panicked"), "{}", self.logged());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- {}:\n{}---", self.log.display(), self.logged());
        }
    }
}

fn eventually<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Two machines and their migration network; a loud line where that can't be had.
fn two_machines(addresses: [&str; 2]) -> Option<[Namespace; 2]> {
    let made = || -> Result<_, String> {
        let machines = [Namespace::new()?, Namespace::new()?];
        let id = machines[1].id();
        machines[0].run(&format!("ip link add migration0 type veth peer name migration0 netns {id}"))?;
        for (machine, address) in machines.iter().zip(addresses) {
            machine.run(&format!("ip addr add {address} dev migration0 nodad"))?;
            machine.run("ip link set migration0 up")?;
        }
        Ok(machines)
    };
    made().map_err(|why| skipped(&format!("network namespaces: {why}"))).ok()
}

/// A pod's `/var/run`, with what a launcher has in it.
fn pod(scratch: &Scratch, node: &str) -> PathBuf {
    let run = scratch.path(node).join("default/vmi-migratable");
    fs::create_dir_all(run.join("libvirt")).expect("mkdir");
    fs::create_dir_all(run.join("kubevirt/migrationproxy")).expect("mkdir");
    run
}

fn socket_name(channel: u64) -> String {
    match channel {
        0 => format!("{UID}-source.sock"),
        channel => format!("{UID}-{channel}-source.sock"),
    }
}

/// A name for a path that is too long for unix(7), through its directory, for as long as that is open.
fn short(path: &Path) -> (fs::File, PathBuf) {
    let directory = fs::File::open(path.parent().expect("a directory")).expect("open");
    let name = path.file_name().expect("a name");
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    (directory, short)
}

/// Answers what it is sent by its own name and that.
fn echo(path: &Path, name: u64) {
    let (_directory, path) = short(path);
    let listener = UnixListener::bind(path).expect("bind");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accept");
            thread::spawn(move || {
                let mut heard = Vec::new();
                stream.read_to_end(&mut heard).expect("heard");
                stream
                    .write_all(format!("{name}:").as_bytes())
                    .and_then(|()| stream.write_all(&heard))
                    .expect("said");
            });
        }
    });
}

/// RFC 7386, as an API server does it.
fn merge(into: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            into.as_object_mut().expect("an object").remove(name);
        } else {
            merge(&mut into[name.as_str()], value);
        }
    }
}

/// The picture: pod, node, node, pod. Nothing is told to either node but what the object says, and what
/// the one prints reaches the other through it.
#[test]
fn both_nodes_from_the_objects_alone() {
    let Some([here, there]) = two_machines(["10.78.0.1/24", "10.78.0.2/24"]) else { return };
    let scratch = Scratch::new();
    let files = Authority::common().issue("node").write(scratch.root());
    let pods = ["node01", "node02"].map(|node| pod(&scratch, node));
    echo(&pods[1].join("libvirt/virtqemud-sock"), 0);
    for channel in [49152, 49153] {
        echo(&pods[1].join("kubevirt/migrationproxy").join(socket_name(channel)), channel);
    }
    let start = |program, namespace: &Namespace, name: &str| {
        let run_dir = format!("{}/{name}/{{namespace}}/{{name}}", scratch.root().display());
        let mut options: Vec<String> = Files::options(&files);
        options.extend(
            ["--threads", "1", "--vmis", "-", "--name", name, "--peer", "cn:node", "--pod-run-dir", &run_dir]
                .map(str::to_owned),
        );
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        Node::start(program, namespace, &scratch, name, &options)
    };
    let (mut source, mut target) =
        (start(program(), &here, "node01"), start(back_program(), &there, "node02"));
    // Twice: what is made only once is there after the first, and the second leaves nothing more.
    let mut before: [Option<usize>; 2] = [None; 2];
    for uid in ["m1", "m2"] {
        let mut vmi = json!({
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachineInstance",
            "metadata": {
                "namespace": "default",
                "name": "vmi-migratable",
                "uid": UID,
                "labels": { "kubevirt.io/migrationTargetNodeName": "node02" },
            },
            "status": {
                "phase": "Running",
                "nodeName": "node01",
                "migrationMethod": "BlockMigration",
                "migrationTransport": "Unix",
                "activePods": { "0a1b2c3d-0000-4000-8000-000000000001": "node01" },
                "migrationState": { "migrationUid": uid, "sourceNode": "node01", "targetNode": "node02" },
            },
        });
        for node in [&mut source, &mut target] {
            node.see(&vmi);
        }
        let published: Value = serde_json::from_str(&target.line()).expect("JSON");
        assert_eq!(
            (&published["namespace"], &published["name"], &published["uid"]),
            (&json!("default"), &json!("vmi-migratable"), &json!(UID))
        );
        merge(&mut vmi, &published["patch"]);
        let state = &vmi["status"]["migrationState"];
        assert_eq!(state["targetNodeAddress"], "10.78.0.2", "of the migration network");
        let mut channels: Vec<_> =
            state["targetDirectMigrationNodePorts"].as_object().expect("ports").values().collect();
        channels.sort_by_key(|channel| channel.as_u64());
        assert_eq!(channels, [&json!(0), &json!(49152), &json!(49153)]);
        for node in [&mut source, &mut target] {
            node.see(&vmi);
        }

        let entry = |channel| pods[0].join("kubevirt/migrationproxy").join(socket_name(channel));
        for channel in CHANNELS {
            let (_directory, at) = short(&entry(channel));
            let mut stream = eventually("the source's socket is there", || UnixStream::connect(&at).ok());
            let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n ^ (n >> 8)) as u8).collect();
            thread::scope(|scope| {
                let mut writer = stream.try_clone().expect("clone");
                let bytes = &sent;
                scope.spawn(move || {
                    writer.write_all(bytes).expect("taken");
                    writer.shutdown(Shutdown::Write).expect("half closed");
                });
                let mut heard = Vec::new();
                stream.read_to_end(&mut heard).expect("an answer");
                let name = format!("{channel}:");
                assert!(heard.starts_with(name.as_bytes()), "channel {channel} has its own backend");
                assert!(heard[name.len()..] == sent, "channel {channel}: every byte");
            });
        }
        // dialed from the migration network's own address
        eventually("logged", || target.logged().contains("peer=10.78.0.1:").then_some(()));
        assert!(target.logged().contains("front_identity=cn:node"), "{}", target.logged());

        vmi["status"]["nodeName"] = json!("node02");
        vmi["status"]["migrationState"]["completed"] = json!(true);
        vmi["status"]["migrationState"]["endTimestamp"] = json!("2026-01-02T03:04:05Z");
        for node in [&mut source, &mut target] {
            node.see(&vmi);
        }
        let open = [(&source, before[0]), (&target, before[1])].map(|(node, before)| {
            eventually("nothing is left open", || {
                let (_, targets) = node.call("GET", "/v1/targets", "");
                let (_, sources) = node.call("GET", "/v1/sources", "");
                let (_, sessions) = node.call("GET", "/v1/sessions", "");
                let nothing = (targets, sources, sessions)
                    == (json!({ "targets": {} }), json!({ "sources": {} }), json!({ "sessions": [] }));
                let open = node.settled_descriptors();
                (nothing && before.is_none_or(|before| open <= before)).then_some(open)
            })
        });
        assert_eq!(
            fs::read_dir(pods[0].join("kubevirt/migrationproxy")).expect("dir").count(),
            0,
            "no socket file"
        );
        before = open.map(Some);
    }
    assert!(target.lines.try_recv().is_err(), "nothing more to publish");
    drop(source.stdin.take());
    source.finish();
    target.finish();
}

/// Where it listens and what it tells follow the interface, and ports stay.
#[test]
fn a_migration_network_that_comes_goes_and_changes() {
    let Some([machine, _other]) = two_machines(["10.78.0.1/24", "10.78.0.2/24"]) else { return };
    let scratch = Scratch::new();
    machine.run("ip addr flush dev migration0").expect("ip");
    machine.run("ip link set lo up").expect("ip");
    let node = Node::start(program(), &machine, &scratch, "node", &["--plain", "--advertise", "192.0.2.7"]);
    let backend = scratch.path("backend");
    echo(&backend, 7);
    let body = json!({ "backends": { "0": backend } }).to_string();
    let (status, answer) = node.call("PUT", "/v1/targets/k", &body);
    assert_eq!((status, &answer["address"]), (200, &json!("192.0.2.7")));
    eventually("a warning", || node.logged().contains("no address to listen at").then_some(()));
    let ports = answer["ports"].clone();
    let port = ports.as_object().and_then(|ports| ports.keys().next().cloned()).expect("a port");
    let listens_at = |at: &str| {
        let said = Command::new("nsenter").arg(&machine.enter()[1]).args(["ss", "-Hltn"]).output();
        let said = String::from_utf8_lossy(&said.expect("ss").stdout).into_owned();
        said.contains(&format!("{at}:{port} "))
    };
    eventually("every address", || (listens_at("*") || listens_at("0.0.0.0")).then_some(()));
    for (change, at) in [
        ("ip addr add 10.78.0.1/24 dev migration0", "10.78.0.1"),
        // another one, and then the first is gone
        ("ip addr add 10.79.0.9/24 dev migration0", "10.78.0.1"),
        ("ip addr del 10.78.0.1/24 dev migration0", "10.79.0.9"),
        ("ip addr flush dev migration0", "*"),
        ("ip addr add fd78::1/64 dev migration0 nodad", "[fd78::1]"),
    ] {
        machine.run(change).expect(change);
        eventually(change, || listens_at(at).then_some(()));
        let (_, answer) = node.call("GET", "/v1/targets/k", "");
        assert_eq!(answer["ports"], ports, "{change}");
    }
    node.call("DELETE", "/v1/targets/k", "");
    node.finish();
}

/// Without `--advertise` the address itself is told, of either family.
#[test]
fn what_is_advertised_is_the_interfaces_address() {
    let Some([machine, _other]) = two_machines(["fd78::1/64", "fd78::2/64"]) else { return };
    let scratch = Scratch::new();
    let node =
        Node::start(program(), &machine, &scratch, "node", &["--plain", "--port-range", "49200-49210"]);
    let (_, answer) = node.call("PUT", "/v1/targets/k", r#"{"backends":{"0":"/nobody"}}"#);
    assert_eq!(answer["address"], "fd78::1");
    machine.run("ip addr add 10.78.0.1/24 dev migration0").expect("ip");
    machine.run("ip addr del fd78::1/64 dev migration0").expect("ip");
    let moved = eventually("the other family", || {
        let (_, moved) = node.call("GET", "/v1/targets/k", "");
        (moved["address"] == "10.78.0.1").then_some(moved)
    });
    assert_eq!(moved["ports"], answer["ports"]);
    node.call("DELETE", "/v1/targets/k", "");
    node.finish();
}
