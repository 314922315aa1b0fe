"""A container's identity and state, from the engine's list and `inspect`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from exporter.sources.containers.engine.api_types import (
    MAX_LABEL_VALUE_LENGTH,
    ContainerInspect,
    ContainerSummary,
    label_value,
    parse_timestamp,
    valid_unicode,
)
from exporter.sources.containers.engine.gpu_request import parse_gpu_request
from exporter.sources.containers.engine.lenient_json import MAX_NAME_LENGTH, json_integer, json_text
from exporter.sources.containers.engine.network import parse_network
from exporter.sources.containers.reading import (
    NO_LIMITS,
    NO_NETWORK,
    GpuRequest,
    Network,
    ResourceLimits,
)

# Prefix of the container labels that configure this exporter.
HINT_PREFIX = "inference-exporter."
_COMPOSE_LABELS = ("com.docker.compose.project", "com.docker.compose.service")
_INVALID_IN_LABEL_NAME = re.compile(r"[^A-Za-z0-9_]")
# Bounds of the values kept per container.
_MAX_HINTS, _MAX_LABEL_LENGTH = 20, 256
# Of a container whose labels are all exported.
_MAX_LABELS = 64
ALL_LABELS = "*"
"""In place of the names of labels to export."""
# The kernel's default, in microseconds: for a CPU share (NanoCpus) without a period.
_DEFAULT_CPU_PERIOD = 100_000


# Of a running container; no process has it.
UNKNOWN_PID = -1


@dataclass(frozen=True, slots=True)
class ContainerDescription:
    """A container according to its last `inspect`.

    pid: process ID of its first process on the host; 0 while it is not running, UNKNOWN_PID if the
        engine does not report it.
    started, finished: Unix timestamps in seconds, None if unknown.
    allowed_labels: (label name on the page, value).
    has_memory_limit: whether a memory limit is configured.
    limits: configured resource limits; the effective ones are in the cgroup files.
    pod, namespace, container, pod_uid, cgroup: as in reading.Container.
    pod_image: image of the pod's pause container.
    oom_killed_before: whether the OOM killer ended the container that this one has replaced.
    """

    id: str
    name: str
    image: str
    image_id: str
    compose_project: str
    compose_service: str
    pid: int
    started: float | None
    has_memory_limit: bool
    network: Network = NO_NETWORK
    gpu_request: GpuRequest | None = None
    hints: tuple[tuple[str, str], ...] = ()
    allowed_labels: tuple[tuple[str, str], ...] = ()
    state: str = ""
    healthy: bool | None = None
    restarts: int | None = None
    exit_code: int | None = None
    oom_killed: bool | None = None
    finished: float | None = None
    cpu_shares: int | None = None
    limits: ResourceLimits = NO_LIMITS
    pod: str = ""
    namespace: str = ""
    container: str = ""
    pod_uid: str = ""
    pod_image: str = ""
    cgroup: str = ""
    oom_killed_before: bool = False

    @property
    def lasting_id(self) -> str:
        """Identifies it beyond restarts, which create another container in a pod."""
        return f"{self.pod_uid}/{self.name}" if self.pod else self.id

    @property
    def pod_labels(self) -> tuple[str, ...]:
        """The label values of the series of its pod, which is no container."""
        return (f"{self.namespace}/{self.pod}", self.pod_image, self.pod, self.namespace, "")

    @property
    def labels(self) -> tuple[str, ...]:
        """The label values of each of its series."""
        if not self.pod:
            return (self.name, self.image)
        return (self.name, self.image, self.pod, self.namespace, self.container)


def describe_container(
    summary: ContainerSummary, inspect: ContainerInspect, allowed_labels: Iterable[str] = ()
) -> ContainerDescription:
    """Joins both replies. allowed_labels: names of labels to export."""
    config, host_config, state = inspect.config or {}, inspect.host or {}, inspect.state
    # As the user named it; the image's tag may since have moved on.
    image = json_text(config.get("Image")) or valid_unicode(inspect.image_id)
    status = valid_unicode(state.status or summary.state)
    pid = state.pid
    if pid is None:
        pid = UNKNOWN_PID if status == "running" else 0
    health = state.health.status if state.health is not None else ""
    return ContainerDescription(
        id=summary.id,
        name=summary.name,
        image=image[:1024],
        image_id=valid_unicode(inspect.image_id)[:1024],
        compose_project=summary.label(_COMPOSE_LABELS[0]),
        compose_service=summary.label(_COMPOSE_LABELS[1]),
        pid=pid,
        started=parse_timestamp(state.started_at),
        has_memory_limit=_positive(host_config.get("Memory")) is not None,
        network=parse_network(host_config, inspect.network_settings),
        gpu_request=parse_gpu_request(config, host_config),
        hints=label_hints(summary.labels or {}),
        allowed_labels=labels_for_page(summary.labels or {}, allowed_labels),
        state=status,
        # Without a health check Podman reports the empty text, other engines `none`.
        healthy=health == "healthy" if health in ("healthy", "unhealthy", "starting") else None,
        restarts=json_integer(inspect.restarts, 0),
        exit_code=state.exit_code,
        oom_killed=state.oom_killed,
        finished=parse_timestamp(state.finished_at),
        cpu_shares=_positive(host_config.get("CpuShares")),
        limits=_configured_limits(host_config),
    )


def _configured_limits(host_config: Mapping[str, Any]) -> ResourceLimits:
    """Returns the limits of HostConfig, which uses 0 and -1 for no limit."""
    quota = _positive(host_config.get("CpuQuota"))
    period = _positive(host_config.get("CpuPeriod"))
    if quota is None and (share := _positive(host_config.get("NanoCpus"))) is not None:
        period = _DEFAULT_CPU_PERIOD
        quota = share * period // 10**9
    return ResourceLimits(
        memory=_positive(host_config.get("Memory")),
        memory_and_swap=_positive(host_config.get("MemorySwap")),
        memory_reservation=_positive(host_config.get("MemoryReservation")),
        cpu_quota=quota,
        cpu_period=(period or _DEFAULT_CPU_PERIOD) if quota is not None else None,
    )


def _positive(value: Any) -> int | None:
    return json_integer(value, 1)


def exported_labels(labels: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Returns the labels that a description may contain; the others are not kept.

    names: names of labels to export.
    """
    used = (*_hint_names(labels), *_COMPOSE_LABELS, *_exported_names(labels, names))
    return {name: labels[name][:MAX_LABEL_VALUE_LENGTH] for name in used if name in labels}


def _exported_names(labels: Mapping[str, str], names: Iterable[str]) -> list[str]:
    """Returns the names that the container has; of all, the first _MAX_LABELS by name."""
    names = tuple(names)
    named = [name for name in names if name in labels]
    if ALL_LABELS not in names:
        return named
    others = sorted(name for name in labels if len(name) <= MAX_NAME_LENGTH and name not in named)
    return [*named, *others[: max(0, _MAX_LABELS - len(named))]]


def label_hints(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Returns the labels that configure this exporter, as (rest of the name, value)."""
    return tuple(
        (valid_unicode(name[len(HINT_PREFIX) :]), label_value(labels, name))
        for name in _hint_names(labels)
    )


def _hint_names(labels: Mapping[str, str]) -> list[str]:
    names = [name for name in labels if name.startswith(HINT_PREFIX)]
    return [name for name in names if len(name) <= MAX_NAME_LENGTH][:_MAX_HINTS]


def labels_for_page(labels: Mapping[str, str], names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Returns the labels that the settings admit, by cAdvisor's label names."""
    exported: dict[str, str] = {}
    for name in _exported_names(labels, names):
        label_name = f"container_label_{_INVALID_IN_LABEL_NAME.sub('_', name)}"
        exported.setdefault(label_name, label_value(labels, name)[:_MAX_LABEL_LENGTH])
    return tuple(exported.items())
