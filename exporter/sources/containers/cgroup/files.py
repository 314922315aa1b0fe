"""Which files of a container's cgroup are read, how often, and what is made of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from exporter.sources.containers.cgroup import parsers
from exporter.sources.containers.cgroup.paths import CgroupVersion
from exporter.sources.containers.reading import ContainerUsage, DeviceIo, ResourceLimits


class ReadFrequency(Enum):
    """How often a file is worth reading."""

    ALWAYS = "at every poll; kept open"
    QUOTA = "at every poll where a CPU quota is set; kept open"
    RARELY = "now and then, and when the engine tells of a change"


@dataclass(frozen=True, slots=True)
class CgroupFile:
    """One file. key: what its parsed content is called; size: bytes that surely hold it."""

    key: str
    controller: str
    name: str
    parse: Callable[[bytes], Any]
    when: ReadFrequency = ReadFrequency.ALWAYS
    size: int = 1 << 12


# More than memory.stat and io.stat are long (1.5 KB usually; 4 KB with every key there is).
_LONG = 1 << 14
_TICKS = os.sysconf("SC_CLK_TCK")

V1 = (
    CgroupFile("cpu", "cpuacct", "cpuacct.usage", parsers.seconds_of_nanoseconds),
    CgroupFile("modes", "cpuacct", "cpuacct.stat", parsers.ticks_v1(_TICKS)),
    CgroupFile("cfs", "cpu", "cpu.stat", parsers.cfs_v1, ReadFrequency.QUOTA),
    CgroupFile("memory", "memory", "memory.usage_in_bytes", parsers.integer),
    CgroupFile("memory_stat", "memory", "memory.stat", parsers.memory_v1, size=_LONG),
    CgroupFile("peak", "memory", "memory.max_usage_in_bytes", parsers.integer),
    CgroupFile("limit_hits", "memory", "memory.failcnt", parsers.integer),
    CgroupFile("oom", "memory", "memory.oom_control", parsers.oom_kill_v1),
    CgroupFile("io", "blkio", "blkio.throttle.io_service_bytes", parsers.io_v1, size=_LONG),
    CgroupFile("io_counts", "blkio", "blkio.throttle.io_serviced", parsers.io_v1, size=_LONG),
    CgroupFile("threads", "pids", "pids.current", parsers.integer),
    CgroupFile("processes", "pids", "cgroup.procs", parsers.count_lines, size=_LONG),
    CgroupFile("limit", "memory", "memory.limit_in_bytes", parsers.limit, ReadFrequency.RARELY),
    CgroupFile(
        "swap_limit", "memory", "memory.memsw.limit_in_bytes", parsers.limit, ReadFrequency.RARELY
    ),
    CgroupFile(
        "reservation", "memory", "memory.soft_limit_in_bytes", parsers.limit, ReadFrequency.RARELY
    ),
    CgroupFile("quota", "cpu", "cpu.cfs_quota_us", parsers.quota_v1, ReadFrequency.RARELY),
    CgroupFile("period", "cpu", "cpu.cfs_period_us", parsers.integer, ReadFrequency.RARELY),
    CgroupFile("most_threads", "pids", "pids.max", parsers.limit, ReadFrequency.RARELY),
)
V2 = (
    CgroupFile("cpu", "", "cpu.stat", parsers.cpu_v2),
    CgroupFile("memory", "", "memory.current", parsers.integer),
    CgroupFile("memory_stat", "", "memory.stat", parsers.memory_v2, size=_LONG),
    CgroupFile("swap", "", "memory.swap.current", parsers.integer),
    CgroupFile("peak", "", "memory.peak", parsers.integer),
    CgroupFile("events", "", "memory.events", parsers.events_v2),
    CgroupFile("io", "", "io.stat", parsers.io_v2, size=_LONG),
    CgroupFile("threads", "", "pids.current", parsers.integer),
    CgroupFile("processes", "", "cgroup.procs", parsers.count_lines, size=_LONG),
    CgroupFile("cpu_pressure", "", "cpu.pressure", parsers.pressure),
    CgroupFile("memory_pressure", "", "memory.pressure", parsers.pressure),
    CgroupFile("io_pressure", "", "io.pressure", parsers.pressure),
    CgroupFile("limit", "", "memory.max", parsers.limit, ReadFrequency.RARELY),
    CgroupFile("swap_limit", "", "memory.swap.max", parsers.limit, ReadFrequency.RARELY),
    CgroupFile("reservation", "", "memory.low", parsers.limit_above_zero, ReadFrequency.RARELY),
    CgroupFile("quota", "", "cpu.max", parsers.quota_v2, ReadFrequency.RARELY),
    CgroupFile("most_threads", "", "pids.max", parsers.limit, ReadFrequency.RARELY),
)
FILES: dict[CgroupVersion, tuple[CgroupFile, ...]] = {1: V1, 2: V2}

ParsedFiles = Mapping[str, Any]
DeviceName = Callable[[str], str]
"""Gives the name of a device by "major:minor"."""
_NONE10 = (None,) * 10


def resource_limits(version: CgroupVersion, values: ParsedFiles) -> ResourceLimits:
    """The bounds, from the files that are read rarely."""
    get = values.get
    limit, swap = get("limit"), get("swap_limit")
    if version == 2:
        # v2 bounds swap alone; v1, as the engines' own settings, memory and swap together.
        swap = limit + swap if limit is not None and swap is not None else None
        quota, period = get("quota") or (None, None)
    else:
        quota, period = get("quota"), get("period")
    return ResourceLimits(limit, swap, get("reservation"), quota, period, get("most_threads"))


def usage_v1(
    labels: tuple[str, ...],
    values: dict[str, Any],
    spec: ResourceLimits,
    name: Callable[[str], str],
    same_start: bool,
) -> ContainerUsage:
    """What the files of v1 say together."""
    get = values.get
    user, system = get("modes") or (None, None)
    stat = get("memory_stat") or _NONE10
    cache, rss, mapped, dirty, writeback, swap, faults, major, inactive, active = stat
    memory = get("memory")
    (kills,) = get("oom") or (None,)
    return ContainerUsage(
        labels=labels,
        cpu=get("cpu"),
        cpu_user=user,
        cpu_system=system,
        cfs=get("cfs") if spec.cpu_quota is not None else None,
        memory=memory,
        working_set=parsers.working_set(memory, inactive),
        rss=rss,
        cache=cache,
        mapped_file=mapped,
        inactive_file=inactive,
        active_file=active,
        dirty_file=dirty,
        writeback_file=writeback,
        swap=swap,
        peak=get("peak"),
        page_faults=faults,
        major_page_faults=major,
        limit_hits=get("limit_hits"),
        oom_kills=kills,
        processes=get("processes"),
        threads=get("threads"),
        io=_devices(values, name),
        interfaces=get("interfaces") or (),
        spec=spec,
        same_start=same_start,
    )


def usage_v2(
    labels: tuple[str, ...],
    values: dict[str, Any],
    spec: ResourceLimits,
    name: Callable[[str], str],
    same_start: bool,
) -> ContainerUsage:
    """What the files of v2 say together."""
    get = values.get
    (cpu, user, system), cfs = get("cpu") or ((None, None, None), None)
    stat = get("memory_stat") or _NONE10[:9]
    rss, cache, mapped, dirty, writeback, inactive, active, faults, major = stat
    kills, hits, high = get("events") or (None, None, None)
    memory = get("memory")
    return ContainerUsage(
        labels=labels,
        cpu=cpu,
        cpu_user=user,
        cpu_system=system,
        cfs=cfs if spec.cpu_quota is not None else None,
        memory=memory,
        working_set=parsers.working_set(memory, inactive),
        rss=rss,
        cache=cache,
        mapped_file=mapped,
        inactive_file=inactive,
        active_file=active,
        dirty_file=dirty,
        writeback_file=writeback,
        swap=get("swap"),
        peak=get("peak"),
        page_faults=faults,
        major_page_faults=major,
        limit_hits=hits,
        high_events=high,
        oom_kills=kills,
        processes=get("processes"),
        threads=get("threads"),
        io=_devices(values, name),
        interfaces=get("interfaces") or (),
        pressure=tuple(
            [
                (what, *found)
                for what in ("cpu", "memory", "io")
                if (found := get(f"{what}_pressure")) is not None
            ]
        ),
        spec=spec,
        same_start=same_start,
    )


def _devices(values: dict[str, Any], name: DeviceName) -> tuple[DeviceIo, ...]:
    """The block I/O, by the devices' names; made anew only where its files have changed.

    v1 has bytes and operations in two files, v2 both in one.
    """
    sizes, counts = values.get("io"), values.get("io_counts")
    if not sizes:
        return ()
    known = values.get("devices")
    if known is None or known[0] is not sizes or known[1] is not counts:
        operations = {device: (read, written) for device, read, written in counts or ()}
        rows = tuple(
            DeviceIo(name(device), *numbers, *operations.get(device, ()))
            for device, *numbers in sizes
        )
        values["devices"] = (sizes, counts, rows)
        return rows
    found: tuple[DeviceIo, ...] = known[2]
    return found


USAGES: dict[CgroupVersion, Callable[..., ContainerUsage]] = {1: usage_v1, 2: usage_v2}
INTERFACES = CgroupFile("interfaces", "network", "net/dev", parsers.interfaces, size=_LONG)
