"""A daemon: its process, its control API, its log."""

import http.client
import json
import os
import signal
import socket
import subprocess
import threading


def program(given, root):
    places = [given] if given else [root / "target" / profile / "relay-mio" for profile in ("release", "debug")]
    for place in places:
        if place.exists():
            return place
    raise SystemExit(f"there is no {places[0]}: cargo build --release -p relay-mio, or --program")


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("relay", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self.path))


class Node:
    def __init__(self, name, path, work, tls):
        self.name, self.work = name, work
        self.control, self.metrics = work / f"{name}.control", work / f"{name}.metrics"
        self.log = work / f"{name}.log"
        self.page = None
        self.command = [str(path), "node", f"--control=unix:{self.control}", f"--metrics=unix:{self.metrics}",
                        "--bind=127.0.0.1", "--log-format=json", "--drain-timeout=20s", "--peer=cn:relay-soak", *tls]

    def start(self):
        environment = {**os.environ, "RUST_LOG": "info"}
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=self.log.open("wb"),
                                        stdin=subprocess.DEVNULL, env=environment, text=True)
        for _ in range(2):  # where metrics are, and where it is controlled
            if not self.process.stdout.readline():
                raise RuntimeError(f"{self.name} does not start: {self.log.read_text()}")
        # Whatever else it says is taken, so that it is never held up by us.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def get(self, path):
        return self.ask(self.metrics, "GET", path, None)

    def call(self, method, path, body=None):
        return json.loads(self.ask(self.control, method, path, body))

    def ask(self, at, method, path, body):
        connection = Connection(at)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{self.name}: {method} {path}: {answer.status}: {text.strip()}")
        return text

    def rss_kib(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def end(self):
        """Stops it in good order; exit code and log lines."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        return code, [line for line in self.log.read_text().splitlines() if line]

    def kill(self):
        process = getattr(self, "process", None)
        if process and process.poll() is None:
            process.kill()
            process.wait()
