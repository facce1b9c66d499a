"""The guest: how it is built and started, and how its console and disk are read.

guest/boot.S says what it does.
"""

import os
import random
import re
import struct
import uuid

from lab import Failed, HERE, LAUNCHER_UID, PRIVATE_DIR, output_of, wait_until
from relays import CONTROL, DISK, MEMORY

MEMORY_MIB = 128
DISK_MIB = 64
SECTOR = 512
DISK_SECTORS = DISK_MIB * 2048
STRIDE = 40503  # as in boot.S: tick t is written to sector t * STRIDE

DOMAIN = """<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='{directory}/boot.img'/>
      <target dev='vda' bus='virtio'/><readonly/><boot order='1'/>
    </disk>
    {data_disk}
    <serial type='file'><source path='{directory}/{name}.console'/></serial>
    <controller type='usb' model='none'/>
    <video><model type='none'/></video>
    <audio id='1' type='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
"""
DATA_DISK = """<disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='{directory}/data.img'/>
      <target dev='vdb' bus='virtio'/><boot order='2'/>
    </disk>"""


def boot_image(disk_sectors, directory):
    program, image = directory / "boot.o", directory / "boot.bin"
    output_of(["as", "--32", "--defsym", f"MEMORY_MIB={MEMORY_MIB}", "--defsym", f"DISK_SECTORS={disk_sectors}",
               "-o", program, HERE / "guest/boot.S"])
    output_of(["ld", "-m", "elf_i386", "--oformat", "binary", "-Ttext", "0x7c00", "-o", image, program])
    return image.read_bytes().ljust(1 << 20, b"\0")


def first_disk_content(mebibyte):
    """What the data disk holds at first: data and zeroes in turn."""
    return random.Random(mebibyte).randbytes(1 << 20) if mebibyte % 2 == 0 else bytes(1 << 20)


def sector_content(tick):
    words, word = [], tick
    for _ in range(SECTOR // 4):
        words.append(word)
        word = (word * 1664525 + 1013904223) & 0xFFFFFFFF
    return struct.pack("<128I", *words)


class Guest:
    def __init__(self, lab, name, with_disk):
        self.lab, self.name, self.with_disk = lab, name, with_disk
        self.uuid = str(uuid.uuid4())

    def channels(self):
        return [CONTROL, MEMORY, DISK] if self.with_disk else [CONTROL, MEMORY]

    def start(self):
        self._write_images()
        definition = self.lab.work / f"{self.name}.xml"
        definition.write_text(DOMAIN.format(
            name=self.name, uuid=self.uuid, memory=MEMORY_MIB, directory=PRIVATE_DIR,
            data_disk=DATA_DISK.format(directory=PRIVATE_DIR) if self.with_disk else ""))
        self.lab.source.virsh("define", definition)
        self.lab.source.virsh("start", self.name, seconds=60)
        if not wait_until(lambda: self.last_tick(self.lab.source) > 10, 60):
            raise Failed(f"the guest does not come up; its console: {self.console(self.lab.source)[-200:]!r}")

    def _write_images(self):
        boot = boot_image(DISK_SECTORS if self.with_disk else 0, self.lab.work)
        for node in (self.lab.source, self.lab.target):
            (node.private / "boot.img").write_bytes(boot)
            if self.with_disk:
                data = node.private / "data.img"
                with data.open("wb") as file:
                    # The target gets an empty volume of the same size, as in KubeVirt.
                    for mebibyte in range(DISK_MIB) if node is self.lab.source else ():
                        file.write(first_disk_content(mebibyte))
                    file.truncate(DISK_MIB << 20)
                os.chown(data, LAUNCHER_UID, LAUNCHER_UID)

    def remove(self):
        for node in (self.lab.source, self.lab.target):
            node.try_virsh("destroy", self.name)
            node.try_virsh("undefine", self.name)
            for file in ("boot.img", "data.img"):
                (node.private / file).unlink(missing_ok=True)

    # The console

    def console(self, node):
        try:
            return (node.private / f"{self.name}.console").read_bytes()
        except FileNotFoundError:
            return b""

    def last_tick(self, node):
        ticks = re.findall(rb"tick ([0-9a-f]{8})\n", self.console(node)[-2000:])
        return int(ticks[-1], 16) if ticks else 0

    def ticks_on(self, node):
        """Whether it does half a second's work more."""
        start = self.last_tick(node)
        return bool(wait_until(lambda: self.last_tick(node) >= start + 25, 15))

    def gap_in(self, *nodes):
        """The first flaw in what it printed on these nodes, one after the other; or None."""
        text = b"".join(self.console(node) for node in nodes)
        _, ready, text = text.partition(b"ready\n")
        if not ready:
            return "it never said ready"
        tick = 0
        for line in text.split(b"\n")[:-1]:
            if line == b"tick %08x" % (tick + 1):
                tick += 1
            elif not re.fullmatch(rb"sweep [0-9a-f]{8} bad [0-9a-f]{8}", line):
                return f"{line!r} after tick {tick:08x}"
        return None

    def bad_words(self, node):
        """What it finds wrong in its memory, once it has checked all of it on this node."""
        def sweeps():
            return re.findall(rb"sweep [0-9a-f]{8} bad ([0-9a-f]{8})\n", self.console(node))

        # The first sweep that ends here may have begun elsewhere.
        wait_until(lambda: len(sweeps()) >= 2, 60)
        if len(sweeps()) < 2:
            raise Failed("the guest does not finish checking its memory")
        return int(sweeps()[-1], 16)

    # The disk

    def bad_disk_mebibytes(self, node):
        """Stops the guest for good and compares its disk with what must be on it."""
        node.virsh("suspend", self.name)
        last = self.last_tick(node)
        node.virsh("destroy", self.name)
        written = {(tick * STRIDE) % DISK_SECTORS: tick for tick in range(1, last + 1)}
        # It may have been stopped between writing and saying so.
        unsure = ((last + 1) * STRIDE) % DISK_SECTORS
        bad = 0
        with (node.private / "data.img").open("rb") as file:
            for mebibyte in range(DISK_MIB):
                there = bytearray(file.read(1 << 20))
                expected = bytearray(first_disk_content(mebibyte))
                for sector in range(2048):
                    place = slice(sector * SECTOR, (sector + 1) * SECTOR)
                    number = mebibyte * 2048 + sector
                    if number in written:
                        expected[place] = sector_content(written[number])
                    elif number == unsure and there[place] == sector_content(last + 1):
                        expected[place] = there[place]
                bad += there != expected
        return bad
