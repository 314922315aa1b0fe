"""Sums over the processes that one owner, a container or a server, has on one GPU. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from exporter.joins.container_names import ContainerKey
from exporter.joins.gpu_energy import GpuEnergyReading
from exporter.sources.gpu.reading import GpuProcess, GpuRow, MemoryLimits

_MILLIJOULES = 1000


@dataclass(slots=True)
class GpuProcessSums:
    """memory: bytes. share: of the SMs' time; may exceed 1, as the samples are of different times.

    None: unknown.
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

    @property
    def utilization(self) -> float | None:
        """The share, 1 at most."""
        return None if self.share is None else min(1.0, self.share)


def energy_reading(
    gpu: GpuRow, uses: Mapping[ContainerKey, GpuProcessSums], others: Iterable[ContainerKey] = ()
) -> GpuEnergyReading:
    """Returns the reading of a GPU's energy account. others: further owners that get a series."""
    counter = gpu.values.get("energy")
    return GpuEnergyReading(
        None if counter is None else round(counter * _MILLIJOULES),
        {key: use.share for key, use in uses.items() if use.share is not None},
        {*uses, *others},
    )
