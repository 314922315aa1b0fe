"""Reads the host's kernel files, each part alone: what one file lacks costs only its own rows."""

from __future__ import annotations

import errno
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import psutil

from exporter.errors import BadData, Forbidden, NotFound, SourceError, Unreachable, Unsupported
from exporter.kernel_file import read_kernel_file
from exporter.model import Reading, Row
from exporter.sources.host import procfs
from exporter.sources.host.reading import Boot, Disk, HostCpu, NetworkDevice, Pressure
from exporter.sources.host.settings import Settings

# guest and guest_nice are left out: the kernel counts them within user and nice.
_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_MAX_FILE = 8 * 2**20
_MAX_BYTES = 2**75  # more sectors than 64 bits count, times 512
D = TypeVar("D", Disk, NetworkDevice)
# Seconds by which a CPU mode's time may seem to fall and still be the same count.
CPU_SLACK = 3.0
_PROC = "set --path.procfs to where the host's /proc is mounted"
# What psutil's parsers raise for a file they cannot understand.
_PARSING = (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, AssertionError)


class Kernel:
    """The kernel files under one procfs. Blocking; for one thread at a time."""

    def __init__(self, root: str, settings: Settings) -> None:
        self._root = Path(root)
        self._network_exclude = re.compile(settings.network_exclude)
        self._disk_exclude = re.compile(settings.disk_exclude)
        self._max_devices = settings.max_devices
        self._problems: list[SourceError] = []
        self._cpu_seconds: dict[str, float] = {}

    def read(self) -> Reading:
        """Everything at once. Raises SourceError where nothing at all could be read."""
        psutil.PROCFS_PATH = str(self._root)  # psutil keeps it for the whole process
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
        """The rows of one part; what goes wrong becomes a problem."""
        try:
            return list(part())
        except SourceError as error:
            self._problems.append(error)
        except FileNotFoundError as error:
            self._problems.append(NotFound(f"{error.filename or path} is missing", _PROC))
        except PermissionError as error:
            where = error.filename or path
            self._problems.append(
                Forbidden(f"{where} may not be read", f"let the daemon's user read {where}")
            )
        except OSError as error:
            self._problems.append(Unreachable(f"{path} cannot be read: {error.strerror}", _PROC))
        except _PARSING as error:
            self._problems.append(_bad(path, str(error)))
        return []

    def _cpu(self) -> Iterator[Row]:
        times = psutil.cpu_times()
        # Not psutil.cpu_count: it asks the C library, which reads this machine's /sys.
        count = len(psutil.cpu_times(percpu=True))
        seconds = tuple((mode, getattr(times, mode)) for mode in _MODES if hasattr(times, mode))
        for mode, value in seconds:
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{mode} is {value}")
        if not count:
            raise ValueError("no line cpu0")
        yield HostCpu(self._never_back(seconds), count)

    def _never_back(self, seconds: Iterable[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
        """Idle and iowait of a kernel can fall by a little (proc(5)), which a counter may not:
        then what was read before stands. A fall of seconds is another kernel's count.
        """
        held = self._cpu_seconds
        kept = tuple(
            (mode, held[mode] if value < held.get(mode, 0.0) < value + CPU_SLACK else value)
            for mode, value in seconds
        )
        held.update(kept)
        return kept

    def _boot(self) -> Iterator[Row]:
        time = psutil.boot_time()
        if not math.isfinite(time) or time < 0:
            raise ValueError(f"btime is {time}")
        yield Boot(time)

    def _memory(self) -> Iterator[Row]:
        yield procfs.memory(read_kernel_file(self._root / "meminfo", _MAX_FILE))

    def _load(self) -> Iterator[Row]:
        yield procfs.load(read_kernel_file(self._root / "loadavg", _MAX_FILE))

    def _network(self) -> Iterator[Row]:
        # PID 1's: net/dev alone would be the reader's own network namespace.
        path = self._root / "1/net/dev"
        try:
            content = read_kernel_file(path, _MAX_FILE)
        except (FileNotFoundError, PermissionError):
            # Other users' processes can be hidden (hidepid, ProtectProc=). In a /proc of our own
            # PID 1 then shares our network, or we are in no position to see another.
            if self._root != Path("/proc"):
                raise
            path = self._root / "net/dev"
            content = read_kernel_file(path, _MAX_FILE)
        devices, faults = procfs.network(content)
        if faults:
            self._problems.append(_bad(path, f"{faults[0]} ({len(faults)} such lines)"))
        exclude = self._network_exclude
        shown = [device for device in devices if not exclude.fullmatch(device.labels[0])]
        yield from self._bounded("network devices", "network", shown)

    def _disks(self) -> Iterator[Row]:
        path = self._root / "diskstats"
        path.stat()  # without the file psutil would read this machine's /sys/block
        # nowrap would add to the kernel's counters what this process believes was lost.
        disks = psutil.disk_io_counters(perdisk=True, nowrap=False)
        names = frozenset(disks)
        shown: list[Disk] = []
        for name, told in disks.items():
            if procfs.is_partition(name, names) or self._disk_exclude.fullmatch(name):
                continue
            if not all(0 <= number < _MAX_BYTES for number in told):
                raise ValueError(f"{name!r} has an impossible count")
            printable = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            shown.append(
                Disk(
                    (printable,),
                    read=told.read_bytes,
                    written=told.write_bytes,
                    reads=told.read_count,
                    writes=told.write_count,
                    read_seconds=told.read_time / 1000,
                    write_seconds=told.write_time / 1000,
                    busy=told.busy_time / 1000,
                )
            )
        yield from self._bounded("disks", "disk", shown)

    def _pressure(self) -> Iterator[Row]:
        for resource in ("cpu", "memory", "io"):
            try:
                content = read_kernel_file(self._root / "pressure" / resource, _MAX_FILE)
            except FileNotFoundError:  # a kernel without it
                continue
            except OSError as error:
                if error.errno == errno.EOPNOTSUPP:  # turned off when the kernel was started
                    continue
                raise
            yield Pressure((resource,), *procfs.pressure(content))

    def _descriptors(self) -> Iterator[Row]:
        try:
            content = read_kernel_file(self._root / "sys/fs/file-nr", 1 << 12)
        except FileNotFoundError:  # a /proc without sys, as some sandboxes have it
            return
        yield procfs.descriptors(content)

    def _bounded(self, what: str, setting: str, devices: Sequence[D]) -> list[D]:
        """The first `max_devices` of the devices, each name once."""
        unique: dict[str, D] = {}
        for device in devices:
            unique.setdefault(device.labels[0], device)
        if len(unique) < len(devices):
            self._problems.append(BadData(f"{len(devices) - len(unique)} {what} share a name"))
        if len(unique) > self._max_devices:
            self._problems.append(
                Unsupported(
                    f"{len(unique)} {what}, of which {self._max_devices} are shown",
                    f"leave some out with --host.{setting}-exclude or raise --host.max-devices",
                )
            )
        return list(unique.values())[: self._max_devices]


def _bad(path: Path, why: str) -> BadData:
    return BadData(f"{path} cannot be understood: {why[:200]}", "please report it, with that file")
