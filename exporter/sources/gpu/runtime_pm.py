"""Runtime power management: whether a GPU is suspended, from its PCI device in sysfs.

Reading the status does not wake the GPU; any NVML call for the GPU would. Counting the GPUs does
not (NVML initialises a GPU when its handle is acquired), nor does waiting for events.
"""

from __future__ import annotations

import re

from exporter.kernel_file import kernel_text

# 00000000:0C:00.0, as NVML writes it.
_PCI_ADDRESS = re.compile(r"([0-9A-Fa-f]{4,8}):([0-9A-Fa-f]{2}):([0-9A-Fa-f]{2})\.([0-7])\Z")
# Values of runtime_status (drivers/base/power/sysfs.c). A call would wake a suspending GPU, too.
_SUSPENDED = frozenset(("suspended", "suspending"))
_ACTIVE = frozenset(("active", "resuming", "unsupported"))


def pci_device_path(pci_bus_id: str) -> str | None:
    """Returns a PCI device's path below sysfs, whose domain has at least four digits."""
    match = _PCI_ADDRESS.match(pci_bus_id)
    if match is None:
        return None
    domain, bus, device, function = match.groups()
    name = f"{int(domain, 16):04x}:{bus}:{device}.{function}".lower()
    return f"bus/pci/devices/{name}"


class RuntimePm:
    """The runtime PM status of one GPU. Reads sysfs in that GPU's thread."""

    def __init__(self, sysfs: str) -> None:
        self._sysfs = sysfs
        self._pci_bus_id = ""
        self._status_file: str | None = None

    def set_pci_bus_id(self, pci_bus_id: str) -> bool:
        """Sets the GPU's PCI address; returns whether it changed."""
        if pci_bus_id == self._pci_bus_id:
            return False
        self._pci_bus_id = pci_bus_id
        path = pci_device_path(pci_bus_id)
        self._status_file = None if path is None else f"{self._sysfs}/{path}/power/runtime_status"
        return True

    def suspended(self) -> bool | None:
        """Returns whether the GPU is suspended; None if unknown."""
        text = None if self._status_file is None else kernel_text(self._status_file)
        status = "" if text is None else text.strip()
        if status in _SUSPENDED:
            return True
        return False if status in _ACTIVE else None
