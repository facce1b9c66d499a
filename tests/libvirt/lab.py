"""The laboratory: two nodes on one machine, a link between them, certificates.

    launcher a           handler a              handler b           launcher b
    libvirtd, QEMU -unix-> source relays ==TCP/TLS, veth==> target relays -unix-> libvirtd, QEMU

Each box is a network namespace.  A launcher has no link at all, so whatever
arrives at the other one went through the relays.  The relays reach into a
launcher's file system as KubeVirt's virt-handler does, by /proc/PID/root.

Nothing here cleans up: `run` puts the whole test into one pid namespace and the
files onto one tmpfs, and both vanish with the test.
"""

import os
import subprocess
import time
import uuid
from pathlib import Path

HERE = Path(__file__).resolve().parent
LAUNCHER_UID = 107  # KubeVirt's qemu user
PRIVATE_DIR = "/run/kubevirt-private"  # as a launcher sees it
PROXY_DIR = "/var/run/kubevirt/migrationproxy"  # likewise, spelled as KubeVirt spells it
SOURCE_NAME = "kubevirt.io:system:client:virt-handler"  # common names in KubeVirt's certificates
TARGET_NAME = "kubevirt.io:system:node:virt-handler"


class Failed(Exception):
    """This scenario cannot go on."""


def wait_until(condition, seconds, step=0.05):
    """The first true value of `condition()`, or its last one when time is up."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > deadline:
            return value
        time.sleep(step)


def spawn(argv, **options):
    return subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL, **options)


def output_of(argv, seconds=60):
    """What a command printed; both streams, as virsh's errors matter too."""
    try:
        done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, text=True, timeout=seconds,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except subprocess.TimeoutExpired as late:
        raise Failed(f"{argv[0]} {argv[-1]}: no answer within {seconds} s") from late
    if done.returncode:
        raise Failed(f"{' '.join(str(a) for a in argv)}: exit code {done.returncode}: {done.stdout.strip()}")
    return done.stdout


class Handler:
    """Where the relays of one node run: a network namespace, held open by a sleeper."""

    def __init__(self, address):
        self.address = address
        self.holder = spawn(["unshare", "--net", "sleep", "infinity"])
        self.namespace = f"/proc/{self.holder.pid}/ns/net"
        ours = os.readlink("/proc/self/ns/net")
        if not wait_until(lambda: os.readlink(self.namespace) != ours, 5, 0.01):
            raise Failed("no network namespace for a handler")

    def enter(self, argv):
        """`argv`, to be executed in this namespace under the same process id."""
        return ["nsenter", f"--net={self.namespace}", "--", *argv]

    def bytes_sent(self):
        for line in Path(f"/proc/{self.holder.pid}/net/dev").read_text().splitlines():
            name, _, numbers = line.partition(":")
            if name.strip() == "uplink":
                return int(numbers.split()[8])
        raise Failed("the link is gone")


def connect(a, b):
    """One veth pair, called `uplink` at both ends."""
    output_of(["ip", "link", "add", "uplink", "netns", a.holder.pid,
               "type", "veth", "peer", "name", "uplink", "netns", b.holder.pid])
    for handler in (a, b):
        output_of(handler.enter(["ip", "address", "add", f"{handler.address}/30", "dev", "uplink"]))
        output_of(handler.enter(["ip", "link", "set", "uplink", "up"]))


class Node:
    """One node: a launcher with its libvirtd, and the handler beside it."""

    def __init__(self, letter, address, work):
        self.letter = letter
        self.directory = work / letter
        self.run = self.directory / "run"
        self.private = self.run / "kubevirt-private"
        self.handler = Handler(address)
        self._furnish()
        self.log = self.directory / "libvirtd.log"
        self.launcher = spawn(
            ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--mount", "--net", "--uts", "--ipc",
             "--", HERE / "node.sh", self.directory, f"node-{letter}", LAUNCHER_UID],
            stdout=self.log.open("w"), stderr=subprocess.STDOUT)

    def _furnish(self):
        config = self.private / ".config/libvirt"
        for directory in (config, self.run / "libvirt", self.run / "kubevirt/migrationproxy"):
            directory.mkdir(parents=True)
        # libvirt refuses to migrate "to the same host", told by this number.
        (config / "libvirtd.conf").write_text(
            f'host_uuid = "{uuid.uuid4()}"\nauth_unix_rw = "none"\nlog_outputs = "2:stderr"\n')
        (config / "qemu.conf").write_text('stdio_handler = "file"\n')  # no virtlogd here
        (self.directory / "hosts").write_text(f"127.0.0.1 localhost node-{self.letter}\n")
        user = f"{LAUNCHER_UID}:{LAUNCHER_UID}"
        (self.directory / "passwd").write_text(f"root:x:0:0::/root:/bin/sh\nqemu:x:{user}::{PRIVATE_DIR}:/bin/false\n")
        (self.directory / "group").write_text(f"root:x:0:\nqemu:x:{LAUNCHER_UID}:\n")
        output_of(["chown", "-R", user, self.run])
        try:
            device = self.directory / "userfaultfd"
            os.mknod(device, 0o020600, os.stat("/dev/userfaultfd").st_rdev)
            os.chown(device, LAUNCHER_UID, LAUNCHER_UID)
        except OSError:
            pass  # no such device: QEMU falls back to the system call

    def await_libvirtd(self):
        socket = self.run / "libvirt/libvirt-sock"
        self.virsh_command = ["virsh", "--quiet", "--connect", f"qemu+unix:///session?socket={socket}"]

        def up():
            if self.launcher.poll() is not None:
                raise Failed(f"launcher {self.letter} ended: {self.log.read_text()[-1500:]}")
            return socket.exists()

        if not wait_until(up, 30):
            raise Failed(f"launcher {self.letter}: libvirtd does not listen")
        pid = self.launcher.pid
        self.first_process = int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
        self.root = f"/proc/{self.first_process}/root"

    def virsh(self, *arguments, seconds=30):
        return output_of([*self.virsh_command, *arguments], seconds).strip()

    def try_virsh(self, *arguments):
        try:
            return self.virsh(*arguments)
        except Failed:
            return None

    def guests(self):
        """Names and states of all domains, running or not."""
        names = self.virsh("list", "--all", "--name").split()
        return {name: self.try_virsh("domstate", name) for name in names}

    def qemu_runs(self):
        for comm in Path(f"{self.root}/proc").glob("[0-9]*/comm"):
            try:
                if comm.read_text().startswith("qemu") and "\nState:\tZ" not in (comm.parent / "status").read_text():
                    return True
            except OSError:
                pass  # it ended meanwhile
        return False

    def migration_socket(self, key):
        """The file `KEY-source.sock` as this node's handler reaches it."""
        return f"{self.root}/run/kubevirt/migrationproxy/{key}-source.sock"

    def libvirt_socket(self):
        return f"{self.root}/run/libvirt/libvirt-sock"


def make_certificates(directory):
    """Two authorities; each signs a `source` and a `target` certificate.

    They look like KubeVirt's: told apart by their common names, with no host name
    or address in them.
    """
    directory.mkdir()
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    (directory / "leaf.conf").write_text("basicConstraints = critical, CA:FALSE\n"
                                         "keyUsage = critical, digitalSignature\n"
                                         "extendedKeyUsage = serverAuth, clientAuth\n")
    for authority in ("trusted", "stranger"):
        ca = directory / authority
        output_of(["openssl", "req", "-x509", *new_key, "-days", "2", "-subj", f"/CN={authority} authority",
                   "-keyout", f"{ca}-ca.key", "-out", f"{ca}-ca.crt",
                   "-addext", "basicConstraints = critical, CA:TRUE", "-addext", "keyUsage = critical, keyCertSign"])
        for role, name in (("source", SOURCE_NAME), ("target", TARGET_NAME)):
            leaf = directory / f"{authority}-{role}"
            output_of(["openssl", "req", *new_key, "-subj", f"/CN={name}", "-keyout", f"{leaf}.key", "-out", f"{leaf}.csr"])
            output_of(["openssl", "x509", "-req", "-days", "2", "-in", f"{leaf}.csr", "-out", f"{leaf}.crt",
                       "-CA", f"{ca}-ca.crt", "-CAkey", f"{ca}-ca.key", "-CAcreateserial",
                       "-extfile", directory / "leaf.conf"])


class Lab:
    def __init__(self, work):
        self.work = work
        self.certificates = work / "tls"
        make_certificates(self.certificates)
        # Addresses inside namespaces of our own; no route leads out of them.
        self.source = Node("a", "10.213.7.1", work)
        self.target = Node("b", "10.213.7.2", work)
        connect(self.source.handler, self.target.handler)
        for node in (self.source, self.target):
            node.await_libvirtd()

