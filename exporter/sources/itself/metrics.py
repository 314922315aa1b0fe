"""The exporter's own metrics.

A source can have several targets (GPUs, servers). It is up while any of them answers, its last
success is the latest of any of them, its duration that of the slowest, its series and failures
are sums. Which of them fails is told by the `..._up` metric of the source itself.
"""

from __future__ import annotations

from typing import Any

from exporter.model import Metric, counter, counters, gauge, info
from exporter.sources.itself.reading import Build, ExporterProcess, SourceRow

METRICS: tuple[Metric[Any], ...] = (
    info(
        "inference_exporter_build_info",
        "Version of the exporter (exporter.__version__) and of the Python that runs it.",
        Build,
        ("version", "python"),
        lambda row: (row.version, row.python),
    ),
    counter(
        "inference_exporter_scrapes_total",
        "Metrics pages handed out since the start (own count, as of the last poll).",
        Build,
        lambda row: row.scrapes,
    ),
    gauge(
        "inference_exporter_series",
        "Series of all sources that are shown now (own record, as of the last poll).",
        Build,
        lambda row: row.series,
    ),
    gauge(
        "inference_exporter_source_up",
        "Whether any target of the wanted source answered its last poll (own record); "
        "absent where the source was never found and is not asked for.",
        SourceRow,
        lambda row: None if row.up is None else int(row.up),
    ),
    gauge(
        "inference_exporter_source_last_success_timestamp_seconds",
        "When a target of the source was last read, as a Unix time stamp (own record); "
        "of a source without targets, when they were last looked for without an error.",
        SourceRow,
        lambda row: row.last_success,
    ),
    gauge(
        "inference_exporter_source_duration_seconds",
        "Seconds the last poll of the source's slowest target took (own record); "
        "of a source without targets, the seconds it took to look for them.",
        SourceRow,
        lambda row: row.duration,
    ),
    gauge(
        "inference_exporter_source_series",
        "Series of the source that are shown now (own record).",
        SourceRow,
        lambda row: row.series,
    ),
    gauge(
        "inference_exporter_source_series_limit",
        "Most series that the source may have (the setting max_series).",
        SourceRow,
        lambda row: row.max_series,
    ),
    gauge(
        "inference_exporter_source_shed_series",
        "Series of the source that are left out now because they would go over its ceiling or "
        "that of all (own record).",
        SourceRow,
        lambda row: row.shed,
    ),
    counters(
        "inference_exporter_source_failures_total",
        "Failed polls of the source's targets, failed searches for them, and parts of readings "
        "that could not be read, by kind (own record).",
        SourceRow,
        ("kind",),
        lambda row: (((kind,), count) for kind, count in row.failures),
    ),
    counter(
        "process_cpu_seconds_total",
        "User and system CPU time of the exporter in seconds (utime and stime of /proc/self/stat).",
        ExporterProcess,
        lambda row: row.cpu_seconds,
    ),
    gauge(
        "process_resident_memory_bytes",
        "Resident memory of the exporter in bytes (rss of /proc/self/stat).",
        ExporterProcess,
        lambda row: row.resident_memory,
    ),
    gauge(
        "process_virtual_memory_bytes",
        "Virtual memory of the exporter in bytes (vsize of /proc/self/stat).",
        ExporterProcess,
        lambda row: row.virtual_memory,
    ),
    gauge(
        "process_start_time_seconds",
        "When the exporter started, as a Unix time stamp (starttime of /proc/self/stat).",
        ExporterProcess,
        lambda row: row.start_time,
    ),
    gauge(
        "process_open_fds",
        "Open file descriptors of the exporter (entries of /proc/self/fd).",
        ExporterProcess,
        lambda row: row.open_fds,
    ),
    gauge(
        "process_max_fds",
        "Most file descriptors the exporter may open (soft limit, Max open files of "
        "/proc/self/limits).",
        ExporterProcess,
        lambda row: row.max_fds,
    ),
)
