"""Metric declarations of the containers source: names and semantics of cAdvisor."""

from __future__ import annotations

from typing import Any

from exporter.model import ByField, Metric, counter, gauge, gauges, info, up
from exporter.sources.containers.reading import CgroupUsage, Container, DiskUsage, EngineRow
from exporter.sources.containers.resource_metrics import RESOURCES

ENGINE_UP = up(
    "container_engine_up",
    "Whether the container engine responds (Docker Engine API, GET /_ping or /containers/json).",
)
RESOURCES_UP = up(
    "container_resources_up",
    "Whether the resource usage of containers can be read (cgroup files; if those are out of reach,"
    " the engine's GET /containers/ID/stats), and no series limit leaves metrics of it out.",
)

_ENGINE: tuple[Metric[Any], ...] = (
    ENGINE_UP,
    RESOURCES_UP,
    info(
        "container_engine_info",
        "The container engine (GET /version: Version, ApiVersion); of a CRI also its runtime"
        " (Version: runtime_name, runtime_version, runtime_api_version).",
        EngineRow,
        ("version", "api_version"),
        lambda row: (row.version, row.api_version),
        extra=lambda row: (("runtime", row.runtime),) if row.runtime else (),
    ),
    gauges(
        "container_engine_containers",
        "Containers that are exported, by state (inspect's State.Status).",
        EngineRow,
        ("state",),
        lambda row: (((state,), count) for state, count in row.containers),
    ),
    gauges(
        "container_left_out",
        "Containers that are left out: by a filter, over the limit of --containers.max-containers"
        " (ceiling), or because the engine's list is too long or invalid (unreadable).",
        EngineRow,
        ("reason",),
        lambda row: (((reason,), count) for reason, count in row.left_out),
    ),
    counter(
        "container_missed_total",
        "Runs of a container that started and ended between two polls and have no series"
        " (the engine's start and die events).",
        EngineRow,
        lambda row: row.missed,
    ),
)


def _zero_or_one(flag: bool | None) -> int | None:
    return None if flag is None else int(flag)


_STATE: tuple[Metric[Any], ...] = (
    info(
        "container_info",
        "Identity of a container (the container list's Id and labels com.docker.compose.project,"
        " com.docker.compose.service, and those of --containers.labels; inspect's Image); in a pod"
        " also pod_uid, and cgroup: the path of its cgroup.",
        Container,
        ("id", "image_id", "compose_project", "compose_service"),
        lambda row: (row.id, row.image_id, row.compose_project, row.compose_service),
        extra=lambda row: row.info_labels,
    ),
    gauge(
        "container_last_seen",
        "Unix timestamp at which a running container was last seen: this poll.",
        Container,
        ByField("last_seen"),
    ),
    gauge(
        "container_start_time_seconds",
        "Unix timestamp of a running container's start (inspect's State.StartedAt).",
        Container,
        ByField("started"),
    ),
    gauge(
        "container_finish_time_seconds",
        "Unix timestamp at which a stopped container ended (inspect's State.FinishedAt).",
        Container,
        ByField("finished"),
    ),
    gauges(
        "container_state",
        "1 for the container's current state (inspect's State.Status: created, running, paused,"
        " restarting, removing, exited, dead; Podman also initialized, stopping, stopped).",
        Container,
        ("state",),
        ByField("state", lambda state: (((state,), 1),) if state else ()),
    ),
    gauge(
        "container_health_state",
        "1 if the container's health check reports healthy, 0 if it reports starting or unhealthy"
        " (inspect's State.Health.Status).",
        Container,
        ByField("healthy", _zero_or_one),
    ),
    counter(
        "container_restarts_total",
        "Restarts of the container by its restart policy (inspect's RestartCount).",
        Container,
        ByField("restarts"),
    ),
    gauge(
        "container_exit_code",
        "Exit code of a stopped container (inspect's State.ExitCode).",
        Container,
        ByField("exit_code"),
    ),
    gauge(
        "container_oom_killed",
        "Whether the OOM killer ended the container's last run (inspect's State.OOMKilled).",
        Container,
        ByField("oom_killed", _zero_or_one),
    ),
    counter(
        "container_oom_events_total",
        "Processes of the container killed by the OOM killer since its discovery (oom_kill of"
        " cgroup v1 memory.oom_control, v2 memory.events; the engine's oom events if higher).",
        Container,
        ByField("oom_kills"),
    ),
    gauge(
        "container_spec_cpu_shares",
        "Relative weight of the container's CPU time, if set (inspect's HostConfig.CpuShares).",
        Container,
        ByField("cpu_shares"),
    ),
)

_DISK_USAGE: tuple[Metric[Any], ...] = (
    gauges(
        "container_disk_usage_bytes",
        "Disk space used by the engine's objects, by kind (GET /system/df: LayersSize, Size of"
        " volumes, SizeRw of containers); only with --containers.disk-usage-interval.",
        DiskUsage,
        ("kind",),
        lambda row: (((kind,), size) for kind, size in row.totals),
    ),
    gauges(
        "container_disk_objects",
        "The engine's objects that use disk space, by kind (GET /system/df).",
        DiskUsage,
        ("kind",),
        lambda row: (((kind,), count) for kind, count in row.counts),
    ),
    gauges(
        "container_fs_usage_bytes",
        "Disk space used by a container's writable layer (GET /system/df: SizeRw); only with"
        " --containers.disk-usage-interval.",
        DiskUsage,
        ("name", "image"),
        lambda row: row.layers,
    ),
)

METRICS: tuple[Metric[Any], ...] = (*_ENGINE, *_STATE, *RESOURCES, *_DISK_USAGE)

# The metrics of containers that cgroups have, too.
_CGROUP_PREFIXES = ("container_cpu_u", "container_cpu_s", "container_memory_")


def _of_cgroup(metric: Metric[Any]) -> Metric[CgroupUsage]:
    """Returns a container's metric as that of a cgroup: `cgroup_…`."""
    get = metric.get
    return Metric(
        f"cgroup_{metric.name.removeprefix('container_')}",
        metric.type,
        metric.help,
        CgroupUsage,
        lambda row: get(row.usage),
    )


# Not exported: what only dialects export.
DIALECT_METRICS: tuple[Metric[Any], ...] = tuple(
    _of_cgroup(metric)
    for metric in RESOURCES
    if metric.name.startswith(_CGROUP_PREFIXES) and not metric.labels
)
