"""One line of a GPU's reading: plain numbers in base units. None is what the card does not give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Identity:
    """What a GPU is; an empty text is what the driver does not say."""

    name: str = ""
    pci_bus_id: str = ""
    driver_version: str = ""
    cuda_version: str = ""
    vbios_version: str = ""
    nvml_version: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    """Framebuffer memory in bytes. `used` includes `reserved` where that is not told apart."""

    total: int
    used: int
    free: int
    reserved: int | None


@dataclass(frozen=True, slots=True)
class GpuRow:
    """One GPU now: ratios from 0 to 1, bytes, degrees Celsius, watts, joules, hertz.

    energy: joules since the driver was loaded; clocks: hertz by name (sm, memory …).
    """

    LABELS: ClassVar[tuple[str, ...]] = ("gpu", "uuid")
    labels: tuple[str, ...]
    identity: Identity
    utilization: float | None = None
    memory_utilization: float | None = None
    memory: Memory | None = None
    temperature: int | None = None
    power: float | None = None
    energy: float | None = None
    clocks: tuple[tuple[str, int], ...] = ()
