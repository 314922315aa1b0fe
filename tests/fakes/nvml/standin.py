"""The driver library's stand-in, from Python: compile it, say what it answers, see what was asked.

    driver = Driver(tmp_path, gpus=8)
    driver.load()                                   # for pynvml in this process, or:
    subprocess.Popen(…, env=driver.environment())   # for pynvml in another
    driver.gpu(3).delay("nvmlDeviceGetPowerUsage", 60)
    driver.gpu(2).lose()
    driver.gpu(0).set("nvmlDeviceGetPowerUsage", 250_000)

Every change is seen by the library at its next call, and by calls that are being delayed.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.nvml import cards
from tests.fakes.nvml.profiles import Card
from tests.fakes.nvml.uncaptured import Slice, sliced, tenths
from tests.parts import missing

LIBRARY = "libnvidia-ml.so.1"
SOURCES = Path(__file__).parent
FLAGS = ("-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden")

# NVML's return codes (nvml.h), here so that tests need not trust pynvml's names.
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
XID, MIG_CHANGED = 0x8, 0x100
NOTHING = 0xFFFFFFFF  # no MIG instance
NO_MEMORY = 0xFFFFFFFFFFFFFFFF
# struct count in counts.c: function, gpu, in flight, most in flight, reserved, calls, argument.
_COUNT = struct.Struct("64siIIIQQ")


@functools.cache
def library(without: tuple[str, ...] = ()) -> Path:
    """The compiled library; `without` leaves symbols out, as an older driver would.

    Compiled once and kept in the temporary folder for later runs of the same source.
    """
    sources = sorted(SOURCES.iterdir())
    # A renamed symbol is an absent one.
    options = (*FLAGS, *(f"-D{name}=absent_{name}" for name in without))
    digest = hashlib.sha256(repr(options).encode())
    for source in sources:
        digest.update(source.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"nvml-standin-{os.getuid()}-{digest.hexdigest()[:16]}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    built = folder / LIBRARY
    if not built.exists():
        if shutil.which("gcc") is None:
            missing("gcc, which compiles the stand-in for the driver library")
        unfinished = folder / f"{LIBRARY}.{os.getpid()}"
        code = [str(source) for source in sources if source.suffix == ".c"]
        command = ["gcc", *options, "-shared", "-fPIC", f"-Wl,-soname,{LIBRARY}", "-pthread"]
        subprocess.run([*command, "-o", str(unfinished), *code], check=True)
        unfinished.replace(built)
    return built


@functools.cache
def loaded() -> ctypes.CDLL:
    """The stand-in, loaded into this process: pynvml then finds it by its soname."""
    return ctypes.CDLL(str(library()), mode=ctypes.RTLD_GLOBAL)


def layouts() -> dict[str, tuple[int, dict[str, tuple[int, int]]]]:
    """The C structures: {name: (size, {field: (offset, size)})}, all in bytes."""
    text = ctypes.create_string_buffer(65536)
    loaded().nvml_standin_layouts(text, ctypes.c_size_t(len(text)))
    found = {}
    for line in text.value.decode().splitlines():
        name, size, *fields = line.split()
        parts = [field.split(":") for field in fields]
        found[name] = (int(size), {field: (int(at), int(width)) for field, at, width in parts})
    return found


@dataclass(frozen=True, slots=True)
class Count:
    """How often a function was called, and how many calls were running at once, at the most.

    argument: what the last call was given, of the functions for samples: their time stamp.
    """

    calls: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    argument: int = 0


class Scope:
    """One GPU (by its own number, whatever its index), or the system, or every GPU."""

    def __init__(self, driver: Driver, name: str) -> None:
        self._driver = driver
        self._name = name

    def set(self, function: str, value: float | str | None = None, **fields: float | str) -> None:
        r"""Let a function answer the value, or the fields of its structure.

        A function that is told one of several by its caller takes that key in its name:
        `set("nvmlDeviceGetClockInfo", **{"1": 1980})`. Text may hold bytes as \xHH.
        """
        if value is not None:
            fields["value"] = value
        self._change(function, fields)

    def fail(self, function: str, code: int, key: object = None) -> None:
        """Let a function (`*`: all of them) answer a return code; with a key, for that key only."""
        self._change(function, {_keyed(key, "return"): code})

    def delay(self, function: str, seconds: float, key: object = None) -> None:
        """Let a function take its time. Set to 0, calls that are waiting end at once."""
        self._change(function, {_keyed(key, "delay"): seconds})

    def heal(self, function: str = "*") -> None:
        """Take back every fail and delay of a function; of all functions by default."""
        for key in list(self._driver.lines):
            scope, name, what = key
            ordered = what.rsplit(".", 1)[-1] in {"return", "delay"}
            if scope == self._name and ordered and function in {name, "*"}:
                del self._driver.lines[key]
        self._driver.write()

    def unset(self, function: str) -> None:
        """Let a function be unsupported: the card has no such thing."""
        for key in list(self._driver.lines):
            if key[:2] == (self._name, function):
                del self._driver.lines[key]
        self._driver.write()

    def lose(self) -> None:
        """Fall off the bus."""
        self.fail("*", GPU_IS_LOST)

    def come_back(self) -> None:
        """Be there again after having been lost; the handles from before are of no use."""
        earlier = self._driver.lines.get((self._name, "*", "handle"), "0")
        with self._driver.batch():
            self.heal()
            self._change("*", {"handle": int(earlier) + 1})

    def field(self, number: int, value: float, kind: int = 3, scope: int | None = None) -> None:
        """Let a field value be this. kind: 0 double, 1 unsigned, 3 unsigned long long, 5 int."""
        name = str(number) if scope is None else f"{number}.{scope}"
        self.set("nvmlDeviceGetFieldValues", **{name: f"{kind} {value}"})

    def processes(
        self, kind: str = "Compute", *processes: tuple[int, int] | tuple[int, int, int]
    ) -> None:
        """Let these use the GPU: (PID, bytes) or (PID, bytes, GPU instance)."""
        text = " ".join(
            f"{pid}:{memory}:{instance[0] if instance else NOTHING}:{NOTHING}"
            for pid, memory, *instance in processes
        )
        self.set(f"nvmlDeviceGet{kind}RunningProcesses_v3", text)

    def busy(self, *samples: tuple[int, int, int]) -> None:
        """Utilization samples of processes: (PID, time stamp in microseconds, percent)."""
        text = " ".join(f"{pid}:{when}:{percent}:0:0:0" for pid, when, percent in samples)
        self.set("nvmlDeviceGetProcessesUtilizationInfo", text)
        self.set("nvmlDeviceGetProcessUtilization", text)

    def cut(self, slices: int | Sequence[Slice]) -> None:
        """Cut the GPU into slices (MIG; a number: of 1g.10gb), or put it together again (0).

        It tells nobody.
        """
        if isinstance(slices, int):
            slices = tenths(slices)
        with self._driver.batch():
            earlier = int(self._driver.lines.get((self._name, "*", "cut"), "0"))
            for key in list(self._driver.lines):
                if key[0].startswith(f"{self._name}/") or (
                    key[0] == self._name and key[1] == "nvmlDeviceGetMigDeviceHandleByIndex"
                ):
                    del self._driver.lines[key]
            changes = sliced(slices) if slices else {("", "nvmlDeviceGetMigMode", "current"): 0}
            for (scope, function, name), value in changes.items():
                self._driver.lines[self._name + scope, function, name] = str(value)
            self._change("*", {"cut": earlier + 1})

    def count(self, function: str = "*") -> Count:
        return self._driver.count(function, SYSTEM if self._name == "system" else int(self._name))

    def _change(self, function: str, values: Mapping[str, float | str]) -> None:
        for name, value in values.items():
            self._driver.lines[self._name, function, name] = str(value)
        self._driver.write()


def _keyed(key: object, word: str) -> str:
    return word if key is None else f"{key}.{word}"


class Driver:
    """A driver with GPUs, H100 cards by default; its control file lies in the folder."""

    def __init__(
        self,
        folder: Path,
        gpus: int = 8,
        card: Callable[[int], Card] = cards.h100,
        without: Sequence[str] = (),
    ) -> None:
        self.file = folder / "nvml"
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
            for (function, name), value in cards.SYSTEM.items():
                self.system.set(function, **{name: value})
            for index, gpu in enumerate(self._gpus):
                for (function, name), value in card(index).items():
                    gpu.set(function, **{name: value})

    def heal(self) -> None:
        """Take back every fail and delay of everything."""
        with self.batch():
            for scope in (self.system, self.every_gpu, *self._gpus):
                scope.heal()

    @property
    def library(self) -> Path:
        """The compiled library of this driver, for another process."""
        return library(self._without)

    def gpu(self, number: int) -> Scope:
        return self._gpus[number]

    def order(self, *numbers: int) -> None:
        """Which GPUs there are, by index; a GPU not named is gone."""
        self._order = list(numbers)
        self.write()

    def happen(self, gpu: int, data: int, event_type: int = XID) -> None:
        """Let an event happen to a GPU: an XID with its number, or something else."""
        self._events.append(f"event {len(self._events) + 1} {gpu} {event_type} {data}")
        self.write()

    def forget(self) -> None:
        """Let the driver forget that it was initialised: UNINITIALIZED until nvmlInit."""
        self._epoch += 1
        self.write()

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Make several changes take effect at once."""
        self._batching = True
        try:
            yield
        finally:
            self._batching = False
            self.write()

    def write(self) -> None:
        """Replace the control file in one step."""
        if self._batching:
            return
        lines = ["order " + " ".join(map(str, self._order)), f"epoch {self._epoch}"]
        lines += self._events
        lines += [" ".join((*key, value)) for key, value in self.lines.items()]
        unfinished = self.file.with_name(f"{self.file.name}.new")
        unfinished.write_text("\n".join(lines) + "\n")
        # The file system's own time stamps are too coarse to tell two quick changes apart.
        stamp = time.time_ns()
        os.utime(unfinished, ns=(stamp, stamp))
        unfinished.replace(self.file)

    def load(self) -> None:
        """Let pynvml in this process use this driver from now on, uninitialised."""
        loaded().nvml_standin_use(str(self.file).encode())

    def environment(self) -> dict[str, str]:
        """The environment in which another process finds this driver."""
        folder = self.library.parent
        return {**os.environ, "LD_LIBRARY_PATH": str(folder), "NVML_STANDIN_FILE": str(self.file)}

    def counts(self) -> dict[tuple[str, int], Count]:
        """Calls so far by (function, GPU's number or SYSTEM); the function `*` is all of them."""
        table = self.file.with_name(f"{self.file.name}.calls")
        if not table.exists():
            return {}
        found = {}
        for name, gpu, now, most, _, calls, argument in _COUNT.iter_unpack(table.read_bytes()):
            if function := name.split(b"\0", 1)[0].decode():
                found[function, gpu] = Count(calls, now, most, argument)
        return found

    def count(self, function: str = "*", gpu: int = SYSTEM) -> Count:
        return self.counts().get((function, gpu), Count())
