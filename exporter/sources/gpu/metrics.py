"""The GPU metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, fields
from typing import Any

from exporter.model import Metric, counter, gauge, gauges, info, up
from exporter.sources.gpu.reading import GpuRow, Identity, Memory

UP = up("gpu_up", "Whether the GPU answers the driver's library (NVML).", GpuRow.LABELS)


def _memory(take: Callable[[Memory], int | None]) -> Callable[[GpuRow], int | None]:
    return lambda row: None if row.memory is None else take(row.memory)


METRICS: tuple[Metric[Any], ...] = (
    UP,
    info(
        "gpu_info",
        "What the GPU is, from nvmlDeviceGetName, GetPciInfo, GetVbiosVersion and"
        " nvmlSystemGetDriverVersion, GetCudaDriverVersion, GetNVMLVersion.",
        GpuRow,
        tuple(field.name for field in fields(Identity)),
        lambda row: astuple(row.identity),
    ),
    gauge(
        "gpu_utilization_ratio",
        "Share of the last sample period (1/6 to 1 s) in which a kernel ran, from"
        " nvmlDeviceGetUtilizationRates.gpu.",
        GpuRow,
        lambda row: row.utilization,
    ),
    gauge(
        "gpu_memory_utilization_ratio",
        "Share of the last sample period (1/6 to 1 s) in which memory was read or written, from"
        " nvmlDeviceGetUtilizationRates.memory.",
        GpuRow,
        lambda row: row.memory_utilization,
    ),
    gauge(
        "gpu_memory_total_bytes",
        "Memory of the GPU, from nvmlDeviceGetMemoryInfo_v2.total.",
        GpuRow,
        _memory(lambda memory: memory.total),
    ),
    gauge(
        "gpu_memory_used_bytes",
        "Memory in use, without what is reserved, from nvmlDeviceGetMemoryInfo_v2.used; drivers"
        " before R510 count the reserved memory as used.",
        GpuRow,
        _memory(lambda memory: memory.used),
    ),
    gauge(
        "gpu_memory_free_bytes",
        "Memory that is free, from nvmlDeviceGetMemoryInfo_v2.free.",
        GpuRow,
        _memory(lambda memory: memory.free),
    ),
    gauge(
        "gpu_memory_reserved_bytes",
        "Memory that the driver and firmware keep, from nvmlDeviceGetMemoryInfo_v2.reserved.",
        GpuRow,
        _memory(lambda memory: memory.reserved),
    ),
    gauge(
        "gpu_temperature_celsius",
        "Temperature of the GPU die, from nvmlDeviceGetTemperatureV, else GetTemperature.",
        GpuRow,
        lambda row: row.temperature,
    ),
    gauge(
        "gpu_power_watts",
        "Power drawn by the board, a one-second average on most cards since Ampere, from"
        " nvmlDeviceGetPowerUsage.",
        GpuRow,
        lambda row: row.power,
    ),
    counter(
        "gpu_energy_joules_total",
        "Energy used since the driver was loaded, from nvmlDeviceGetTotalEnergyConsumption.",
        GpuRow,
        lambda row: row.energy,
    ),
    gauges(
        "gpu_clock_hertz",
        "Present frequency of a clock (graphics, sm, memory, video), from nvmlDeviceGetClockInfo.",
        GpuRow,
        ("clock",),
        lambda row: (((clock,), hertz) for clock, hertz in row.clocks),
    ),
)
