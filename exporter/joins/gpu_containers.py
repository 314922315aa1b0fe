"""Which container uses which GPU, was to be given it, and took its energy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from exporter.joins.container_names import ContainerKey, ContainerNames
from exporter.joins.gpu_energy import GpuEnergy, GpuEnergyReading
from exporter.joins.gpu_inventory import GpuInventory, uuid_label
from exporter.joins.gpu_requests import GpuAssignments
from exporter.joins.reading import GpuUse
from exporter.model import Row, SourceStatus
from exporter.sources.containers.reading import Container
from exporter.sources.gpu.reading import GpuProcess, GpuRow

_MILLI = 1000
_NOT_GIVEN: frozenset[ContainerKey] = frozenset()


@dataclass(slots=True)
class _ContainerUse:
    """What one container does on one GPU, while it is added up.

    share: of the SMs' time, which may add up to more than all: samples are not of one moment.
    """

    memory: int | None = None
    share: float | None = None
    pids: set[int] = field(default_factory=set)

    def add(self, process: GpuProcess) -> None:
        self.pids.add(process.pid)
        if process.memory is not None:
            self.memory = (self.memory or 0) + process.memory
        if process.utilization is not None:
            self.share = (self.share or 0.0) + process.utilization


@dataclass(frozen=True, slots=True)
class JoinInput:
    """What the join is given. at: monotonic seconds. gpus: rows of GPUs and of their slices.

    engine_away: the engine does not answer, or the containers it lists cannot be read.
    """

    at: float
    gpus: Sequence[Row]
    containers: Sequence[Container]
    engine_away: bool = False
    statuses: Sequence[SourceStatus] = ()


class GpuContainers:
    """Follows the readings of both. No input, no output: it is given everything."""

    def __init__(self) -> None:
        self._names = ContainerNames()
        self._there = GpuInventory()
        self._assignments = GpuAssignments()
        self._energy = GpuEnergy()

    def rows(self, now: JoinInput) -> tuple[GpuUse, ...]:
        """A row for each container and GPU that it uses, was to be given, or took energy of.

        What is outside of any container stands under an empty name, where there is such. Of a GPU
        that is not read now only the assignments are known.
        """
        gpus = {row.labels[1]: row for row in now.gpus if isinstance(row, GpuRow)}
        processes = [process for gpu in gpus.values() for process in gpu.processes or ()]
        self._names.follow(now.containers, processes, now.at, away=now.engine_away)
        there = self._there.now(now.gpus, now.statuses)
        given = self._assignments.given(now.containers, there)
        uses = {uuid: self._uses(gpu) for uuid, gpu in gpus.items()}
        energy = self._energy.follow(
            {
                uuid: _energy_now(gpu, uses[uuid], given.get(uuid, _NOT_GIVEN))
                for uuid, gpu in gpus.items()
            },
            self._names.living,
        )
        rows = [
            row
            for uuid, gpu in gpus.items()
            for row in _rows(gpu, uses[uuid], given.get(uuid, _NOT_GIVEN), energy.get(uuid, {}))
        ]
        rows += (
            GpuUse((*who, index, uuid_label(uuid)), assigned=True)
            for index, uuid in there.by_index.items()
            if uuid not in gpus
            for who in given.get(uuid, _NOT_GIVEN)
        )
        return tuple(rows)

    def _uses(self, gpu: GpuRow) -> dict[ContainerKey, _ContainerUse]:
        uses: dict[ContainerKey, _ContainerUse] = {}
        for process in gpu.processes or ():
            uses.setdefault(self._names.of(process), _ContainerUse()).add(process)
        return uses


def _energy_now(
    gpu: GpuRow, uses: Mapping[ContainerKey, _ContainerUse], given: Iterable[ContainerKey]
) -> GpuEnergyReading:
    counter = gpu.values.get("energy")
    # Of a GPU in slices there is no telling whose share of the whole a process has.
    shares = {} if gpu.values.get("mig_mode") else uses
    return GpuEnergyReading(
        None if counter is None else round(counter * _MILLI),
        {who: use.share for who, use in shares.items() if use.share is not None},
        {*uses, *given},
    )


def _rows(
    gpu: GpuRow,
    uses: Mapping[ContainerKey, _ContainerUse],
    given: AbstractSet[ContainerKey],
    energy: Mapping[ContainerKey, int],
) -> Iterable[GpuUse]:
    # Where nothing is hidden, a container that is given a GPU and not listed does not use it.
    idle = _ContainerUse(memory=0) if gpu.values.get("process_visibility") == 1 else None
    for who in dict.fromkeys((*uses, *given, *energy)):
        use = uses.get(who, idle if who in given else None)
        share = None if use is None else use.share
        yield GpuUse(
            (*who, *gpu.labels),
            memory=None if use is None else use.memory,
            utilization=None if share is None else min(1.0, share),
            processes=None if use is None else len(use.pids),
            assigned=who in given,
            energy=energy.get(who),
        )
