"""The relay processes of one migration: a source and a target per channel."""

import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time

from lab import Failed, LAUNCHER_UID, SOURCE_NAME, TARGET_NAME, spawn, wait_until

CONTROL, MEMORY, DISK = 0, 49152, 49153  # KubeVirt's channels: libvirtd, memory, NBD
START_SECONDS = 10
STOP_SECONDS = 5


def key_of(guest_uuid, channel):
    return f"{guest_uuid}-{channel}" if channel else guest_uuid


class Relay:
    """One `relay forward` process."""

    def __init__(self, role, channel, node, arguments, log):
        self.name = f"{role} relay {channel}"
        self.log = log
        self.killed = False
        self.process = spawn(node.handler.enter(arguments), stdout=log.with_suffix(".out").open("w"),
                             stderr=log.open("a"), start_new_session=True)

    def listening(self):
        """The endpoint that it announced: `listening ENDPOINT` on standard output."""
        def announced():
            if self.process.poll() is not None:
                raise Failed(f"{self.name} ended at its start: exit code {self.process.returncode}; {self.last_words()}")
            first, newline, _ = self.log.with_suffix(".out").read_text().partition("\n")
            return newline and first.removeprefix("listening ")

        endpoint = wait_until(announced, START_SECONDS, 0.01)
        if not endpoint:
            raise Failed(f"{self.name} announced no listener within {START_SECONDS} s; {self.last_words()}")
        return endpoint

    def last_words(self):
        return "its log ends: " + " | ".join(self.log.read_text(errors="replace").splitlines()[-4:])

    def kill(self):
        """SIGKILL, also to whatever it may have forked."""
        self.killed = True
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def complaint_about_stop(self, deadline):
        """Nothing, if it ended by itself, after SIGTERM, in time and with code 0."""
        try:
            code = self.process.wait(max(0.01, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            return f"{self.name} still ran {STOP_SECONDS} s after SIGTERM"
        return f"{self.name}: exit code {code}; {self.last_words()}" if code and not self.killed else None


class Tripwire:
    """Listens where a backend would and remembers whether anyone ever came."""

    def __init__(self, path):
        self.path, self.touched = path, False
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        try:
            while True:
                connection, _ = self.listener.accept()
                self.touched = True
                connection.close()
        except OSError:
            pass  # taken down

    def take_down(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        os.unlink(self.path)


class Relays:
    def __init__(self, lab, guest, programs, authority="trusted", backends=None):
        """`authority` is who signed the sources' certificate; `backends` replaces what
        the targets connect to, a path per channel."""
        self.lab, self.guest, self.programs = lab, guest, programs
        self.source_authority = authority
        self.backends = backends or {}
        self.all = {}

    def start(self):
        for channel in self.guest.channels():
            self._start_pair(channel)

    def _start_pair(self, channel):
        source, target = self.lab.source, self.lab.target
        key = key_of(self.guest.uuid, channel)
        backend = target.migration_socket(key) if channel else target.libvirt_socket()
        backend = self.backends.get(channel, backend)
        there = self._start("target", channel, target, f"tls:{target.handler.address}:0", f"unix:{backend}",
                            "trusted", SOURCE_NAME)
        front = source.migration_socket(key)
        here = self._start("source", channel, source, f"unix:{front}", there, self.source_authority, TARGET_NAME)
        if here != f"unix:{front}":
            raise Failed(f"the source relay announced {here!r} instead of unix:{front}")
        os.chown(front, LAUNCHER_UID, LAUNCHER_UID)  # only the launcher's user may connect

    def _start(self, role, channel, node, listen, connect, authority, peer):
        certificates = self.lab.certificates
        leaf = certificates / f"{authority}-{role}"
        relay = Relay(role, channel, node,
                      [self.programs[role], "forward", "--listen", listen, "--connect", connect,
                       "--tls-cert", f"{leaf}.crt", "--tls-key", f"{leaf}.key",
                       "--tls-ca", f"{certificates}/trusted-ca.crt", "--peer", f"cn:{peer}", "--drain-timeout", "2s"],
                      self.lab.work / f"{role}-{channel}.log")
        self.all[role, channel] = relay
        return relay.listening()

    def kill(self, role, channel):
        self.all[role, channel].kill()

    def last_words(self):
        """What the relays say of themselves, for when things went wrong."""
        return [f"{relay.name}: {relay.last_words()}" for relay in self.all.values()]

    def stop(self):
        """SIGTERM to all that live; returns what was wrong about how they ended."""
        early = [f"{relay.name} had ended before" for relay in self.all.values()
                 if not relay.killed and relay.process.poll() is not None]
        for relay in self.all.values():
            relay.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        ends = [relay.complaint_about_stop(deadline) for relay in self.all.values()]
        self.all = {}
        return early + [end for end in ends if end]


class Control(http.client.HTTPConnection):
    """A daemon's control API, on its unix socket."""

    def __init__(self, path):
        super().__init__("relay", timeout=START_SECONDS)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Daemons(Relays):
    """The same with one `node` on each side, told by its control API what KubeVirt would ask for."""

    def start(self):
        source, target, guest = self.lab.source, self.lab.target, self.guest
        for role, node, authority, peer in (("target", target, "trusted", SOURCE_NAME),
                                            ("source", source, self.source_authority, TARGET_NAME)):
            self._start_daemon(role, node, authority, peer)
        backends = {}
        for channel in guest.channels():
            path = target.migration_socket(key_of(guest.uuid, channel)) if channel else target.libvirt_socket()
            backends[str(channel)] = self.backends.get(channel, path)
        there = self._call("target", "PUT", f"/v1/targets/{guest.uuid}", {"backends": backends})
        self._call("source", "PUT", f"/v1/sources/{guest.uuid}", {
            "target": there["address"], "ports": there["ports"], "base_dir": f"{source.root}/run/kubevirt",
            "owner": {"uid": LAUNCHER_UID, "gid": LAUNCHER_UID}})

    def _start_daemon(self, role, node, authority, peer):
        leaf = self.lab.certificates / f"{authority}-{role}"
        daemon = Relay(role, "node", node,
                       [self.programs[role], "node", "--control", f"unix:{self._control(role)}",
                        "--bind", node.handler.address, "--tls-cert", f"{leaf}.crt", "--tls-key", f"{leaf}.key",
                        "--tls-ca", f"{self.lab.certificates}/trusted-ca.crt", "--peer", f"cn:{peer}",
                        "--drain-timeout", "2s"],
                       self.lab.work / f"{role}-node.log")
        self.all[role, "node"] = daemon
        daemon.listening()

    def _control(self, role):
        return self.lab.work / f"{role}.control"

    def _call(self, role, method, path, body=None):
        control = Control(self._control(role))
        try:
            control.request(method, path, json.dumps(body) if body else None)
            answer = control.getresponse()
            text = answer.read().decode()
        except OSError as error:
            raise Failed(f"the {role} daemon can't be asked: {error}") from error
        finally:
            control.close()
        if answer.status != 200:
            raise Failed(f"the {role} daemon refused {method} {path} ({answer.status}): {text}")
        return json.loads(text)

    def kill(self, role, _channel):
        self.all[role, "node"].kill()

    def stop(self):
        flaws = []
        for (role, _), daemon in self.all.items():
            if daemon.killed or daemon.process.poll() is not None:
                continue
            try:
                self._call(role, "DELETE", f"/v1/{role}s/{self.guest.uuid}")
                if self._call(role, "GET", f"/v1/{role}s")[f"{role}s"]:
                    flaws.append(f"{daemon.name} still has listeners")
            except Failed as failure:
                flaws.append(str(failure))
        return flaws + super().stop()
