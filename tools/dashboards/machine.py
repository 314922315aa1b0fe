"""The machine itself, and the exporter on it."""

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

_NO_HOST_METRICS = "No host figures"


def host_row() -> PanelRow:
    """The row on the host's screen."""
    return PanelRow(
        "Host",
        (
            time_series(
                "CPU",
                Query(
                    f'sum by ({BY_HOST}, mode) (rate(host_cpu_seconds_total{{{HOST},mode!="idle"}}'
                    "[$__rate_interval]))"
                    f" / on ({BY_HOST}) group_left ()"
                    f" ({sum_rate(BY_HOST, 'host_cpu_seconds_total', HOST)} > 0)",
                    "{{mode}} {{instance}}",
                ),
                "What the CPUs did, as a share of all of them; idling is left out.",
                "iowait: the disks are slow. steal: the hypervisor gives the CPUs to others.",
                unit="percentunit",
                stack=True,
                blank=_NO_HOST_METRICS,
            ),
            time_series(
                "Memory",
                (
                    Query(
                        f"host_memory_total_bytes{{{HOST}}}"
                        f" - host_memory_available_bytes{{{HOST}}}",
                        "used {{instance}}",
                    ),
                    Query(f"host_swap_used_bytes{{{HOST}}}", "swap {{instance}}"),
                    Query(f"host_memory_total_bytes{{{HOST}}}", "limit {{instance}}"),
                ),
                "Memory that new work could not have, swap in use, and all there is.",
                "Near the limit the kernel kills: move a container away.",
                unit="bytes",
                limits="limit.*",
                blank=_NO_HOST_METRICS,
            ),
            time_series(
                "Load",
                (
                    Query(f"host_load1{{{HOST}}}", "1 min {{instance}}"),
                    Query(f"host_load15{{{HOST}}}", "15 min {{instance}}"),
                    Query(f"host_cpus{{{HOST}}}", "limit: CPUs {{instance}}"),
                ),
                "Tasks that run or wait, beside the CPUs there are.",
                "Well above the line: requests wait for a CPU before they reach the GPU.",
                unit="none",
                limits="limit.*",
                blank=_NO_HOST_METRICS,
            ),
            time_series(
                "Pressure",
                Query(
                    time_ratio("host_pressure_waiting_seconds_total", HOST),
                    "{{resource}} {{instance}}",
                ),
                "The share of time in which some task waited for CPU, memory or disks.",
                "Memory pressure is the one to act on at once: the host is about to kill.",
                unit="percentunit",
                blank="Not counted by this kernel",
            ),
            time_series(
                "Network",
                (
                    Query(
                        rate("host_network_receive_bytes_total", HOST),
                        "to {{device}} {{instance}}",
                    ),
                    Query(
                        rate("host_network_transmit_bytes_total", HOST),
                        "from {{device}} {{instance}}",
                    ),
                ),
                "Bytes over each network device.",
                "Compare with the speed of the link.",
                unit="Bps",
                blank=_NO_HOST_METRICS,
            ),
            time_series(
                "Disks",
                (
                    Query(
                        rate("host_disk_read_bytes_total", HOST),
                        "read {{device}} {{instance}}",
                    ),
                    Query(
                        rate("host_disk_written_bytes_total", HOST),
                        "written {{device}} {{instance}}",
                    ),
                ),
                "Bytes read from and written to each whole disk.",
                "Steady reads while models load are normal; at other times memory is short.",
                unit="Bps",
                blank="No disks",
            ),
            time_series(
                "Busy disks",
                Query(
                    time_ratio("host_disk_busy_seconds_total", HOST),
                    "{{device}} {{instance}}",
                ),
                "The share of time in which each disk had something to do.",
                "At 100 % for long, model loads wait for it.",
                unit="percentunit",
                blank="No disks",
            ),
            time_series(
                "Network errors and drops",
                tuple(
                    Query(
                        rate(f"host_network_{way}_{what}_total", HOST),
                        f"{way} {name} {{{{device}}}} {{{{instance}}}}",
                    )
                    for way in ("receive", "transmit")
                    for what, name in (("errors", "errors"), ("packets_dropped", "drops"))
                ),
                "Packets that were broken or dropped at each device.",
                "Errors: cable or port. Drops: the host takes them too slowly.",
                unit="pps",
                blank=_NO_HOST_METRICS,
            ),
            _file_systems(),
        ),
    )


def exporter_row() -> PanelRow:
    """How far what is shown can be trusted."""
    return PanelRow(
        "Exporter",
        (
            state_timeline(
                "Sources",
                Query(f"inference_exporter_source_up{{{HOST}}}", "{{source}} {{instance}}"),
                "Whether each source that is wanted answers; what was never there has no line.",
                "The exporter's landing page and `inference-exporter check` say why and what to"
                " do; runbook of ExporterSourceFailing.",
                mapping=UP_MAPPING,
                blank="No exporter",
                width=6,
            ),
            time_series(
                "Age of the readings",
                Query(
                    "clamp_min(time() -"
                    f" inference_exporter_source_last_success_timestamp_seconds{{{HOST}}}, 0)",
                    "{{source}} {{instance}}",
                ),
                "Seconds since each source was last read.",
                "It should stay near the interval (5 s) and the scrape's; a rising line is a source"
                " that fails.",
                unit="s",
                blank="No exporter",
                width=6,
            ),
            time_series(
                "Time of a poll",
                Query(
                    f"inference_exporter_source_duration_seconds{{{HOST}}}",
                    "{{source}} {{instance}}",
                ),
                "How long the last poll of each source took, of its slowest target.",
                "Beyond its deadline a poll fails: runbook of ExporterSourceSlow.",
                unit="s",
                blank="No exporter",
                width=6,
            ),
            time_series(
                "Series",
                (
                    Query(
                        f"inference_exporter_source_series{{{HOST}}}",
                        "{{source}} {{instance}}",
                    ),
                    Query(
                        f"inference_exporter_source_shed_series{{{HOST}}} > 0",
                        "left out: {{source}} {{instance}}",
                        empty="nothing is left out",
                    ),
                ),
                "Series on the page by source, and those that would go over a ceiling and are"
                " therefore not on it.",
                "A jump: many new containers or models. Anything left out: raise max_series of that"
                " source, or show less of it; runbook of ExporterSeriesShed.",
                unit="none",
                blank="No exporter",
                width=6,
            ),
            time_series(
                "Failures",
                Query(
                    rate("inference_exporter_source_failures_total", HOST),
                    "{{source}} {{kind}} {{instance}}",
                ),
                "Failed polls and parts of readings that could not be read, by kind.",
                "The log says each kind once, with what to do.",
                unit="cps",
                blank="No exporter",
                width=6,
            ),
            _scrape(),
            time_series(
                "CPU of the exporter",
                Query(rate("process_cpu_seconds_total", HOST), "{{instance}}"),
                "CPU time of the exporter itself, in cores.",
                "About 0.01 on a full host; much more wants a longer interval.",
                unit="none",
                blank="No exporter",
                width=6,
            ),
            time_series(
                "Memory of the exporter",
                Query(f"process_resident_memory_bytes{{{HOST}}}", "{{instance}}"),
                "Memory of the exporter itself.",
                "About 90 MB with everything on; a line that only rises is a fault worth telling.",
                unit="bytes",
                blank="No exporter",
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
            Column("Mounted on", label="mountpoint"),
            Column("Instance", label="instance"),
            Column("Free", left, "bytes"),
            Column(
                "Used", f"1 - {left} / {size}", "percentunit", gauge=True, steps=rising(0.8, 0.9)
            ),
            Column(
                "Read-only",
                f"max by ({by}) (host_filesystem_read_only{{{HOST}}})",
                mapping=(("0", "no", "green"), ("1", "yes", "orange")),
            ),
        ),
        "Every file system of a disk: what is left of it for programs, and whether it can be"
        " written.",
        "A full one stops model downloads, logs and Docker; read-only may be a broken disk.",
        blank=_NO_HOST_METRICS,
        sort="Used",
        width=8,
        hidden_labels=("job", "device"),
    )


def _scrape() -> Panel:
    return time_series(
        "Time of a scrape",
        Query(f"scrape_duration_seconds{{{HOST}}}", "{{instance}}"),
        "How long Prometheus waited for the page; it is made beforehand, so milliseconds.",
        "Long scrapes: the network between, or a host without CPU to spare.",
        unit="s",
        blank="Not scraped",
        width=6,
    )
