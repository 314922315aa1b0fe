"""What a container uses, out of the contents of cgroup files: pure functions over bytes.

Each raises BadData for what the kernel does not write. A file that is not there is None, and so
is everything that only it tells.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from exporter.errors import BadData
from exporter.sources.containers.reading import Interface

# cgroup v1 has no word for `no limit`: it shows the greatest signed 64-bit number, rounded down
# to a page (4 to 64 KiB).
_UNLIMITED_V1 = (1 << 63) - (1 << 16)
_GREATEST = (1 << 64) - 1
# Bounds of what one container's files may make us keep.
MAX_DEVICES, MAX_INTERFACES = 64, 32
# Interfaces that are the container's own loop-back, or belong to containers inside it.
_INNER = (b"lo", b"veth", b"docker")


def integer(data: bytes) -> int:
    """A file that is one number. Raises BadData."""
    text = data.strip()
    if not text.isdigit() or len(text) > 20 or (number := int(text)) > _GREATEST:
        raise BadData(f"{data[:40]!r} is not a count")
    return number


def picker(*keys: str) -> Callable[[bytes], tuple[int | None, ...]]:
    """A parser of `key number` lines: the numbers behind these keys, None without a key.

    Each key is looked for behind the last, so it is quickest in the order of the kernel's file;
    no kernel repeats one. It raises BadData.
    """
    lines = [(line := f"\n{key} ".encode(), len(line)) for key in keys]

    def pick(data: bytes) -> tuple[int | None, ...]:
        data = b"\n" + data
        found: list[int | None] = []
        at = 0
        for line, length in lines:
            start = data.find(line, at)
            if start < 0 and (start := data.find(line, 0, at)) < 0:
                found.append(None)
                continue
            start += length
            at = data.find(b"\n", start)
            if at < 0:  # the last line, without its end
                at = len(data)
            text = data[start:at]
            # The kernel writes plain digits: the usual case costs one test.
            found.append(int(text) if text.isdigit() and len(text) < 20 else integer(text))
        return tuple(found)

    return pick


def limit(data: bytes) -> int | None:
    """A limit; None where there is none (`max`, or v1's greatest number). Raises BadData."""
    if data.strip() == b"max" or (number := integer(data)) >= _UNLIMITED_V1:
        return None
    return number


def limit_above_zero(data: bytes) -> int | None:
    """As `limit`, where 0 says that none is set (memory.low)."""
    return limit(data) or None


def count_lines(data: bytes) -> int:
    """How many lines there are: of cgroup.procs, a process each."""
    return data.count(b"\n")


# Of memory.stat, in its order: anon; page cache, of which mapped, dirty, being written back,
# inactive, active; faults, major faults; swap, which v2 tells in a file of its own.
MEMORY_V1 = (
    *("total_cache", "total_rss", "total_mapped_file", "total_dirty", "total_writeback"),
    *("total_swap", "total_pgfault", "total_pgmajfault"),
    *("total_inactive_file", "total_active_file"),
)
MEMORY_V2 = (
    *("anon", "file", "file_mapped", "file_dirty", "file_writeback"),
    *("inactive_file", "active_file", "pgfault", "pgmajfault"),
)
memory_v1 = picker(*MEMORY_V1)
memory_v2 = picker(*MEMORY_V2)
oom_kill_v1 = picker("oom_kill")
# Kills, times the limit was hit, times memory.high was passed.
events_v2 = picker("oom_kill", "max", "high")
_cpu_v2 = picker("usage_usec", "user_usec", "system_usec")
_cfs_v1 = picker("nr_periods", "nr_throttled", "throttled_time", "nr_bursts", "burst_time")
_cfs_v2 = picker("nr_periods", "nr_throttled", "throttled_usec", "nr_bursts", "burst_usec")


def seconds_of_nanoseconds(data: bytes) -> float:
    """cpuacct.usage. Raises BadData."""
    return integer(data) / 1e9


def ticks_v1(ticks_per_second: int) -> Callable[[bytes], tuple[float | None, float | None]]:
    """A parser of cpuacct.stat, for the machine's USER_HZ: user and system seconds."""
    pick = picker("user", "system")

    def parse(data: bytes) -> tuple[float | None, float | None]:
        user, system = pick(data)
        return _over(user, ticks_per_second), _over(system, ticks_per_second)

    return parse


def cfs_v1(data: bytes) -> tuple[float | None, ...]:
    """cpu.stat of v1, where times are nanoseconds."""
    periods, throttled, time, bursts, burst_time = _cfs_v1(data)
    return periods, throttled, _over(time, 1e9), bursts, _over(burst_time, 1e9)


def cpu_v2(data: bytes) -> tuple[tuple[float | None, ...], tuple[float | None, ...]]:
    """cpu.stat of v2: (usage, user, system) seconds; CFS as in `cfs_v1`."""
    used = tuple([_over(each, 1e6) for each in _cpu_v2(data)])
    if b"nr_periods 0\n" in data:  # the usual case: no quota
        return used, (0, 0, 0.0, None, None)
    periods, throttled, time, bursts, burst_time = _cfs_v2(data)
    return used, (periods, throttled, _over(time, 1e6), bursts, _over(burst_time, 1e6))


def _over(number: int | None, by: float) -> float | None:
    return number / by if number is not None else None


_PRESSURE = re.compile(rb"^(some|full) .* total=(.*)$", re.MULTILINE)


def pressure(data: bytes) -> tuple[float | None, float | None]:
    """A file of PSI: total seconds of its `some` and of its `full` line."""
    found = {kind: integer(total) / 1e6 for kind, total in _PRESSURE.findall(data)}
    return found.get(b"some"), found.get(b"full")


def quota_v2(data: bytes) -> tuple[int | None, int | None]:
    """cpu.max ("max 100000", "50000 100000"): quota (None without one) and period, in us."""
    words = data.split()
    if len(words) != 2:
        raise BadData(f"{data[:40]!r} is not a quota and a period")
    return (None if words[0] == b"max" else integer(words[0])), integer(words[1])


def quota_v1(data: bytes) -> int | None:
    """cpu.cfs_quota_us: -1 says there is none."""
    return None if data.strip() == b"-1" else integer(data)


def io_v2(data: bytes) -> tuple[tuple[str, int, int, int, int], ...]:
    """io.stat: ("major:minor", bytes read, written, reads, writes) of each device in use."""
    found: dict[str, tuple[str, int, int, int, int]] = {}
    for line in data.splitlines()[:MAX_DEVICES]:
        words = line.split()
        # As the kernel writes it: 8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0, and
        # nothing but the number for a device without accounting.
        numbers = dict(word.partition(b"=")[::2] for word in words[1:])
        told = [numbers.get(key) for key in (b"rbytes", b"wbytes", b"rios", b"wios")]
        if words and None not in told:
            device = _device(words[0])
            read, written, reads, writes = (integer(number or b"") for number in told)
            found.setdefault(device, (device, read, written, reads, writes))
    return tuple(found.values())


def io_v1(data: bytes) -> tuple[tuple[str, int, int], ...]:
    """blkio.throttle.io_service_bytes or io_serviced: ("major:minor", read, written)."""
    found: dict[bytes, list[int]] = {}
    for line in data.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] in (b"Read", b"Write") and len(found) < MAX_DEVICES:
            found.setdefault(words[0], [0, 0])[words[1] == b"Write"] = integer(words[2])
    return tuple((_device(device), read, written) for device, (read, written) in found.items())


def _device(number: bytes) -> str:
    major, colon, minor = number.partition(b":")
    if not (colon and major.isdigit() and minor.isdigit() and len(number) < 24):
        raise BadData(f"{number[:40]!r} is not the number of a device")
    return number.decode()


def interfaces(data: bytes) -> tuple[Interface, ...]:
    """/proc/PID/net/dev, without loop-back and without the ends of containers inside."""
    found: dict[str, Interface] = {}
    for line in data.splitlines()[2:]:
        name, colon, rest = line.rpartition(b":")  # the name of an alias has a colon itself
        name = name.strip()
        if name == b"lo" or name.startswith(_INNER[1:]):
            continue
        words = rest.split()
        # One test for all numbers, none of them longer than 64 bits are in decimal.
        if (
            not colon
            or len(words) < 16
            or not b"".join(words).isdigit()
            or max(map(len, words)) > 20
        ):
            raise BadData(f"{line[:80]!r} is not an interface with 16 numbers")
        if len(found) == MAX_INTERFACES:
            break
        text = name.decode("utf-8", "replace")
        found.setdefault(
            text,
            Interface(
                text,
                *map(int, words[:4]),
                *map(int, words[8:12]),
            ),
        )
    return tuple(found.values())


def working_set(used: int | None, inactive: int | None) -> int | None:
    """Memory less inactive page cache. Never below 0: the two are read one after the other."""
    return max(0, used - inactive) if used is not None and inactive is not None else None
