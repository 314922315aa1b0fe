"""Pure parsers of the host's kernel files. Each line and each number is parsed on its own.

psutil 7 (its module _pslinux) is not suitable for them (it is for the boot time):
- one strange number, or a line of diskstats with another number of fields, costs the whole file;
- virtual_memory and swap_memory substitute estimates and zeros for missing lines, with a warning;
  here such values are absent;
- getloadavg calls the C library, which reads /proc/loadavg whatever PROCFS_PATH is;
- net_io_counters reads PROCFS_PATH/net/dev, a link to self/net: the devices of the reader's network
  namespace, so the container's and not the host's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from exporter.faults import Faults, quoted
from exporter.kernel_formats import MAX_COUNT, Counts, count, counts, net_dev, net_dev_counts
from exporter.sources.host.reading import (
    Descriptors,
    Disk,
    HostCpu,
    HostMemory,
    Load,
    NetworkDevice,
    Traffic,
)

# The first numbers of the line "cpu", without guest and guest_nice, which the kernel includes in
# user and nice. Old kernels have fewer.
_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_CPU = re.compile(rb"cpu(\d+) ")
_USER_HZ = os.sysconf("SC_CLK_TCK")
# Of the lines of meminfo, the parts of MemTotal.
_MEMORY_PARTS = (
    *(b"MemAvailable", b"MemFree", b"Buffers", b"Cached"),
    *(b"AnonPages", b"Active(file)", b"Inactive(file)", b"Mapped"),
)
_MEMINFO = frozenset((b"MemTotal", *_MEMORY_PARTS, b"SwapTotal", b"SwapFree"))
_LOAD = re.compile(rb"\d{1,15}\.\d{1,6}")
# Bytes of a sector in diskstats, whatever the disk's own sectors are.
_SECTOR = 512
# Fields of a line of diskstats: three of the device, and the numbers that every kernel since 2.6.25
# has. Newer ones append discards and flushes.
_DISK_HEAD, _DISK_NUMBERS = 3, 11


def cpu(stat: bytes, uptime: float, faults: Faults) -> HostCpu:
    """Parses the lines "cpu" and "cpuN" of /proc/stat: ticks by mode, of which some may be absent.

    uptime: seconds since boot. A mode that exceeds twice the CPUs' time is absent (twice, as some
    CPUs may be offline now): an underflow of the steal time is 2^64 nanoseconds in ticks, which is
    a valid number. All are absent if all are 0: gVisor does not count them.
    """
    total: list[bytes] | None = None
    cpus: set[bytes] = set()
    for line in stat.split(b"\n"):
        if not line.startswith(b"cpu"):
            continue
        if line.startswith(b"cpu "):
            total = total or line.split()[1:]
        elif match := _CPU.match(line):
            cpus.add(match[1])
        else:
            faults.add(f"{quoted(line)} is not a CPU")
    if not cpus:
        faults.add("no line cpu0")
    if total is None:
        faults.add("no line cpu")
        return HostCpu((), len(cpus) or None)
    limit = 2 * uptime * _USER_HZ * max(1, len(cpus))
    ticks = counts(total[: len(_MODES)], faults)
    return HostCpu(_seconds_by_mode(ticks, limit, faults), len(cpus) or None)


def _seconds_by_mode(ticks: Counts, limit: float, faults: Faults) -> tuple[tuple[str, float], ...]:
    """Returns the seconds of each mode that does not exceed the limit; nothing if all are 0."""
    seconds = []
    for mode, number in zip(_MODES, ticks, strict=False):
        if number is not None and number > limit:
            faults.add(f"{number} ticks of {mode} exceed the CPUs' time")
        elif number is not None:
            seconds.append((mode, number / _USER_HZ))
    if seconds and not any(number for _, number in seconds):
        faults.add("all CPU times are 0")
        return ()
    return tuple(seconds)


def memory(meminfo: bytes, faults: Faults) -> HostMemory:
    """Parses /proc/meminfo: lines "Name:  number kB". None for a missing line.

    A part that exceeds its whole is absent: lxcfs shows free memory and swap beyond the total.
    """
    values: dict[bytes, int] = {}
    for line in meminfo.split(b"\n"):
        name, _, rest = line.partition(b":")
        if name in _MEMINFO:
            number, _, unit = rest.strip().partition(b" ")
            size = count(number)
            if size is None or unit != b"kB" or size * 1024 > MAX_COUNT:
                faults.add(f"{quoted(line)} is not a size in kB")
            else:
                values.setdefault(name, size * 1024)
    if not values:
        faults.add("no MemTotal and no SwapTotal")
    for whole, parts in (
        (b"MemTotal", _MEMORY_PARTS),
        (b"SwapTotal", (b"SwapFree",)),
    ):
        for part in parts:
            if values.get(part, 0) > values.get(whole, MAX_COUNT):
                faults.add(f"{part.decode()} exceeds {whole.decode()}")
                del values[part]
    get = values.get
    swap_total, swap_free = get(b"SwapTotal"), get(b"SwapFree")
    return HostMemory(
        total=get(b"MemTotal"),
        available=get(b"MemAvailable"),
        free=get(b"MemFree"),
        buffers=get(b"Buffers"),
        cached=get(b"Cached"),
        anonymous=get(b"AnonPages"),
        active_file=get(b"Active(file)"),
        inactive_file=get(b"Inactive(file)"),
        mapped=get(b"Mapped"),
        swap_total=swap_total,
        swap_used=None if swap_total is None or swap_free is None else swap_total - swap_free,
    )


def load(loadavg: bytes, faults: Faults) -> Load:
    """Parses /proc/loadavg: "0.10 0.13 0.09 1/84 5879"."""
    fields = loadavg.split()[:3]
    if len(fields) < 3:
        faults.add(f"{quoted(loadavg)} does not start with three load averages")
    averages: list[float | None] = [None] * 3
    for index, field in enumerate(fields):
        if _LOAD.fullmatch(field):
            averages[index] = float(field)
        else:
            faults.add(f"{quoted(field)} is not a load average")
    return Load(averages[0], averages[1], averages[2])


def network(data: bytes, faults: Faults) -> Iterator[NetworkDevice]:
    """Parses /proc/PID/net/dev, with the faults of single lines and numbers."""
    for name, rest in net_dev(data, faults):
        if (numbers := net_dev_counts(rest, faults)) is not None:
            label = name.decode("utf-8", "replace")
            receive, transmit = Traffic(*numbers[:4]), Traffic(*numbers[4:])
            yield NetworkDevice((label,), receive=receive, transmit=transmit)


def disks(diskstats: bytes, faults: Faults) -> Iterator[tuple[str, Counts]]:
    """Parses /proc/diskstats; yields the name of each device, and its numbers.

    A line is "8 0 sda" and 11 numbers, or more (proc(5)). The name may contain any bytes
    (surrogateescape). A line whose name is a number is of another format, such as that of
    Linux 2.4 ("8 0 71687372 sda").
    """
    for line in diskstats.split(b"\n"):
        fields = line.split()
        if (
            len(fields) >= _DISK_HEAD + _DISK_NUMBERS
            and (fields[0] + fields[1]).isdigit()
            and not fields[2].isdigit()
        ):
            numbers = counts(fields[_DISK_HEAD : _DISK_HEAD + _DISK_NUMBERS], faults)
            yield fields[2].decode("utf-8", "surrogateescape"), numbers
        elif fields:
            faults.add(f"{quoted(line)} is not a device with {_DISK_NUMBERS} numbers")


def disk(label: str, numbers: Counts) -> Disk:
    """Returns the row of a disk, from its numbers in diskstats."""
    reads, _, read, reading, writes, _, written, writing, _, busy, _ = numbers
    return Disk(
        (label,),
        read=_bytes(read),
        written=_bytes(written),
        reads=reads,
        writes=writes,
        read_seconds=_seconds(reading),
        write_seconds=_seconds(writing),
        busy=_seconds(busy),
    )


def _bytes(sectors: int | None) -> int | None:
    return None if sectors is None else sectors * _SECTOR


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def descriptors(file_nr: bytes, faults: Faults) -> Descriptors:
    """Parses /proc/sys/fs/file-nr: allocated, free (always 0), maximum."""
    fields = file_nr.partition(b"\n")[0].split()
    if len(fields) != 3:
        faults.add(f"{quoted(file_nr)} is not three numbers")
        return Descriptors(None, None)
    allocated, free, maximum = counts(fields, faults)
    in_use = None
    if allocated is not None and free is not None:
        if free <= allocated:
            in_use = allocated - free
        else:
            faults.add("more file descriptors are free than allocated")
    return Descriptors(in_use, maximum)


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
