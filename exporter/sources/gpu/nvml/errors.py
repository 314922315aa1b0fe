"""NVML return codes (nvmlReturn_t in nvml.h) as exceptions with message and remedy."""

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
    """The GPU no longer responds; its handle is invalid."""


class Uninitialized(Unreachable):
    """NVML_ERROR_UNINITIALIZED: the library was shut down; every handle is invalid."""


class VersionMismatch(Unreachable):
    """Library and kernel module have different versions: the driver was updated while loaded."""


class NoData(Unreachable):
    """No value at present: no sample yet, no such MIG device, no process."""


NO_DRIVER = (
    "install the NVIDIA driver; in a container, start it with the NVIDIA runtime (docker run"
    " --gpus all), which mounts the driver's library"
)
_RELOAD = (
    "the driver was updated while loaded: reload its kernel module or reboot; in a container,"
    " restart the container"
)
_LOST = "see the kernel log for an XID; reset the GPU (nvidia-smi --gpu-reset) or reboot"
_DEVICES = (
    "in a container, access to the GPU's device files may have been lost (systemctl daemon-reload"
    " causes this): restart the container; otherwise see the kernel log"
)
_PERMISSION = "run with access to /dev/nvidia*, or as root if the driver requires it"

# By return code (nvmlReturn_t in nvml.h): exception, message, remedy.
_ERRORS: dict[int, tuple[type[SourceError], str, str]] = {
    0: (BadData, "success without a result", ""),
    1: (
        Uninitialized,
        "the library is no longer initialized",
        "none needed: the next discovery initializes it",
    ),
    2: (BadData, "the driver rejects the argument as invalid", ""),
    3: (Unsupported, "not supported by this GPU", ""),
    4: (Forbidden, "no permission", _PERMISSION),
    6: (NoData, "the driver did not find the object", ""),
    7: (BadData, "the buffer is too small for the result", ""),
    8: (Unreachable, "external power is not connected", "check the GPU's power cables"),
    9: (NotFound, "the driver is not loaded", f"load it (modprobe nvidia), or {NO_DRIVER}"),
    10: (DeadlineExceeded, "the driver timed out", ""),
    11: (Unreachable, "the driver cannot get the GPU's interrupts", "see the kernel log"),
    12: (NotFound, f"{LIBRARY} not found", NO_DRIVER),
    13: (Unsupported, "the driver is too old for this function", ""),
    14: (BadData, "the GPU's infoROM is corrupted", "see nvidia-smi"),
    15: (GpuLost, "the GPU is lost", _LOST),
    16: (GpuLost, "the GPU must be reset", _LOST),
    17: (Forbidden, "the operating system blocks access to the GPU", _DEVICES),
    18: (VersionMismatch, "library and kernel module have different versions", _RELOAD),
    19: (Unreachable, "the GPU is in use", ""),
    20: (Unreachable, "the driver has not enough memory", ""),
    21: (NoData, "the driver has no data", ""),
    22: (Unsupported, "not supported by this GPU", ""),
    23: (Unreachable, "the driver ran out of resources", ""),
    24: (Unsupported, "not supported by this GPU", ""),
    25: (Unsupported, "the driver is too old for this function", ""),
    26: (Unsupported, "the driver no longer supports this function", ""),
    27: (Unreachable, "the GPU is not ready", ""),
    28: (GpuLost, "the GPU was not found", _LOST),
    29: (Unreachable, "the GPU's state does not permit this call", ""),
    999: (Unreachable, "the driver reports an unknown error", _DEVICES),
}


def error_for(code: int, function: str) -> SourceError:
    """Returns the exception for a return code of an NVML function."""
    error, message, remedy = _ERRORS.get(code, (BadData, f"unknown return code {code}", ""))
    return error(f"{function}: {message}", remedy)
