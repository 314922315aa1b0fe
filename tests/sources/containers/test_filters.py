"""The limit of exported containers: those that run precede those that do not."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from exporter.sources.containers.filters import ContainerFilters
from exporter.sources.containers.settings import Settings


@dataclass(frozen=True, slots=True)
class Listed:
    """An element of an engine's list. created: a number that is higher for a newer container."""

    id: str
    state: str
    created: int
    name: str = "web"
    labels: dict[str, str] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        *((state, "newer") for state in ("running", "paused", "restarting", "stopping")),
        *((state, "older") for state in ("created", "exited", "dead", "removing")),
        # Podman's: before its first start, and until its cleanup.
        *((state, "older") for state in ("configured", "initialized", "stopped")),
    ],
)
def test_a_running_container_precedes_a_newer_one_that_does_not_run(state: str, kept: str) -> None:
    containers = (Listed("older", "running", 1), Listed("newer", state, 2))
    summaries = {container.id: container for container in containers}
    filtered = ContainerFilters(Settings(max_containers=1)).apply(summaries, {})
    assert (set(filtered.summaries), filtered.over_limit) == ({kept}, 1)
