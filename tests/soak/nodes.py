"""A daemon: the process that is it now, those it took over from, its control API, their logs."""

import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time


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
        self.log = None
        self.page = None
        # Processes that another one has taken over from, and their logs; they have their sessions yet.
        self.former = []
        self.command = [str(path), "node", f"--control=unix:{self.control}", f"--metrics=unix:{self.metrics}",
                        "--bind=127.0.0.1", "--log-format=json", "--drain-timeout=20s", "--peer=cn:relay-soak", *tls]

    def start(self, *more):
        """Another process; what it has to say before it is of use is awaited."""
        self.log = self.work / f"{self.name}.{len(self.former) + 1}.log"
        environment = {**os.environ, "RUST_LOG": "info"}
        self.process = subprocess.Popen([*self.command, *more], stdout=subprocess.PIPE, stderr=self.log.open("wb"),
                                        stdin=subprocess.DEVNULL, env=environment, text=True)
        for _ in range(2):  # where metrics are, and where it is controlled
            if not self.process.stdout.readline():
                raise RuntimeError(f"{self.name} does not start: {self.log.read_text()}")
        # Whatever else it says is taken, so that it is never held up by us.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def take_over(self):
        """A new process in the place of this one, which keeps the sessions it has and then ends."""
        self.former.append((self.process, self.log))
        self.page = None
        self.start(f"--takeover=unix:{self.control}")

    def wait_retired(self, seconds):
        """Until every former process is over: the exit codes of those that were not in good order, None if not over."""
        deadline, codes = time.monotonic() + seconds, []
        for process, _ in self.former:
            try:
                codes.append(process.wait(max(deadline - time.monotonic(), 0.1)))
            except subprocess.TimeoutExpired:
                codes.append(None)
        return [code for code in codes if code != 0]

    def former_lines(self):
        return [line for _, log in self.former for line in lines_of(log)]

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
        return code, lines_of(self.log)

    def kill(self):
        processes = [process for process, _ in self.former]
        processes += [self.process] if hasattr(self, "process") else []
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def lines_of(log):
    return [line for line in log.read_text().splitlines() if line]
