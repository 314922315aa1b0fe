"""Metric declarations of resource usage; part of METRICS in `metrics.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from exporter.model import ByField, Metric, counter, counters, gauge
from exporter.sources.containers.reading import (
    CfsBandwidth,
    ContainerPressure,
    ContainerUsage,
    DeviceIo,
    Interface,
    ResourceLimits,
)


def _by_device(get: Callable[[DeviceIo], int | None]) -> ByField[ContainerUsage]:
    """Returns a getter of one value per block device; devices without it are omitted."""

    def pairs(devices: Iterable[DeviceIo]) -> Iterator[tuple[tuple[str, ...], int]]:
        for device in devices:
            if (value := get(device)) is not None:
                yield (device.device,), value

    return ByField("io", pairs)


def _by_interface(get: Callable[[Interface], int | None]) -> ByField[ContainerUsage]:
    """Returns a getter of one value per network interface; those without it are omitted."""
    return ByField(
        "interfaces",
        lambda interfaces: [
            ((interface.name,), value)
            for interface in interfaces
            if (value := get(interface)) is not None
        ],
    )


def _cfs(get: Callable[[CfsBandwidth], float | None]) -> ByField[ContainerUsage]:
    """Returns a getter of a value of CFS bandwidth control, if a CPU quota is set."""
    return ByField("cfs", lambda cfs: get(cfs) if cfs is not None else None)


def _spec(get: Callable[[ResourceLimits], float | None]) -> ByField[ContainerUsage]:
    """Returns a getter of a limit."""
    return ByField("spec", lambda spec: get(spec) if spec is not None else None)


def _failures(row: ContainerUsage) -> Iterator[tuple[tuple[str, ...], int]]:
    for kind, count in (("pgfault", row.page_faults), ("pgmajfault", row.major_page_faults)):
        if count is not None:
            yield (kind, "hierarchy"), count


def _pressure(
    resource: str, get: Callable[[ContainerPressure], float | None]
) -> ByField[ContainerUsage]:
    """Returns a getter of a value of the resource's pressure (cpu, memory or io)."""

    def take(pressures: Iterable[ContainerPressure]) -> float | None:
        return next((get(each) for each in pressures if each.resource == resource), None)

    return ByField("pressure", take)


RESOURCES: tuple[Metric[Any], ...] = (
    counter(
        "container_cpu_usage_seconds_total",
        "CPU time used since the container started (cgroup v1 cpuacct.usage, v2 cpu.stat"
        " usage_usec).",
        ContainerUsage,
        ByField("cpu_usage"),
    ),
    counter(
        "container_cpu_user_seconds_total",
        "CPU time used in user mode (cgroup v1 cpuacct.stat user, v2 cpu.stat user_usec).",
        ContainerUsage,
        ByField("cpu_user"),
    ),
    counter(
        "container_cpu_system_seconds_total",
        "CPU time used in the kernel (cgroup v1 cpuacct.stat system, v2 cpu.stat system_usec).",
        ContainerUsage,
        ByField("cpu_system"),
    ),
    counter(
        "container_cpu_cfs_periods_total",
        "Periods in which the CPU quota was enforced, if one is set (cpu.stat nr_periods).",
        ContainerUsage,
        _cfs(lambda cfs: cfs.periods),
    ),
    counter(
        "container_cpu_cfs_throttled_periods_total",
        "Periods in which the container was throttled, if a CPU quota is set (cpu.stat"
        " nr_throttled).",
        ContainerUsage,
        _cfs(lambda cfs: cfs.throttled_periods),
    ),
    counter(
        "container_cpu_cfs_throttled_seconds_total",
        "Time the container was throttled, if a CPU quota is set (cpu.stat: v1"
        " throttled_time, v2 throttled_usec).",
        ContainerUsage,
        _cfs(lambda cfs: cfs.throttled_seconds),
    ),
    counter(
        "container_cpu_cfs_burst_periods_total",
        "Periods in which a burst over the CPU quota was used, if one is set (cpu.stat nr_bursts).",
        ContainerUsage,
        _cfs(lambda cfs: cfs.burst_periods),
    ),
    counter(
        "container_cpu_cfs_burst_seconds_total",
        "CPU time used in bursts over the quota, if one is set (cpu.stat: v1 burst_time,"
        " v2 burst_usec).",
        ContainerUsage,
        _cfs(lambda cfs: cfs.burst_seconds),
    ),
    gauge(
        "container_memory_usage_bytes",
        "Memory in use, page cache included (cgroup v1 memory.usage_in_bytes, v2 memory.current).",
        ContainerUsage,
        ByField("memory"),
    ),
    gauge(
        "container_memory_working_set_bytes",
        "Memory in use less inactive page cache (memory.stat total_inactive_file on cgroup"
        " v1, inactive_file on v2).",
        ContainerUsage,
        ByField("working_set"),
    ),
    gauge(
        "container_memory_rss",
        "Anonymous memory in bytes (memory.stat: v1 total_rss, v2 anon).",
        ContainerUsage,
        ByField("rss"),
    ),
    gauge(
        "container_memory_cache",
        "Page cache in bytes (memory.stat: v1 total_cache, v2 file).",
        ContainerUsage,
        ByField("cache"),
    ),
    gauge(
        "container_memory_mapped_file",
        "Memory-mapped files in bytes (memory.stat: v1 total_mapped_file, v2 file_mapped).",
        ContainerUsage,
        ByField("mapped_file"),
    ),
    gauge(
        "container_memory_total_inactive_file_bytes",
        "Inactive page cache in bytes, which is reclaimed first (memory.stat: v1"
        " total_inactive_file, v2 inactive_file).",
        ContainerUsage,
        ByField("inactive_file"),
    ),
    gauge(
        "container_memory_total_active_file_bytes",
        "Active page cache in bytes, which is reclaimed last (memory.stat: v1 total_active_file,"
        " v2 active_file).",
        ContainerUsage,
        ByField("active_file"),
    ),
    gauge(
        "container_memory_file_dirty_bytes",
        "Dirty page cache in bytes, not yet written to disk (memory.stat: v1 total_dirty,"
        " v2 file_dirty).",
        ContainerUsage,
        ByField("dirty_file"),
    ),
    gauge(
        "container_memory_file_writeback_bytes",
        "Page cache in bytes that is being written to disk (memory.stat: v1 total_writeback,"
        " v2 file_writeback).",
        ContainerUsage,
        ByField("writeback_file"),
    ),
    gauge(
        "container_memory_swap",
        "Swap in use in bytes (v1 memory.stat total_swap, v2 memory.swap.current).",
        ContainerUsage,
        ByField("swap"),
    ),
    gauge(
        "container_memory_max_usage_bytes",
        "Peak memory usage since the start (v1 memory.max_usage_in_bytes, v2 memory.peak).",
        ContainerUsage,
        ByField("peak"),
    ),
    counter(
        "container_memory_limit_hits_total",
        "Times the memory limit was hit (v1 memory.failcnt, v2 memory.events max).",
        ContainerUsage,
        ByField("limit_hits"),
    ),
    counter(
        "container_memory_events_high_total",
        "Times memory.high was exceeded and the container was throttled (v2 memory.events high).",
        ContainerUsage,
        ByField("high_events"),
    ),
    counters(
        "container_memory_failures_total",
        "Page faults (memory.stat: v1 total_pgfault and total_pgmajfault, v2 pgfault and"
        " pgmajfault), of the container's cgroup and all its descendants.",
        ContainerUsage,
        ("failure_type", "scope"),
        _failures,
    ),
    counters(
        "container_fs_reads_bytes_total",
        "Bytes read from the block device (v1 blkio.throttle.io_service_bytes Read, v2"
        " io.stat rbytes).",
        ContainerUsage,
        ("device",),
        _by_device(lambda device: device.reads_bytes),
    ),
    counters(
        "container_fs_writes_bytes_total",
        "Bytes written to the block device (v1 blkio.throttle.io_service_bytes Write, v2"
        " io.stat wbytes).",
        ContainerUsage,
        ("device",),
        _by_device(lambda device: device.writes_bytes),
    ),
    counters(
        "container_fs_reads_total",
        "Reads from the block device (v1 blkio.throttle.io_serviced Read, v2 io.stat rios).",
        ContainerUsage,
        ("device",),
        _by_device(lambda device: device.reads),
    ),
    counters(
        "container_fs_writes_total",
        "Writes to the block device (v1 blkio.throttle.io_serviced Write, v2 io.stat wios).",
        ContainerUsage,
        ("device",),
        _by_device(lambda device: device.writes),
    ),
    counters(
        "container_network_receive_bytes_total",
        "Bytes received in the container's own network namespace (/proc/PID/net/dev); a"
        " namespace that several containers share counts once, the host's not at all.",
        ContainerUsage,
        ("interface",),
        _by_interface(lambda interface: interface.receive_bytes),
    ),
    counters(
        "container_network_receive_packets_total",
        "Packets received in the container's own network namespace (/proc/PID/net/dev); a"
        " namespace that several containers share counts once, the host's not at all.",
        ContainerUsage,
        ("interface",),
        _by_interface(lambda interface: interface.receive_packets),
    ),
    counters(
        "container_network_receive_errors_total",
        "Receive errors in the container's own network namespace (/proc/PID/net/dev); a"
        " namespace that several containers share counts once, the host's not at all.",
        ContainerUsage,
        ("interface",),
        _by_interface(lambda interface: interface.receive_errors),
    ),
    counters(
        "container_network_receive_packets_dropped_total",
        "Received packets dropped in the container's own network namespace (/proc/PID/net/dev); a"
        " namespace that several containers share counts once, the host's not at all.",
        ContainerUsage,
        ("interface",),
        _by_interface(lambda interface: interface.receive_packets_dropped),
    ),
    counters(
        "container_network_transmit_bytes_total",
        "Bytes sent in the container's own network namespace (/proc/PID/net/dev); a namespace"
        " that several containers share counts once, the host's not at all.",
        ContainerUsage,
        ("interface",),
        _by_interface(lambda interface: interface.transmit_bytes),
    ),
    counters(
        "container_network_transmit_packets_total",
        "Packets sent in the container's own network namespace (/proc/PID/net/dev); a"
        " namespace that several containers share counts once, the host's not at all.",
        ContainerUsage,
        ("interface",),
        _by_interface(lambda interface: interface.transmit_packets),
    ),
    counters(
        "container_network_transmit_errors_total",
        "Transmit errors in the container's own network namespace (/proc/PID/net/dev); a"
        " namespace that several containers share counts once, the host's not at all.",
        ContainerUsage,
        ("interface",),
        _by_interface(lambda interface: interface.transmit_errors),
    ),
    counters(
        "container_network_transmit_packets_dropped_total",
        "Transmit packets dropped in the container's own network namespace (/proc/PID/net/dev); a"
        " namespace that several containers share counts once, the host's not at all.",
        ContainerUsage,
        ("interface",),
        _by_interface(lambda interface: interface.transmit_packets_dropped),
    ),
    gauge(
        "container_processes",
        "Processes in the container (lines of cgroup.procs, of its cgroup and all below it).",
        ContainerUsage,
        ByField("processes"),
    ),
    gauge(
        "container_threads",
        "Threads in the container (pids.current; v1 without the pids controller: lines of tasks).",
        ContainerUsage,
        ByField("threads"),
    ),
    gauge(
        "container_threads_max",
        "Limit of the container's threads, if one is set (pids.max).",
        ContainerUsage,
        _spec(lambda spec: spec.threads),
    ),
    counter(
        "container_pressure_cpu_waiting_seconds_total",
        "Time in which some task waited for CPU time (v2 cpu.pressure, total of some).",
        ContainerUsage,
        _pressure("cpu", lambda pressure: pressure.some_seconds),
    ),
    counter(
        "container_pressure_cpu_stalled_seconds_total",
        "Time in which all tasks waited for CPU time (v2 cpu.pressure, total of full).",
        ContainerUsage,
        _pressure("cpu", lambda pressure: pressure.full_seconds),
    ),
    counter(
        "container_pressure_memory_waiting_seconds_total",
        "Time in which some task waited for memory (v2 memory.pressure, total of some).",
        ContainerUsage,
        _pressure("memory", lambda pressure: pressure.some_seconds),
    ),
    counter(
        "container_pressure_memory_stalled_seconds_total",
        "Time in which all tasks waited for memory (v2 memory.pressure, total of full).",
        ContainerUsage,
        _pressure("memory", lambda pressure: pressure.full_seconds),
    ),
    counter(
        "container_pressure_io_waiting_seconds_total",
        "Time in which some task waited for block I/O (v2 io.pressure, total of some).",
        ContainerUsage,
        _pressure("io", lambda pressure: pressure.some_seconds),
    ),
    counter(
        "container_pressure_io_stalled_seconds_total",
        "Time in which all tasks waited for block I/O (v2 io.pressure, total of full).",
        ContainerUsage,
        _pressure("io", lambda pressure: pressure.full_seconds),
    ),
    gauge(
        "container_spec_memory_limit_bytes",
        "Memory limit, if one is set (cgroup v1 memory.limit_in_bytes, v2 memory.max).",
        ContainerUsage,
        _spec(lambda spec: spec.memory),
    ),
    gauge(
        "container_spec_memory_swap_limit_bytes",
        "Limit of memory and swap together, if one is set (v1 memory.memsw.limit_in_bytes,"
        " the sum of v2 memory.max and memory.swap.max).",
        ContainerUsage,
        _spec(lambda spec: spec.memory_and_swap),
    ),
    gauge(
        "container_spec_memory_reservation_limit_bytes",
        "Memory protected from reclaim while memory is short, if set (v1"
        " memory.soft_limit_in_bytes, v2 memory.low).",
        ContainerUsage,
        _spec(lambda spec: spec.memory_reservation),
    ),
    gauge(
        "container_spec_cpu_quota",
        "CPU time the container may use in each period, in microseconds, if it is limited"
        " (v1 cpu.cfs_quota_us, v2 cpu.max).",
        ContainerUsage,
        _spec(lambda spec: spec.cpu_quota),
    ),
    gauge(
        "container_spec_cpu_period",
        "Length of the period of the CPU quota in microseconds (v1 cpu.cfs_period_us, v2 cpu.max).",
        ContainerUsage,
        _spec(lambda spec: spec.cpu_period),
    ),
)
