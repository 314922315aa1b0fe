"""The cgroup files read per container, their read frequency, and the rows built from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from operator import add, is_
from typing import Any

from exporter.faults import Faults
from exporter.kernel_formats import pressure
from exporter.sources.containers.cgroup import parsers
from exporter.sources.containers.cgroup.paths import CgroupVersion
from exporter.sources.containers.reading import (
    ContainerPressure,
    ContainerUsage,
    DeviceIo,
    ResourceLimits,
)


class ReadFrequency(Enum):
    """The polls at which a file is read."""

    EVERY_POLL = "at every poll; kept open"
    WITH_QUOTA = "at every poll if a CPU quota is set; kept open"
    LIMITS = "every LIMITS_INTERVAL seconds, and after an event of the container"


@dataclass(frozen=True, slots=True)
class CgroupFile:
    """One file. key: the key of its parsed content; size: bytes of the first read.

    with_children: whether it includes the cgroups below; otherwise child_cgroups.py adds them.
    other_controllers: that have the same file, for a host without the controller.
    replacement: of a missing file.
    """

    key: str
    controller: str
    name: str
    parse: Callable[[bytes, Faults], Any]
    frequency: ReadFrequency = ReadFrequency.EVERY_POLL
    size: int = 1 << 12
    with_children: bool = True
    other_controllers: tuple[str, ...] = ()
    replacement: CgroupFile | None = None


# More than the length of memory.stat and io.stat (1.5 KB usually; 4 KB with every possible key).
_LARGE = 1 << 14
_USER_HZ = os.sysconf("SC_CLK_TCK")

_NOT_PIDS = ("cpuacct", "memory", "cpu", "blkio")
_PROCESSES_V2 = CgroupFile(
    "processes", "", "cgroup.procs", parsers.count_pids, size=_LARGE, with_children=False
)
_PROCESSES_V1 = replace(_PROCESSES_V2, controller="pids", other_controllers=_NOT_PIDS)
_TASKS = replace(_PROCESSES_V1, key="tasks", name="tasks")


def _blkio(key: str) -> CgroupFile:
    """Returns a file of v1's block I/O; before Linux 4.17 none includes the cgroups below."""
    own = CgroupFile(
        key,
        "blkio",
        f"blkio.throttle.{key}",
        parsers.blkio_throttle,
        size=_LARGE,
        with_children=False,
    )
    return replace(own, name=f"{own.name}_recursive", with_children=True, replacement=own)


FILES_V1 = (
    CgroupFile("cpuacct_usage", "cpuacct", "cpuacct.usage", parsers.cpuacct_usage),
    CgroupFile("cpuacct_stat", "cpuacct", "cpuacct.stat", parsers.cpuacct_stat(_USER_HZ)),
    CgroupFile("cpu_stat", "cpu", "cpu.stat", parsers.cpu_stat_v1, ReadFrequency.WITH_QUOTA),
    CgroupFile("memory", "memory", "memory.usage_in_bytes", parsers.integer),
    CgroupFile("memory_stat", "memory", "memory.stat", parsers.memory_stat_v1, size=_LARGE),
    CgroupFile("peak", "memory", "memory.max_usage_in_bytes", parsers.integer),
    CgroupFile("limit_hits", "memory", "memory.failcnt", parsers.integer),
    CgroupFile("oom_control", "memory", "memory.oom_control", parsers.memory_oom_control),
    _blkio("io_service_bytes"),
    _blkio("io_serviced"),
    CgroupFile("threads", "pids", "pids.current", parsers.integer, replacement=_TASKS),
    _PROCESSES_V1,
    CgroupFile("limit", "memory", "memory.limit_in_bytes", parsers.limit, ReadFrequency.LIMITS),
    CgroupFile(
        "swap_limit", "memory", "memory.memsw.limit_in_bytes", parsers.limit, ReadFrequency.LIMITS
    ),
    CgroupFile(
        "reservation", "memory", "memory.soft_limit_in_bytes", parsers.limit, ReadFrequency.LIMITS
    ),
    CgroupFile("quota", "cpu", "cpu.cfs_quota_us", parsers.cpu_cfs_quota, ReadFrequency.LIMITS),
    CgroupFile("period", "cpu", "cpu.cfs_period_us", parsers.integer, ReadFrequency.LIMITS),
    CgroupFile("threads_limit", "pids", "pids.max", parsers.limit, ReadFrequency.LIMITS),
)
FILES_V2 = (
    CgroupFile("cpu_stat", "", "cpu.stat", parsers.cpu_stat_v2),
    CgroupFile("memory", "", "memory.current", parsers.integer),
    CgroupFile("memory_stat", "", "memory.stat", parsers.memory_stat_v2, size=_LARGE),
    CgroupFile("swap", "", "memory.swap.current", parsers.integer),
    CgroupFile("peak", "", "memory.peak", parsers.integer),
    CgroupFile("memory_events", "", "memory.events", parsers.memory_events),
    CgroupFile("io_stat", "", "io.stat", parsers.io_stat, size=_LARGE),
    CgroupFile("threads", "", "pids.current", parsers.integer),
    _PROCESSES_V2,
    CgroupFile("cpu_pressure", "", "cpu.pressure", pressure),
    CgroupFile("memory_pressure", "", "memory.pressure", pressure),
    CgroupFile("io_pressure", "", "io.pressure", pressure),
    CgroupFile("limit", "", "memory.max", parsers.limit, ReadFrequency.LIMITS),
    CgroupFile("swap_limit", "", "memory.swap.max", parsers.limit, ReadFrequency.LIMITS),
    CgroupFile("reservation", "", "memory.low", parsers.memory_low, ReadFrequency.LIMITS),
    CgroupFile("quota", "", "cpu.max", parsers.cpu_max, ReadFrequency.LIMITS),
    CgroupFile("threads_limit", "", "pids.max", parsers.limit, ReadFrequency.LIMITS),
)
CGROUP_FILES: dict[CgroupVersion, tuple[CgroupFile, ...]] = {1: FILES_V1, 2: FILES_V2}
LIMIT_FILES: dict[CgroupVersion, tuple[CgroupFile, ...]] = {
    version: tuple(file for file in files if file.frequency is ReadFrequency.LIMITS)
    for version, files in CGROUP_FILES.items()
}
NET_DEV_FILE = CgroupFile("interfaces", "network", "net/dev", parsers.interfaces, size=_LARGE)

ParsedFiles = Mapping[str, Any]
DeviceName = Callable[[str], str]
"""Returns the name of a device by "major:minor"."""
_NO_CHILDREN: Mapping[str, Any] = {}
_MISSING_STAT_V1 = (None,) * len(parsers.MEMORY_STAT_V1)
_MISSING_STAT_V2 = (None,) * len(parsers.MEMORY_STAT_V2)
# Resource, and the key of its pressure file.
_PRESSURE_FILES = (("cpu", "cpu_pressure"), ("memory", "memory_pressure"), ("io", "io_pressure"))

_IO_KEYS = ("io_stat", "io_service_bytes", "io_serviced", "children")


def resource_limits(version: CgroupVersion, values: ParsedFiles) -> ResourceLimits:
    """Returns the limits, from the parsed files of ReadFrequency.LIMITS."""
    get = values.get
    limit, swap = get("limit"), get("swap_limit")
    if version == 2:
        # v2 limits swap alone; v1 and the engines' own settings limit memory and swap together.
        swap = limit + swap if limit is not None and swap is not None else None
        quota, period = get("quota") or (None, None)
    else:
        quota, period = get("quota"), get("period")
    return ResourceLimits(limit, swap, get("reservation"), quota, period, get("threads_limit"))


def _with_children(values: ParsedFiles, key: str) -> int | None:
    """Returns a count of the container's own cgroup and of all below it."""
    own, children = values.get(key), values.get("children", _NO_CHILDREN).get(key, 0)
    if own is None or children is None:
        return None
    total: int = own + children
    return total


def _blkio_with_children(values: ParsedFiles, key: str) -> dict[str, parsers.BlkioCounts]:
    """As `_with_children`, by device; empty while unknown."""
    own: dict[str, parsers.BlkioCounts] = values.get(key) or {}
    children = values.get("children", _NO_CHILDREN).get(key, _NO_CHILDREN)
    if children is None:
        return {}
    return parsers.merged_blkio(own, children, add) if children else own


def usage_v1(
    labels: tuple[str, ...],
    values: dict[str, Any],
    spec: ResourceLimits,
    device_name: DeviceName,
    same_start: bool,
) -> ContainerUsage:
    """Builds a row from the parsed files of cgroup v1."""
    get = values.get
    user, system = get("cpuacct_stat") or (None, None)
    stat = get("memory_stat") or _MISSING_STAT_V1
    cache, rss, mapped, dirty, writeback, swap, faults, major, inactive, active = stat
    memory = get("memory")
    (kills,) = get("oom_control") or (None,)
    return ContainerUsage(
        labels=labels,
        cpu_usage=get("cpuacct_usage"),
        cpu_user=user,
        cpu_system=system,
        cfs=get("cpu_stat") if spec.cpu_quota is not None else None,
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
        processes=_with_children(values, "processes"),
        threads=get("threads") if "threads" in values else _with_children(values, "tasks"),
        io=_device_io(values, device_name),
        interfaces=get("interfaces") or (),
        spec=spec,
        same_start=same_start,
    )


def usage_v2(
    labels: tuple[str, ...],
    values: dict[str, Any],
    spec: ResourceLimits,
    device_name: DeviceName,
    same_start: bool,
) -> ContainerUsage:
    """Builds a row from the parsed files of cgroup v2."""
    get = values.get
    (usage, user, system), cfs = get("cpu_stat") or ((None, None, None), None)
    stat = get("memory_stat") or _MISSING_STAT_V2
    rss, cache, mapped, dirty, writeback, inactive, active, faults, major = stat
    kills, hits, high = get("memory_events") or (None, None, None)
    memory = get("memory")
    return ContainerUsage(
        labels=labels,
        cpu_usage=usage,
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
        processes=_with_children(values, "processes"),
        threads=get("threads"),
        io=_device_io(values, device_name),
        interfaces=get("interfaces") or (),
        pressure=_pressure(values),
        spec=spec,
        same_start=same_start,
    )


def _device_io(values: dict[str, Any], device_name: DeviceName) -> tuple[DeviceIo, ...]:
    """Returns the block I/O by device name; rebuilt only if its files have changed.

    v1 has bytes (io_service_bytes) and operations (io_serviced) in two files, v2 in io.stat.
    """
    content = tuple(map(values.get, _IO_KEYS))
    cached: tuple[DeviceIo, ...] | None = _unchanged(values, "devices", content)
    if cached is not None:
        return cached
    if content[0] is not None:
        rows = tuple(replace(io, device=device_name(io.device)) for io in content[0])
    else:
        sizes = _blkio_with_children(values, "io_service_bytes")
        operations = _blkio_with_children(values, "io_serviced")
        rows = tuple(
            DeviceIo(
                device_name(device),
                reads_bytes=sizes[device].read if device in sizes else None,
                writes_bytes=sizes[device].write if device in sizes else None,
                reads=operations[device].read if device in operations else None,
                writes=operations[device].write if device in operations else None,
            )
            for device in tuple({**sizes, **operations})[: parsers.MAX_DEVICES]
        )
    values["devices"] = (content, rows)
    return rows


def _pressure(values: dict[str, Any]) -> tuple[ContainerPressure, ...]:
    """Returns the PSI totals; rebuilt only if their files have changed."""
    content = tuple([values.get(key) for _, key in _PRESSURE_FILES])
    cached: tuple[ContainerPressure, ...] | None = _unchanged(values, "pressure", content)
    if cached is not None:
        return cached
    rows = tuple(
        ContainerPressure(resource, some_seconds=totals[0], full_seconds=totals[1])
        for (resource, _), totals in zip(_PRESSURE_FILES, content, strict=True)
        if totals is not None
    )
    values["pressure"] = (content, rows)
    return rows


def _unchanged(values: ParsedFiles, key: str, content: tuple[Any, ...]) -> Any:
    """Returns the rows under a key that were built from the same content; None if there are none.

    While files do not change, neither do the objects that they were parsed to, and so the rows.
    """
    cached = values.get(key)
    return cached[1] if cached is not None and all(map(is_, cached[0], content)) else None


USAGE_BUILDERS: dict[CgroupVersion, Callable[..., ContainerUsage]] = {1: usage_v1, 2: usage_v2}
