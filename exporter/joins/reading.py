"""The lines of the joins' readings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class GpuUse:
    """What one container does on one GPU; an empty name is everything outside of any container.

    memory: bytes. utilization: share of the SMs' time, 0 to 1. None is what is not known.
    assigned: whether the container asked for this GPU and was to be given it.
    energy: millijoules so far, an estimate; under the empty name also what nobody used.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("name", "image", "gpu", "uuid")
    labels: tuple[str, ...]
    memory: int | None = None
    utilization: float | None = None
    processes: int | None = None
    assigned: bool = False
    energy: int | None = None


@dataclass(frozen=True, slots=True)
class ModelInstances:
    """Instances of one version of a model on one GPU; `gpu` and `uuid` are empty for none."""

    LABELS: ClassVar[tuple[str, ...]] = ("server", "model", "version", "kind", "gpu", "uuid")
    labels: tuple[str, ...]
    count: int


@dataclass(frozen=True, slots=True)
class ServerContainer:
    """The container that a Triton server is in."""

    LABELS: ClassVar[tuple[str, ...]] = ("server",)
    labels: tuple[str, ...]
    name: str
    image: str
