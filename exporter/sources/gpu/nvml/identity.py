"""What a GPU is. It does not change while its handle is good, and is asked for once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from exporter.errors import BadData
from exporter.sources.gpu.nvml.library import call
from exporter.sources.gpu.nvml.query import NvmlQuery
from exporter.sources.gpu.reading import GpuIdentity

# nvmlBrandType_t; the numbers left out have no name any more.
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
    """The PCI address as the driver writes it: 00000000:07:00.0. Raises SourceError."""
    information = call("nvmlDeviceGetPciInfo", handle)
    try:  # decoded in the structure by some releases of pynvml, not by others
        address = information.busId
        return address.decode() if isinstance(address, bytes) else str(address)
    except UnicodeDecodeError as error:
        text = error.object[:40]
        raise BadData(f"nvmlDeviceGetPciInfo: text that is not UTF-8: {text!r}") from None


def cuda_version() -> str:
    """The newest CUDA version that the driver can run, such as 13.1. Raises SourceError."""
    number = call("nvmlSystemGetCudaDriverVersion")
    if not 0 < number < 1_000_000:
        raise BadData(f"nvmlSystemGetCudaDriverVersion: {number} is no version")
    return f"{number // 1000}.{number % 1000 // 10}"


def _text(function: str, *arguments: object) -> Callable[[Any], str]:
    return lambda handle: str(call(function, handle, *arguments))


_QUESTIONS: dict[str, Callable[[Any], str]] = {
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
}
_NAMES = tuple(field.name for field in fields(GpuIdentity))


class IdentityReader:
    """The identity of one GPU, as far as the driver has told it."""

    def __init__(self, asking: NvmlQuery) -> None:
        self._asking = asking
        self._known: dict[str, str] = {}
        self._identity = GpuIdentity()
        self._complete = False

    def forget(self) -> None:
        """Another driver, perhaps."""
        self._known.clear()
        self._complete = False

    @property
    def known(self) -> GpuIdentity:
        """As it was last read."""
        return self._identity

    def read(self, handle: Any) -> GpuIdentity:
        """Ask for what is not known yet. Raises as Asking.get."""
        if not self._complete:
            for name in _NAMES:
                if name not in self._known:
                    self._ask(name, handle)
            self._identity = GpuIdentity(**self._known)
            self._complete = len(self._known) == len(_NAMES)
        return self._identity

    def _ask(self, name: str, handle: Any) -> None:
        before = len(self._asking.problems)
        key = ("identity", name)
        text = self._asking.get(key, _QUESTIONS[name], handle)
        garbage = any(isinstance(one, BadData) for one in self._asking.problems[before:])
        # What is garbage or unknown to the card is so the next time too.
        if text is not None or garbage or self._asking.unsupported(key):
            self._known[name] = text or ""
