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

from exporter.sources.host.reading import Load, Memory

_LOAD = re.compile(rb"(\d{1,15}\.\d{1,6}) (\d{1,15}\.\d{1,6}) (\d{1,15}\.\d{1,6}) ")
# Beyond any 64-bit counter, and short enough to be a number to Prometheus.
_MAX_DIGITS = 20


def natural(text: bytes) -> int:
    """The number; ValueError where it is not one that the kernel writes ("-1", "1_000", giants)."""
    if not text.isdigit() or len(text) > _MAX_DIGITS:
        raise ValueError(f"{text[:40]!r} is not a number")
    return int(text)


def memory(meminfo: bytes) -> Memory:
    """Parse /proc/meminfo: lines "Name:  number kB". A line that is not there is None.

    Raises ValueError for a line that cannot be understood, or where none of ours is there.
    """
    found: dict[bytes, int] = {}
    for line in meminfo.splitlines():
        name, _, rest = line.partition(b":")
        if name in {b"MemTotal", b"MemAvailable", b"SwapTotal", b"SwapFree"}:
            number, _, unit = rest.strip().partition(b" ")
            if unit != b"kB":
                raise ValueError(f"{line[:80]!r} does not end in kB")
            found[name] = natural(number) * 1024
    if not found:
        raise ValueError("no MemTotal and no SwapTotal")
    swap_total, swap_free = found.get(b"SwapTotal"), found.get(b"SwapFree")
    swap_used = None
    if swap_total is not None and swap_free is not None:
        if swap_free > swap_total:
            raise ValueError("SwapFree exceeds SwapTotal")
        swap_used = swap_total - swap_free
    return Memory(found.get(b"MemTotal"), found.get(b"MemAvailable"), swap_total, swap_used)


def load(loadavg: bytes) -> Load:
    """Parse /proc/loadavg: "0.10 0.13 0.09 1/84 5879". Raises ValueError."""
    match = _LOAD.match(loadavg)
    if match is None:
        raise ValueError(f"{loadavg[:80]!r} does not start with three load averages")
    load1, load5, load15 = (float(number) for number in match.groups())
    return Load(load1, load5, load15)


def network(net_dev: bytes) -> tuple[list[tuple[str, int, int]], list[str]]:
    """Parse /proc/PID/net/dev: (name, bytes received, bytes sent) of each device.

    After two heading lines come "name: " and 16 numbers, the first and the ninth being bytes.
    The second list says why each line that cannot be understood could not.
    """
    devices: list[tuple[str, int, int]] = []
    faults: list[str] = []
    for line in net_dev.splitlines()[2:]:
        name, colon, rest = line.rpartition(b":")  # the name of an alias has a colon itself
        fields = rest.split()
        if not colon or len(fields) < 16:
            faults.append(f"{line[:80]!r} is not a device with 16 numbers")
            continue
        try:
            received, sent = natural(fields[0]), natural(fields[8])
        except ValueError as error:
            faults.append(str(error))
            continue
        devices.append((name.strip().decode("utf-8", "replace"), received, sent))
    return devices, faults


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
