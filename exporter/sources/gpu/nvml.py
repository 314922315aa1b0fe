"""Every call to the driver's library (NVML, through pynvml), and what its return codes mean here.

All functions block; they run in the threads of workers. NVML itself is thread-safe.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from exporter.errors import (
    BadData,
    DeadlineExceeded,
    Forbidden,
    NotFound,
    SourceError,
    Unreachable,
    Unsupported,
)

LIBRARY = "libnvidia-ml.so.1"
# More than any machine has; a driver that says more is not believed.
MOST_GPUS = 1024


class Lost(Unreachable):
    """The GPU does not answer any more; its handle is of no use."""


class Uninitialised(Unreachable):
    """The library forgot that it was initialised; every handle is of no use."""


_NO_DRIVER = (
    "install the NVIDIA driver; in a container, start it with the NVIDIA runtime (docker run"
    " --gpus all) so that the driver's library is there"
)
_RELOAD = (
    "the driver was updated underneath: reload its kernel module or reboot; in a container,"
    " start the container anew"
)
_LOST = "see the kernel's log for an Xid; reset the GPU (nvidia-smi --gpu-reset) or reboot"
_DEVICES = (
    "in a container, access to the GPU's device files may have been lost (systemctl daemon-reload"
    " does that): start the container anew; otherwise see the kernel's log"
)
_PERMISSION = "run with access to /dev/nvidia*, or as root where the driver asks for it"

# The meaning of a return code (nvmlReturn_t in nvml.h): error, message, remedy.
_MEANING: dict[int, tuple[type[SourceError], str, str]] = {
    0: (BadData, "success, and yet no answer", ""),
    1: (Uninitialised, "the library is not initialised any more", "it is done anew by itself"),
    2: (BadData, "the driver calls the argument invalid", ""),
    3: (Unsupported, "not supported by this GPU", ""),
    4: (Forbidden, "no permission", _PERMISSION),
    6: (Unreachable, "the driver does not find it", ""),
    7: (BadData, "the answer is larger than was said", ""),
    8: (Unreachable, "external power is not connected", "check the GPU's power cables"),
    9: (NotFound, "the driver is not loaded", f"load it (modprobe nvidia), or {_NO_DRIVER}"),
    10: (DeadlineExceeded, "the driver gave up waiting", ""),
    11: (Unreachable, "the driver cannot get the GPU's interrupts", "see the kernel's log"),
    12: (NotFound, f"{LIBRARY} is not there", _NO_DRIVER),
    13: (Unsupported, "the driver is older than this question", ""),
    14: (BadData, "the GPU's infoROM is corrupted", "see nvidia-smi"),
    15: (Lost, "the GPU is lost", _LOST),
    16: (Lost, "the GPU must be reset", _LOST),
    17: (Forbidden, "the operating system blocks access to the GPU", _DEVICES),
    18: (Unreachable, "library and kernel module are of different versions", _RELOAD),
    19: (Unreachable, "the GPU is in use", ""),
    20: (Unreachable, "the driver has not enough memory", ""),
    22: (Unsupported, "not supported by this GPU", ""),
    24: (Unsupported, "not supported by this GPU", ""),
    25: (Unsupported, "the driver is older than this question", ""),
    26: (Unsupported, "the driver does not answer this any more", ""),
    27: (Unreachable, "the GPU is not ready", ""),
    28: (Lost, "the GPU is gone", _LOST),
    999: (Unreachable, "the driver reports an unknown error", _DEVICES),
}


def meaning(code: int, function: str) -> SourceError:
    """A return code of a function as the error it is for us."""
    error, message, remedy = _MEANING.get(code, (BadData, f"unknown return code {code}", ""))
    return error(f"{function}: {message}", remedy)


@contextlib.contextmanager
def _translated(function: str) -> Iterator[None]:
    """Turn whatever pynvml raises for what a driver answers into a SourceError."""
    import pynvml  # noqa: PLC0415 - costs 6 MB and 50 ms, which a host without GPUs is spared

    try:
        yield
    except pynvml.NVMLError as error:
        # Not str(error): for codes unknown to pynvml that would call the driver again.
        raise meaning(getattr(error, "value", 0), function) from None
    except UnicodeDecodeError as error:
        raise BadData(f"{function}: text that is not UTF-8: {error.object[:40]!r}") from None


def call(function: str, *arguments: Any) -> Any:
    """Call a function of pynvml. Raises SourceError for whatever goes wrong."""
    import pynvml  # noqa: PLC0415 - as above

    wrapper = getattr(pynvml, function, None)
    if wrapper is None:  # a release of pynvml from before the function
        raise meaning(13, function)
    with _translated(function):
        return wrapper(*arguments)


def pci_bus_id(handle: Any) -> str:
    """The PCI address as the driver writes it: 00000000:07:00.0. Raises SourceError."""
    information = call("nvmlDeviceGetPciInfo", handle)
    with _translated("nvmlDeviceGetPciInfo"):
        address = information.busId  # decoded here by some releases of pynvml, not by others
        return address.decode() if isinstance(address, bytes) else str(address)


def cuda_version() -> str:
    """The newest CUDA version that the driver can run, such as 13.1. Raises SourceError."""
    number = call("nvmlSystemGetCudaDriverVersion")
    if not 0 < number < 1_000_000:
        raise BadData(f"nvmlSystemGetCudaDriverVersion: {number} is no version")
    return f"{number // 1000}.{number % 1000 // 10}"


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU's handle, good for one initialisation of the library."""

    handle: Any
    uuid: str
    generation: int


class Nvml:
    """The library's life: initialised when first needed, shut down when nobody is in a call."""

    def __init__(self) -> None:
        self.generation = 0
        """Counts initialisations: a handle of an earlier one is of no use."""
        self._lock = threading.Lock()
        self._in_use = 0
        self._initialised = False
        self._closed = False

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Hold off the shutdown: every call is made within this."""
        with self._lock:
            if self._closed:
                raise Unreachable("the GPU source is closed")
            self._in_use += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_use -= 1
                if self._closed:
                    self._shut_down()

    def count(self) -> int:
        """How many GPUs there are; initialises the library if need be. Only ever in one thread."""
        with self.in_use():
            if not self._initialised:
                _load()
                call("nvmlInit")
                self.generation += 1
                self._initialised = True
            try:
                count = int(call("nvmlDeviceGetCount"))
            except Uninitialised:
                self._initialised = False  # done anew the next time
                raise
        if count > MOST_GPUS:
            raise BadData(f"the driver says that it has {count} GPUs")
        return count

    def device(self, index: int) -> Device:
        """The GPU at an index. Raises SourceError, BadData too for a UUID that is none."""
        generation = self.generation
        handle = call("nvmlDeviceGetHandleByIndex", index)
        uuid = str(call("nvmlDeviceGetUUID", handle)).strip()
        if not uuid:
            raise BadData("nvmlDeviceGetUUID: empty")
        return Device(handle, uuid, generation)

    def restart(self) -> None:
        """Shut down, so that `count` initialises anew; not while anyone else is in a call."""
        with self._lock:
            if not self._in_use:
                self._shut_down()

    def close(self) -> None:
        """Shut down now, or when the last call ends. May block: not for the event loop."""
        with self._lock:
            self._closed = True
            self._shut_down()

    def _shut_down(self) -> None:
        """Shut down, unless someone is in a call (the library would be torn from under it)."""
        if self._initialised and not self._in_use:
            self._initialised = False
            # That the library is not initialised, or its driver gone, is as good.
            with contextlib.suppress(SourceError):
                call("nvmlShutdown")


def _load() -> None:
    """Load the library, before pynvml does: it does not say why loading fails."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise NotFound(
            f"the NVIDIA driver's library cannot be loaded: {error}", _NO_DRIVER
        ) from None
