"""Answers that are structures or lists: taken apart into values."""

from __future__ import annotations

from ctypes import byref
from typing import Any

from exporter.errors import BadData
from exporter.sources.gpu.nvml.calls import PERCENT, ValueSpec
from exporter.sources.gpu.nvml.errors import error_for
from exporter.sources.gpu.nvml.library import call, pynvml_symbol
from exporter.sources.gpu.nvml.query import NOT_AVAILABLE, NvmlQuery
from exporter.sources.gpu.reading import GpuValues

# nvmlMemory_v2 of nvml.h.
_MEMORY_V2 = 0x02000028
_MOST_MEMORY = 2**50  # bytes
_MOST_FANS = 32

# nvmlClocksEventReasons of nvml.h, and the two that only older drivers know.
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
# nvmlRowRemapperHistogramValues: banks by how many spare rows they have left.
_AVAILABILITY = ("max", "high", "partial", "low", "none")
# Of nvmlEccSramErrorStatus_v1_t: (counter, kind), field.
_SRAM = (
    (("volatile", "parity"), "volatileUncParity"),
    (("volatile", "secded"), "volatileUncSecDed"),
    (("aggregate", "parity"), "aggregateUncParity"),
    (("aggregate", "secded"), "aggregateUncSecDed"),
)
# Of the aggregate count: where it happened.
_SRAM_UNITS = {"l2": "L2", "sm": "Sm", "pcie": "Pcie", "mcu": "Mcu", "other": "Other"}
_FAN = ValueSpec(key="fan", highest=2 * PERCENT, per=100)
_RATIO = ValueSpec(key="utilization", highest=PERCENT, per=100)
_COUNTS = ValueSpec(key="count")


def utilization(asking: NvmlQuery, handle: Any, values: GpuValues) -> None:
    """Of the SMs and of the memory."""
    rates = asking.first(handle, ("nvmlDeviceGetUtilizationRates",))
    if rates is not None:
        for key, percent in (("utilization", rates.gpu), ("memory_utilization", rates.memory)):
            if (ratio := asking.converted(_RATIO, percent)) is not None:
                values.plain[key] = ratio


def memory(asking: NvmlQuery, handle: Any, values: GpuValues) -> None:
    """From version 2, which tells reserved memory apart (R510 and newer), else version 1."""
    answer = asking.first(
        handle, ("nvmlDeviceGetMemoryInfo", _MEMORY_V2), ("nvmlDeviceGetMemoryInfo",)
    )
    if answer is not None:
        parts = {"total": answer.total, "used": answer.used, "free": answer.free}
        if (reserved := getattr(answer, "reserved", None)) is not None:
            parts["reserved"] = reserved
        _bytes(asking, "memory", parts, values)


def bar1(asking: NvmlQuery, handle: Any, values: GpuValues) -> None:
    """The window through which the host reaches the GPU's memory."""
    answer = asking.first(handle, ("nvmlDeviceGetBAR1MemoryInfo",))
    if answer is not None:
        parts = {"total": answer.bar1Total, "used": answer.bar1Used, "free": answer.bar1Free}
        _bytes(asking, "bar1_memory", parts, values)


def _bytes(asking: NvmlQuery, what: str, parts: dict[str, int], values: GpuValues) -> None:
    total = parts["total"]
    # A card that shares the host's memory may say 0.
    if total == 0 or not NOT_AVAILABLE.isdisjoint(parts.values()):
        return
    if total > _MOST_MEMORY or max(parts.values()) > total:
        asking.problems.append(BadData(f"{what} beyond reason: {parts}"))
        return
    for part, size in parts.items():
        values.plain[f"{what}_{part}"] = size


def clock_events(asking: NvmlQuery, handle: Any, values: GpuValues) -> None:
    """Which reasons hold the clocks down now: 0 or 1 for each that the GPU knows."""
    active = asking.first(
        handle,
        ("nvmlDeviceGetCurrentClocksEventReasons",),
        ("nvmlDeviceGetCurrentClocksThrottleReasons",),  # its name before R535
    )
    if active is not None:
        values.parts["clock_event"] = {
            (reason,): int(bool(active & bit)) for bit, reason in CLOCK_EVENTS.items()
        }


def encoder(asking: NvmlQuery, handle: Any, values: GpuValues) -> None:
    """Encoding sessions: how many, their mean frame rate and latency (microseconds)."""
    answer = asking.first(handle, ("nvmlDeviceGetEncoderStats",))
    if answer is None:
        return
    sessions, frames, latency = (asking.converted(_COUNTS, number) for number in answer)
    if sessions is not None:
        values.plain["encoder_sessions"] = sessions
        if sessions and frames is not None and latency is not None:
            values.plain["encoder_frames"] = frames
            values.plain["encoder_latency"] = latency / 1_000_000


def fans(asking: NvmlQuery, handle: Any, values: GpuValues) -> None:
    """Each fan's intended speed, as a share of its highest."""
    count = asking.first(handle, ("nvmlDeviceGetNumFans",))
    for fan in range(min(count or 0, _MOST_FANS)):
        speed = asking.first(handle, ("nvmlDeviceGetFanSpeed_v2", fan))
        if speed is not None and (ratio := asking.converted(_FAN, speed)) is not None:
            values.parts.setdefault("fan", {})[(str(fan),)] = ratio


def row_remapper(asking: NvmlQuery, handle: Any, values: GpuValues) -> None:
    """Banks by how many spare rows they have left."""
    answer = asking.first(handle, ("nvmlDeviceGetRowRemapperHistogram",))
    if answer is not None:
        values.parts["row_remapper_banks"] = {
            (name,): getattr(answer, name) for name in _AVAILABILITY
        }


def sram(asking: NvmlQuery, handle: Any, values: GpuValues) -> None:
    """Uncorrected SRAM errors by kind and by unit, and whether they are too many."""
    make = pynvml_symbol("c_nvmlEccSramErrorStatus_v1_t")
    if make is None:
        return
    status = make()
    if _filled(asking, "nvmlDeviceGetSramEccErrorStatus", handle, status):
        for labels, name in _SRAM:
            if (count := asking.converted(_COUNTS, getattr(status, name))) is not None:
                values.parts.setdefault("sram_errors", {})[labels] = count
        for unit, name in _SRAM_UNITS.items():
            number = getattr(status, f"aggregateUncBucket{name}")
            if (count := asking.converted(_COUNTS, number)) is not None:
                values.parts.setdefault("sram_unit_errors", {})[unit,] = count
        values.plain["sram_threshold_exceeded"] = int(bool(status.bThresholdExceeded))


def fabric(asking: NvmlQuery, handle: Any, values: GpuValues) -> None:
    """How the GPU fares in its NVLink fabric: state (0 to 3), and the status once that is 3."""
    make = pynvml_symbol("c_nvmlGpuFabricInfo_v2_t")
    if make is None:
        return
    status = make()
    if _filled(asking, "nvmlDeviceGetGpuFabricInfoV", handle, status):
        state = status.state & 0xFF  # one byte in nvml.h, four in pynvml
        if state in (1, 2, 3):  # 0: not supported
            values.plain["fabric_state"] = state
        if state == 3:
            values.plain["fabric_ok"] = int(status.status == 0)


def _filled(asking: NvmlQuery, function: str, handle: Any, status: Any) -> bool:
    """Whether a structure given by reference was filled."""

    def ask() -> bool:
        code = call(function, handle, byref(status))
        if code:  # some releases give it back, all raise what is not 0
            raise error_for(code, function)
        return True

    return bool(asking.get(function, ask))


def pcie_throughput(asking: NvmlQuery, handle: Any, values: GpuValues) -> None:
    """Measured by the driver over 20 ms for each direction, for which it keeps us waiting."""
    for number, key in ((0, "pcie_transmit_rate"), (1, "pcie_receive_rate")):
        if key not in values.plain:
            kib = asking.first(handle, ("nvmlDeviceGetPcieThroughput", number))
            if kib is not None and (rate := asking.converted(_COUNTS, kib)) is not None:
                values.plain[key] = rate * 1024


def confidential(asking: NvmlQuery, values: GpuValues) -> None:
    """Whether confidential computing is on, which is the system's state, not one GPU's."""
    state = asking.get("confidential", call, "nvmlSystemGetConfComputeState")
    if state is not None:
        values.plain["confidential_compute"] = int(bool(state.ccFeature))
