"""Containers on the host's screen, and the page of a single container."""

from __future__ import annotations

from typing import Any

from tools.dashboards import metric_units
from tools.dashboards.common import (
    BY_CONTAINER,
    CONTAINER,
    CONTAINER_LEGEND,
    CONTAINER_LINK,
    CONTAINER_VARIABLE,
    DATASOURCE_VARIABLE,
    INSTANCE_VARIABLE,
    JOB_VARIABLE,
    RESTARTS,
    rate_ratio,
    sum_rate,
    time_ratio,
)
from tools.dashboards.panels import (
    Column,
    Dashboard,
    Panel,
    PanelRow,
    Query,
    rising,
    state_timeline,
    table,
    time_series,
)

_NO_CONTAINERS = "No containers"


def container_max(metric: str, extra: str = "") -> str:
    """A metric by container alone."""
    return f"max by ({BY_CONTAINER}) ({metric}{{{CONTAINER}{extra}}})"


QUOTA = (
    f"{container_max('container_spec_cpu_quota')} / {container_max('container_spec_cpu_period')}"
)
THROTTLED_RATIO = rate_ratio(
    BY_CONTAINER,
    "container_cpu_cfs_throttled_periods_total",
    "container_cpu_cfs_periods_total",
    CONTAINER,
)


def container_table() -> Panel:
    used = sum_rate(BY_CONTAINER, "container_cpu_usage_seconds_total", CONTAINER)
    return table(
        "Containers",
        (
            Column("Container", label="name", link=CONTAINER_LINK),
            Column("Image", label="image"),
            Column("Instance", label="instance"),
            Column("State", label="state"),
            Column(
                "state",
                f"max by ({BY_CONTAINER}, image, state) (container_state{{{CONTAINER}}}) == 1",
                hidden=True,
            ),
            Column("CPU", used, "none", decimals=2),
            Column(
                "CPU of quota",
                f"{used} / ({QUOTA})",
                "percentunit",
                gauge=True,
                steps=rising(0.8, 0.95),
                missing="no quota",
            ),
            Column(
                "Throttled",
                THROTTLED_RATIO,
                "percentunit",
                steps=rising(0.1, 0.25),
                decimals=0,
                missing="no quota",
            ),
            Column("Working set", container_max("container_memory_working_set_bytes"), "bytes"),
            Column(
                "Memory of limit",
                f"{container_max('container_memory_working_set_bytes')} /"
                f" {container_max('container_spec_memory_limit_bytes')}",
                "percentunit",
                gauge=True,
                steps=rising(0.8, 0.9),
                missing="no limit",
            ),
            Column(
                "GPU memory",
                f"sum by ({BY_CONTAINER})"
                f' (container_gpu_memory_used_bytes{{{CONTAINER},name!=""}})',
                "bytes",
                decimals=1,
            ),
            Column(
                "OOM kills",
                f"sum by ({BY_CONTAINER})"
                f" (increase(container_oom_events_total{{{CONTAINER}}}[$__range]))",
                "none",
                decimals=0,
                steps=(("green", None), ("red", 0.5)),
            ),
            Column(
                "Restarts",
                f"sum by ({BY_CONTAINER})"
                f" (increase(container_restarts_total{{{CONTAINER}}}[$__range]))",
                "none",
                decimals=0,
                steps=(("green", None), ("orange", 0.5)),
            ),
            Column(
                "Started",
                f"{container_max('container_start_time_seconds')} * 1000",
                "dateTimeFromNow",
            ),
        ),
        "Every container as it is now, and its OOM kills and restarts in the chosen time. CPU is in"
        " cores.",
        "Click on a container for its own page. Throttled above 25 %: raise the quota. Memory above"
        " 90 % of its limit: the kernel will soon kill it.",
        blank=_NO_CONTAINERS,
        sort="CPU",
        height=9,
    )


def container_cpu() -> Panel:
    return time_series(
        "Container CPU",
        Query(
            sum_rate(BY_CONTAINER, "container_cpu_usage_seconds_total", CONTAINER),
            CONTAINER_LEGEND,
        ),
        "CPU time used by each container, in cores.",
        "A busy container beside a starved Triton: give it a quota.",
        unit="none",
        blank=_NO_CONTAINERS,
        width=6,
    )


def cpu_throttling() -> Panel:
    return time_series(
        "CPU throttling",
        Query(THROTTLED_RATIO, CONTAINER_LEGEND),
        "The share of scheduling periods in which a container with a quota had to wait.",
        "Above 25 % latency suffers: raise the quota. Runbook of ContainerCpuThrottled.",
        unit="percentunit",
        blank="No CPU quotas",
        width=6,
    )


def container_memory() -> Panel:
    return time_series(
        "Container memory",
        Query(container_max("container_memory_working_set_bytes"), CONTAINER_LEGEND),
        "Memory that the kernel cannot take back without harm (the working set), in bytes: page"
        " cache that is not in use is left out.",
        "A line that only rises is a leak; see the limit on the container's page.",
        unit="bytes",
        blank=_NO_CONTAINERS,
        width=6,
    )


def container_network() -> Panel:
    return time_series(
        "Container network",
        (
            Query(
                sum_rate(BY_CONTAINER, "container_network_receive_bytes_total", CONTAINER),
                f"to {CONTAINER_LEGEND}",
            ),
            Query(
                sum_rate(BY_CONTAINER, "container_network_transmit_bytes_total", CONTAINER),
                f"from {CONTAINER_LEGEND}",
            ),
        ),
        "Bytes to and from each container that has a network of its own.",
        "Containers on the host's network are not here: see the host's network.",
        unit="Bps",
        blank="No networks of their own",
        width=6,
    )


def containers_row() -> PanelRow:
    """The row on the host's screen."""
    return PanelRow(
        "Containers",
        (
            container_table(),
            container_cpu(),
            cpu_throttling(),
            container_memory(),
            container_network(),
        ),
    )


def _state() -> Panel:
    return state_timeline(
        "State",
        Query(
            f"max by ({BY_CONTAINER}, state) (container_state{{{CONTAINER}}}) == 1",
            f"{CONTAINER_LEGEND} {{{{state}}}}",
        ),
        "When the container was in which state.",
        "A comb of short lines is a restart loop: runbook of ContainerRestartLoop.",
        mapping=(("1", " ", "green"),),
        width=12,
        height=6,
        blank=_NO_CONTAINERS,
    )


def _usage_and_limit(title: str, queries: tuple[Query, ...], **more: str) -> Panel:
    return time_series(
        title,
        queries,
        more["shows"],
        more["do"],
        unit=more["unit"],
        limits="limit.*",
        blank=_NO_CONTAINERS,
        width=12,
        height=9,
    )


def _rates(title: str, parts: tuple[tuple[str, str], ...], **more: Any) -> Panel:
    queries = tuple(
        Query(sum_rate(BY_CONTAINER, metric, CONTAINER), f"{name} {CONTAINER_LEGEND}")
        for name, metric in parts
    )
    shows, do = more.pop("shows"), more.pop("do")
    return time_series(title, queries, shows, do, **more)


def container_dashboard() -> Dashboard:
    memory_parts = (
        ("working set", "container_memory_working_set_bytes"),
        ("anonymous", "container_memory_rss"),
        ("page cache", "container_memory_cache"),
    )
    return Dashboard(
        "container",
        "inference-container",
        "Inference container",
        "Containers in full: life, CPU beside quota, memory beside limit, network, disk.",
        (DATASOURCE_VARIABLE, JOB_VARIABLE, INSTANCE_VARIABLE, CONTAINER_VARIABLE),
        (RESTARTS,),
        (
            PanelRow("Life", (_state(), _identity(), _exits())),
            PanelRow(
                "CPU and memory",
                (
                    _usage_and_limit(
                        "CPU beside quota",
                        (
                            Query(
                                sum_rate(
                                    BY_CONTAINER,
                                    "container_cpu_usage_seconds_total",
                                    CONTAINER,
                                ),
                                CONTAINER_LEGEND,
                            ),
                            Query(QUOTA, f"limit {CONTAINER_LEGEND}"),
                        ),
                        shows="CPU time used in cores, and the quota where one is set.",
                        do="At its quota the container is throttled: raise it, or take work away.",
                        unit="none",
                    ),
                    _usage_and_limit(
                        "Memory beside limit",
                        (
                            *(
                                Query(container_max(metric), f"{name} {CONTAINER_LEGEND}")
                                for name, metric in memory_parts
                            ),
                            Query(
                                container_max("container_spec_memory_limit_bytes"),
                                f"limit {CONTAINER_LEGEND}",
                            ),
                        ),
                        shows="Memory in use by kind, and the limit where one is set.",
                        do="A working set at the limit ends in an OOM kill; page cache does not.",
                        unit="bytes",
                    ),
                    cpu_throttling(),
                    _rates(
                        "CPU by mode",
                        (
                            ("user", "container_cpu_user_seconds_total"),
                            ("kernel", "container_cpu_system_seconds_total"),
                        ),
                        shows="CPU time in user mode and in the kernel, in cores.",
                        do="Much time in the kernel: many small reads, or memory being given back.",
                        unit="none",
                        blank=_NO_CONTAINERS,
                        width=6,
                    ),
                    time_series(
                        "Pressure",
                        tuple(
                            Query(
                                time_ratio(
                                    f"container_pressure_{what}_waiting_seconds_total",
                                    CONTAINER,
                                    BY_CONTAINER,
                                ),
                                f"{what} {CONTAINER_LEGEND}",
                            )
                            for what in ("cpu", "memory", "io")
                        ),
                        "The share of time in which some task of the container waited for CPU,"
                        " memory or disks; cgroup v2 only.",
                        "Memory: raise the limit. CPU: the quota, or the neighbours.",
                        unit="percentunit",
                        blank="Not counted by this kernel",
                        width=6,
                    ),
                    time_series(
                        "Threads",
                        Query(container_max("container_threads"), CONTAINER_LEGEND),
                        "Threads in the container.",
                        "A line that only rises is a leak.",
                        unit="none",
                        blank=_NO_CONTAINERS,
                        width=6,
                    ),
                ),
            ),
            PanelRow(
                "GPU",
                (
                    _gpu_usage(
                        "GPU memory",
                        "container_gpu_memory_used_bytes",
                        "GPU memory of the container's processes on each GPU.",
                        "Held without work: unload models that nobody asks.",
                    ),
                    _gpu_usage(
                        "GPU share",
                        "container_gpu_utilization_ratio",
                        "The share of the SMs' time that the container's processes used.",
                        "Compare with the GPU's own utilization: the rest is others'.",
                    ),
                    _gpu_usage(
                        "GPU processes",
                        "container_gpu_processes",
                        "Processes of the container on each GPU.",
                        "More than expected: left over from a restart.",
                    ),
                ),
            ),
            PanelRow(
                "Network and disk",
                (
                    container_network(),
                    _rates(
                        "Network errors and drops",
                        (
                            ("receive errors", "container_network_receive_errors_total"),
                            ("transmit errors", "container_network_transmit_errors_total"),
                            ("receive drops", "container_network_receive_packets_dropped_total"),
                            ("transmit drops", "container_network_transmit_packets_dropped_total"),
                        ),
                        shows="Packets that were broken or dropped.",
                        do="Drops under load: the receiver is too slow or its buffers too small.",
                        unit="pps",
                        blank="No networks of their own",
                    ),
                    _rates(
                        "Disk",
                        (
                            ("read", "container_fs_reads_bytes_total"),
                            ("written", "container_fs_writes_bytes_total"),
                        ),
                        shows="Bytes read from and written to disks, where the kernel counts them.",
                        do="Reads at every request: the model repository does not fit the cache.",
                        unit="Bps",
                        blank="Not counted by this kernel",
                    ),
                ),
            ),
        ),
    )


def _gpu_usage(title: str, metric: str, shows: str, do: str) -> Panel:
    return time_series(
        title,
        Query(
            f"max by ({BY_CONTAINER}, gpu, uuid) ({metric}{{{CONTAINER}}})",
            "{{name}} GPU {{gpu}} {{instance}}",
        ),
        shows,
        do,
        blank="Not on a GPU",
        unit=metric_units.unit(metric) or "none",
    )


def _identity() -> Panel:
    facts = ("image", "id", "compose_project", "compose_service")
    titles = ("Image", "ID", "Compose project", "Service")
    return table(
        "Identity",
        (
            Column("Container", label="name"),
            Column("Instance", label="instance"),
            *(Column(t, label=f) for t, f in zip(titles, facts, strict=True)),
            Column(
                "there",
                f"count by ({BY_CONTAINER}, {', '.join(facts)}) (container_info{{{CONTAINER}}})",
                hidden=True,
            ),
        ),
        "What the chosen containers are.",
        "The ID is what docker inspect takes.",
        blank=_NO_CONTAINERS,
        width=12,
        height=6,
    )


def _exits() -> Panel:
    return table(
        "Ends",
        (
            Column("Container", label="name"),
            Column("Instance", label="instance"),
            Column(
                "Started",
                f"{container_max('container_start_time_seconds')} * 1000",
                "dateTimeAsIso",
            ),
            Column("Restarts", container_max("container_restarts_total"), "none"),
            Column("OOM kills", container_max("container_oom_events_total"), "none"),
            Column(
                "Last run ended by OOM",
                container_max("container_oom_killed"),
                mapping=(("0", "no", "green"), ("1", "yes", "red")),
            ),
            Column("Exit code", container_max("container_exit_code"), "none", missing="running"),
        ),
        "How the chosen containers fared: restarts by their policy, kills for want of memory, exit"
        " code of those that stopped.",
        "Exit code 137 without an OOM kill is a stop by force; 139 a crash.",
        blank=_NO_CONTAINERS,
        width=24,
        height=6,
    )
