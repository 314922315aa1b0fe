"""Compiles the NVML stand-in, controls its results, and counts the calls it receives.

    driver = Driver(tmp_path, gpus=8)
    driver.load()                                   # for pynvml in this process, or:
    subprocess.Popen(…, env=driver.environment())   # for pynvml in another
    driver.gpu(3).delay("nvmlDeviceGetPowerUsage", 60)
    driver.gpu(2).lose()
    driver.gpu(0).set("nvmlDeviceGetPowerUsage", 250_000)

Every change takes effect at the library's next call, and on delayed calls in flight.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import re
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.nvml import cards
from tests.fakes.nvml.profiles import Card
from tests.fakes.nvml.uncaptured import MigDevice, mig_lines, one_g_devices
from tests.parts import missing

LIBRARY = "libnvidia-ml.so.1"
SOURCES = Path(__file__).parent
FLAGS = ("-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden")

# NVML's return codes (nvml.h), independent of pynvml's names.
UNINITIALIZED = 1
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NO_PERMISSION = 4
DRIVER_NOT_LOADED = 9
TIMEOUT = 10
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
RESET_REQUIRED = 16
OPERATING_SYSTEM = 17
LIB_RM_VERSION_MISMATCH = 18
ARGUMENT_VERSION_MISMATCH = 25
GPU_NOT_FOUND = 28
UNKNOWN = 999

SYSTEM = -1
# Types of events.
XID, MIG_CONFIG_CHANGE = 0x8, 0x100
NO_INSTANCE = 0xFFFFFFFF  # no MIG instance
NO_MEMORY = 0xFFFFFFFFFFFFFFFF
# Ends of the names of lines: a return code, a delay.
_FAULTS = ("return", "delay")
# struct count in counts.c: function, GPU, in flight, maximum, reserved, calls, argument, cost,
# spent.
_COUNT = struct.Struct("64siIIIQQQQ")
_COUNTS = 4096  # entries of the table


@functools.cache
def library(without: tuple[str, ...] = ()) -> Path:
    """Compiles the library and returns its path. without: missing symbols, as in an older driver.

    The library stays in the temporary folder, for later runs of the same source.
    """
    sources = sorted(path for path in SOURCES.iterdir() if path.suffix in (".c", ".h"))
    # Renaming a symbol removes it.
    options = (*FLAGS, *(f"-D{name}=absent_{name}" for name in without))
    digest = hashlib.sha256(repr(options).encode())
    for source in sources:
        digest.update(source.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"nvml-standin-{os.getuid()}-{digest.hexdigest()[:16]}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    compiled = folder / LIBRARY
    if not compiled.exists():
        if shutil.which("gcc") is None:
            missing("gcc, which compiles the stand-in for the driver library")
        unfinished = folder / f"{LIBRARY}.{os.getpid()}"
        code = [str(source) for source in sources if source.suffix == ".c"]
        command = ["gcc", *options, "-shared", "-fPIC", f"-Wl,-soname,{LIBRARY}", "-pthread"]
        subprocess.run([*command, "-o", str(unfinished), *code], check=True)
        unfinished.replace(compiled)
    return compiled


@functools.cache
def loaded() -> ctypes.CDLL:
    """Loads the stand-in into this process, where pynvml finds it by its soname."""
    return ctypes.CDLL(str(library()), mode=ctypes.RTLD_GLOBAL)


def layouts() -> dict[str, tuple[int, dict[str, tuple[int, int]]]]:
    """Returns the C structures: {name: (size, {field: (offset, size)})}, in bytes."""
    text = ctypes.create_string_buffer(65536)
    loaded().nvml_standin_layouts(text, ctypes.c_size_t(len(text)))
    structures = {}
    for line in text.value.decode().splitlines():
        name, size, *fields = line.split()
        parts = [field.split(":") for field in fields]
        structures[name] = (
            int(size),
            {field: (int(offset), int(width)) for field, offset, width in parts},
        )
    return structures


@dataclass(frozen=True, slots=True)
class Count:
    """Calls of a function: total, now in flight, and the maximum in flight at once.

    argument: the time stamp passed to the last call, of the functions that return samples.
    cost: CPU nanoseconds that the calls took because of `set_costs`. spent: CPU nanoseconds of the
    calls with costs set, those of the stand-in itself included.
    """

    calls: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    argument: int = 0
    cost: int = 0
    spent: int = 0


class Scope:
    """One GPU (by its number, which is independent of its index), the system, or every GPU."""

    def __init__(self, driver: Driver, name: str) -> None:
        self._driver = driver
        self._name = name

    def set(self, function: str, value: float | str | None = None, **fields: float | str) -> None:
        r"""Sets a function's value, or the fields of its structure.

        A function with a selector argument takes it as the name:
        `set("nvmlDeviceGetClockInfo", **{"1": 1980})`. Text may contain bytes as \xHH.
        """
        if value is not None:
            fields["value"] = value
        self._change(function, fields)

    def fail(self, function: str, code: int, key: object = None) -> None:
        """Sets a function's return code (`*`: of all functions); with a key, for that key only."""
        self._change(function, {_keyed(key, "return"): code})

    def delay(self, function: str, seconds: float, key: object = None) -> None:
        """Delays a function. Set to 0, delayed calls end at once."""
        self._change(function, {_keyed(key, "delay"): seconds})

    def heal(self, function: str = "*") -> None:
        """Removes the return codes and delays of a function; of all functions by default."""
        for key in list(self._driver.lines):
            scope, called, name = key
            if scope == self._name and function in {called, "*"} and _is_fault(name):
                del self._driver.lines[key]
        self._driver.write()

    def unset(self, function: str) -> None:
        """Makes a function unsupported."""
        for key in list(self._driver.lines):
            if key[:2] == (self._name, function):
                del self._driver.lines[key]
        self._driver.write()

    def lose(self) -> None:
        """Makes every call return GPU_IS_LOST, as after falling off the bus."""
        self.fail("*", GPU_IS_LOST)

    def come_back(self) -> None:
        """Ends `lose`; handles from before are invalid."""
        earlier = self._driver.lines.get((self._name, "*", "handle_epoch"), "0")
        with self._driver.batch():
            self.heal()
            self._change("*", {"handle_epoch": int(earlier) + 1})

    def set_field(self, number: int, value: float, kind: int = 3, scope: int | None = None) -> None:
        """Sets a field value. kind: 0 double, 1 unsigned, 3 unsigned long long, 5 int."""
        name = str(number) if scope is None else f"{number}.{scope}"
        self.set("nvmlDeviceGetFieldValues", **{name: f"{kind} {value}"})

    def processes(
        self, kind: str = "Compute", *processes: tuple[int, int] | tuple[int, int, int]
    ) -> None:
        """Sets a process list: (PID, bytes) or (PID, bytes, GPU instance)."""
        text = " ".join(
            f"{pid}:{memory}:{instance[0] if instance else NO_INSTANCE}:{NO_INSTANCE}"
            for pid, memory, *instance in processes
        )
        self.set(f"nvmlDeviceGet{kind}RunningProcesses_v3", text)

    def busy(self, *samples: tuple[int, int, int]) -> None:
        """Sets utilization samples of processes: (PID, time stamp in microseconds, percent)."""
        text = " ".join(f"{pid}:{stamp}:{percent}:0:0:0" for pid, stamp, percent in samples)
        self.set("nvmlDeviceGetProcessesUtilizationInfo", text)
        self.set("nvmlDeviceGetProcessUtilization", text)

    def set_samples(self, kind: int, samples: Iterable[tuple[int, float]]) -> None:
        """Sets the samples of a type: (time stamp in microseconds, number)."""
        text = " ".join(f"{stamp}:{number:.0f}" for stamp, number in samples)
        self.set("nvmlDeviceGetSamples", **{str(kind): text})

    def set_mig_devices(self, devices: int | Sequence[MigDevice]) -> None:
        """Replaces the MIG devices (a number: of profile 1g.10gb); 0 disables MIG.

        Emits no event.
        """
        if isinstance(devices, int):
            devices = one_g_devices(devices)
        with self._driver.batch():
            earlier = int(self._driver.lines.get((self._name, "*", "mig_epoch"), "0"))
            for key in list(self._driver.lines):
                if key[0].startswith(f"{self._name}/") or (
                    key[0] == self._name and key[1] == "nvmlDeviceGetMigDeviceHandleByIndex"
                ):
                    del self._driver.lines[key]
            disabled = {("", "nvmlDeviceGetMigMode", "current"): 0}
            changes = mig_lines(devices) if devices else disabled
            for (scope, function, name), value in changes.items():
                self._driver.lines[self._name + scope, function, name] = str(value)
            self._change("*", {"mig_epoch": earlier + 1})

    def count(self, function: str = "*") -> Count:
        return self._driver.count(function, SYSTEM if self._name == "system" else int(self._name))

    def _change(self, function: str, values: Mapping[str, float | str]) -> None:
        for name, value in values.items():
            self._driver.lines[self._name, function, name] = str(value)
        self._driver.write()


def hangs(file: Path, gpu: int, functions: Sequence[str] = ()) -> bool:
    """Returns whether a delayed call of a GPU, or of SYSTEM, is in flight; also in another process.

    file: the driver's control file. functions: those that count; all by default.
    """
    scope = "system" if gpu == SYSTEM else str(gpu)
    delayed = re.findall(rf"^{scope} (\S+) (?:\S+\.)?delay [1-9]", file.read_text(), re.MULTILINE)
    counts = file.with_name(f"{file.name}.calls")
    return any(
        _read_count(counts, function, gpu).in_flight
        for function in delayed
        if function in functions or not functions
    )


def _read_count(file: Path, function: str, gpu: int) -> Count:
    """Returns the entry of a function in a table of calls."""
    try:
        table = file.open("rb", buffering=0)
    except FileNotFoundError:
        return Count()
    with table:
        for index in range(_COUNTS):  # as find_count in counts.c
            table.seek((_hash(gpu, function) + index) % _COUNTS * _COUNT.size)
            name, number, count = _entry(table.read(_COUNT.size), 0)
            if not name:
                break
            if (name, number) == (function, gpu):
                return count
    return Count()


def _is_fault(name: str) -> bool:
    return name.rpartition(".")[2] in _FAULTS


def _entry(content: bytes, offset: int) -> tuple[str, int, Count]:
    """Returns the function, the GPU and the calls of an entry of the table."""
    name, gpu, in_flight, maximum, _, calls, argument, cost, spent = _COUNT.unpack_from(
        content, offset
    )
    function = name.split(b"\0", 1)[0].decode()
    return function, gpu, Count(calls, in_flight, maximum, argument, cost, spent)


@functools.lru_cache
def _hash(gpu: int, function: str) -> int:
    """Returns the hash of a function of a GPU, as `hash` in control.c."""
    value = (2166136261 ^ gpu) & 0xFFFFFFFF
    for byte in function.encode() + b" ":
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value


def _keyed(key: object, name: str) -> str:
    return name if key is None else f"{key}.{name}"


class Driver:
    """A driver with GPUs (H100 by default) and its control file in the folder."""

    def __init__(
        self,
        folder: Path,
        gpus: int = 8,
        card: Callable[[int], Card] = cards.h100,
        without: Sequence[str] = (),
    ) -> None:
        self.file = folder / "nvml"
        self._counts_file = folder / "nvml.calls"
        self.lines: dict[tuple[str, str, str], str] = {}
        self.system = Scope(self, "system")
        self.every_gpu = Scope(self, "*")
        self._gpus = [Scope(self, str(index)) for index in range(gpus)]
        self._order = list(range(gpus))
        self._epoch = 0
        self._events: list[str] = []
        self._batching = False
        self._without = tuple(without)
        with self.batch():
            values = {"system": cards.SYSTEM} | {str(index): card(index) for index in range(gpus)}
            for scope, of_scope in values.items():
                for (function, name), value in of_scope.items():
                    self.lines[scope, function, name] = str(value)

    def heal(self) -> None:
        """Removes all return codes and delays of all scopes."""
        # Most lines end otherwise, which is a tenth of the time of _is_fault.
        faults = [key for key in self.lines if key[2].endswith(_FAULTS) and _is_fault(key[2])]
        if faults:
            for key in faults:
                del self.lines[key]
            self.write()

    def set_costs(self, costs: Card) -> None:
        """Makes calls and fields of every GPU take CPU time: {(function, "cost"): microseconds}."""
        with self.batch():
            for (function, name), microseconds in costs.items():
                self.every_gpu.set(function, **{name: microseconds})

    @property
    def library(self) -> Path:
        """Path of the compiled library, for another process."""
        return library(self._without)

    def gpu(self, number: int) -> Scope:
        return self._gpus[number]

    def set_order(self, *numbers: int) -> None:
        """Sets the GPUs by index; a GPU that is not listed is removed."""
        self._order = list(numbers)
        self.write()

    def emit_event(self, gpu: int, data: int, event_type: int = XID) -> None:
        """Emits an event of a GPU. data: the XID number, for events of that type."""
        self._events.append(f"event {len(self._events) + 1} {gpu} {event_type} {data}")
        self.write()

    def uninitialise(self) -> None:
        """Makes all calls return UNINITIALIZED until the next nvmlInit."""
        self._epoch += 1
        self.write()

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Makes several changes take effect at once."""
        self._batching = True
        try:
            yield
        finally:
            self._batching = False
            self.write()

    def write(self) -> None:
        """Replaces the control file atomically."""
        if self._batching:
            return
        lines = ["order " + " ".join(map(str, self._order)), f"epoch {self._epoch}"]
        lines += self._events
        lines += [
            f"{scope} {function} {name} {value}"
            for (scope, function, name), value in self.lines.items()
        ]
        unfinished = self.file.with_name(f"{self.file.name}.new")
        unfinished.write_text("\n".join(lines) + "\n")
        # The file system's time stamps are too coarse to distinguish two quick changes.
        stamp = time.time_ns()
        os.utime(unfinished, ns=(stamp, stamp))
        unfinished.replace(self.file)

    def load(self) -> None:
        """Makes pynvml in this process use this driver, uninitialized."""
        loaded().nvml_standin_use(str(self.file).encode())

    def environment(self) -> dict[str, str]:
        """Returns the environment with which another process uses this driver."""
        folder = self.library.parent
        return {**os.environ, "LD_LIBRARY_PATH": str(folder), "NVML_STANDIN_FILE": str(self.file)}

    def counts(self) -> dict[tuple[str, int], Count]:
        """Returns calls by (function, GPU number or SYSTEM); function `*`: all functions."""
        content = self._table()
        entries = (
            _entry(content, offset)
            for offset in range(0, len(content), _COUNT.size)
            if content[offset]  # a name: most entries of the table are empty
        )
        return {(function, gpu): count for function, gpu, count in entries}

    def count(self, function: str = "*", gpu: int = SYSTEM) -> Count:
        return _read_count(self._counts_file, function, gpu)

    def _table(self) -> bytes:
        try:
            return self._counts_file.read_bytes()
        except FileNotFoundError:
            return b""
