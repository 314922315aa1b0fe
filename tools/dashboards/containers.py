"""Containers on the host's screen, and the page of a single container."""

from __future__ import annotations

from typing import Any

from tools.dashboards import metric_units
from tools.dashboards.common import (
    BY_CONTAINER,
    CONTAINER,
    CONTAINER_LEGEND,
    CONTAINERS,
    DATASOURCE,
    INSTANCE,
    JOB,
    RESTARTS,
    TO_CONTAINER,
    per,
    share_of_time,
    total,
)
from tools.dashboards.panels import (
    Column,
    Dashboard,
    Panel,
    Query,
    Row,
    lines,
    rising,
    states,
    table,
)

_NONE = "No containers"


def now(metric: str, extra: str = "") -> str:
    """A metric by container alone."""
    return f"max by ({BY_CONTAINER}) ({metric}{{{CONTAINER}{extra}}})"


QUOTA = f"{now('container_spec_cpu_quota')} / {now('container_spec_cpu_period')}"
THROTTLED = per(
    BY_CONTAINER,
    "container_cpu_cfs_throttled_periods_total",
    "container_cpu_cfs_periods_total",
    CONTAINER,
)


def container_table() -> Panel:
    used = total(BY_CONTAINER, "container_cpu_usage_seconds_total", CONTAINER)
    return table(
        "Containers",
        (
            Column("Container", label="name", link=TO_CONTAINER),
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
                THROTTLED,
                "percentunit",
                steps=rising(0.1, 0.25),
                decimals=0,
                missing="no quota",
            ),
            Column("Working set", now("container_memory_working_set_bytes"), "bytes"),
            Column(
                "Memory of limit",
                f"{now('container_memory_working_set_bytes')} /"
                f" {now('container_spec_memory_limit_bytes')}",
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
            Column("Started", f"{now('container_start_time_seconds')} * 1000", "dateTimeFromNow"),
        ),
        "Every container as it is now, and its OOM kills and restarts in the chosen time. CPU is in"
        " cores.",
        "Click on a container for its own page. Throttled above 25 %: raise the quota. Memory above"
        " 90 % of its limit: the kernel will soon kill it.",
        blank=_NONE,
        sort="CPU",
        height=9,
    )


def cpu() -> Panel:
    return lines(
        "Container CPU",
        Query(
            total(BY_CONTAINER, "container_cpu_usage_seconds_total", CONTAINER), CONTAINER_LEGEND
        ),
        "CPU time used by each container, in cores.",
        "A busy container beside a starved Triton: give it a quota.",
        unit="none",
        blank=_NONE,
        width=6,
    )


def throttled() -> Panel:
    return lines(
        "CPU throttling",
        Query(THROTTLED, CONTAINER_LEGEND),
        "The share of scheduling periods in which a container with a quota had to wait.",
        "Above 25 % latency suffers: raise the quota. Runbook of ContainerCpuThrottled.",
        unit="percentunit",
        blank="No CPU quotas",
        width=6,
    )


def memory() -> Panel:
    return lines(
        "Container memory",
        Query(now("container_memory_working_set_bytes"), CONTAINER_LEGEND),
        "Memory that the kernel cannot take back without harm (the working set), in bytes: page"
        " cache that is not in use is left out.",
        "A line that only rises is a leak; see the limit on the container's page.",
        unit="bytes",
        blank=_NONE,
        width=6,
    )


def network() -> Panel:
    return lines(
        "Container network",
        (
            Query(
                total(BY_CONTAINER, "container_network_receive_bytes_total", CONTAINER),
                f"to {CONTAINER_LEGEND}",
            ),
            Query(
                total(BY_CONTAINER, "container_network_transmit_bytes_total", CONTAINER),
                f"from {CONTAINER_LEGEND}",
            ),
        ),
        "Bytes to and from each container that has a network of its own.",
        "Containers on the host's network are not here: see the host's network.",
        unit="Bps",
        blank="No networks of their own",
        width=6,
    )


def row() -> Row:
    """The row on the host's screen."""
    return Row("Containers", (container_table(), cpu(), throttled(), memory(), network()))


def _life() -> Panel:
    return states(
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
        blank=_NONE,
    )


def _used_beside(title: str, queries: tuple[Query, ...], **more: str) -> Panel:
    return lines(
        title,
        queries,
        more["shows"],
        more["do"],
        unit=more["unit"],
        limits="limit.*",
        blank=_NONE,
        width=12,
        height=9,
    )


def _io(title: str, parts: tuple[tuple[str, str], ...], **more: Any) -> Panel:
    queries = tuple(
        Query(total(BY_CONTAINER, metric, CONTAINER), f"{name} {CONTAINER_LEGEND}")
        for name, metric in parts
    )
    shows, do = more.pop("shows"), more.pop("do")
    return lines(title, queries, shows, do, **more)


def dashboard() -> Dashboard:
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
        (DATASOURCE, JOB, INSTANCE, CONTAINERS),
        (RESTARTS,),
        (
            Row("Life", (_life(), _identity(), _ends())),
            Row(
                "CPU and memory",
                (
                    _used_beside(
                        "CPU beside quota",
                        (
                            Query(
                                total(BY_CONTAINER, "container_cpu_usage_seconds_total", CONTAINER),
                                CONTAINER_LEGEND,
                            ),
                            Query(QUOTA, f"limit {CONTAINER_LEGEND}"),
                        ),
                        shows="CPU time used in cores, and the quota where one is set.",
                        do="At its quota the container is throttled: raise it, or take work away.",
                        unit="none",
                    ),
                    _used_beside(
                        "Memory beside limit",
                        (
                            *(
                                Query(now(metric), f"{name} {CONTAINER_LEGEND}")
                                for name, metric in memory_parts
                            ),
                            Query(
                                now("container_spec_memory_limit_bytes"),
                                f"limit {CONTAINER_LEGEND}",
                            ),
                        ),
                        shows="Memory in use by kind, and the limit where one is set.",
                        do="A working set at the limit ends in an OOM kill; page cache does not.",
                        unit="bytes",
                    ),
                    throttled(),
                    _io(
                        "CPU by mode",
                        (
                            ("user", "container_cpu_user_seconds_total"),
                            ("kernel", "container_cpu_system_seconds_total"),
                        ),
                        shows="CPU time in user mode and in the kernel, in cores.",
                        do="Much time in the kernel: many small reads, or memory being given back.",
                        unit="none",
                        blank=_NONE,
                        width=6,
                    ),
                    lines(
                        "Pressure",
                        tuple(
                            Query(
                                share_of_time(
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
                    lines(
                        "Threads",
                        Query(now("container_threads"), CONTAINER_LEGEND),
                        "Threads in the container.",
                        "A line that only rises is a leak.",
                        unit="none",
                        blank=_NONE,
                        width=6,
                    ),
                ),
            ),
            Row(
                "GPU",
                (
                    _on_gpu(
                        "GPU memory",
                        "container_gpu_memory_used_bytes",
                        "GPU memory of the container's processes on each GPU.",
                        "Held without work: unload models that nobody asks.",
                    ),
                    _on_gpu(
                        "GPU share",
                        "container_gpu_utilization_ratio",
                        "The share of the SMs' time that the container's processes used.",
                        "Compare with the GPU's own utilization: the rest is others'.",
                    ),
                    _on_gpu(
                        "GPU processes",
                        "container_gpu_processes",
                        "Processes of the container on each GPU.",
                        "More than expected: left over from a restart.",
                    ),
                ),
            ),
            Row(
                "Network and disk",
                (
                    network(),
                    _io(
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
                    _io(
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


def _on_gpu(title: str, metric: str, shows: str, do: str) -> Panel:
    return lines(
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
        blank=_NONE,
        width=12,
        height=6,
    )


def _ends() -> Panel:
    return table(
        "Ends",
        (
            Column("Container", label="name"),
            Column("Instance", label="instance"),
            Column(
                "Started",
                f"{now('container_start_time_seconds')} * 1000",
                "dateTimeAsIso",
            ),
            Column("Restarts", now("container_restarts_total"), "none"),
            Column("OOM kills", now("container_oom_events_total"), "none"),
            Column(
                "Last run ended by OOM",
                now("container_oom_killed"),
                mapping=(("0", "no", "green"), ("1", "yes", "red")),
            ),
            Column("Exit code", now("container_exit_code"), "none", missing="running"),
        ),
        "How the chosen containers fared: restarts by their policy, kills for want of memory, exit"
        " code of those that stopped.",
        "Exit code 137 without an OOM kill is a stop by force; 139 a crash.",
        blank=_NONE,
        width=24,
        height=6,
    )
