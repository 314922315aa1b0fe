"""Parsers of the kernel files that psutil does not read as we need them. No input, no output.

What psutil 7 does with them (its module _pslinux):
- virtual_memory and swap_memory fill in estimates and zeros for lines that are missing, with a
  warning, where we want them absent;
- getloadavg asks the C library, which reads /proc/loadavg whatever PROCFS_PATH says;
- net_io_counters reads PROCFS_PATH/net/dev, which is a link to self/net: the devices of the
  reader's own network namespace, so those of our container and not of the host.
"""

from __future__ import annotations

import re

from exporter.sources.host.reading import Descriptors, HostMemory, Load, NetworkDevice, Traffic

_MEMINFO = frozenset(
    (b"MemTotal", b"MemAvailable", b"MemFree", b"Buffers", b"Cached", b"SwapTotal", b"SwapFree")
)
_LOAD = re.compile(rb"(\d{1,15}\.\d{1,6}) (\d{1,15}\.\d{1,6}) (\d{1,15}\.\d{1,6}) ")
# Beyond any 64-bit counter, and short enough to be a number to Prometheus.
_MAX_DIGITS = 20


def natural(text: bytes) -> int:
    """The number; ValueError where it is not one that the kernel writes ("-1", "1_000", giants)."""
    if not text.isdigit() or len(text) > _MAX_DIGITS:
        raise ValueError(f"{text[:40]!r} is not a number")
    return int(text)


def memory(meminfo: bytes) -> HostMemory:
    """Parse /proc/meminfo: lines "Name:  number kB". A line that is not there is None.

    Raises ValueError for a line that cannot be understood, or where none of ours is there.
    """
    found: dict[bytes, int] = {}
    for line in meminfo.splitlines():
        name, _, rest = line.partition(b":")
        if name in _MEMINFO:
            number, _, unit = rest.strip().partition(b" ")
            if unit != b"kB":
                raise ValueError(f"{line[:80]!r} does not end in kB")
            found[name] = natural(number) * 1024
    if not found:
        raise ValueError("no MemTotal and no SwapTotal")
    get = found.get
    swap_total, swap_free = found.get(b"SwapTotal"), found.get(b"SwapFree")
    swap_used = None
    if swap_total is not None and swap_free is not None:
        if swap_free > swap_total:
            raise ValueError("SwapFree exceeds SwapTotal")
        swap_used = swap_total - swap_free
    return HostMemory(
        total=get(b"MemTotal"),
        available=get(b"MemAvailable"),
        free=get(b"MemFree"),
        buffers=get(b"Buffers"),
        cached=get(b"Cached"),
        swap_total=swap_total,
        swap_used=swap_used,
    )


def load(loadavg: bytes) -> Load:
    """Parse /proc/loadavg: "0.10 0.13 0.09 1/84 5879". Raises ValueError."""
    match = _LOAD.match(loadavg)
    if match is None:
        raise ValueError(f"{loadavg[:80]!r} does not start with three load averages")
    load1, load5, load15 = (float(number) for number in match.groups())
    return Load(load1, load5, load15)


def network(net_dev: bytes) -> tuple[list[NetworkDevice], list[str]]:
    """Parse /proc/PID/net/dev.

    After two heading lines come "name: " and 16 numbers: bytes, packets, errors, dropped and four
    others, received and then sent. The second list says why each line that cannot be understood
    could not.
    """
    devices: list[NetworkDevice] = []
    faults: list[str] = []
    for line in net_dev.splitlines()[2:]:
        name, colon, rest = line.rpartition(b":")  # the name of an alias has a colon itself
        fields = rest.split()
        if not colon or len(fields) < 16:
            faults.append(f"{line[:80]!r} is not a device with 16 numbers")
            continue
        try:
            received = Traffic(*map(natural, fields[0:4]))
            sent = Traffic(*map(natural, fields[8:12]))
        except ValueError as error:
            faults.append(str(error))
            continue
        label = name.strip().decode("utf-8", "replace")
        devices.append(NetworkDevice((label,), received, sent))
    return devices, faults


def pressure(text: bytes) -> tuple[float | None, float | None]:
    """Parse a file of /proc/pressure: total seconds of its `some` and its `full` line.

    A line is "some avg10=0.00 avg60=0.00 avg300=0.00 total=123", the total in microseconds.
    Raises ValueError.
    """
    found: dict[bytes, float] = {}
    for line in text.splitlines():
        kind, _, rest = line.partition(b" ")
        _, marker, total = rest.rpartition(b" total=")
        if marker and kind in (b"some", b"full"):
            found[kind] = natural(total) / 1e6
    if not found:
        raise ValueError(f"{text[:80]!r} has no total")
    return found.get(b"some"), found.get(b"full")


def descriptors(file_nr: bytes) -> Descriptors:
    """Parse /proc/sys/fs/file-nr: allocated, free among them (always 0), most. ValueError."""
    words = file_nr.split()
    if len(words) != 3:
        raise ValueError(f"{file_nr[:80]!r} is not three numbers")
    return Descriptors(allocated=natural(words[0]) - natural(words[1]), most=natural(words[2]))


def is_partition(name: str, names: frozenset[str]) -> bool:
    """Whether the block device is a partition of another one in `names`.

    The kernel names a partition after its disk and a number, with a "p" between them where the
    disk's name ends in a digit (block/partitions): sda1, nvme0n1p1. So xvda1 without an xvda, as
    some clouds have it, is a disk.
    """
    disk = name.rstrip("0123456789")
    if disk == name or not disk:
        return False
    if disk in names:
        return not disk[-1].isdigit()
    return disk.endswith("p") and disk[:-1] in names and disk[-2:-1].isdigit()
