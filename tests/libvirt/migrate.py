#!/usr/bin/env python3
"""Live migrations of a real guest through a pair of relays.  Started by `run`."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from guest import Guest
from lab import Failed, Lab, PROXY_DIR, spawn, wait_until
from relays import CONTROL, DISK, MEMORY, Daemons, Relays, STOP_SECONDS, Tripwire, key_of

SUCCESS_SECONDS = 60  # for a migration that must succeed
FAILURE_SECONDS = 15  # for one that must fail, counted from the event
WHOLE_RUN_SECONDS = 900
MID_MIGRATION = 24 << 20  # bytes on the link by which a migration is in full flow
SLOW = ["--bandwidth", "16"]  # MiB/s: leaves time to interfere


class Migration:
    """A running `virsh migrate`, with the flags KubeVirt uses."""

    def __init__(self, lab, guest, flags=()):
        self.lab = lab
        self.sent_before = lab.source.handler.bytes_sent()
        self.output = lab.work / f"{guest.name}.virsh"
        control, memory, disk = (f"{PROXY_DIR}/{key_of(guest.uuid, channel)}-source.sock"
                                 for channel in (CONTROL, MEMORY, DISK))
        copy_disk = ["--copy-storage-inc", "--migrate-disks", "vdb", "--disks-uri", f"unix://{disk}"]
        self.started = time.monotonic()
        self.process = spawn(
            [*lab.source.virsh_command, "migrate", guest.name, "--live", "--p2p", "--persistent",
             "--desturi", f"qemu+unix:///session?socket={control}", "--migrateuri", f"unix://{memory}",
             *(copy_disk if guest.with_disk else []), *flags],
            stdout=self.output.open("w"), stderr=subprocess.STDOUT)

    def sent(self):
        return self.lab.source.handler.bytes_sent() - self.sent_before

    def await_full_flow(self):
        wait_until(lambda: self.sent() >= MID_MIGRATION or self.process.poll() is not None, 30, 0.02)
        if self.process.poll() is not None:
            raise Failed(f"the migration ended too early: {self.last_words()}")
        if self.sent() < MID_MIGRATION:
            raise Failed(f"only {self.sent()} bytes crossed the link within 30 s")

    def wait(self, seconds):
        """virsh's exit code; None when it still runs."""
        wait_until(lambda: self.process.poll() is not None, seconds, 0.01)
        self.seconds = time.monotonic() - self.started
        return self.process.poll()

    def last_words(self):
        return self.output.read_text().strip()[-400:] or "(virsh said nothing)"


class Scenario:
    """One guest, one story.  Every check prints a line."""

    def __init__(self, lab, programs, name, with_disk=False):
        self.lab, self.programs, self.name = lab, programs, name
        self.source, self.target = lab.source, lab.target
        self.guest = Guest(lab, name, with_disk)
        self.relays = None
        self.failed = False

    def check(self, ok, what, detail=""):
        print(f"  {'ok  ' if ok else 'FAIL'} {what}" + (f": {detail}" if detail and not ok else ""), flush=True)
        self.failed |= not ok

    def note(self, text):
        print(f"       {text}", flush=True)

    def tell(self, story):
        """Runs `story(self)`; whether it went well."""
        try:
            self.guest.start()
            story(self)
        except (Failed, OSError) as failure:
            self.check(False, "goes through to its end", str(failure))
        finally:
            self.put_relays_away()
            self.guest.remove()
        return not self.failed

    def start_relays(self, **variation):
        kind = Daemons if os.environ.get("RELAY_NODES") else Relays
        self.relays = kind(self.lab, self.guest, self.programs, **variation)
        self.relays.start()

    def stop_relays(self):
        flaws = self.put_relays_away()
        self.check(not flaws, f"every relay exits with 0 within {STOP_SECONDS} s of SIGTERM", "; ".join(flaws))

    def put_relays_away(self):
        """Stops them; returns what was wrong about how they ended."""
        if not self.relays:
            return []
        for words in self.relays.last_words() if self.failed else ():
            self.note(words)
        return self.relays.stop()

    def check_arrival(self, migration):
        code = migration.wait(SUCCESS_SECONDS)
        self.check(code == 0, "virsh migrate succeeds",
                   f"exit code {code} after {migration.seconds:.1f} s: {migration.last_words()}")
        if code != 0:
            raise Failed("no use going on")
        sent_mib = migration.sent() / 2**20
        there, here = self.target.guests(), self.source.guests()
        self.check(there == {self.name: "running"} and here == {self.name: "shut off"} and not self.source.qemu_runs(),
                   "the guest runs there and no longer here", f"there {there}, here {here}")
        bad = self.guest.bad_words(self.target)
        self.check(bad == 0, "the guest finds all its memory intact", f"{bad} words are wrong")
        gap = self.guest.gap_in(self.source, self.target)
        self.check(gap is None, "its console lost nothing on the way", gap)
        self.note(f"{migration.seconds:.1f} s, {sent_mib:.0f} MiB over the link, "
                  f"downtime {self.job_figure('downtime')} ms")

    def job_figure(self, name):
        report = self.source.try_virsh("domjobinfo", self.name, "--completed", "--keep-completed", "--rawstats") or ""
        found = re.search(rf"^\s*{name}:\s*(\d+)", report, re.MULTILINE)
        return int(found[1]) if found else None

    def check_survival(self, migration, event_at):
        code = migration.wait(FAILURE_SECONDS)
        self.check(code not in (0, None), f"virsh migrate fails within {FAILURE_SECONDS} s",
                   f"exit code {code}: {migration.last_words()}")
        if code is None:  # it hangs: get libvirt out of it, or nothing else can be said
            self.source.try_virsh("domjobabort", self.name)
        self.note(f"{time.monotonic() - event_at:.1f} s after the event: {migration.last_words().splitlines()[-1][:150]}")
        self.check(self.source.guests() == {self.name: "running"} and self.guest.ticks_on(self.source),
                   "the guest runs on here", str(self.source.guests()))
        gap = self.guest.gap_in(self.source)
        self.check(gap is None, "its console lost nothing", gap)
        clean = wait_until(lambda: not self.target.guests() and not self.target.qemu_runs(), FAILURE_SECONDS)
        self.check(clean, f"nothing of it is left there within {FAILURE_SECONDS} s", str(self.target.guests()))

    def check_second_try(self):
        """Fresh relays on the same paths, whatever the first ones left behind."""
        self.note("and once more, through fresh relays:")
        self.start_relays()
        self.check_arrival(Migration(self.lab, self.guest))
        self.stop_relays()


# Stories


def succeeds(*flags, meanwhile=None):
    def story(scenario):
        scenario.start_relays()
        migration = Migration(scenario.lab, scenario.guest, flags)
        if meanwhile:
            meanwhile(scenario, migration)
        scenario.check_arrival(migration)
        if meanwhile is switch_to_postcopy:
            requests = scenario.job_figure("memory_postcopy_requests") or 0
            scenario.check(requests >= 10, "pages were fetched on demand", f"{requests} requests")
        scenario.stop_relays()
        scenario.check(scenario.guest.ticks_on(scenario.target), "the guest lives on without relays")
        if scenario.guest.with_disk:
            bad = scenario.guest.bad_disk_mebibytes(scenario.target)
            scenario.check(bad == 0, "its disk holds what was there before and what it wrote since", f"{bad} MiB differ")

    return story


def switch_to_postcopy(scenario, migration):
    migration.await_full_flow()
    scenario.source.virsh("migrate-postcopy", scenario.name)


def fails(event):
    def story(scenario):
        scenario.start_relays()
        migration = Migration(scenario.lab, scenario.guest, SLOW)
        migration.await_full_flow()
        event_at = time.monotonic()
        event(scenario)
        scenario.check_survival(migration, event_at)
        scenario.stop_relays()
        scenario.check_second_try()

    return story


def kill_target(scenario):
    scenario.relays.kill("target", MEMORY)


def kill_source(scenario):
    scenario.relays.kill("source", MEMORY)


def abort(scenario):
    scenario.source.virsh("domjobabort", scenario.name)


def rogue_client(scenario):
    """The sources hold a stranger's certificate; the backends are tripwires."""
    tripwires = {channel: Tripwire(f"{scenario.lab.work}/tripwire-{channel}") for channel in scenario.guest.channels()}
    scenario.start_relays(authority="stranger", backends={channel: wire.path for channel, wire in tripwires.items()})
    event_at = time.monotonic()
    scenario.check_survival(Migration(scenario.lab, scenario.guest), event_at)
    scenario.check(not any(wire.touched for wire in tripwires.values()), "no backend was ever connected to")
    scenario.stop_relays()
    for wire in tripwires.values():
        wire.take_down()
    scenario.check_second_try()


WITH_DISK = {"block"}
STORIES = {
    "memory": succeeds(),
    "block": succeeds(),
    "parallel": succeeds("--parallel", "--parallel-connections", "8"),
    "postcopy": succeeds("--postcopy", *SLOW, "--postcopy-bandwidth", "48", meanwhile=switch_to_postcopy),
    "kill-target": fails(kill_target),
    "kill-source": fails(kill_source),
    "abort": fails(abort),
    "rogue-client": rogue_client,
}


def missing_for(lab, name):
    """Why a scenario makes no sense with this libvirt and QEMU; usually None."""
    qemu = re.search(r"Running hypervisor: QEMU (\d+)", lab.source.virsh("version"))
    if name == "postcopy" and int(qemu[1]) < 8:
        return f"QEMU {qemu[1]} needs root for it (it cannot use /dev/userfaultfd)"
    return None


def keep_logs(lab, directory):
    """Copies what the relays, libvirt, QEMU and the guests said."""
    for pattern in ("*.log", "*.out", "*.virsh", "?/*.log", "?/run/kubevirt-private/**/*.log",
                    "?/run/kubevirt-private/*.console"):
        for file in lab.work.glob(pattern):
            copy = directory / file.relative_to(lab.work)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def main():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
        # Process 1 of a pid namespace ignores them otherwise.  All else ends with it.
        signal.signal(number, lambda number, _: os._exit(128 + number))
    signal.alarm(WHOLE_RUN_SECONDS)
    work, *names = sys.argv[1:]
    unknown = set(names) - set(STORIES)
    if unknown:
        print(f"no such scenario: {' '.join(sorted(unknown))}; there are: {' '.join(STORIES)}", file=sys.stderr)
        return 2
    programs = {"source": os.environ["RELAY_BIN"], "target": os.environ["TARGET_RELAY_BIN"]}
    results = []
    lab = None
    try:
        lab = Lab(Path(work))
        print(*lab.source.virsh("version").splitlines()[1:], sep="; ")
        what = "daemons" if os.environ.get("RELAY_NODES") else "relays"
        print(f"{what}:", programs["source"], "=>", programs["target"])
        for name in names or STORIES:
            print(f"{name}:", flush=True)
            why_not = missing_for(lab, name)
            if why_not:
                print(f"  SKIPPED: {name}: {why_not}")
                continue
            results.append(Scenario(lab, programs, name, name in WITH_DISK).tell(STORIES[name]))
    except Failed as failure:
        print(f"FAIL {failure}")
        results.append(False)
    if lab and os.environ.get("LOGS"):
        keep_logs(lab, Path(os.environ["LOGS"]))
    print(f"{results.count(True)} passed, {results.count(False)} failed", flush=True)
    return 0 if all(results) and results else 1


if __name__ == "__main__":
    sys.exit(main())
