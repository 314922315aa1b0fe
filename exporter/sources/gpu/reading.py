"""The lines of a GPU's reading: plain numbers in base units. What the card does not give is absent.

Values are kept by key. The tables `questions.py`, `fields.py` and `gpm.py` say where each comes
from, `metrics.py` how it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from exporter.model import LabelValues, Number

UNIDENTIFIED = "index "
"""Begins the name of a target whose GPU did not yet say its UUID; the others' name is that."""


@dataclass(frozen=True, slots=True)
class GpuIdentity:
    """What a GPU is; an empty text is what the driver does not say."""

    name: str = ""
    pci_bus_id: str = ""
    driver_version: str = ""
    cuda_version: str = ""
    vbios_version: str = ""
    nvml_version: str = ""
    brand: str = ""
    serial: str = ""
    compute_capability: str = ""
    inforom_image_version: str = ""
    inforom_oem_version: str = ""
    inforom_ecc_version: str = ""
    inforom_power_version: str = ""


class Keyed(Protocol):
    """Where a value belongs in a row: its key, and its own labels if it is one of several."""

    @property
    def key(self) -> str: ...

    @property
    def labels(self) -> LabelValues: ...


@dataclass(slots=True)
class GpuValues:
    """Values while they are read: `plain` by key; `parts` by key, then by their own labels."""

    plain: dict[str, Number] = field(default_factory=dict)
    parts: dict[str, dict[LabelValues, Number]] = field(default_factory=dict)

    def add(self, where: Keyed, number: Number) -> None:
        """Note a value; values of the same key and labels (those of several links) add up."""
        if not where.labels:
            self.plain[where.key] = number
            return
        parts = self.parts.get(where.key)
        if parts is None:
            parts = self.parts[where.key] = {}
        if where.labels in parts:
            number += parts[where.labels]
        parts[where.labels] = number

    def copy(self) -> GpuValues:
        """Values to be added to, while these stay as they are."""
        return GpuValues(dict(self.plain), {key: dict(part) for key, part in self.parts.items()})


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that uses a GPU, as our PID namespace knows it.

    gpu_instance: of MIG; None without. memory: bytes, None where the driver does not say.
    utilization: share of the SMs' time, 0 to 1: 0 where the driver has samples but none of it, for
        it has one of each process that used some; None where it cannot be known.
    containers: IDs of the containers it is in, outermost first; empty outside of any.
    """

    pid: int
    gpu_instance: int | None = None
    memory: int | None = None
    utilization: float | None = None
    containers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GpuRow:
    """One GPU now. processes: None where the driver does not list them."""

    LABELS: ClassVar[tuple[str, ...]] = ("gpu", "uuid")
    labels: tuple[str, ...]
    identity: GpuIdentity
    values: Mapping[str, Number]
    parts: Mapping[str, Mapping[LabelValues, Number]]
    processes: tuple[GpuProcess, ...] | None = None


@dataclass(frozen=True, slots=True)
class MigRow:
    """One MIG slice (a compute instance) now; `uuid` is the GPU's, as in every other row.

    mig_uuid: the slice's own. values: as of a GpuRow.
    """

    LABELS: ClassVar[tuple[str, ...]] = (
        "gpu",
        "uuid",
        "gpu_instance",
        "compute_instance",
        "profile",
    )
    labels: tuple[str, ...]
    mig_uuid: str
    values: Mapping[str, Number]
