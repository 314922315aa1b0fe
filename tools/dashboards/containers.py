"""The container rows of the host dashboard, and the container dashboard."""

from __future__ import annotations

from dataclasses import replace
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
    NAMED_CONTAINER,
    RESTARTS,
    rate_ratio,
    sum_rate,
    time_ratio,
    with_container_name,
)
from tools.dashboards.panels import (
    ORANGE_ABOVE_0,
    RED_ABOVE_0,
    TABLE_HEIGHT,
    Column,
    Dashboard,
    Panel,
    PanelRow,
    Query,
    cells,
    rising,
    state_timeline,
    table,
    time_series,
)

_NO_CONTAINERS = "No containers read"
_NO_RUNNING = "No running containers"


_STATES = (
    ("running", "green"),
    ("created", "blue"),
    ("initialized", "blue"),  # Podman's, as are stopping, and stopped until the cleanup
    ("paused", "orange"),
    ("restarting", "orange"),
    ("stopping", "orange"),
    ("removing", "orange"),
    ("stopped", "orange"),
    ("exited", "orange"),
    ("dead", "red"),
)
STATE_MAPPING = tuple((str(code), *state) for code, state in enumerate(_STATES))


def state_code(matchers: str) -> str:
    """Returns the state of each container as the number that STATE_MAPPING names."""
    states = " or ".join(
        f'{code} * container_state{{{matchers},state="{state}"}}'
        for code, (state, _) in enumerate(_STATES)
    )
    return f"max by ({BY_CONTAINER}) ({states})"


def container_cells() -> Panel:
    """Returns the state of every container as coloured cells."""
    return cells(
        "Containers",
        Query(f"sort_desc({state_code(NAMED_CONTAINER)})", CONTAINER_LEGEND),
        "State of every container.",
        "An exited container that should run: see its exit code on the container dashboard.",
        mapping=STATE_MAPPING,
        no_value=_NO_CONTAINERS,
        width=12,
        height=4,
    )


def container_max(metric: str, extra: str = "") -> str:
    """Returns the metric by container, without its other labels."""
    return f"max by ({BY_CONTAINER}) ({metric}{{{NAMED_CONTAINER}{extra}}})"


QUOTA = (
    f"{container_max('container_spec_cpu_quota')} / {container_max('container_spec_cpu_period')}"
)
# cAdvisor, and its dialect, export 0 for a container without a limit.
MEMORY_LIMIT = f"({container_max('container_spec_memory_limit_bytes')} > 0)"
THROTTLED_RATIO = rate_ratio(
    BY_CONTAINER,
    "container_cpu_cfs_throttled_periods_total",
    "container_cpu_cfs_periods_total",
    NAMED_CONTAINER,
)


def container_table() -> Panel:
    used = sum_rate(BY_CONTAINER, "container_cpu_usage_seconds_total", NAMED_CONTAINER)
    return table(
        "Usage and limits",
        (
            Column("Container", label="name", link=CONTAINER_LINK, width=150, wrap=True),
            Column("State", label="state"),
            Column(
                "state",
                f"max by ({BY_CONTAINER}, state) (container_state{{{NAMED_CONTAINER}}}) == 1",
                hidden=True,
            ),
            Column("CPU", used, "none", decimals=2),
            Column(
                "CPU/quota",
                f"{used} / ({QUOTA})",
                "percentunit",
                gauge=True,
                thresholds=rising(0.8, 0.95),
                no_value="No quota",
            ),
            Column(
                "Throttled",
                THROTTLED_RATIO,
                "percentunit",
                thresholds=rising(0.1, 0.25),
                decimals=0,
                no_value="No quota",
            ),
            Column("Memory", container_max("container_memory_working_set_bytes"), "bytes"),
            Column(
                "Mem/limit",
                f"{container_max('container_memory_working_set_bytes')} / {MEMORY_LIMIT}",
                "percentunit",
                gauge=True,
                thresholds=rising(0.8, 0.9),
                no_value="No limit",
            ),
            Column(
                "GPU mem",
                f"sum by ({BY_CONTAINER})"
                f' (container_gpu_memory_used_bytes{{{CONTAINER},name!=""}})',
                "bytes",
                decimals=1,
            ),
            Column(
                "OOM",
                f"sum by ({BY_CONTAINER})"
                f" (increase(container_oom_events_total{{{NAMED_CONTAINER}}}[$__range]))",
                "none",
                decimals=0,
                thresholds=RED_ABOVE_0,
            ),
            Column(
                "Restarts",
                f"sum by ({BY_CONTAINER})"
                f" (increase(container_restarts_total{{{NAMED_CONTAINER}}}[$__range]))",
                "none",
                decimals=0,
                thresholds=ORANGE_ABOVE_0,
            ),
            Column(
                "Started",
                f"{container_max('container_start_time_seconds')} * 1000",
                "dateTimeFromNow",
                width=120,
            ),
        ),
        "Current state of every container; OOM kills and restarts in the time range. CPU in cores.",
        "Click a container to open its dashboard. Throttled above 25 %: raise the CPU quota."
        " Memory above 90 % of the limit: an OOM kill is close.",
        no_value=_NO_CONTAINERS,
        sort_by="CPU",
    )


def container_cpu() -> Panel:
    return time_series(
        "Container CPU",
        Query(
            sum_rate(BY_CONTAINER, "container_cpu_usage_seconds_total", NAMED_CONTAINER),
            CONTAINER_LEGEND,
        ),
        "CPU usage of each container, in cores.",
        "If one container takes the CPU from Triton, give it a CPU quota.",
        unit="none",
        no_value=_NO_RUNNING,
        width=6,
    )


def cpu_throttling() -> Panel:
    return time_series(
        "CPU throttling",
        Query(THROTTLED_RATIO, CONTAINER_LEGEND),
        "Ratio of CFS periods in which a container with a CPU quota was throttled.",
        "Above 25 % latency rises: raise the CPU quota. Runbook: ContainerCpuThrottled.",
        unit="percentunit",
        no_value="No CPU quota",
        width=6,
    )


def container_memory() -> Panel:
    return time_series(
        "Container memory",
        Query(container_max("container_memory_working_set_bytes"), CONTAINER_LEGEND),
        "Working set of each container in bytes: memory the kernel cannot reclaim. Inactive page"
        " cache is not included.",
        "A steady rise is a memory leak; the container dashboard has the limit.",
        unit="bytes",
        no_value=_NO_RUNNING,
        width=6,
    )


def container_network() -> Panel:
    return time_series(
        "Container network",
        (
            Query(
                sum_rate(BY_CONTAINER, "container_network_receive_bytes_total", NAMED_CONTAINER),
                f"{CONTAINER_LEGEND} received",
            ),
            Query(
                sum_rate(BY_CONTAINER, "container_network_transmit_bytes_total", NAMED_CONTAINER),
                f"{CONTAINER_LEGEND} sent",
            ),
        ),
        "Bytes received (above zero) and sent (below) by each container with its own network"
        " namespace.",
        "Containers in the host's network namespace are missing here: see the host's network"
        " traffic.",
        unit="Bps",
        mirror_pattern=".* sent",
        no_value="No container networks",
        width=6,
    )


def containers_row() -> PanelRow:
    """Returns the row of the host dashboard."""
    return PanelRow(
        "Which container is short of CPU or memory?",
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
            state_code(NAMED_CONTAINER),
            CONTAINER_LEGEND,
        ),
        "State of the container over time.",
        "Many short bars are a restart loop. Runbook: ContainerRestartLoop.",
        mapping=STATE_MAPPING,
        width=24,
        height=TABLE_HEIGHT,
        no_value=_NO_CONTAINERS,
    )


def _usage_and_limit(title: str, queries: tuple[Query, ...], **options: str) -> Panel:
    return time_series(
        title,
        queries,
        options["description"],
        options["action"],
        unit=options["unit"],
        limit_pattern="limit.*",
        no_value=_NO_RUNNING,
        width=12,
        height=9,
    )


def _rates(title: str, metrics: tuple[tuple[str, str], ...], **options: Any) -> Panel:
    queries = tuple(
        Query(sum_rate(BY_CONTAINER, metric, NAMED_CONTAINER), f"{name} {CONTAINER_LEGEND}")
        for name, metric in metrics
    )
    description, action = options.pop("description"), options.pop("action")
    return time_series(title, queries, description, action, **options)


def container_dashboard() -> Dashboard:
    memory_metrics = (
        ("working set", "container_memory_working_set_bytes"),
        ("anonymous", "container_memory_rss"),
        ("page cache", "container_memory_cache"),
    )
    return Dashboard(
        "container",
        "inference-container",
        "Inference container",
        "Containers in detail: state, CPU and quota, memory and limit, network, disk I/O.",
        (DATASOURCE_VARIABLE, JOB_VARIABLE, INSTANCE_VARIABLE, CONTAINER_VARIABLE),
        (RESTARTS,),
        (
            PanelRow(
                "Do the containers run, and did they restart?",
                (replace(container_cells(), width=24), _exits()),
            ),
            PanelRow("Which containers are these, and since when?", (_state(), _identity())),
            PanelRow(
                "Are they short of CPU or memory?",
                (
                    _usage_and_limit(
                        "CPU usage and quota",
                        (
                            Query(
                                sum_rate(
                                    BY_CONTAINER,
                                    "container_cpu_usage_seconds_total",
                                    NAMED_CONTAINER,
                                ),
                                CONTAINER_LEGEND,
                            ),
                            Query(QUOTA, f"limit {CONTAINER_LEGEND}"),
                        ),
                        description="CPU usage in cores, and the CPU quota if the container has"
                        " one.",
                        action="At its quota the container is throttled: raise the quota or"
                        " reduce its load.",
                        unit="none",
                    ),
                    _usage_and_limit(
                        "Memory usage and limit",
                        (
                            *(
                                Query(container_max(metric), f"{name} {CONTAINER_LEGEND}")
                                for name, metric in memory_metrics
                            ),
                            Query(
                                MEMORY_LIMIT,
                                f"limit {CONTAINER_LEGEND}",
                            ),
                        ),
                        description="Memory usage by kind, and the memory limit if the container"
                        " has one.",
                        action="A working set at the limit ends in an OOM kill; page cache is"
                        " reclaimed instead.",
                        unit="bytes",
                    ),
                    cpu_throttling(),
                    _rates(
                        "CPU by mode",
                        (
                            ("user", "container_cpu_user_seconds_total"),
                            ("kernel", "container_cpu_system_seconds_total"),
                        ),
                        description="CPU time in user and kernel mode, in cores.",
                        action="High kernel time: many small reads, or memory reclaim.",
                        unit="none",
                        no_value=_NO_RUNNING,
                        width=6,
                    ),
                    time_series(
                        "Pressure",
                        tuple(
                            Query(
                                time_ratio(
                                    f"container_pressure_{resource}_waiting_seconds_total",
                                    NAMED_CONTAINER,
                                    BY_CONTAINER,
                                ),
                                f"{resource} {CONTAINER_LEGEND}",
                            )
                            for resource in ("cpu", "memory", "io")
                        ),
                        "Ratio of time in which at least one task of the container waited for"
                        ' CPU, memory or I/O (PSI "some"). cgroup v2 only.',
                        "Memory: raise the limit. CPU: raise the quota, or move other containers"
                        " away.",
                        unit="percentunit",
                        no_value="Not reported by the kernel",
                        width=6,
                    ),
                    time_series(
                        "Threads",
                        Query(container_max("container_threads"), CONTAINER_LEGEND),
                        "Threads of the container.",
                        "A steady rise is a thread leak.",
                        unit="none",
                        no_value=_NO_RUNNING,
                        width=6,
                    ),
                ),
            ),
            PanelRow(
                "What do they use of the GPUs?",
                (
                    _gpu_usage(
                        "GPU memory",
                        "container_gpu_memory_used_bytes",
                        "GPU memory of the container's processes, by GPU.",
                        "Memory in use without load: unload models that receive no requests.",
                    ),
                    _gpu_usage(
                        "GPU utilization",
                        "container_gpu_utilization_ratio",
                        "SM utilization by the container's processes, by GPU.",
                        "Compare with the utilization of the whole GPU: the difference is other"
                        " processes.",
                    ),
                    _gpu_usage(
                        "GPU processes",
                        "container_gpu_processes",
                        "Processes of the container, by GPU.",
                        "More than expected: processes left over from a restart.",
                    ),
                ),
            ),
            PanelRow(
                "What do they send, receive, read and write?",
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
                        description="Packets with errors and dropped packets.",
                        action="Drops under load: the receiver is too slow or its buffers are"
                        " too small.",
                        unit="pps",
                        no_value="No container networks",
                    ),
                    _rates(
                        "Disk I/O",
                        (
                            ("read by", "container_fs_reads_bytes_total"),
                            ("written by", "container_fs_writes_bytes_total"),
                        ),
                        description="Bytes read from (above zero) and written to (below) block"
                        " devices, if the kernel counts them.",
                        action="Reads with every request: the model repository does not fit into"
                        " the page cache.",
                        unit="Bps",
                        mirror_pattern="written.*",
                        no_value="Not reported by the kernel",
                    ),
                ),
            ),
        ),
    )


def _gpu_usage(title: str, metric: str, description: str, action: str) -> Panel:
    return time_series(
        title,
        Query(
            with_container_name(f"max by ({BY_CONTAINER}, gpu, uuid) ({metric}{{{CONTAINER}}})"),
            "{{name}} GPU {{gpu}}",
        ),
        description,
        action,
        no_value="No visible GPU processes",
        unit=metric_units.unit(metric) or "none",
    )


def _identity() -> Panel:
    labels = ("image", "id", "compose_project", "compose_service")
    titles = ("Image", "ID", "Project", "Service")
    return table(
        "Identity",
        (
            Column("Container", label="name", width=150, wrap=True),
            *(
                Column(t, label=label, width=160, wrap=True)
                for t, label in zip(titles, labels, strict=True)
            ),
            Column(
                "info",
                f"count by ({BY_CONTAINER}, {', '.join(labels)})"
                f" (container_info{{{NAMED_CONTAINER}}})",
                hidden=True,
            ),
        ),
        "Image, ID and Compose names of the selected containers.",
        "`docker inspect` accepts the ID.",
        no_value=_NO_CONTAINERS,
    )


def _exits() -> Panel:
    return table(
        "Restarts and exits",
        (
            Column("Container", label="name", width=150, wrap=True),
            Column("state", container_max("container_state") + " * 0", hidden=True),
            Column(
                "Started",
                f"{container_max('container_start_time_seconds')} * 1000",
                "dateTimeAsIso",
                width=150,
            ),
            Column("Restarts", container_max("container_restarts_total"), "none"),
            Column("OOM kills", container_max("container_oom_events_total"), "none"),
            Column(
                "OOM-killed",
                container_max("container_oom_killed"),
                mapping=(("0", "no", "green"), ("1", "yes", "red")),
            ),
            Column("Exit code", container_max("container_exit_code"), "none", no_value="Running"),
        ),
        "Restarts by the restart policy, OOM kills, and the exit code of stopped containers.",
        "Exit code 137 without an OOM kill: stopped with SIGKILL. 139: crashed with SIGSEGV.",
        no_value=_NO_CONTAINERS,
    )
