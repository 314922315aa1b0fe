"""The GPUs among the PCI devices in sysfs, also those that NVML does not list."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from exporter.kernel_file import kernel_text
from exporter.settings import Paths

PciAddress = tuple[int, int, int]
"""Domain, bus and device of a PCI device."""

# 0000:38:00.0, or 00000000:38:00.0 as NVML writes it.
_ADDRESS = re.compile(r"([0-9A-Fa-f]{4,8}):([0-9A-Fa-f]{2}):([0-9A-Fa-f]{2})(?:\.[0-7])?\Z")
_NVIDIA = "0x10de"
# Classes of a VGA and of a 3D controller; the last byte, the programming interface, is left out.
_GPU_CLASSES = ("0x0300", "0x0302")
_DEVICE_NODE = re.compile(r"nvidia\d{1,4}\Z")
_EXCLUDED = re.compile(r"^ExcludedGpus:\s*\"([^\"]+)\"", re.MULTILINE)
# Devices of the driver: a host has at most 16 GPUs, and some have virtual functions for vGPUs.
_MAX_DEVICES = 2048


def pci_address(text: str) -> PciAddress | None:
    """Returns a PCI address as numbers; None for any other text."""
    match = _ADDRESS.match(text)
    if match is None:
        return None
    return int(match[1], 16), int(match[2], 16), int(match[3], 16)


def bound_gpus(sysfs: str) -> dict[PciAddress, str]:
    """Returns the GPUs bound to the driver `nvidia`: their names in sysfs by PCI address.

    Without virtual functions, which the driver of a vGPU host is bound to and NVML does not list.
    """
    try:
        names = sorted(path.name for path in Path(sysfs, "bus/pci/drivers/nvidia").iterdir())
    except OSError:
        return {}
    devices = {}
    for name in names[:_MAX_DEVICES]:
        address = pci_address(name)
        if address is not None and _is_gpu(f"{sysfs}/bus/pci/devices/{name}"):
            devices[address] = name
    return devices


def _is_gpu(device: str) -> bool:
    vendor = (kernel_text(f"{device}/vendor") or "").strip()
    device_class = (kernel_text(f"{device}/class") or "").strip()
    physical = not os.path.lexists(f"{device}/physfn")
    return vendor == _NVIDIA and device_class.startswith(_GPU_CLASSES) and physical


class AllGpusVisible:
    """Whether every GPU of the host is expected in NVML's list: no container has a part of them.

    device_folder: the folder of the device nodes.
    """

    def __init__(
        self, paths: Paths, environment: Mapping[str, str], device_folder: str = "/dev"
    ) -> None:
        self._parameters = f"{paths.procfs}/driver/nvidia/params"
        self._device_folder = device_folder
        self._selected = environment.get("NVIDIA_VISIBLE_DEVICES", "")

    def __call__(self, gpus: int) -> bool:
        """Returns whether so many GPUs are visible: each has a device node, and none is excluded
        by a parameter of the driver.
        """
        if self._selected not in ("", "all", "void", "none"):
            return False  # none, void: the container has the host's /dev instead
        try:
            names = [path.name for path in Path(self._device_folder).iterdir()]
        except OSError:
            return False
        if sum(_DEVICE_NODE.match(name) is not None for name in names) < gpus:
            return False
        return _EXCLUDED.search(kernel_text(self._parameters) or "") is None


def missing_gpus(bound: Mapping[PciAddress, str], listed: Iterable[PciAddress]) -> tuple[str, ...]:
    """Returns the names of the bound GPUs that are not listed."""
    known = set(listed)
    return tuple(name for address, name in bound.items() if address not in known)
