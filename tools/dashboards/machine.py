"""The rows Host and Exporter of the host dashboard."""

from __future__ import annotations

from tools.dashboards.common import BY_HOST, HOST, UP_MAPPING, rate, sum_rate, time_ratio
from tools.dashboards.panels import (
    Column,
    Panel,
    PanelRow,
    Query,
    rising,
    state_timeline,
    table,
    time_series,
)

_NO_HOST_METRICS = "No host metrics"
_LINKS = HOST + ',device!~"lo|ifb.*|veth.*"'


def host_row() -> PanelRow:
    """Returns the row of the host's resources."""
    return PanelRow(
        "Is the host short of CPU, memory, disk or network?",
        (
            time_series(
                "CPU",
                Query(
                    f'sum by ({BY_HOST}, mode) (rate(host_cpu_seconds_total{{{HOST},mode!="idle"}}'
                    "[$__rate_interval]))"
                    f" / on ({BY_HOST}) group_left ()"
                    f" ({sum_rate(BY_HOST, 'host_cpu_seconds_total', HOST)} > 0)",
                    "{{mode}}",
                ),
                "CPU time by mode as a ratio of all CPUs; idle is left out.",
                "iowait: slow disks. steal: the hypervisor gives CPU time to other VMs.",
                unit="percentunit",
                stack=True,
                no_value=_NO_HOST_METRICS,
            ),
            time_series(
                "Memory",
                (
                    Query(
                        f"host_memory_total_bytes{{{HOST}}}"
                        f" - host_memory_available_bytes{{{HOST}}}",
                        "used",
                    ),
                    Query(f"host_swap_used_bytes{{{HOST}}}", "swap"),
                    Query(f"host_memory_total_bytes{{{HOST}}}", "limit"),
                ),
                "Memory in use (total minus available), swap in use, and total memory.",
                "Close to the limit the kernel OOM-kills processes: move a container to another"
                " host.",
                unit="bytes",
                limit_pattern="limit.*",
                no_value=_NO_HOST_METRICS,
            ),
            time_series(
                "Load",
                (
                    Query(f"host_load1{{{HOST}}}", "1 min"),
                    Query(f"host_load15{{{HOST}}}", "15 min"),
                    Query(f"host_cpus{{{HOST}}}", "limit: CPUs"),
                ),
                "Load average: running and waiting tasks, and the number of CPUs.",
                "Load well above the CPUs: requests wait for a CPU before they reach the GPU.",
                unit="none",
                limit_pattern="limit.*",
                no_value=_NO_HOST_METRICS,
            ),
            time_series(
                "Pressure",
                Query(
                    time_ratio("host_pressure_waiting_seconds_total", HOST),
                    "{{resource}}",
                ),
                "Ratio of time in which at least one task waited for CPU, memory or I/O (PSI"
                ' "some").',
                "Act on memory pressure at once: an OOM kill is close.",
                unit="percentunit",
                no_value="Not reported by the kernel",
            ),
            time_series(
                "Network traffic",
                (
                    Query(
                        rate("host_network_receive_bytes_total", _LINKS),
                        "received {{device}}",
                    ),
                    Query(
                        rate("host_network_transmit_bytes_total", _LINKS),
                        "sent {{device}}",
                    ),
                ),
                "Bytes received (above zero) and sent (below) by each network device; without"
                " loopback and the virtual devices of containers.",
                "Compare with the speed of the link.",
                unit="Bps",
                mirror_pattern="sent.*",
                no_value=_NO_HOST_METRICS,
            ),
            time_series(
                "Disk I/O",
                (
                    Query(
                        rate("host_disk_read_bytes_total", HOST),
                        "read {{device}}",
                    ),
                    Query(
                        rate("host_disk_written_bytes_total", HOST),
                        "written {{device}}",
                    ),
                ),
                "Bytes read from (above zero) and written to (below) each disk; partitions are not"
                " counted separately.",
                "Reads while models load are normal; steady reads at other times mean that"
                " memory is short.",
                unit="Bps",
                mirror_pattern="written.*",
                no_value="No disks",
            ),
            time_series(
                "Disk busy time",
                Query(
                    time_ratio("host_disk_busy_seconds_total", HOST),
                    "{{device}}",
                ),
                "Ratio of time in which each disk had I/O in progress.",
                "At 100 % for a long time, model loads wait for the disk.",
                unit="percentunit",
                no_value="No disks",
            ),
            time_series(
                "Network errors and drops",
                tuple(
                    Query(
                        rate(f"host_network_{direction}_{metric}_total", _LINKS),
                        f"{direction} {name} {{{{device}}}}",
                    )
                    for direction in ("receive", "transmit")
                    for metric, name in (("errors", "errors"), ("packets_dropped", "drops"))
                ),
                "Packets with errors and dropped packets, by network device.",
                "Errors: cable or port. Drops: the host does not process packets fast enough.",
                unit="pps",
                no_value=_NO_HOST_METRICS,
            ),
            _file_systems(),
        ),
    )


def exporter_row() -> PanelRow:
    """Returns the row Exporter: whether the other rows can be trusted."""
    return PanelRow(
        "Can these values be trusted?",
        (
            state_timeline(
                "Sources",
                Query(f"inference_exporter_source_up{{{HOST}}}", "{{source}}"),
                "Whether each wanted source is up. A source that was never found has no line.",
                "The exporter's landing page and `inference-exporter check` report the cause and"
                " the remedy. Runbook: ExporterSourceFailing.",
                mapping=UP_MAPPING,
                no_value="No exporter",
                width=6,
            ),
            time_series(
                "Age of readings",
                Query(
                    "clamp_min(time() -"
                    f" inference_exporter_source_last_success_timestamp_seconds{{{HOST}}}, 0)",
                    "{{source}}",
                ),
                "Seconds since the last successful poll of each source.",
                "Normal: up to the poll interval (5 s) plus the scrape interval. A rising line"
                " is a failing source.",
                unit="s",
                no_value="No exporter",
                width=6,
            ),
            time_series(
                "Poll duration",
                Query(
                    f"inference_exporter_source_duration_seconds{{{HOST}}}",
                    "{{source}}",
                ),
                "Duration of the last poll of each source, of its slowest target.",
                "A poll fails at its deadline. Runbook: ExporterSourceSlow.",
                unit="s",
                no_value="No exporter",
                width=6,
            ),
            time_series(
                "Series",
                (
                    Query(
                        f"inference_exporter_source_series{{{HOST}}}",
                        "{{source}}",
                    ),
                    Query(
                        f"inference_exporter_source_shed_series{{{HOST}}} > 0",
                        "left out: {{source}}",
                        empty_reason="no series is left out",
                    ),
                ),
                "Exported series by source, and series left out because they exceed a series"
                " limit.",
                "A jump: many new containers or models. Series left out: raise max_series of the"
                " source, or filter its containers or models. Runbook: ExporterSeriesShed.",
                unit="none",
                no_value="No exporter",
                width=6,
            ),
            time_series(
                "Failures",
                Query(
                    rate("inference_exporter_source_failures_total", HOST),
                    "{{source}} {{kind}}",
                ),
                "Failed polls and failed parts of readings, by kind.",
                "The exporter logs each kind once, with a remedy.",
                unit="cps",
                no_value="No exporter",
                width=6,
            ),
            _scrape(),
            time_series(
                "Exporter CPU",
                Query(rate("process_cpu_seconds_total", HOST), "CPU"),
                "CPU usage of the exporter, in cores.",
                "About 0.01 with all sources; if much higher, raise the poll interval.",
                unit="none",
                no_value="No exporter",
                width=6,
            ),
            time_series(
                "Exporter memory",
                Query(f"process_resident_memory_bytes{{{HOST}}}", "memory"),
                "Resident memory of the exporter.",
                "About 90 MB with all sources. A steady rise is a memory leak: report it.",
                unit="bytes",
                no_value="No exporter",
                width=6,
            ),
        ),
    )


def _file_systems() -> Panel:
    by = f"{BY_HOST}, device, mountpoint"
    size = f"max by ({by}) (host_filesystem_size_bytes{{{HOST}}})"
    left = f"max by ({by}) (host_filesystem_available_bytes{{{HOST}}})"
    return table(
        "File systems",
        (
            Column("Mounted on", label="mountpoint", width=140, wrap=True),
            Column("Free", left, "bytes"),
            Column(
                "Used",
                f"1 - {left} / {size}",
                "percentunit",
                gauge=True,
                thresholds=rising(0.8, 0.9),
            ),
            Column(
                "Read-only",
                f"max by ({by}) (host_filesystem_read_only{{{HOST}}})",
                mapping=(("0", "no", "green"), ("1", "yes", "orange")),
            ),
        ),
        "File systems on disks: space available to programs, and whether they are read-only.",
        "A full file system stops model downloads, logs and Docker. Read-only may mean a broken"
        " disk.",
        no_value=_NO_HOST_METRICS,
        sort_by="Used",
        hidden_labels=("job", "instance", "device"),
    )


def _scrape() -> Panel:
    return time_series(
        "Scrape duration",
        Query(f"scrape_duration_seconds{{{HOST}}}", "scrape"),
        "Time Prometheus waited for the metrics page. The page is prepared in advance:"
        " milliseconds are normal.",
        "Long scrapes: check the network, and whether the host is short of CPU.",
        unit="s",
        no_value="Not scraped",
        width=6,
    )
