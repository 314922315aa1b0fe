"""The joins, polled like a source: it reads nothing but what the sources have published."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from exporter.context import Context
from exporter.errors import NotYet
from exporter.joins.gpu_containers import GpuContainers, JoinInput
from exporter.joins.gpu_inventory import GpuInventory
from exporter.joins.triton_instances import server_containers, triton_instances
from exporter.joins.triton_servers import running_containers
from exporter.model import Metric, Reading, Row, SourceStatus, Target, Up
from exporter.settings import SourceSettings
from exporter.sources.containers.reading import Container
from exporter.sources.triton.reading import ConfigRow, ServerAddressRow


class GpuContainersTarget:
    """Which container uses which GPU. A target without an `up` of its own: its sources have one."""

    name = "gpu_containers"
    up: Metric[Up] | None = None
    up_labels: tuple[str, ...] = ()

    def __init__(self, context: Context) -> None:
        self._context = context
        self._join = GpuContainers()

    async def read(self) -> Reading:
        """Join what there is now; nothing is no failure."""
        statuses = self._context.statuses()
        now = JoinInput(
            monotonic(),
            _rows(self._context, "gpu"),
            [row for row in _rows(self._context, "containers") if isinstance(row, Container)],
            engine_away=not _all_listed(statuses),
            statuses=statuses,
        )
        return Reading(self._join.rows(now))


class TritonInstancesTarget:
    """Which GPUs the models' instances run on, and which containers their servers are in."""

    name = "triton_instances"
    up: Metric[Up] | None = None
    up_labels: tuple[str, ...] = ()

    def __init__(self, context: Context) -> None:
        self._context = context
        self._there = GpuInventory()
        self._containers_seen = False

    async def read(self) -> Reading:
        """Join what there is now; nothing is no failure."""
        servers = _rows(self._context, "triton")
        there = self._there.now(_rows(self._context, "gpu"), self._context.statuses())
        engines = self._context.readings("containers")
        self._containers_seen = self._containers_seen or bool(engines)
        # The engine's own reading lists none of them.
        containers_away = self._containers_seen and "resources" not in engines
        places = [row for row in servers if isinstance(row, ServerAddressRow)]
        containers = running_containers(engines)
        instances = triton_instances(
            places,
            (row for row in servers if isinstance(row, ConfigRow)),
            containers,
            there,
            containers_away=containers_away,
        )
        return Reading((*instances, *server_containers(places, containers)))


class JoinsSource:
    """One target for each join."""

    name = "joins"

    def __init__(self, context: Context) -> None:
        self._context = context
        self._targets: dict[str, Target] = {
            "gpu": GpuContainersTarget(context),
            "triton": TritonInstancesTarget(context),
        }
        self._found: set[str] = set()

    async def discover(self) -> Sequence[Target]:
        """The joins of which there has been something to join. Raises NotFound."""
        self._found |= {source for source in self._targets if self._context.readings(source)}
        if not self._found:
            raise NotYet("neither a GPU nor a model has been read, so there is nothing to join")
        return [target for source, target in self._targets.items() if source in self._found]

    async def close(self) -> None:
        """There is nothing to let go of."""


def _all_listed(statuses: Sequence[SourceStatus]) -> bool:
    """Whether every container there is is listed now: the engine and what reads them answer."""
    found = [status.targets for status in statuses if status.name == "containers"]
    up = {target.name for targets in found for target in targets if target.health.up}
    return up >= {"engine", "resources"}


def _rows(context: Context, source: str) -> list[Row]:
    return [row for reading in context.readings(source).values() for row in reading.rows]


def build(settings: SourceSettings, context: Context) -> JoinsSource:  # noqa: ARG001 - as every source
    """Make it; touches nothing."""
    return JoinsSource(context)
