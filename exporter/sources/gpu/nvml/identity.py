"""A GPU's identity (name, serial, versions, PCI address): read once for each handle."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import byref, c_uint
from dataclasses import fields
from typing import Any

from exporter.errors import BadData
from exporter.sources.gpu.nvml.errors import error_for
from exporter.sources.gpu.nvml.library import call
from exporter.sources.gpu.nvml.query import NvmlQuery
from exporter.sources.gpu.reading import GpuIdentity

# nvmlBrandType_t; the missing numbers are deprecated.
_BRANDS = {
    1: "Quadro",
    2: "Tesla",
    3: "NVS",
    4: "GRID",
    5: "GeForce",
    6: "Titan",
    7: "NVIDIA vApps",
    8: "NVIDIA vPC",
    9: "NVIDIA vCS",
    10: "NVIDIA vWS",
    11: "NVIDIA Cloud Gaming",
    12: "Quadro RTX",
    13: "NVIDIA RTX",
    14: "NVIDIA",
    15: "GeForce RTX",
    16: "Titan RTX",
}


def pci_bus_id(handle: Any) -> str:
    """Returns the PCI address as NVML writes it: 00000000:07:00.0. Raises SourceError."""
    information = call("nvmlDeviceGetPciInfo", handle)
    try:  # some pynvml releases decode it in the structure, others do not
        address = information.busId
        return address.decode() if isinstance(address, bytes) else str(address)
    except UnicodeDecodeError as error:
        text = error.object[:40]
        raise BadData(f"nvmlDeviceGetPciInfo: text is not UTF-8: {text!r}") from None


def cuda_version() -> str:
    """Returns the newest CUDA version the driver supports, such as 13.1. Raises SourceError."""
    number = call("nvmlSystemGetCudaDriverVersion")
    if not 0 < number < 1_000_000:
        raise BadData(f"nvmlSystemGetCudaDriverVersion: {number} is not a version")
    return f"{number // 1000}.{number % 1000 // 10}"


def capability(identity: GpuIdentity) -> tuple[int, int] | None:
    """Returns the CUDA compute capability as numbers; None if unknown."""
    major, _, minor = identity.compute_capability.partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None


def module_id(handle: Any) -> str:
    """Returns the number of the GPU's module. Raises SourceError.

    Without a reference, pynvml writes to a variable that all threads share; old releases need one.
    """
    number = c_uint()
    if code := call("nvmlDeviceGetModuleId", handle, byref(number)):
        raise error_for(code, "nvmlDeviceGetModuleId")
    return str(number.value)


def _text(function: str, *arguments: object) -> Callable[[Any], str]:
    return lambda handle: str(call(function, handle, *arguments))


_READERS: dict[str, Callable[[Any], str]] = {
    "name": _text("nvmlDeviceGetName"),
    "pci_bus_id": pci_bus_id,
    "driver_version": lambda _: str(call("nvmlSystemGetDriverVersion")),
    "cuda_version": lambda _: cuda_version(),
    "vbios_version": _text("nvmlDeviceGetVbiosVersion"),
    "nvml_version": lambda _: str(call("nvmlSystemGetNVMLVersion")),
    "brand": lambda handle: _BRANDS.get(call("nvmlDeviceGetBrand", handle), ""),
    "serial": _text("nvmlDeviceGetSerial"),
    "compute_capability": lambda handle: "{}.{}".format(
        *call("nvmlDeviceGetCudaComputeCapability", handle)
    ),
    "inforom_image_version": _text("nvmlDeviceGetInforomImageVersion"),
    "inforom_oem_version": _text("nvmlDeviceGetInforomVersion", 0),
    "inforom_ecc_version": _text("nvmlDeviceGetInforomVersion", 1),
    "inforom_power_version": _text("nvmlDeviceGetInforomVersion", 2),
    "module_id": module_id,
}
_NAMES = tuple(field.name for field in fields(GpuIdentity))


class IdentityReader:
    """Reads the identity of one GPU, and repeats only the queries that failed."""

    def __init__(self, query: NvmlQuery) -> None:
        self._query = query
        self._texts: dict[str, str] = {}
        self._identity = GpuIdentity()
        self._complete = False

    def reset(self) -> None:
        """Reads everything again at the next read: the driver may have changed."""
        self._texts.clear()
        self._complete = False

    @property
    def last(self) -> GpuIdentity:
        """The identity as of the last read."""
        return self._identity

    def read(self, handle: Any) -> GpuIdentity:
        """Returns the identity; reads its missing parts. Raises as NvmlQuery.try_call."""
        if not self._complete:
            for name in _NAMES:
                if name not in self._texts:
                    self._read_text(name, handle)
            self._identity = GpuIdentity(**self._texts)
            self._complete = len(self._texts) == len(_NAMES)
        return self._identity

    def _read_text(self, name: str, handle: Any) -> None:
        before = len(self._query.problems)
        call_id = ("identity", name)
        text = self._query.try_call(call_id, _READERS[name], handle)
        invalid = any(isinstance(problem, BadData) for problem in self._query.problems[before:])
        # Invalid and unsupported texts stay so: they are not read again.
        if text is not None or invalid or self._query.is_unsupported(call_id):
            self._texts[name] = text or ""
