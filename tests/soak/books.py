"""What nodes say they did, held against itself, against the other node, against the log and against what was done."""

import json
import re
from collections import defaultdict

SAMPLE = re.compile(r'^([a-z_]+)(?:\{(.*)\})? (\S+)$')
LABEL = re.compile(r'([a-z_]+)="([^"]*)"')
DIRECTIONS = {"forward": "up", "backward": "down"}


class Page:
    def __init__(self, text):
        self.samples = {}
        self.kinds = {}
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                _, _, name, kind = line.split()
                self.kinds[name] = kind
            elif not line.startswith("#"):
                name, labels, value = SAMPLE.match(line).groups()
                self.samples[name, tuple(sorted(LABEL.findall(labels or "")))] = float(value)

    def sum(self, name, **labels):
        wanted = set(labels.items())
        return int(sum(value for (of, with_), value in self.samples.items() if of == name and wanted <= set(with_)))

    def problems(self, before):
        """What does not add up, within this page or since the one before."""
        for channel in ("0", "49152"):
            for direction in DIRECTIONS:
                of = {"channel": channel, "direction": direction}
                received, delivered, cut, buffered = (
                    self.sum(f"relay_{what}", **of)
                    for what in ("received_bytes_total", "delivered_bytes_total", "cut_bytes_total", "buffered_bytes"))
                if received != delivered + cut + buffered:
                    yield f"channel {channel} {direction}: received {received}, delivered {delivered}, cut {cut}, buffered {buffered}"
        accepted, ended = self.sum("relay_sessions_accepted_total"), self.sum("relay_sessions_ended_total")
        # The last stage is counted as ended; a session may reach it while the page is made.
        there = self.sum("relay_sessions") - self.sum("relay_sessions", stage="closing")
        if abs(accepted - ended - there) > 3:
            yield f"{accepted} sessions accepted, {ended} ended, {there} there"
        if self.sum("relay_log_lines_lost_total"):
            yield "log lines were lost"
        for key, value in before.samples.items() if before else ():
            if self.kinds.get(key[0]) == "counter" and self.samples.get(key, -1) < value:
                yield f"{key} went from {value} to {self.samples.get(key)}"


class Ledger:
    """What a node moved with all its processes: of the last one by its metrics, of former ones by their logs."""

    def __init__(self, page, former_lines):
        self.page = page
        self.former = defaultdict(int)
        for record in sessions(former_lines):
            for end, direction in (("front", "forward"), ("back", "backward")):
                delivered, lost = record[f"{end}_bytes"], record.get(f"{end}_lost", 0)
                for what, count in (("received", delivered + lost), ("delivered", delivered), ("cut", lost)):
                    self.former[what, str(record["channel"]), direction] += count

    def sum(self, what, channel, direction):
        of_page = self.page.sum(f"relay_{what}_bytes_total", channel=channel, direction=direction)
        return of_page + self.former[what, channel, direction]


def sessions(lines):
    for line in lines:
        record = json.loads(line)
        if record["message"] == "session ended":
            yield record


def check_lines(lines):
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            yield f"a log line is no JSON: {line[:200]}"
            return
        if "panicked" in record["message"]:
            yield line


def compare_log(page, lines):
    """A line for each session, with the same bytes; but of strangers that fail in a row only some have one."""
    counts, moved = 0, defaultdict(int)
    for record in sessions(lines):
        counts += 1
        moved[record["channel"], "forward"] += record["front_bytes"]
        moved[record["channel"], "backward"] += record["back_bytes"]
    ended = page.sum("relay_sessions_ended_total")
    tried = page.sum("relay_handshakes_total", leg="front")
    strangers = tried - page.sum("relay_handshakes_total", leg="front", result="ok")
    if not counts <= ended <= counts + strangers:
        yield f"{ended} sessions ended by the metrics, {counts} by the log"
    for (channel, direction), count in moved.items():
        delivered = page.sum("relay_delivered_bytes_total", channel=str(channel), direction=direction)
        if count != delivered:
            yield f"channel {channel} {direction}: {delivered} bytes delivered by the metrics, {count} by the log"


def compare_nodes(source, target, sums, memory, control):
    """Along the path, forward from the client: where nobody breaks off all counts are the same, and elsewhere none grows."""
    for channel in (memory, control):
        for direction, way in DIRECTIONS.items():
            path = [source, target] if direction == "forward" else [target, source]
            stations = [sums[channel][f"{way}_sent"]]
            for node in path:
                stations += [node.sum(what, channel, direction) for what in ("received", "delivered")]
            stations.append(sums[channel][f"{way}_received"])
            print(f"channel {channel} {direction}: {' -> '.join(map(str, stations))} bytes", flush=True)
            if channel == memory and len(set(stations)) != 1:
                yield f"channel {channel} {direction}: bytes were lost along the path: {stations}"
            if any(later > earlier for earlier, later in zip(stations, stations[1:])):
                yield f"channel {channel} {direction}: bytes came from nowhere: {stations}"
    cut = sum(node.sum("cut", memory, direction) for node in (source, target) for direction in DIRECTIONS)
    if cut:
        yield f"{cut} bytes were cut where nobody broke off"


def compare_ids(source, target):
    """Sessions that came up are called the same by both nodes."""
    here = {record["back_session"] for record in sessions(source) if "back_session" in record}
    there = {record["front_session"] for record in sessions(target) if "front_session" in record}
    if not here or here - there:
        yield f"{len(here - there)} of {len(here)} TLS sessions that the source logged are not in the target's log"
