"""The metrics of the host source."""

from __future__ import annotations

from typing import Any

from exporter.model import Metric, counter, counters, gauge
from exporter.sources.host.reading import Boot, Cpu, Disk, Load, Memory, NetworkDevice

METRICS: tuple[Metric[Any], ...] = (
    counters(
        "host_cpu_seconds_total",
        "Seconds all CPUs spent in each mode since boot (first line of /proc/stat; "
        "user and nice include the time spent running guests).",
        Cpu,
        ("mode",),
        lambda row: (((mode,), seconds) for mode, seconds in row.seconds),
    ),
    gauge(
        "host_cpus", "CPUs that are online (lines cpuN of /proc/stat).", Cpu, lambda row: row.count
    ),
    gauge(
        "host_memory_total_bytes",
        "Memory the kernel can use (MemTotal of /proc/meminfo).",
        Memory,
        lambda row: row.total,
    ),
    gauge(
        "host_memory_available_bytes",
        "Memory available to new work without swapping (MemAvailable of /proc/meminfo).",
        Memory,
        lambda row: row.available,
    ),
    gauge(
        "host_swap_total_bytes",
        "Size of the swap space (SwapTotal of /proc/meminfo).",
        Memory,
        lambda row: row.swap_total,
    ),
    gauge(
        "host_swap_used_bytes",
        "Swap space in use (SwapTotal less SwapFree of /proc/meminfo).",
        Memory,
        lambda row: row.swap_used,
    ),
    gauge("host_load1", "Load average over 1 minute (/proc/loadavg).", Load, lambda row: row.load1),
    gauge(
        "host_load5", "Load average over 5 minutes (/proc/loadavg).", Load, lambda row: row.load5
    ),
    gauge(
        "host_load15", "Load average over 15 minutes (/proc/loadavg).", Load, lambda row: row.load15
    ),
    counter(
        "host_network_receive_bytes_total",
        "Bytes the network device received (receive bytes of /proc/1/net/dev).",
        NetworkDevice,
        lambda row: row.received,
    ),
    counter(
        "host_network_transmit_bytes_total",
        "Bytes the network device sent (transmit bytes of /proc/1/net/dev).",
        NetworkDevice,
        lambda row: row.transmitted,
    ),
    counter(
        "host_disk_read_bytes_total",
        "Bytes read from the whole disk (sectors read of /proc/diskstats, of 512 bytes).",
        Disk,
        lambda row: row.read,
    ),
    counter(
        "host_disk_written_bytes_total",
        "Bytes written to the whole disk (sectors written of /proc/diskstats, of 512 bytes).",
        Disk,
        lambda row: row.written,
    ),
    gauge(
        "host_boot_time_seconds",
        "When the machine booted, as a Unix time stamp (btime of /proc/stat).",
        Boot,
        lambda row: row.time,
    ),
)
