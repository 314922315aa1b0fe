"""Which container uses which GPU. A pure function of two readings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from exporter.joins.gpu_requests import Gpus, assigned
from exporter.joins.reading import GpuUse
from exporter.sources.containers.reading import Container
from exporter.sources.gpu.reading import GpuRow, MigRow, Process

# Of a container that no engine knows, this much of its ID is its name, as Docker's tools write it.
_SHORT_ID = 12
_OUTSIDE = ("", "")

Who = tuple[str, ...]
"""A container's name and image."""


@dataclass(slots=True)
class _Use:
    """What one container does on one GPU, while it is added up."""

    memory: int | None = None
    utilization: float | None = None
    pids: set[int] = field(default_factory=set)

    def add(self, process: Process) -> None:
        self.pids.add(process.pid)
        if process.memory is not None:
            self.memory = (self.memory or 0) + process.memory
        if process.utilization is not None:
            self.utilization = min(1.0, (self.utilization or 0.0) + process.utilization)


def gpu_containers(
    gpus: Iterable[GpuRow], slices: Iterable[MigRow], containers: Sequence[Container]
) -> tuple[GpuUse, ...]:
    """A row for each container and GPU it uses or was to be given.

    What is outside of any container stands under an empty name, where there is such.
    """
    gpus = list(gpus)
    who = {one.id: one.labels for one in containers}
    given = _given(gpus, slices, containers)
    rows: list[GpuUse] = []
    for gpu in gpus:
        uses: dict[Who, _Use] = {}
        for process in gpu.processes or ():
            uses.setdefault(_who(process, who), _Use()).add(process)
        index, uuid = gpu.labels
        # Where nothing is hidden, a container that is given a GPU and not listed does not use it.
        idle = _Use() if gpu.values.get("process_visibility") == 1 else None
        for labels in dict.fromkeys((*uses, *given.get(uuid, ()))):
            use = uses.get(labels, idle)
            rows.append(
                GpuUse(
                    (*labels, index, uuid),
                    memory=None if use is None else 0 if use is idle else use.memory,
                    utilization=None if use is None else use.utilization,
                    processes=None if use is None else len(use.pids),
                    assigned=labels in given.get(uuid, ()),
                )
            )
    return tuple(rows)


def _who(process: Process, known: dict[str, Who]) -> Who:
    """The innermost container that the engine knows; else the innermost, by its ID."""
    for container in reversed(process.containers):
        if container in known:
            return known[container]
    if process.containers:
        return (process.containers[-1][:_SHORT_ID], "")
    return _OUTSIDE


def _given(
    gpus: Iterable[GpuRow], slices: Iterable[MigRow], containers: Iterable[Container]
) -> dict[str, set[Who]]:
    """By a GPU's UUID: the containers that were to be given it."""
    there = Gpus(
        {gpu.labels[0]: gpu.labels[1] for gpu in gpus},
        {one.mig_uuid: one.labels[1] for one in slices},
    )
    given: dict[str, set[Who]] = {}
    for one in containers:
        for uuid in assigned(one.gpu_request, there):
            given.setdefault(uuid, set()).add(one.labels)
    return given
