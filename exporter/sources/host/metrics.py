"""The metrics of the host source."""

from __future__ import annotations

from typing import Any

from exporter.model import Metric, counter, counters, gauge
from exporter.sources.host.reading import (
    Boot,
    Descriptors,
    Disk,
    Filesystem,
    HostCpu,
    HostMemory,
    Load,
    NetworkDevice,
    Pressure,
)

METRICS: tuple[Metric[Any], ...] = (
    counters(
        "host_cpu_seconds_total",
        "Seconds all CPUs spent in each mode since boot (first line of /proc/stat; "
        "user and nice include the time spent running guests).",
        HostCpu,
        ("mode",),
        lambda row: (((mode,), seconds) for mode, seconds in row.seconds),
    ),
    gauge(
        "host_cpus",
        "CPUs online (lines cpuN of /proc/stat).",
        HostCpu,
        lambda row: row.count,
    ),
    gauge(
        "host_memory_total_bytes",
        "Memory usable by the kernel (MemTotal of /proc/meminfo).",
        HostMemory,
        lambda row: row.total,
    ),
    gauge(
        "host_memory_available_bytes",
        "Memory available to new work without swapping (MemAvailable of /proc/meminfo).",
        HostMemory,
        lambda row: row.available,
    ),
    gauge(
        "host_memory_free_bytes",
        "Unused memory (MemFree of /proc/meminfo).",
        HostMemory,
        lambda row: row.free,
    ),
    gauge(
        "host_memory_buffers_bytes",
        "Memory used as buffers of raw disk blocks (Buffers of /proc/meminfo).",
        HostMemory,
        lambda row: row.buffers,
    ),
    gauge(
        "host_memory_cached_bytes",
        "Memory used as page cache, shared memory included (Cached of /proc/meminfo).",
        HostMemory,
        lambda row: row.cached,
    ),
    gauge(
        "host_memory_anonymous_bytes",
        "Anonymous memory mapped by processes (AnonPages of /proc/meminfo).",
        HostMemory,
        lambda row: row.anonymous,
    ),
    gauge(
        "host_memory_active_file_bytes",
        "Page cache used recently (Active(file) of /proc/meminfo).",
        HostMemory,
        lambda row: row.active_file,
    ),
    gauge(
        "host_memory_inactive_file_bytes",
        "Page cache that is reclaimed first (Inactive(file) of /proc/meminfo).",
        HostMemory,
        lambda row: row.inactive_file,
    ),
    gauge(
        "host_memory_mapped_bytes",
        "Files mapped by processes (Mapped of /proc/meminfo).",
        HostMemory,
        lambda row: row.mapped,
    ),
    gauge(
        "host_swap_total_bytes",
        "Size of the swap space (SwapTotal of /proc/meminfo).",
        HostMemory,
        lambda row: row.swap_total,
    ),
    gauge(
        "host_swap_used_bytes",
        "Swap space in use (SwapTotal less SwapFree of /proc/meminfo).",
        HostMemory,
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
        lambda row: row.receive.bytes,
    ),
    counter(
        "host_network_receive_packets_total",
        "Packets the network device received (receive packets of /proc/1/net/dev).",
        NetworkDevice,
        lambda row: row.receive.packets,
    ),
    counter(
        "host_network_receive_errors_total",
        "Receive errors of the network device (receive errs of /proc/1/net/dev).",
        NetworkDevice,
        lambda row: row.receive.errors,
    ),
    counter(
        "host_network_receive_packets_dropped_total",
        "Received packets that the network device dropped (receive drop of /proc/1/net/dev).",
        NetworkDevice,
        lambda row: row.receive.packets_dropped,
    ),
    counter(
        "host_network_transmit_bytes_total",
        "Bytes the network device transmitted (transmit bytes of /proc/1/net/dev).",
        NetworkDevice,
        lambda row: row.transmit.bytes,
    ),
    counter(
        "host_network_transmit_packets_total",
        "Packets the network device transmitted (transmit packets of /proc/1/net/dev).",
        NetworkDevice,
        lambda row: row.transmit.packets,
    ),
    counter(
        "host_network_transmit_errors_total",
        "Transmit errors of the network device (transmit errs of /proc/1/net/dev).",
        NetworkDevice,
        lambda row: row.transmit.errors,
    ),
    counter(
        "host_network_transmit_packets_dropped_total",
        "Packets to send that the network device dropped (transmit drop of /proc/1/net/dev).",
        NetworkDevice,
        lambda row: row.transmit.packets_dropped,
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
    counter(
        "host_disk_reads_total",
        "Completed reads of the whole disk (reads completed of /proc/diskstats).",
        Disk,
        lambda row: row.reads,
    ),
    counter(
        "host_disk_writes_total",
        "Completed writes to the whole disk (writes completed of /proc/diskstats).",
        Disk,
        lambda row: row.writes,
    ),
    counter(
        "host_disk_read_time_seconds_total",
        "Seconds spent reading, summed over all reads (milliseconds reading of /proc/diskstats).",
        Disk,
        lambda row: row.read_seconds,
    ),
    counter(
        "host_disk_write_time_seconds_total",
        "Seconds spent writing, summed over all writes (milliseconds writing of /proc/diskstats).",
        Disk,
        lambda row: row.write_seconds,
    ),
    counter(
        "host_disk_busy_seconds_total",
        "Seconds in which I/O was in progress (milliseconds doing I/Os of /proc/diskstats).",
        Disk,
        lambda row: row.busy,
    ),
    counter(
        "host_pressure_waiting_seconds_total",
        "Seconds in which some task waited for the resource (/proc/pressure, total of some).",
        Pressure,
        lambda row: row.some_seconds,
    ),
    counter(
        "host_pressure_stalled_seconds_total",
        "Seconds in which all non-idle tasks waited for the resource (/proc/pressure, total of"
        " full).",
        Pressure,
        lambda row: row.full_seconds,
    ),
    gauge(
        "host_filesystem_size_bytes",
        "Size of the file system (statvfs f_blocks).",
        Filesystem,
        lambda row: row.size,
    ),
    gauge(
        "host_filesystem_free_bytes",
        "Free space of the file system, root's reserve included (statvfs f_bfree).",
        Filesystem,
        lambda row: row.free,
    ),
    gauge(
        "host_filesystem_available_bytes",
        "Free space of the file system without root's reserve (statvfs f_bavail).",
        Filesystem,
        lambda row: row.available,
    ),
    gauge(
        "host_filesystem_inodes",
        "Inodes of the file system; absent if it has no fixed number (statvfs f_files).",
        Filesystem,
        lambda row: row.inodes,
    ),
    gauge(
        "host_filesystem_inodes_free",
        "Free inodes of the file system; absent if it has no fixed number (statvfs f_ffree).",
        Filesystem,
        lambda row: row.inodes_free,
    ),
    gauge(
        "host_filesystem_read_only",
        "Whether the file system is mounted read-only (option ro in /proc/1/mountinfo).",
        Filesystem,
        lambda row: int(row.read_only),
    ),
    gauge(
        "host_filesystem_error",
        "Whether statvfs of the file system fails or hangs.",
        Filesystem,
        lambda row: int(row.error),
    ),
    gauge(
        "host_file_descriptors",
        "File descriptors in use on the whole host (allocated of /proc/sys/fs/file-nr).",
        Descriptors,
        lambda row: row.allocated,
    ),
    gauge(
        "host_file_descriptors_max",
        "Maximum number of file descriptors of the host (maximum of /proc/sys/fs/file-nr).",
        Descriptors,
        lambda row: row.max,
    ),
    gauge(
        "host_boot_time_seconds",
        "Boot time of the host as a Unix timestamp (btime of /proc/stat).",
        Boot,
        lambda row: row.time,
    ),
)
