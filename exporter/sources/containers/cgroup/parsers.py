"""Parsers of cgroup and /proc files, one per file format. Pure functions.

Each line and each number is parsed on its own: one that the kernel does not write is left out, and
added to the file's `Faults`. A value without its key is None, and so is that of a missing file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from exporter.faults import Faults, quoted
from exporter.kernel_formats import count, net_dev, net_dev_counts
from exporter.sources.containers.reading import CfsBandwidth, DeviceIo, Interface

# cgroup v1 has no keyword for "no limit": it shows the largest signed 64-bit number, rounded down
# to a page (4 to 64 KiB); old kernels show the largest unsigned one.
_UNLIMITED_V1 = (1 << 63) - (1 << 16)
_MAX_LIMIT_DIGITS = 20
# Bounds of the rows of one container.
MAX_DEVICES, MAX_INTERFACES = 64, 32
# The container's loopback interface, and interfaces of containers inside the container.
_LOOPBACK, _INNER_INTERFACES = b"lo", (b"veth", b"docker")
_IO_KEYS: tuple[bytes, ...] = (b"rbytes", b"wbytes", b"rios", b"wios")
_NO_FIGURES: list[int | None] = [None] * len(_IO_KEYS)
_DEVICE_NUMBER = re.compile(rb"\d{1,10}:\d{1,10}")


def integer(data: bytes, faults: Faults) -> int | None:
    """Parses a file of a single number."""
    text = data.strip()
    if text.isdigit() and len(text) < 19:  # the common case
        return int(text)
    number = count(_first_line(data))
    if number is None:
        faults.add(f"{quoted(data)} is not a count")
    return number


def _first_line(data: bytes) -> bytes:
    return data.partition(b"\n")[0].strip()


def flat_keyed(*keys: str) -> Callable[[bytes, Faults], tuple[int | None, ...]]:
    """Returns a parser of a flat keyed file (`key number` lines), e.g. memory.stat.

    The parser returns the numbers of these keys, None for a missing key. It searches each key
    after the previous match, so the file's own order is the fastest; the kernel repeats no key.
    """
    prefixes = [(prefix := f"\n{key} ".encode(), len(prefix)) for key in keys]

    def parse(data: bytes, faults: Faults) -> tuple[int | None, ...]:
        data = b"\n" + data
        numbers: list[int | None] = []
        position = 0
        for prefix, length in prefixes:
            start = data.find(prefix, position)
            if start < 0 and (start := data.find(prefix, 0, position)) < 0:
                numbers.append(None)
                continue
            start += length
            position = data.find(b"\n", start)
            if position < 0:  # the last line has no newline
                position = len(data)
            text = data[start:position]
            # The kernel writes plain digits: the common case costs one test.
            if text.isdigit() and len(text) < 19:
                numbers.append(int(text))
            else:
                number = count(text.strip())
                if number is None:
                    faults.add(f"{quoted(data[start - length : position].strip())} is not a count")
                numbers.append(number)
        return tuple(numbers)

    return parse


def limit(data: bytes, faults: Faults) -> int | None:
    """Parses a limit; None for no limit (`max`, or v1's largest number)."""
    text = _first_line(data)
    if text == b"max":
        return None
    if not text.isdigit() or len(text) > _MAX_LIMIT_DIGITS:
        faults.add(f"{quoted(data)} is not a limit")
        return None
    number = int(text)
    return number if number < _UNLIMITED_V1 else None


def memory_low(data: bytes, faults: Faults) -> int | None:
    """Parses memory.low; None for 0, which means that none is set."""
    return limit(data, faults) or None


def count_pids(data: bytes, faults: Faults) -> int:
    """Returns the number of processes in cgroup.procs, or of threads in `tasks`.

    cgroup v2 may list a process twice, and lists one of another PID namespace as 0.
    """
    pids = data.split()
    distinct = set(pids)
    number = len(distinct)
    if number != len(pids) and b"0" in distinct:
        number += pids.count(b"0") - 1
    if pids and not b"".join(pids).isdigit():
        invalid = [pid for pid in distinct if not pid.isdigit()]
        number -= len(invalid)
        for pid in invalid:
            faults.add(f"{quoted(pid)} is not a PID")
    return number


# Keys of memory.stat in the file's order: anonymous memory; page cache, and its mapped, dirty,
# writeback, inactive and active part; page faults, major page faults; swap, which v2 has in
# memory.swap.current.
MEMORY_STAT_V1 = (
    *("total_cache", "total_rss", "total_mapped_file", "total_dirty", "total_writeback"),
    *("total_swap", "total_pgfault", "total_pgmajfault"),
    *("total_inactive_file", "total_active_file"),
)
MEMORY_STAT_V2 = (
    *("anon", "file", "file_mapped", "file_dirty", "file_writeback"),
    *("inactive_file", "active_file", "pgfault", "pgmajfault"),
)
memory_stat_v1 = flat_keyed(*MEMORY_STAT_V1)
memory_stat_v2 = flat_keyed(*MEMORY_STAT_V2)
memory_oom_control = flat_keyed("oom_kill")
# OOM kills, times the limit was hit, times memory.high was exceeded.
memory_events = flat_keyed("oom_kill", "max", "high")
_cpu_times_v2 = flat_keyed("usage_usec", "user_usec", "system_usec")
_cfs_v1 = flat_keyed("nr_periods", "nr_throttled", "throttled_time", "nr_bursts", "burst_time")
_cfs_v2 = flat_keyed("nr_periods", "nr_throttled", "throttled_usec", "nr_bursts", "burst_usec")
_NO_CFS_PERIODS = CfsBandwidth(0, 0, 0.0, None, None)


def cpuacct_usage(data: bytes, faults: Faults) -> float | None:
    """Parses cpuacct.usage (nanoseconds) to seconds."""
    return _divided(integer(data, faults), 1e9)


def cpuacct_stat(user_hz: int) -> Callable[[bytes, Faults], tuple[float | None, float | None]]:
    """Returns a parser of cpuacct.stat (ticks of USER_HZ) to user and system seconds."""
    ticks = flat_keyed("user", "system")

    def parse(data: bytes, faults: Faults) -> tuple[float | None, float | None]:
        user, system = ticks(data, faults)
        return _divided(user, user_hz), _divided(system, user_hz)

    return parse


def cpu_stat_v1(data: bytes, faults: Faults) -> CfsBandwidth:
    """Parses cpu.stat of v1, with times in nanoseconds."""
    periods, throttled, time, bursts, burst_time = _cfs_v1(data, faults)
    return CfsBandwidth(periods, throttled, _divided(time, 1e9), bursts, _divided(burst_time, 1e9))


def cpu_stat_v2(data: bytes, faults: Faults) -> tuple[tuple[float | None, ...], CfsBandwidth]:
    """Parses cpu.stat of v2 to (usage, user, system) seconds and CFS bandwidth control."""
    times = tuple([_divided(time, 1e6) for time in _cpu_times_v2(data, faults)])
    if b"nr_periods 0\n" in data:  # the common case: no quota
        return times, _NO_CFS_PERIODS
    periods, throttled, time, bursts, burst_time = _cfs_v2(data, faults)
    return times, CfsBandwidth(
        periods, throttled, _divided(time, 1e6), bursts, _divided(burst_time, 1e6)
    )


def _divided(number: int | None, by: float) -> float | None:
    return number / by if number is not None else None


def cpu_max(data: bytes, faults: Faults) -> tuple[int | None, int | None]:
    """Parses cpu.max ("max 100000", "50000 100000") to quota (None for `max`) and period, in us."""
    fields = _first_line(data).split()
    if len(fields) != 2:
        faults.add(f"{quoted(data)} is not a quota and a period")
        return None, None
    return limit(fields[0], faults), integer(fields[1], faults)


def cpu_cfs_quota(data: bytes, faults: Faults) -> int | None:
    """Parses cpu.cfs_quota_us; None for -1, which means no quota."""
    return None if _first_line(data) == b"-1" else integer(data, faults)


def io_stat(data: bytes, faults: Faults) -> tuple[DeviceIo, ...]:
    """Parses io.stat; the devices are named "major:minor".

    The kernel writes 8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0. Of a device without
    figures it writes only the number, in some releases without a newline: the figures of a line
    belong to the last device before them. A device without a number is written as `(unknown)`.
    """
    devices: dict[str, DeviceIo] = {}
    for line in data.split(b"\n"):
        device: bytes | None = None
        figures: dict[bytes, bytes] = {}
        for field in (*line.split(), b""):
            key, equals, number = field.partition(b"=")
            if equals:
                figures[key] = number
                continue
            if figures:
                if len(devices) < MAX_DEVICES:
                    _add_device(devices, device, figures, faults)
                figures = {}
            if field and not _DEVICE_NUMBER.fullmatch(field):
                faults.add(f"{quoted(line)} is not a device with its I/O")
            device = field
    return tuple(devices.values())


def _add_device(
    devices: dict[str, DeviceIo], number: bytes | None, figures: dict[bytes, bytes], faults: Faults
) -> None:
    """Adds a device's figures; those of a device without a valid number are left out."""
    if number is None or not _DEVICE_NUMBER.fullmatch(number):
        if number is None:
            faults.add("figures without a device")
        return
    values: list[int | None] = []
    for key in _IO_KEYS:
        text = figures.get(key)
        value = count(text) if text is not None else None
        if text is not None and value is None:
            faults.add(f"{quoted(key + b'=' + text)} is not a count")
        values.append(value)
    if values != _NO_FIGURES:
        name = number.decode()
        devices.setdefault(name, DeviceIo(name, *values))


class BlkioCounts(NamedTuple):
    """The Read and Write row of one device, in bytes or operations. None: no such row."""

    read: int | None = None
    write: int | None = None


_NO_IO = BlkioCounts(0, 0)


def blkio_throttle(data: bytes, faults: Faults) -> dict[str, BlkioCounts]:
    """Parses blkio.throttle.io_service_bytes or io_serviced to counts by "major:minor"."""
    rows: dict[tuple[bytes, bytes], int | None] = {}
    for line in data.split(b"\n"):
        fields = line.split()
        if len(fields) == 3 and _DEVICE_NUMBER.fullmatch(fields[0]):
            if fields[1] in (b"Read", b"Write") and (fields[0], fields[1]) not in rows:
                number = rows[fields[0], fields[1]] = count(fields[2])
                if number is None:
                    faults.add(f"{quoted(line)} is not a count")
        elif fields and fields[0] != b"Total":
            faults.add(f"{quoted(line)} is not a device with its I/O")
    devices = list(dict.fromkeys(device for device, _ in rows))[:MAX_DEVICES]
    return {
        device.decode(): BlkioCounts(rows.get((device, b"Read")), rows.get((device, b"Write")))
        for device in devices
    }


def merged_blkio(
    first: Mapping[str, BlkioCounts],
    second: Mapping[str, BlkioCounts],
    merge: Callable[[int, int], int],
) -> dict[str, BlkioCounts]:
    """Merges the counts of two cgroups by device; an unknown count stays unknown."""

    def merged(left: int | None, right: int | None) -> int | None:
        return None if left is None or right is None else merge(left, right)

    return {
        device: BlkioCounts(*map(merged, first.get(device, _NO_IO), second.get(device, _NO_IO)))
        for device in {**first, **second}
    }


def interfaces(data: bytes, faults: Faults) -> tuple[Interface, ...]:
    """Parses /proc/PID/net/dev, without loopback and without the ends of containers inside."""
    rows: dict[str, Interface] = {}
    for name, rest in net_dev(data, faults):
        if name == _LOOPBACK or name.startswith(_INNER_INTERFACES):
            continue
        if len(rows) == MAX_INTERFACES:
            break
        text = name.decode("utf-8", "replace")
        if text not in rows and (numbers := net_dev_counts(rest, faults)) is not None:
            received, packets, errors, dropped, sent, *transmit = numbers
            rows[text] = Interface(text, received, sent, packets, errors, dropped, *transmit)
    return tuple(rows.values())


def working_set(usage: int | None, inactive_file: int | None) -> int | None:
    """Returns memory less inactive page cache; at least 0, as the two files are read in turn."""
    if usage is None or inactive_file is None:
        return None
    return max(0, usage - inactive_file)
