"""Reads the host's kernel files. A file that cannot be read or parsed costs only its own rows."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import psutil

from exporter.errors import BadData, Forbidden, NotFound, SourceError, Unreachable, Unsupported
from exporter.kernel_file import read_kernel_file
from exporter.model import Reading, Row
from exporter.patterns import Pattern
from exporter.sources.host import procfs
from exporter.sources.host.reading import Boot, Disk, HostCpu, NetworkDevice, Pressure
from exporter.sources.host.settings import Settings

# Without guest and guest_nice: the kernel includes them in user and nice.
_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_MAX_FILE_BYTES = 8 * 2**20
_MAX_COUNT = 2**75  # above 2**64 sectors of 512 bytes
D = TypeVar("D", Disk, NetworkDevice)
# Seconds by which the time of a CPU mode may fall without being a counter reset.
CPU_SLACK = 3.0
_PROCFS_REMEDY = "set --path.procfs to the mount point of the host's /proc"
# Raised by psutil's parsers for a file that they cannot parse.
_PARSE_ERRORS = (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, AssertionError)


class Kernel:
    """Reads the kernel files under one procfs. Blocks; not thread-safe."""

    def __init__(self, root: str, settings: Settings) -> None:
        self._root = Path(root)
        self._network_exclude = Pattern(settings.network_exclude)
        self._disk_exclude = Pattern(settings.disk_exclude)
        self._max_devices = settings.max_devices
        self._problems: list[SourceError] = []
        self._cpu_seconds: dict[str, float] = {}

    def read(self) -> Reading:
        """Reads all files. Raises SourceError if none could be read."""
        psutil.PROCFS_PATH = str(self._root)  # global in psutil
        self._problems = []
        rows: list[Row] = []
        for file, part in (
            ("stat", self._cpu),
            ("stat", self._boot),
            ("meminfo", self._memory),
            ("loadavg", self._load),
            ("net/dev", self._network),
            ("diskstats", self._disks),
            ("pressure", self._pressure),
            ("sys/fs/file-nr", self._descriptors),
        ):
            rows += self._part(self._root / file, part)
        if not rows and self._problems:
            raise self._problems[0]
        return Reading(tuple(rows), tuple(self._problems))

    def _part(self, path: Path, part: Callable[[], Iterable[Row]]) -> list[Row]:
        """Returns the rows of one file; adds a problem if it fails."""
        try:
            return list(part())
        except SourceError as error:
            self._problems.append(error)
        except FileNotFoundError as error:
            self._problems.append(
                NotFound(f"{error.filename or path} does not exist", _PROCFS_REMEDY)
            )
        except PermissionError as error:
            denied = error.filename or path
            self._problems.append(
                Forbidden(
                    f"permission denied to read {denied}", f"let the daemon's user read {denied}"
                )
            )
        except OSError as error:
            self._problems.append(
                Unreachable(f"{path} cannot be read: {error.strerror}", _PROCFS_REMEDY)
            )
        except _PARSE_ERRORS as error:
            self._problems.append(_bad(path, str(error)))
        return []

    def _cpu(self) -> Iterator[Row]:
        times = psutil.cpu_times()
        # Not psutil.cpu_count: it calls the C library, which reads /sys whatever PROCFS_PATH is.
        count = len(psutil.cpu_times(percpu=True))
        seconds = tuple((mode, getattr(times, mode)) for mode in _MODES if hasattr(times, mode))
        for mode, value in seconds:
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{mode} is {value}")
        if not count:
            raise ValueError("no line cpu0")
        yield HostCpu(self._never_falling(seconds), count)

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
        time = psutil.boot_time()
        if not math.isfinite(time) or time < 0:
            raise ValueError(f"btime is {time}")
        yield Boot(time)

    def _memory(self) -> Iterator[Row]:
        yield procfs.memory(read_kernel_file(self._root / "meminfo", _MAX_FILE_BYTES))

    def _load(self) -> Iterator[Row]:
        yield procfs.load(read_kernel_file(self._root / "loadavg", _MAX_FILE_BYTES))

    def _network(self) -> Iterator[Row]:
        # Of PID 1: net/dev is that of the reader's network namespace.
        path = self._root / "1/net/dev"
        try:
            content = read_kernel_file(path, _MAX_FILE_BYTES)
        except (FileNotFoundError, PermissionError):
            # Other users' processes can be hidden (hidepid, ProtectProc=). In this process' own
            # /proc, PID 1 then has the same network namespace, or that of PID 1 is inaccessible.
            if self._root != Path("/proc"):
                raise
            path = self._root / "net/dev"
            content = read_kernel_file(path, _MAX_FILE_BYTES)
        devices, faults = procfs.network(content)
        if faults:
            self._problems.append(_bad(path, f"{faults[0]} ({len(faults)} invalid lines)"))
        exclude = self._network_exclude
        selected = [device for device in devices if not exclude.fullmatch(device.labels[0])]
        yield from self._limited("network devices", "network", selected)

    def _disks(self) -> Iterator[Row]:
        path = self._root / "diskstats"
        path.stat()  # without the file psutil reads /sys/block whatever PROCFS_PATH is
        # nowrap=True would add the differences of counter resets to the kernel's counters.
        disks = psutil.disk_io_counters(perdisk=True, nowrap=False)
        names = frozenset(disks)
        selected: list[Disk] = []
        for name, counters in disks.items():
            if procfs.is_partition(name, names) or self._disk_exclude.fullmatch(name):
                continue
            if not all(0 <= number < _MAX_COUNT for number in counters):
                raise ValueError(f"{name!r} has a counter out of range")
            label = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            selected.append(
                Disk(
                    (label,),
                    read=counters.read_bytes,
                    written=counters.write_bytes,
                    reads=counters.read_count,
                    writes=counters.write_count,
                    read_seconds=counters.read_time / 1000,
                    write_seconds=counters.write_time / 1000,
                    busy=counters.busy_time / 1000,
                )
            )
        yield from self._limited("disks", "disk", selected)

    def _pressure(self) -> Iterator[Row]:
        for resource in ("cpu", "memory", "io"):
            try:
                content = read_kernel_file(self._root / "pressure" / resource, _MAX_FILE_BYTES)
            except FileNotFoundError:  # a kernel without PSI
                continue
            except OSError as error:
                if error.errno == errno.EOPNOTSUPP:  # disabled by the boot parameter psi=0
                    continue
                raise
            some, full = procfs.pressure(content)
            yield Pressure((resource,), some_seconds=some, full_seconds=full)

    def _descriptors(self) -> Iterator[Row]:
        try:
            content = read_kernel_file(self._root / "sys/fs/file-nr", 1 << 12)
        except FileNotFoundError:  # a sandbox whose /proc has no sys
            return
        yield procfs.descriptors(content)

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


def _bad(path: Path, reason: str) -> BadData:
    return BadData(f"{path} cannot be parsed: {reason[:200]}", "please report it, with that file")
