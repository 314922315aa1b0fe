"""The rows of a GPU's reading: numbers in base units by key. Unsupported values are missing.

The tables `nvml/calls.py`, `nvml/fields.py`, `nvml/gpm.py` and the readers of `nvml/structs.py`
produce the keys; `metrics.py` declares the metric of each key.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from exporter.cgroup_owner import ContainerCgroups
from exporter.model import LabelValues, Number

UNIDENTIFIED = "index "
"""Prefix of the target name of a GPU whose UUID is unknown; other targets are named by UUID."""


@dataclass(frozen=True, slots=True)
class GpuIdentity:
    """The labels of gpu_info; empty for what the driver does not report."""

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
    module_id: str = ""


class Keyed(Protocol):
    """A value's position in a row: its key, and its labels if the key has several values."""

    @property
    def key(self) -> str: ...

    @property
    def labels(self) -> LabelValues: ...


@dataclass(slots=True)
class GpuValues:
    """The values of a reading in progress.

    scalars: by key. labelled: by key, then by label values.
    """

    scalars: dict[str, Number] = field(default_factory=dict)
    labelled: dict[str, dict[LabelValues, Number]] = field(default_factory=dict)

    def add(self, spec: Keyed, number: Number) -> None:
        """Adds a value; values with the same key and labels (of several links) are summed."""
        if not spec.labels:
            self.scalars[spec.key] = number
            return
        by_labels = self.labelled.get(spec.key)
        if by_labels is None:
            by_labels = self.labelled[spec.key] = {}
        if spec.labels in by_labels:
            number += by_labels[spec.labels]
        by_labels[spec.labels] = number

    def update(self, other: GpuValues) -> None:
        """Adds all values of another reading, which must not change any more."""
        self.scalars |= other.scalars
        for key, by_labels in other.labelled.items():
            own = self.labelled.get(key)
            self.labelled[key] = by_labels if own is None else own | by_labels


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that uses a GPU, with its PID in the exporter's PID namespace.

    gpu_instance: the MIG GPU instance; None without MIG. memory: bytes; None if unknown.
    utilization: SM utilization, 0 to 1; 0 without a sample, since the driver has a sample of every
        process with utilization; None if unknown.
    containers: the container IDs in its cgroup paths, of which one owns it (owning_container);
        empty outside of containers.
    """

    pid: int
    gpu_instance: int | None = None
    memory: int | None = None
    utilization: float | None = None
    containers: ContainerCgroups = ()


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """Limits of a cgroup's memory on a GPU, in bytes; None: no limit."""

    soft: int | None
    hard: int | None


def _changed(new: Mapping[str, object], old: Mapping[str, object]) -> set[str]:
    before = map(old.get, new)
    changed = {key for (key, value), last in zip(new.items(), before, strict=True) if value != last}
    return changed | (old.keys() - new.keys())


@dataclass(frozen=True, slots=True)
class GpuRow:
    """The values of one GPU.

    values: by key. labelled: by key, then by label values. processes: None if not listed.
    memory_limits: by cgroup path of a container, of those with a limit.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("gpu", "uuid")
    labels: tuple[str, ...]
    identity: GpuIdentity
    values: Mapping[str, Number]
    labelled: Mapping[str, Mapping[LabelValues, Number]]
    processes: tuple[GpuProcess, ...] | None = None
    memory_limits: Mapping[str, MemoryLimits] = field(default_factory=dict)

    def changed_keys(self, previous: GpuRow) -> Collection[str]:
        """Returns the keys whose values differ from those of a previous row."""
        values = _changed(self.values, previous.values)
        return values | _changed(self.labelled, previous.labelled)


@dataclass(frozen=True, slots=True)
class GpuEventsRow:
    """The events of one GPU, also while the GPU itself cannot be read.

    xids: counts by XID, in the order of the last occurrence. xid_times: Unix time stamps of that,
    by XID. recent_xids: those of the last hour, including those before the exporter started.
    events: counts by event.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("gpu", "uuid")
    labels: tuple[str, ...]
    xids: Mapping[str, int]
    xid_times: Mapping[str, float]
    recent_xids: tuple[int, ...]
    events: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class MissingGpuRow:
    """A GPU that is bound to the driver, but that NVML does not list; `gpu` is its PCI address."""

    LABELS: ClassVar[tuple[str, ...]] = ("gpu", "uuid")
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MigRow:
    """The values of one MIG device (a compute instance); `uuid` is the GPU's UUID.

    mig_uuid: the MIG device's own UUID. values: by key. labelled: by key, then by label values.
    part: of the GPU's compute slices, that the MIG device's GPU instance has, 0 to 1.
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
    labelled: Mapping[str, Mapping[LabelValues, Number]] = field(default_factory=dict)
    part: float | None = None
