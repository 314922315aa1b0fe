"""The row types of the host source. None: the kernel does not report the value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class HostCpu:
    """All CPUs together.

    seconds: (mode, seconds since boot); the modes add up to the total time.
    count: CPUs online.
    """

    LABELS: ClassVar[tuple[str, ...]] = ()
    seconds: tuple[tuple[str, float], ...]
    count: int | None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Boot:
    """The boot time: a Unix timestamp in seconds."""

    LABELS: ClassVar[tuple[str, ...]] = ()
    time: float
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Memory and swap in bytes."""

    LABELS: ClassVar[tuple[str, ...]] = ()
    total: int | None = None
    available: int | None = None
    free: int | None = None
    buffers: int | None = None
    cached: int | None = None
    anonymous: int | None = None
    active_file: int | None = None
    inactive_file: int | None = None
    mapped: int | None = None
    swap_total: int | None = None
    swap_used: int | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Load:
    """Mean number of runnable or uninterruptible tasks over 1, 5 and 15 minutes."""

    LABELS: ClassVar[tuple[str, ...]] = ()
    load1: float | None
    load5: float | None
    load15: float | None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pressure:
    """Pressure Stall Information of a resource (cpu, memory, io): seconds since boot.

    some_seconds, full_seconds: the totals of its `some` and `full` line; None without the line.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("resource",)
    labels: tuple[str, ...]
    some_seconds: float | None
    full_seconds: float | None


@dataclass(frozen=True, slots=True)
class Descriptors:
    """File descriptors of the whole host."""

    LABELS: ClassVar[tuple[str, ...]] = ()
    allocated: int | None
    max: int | None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Filesystem:
    """A mounted file system, in bytes and inodes; None if unknown.

    free: including root's reserve. available: without it. error: statvfs fails or hangs.
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
    """The counters of one direction of a network device, since it came up."""

    bytes: int | None
    packets: int | None
    errors: int | None
    packets_dropped: int | None


@dataclass(frozen=True, slots=True)
class NetworkDevice:
    """A network device."""

    LABELS: ClassVar[tuple[str, ...]] = ("device",)
    labels: tuple[str, ...]
    receive: Traffic
    transmit: Traffic


@dataclass(frozen=True, slots=True)
class Disk:
    """A whole disk: bytes, operations and seconds since boot.

    read_seconds, write_seconds: summed over all operations. busy: seconds with I/O in progress.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("device",)
    labels: tuple[str, ...]
    read: int | None
    written: int | None
    reads: int | None
    writes: int | None
    read_seconds: float | None
    write_seconds: float | None
    busy: float | None
