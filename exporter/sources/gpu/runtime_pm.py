"""Whether a GPU sleeps (runtime power management): its PCI device in sysfs tells, unwoken.

Any call of the driver's for a GPU would wake it. Counting the GPUs does not (NVML initialises a GPU
when its handle is asked for), nor does waiting for events.
"""

from __future__ import annotations

import re

from exporter.kernel_file import kernel_text

# 00000000:0C:00.0, as NVML writes it.
_ADDRESS = re.compile(r"([0-9A-Fa-f]{4,8}):([0-9A-Fa-f]{2}):([0-9A-Fa-f]{2})\.([0-7])\Z")
# What the kernel writes (drivers/base/power/sysfs.c): one that falls asleep would be woken, too.
_ASLEEP = frozenset(("suspended", "suspending"))
_AWAKE = frozenset(("active", "resuming", "unsupported"))


def device_folder(pci_bus_id: str) -> str | None:
    """Where the PCI device is below sysfs, which writes the domain with at least four digits."""
    match = _ADDRESS.match(pci_bus_id)
    if match is None:
        return None
    domain, bus, device, function = match.groups()
    name = f"{int(domain, 16):04x}:{bus}:{device}.{function}".lower()
    return f"bus/pci/devices/{name}"


class RuntimePm:
    """Whether one GPU sleeps, in that GPU's thread: it reads a file."""

    def __init__(self, sysfs: str) -> None:
        self._sysfs = sysfs
        self._pci_bus_id = ""
        self._file: str | None = None

    def place(self, pci_bus_id: str) -> bool:
        """Note where the GPU is; gives whether that is news. Until then nothing can be told."""
        if pci_bus_id == self._pci_bus_id:
            return False
        self._pci_bus_id = pci_bus_id
        folder = device_folder(pci_bus_id)
        self._file = None if folder is None else f"{self._sysfs}/{folder}/power/runtime_status"
        return True

    def asleep(self) -> bool | None:
        """None where it cannot be told."""
        text = None if self._file is None else kernel_text(self._file)
        status = "" if text is None else text.strip()
        if status in _ASLEEP:
            return True
        return False if status in _AWAKE else None
