"""The readers of the NVIDIA driver's values and lists, and of the files beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from exporter.errors import SourceError
from exporter.model import Reading
from exporter.settings import Paths
from exporter.sources.gpu.device import GpuContext, GpuTarget
from exporter.sources.gpu.metrics import METRICS
from exporter.sources.gpu.nvml import gpm
from exporter.sources.gpu.nvml.events import Events
from exporter.sources.gpu.nvml.library import Nvml
from exporter.sources.gpu.nvml.unified_memory import add_host_memory
from exporter.sources.gpu.process_containers import ProcessContainers
from exporter.sources.gpu.reading import GpuProcess, GpuRow, GpuValues
from exporter.sources.gpu.runtime_pm import RuntimePm
from exporter.sources.gpu.settings import Settings
from exporter.worker import Worker
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import NOT_SUPPORTED, Driver
from tests.garbage.law import Fixture, Outcome, Values, counters, series
from tests.garbage.mutations import Damage, Kind

# Counters that the exporter adds up itself, over time.
_ADDED_UP = (
    r"gpu_pcie_\w+_bytes_total|gpu_(mig_)?((memory_)?busy|\w+_active|sm_occupancy)_seconds_total"
)
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?![\w.])")
_WIDE = ("-1", str(2**63), str(2**64 - 1), str(2**64 - 4096), str(2**60))
# All bits of 32 are no value, or the largest one.
_NARROW = ("-1", str(2**32 - 4096))
_TEXTS = (r"\x0d", r"\xff\xfe", "", "garbage")
# Functions whose structure or list has more than the numbers of its own series.
_DEPENDS = (
    ("RunningProcesses|ProcessUtilization|ProcessesUtilization", "gpu_process.*|process_.*"),
    ("MemoryInfo", "process_.*"),  # the total bounds the processes' memory
    ("Name|UUID|Serial|PciInfo|Version|Brand|Capability|Inforom", "gpu_info"),
    ("Capability", "gpu_.*_active_ratio"),  # which GPM values the card has
    ("MigMode", "gpu_mig.*"),
    ("NumFans|FanSpeed", "gpu_fan_.*"),
    ("EncoderStats", "gpu_encoder_.*"),
    ("Gpm", "gpu_.*"),
    # The numbers of links decide which other fields are read; a sum without a link is absent.
    ("FieldValues", "gpu_(nvlink|c2c).*"),
    ("LinkGeneration|LinkWidth", "gpu_pcie_.*"),
    ("UUID", ".*"),
)


class Gpu:
    """One GPU of the stand-in, read without threads and without what is cached."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.driver = Driver(folder, gpus=1)
        gpu = self.driver.gpu(0)
        gpu.processes("Compute", (2001, 1 << 20), (2002, 3 << 20))
        self.driver.system.fail("nvmlEventSetCreate", NOT_SUPPORTED)  # no thread waits for events
        self.driver.load()
        nvml = Nvml()
        nvml.count()
        paths = Paths(procfs="/nowhere", sysfs="/nowhere")
        context = GpuContext(nvml, Events(nvml), Settings(), paths)
        self.target = GpuTarget(context, Worker("unused"), uuid(0), 0)
        self.lines = {key[1:]: text for key, text in self.driver.lines.items() if key[0] == "0"}
        self.target._read()

    def read(self, content: bytes) -> Outcome:
        """Reads with one line of the control file changed. content: function, name, text."""
        function, name, text = json.loads(content)
        intact = self.lines.get((function, name))
        target, gpu = self.target, self.driver.gpu(0)
        try:
            if intact is not None:
                gpu.set(function, **{name: text})
            target._handle, target.misplaced = None, False
            with gpm_at_once():
                target._read()  # its GPM values are since the sample before
                reading = target._read()
        except SourceError as error:
            return Outcome({}, (error,), error)
        finally:
            if intact is not None:
                gpu.set(function, **{name: intact})
        return Outcome(_values(reading), reading.problems)


class gpm_at_once:  # noqa: N801 - a context manager
    """Lets GPM samples follow each other at once."""

    def __enter__(self) -> None:
        self._distance = gpm.MIN_SAMPLE_DISTANCE
        gpm.MIN_SAMPLE_DISTANCE = 0.0

    def __exit__(self, *_: object) -> None:
        gpm.MIN_SAMPLE_DISTANCE = self._distance


def _values(reading: Reading) -> Values:
    """Returns the series, and the processes as if they were series."""
    values = {
        key: number
        for key, number in series(METRICS, reading).items()
        if not re.fullmatch(_ADDED_UP, key[0])
    }
    for row in reading.rows:
        processes: tuple[GpuProcess, ...] = ()
        if isinstance(row, GpuRow):
            processes = row.processes or ()
        for process in processes:
            label = (str(process.pid),)
            values["process_exists", label] = 1
            for name in ("memory", "utilization"):
                if (number := getattr(process, name)) is not None:
                    values[f"process_{name}", label] = number
    return values


@dataclass(slots=True)
class CardFixture(Fixture):
    """The values of the card, each a line of the stand-in's control file."""

    lines: dict[tuple[str, str], str] | None = None

    @property
    def intact(self) -> bytes:
        return json.dumps(("", "", "")).encode()

    def parts(self) -> list[Any]:
        return list(self.lines or {})

    def damages(self, part: Any) -> Iterator[Damage]:
        text = (self.lines or {})[part]
        numbers = _numbers(text)
        for match in numbers:
            wide = self._is_wide(part, match)
            for wrong in _WIDE if wide else _NARROW:
                new = text[: match.start()] + wrong + text[match.end() :]
                # Both are how NVML says that it has no value.
                silent = wrong in ("-1", str(2**64 - 1))
                kind = Kind.NUMBER if wide else Kind.LOST
                yield self._damage(part, kind, new, silent=silent)
        if not numbers:
            for wrong in _TEXTS:
                yield self._damage(part, Kind.CHARACTER, wrong)

    def _damage(
        self, key: tuple[str, str], kind: Kind, new: str, *, silent: bool = False
    ) -> Damage:
        content = json.dumps((*key, new)).encode()
        return Damage(key, kind, f"{key}: {new!r}", content, silent)

    def _is_wide(self, key: tuple[str, str], match: re.Match[str]) -> bool:
        """Returns whether the value has 64 bits: of 32, only the lower half arrives."""
        text = match.string
        outcomes = [
            self.read(
                json.dumps((*key, text[: match.start()] + number + text[match.end() :])).encode()
            ).values
            for number in ("5", str(2**33 + 5))
        ]
        return outcomes[0] != outcomes[1]

    def _part(self, part: Any) -> tuple[Iterator[bytes], str, list[str]]:
        text = (self.lines or {})[part]
        probes = (
            json.dumps((*part, text[: match.start()] + other + text[match.end() :])).encode()
            for match in _numbers(text)
            for other in (str(int(match[0]) + 1), str(max(0, int(match[0]) - 1)), "1")
        )
        return probes, part[0], []


def _numbers(text: str) -> list[re.Match[str]]:
    """Returns the numbers of a line; none of a version or an address, which is a text."""
    return list(_NUMBER.finditer(text)) if re.fullmatch(r"[-\d: ]+", text) else []


def fixtures(folder: Path) -> Iterator[Fixture]:
    """Yields a fixture of the card, and one for each file."""
    gpu = Gpu(folder / "gpu")
    yield CardFixture(
        "gpu: card",
        None,
        gpu.read,
        counters(METRICS),
        depends=_DEPENDS,
        counted="gpu_info|process_.*",
        silent="gpu_info",
        lines=gpu.lines,
    )
    yield from _files(folder / "gpu-files")
    yield _meminfo(folder / "gpu-meminfo")


_ID = "0123456789abcdef" * 4
_PCI = "00000000:0C:00.0"


def _files(folder: Path) -> Iterator[Fixture]:
    process = folder / "proc" / "77"
    power = folder / "sys" / "bus/pci/devices/0000:0c:00.0/power"
    for place in (process, power):
        place.mkdir(parents=True)
    stat = b"77 (a) b) S " + b" ".join(b"%d" % n for n in range(4, 53)) + b"\n"
    contents = {
        process / "stat": stat,
        process / "cgroup": f"1:memory:/docker/{_ID}\n0::/docker/{_ID}\n".encode(),
        power / "runtime_status": b"active\n",
    }
    for file, content in contents.items():
        file.write_bytes(content)
        yield Fixture(
            f"gpu: {file.name}",
            content,
            partial(_read_files, folder, file, content),
            depends=((r"", ".*"),),
            silent=".*",
            doubled="suspended",  # one of the kernel's words, alone in its file
        )


def _meminfo(folder: Path) -> Fixture:
    """Returns the fixture of the host's memory, for a GPU without memory of its own."""
    folder.mkdir()
    content = b"MemTotal:       127600748 kB\nMemFree: 7 kB\nMemAvailable:   118566368 kB\n"
    return Fixture(
        "gpu: meminfo",
        content,
        partial(_read_meminfo, folder),
        # One that exceeds the total is left out.
        depends=((r"MemTotal", ".*"),),
        silent=".*",
        doubled=".*",
    )


def _read_meminfo(folder: Path, content: bytes) -> Outcome:
    (folder / "meminfo").write_bytes(content)
    values = GpuValues()
    add_host_memory(values, str(folder))
    return Outcome({(key, ()): float(value) for key, value in values.scalars.items()})


def _read_files(folder: Path, file: Path, intact: bytes, content: bytes) -> Outcome:
    file.write_bytes(content)
    runtime_pm = RuntimePm(str(folder / "sys"))
    runtime_pm.set_pci_bus_id(_PCI)
    suspended = runtime_pm.suspended()
    containers = ProcessContainers(str(folder / "proc")).lookup([77])
    file.write_bytes(intact)
    values: Values = {("container", tuple(id_ for id_, _ in path)): 1 for path in containers[77]}
    if suspended is not None:
        values["suspended", ()] = int(suspended)
    return Outcome(values)
