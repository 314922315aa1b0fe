"""Reads the host's kernel files. A file that cannot be read costs only its own rows, a line or a
number that cannot be parsed only its own values.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import psutil

from exporter.errors import BadData, Forbidden, NotFound, SourceError, Unreachable, Unsupported
from exporter.faults import Faults, FaultTotals
from exporter.kernel_file import read_kernel_file
from exporter.kernel_formats import pressure
from exporter.model import Reading, Row
from exporter.patterns import Pattern
from exporter.sources.host import procfs
from exporter.sources.host.reading import (
    Boot,
    Descriptors,
    Disk,
    HostCpu,
    HostMemory,
    Load,
    NetworkDevice,
    Pressure,
)
from exporter.sources.host.remedies import file_remedy
from exporter.sources.host.settings import Settings

_MAX_FILE_BYTES = 8 * 2**20
D = TypeVar("D", Disk, NetworkDevice)
P = TypeVar("P")
# Seconds by which the time of a CPU mode may fall without being a counter reset.
CPU_SLACK = 3.0
# Seconds: of a host whose boot time is unknown, and of the clock's error.
_MAX_UPTIME, _CLOCK_ERROR = 100 * 365 * 86_400.0, 86_400.0
_YEAR_2000 = 946_684_800
_NO_MEMORY = HostMemory()
_NO_LOAD = Load(None, None, None)


class Kernel:
    """Reads the kernel files under one procfs. Blocks; not thread-safe."""

    def __init__(self, root: str, settings: Settings) -> None:
        self._root = Path(root)
        self._network_exclude = Pattern.of_setting(settings, "network_exclude")
        self._disk_exclude = Pattern.of_setting(settings, "disk_exclude")
        self._max_devices = settings.max_devices
        self._problems: list[SourceError] = []
        self._faults = FaultTotals()
        self._cpu_seconds: dict[str, float] = {}
        self._booted: float | None = None
        """The boot time, a Unix timestamp."""

    def read(self) -> Reading:
        """Reads all files. Raises SourceError if none could be read."""
        psutil.PROCFS_PATH = str(self._root)  # global in psutil
        self._problems, self._faults = [], FaultTotals()
        rows: list[Row] = []
        parts: tuple[tuple[str, Callable[[], Iterable[Row]]], ...] = (
            ("stat", self._boot),
            ("stat", self._cpu),
            ("meminfo", self._memory),
            ("loadavg", self._load),
            ("net/dev", self._network),
            ("diskstats", self._disks),
            ("pressure/cpu", partial(self._pressure, "cpu")),
            ("pressure/memory", partial(self._pressure, "memory")),
            ("pressure/io", partial(self._pressure, "io")),
            ("sys/fs/file-nr", self._descriptors),
        )
        for file, part in parts:
            rows += self._part(self._root / file, part)
        self._problems += self._faults.problems()
        if not rows and self._problems:
            raise self._problems[0]
        return Reading(tuple(rows), tuple(self._problems))

    def _part(self, path: Path, part: Callable[[], Iterable[Row]]) -> list[Row]:
        """Returns the rows of one file; adds a problem if it cannot be read."""
        try:
            return list(part())
        except SourceError as error:
            self._problems.append(error)
        except FileNotFoundError as error:
            missing = Path(error.filename or path)
            remedy = file_remedy(self._root, missing)
            self._problems.append(NotFound(f"{missing} does not exist", remedy))
        except PermissionError as error:
            denied = error.filename or path
            self._problems.append(
                Forbidden(
                    f"permission denied to read {denied}", f"let the daemon's user read {denied}"
                )
            )
        except OSError as error:
            remedy = file_remedy(self._root, path)
            self._problems.append(Unreachable(f"{path} cannot be read: {error.strerror}", remedy))
        except ValueError as error:  # too long
            self._problems.append(BadData(f"{path} cannot be read: {error}"))
        return []

    def _parsed(self, file: str, parse: Callable[[bytes, Faults], P]) -> P:
        """Returns the parsed content of a file below the root. Raises OSError, ValueError."""
        path = self._root / file
        faults = Faults()
        parsed = parse(read_kernel_file(path, _MAX_FILE_BYTES), faults)
        self._faults.add(file, faults, str(path))
        return parsed

    def _cpu(self) -> Iterator[Row]:
        now = time.time()
        booted = self._booted
        uptime = now - booted + _CLOCK_ERROR if booted is not None else _MAX_UPTIME
        row = self._parsed("stat", lambda stat, faults: procfs.cpu(stat, uptime, faults))
        if row != HostCpu((), None):
            yield HostCpu(self._never_falling(row.seconds), row.count)

    def _never_falling(self, seconds: Iterable[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
        """Replaces a value that fell by less than CPU_SLACK by the last one.

        The kernel's idle and iowait can fall by a little (proc(5)), which Prometheus would take for
        a counter reset. A larger fall is a reset: another boot.
        """
        last = self._cpu_seconds
        corrected = tuple(
            (mode, last[mode] if value < last.get(mode, 0.0) < value + CPU_SLACK else value)
            for mode, value in seconds
        )
        last.update(corrected)
        return corrected

    def _boot(self) -> Iterator[Row]:
        self._booted = None
        faults = Faults()
        try:
            booted = psutil.boot_time()
        except (ValueError, LookupError, ArithmeticError, RuntimeError) as error:  # by psutil
            faults.add(f"no valid btime: {error}")
        else:
            # Earlier is no clock at all: it starts in 1970 and is not set yet.
            if _YEAR_2000 < booted < time.time() + _CLOCK_ERROR:
                self._booted = booted
                yield Boot(booted)
            else:
                faults.add(f"btime is {booted}")
        self._faults.add("btime", faults, f"{self._root}/stat")

    def _memory(self) -> Iterator[Row]:
        memory = self._parsed("meminfo", procfs.memory)
        if memory != _NO_MEMORY:
            yield memory

    def _load(self) -> Iterator[Row]:
        load = self._parsed("loadavg", procfs.load)
        if load != _NO_LOAD:
            yield load

    def _network(self) -> Iterator[Row]:
        # Of PID 1: net/dev is that of the reader's network namespace.
        def parse(data: bytes, faults: Faults) -> list[NetworkDevice]:
            return list(procfs.network(data, faults))

        try:
            devices = self._parsed("1/net/dev", parse)
        except (FileNotFoundError, PermissionError):
            # Other users' processes can be hidden (hidepid, ProtectProc=). In this process' own
            # /proc, PID 1 then has the same network namespace, or that of PID 1 is inaccessible.
            if self._root != Path("/proc"):
                raise
            devices = self._parsed("net/dev", parse)
        exclude = self._network_exclude
        selected = [device for device in devices if not exclude.fullmatch(device.labels[0])]
        yield from self._limited("network devices", "network", selected)

    def _disks(self) -> Iterator[Row]:
        devices = self._parsed("diskstats", lambda data, faults: list(procfs.disks(data, faults)))
        names = frozenset(name for name, _ in devices)
        selected: list[Disk] = []
        for name, numbers in devices:
            if procfs.is_partition(name, names) or self._disk_exclude.fullmatch(name):
                continue
            label = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            selected.append(procfs.disk(label, numbers))
        yield from self._limited("disks", "disk", selected)

    def _pressure(self, resource: str) -> Iterator[Row]:
        try:
            some, full = self._parsed(f"pressure/{resource}", pressure)
        except FileNotFoundError:  # a kernel without PSI
            return
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:  # disabled by the boot parameter psi=0
                return
            raise
        if some is not None or full is not None:
            yield Pressure((resource,), some_seconds=some, full_seconds=full)

    def _descriptors(self) -> Iterator[Row]:
        try:
            row = self._parsed("sys/fs/file-nr", procfs.descriptors)
        except FileNotFoundError:  # a sandbox whose /proc has no sys
            return
        if row != Descriptors(None, None):
            yield row

    def _limited(self, kind: str, setting: str, devices: Sequence[D]) -> list[D]:
        """Returns the first `max_devices` devices, without duplicate names."""
        unique: dict[str, D] = {}
        for device in devices:
            unique.setdefault(device.labels[0], device)
        if len(unique) < len(devices):
            self._problems.append(
                BadData(f"{len(devices) - len(unique)} {kind} have a duplicate name")
            )
        if len(unique) > self._max_devices:
            self._problems.append(
                Unsupported(
                    f"{len(unique)} {kind}: only {self._max_devices} are exported",
                    f"exclude some with --host.{setting}-exclude or raise --host.max-devices",
                )
            )
        return list(unique.values())[: self._max_devices]
