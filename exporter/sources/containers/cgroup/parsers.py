"""Parsers of cgroup and /proc files, one per file format. Pure functions.

Each raises BadData for content that the kernel does not write. A key that is missing is None, and
so is the value of a file that does not exist.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from exporter.errors import BadData
from exporter.sources.containers.reading import CfsBandwidth, DeviceIo, Interface

# cgroup v1 has no keyword for "no limit": it shows the largest signed 64-bit number, rounded down
# to a page (4 to 64 KiB).
_UNLIMITED_V1 = (1 << 63) - (1 << 16)
_MAX_COUNT = (1 << 64) - 1
# Bounds of the rows of one container.
MAX_DEVICES, MAX_INTERFACES = 64, 32
# The container's loopback interface, and interfaces of containers inside the container.
_LOOPBACK, _INNER_INTERFACES = b"lo", (b"veth", b"docker")


def integer(data: bytes) -> int:
    """Parses a file of a single number. Raises BadData."""
    text = data.strip()
    if not text.isdigit() or len(text) > 20 or (number := int(text)) > _MAX_COUNT:
        raise BadData(f"{data[:40]!r} is not a count")
    return number


def flat_keyed(*keys: str) -> Callable[[bytes], tuple[int | None, ...]]:
    """Returns a parser of a flat keyed file (`key number` lines), e.g. memory.stat.

    The parser returns the numbers of these keys, None for a missing key. It searches each key
    after the previous match, so the file's own order is the fastest; the kernel repeats no key.
    It raises BadData.
    """
    prefixes = [(prefix := f"\n{key} ".encode(), len(prefix)) for key in keys]

    def parse(data: bytes) -> tuple[int | None, ...]:
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
            numbers.append(int(text) if text.isdigit() and len(text) < 20 else integer(text))
        return tuple(numbers)

    return parse


def limit(data: bytes) -> int | None:
    """Parses a limit; None for no limit (`max`, or v1's largest number). Raises BadData."""
    if data.strip() == b"max" or (number := integer(data)) >= _UNLIMITED_V1:
        return None
    return number


def memory_low(data: bytes) -> int | None:
    """Parses memory.low; None for 0, which means that none is set. Raises BadData."""
    return limit(data) or None


def count_lines(data: bytes) -> int:
    """Returns the number of lines: of cgroup.procs, the number of processes."""
    return data.count(b"\n")


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


def cpuacct_usage(data: bytes) -> float:
    """Parses cpuacct.usage (nanoseconds) to seconds. Raises BadData."""
    return integer(data) / 1e9


def cpuacct_stat(user_hz: int) -> Callable[[bytes], tuple[float | None, float | None]]:
    """Returns a parser of cpuacct.stat (ticks of USER_HZ) to user and system seconds."""
    ticks = flat_keyed("user", "system")

    def parse(data: bytes) -> tuple[float | None, float | None]:
        user, system = ticks(data)
        return _divided(user, user_hz), _divided(system, user_hz)

    return parse


def cpu_stat_v1(data: bytes) -> CfsBandwidth:
    """Parses cpu.stat of v1, with times in nanoseconds."""
    periods, throttled, time, bursts, burst_time = _cfs_v1(data)
    return CfsBandwidth(periods, throttled, _divided(time, 1e9), bursts, _divided(burst_time, 1e9))


def cpu_stat_v2(data: bytes) -> tuple[tuple[float | None, ...], CfsBandwidth]:
    """Parses cpu.stat of v2 to (usage, user, system) seconds and CFS bandwidth control."""
    times = tuple([_divided(time, 1e6) for time in _cpu_times_v2(data)])
    if b"nr_periods 0\n" in data:  # the common case: no quota
        return times, _NO_CFS_PERIODS
    periods, throttled, time, bursts, burst_time = _cfs_v2(data)
    return times, CfsBandwidth(
        periods, throttled, _divided(time, 1e6), bursts, _divided(burst_time, 1e6)
    )


def _divided(number: int | None, by: float) -> float | None:
    return number / by if number is not None else None


_PSI_LINE = re.compile(rb"^(some|full) .* total=(.*)$", re.MULTILINE)


def pressure(data: bytes) -> tuple[float | None, float | None]:
    """Parses a PSI file to the total seconds of its `some` and of its `full` line."""
    totals = {kind: integer(total) / 1e6 for kind, total in _PSI_LINE.findall(data)}
    return totals.get(b"some"), totals.get(b"full")


def cpu_max(data: bytes) -> tuple[int | None, int | None]:
    """Parses cpu.max ("max 100000", "50000 100000") to quota (None for `max`) and period, in us."""
    fields = data.split()
    if len(fields) != 2:
        raise BadData(f"{data[:40]!r} is not a quota and a period")
    return (None if fields[0] == b"max" else integer(fields[0])), integer(fields[1])


def cpu_cfs_quota(data: bytes) -> int | None:
    """Parses cpu.cfs_quota_us; None for -1, which means no quota."""
    return None if data.strip() == b"-1" else integer(data)


def io_stat(data: bytes) -> tuple[DeviceIo, ...]:
    """Parses io.stat; the devices are named "major:minor"."""
    devices: dict[str, DeviceIo] = {}
    for line in data.splitlines()[:MAX_DEVICES]:
        fields = line.split()
        # The kernel writes 8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0, or only the
        # number for a device without accounting.
        values = dict(field.partition(b"=")[::2] for field in fields[1:])
        counts = [values.get(key) for key in (b"rbytes", b"wbytes", b"rios", b"wios")]
        if fields and None not in counts:
            device = _device_number(fields[0])
            rbytes, wbytes, rios, wios = (integer(count or b"") for count in counts)
            devices.setdefault(
                device,
                DeviceIo(device, reads_bytes=rbytes, writes_bytes=wbytes, reads=rios, writes=wios),
            )
    return tuple(devices.values())


class BlkioCounts(NamedTuple):
    """The Read and Write row of one device, in bytes or operations."""

    read: int = 0
    write: int = 0


def blkio_throttle(data: bytes) -> dict[str, BlkioCounts]:
    """Parses blkio.throttle.io_service_bytes or io_serviced to counts by "major:minor"."""
    devices: dict[bytes, BlkioCounts] = {}
    for line in data.splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[1] in (b"Read", b"Write") and len(devices) < MAX_DEVICES:
            counts, number = devices.get(fields[0], BlkioCounts()), integer(fields[2])
            devices[fields[0]] = (
                counts._replace(read=number)
                if fields[1] == b"Read"
                else counts._replace(write=number)
            )
    return {_device_number(device): counts for device, counts in devices.items()}


def _device_number(number: bytes) -> str:
    major, colon, minor = number.partition(b":")
    if not (colon and major.isdigit() and minor.isdigit() and len(number) < 24):
        raise BadData(f"{number[:40]!r} is not the number of a device")
    return number.decode()


def net_dev(data: bytes) -> tuple[Interface, ...]:
    """Parses /proc/PID/net/dev, without loopback and without the ends of containers inside."""
    interfaces: dict[str, Interface] = {}
    for line in data.splitlines()[2:]:
        name, colon, counters = line.rpartition(b":")  # the name of an alias contains a colon
        name = name.strip()
        if name == _LOOPBACK or name.startswith(_INNER_INTERFACES):
            continue
        fields = counters.split()
        # One test for all numbers; none is longer than 64 bits are in decimal.
        if (
            not colon
            or len(fields) < 16
            or not b"".join(fields).isdigit()
            or max(map(len, fields)) > 20
        ):
            raise BadData(f"{line[:80]!r} is not an interface with 16 numbers")
        if len(interfaces) == MAX_INTERFACES:
            break
        text = name.decode("utf-8", "replace")
        receive_bytes, receive_packets, receive_errs, receive_drop = map(int, fields[:4])
        transmit_bytes, transmit_packets, transmit_errs, transmit_drop = map(int, fields[8:12])
        interfaces.setdefault(
            text,
            Interface(
                text,
                receive_bytes=receive_bytes,
                receive_packets=receive_packets,
                receive_errors=receive_errs,
                receive_packets_dropped=receive_drop,
                transmit_bytes=transmit_bytes,
                transmit_packets=transmit_packets,
                transmit_errors=transmit_errs,
                transmit_packets_dropped=transmit_drop,
            ),
        )
    return tuple(interfaces.values())


def proc_cgroup(text: str) -> dict[str, tuple[str, str]]:
    """Parses /proc/PID/cgroup (`ID:controllers:path` lines).

    Returns (controllers of the hierarchy, path) per controller; the cgroup v2 line has the empty
    controller. Other lines are left out.
    """
    cgroups: dict[str, tuple[str, str]] = {}
    for line in text.split("\n"):  # a cgroup's name may contain any other line separator
        if line.count(":") < 2:  # the end
            continue
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            cgroups[controller] = (controllers, path)
    return cgroups


def working_set(usage: int | None, inactive_file: int | None) -> int | None:
    """Returns memory less inactive page cache; at least 0, as the two files are read in turn."""
    if usage is None or inactive_file is None:
        return None
    return max(0, usage - inactive_file)
