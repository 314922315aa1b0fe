"""GPU use by container: memory, utilization and processes, assigned GPUs, and energy."""

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
from exporter.sources.gpu.reading import GpuProcess, GpuRow, MemoryLimits

_MILLIJOULES = 1000
_NOT_ASSIGNED: frozenset[ContainerKey] = frozenset()


@dataclass(slots=True)
class _ContainerUse:
    """Sums over the processes of one container on one GPU.

    share: of the SMs' time; may exceed 1, as the processes' samples are of different times.
    """

    memory: int | None = None
    share: float | None = None
    limits: MemoryLimits | None = None
    pids: set[int] = field(default_factory=set)

    def add(self, process: GpuProcess) -> None:
        self.pids.add(process.pid)
        if process.memory is not None:
            self.memory = (self.memory or 0) + process.memory
        if process.utilization is not None:
            self.share = (self.share or 0.0) + process.utilization


@dataclass(frozen=True, slots=True)
class JoinInput:
    """The current readings. at: monotonic seconds. gpus: rows of GPUs and MIG devices.

    ids: of all the engine's containers, also of those that are not exported. engine_down: the
    containers are not known, as the engine or their resources cannot be read.
    """

    at: float
    gpus: Sequence[Row]
    containers: Sequence[Container]
    engine_down: bool = False
    ids: frozenset[str] = frozenset()
    statuses: Sequence[SourceStatus] = ()


class GpuContainers:
    """Joins GPUs and containers. Keeps names and energy from one reading to the next; no I/O."""

    def __init__(self) -> None:
        self._names = ContainerNames()
        self._inventory = GpuInventory()
        self._assignments = GpuAssignments()
        self._energy = GpuEnergy()

    def rows(self, readings: JoinInput) -> tuple[GpuUse, ...]:
        """Returns a row for each container and GPU that it uses, is assigned, or used energy of.

        Processes outside of containers have an empty name, if the GPU has such processes. A GPU
        without a current reading has only its assignments.
        """
        gpus = {row.labels[1]: row for row in readings.gpus if isinstance(row, GpuRow)}
        processes = [process for gpu in gpus.values() for process in gpu.processes or ()]
        self._names.update(
            readings.containers,
            processes,
            readings.at,
            engine_down=readings.engine_down,
            ids=readings.ids,
        )
        known = self._inventory.update(readings.gpus, readings.statuses)
        assigned = self._assignments.containers_by_gpu(readings.containers, known)
        uses = {uuid: self._uses(gpu) for uuid, gpu in gpus.items()}
        energy = self._energy.update(
            {
                uuid: _energy_reading(gpu, uses[uuid], assigned.get(uuid, _NOT_ASSIGNED))
                for uuid, gpu in gpus.items()
            },
            self._names.existing,
        )
        rows = [
            row
            for uuid, gpu in gpus.items()
            for row in _rows(
                gpu, uses[uuid], assigned.get(uuid, _NOT_ASSIGNED), energy.get(uuid, {})
            )
        ]
        rows += (
            GpuUse(_labels(key, (index, uuid_label(uuid))), assigned=True)
            for index, uuid in known.by_index.items()
            if uuid not in gpus
            for key in assigned.get(uuid, _NOT_ASSIGNED)
        )
        return tuple(rows)

    def _uses(self, gpu: GpuRow) -> dict[ContainerKey, _ContainerUse]:
        uses: dict[ContainerKey, _ContainerUse] = {}
        for process in gpu.processes or ():
            use = uses.setdefault(self._names.name_of(process), _ContainerUse())
            use.add(process)
            if gpu.memory_limits and use.limits is None:
                limits = map(gpu.memory_limits.get, self._names.cgroups_of(process))
                use.limits = next(filter(None, limits), None)
        return uses


def _labels(key: ContainerKey, gpu_labels: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the labels of GpuUse: those of the container's pod, if it has one, are the last."""
    name, image, *pod = key
    return (name, image, *gpu_labels, *pod)


def _energy_reading(
    gpu: GpuRow, uses: Mapping[ContainerKey, _ContainerUse], assigned: Iterable[ContainerKey]
) -> GpuEnergyReading:
    counter = gpu.values.get("energy")
    # With MIG the processes' shares of the whole GPU are unknown.
    shared_uses = {} if gpu.values.get("mig_mode") else uses
    return GpuEnergyReading(
        None if counter is None else round(counter * _MILLIJOULES),
        {key: use.share for key, use in shared_uses.items() if use.share is not None},
        {*uses, *assigned},
    )


def _rows(
    gpu: GpuRow,
    uses: Mapping[ContainerKey, _ContainerUse],
    assigned: AbstractSet[ContainerKey],
    energy: Mapping[ContainerKey, int],
) -> Iterable[GpuUse]:
    # If all processes are visible, a container with an assigned GPU and no process is idle.
    idle = _ContainerUse(memory=0) if gpu.values.get("process_visibility") == 1 else None
    for key in dict.fromkeys((*uses, *assigned, *energy)):
        use = uses.get(key, idle if key in assigned else None)
        share = None if use is None else use.share
        yield GpuUse(
            _labels(key, gpu.labels),
            memory=None if use is None else use.memory,
            utilization=None if share is None else min(1.0, share),
            processes=None if use is None else len(use.pids),
            assigned=key in assigned,
            energy=energy.get(key),
            memory_limits=(
                (None, None)
                if use is None or use.limits is None
                else (use.limits.soft, use.limits.hard)
            ),
        )
