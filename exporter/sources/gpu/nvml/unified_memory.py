"""The memory of a GPU that has none of its own: that of the host (GB10, Jetson Thor). Blocking."""

from __future__ import annotations

from typing import Any

from exporter.kernel_file import kernel_text
from exporter.kernel_formats import count
from exporter.sources.gpu.nvml.query import NvmlQuery
from exporter.sources.gpu.nvml.structs import MEMORY_CALLS
from exporter.sources.gpu.reading import GpuValues

# NVML_DEVICE_ADDRESSING_MODE_ATS: the GPU uses the CPU's page tables.
_ATS = 2


def read_unified_memory(query: NvmlQuery, handle: Any, values: GpuValues, procfs: str) -> None:
    """Reads the host's memory if the driver has no memory of the GPU, which uses the host's."""
    if "memory_total" in values.scalars or not all(map(query.is_unsupported, MEMORY_CALLS)):
        return
    if query.first_supported(handle, ("nvmlDeviceGetAddressingMode",)) == _ATS:
        add_host_memory(values, procfs)


def add_host_memory(values: GpuValues, procfs: str) -> None:
    """Adds the host's memory, in total and available."""
    sizes = _meminfo(procfs)
    if (total := sizes.get("MemTotal")) is not None:
        values.scalars["system_memory_total"] = total
        if (available := sizes.get("MemAvailable")) is not None and available <= total:
            values.scalars["system_memory_available"] = available


def _meminfo(procfs: str) -> dict[str, int]:
    """Returns the bytes of the lines "MemTotal: 123 kB" of PROC/meminfo."""
    sizes = {}
    for line in (kernel_text(f"{procfs}/meminfo") or "").split("\n"):
        name, _, rest = line.partition(":")
        number, _, unit = rest.strip().partition(" ")
        if unit == "kB" and (kib := count(number.encode())) is not None:
            sizes[name] = kib * 1024
    return sizes
