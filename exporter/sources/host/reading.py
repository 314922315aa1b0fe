"""The rows of the host source. None: the kernel does not say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class HostCpu:
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
class HostMemory:
    """Memory and swap, in bytes."""

    LABELS: ClassVar[tuple[str, ...]] = ()
    total: int | None
    available: int | None
    free: int | None
    buffers: int | None
    cached: int | None
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
class Pressure:
    """What tasks waited for (Pressure Stall Information): seconds since boot.

    waiting: some task waited; stalled: all of them did. By resource: cpu, memory, io.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("resource",)
    labels: tuple[str, ...]
    waiting: float | None
    stalled: float | None


@dataclass(frozen=True, slots=True)
class Descriptors:
    """File descriptors of the whole machine."""

    LABELS: ClassVar[tuple[str, ...]] = ()
    allocated: int
    most: int
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Filesystem:
    """One mounted file system, in bytes and inodes; None where it cannot be told.

    free: for root; available: for everybody. error: it does not answer, or refuses.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("device", "fstype", "mountpoint")
    labels: tuple[str, ...]
    error: bool
    read_only: bool
    size: int | None = None
    free: int | None = None
    available: int | None = None
    inodes: int | None = None
    inodes_free: int | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went one way through a network device since it came up."""

    bytes: int
    packets: int
    errors: int
    dropped: int


@dataclass(frozen=True, slots=True)
class NetworkDevice:
    """One network device."""

    LABELS: ClassVar[tuple[str, ...]] = ("device",)
    labels: tuple[str, ...]
    received: Traffic
    transmitted: Traffic


@dataclass(frozen=True, slots=True)
class Disk:
    """One whole disk, since boot: bytes, operations, seconds.

    read_seconds, write_seconds: of all operations added up. busy: while there were any.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("device",)
    labels: tuple[str, ...]
    read: int
    written: int
    reads: int
    writes: int
    read_seconds: float
    write_seconds: float
    busy: float
