"""The joins as a source: its targets read only the current readings of other sources."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from exporter.context import Context
from exporter.errors import NotYet
from exporter.joins.gpu_containers import GpuContainers, JoinInput
from exporter.joins.gpu_health import gpu_facts, gpu_health, health_problems
from exporter.joins.gpu_inventory import GpuInventory
from exporter.joins.triton_instances import server_containers, triton_instances
from exporter.joins.triton_servers import running_containers
from exporter.model import Metric, Reading, Row, SourceStatus, Target, Up
from exporter.settings import SourceSettings
from exporter.sources.containers.reading import Container, EngineRow
from exporter.sources.triton.reading import ConfigRow, ServerAddressRow


class GpuContainersTarget:
    """GPU use by container. Without `up`: the joined sources have one."""

    name = "gpu_containers"
    up: Metric[Up] | None = None
    up_labels: tuple[str, ...] = ()

    def __init__(self, context: Context) -> None:
        self._context = context
        self._join = GpuContainers(context.gpu_pods)

    async def read(self) -> Reading:
        """Joins the current readings; not a failure if they are empty."""
        statuses = self._context.statuses()
        rows = _rows(self._context, "containers")
        readings = JoinInput(
            monotonic(),
            _rows(self._context, "gpu"),
            [row for row in rows if isinstance(row, Container)],
            engine_down=not _containers_known(statuses),
            ids=frozenset().union(*(row.ids for row in rows if isinstance(row, EngineRow))),
            statuses=statuses,
            devices=_rows(self._context, "kubelet"),
        )
        return Reading(self._join.rows(readings))


class GpuHealthTarget:
    """The verdict on each GPU. Without `up`: the joined source has one."""

    name = "gpu_health"
    up: Metric[Up] | None = None
    up_labels: tuple[str, ...] = ()

    def __init__(self, context: Context) -> None:
        self._context = context

    async def read(self) -> Reading:
        """Applies the rules to the current readings; not a failure if they are empty."""
        gpus = gpu_facts(_rows(self._context, "gpu"), self._context.statuses())
        return Reading(
            tuple(gpu_health(facts) for facts in gpus),
            health_problems=tuple(problem for facts in gpus for problem in health_problems(facts)),
        )


class TritonInstancesTarget:
    """The GPUs of the models' instances, and the containers of the Triton servers."""

    name = "triton_instances"
    up: Metric[Up] | None = None
    up_labels: tuple[str, ...] = ()

    def __init__(self, context: Context) -> None:
        self._context = context
        self._inventory = GpuInventory()
        self._containers_seen = False

    async def read(self) -> Reading:
        """Joins the current readings; not a failure if they are empty."""
        rows = _rows(self._context, "triton")
        gpus = self._inventory.update(_rows(self._context, "gpu"), self._context.statuses())
        engines = self._context.readings("containers")
        self._containers_seen = self._containers_seen or bool(engines)
        # The reading of the target "resources" has the containers, that of "engine" has none.
        containers_missing = self._containers_seen and "resources" not in engines
        servers = [row for row in rows if isinstance(row, ServerAddressRow)]
        containers = running_containers(engines)
        instances = triton_instances(
            servers,
            (row for row in rows if isinstance(row, ConfigRow)),
            containers,
            gpus,
            containers_missing=containers_missing,
        )
        return Reading((*instances, *server_containers(servers, containers)))


class JoinsSource:
    """The source of the joins: a target for each join."""

    name = "joins"

    def __init__(self, context: Context) -> None:
        self._context = context
        self._targets: dict[str, tuple[Target, ...]] = {
            "gpu": (GpuContainersTarget(context), GpuHealthTarget(context)),
            "triton": (TritonInstancesTarget(context),),
        }
        """The joins by the source they need."""
        self._available: set[str] = set()
        """The keys of `_targets` whose source has had a reading."""

    async def discover(self) -> Sequence[Target]:
        """Returns the joins whose source has had a reading. Raises NotFound if none has."""
        self._available |= {source for source in self._targets if self._context.readings(source)}
        if not self._available:
            raise NotYet("no GPU and no Triton model has been read")
        return [
            target
            for source, targets in self._targets.items()
            if source in self._available
            for target in targets
        ]

    async def close(self) -> None:
        """Ends the labels of pods, which no poll would change any more."""
        self._context.gpu_pods.update({})


def _containers_known(statuses: Sequence[SourceStatus]) -> bool:
    """Whether all containers are in the current readings: the engine and their resources are up."""
    targets = [
        target for status in statuses if status.name == "containers" for target in status.targets
    ]
    up = {target.name for target in targets if target.health.up}
    return up >= {"engine", "resources"}


def _rows(context: Context, source: str) -> list[Row]:
    return [row for reading in context.readings(source).values() for row in reading.rows]


def build(settings: SourceSettings, context: Context) -> JoinsSource:  # noqa: ARG001 - every source's build has this signature
    return JoinsSource(context)
