"""Who a container is and how it fares, as the engine describes it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from exporter.errors import BadData
from exporter.sources.containers.engine.api_types import (
    Inspected,
    Listed,
    time_stamp,
    valid_unicode,
)
from exporter.sources.containers.engine.gpu_request import gpu_request
from exporter.sources.containers.engine.network import network
from exporter.sources.containers.reading import (
    NO_LIMITS,
    NO_NETWORK,
    GpuRequest,
    Network,
    ResourceLimits,
)

# The labels that a person sets for this program.
HINTS = "inference-exporter."
_NO_LABEL = re.compile(r"[^A-Za-z0-9_]")
# Bounds of what one container may make us keep.
_MOST_HINTS, _LONGEST_LABEL = 20, 256
# The kernel's own, in microseconds, where a share of the CPUs was asked for and no period.
_USUAL_PERIOD = 100_000


@dataclass(frozen=True, slots=True)
class ContainerDescription:
    """A container as the engine described it last.

    pid: process ID of its first process on the host; 0 while it is not running.
    started, finished: Unix time stamps in seconds, None where not known.
    limited: whether a memory limit was set. allowed_labels: (name on the page, value).
    bounds: those that were asked for; what the kernel made of them is in its files.
    """

    id: str
    name: str
    image: str
    image_id: str
    compose_project: str
    compose_service: str
    pid: int
    started: float | None
    limited: bool
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
    bounds: ResourceLimits = NO_LIMITS

    @property
    def labels(self) -> tuple[str, str]:
        """The labels of each of its series."""
        return (self.name, self.image)


def describe_container(
    listed: Listed, inspected: Inspected, allowed: Iterable[str] = ()
) -> ContainerDescription:
    """Join both replies. allowed: the labels to show. Raises BadData."""
    # As the user named it; an image's tag may since have moved on. Never empty.
    named = inspected.config.get("Image")
    if not isinstance(named, str):
        raise BadData(f"container {listed.id[:12]}: Config.Image is no text")
    image = valid_unicode(named) or valid_unicode(inspected.image_id)
    host = inspected.host or {}
    state = inspected.state
    health = state.health.status if state.health is not None else ""
    return ContainerDescription(
        id=listed.id,
        name=listed.name,
        image=image[:1024],
        image_id=valid_unicode(inspected.image_id)[:1024],
        compose_project=listed.label("com.docker.compose.project"),
        compose_service=listed.label("com.docker.compose.service"),
        pid=state.pid,
        started=time_stamp(state.started_at),
        limited=_positive(host.get("Memory")) is not None,
        network=network(host, inspected.network_settings, inspected.config),
        gpu_request=gpu_request(inspected.config, host),
        hints=_hints(listed),
        allowed_labels=_allowed(listed, allowed),
        state=valid_unicode(state.status or listed.state),
        # Podman says the empty text, others `none`, where there is no check.
        healthy=health == "healthy" if health in ("healthy", "unhealthy", "starting") else None,
        restarts=inspected.restarts if _positive(inspected.restarts, 0) is not None else None,
        exit_code=state.exit_code,
        oom_killed=state.oom_killed,
        finished=time_stamp(state.finished_at),
        cpu_shares=_positive(host.get("CpuShares")),
        bounds=_bounds(host),
    )


def _bounds(host: Mapping[str, Any]) -> ResourceLimits:
    """What HostConfig asks for; 0 and -1 stand for no bound."""
    quota, period = _positive(host.get("CpuQuota")), _positive(host.get("CpuPeriod"))
    if quota is None and (share := _positive(host.get("NanoCpus"))) is not None:
        period = _USUAL_PERIOD
        quota = share * period // 10**9
    return ResourceLimits(
        memory=_positive(host.get("Memory")),
        memory_and_swap=_positive(host.get("MemorySwap")),
        memory_reservation=_positive(host.get("MemoryReservation")),
        cpu_quota=quota,
        cpu_period=(period or _USUAL_PERIOD) if quota is not None else None,
    )


def _positive(number: object, least: int = 1) -> int | None:
    fits = isinstance(number, int) and least <= number < 1 << 63
    return number if fits and isinstance(number, int) else None


def _hints(listed: Listed) -> tuple[tuple[str, str], ...]:
    found = [name for name in listed.labels or () if name.startswith(HINTS)]
    return tuple(
        (valid_unicode(name[len(HINTS) :]), listed.label(name)) for name in found[:_MOST_HINTS]
    )


def _allowed(listed: Listed, names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """The labels that the settings let through, by the name cAdvisor gives them."""
    found: dict[str, str] = {}
    for name in names:
        if name in (listed.labels or ()):
            safe = f"container_label_{_NO_LABEL.sub('_', name)}"
            found.setdefault(safe, listed.label(name)[:_LONGEST_LABEL])
    return tuple(found.items())
