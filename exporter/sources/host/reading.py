"""The rows of the host source. None: the kernel does not say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Cpu:
    """All CPUs together.

    seconds: (mode, seconds since boot), the modes adding up to all the time there was.
    count: CPUs that are online.
    """

    LABELS: ClassVar[tuple[str, ...]] = ()
    seconds: tuple[tuple[str, float], ...]
    count: int
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Boot:
    """When the machine started: a Unix time stamp in seconds."""

    LABELS: ClassVar[tuple[str, ...]] = ()
    time: float
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory and swap, in bytes."""

    LABELS: ClassVar[tuple[str, ...]] = ()
    total: int | None
    available: int | None
    swap_total: int | None
    swap_used: int | None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Load:
    """Mean number of runnable or uninterruptible tasks over 1, 5 and 15 minutes."""

    LABELS: ClassVar[tuple[str, ...]] = ()
    load1: float
    load5: float
    load15: float
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkDevice:
    """One network device; bytes since it came up."""

    LABELS: ClassVar[tuple[str, ...]] = ("device",)
    labels: tuple[str, ...]
    received: int
    transmitted: int


@dataclass(frozen=True, slots=True)
class Disk:
    """One whole disk; bytes since boot."""

    LABELS: ClassVar[tuple[str, ...]] = ("device",)
    labels: tuple[str, ...]
    read: int
    written: int
