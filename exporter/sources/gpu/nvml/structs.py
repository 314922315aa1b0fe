"""NVML calls that return structures or lists: each reader adds its values by key."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any

from exporter.model import LabelValues, Number
from exporter.sources.gpu.nvml.calls import MAX_PERCENT, Call, ValueSpec
from exporter.sources.gpu.nvml.fabric import read_fabric
from exporter.sources.gpu.nvml.library import call
from exporter.sources.gpu.nvml.pace import EVERY_POLL, FIVE_MINUTES, MINUTE, QUARTER_MINUTE
from exporter.sources.gpu.nvml.power_profiles import read_power_profiles
from exporter.sources.gpu.nvml.query import NvmlQuery
from exporter.sources.gpu.nvml.sram import read_sram, read_sram_locations
from exporter.sources.gpu.reading import GpuValues

# nvmlMemory_v2 of nvml.h.
_MEMORY_V2 = 0x02000028
MEMORY_CALLS: tuple[Call, ...] = (
    ("nvmlDeviceGetMemoryInfo", _MEMORY_V2),
    ("nvmlDeviceGetMemoryInfo",),
)
_MAX_MEMORY_BYTES = 2**50
_MAX_FANS = 32

# nvmlClocksEventReasons of nvml.h, including the two that only older drivers report.
CLOCK_EVENTS = {
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
# Fields of nvmlRowRemapperHistogramValues: banks by remaining spare rows.
_AVAILABILITY = ("max", "high", "partial", "low", "none")
_FAN_SPEED = ValueSpec(key="fan_speed", maximum=2 * MAX_PERCENT, divisor=100)
_UTILIZATION = ValueSpec(key="utilization", maximum=MAX_PERCENT, divisor=100)
_MEMORY_UTILIZATION = ValueSpec(key="memory_utilization", maximum=MAX_PERCENT, divisor=100)
_ENCODER_SESSIONS = ValueSpec(key="encoder_sessions", maximum=1 << 16)
_BANKS = ValueSpec(key="row_remapper_banks")


def _size(key: str) -> ValueSpec:
    return ValueSpec(key=key, maximum=_MAX_MEMORY_BYTES)


_MEMORY_TOTAL, _MEMORY_RESERVED = _size("memory_total"), _size("memory_reserved")
_MEMORY_USED, _MEMORY_FREE = _size("memory_used"), _size("memory_free")
_BAR1_TOTAL = _size("bar1_memory_total")
_BAR1_USED, _BAR1_FREE = _size("bar1_memory_used"), _size("bar1_memory_free")
_COUNT = ValueSpec(key="count")  # any counter: a bounds check only


def _read_utilization(query: NvmlQuery, handle: Any, values: GpuValues) -> None:
    """Reads the utilization of the SMs and of the memory (percent)."""
    rates = query.first_supported(handle, ("nvmlDeviceGetUtilizationRates",))
    if rates is None:
        return
    if (ratio := query.convert(_UTILIZATION, rates.gpu)) is not None:
        values.scalars["utilization"] = ratio
    if (ratio := query.convert(_MEMORY_UTILIZATION, rates.memory)) is not None:
        values.scalars["memory_utilization"] = ratio


def read_memory(query: NvmlQuery, handle: Any, values: GpuValues) -> None:
    """Reads memory sizes from version 2, which has `reserved` (R510 and newer), or version 1."""
    memory = query.first_supported(handle, *MEMORY_CALLS)
    if memory is None:
        return
    sizes = [(_MEMORY_USED, memory.used), (_MEMORY_FREE, memory.free)]
    if (reserved := getattr(memory, "reserved", None)) is not None:
        sizes.append((_MEMORY_RESERVED, reserved))
    _add_sizes(query, values, (_MEMORY_TOTAL, memory.total), sizes)


def _read_bar1(query: NvmlQuery, handle: Any, values: GpuValues) -> None:
    """Reads the sizes of BAR1, the PCIe window through which the host accesses GPU memory."""
    memory = query.first_supported(handle, ("nvmlDeviceGetBAR1MemoryInfo",))
    if memory is None:
        return
    sizes = [(_BAR1_USED, memory.bar1Used), (_BAR1_FREE, memory.bar1Free)]
    _add_sizes(query, values, (_BAR1_TOTAL, memory.bar1Total), sizes)


def _add_sizes(
    query: NvmlQuery,
    values: GpuValues,
    total: tuple[ValueSpec, int],
    parts: Iterable[tuple[ValueSpec, int]],
) -> None:
    """Adds the sizes that are available; a part that exceeds the total is not."""
    # A card that shares the host's memory may report 0.
    total_spec, whole = total
    if whole == 0:
        return
    valid = query.convert(total_spec, whole)
    if valid is not None:
        values.scalars[total_spec.key] = valid
    for spec, size in parts:
        if valid is not None and size > whole:
            spec = replace(spec, maximum=whole)  # noqa: PLW2901 - for the message
        if (part := query.convert(spec, size)) is not None:
            values.scalars[spec.key] = part


def read_clock_events(query: NvmlQuery, handle: Any, values: GpuValues) -> int:
    """Reads the clock event (throttle) reasons: 1 for each active reason, 0 for the others.

    Returns the bits of the active reasons.
    """
    active = query.first_supported(
        handle,
        ("nvmlDeviceGetCurrentClocksEventReasons",),
        ("nvmlDeviceGetCurrentClocksThrottleReasons",),  # its name before R535
    )
    if active is None:
        return 0
    values.labelled["clock_event"] = _clock_events(int(active))
    return int(active)


@lru_cache(maxsize=64)
def _clock_events(active: int) -> dict[LabelValues, Number]:
    """Returns 1 or 0 by reason; the same object for the same reasons."""
    return {(reason,): int(bool(active & bit)) for bit, reason in CLOCK_EVENTS.items()}


def _read_encoder(query: NvmlQuery, handle: Any, values: GpuValues) -> None:
    """Reads the number of encoder sessions, their mean frame rate and latency (microseconds)."""
    stats = query.first_supported(handle, ("nvmlDeviceGetEncoderStats",))
    if stats is None:
        return
    sessions = query.convert(_ENCODER_SESSIONS, stats[0])
    frames, latency = (query.convert(_COUNT, number) for number in stats[1:])
    if sessions is not None:
        values.scalars["encoder_sessions"] = sessions
        if sessions and frames is not None and latency is not None:
            values.scalars["encoder_frames"] = frames
            values.scalars["encoder_latency"] = latency / 1_000_000


def _read_fans(query: NvmlQuery, handle: Any, values: GpuValues) -> None:
    """Reads each fan's intended speed as percent of its maximum."""
    count = query.first_supported(handle, ("nvmlDeviceGetNumFans",))
    for fan in range(min(count or 0, _MAX_FANS)):
        speed = query.first_supported(handle, ("nvmlDeviceGetFanSpeed_v2", fan))
        if speed is not None and (ratio := query.convert(_FAN_SPEED, speed)) is not None:
            values.labelled.setdefault("fan_speed", {})[(str(fan),)] = ratio


def _read_row_remapper(query: NvmlQuery, handle: Any, values: GpuValues) -> None:
    """Reads the row remapper histogram: banks by remaining spare rows."""
    histogram = query.first_supported(handle, ("nvmlDeviceGetRowRemapperHistogram",))
    if histogram is None:
        return
    for name in _AVAILABILITY:
        if (banks := query.convert(_BANKS, getattr(histogram, name))) is not None:
            values.labelled.setdefault("row_remapper_banks", {})[(name,)] = banks


def read_pcie_throughput(query: NvmlQuery, handle: Any, values: GpuValues) -> None:
    """Reads PCIe throughput unless GPM provided it. The call blocks 20 ms for each direction."""
    if "pcie_transmit_rate" not in values.scalars:
        kib = query.first_supported(handle, ("nvmlDeviceGetPcieThroughput", 0))
        if kib is not None and (rate := query.convert(_COUNT, kib)) is not None:
            values.scalars["pcie_transmit_rate"] = rate * 1024
    if "pcie_receive_rate" not in values.scalars:
        kib = query.first_supported(handle, ("nvmlDeviceGetPcieThroughput", 1))
        if kib is not None and (rate := query.convert(_COUNT, kib)) is not None:
            values.scalars["pcie_receive_rate"] = rate * 1024


def _read_confidential_compute(query: NvmlQuery, handle: Any, values: GpuValues) -> None:  # noqa: ARG001 - as the others
    """Reads whether confidential computing is on: a state of the system, not of one GPU."""
    state = query.try_call("confidential compute", call, "nvmlSystemGetConfComputeState")
    if state is not None:
        values.scalars["confidential_compute"] = int(bool(state.ccFeature))


StructReader = Callable[[NvmlQuery, Any, GpuValues], None]

STRUCTS: tuple[tuple[StructReader, float], ...] = (
    (_read_utilization, EVERY_POLL),
    (read_memory, EVERY_POLL),
    (_read_encoder, EVERY_POLL),
    (_read_fans, QUARTER_MINUTE),
    (_read_bar1, MINUTE),
    (_read_row_remapper, FIVE_MINUTES),
    (read_sram, MINUTE),
    (read_sram_locations, MINUTE),
    (read_power_profiles, MINUTE),
    (read_fabric, MINUTE),
    (_read_confidential_compute, FIVE_MINUTES),
)
"""The readers of whole GPUs, each with its pace."""
