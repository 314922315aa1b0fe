"""Pure parsers of the kernel files for which psutil is not suitable.

psutil 7 (its module _pslinux):
- virtual_memory and swap_memory substitute estimates and zeros for missing lines, with a warning;
  here such values are absent;
- getloadavg calls the C library, which reads /proc/loadavg whatever PROCFS_PATH is;
- net_io_counters reads PROCFS_PATH/net/dev, a link to self/net: the devices of the reader's network
  namespace, so the container's and not the host's.
"""

from __future__ import annotations

import re

from exporter.sources.host.reading import Descriptors, HostMemory, Load, NetworkDevice, Traffic

_MEMINFO = frozenset(
    (b"MemTotal", b"MemAvailable", b"MemFree", b"Buffers", b"Cached", b"SwapTotal", b"SwapFree")
)
_LOAD = re.compile(rb"(\d{1,15}\.\d{1,6}) (\d{1,15}\.\d{1,6}) (\d{1,15}\.\d{1,6}) ")
# Enough for a 64-bit counter, and a finite float64.
_MAX_DIGITS = 20


def natural(text: bytes) -> int:
    """Parses a natural number. Raises ValueError ("-1", "1_000", more than 20 digits)."""
    if not text.isdigit() or len(text) > _MAX_DIGITS:
        raise ValueError(f"{text[:40]!r} is not a number")
    return int(text)


def memory(meminfo: bytes) -> HostMemory:
    """Parses /proc/meminfo: lines "Name:  number kB". None for a missing line.

    Raises ValueError for an invalid line, and if all lines are missing.
    """
    values: dict[bytes, int] = {}
    for line in meminfo.splitlines():
        name, _, rest = line.partition(b":")
        if name in _MEMINFO:
            number, _, unit = rest.strip().partition(b" ")
            if unit != b"kB":
                raise ValueError(f"{line[:80]!r} does not end in kB")
            values[name] = natural(number) * 1024
    if not values:
        raise ValueError("no MemTotal and no SwapTotal")
    get = values.get
    swap_total, swap_free = get(b"SwapTotal"), get(b"SwapFree")
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
    """Parses /proc/loadavg: "0.10 0.13 0.09 1/84 5879". Raises ValueError."""
    match = _LOAD.match(loadavg)
    if match is None:
        raise ValueError(f"{loadavg[:80]!r} does not start with three load averages")
    load1, load5, load15 = (float(number) for number in match.groups())
    return Load(load1, load5, load15)


def network(net_dev: bytes) -> tuple[list[NetworkDevice], list[str]]:
    """Parses /proc/PID/net/dev; returns the devices, and an error message for each invalid line.

    Two header lines, then lines of "name: " and 16 numbers: bytes, packets, errs, drop and four
    others, first of the direction receive, then of transmit.
    """
    devices: list[NetworkDevice] = []
    faults: list[str] = []
    for line in net_dev.splitlines()[2:]:
        name, colon, rest = line.rpartition(b":")  # the name of an alias contains a colon
        fields = rest.split()
        if not colon or len(fields) < 16:
            faults.append(f"{line[:80]!r} is not a device with 16 numbers")
            continue
        try:
            receive, transmit = _traffic(fields[0:4]), _traffic(fields[8:12])
        except ValueError as error:
            faults.append(str(error))
            continue
        label = name.strip().decode("utf-8", "replace")
        devices.append(NetworkDevice((label,), receive=receive, transmit=transmit))
    return devices, faults


def _traffic(fields: list[bytes]) -> Traffic:
    """Parses the first four columns of one direction: bytes, packets, errs, drop."""
    count, packets, errs, drop = map(natural, fields)
    return Traffic(bytes=count, packets=packets, errors=errs, packets_dropped=drop)


def pressure(text: bytes) -> tuple[float | None, float | None]:
    """Parses a file of /proc/pressure; returns the total seconds of its `some` and `full` lines.

    A line is "some avg10=0.00 avg60=0.00 avg300=0.00 total=123", the total in microseconds.
    Raises ValueError.
    """
    totals: dict[bytes, float] = {}
    for line in text.splitlines():
        kind, _, rest = line.partition(b" ")
        _, marker, total = rest.rpartition(b" total=")
        if marker and kind in (b"some", b"full"):
            totals[kind] = natural(total) / 1e6
    if not totals:
        raise ValueError(f"{text[:80]!r} has no total")
    return totals.get(b"some"), totals.get(b"full")


def descriptors(file_nr: bytes) -> Descriptors:
    """Parses /proc/sys/fs/file-nr: allocated, free (always 0), maximum. Raises ValueError."""
    fields = file_nr.split()
    if len(fields) != 3:
        raise ValueError(f"{file_nr[:80]!r} is not three numbers")
    return Descriptors(allocated=natural(fields[0]) - natural(fields[1]), max=natural(fields[2]))


def is_partition(name: str, names: frozenset[str]) -> bool:
    """Whether the block device is a partition of another one in `names`.

    The kernel names a partition by its disk and a number, with a "p" between them if the disk's
    name ends in a digit (block/partitions): sda1, nvme0n1p1. xvda1 without an xvda, as on some
    clouds, is a disk.
    """
    disk = name.rstrip("0123456789")
    if disk == name or not disk:
        return False
    if disk in names:
        return not disk[-1].isdigit()
    return disk.endswith("p") and disk[:-1] in names and disk[-2:-1].isdigit()
