"""The exporter's own metrics.

A source can have several targets (GPUs, servers). It is up while any of them is, its last success
is the latest of any of them, its duration that of the slowest, its series and failures are sums.
The `..._up` metric of the source itself has a series for each target.
"""

from __future__ import annotations

from typing import Any

from exporter.model import Metric, counter, counters, gauge, info
from exporter.sources.itself.reading import Build, ExporterPod, ExporterProcess, SourceRow

METRICS: tuple[Metric[Any], ...] = (
    info(
        "inference_exporter_build_info",
        "Version of the exporter (exporter.__version__) and of Python.",
        Build,
        ("version", "python"),
        lambda row: (row.version, row.python),
    ),
    info(
        "inference_exporter_pod_info",
        "Pod and node that the exporter runs in, from POD_NAME, POD_NAMESPACE and NODE_NAME of its"
        " environment (the downward API): of a sidecar, the pod whose servers it reads.",
        ExporterPod,
        (),
        lambda _: (),
    ),
    counter(
        "inference_exporter_scrapes_total",
        "Scrapes answered since the start (own count, as of the last poll).",
        Build,
        lambda row: row.scrapes,
    ),
    counters(
        "inference_exporter_web_refusals_total",
        "Requests and connections that the web server refused since the start, by reason, such as "
        "credentials and guesses (own count, as of the last poll).",
        Build,
        ("reason",),
        lambda row: (((reason,), count) for reason, count in row.refusals),
    ),
    gauge(
        "inference_exporter_series",
        "Series of all sources on the page (own record, as of the last poll).",
        Build,
        lambda row: row.series,
    ),
    gauge(
        "inference_exporter_source_up",
        "Whether the last poll of any target of the source succeeded (own record); "
        "absent if the source was never found and its setting is auto.",
        SourceRow,
        lambda row: None if row.up is None else int(row.up),
    ),
    gauge(
        "inference_exporter_source_last_success_timestamp_seconds",
        "Last successful poll of any target of the source, as a Unix timestamp (own record); "
        "without targets, the last successful discovery.",
        SourceRow,
        lambda row: row.last_success,
    ),
    gauge(
        "inference_exporter_source_duration_seconds",
        "Duration of the last poll of the source's slowest target (own record); "
        "without targets, of the last discovery.",
        SourceRow,
        lambda row: row.duration,
    ),
    gauge(
        "inference_exporter_source_series",
        "Series of the source on the page (own record).",
        SourceRow,
        lambda row: row.series,
    ),
    gauge(
        "inference_exporter_source_series_limit",
        "Limit of the source's series (the setting max_series).",
        SourceRow,
        lambda row: row.max_series,
    ),
    gauge(
        "inference_exporter_source_shed_series",
        "Series of the source left out because of its limit, or the limit of all sources "
        "(own record).",
        SourceRow,
        lambda row: row.dropped_series,
    ),
    counters(
        "inference_exporter_source_failures_total",
        "Failed polls of the source's targets, failed discoveries, and failed parts of readings, "
        "by kind (own record).",
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
        "Start time of the exporter as a Unix timestamp (starttime of /proc/self/stat).",
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
        "Maximum number of open file descriptors of the exporter (soft limit, Max open files of "
        "/proc/self/limits).",
        ExporterProcess,
        lambda row: row.max_fds,
    ),
)
