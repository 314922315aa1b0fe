"""The metrics of the containers source: cAdvisor's names and meaning."""

from __future__ import annotations

from typing import Any

from exporter.model import Metric, counter, gauge, info, up
from exporter.sources.containers.reading import Container

ENGINE_UP = up(
    "container_engine_up",
    "Whether the container engine answers (Docker Engine API, GET /containers/json).",
)
RESOURCES_UP = up(
    "container_resources_up",
    "Whether what containers use can be read (cgroup files; where those are out of reach,"
    " the engine's GET /containers/ID/stats).",
)

METRICS: tuple[Metric[Any], ...] = (
    ENGINE_UP,
    RESOURCES_UP,
    info(
        "container_info",
        "Identity of a running container (inspect's Id, Image; labels com.docker.compose.project,"
        " com.docker.compose.service).",
        Container,
        ("id", "image_id", "compose_project", "compose_service"),
        lambda row: (row.id, row.image_id, row.compose_project, row.compose_service),
    ),
    counter(
        "container_cpu_usage_seconds_total",
        "CPU time used since the container started (cgroup v1 cpuacct.usage, v2 cpu.stat"
        " usage_usec).",
        Container,
        lambda row: row.cpu_usage,
    ),
    gauge(
        "container_memory_usage_bytes",
        "Memory in use, page cache included (cgroup v1 memory.usage_in_bytes, v2 memory.current).",
        Container,
        lambda row: row.memory_usage,
    ),
    gauge(
        "container_memory_working_set_bytes",
        "Memory in use less inactive page cache (memory.stat total_inactive_file on cgroup v1,"
        " inactive_file on v2).",
        Container,
        lambda row: row.memory_working_set,
    ),
    gauge(
        "container_spec_memory_limit_bytes",
        "Memory limit, where one is set (cgroup v1 memory.limit_in_bytes, v2 memory.max).",
        Container,
        lambda row: row.memory_limit,
    ),
    gauge(
        "container_start_time_seconds",
        "When the container was started, as a Unix time stamp (inspect's State.StartedAt).",
        Container,
        lambda row: row.started,
    ),
)
