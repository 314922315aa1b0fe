"""The row types of the joins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from exporter.sources.containers.reading import POD_LABELS

VERDICTS = ("ok", "degraded", "drain", "replace", "unreachable")
"""The verdicts on a GPU, from the best to the worst."""


@dataclass(frozen=True, slots=True)
class GpuUse:
    """The use of one GPU by one container; an empty name: outside of containers. None: unknown.

    memory: bytes. utilization: share of the SMs' time, 0 to 1. assigned: whether the container's
    configuration assigns the GPU to it. energy: millijoules so far, an estimate; the empty name
    includes energy that is not attributed to a container. memory_limits: soft and hard, in bytes.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("name", "image", "gpu", "uuid")
    OPTIONAL_LABELS: ClassVar[tuple[str, ...]] = POD_LABELS
    labels: tuple[str, ...]
    memory: int | None = None
    utilization: float | None = None
    processes: int | None = None
    assigned: bool = False
    energy: int | None = None
    memory_limits: tuple[int | None, int | None] = (None, None)


@dataclass(frozen=True, slots=True)
class GpuInstanceUse:
    """The use of one MIG GPU instance by one container, as GpuUse; `uuid` is the GPU's.

    utilization: activity of the instance, 0 to 1, if no other container uses it.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("name", "image", "gpu", "uuid", "gpu_instance")
    OPTIONAL_LABELS: ClassVar[tuple[str, ...]] = POD_LABELS
    labels: tuple[str, ...]
    memory: int | None = None
    utilization: float | None = None
    processes: int | None = None
    assigned: bool = False
    energy: int | None = None


@dataclass(frozen=True, slots=True)
class GpuHealth:
    """The verdict on one GPU, and its reasons."""

    LABELS: ClassVar[tuple[str, ...]] = ("gpu", "uuid")
    labels: tuple[str, ...]
    verdict: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelInstances:
    """Instances of a model version on a GPU; `gpu` and `uuid` are empty without or unknown."""

    LABELS: ClassVar[tuple[str, ...]] = ("server", "model", "version", "kind", "gpu", "uuid")
    labels: tuple[str, ...]
    count: int


@dataclass(frozen=True, slots=True)
class ServerContainer:
    """The container of a Triton server."""

    LABELS: ClassVar[tuple[str, ...]] = ("server",)
    labels: tuple[str, ...]
    name: str
    image: str
