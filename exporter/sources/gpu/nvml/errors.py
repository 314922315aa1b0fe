"""What the driver's return codes (nvmlReturn_t in nvml.h) mean here."""

from __future__ import annotations

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


class GpuLost(Unreachable):
    """The GPU does not answer any more; its handle is of no use."""


class Uninitialised(Unreachable):
    """The library forgot that it was initialised; every handle is of no use."""


class VersionMismatch(Unreachable):
    """Library and kernel module are of different versions: the driver was updated underneath."""


class NoData(Unreachable):
    """There is nothing to say just now: no sample yet, no such slice, nobody there."""


NO_DRIVER = (
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
    6: (NoData, "the driver does not find it", ""),
    7: (BadData, "the answer is larger than was said", ""),
    8: (Unreachable, "external power is not connected", "check the GPU's power cables"),
    9: (NotFound, "the driver is not loaded", f"load it (modprobe nvidia), or {NO_DRIVER}"),
    10: (DeadlineExceeded, "the driver gave up waiting", ""),
    11: (Unreachable, "the driver cannot get the GPU's interrupts", "see the kernel's log"),
    12: (NotFound, f"{LIBRARY} is not there", NO_DRIVER),
    13: (Unsupported, "the driver is older than this question", ""),
    14: (BadData, "the GPU's infoROM is corrupted", "see nvidia-smi"),
    15: (GpuLost, "the GPU is lost", _LOST),
    16: (GpuLost, "the GPU must be reset", _LOST),
    17: (Forbidden, "the operating system blocks access to the GPU", _DEVICES),
    18: (VersionMismatch, "library and kernel module are of different versions", _RELOAD),
    19: (Unreachable, "the GPU is in use", ""),
    20: (Unreachable, "the driver has not enough memory", ""),
    21: (NoData, "the driver has no data of it", ""),
    22: (Unsupported, "not supported by this GPU", ""),
    23: (Unreachable, "the driver ran out of resources", ""),
    24: (Unsupported, "not supported by this GPU", ""),
    25: (Unsupported, "the driver is older than this question", ""),
    26: (Unsupported, "the driver does not answer this any more", ""),
    27: (Unreachable, "the GPU is not ready", ""),
    28: (GpuLost, "the GPU is gone", _LOST),
    29: (Unreachable, "the GPU is in a state that forbids the question", ""),
    999: (Unreachable, "the driver reports an unknown error", _DEVICES),
}


def error_for(code: int, function: str) -> SourceError:
    """A return code of a function as the error it is for us."""
    error, message, remedy = _MEANING.get(code, (BadData, f"unknown return code {code}", ""))
    return error(f"{function}: {message}", remedy)
