"""The table of NVML calls that return plain numbers, with their paces. Reading it needs no driver.

A value's key leads to its metric (`metrics.py`); its labels select one of several values of the
key, such as a clock.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_uint, c_ulonglong
from dataclasses import dataclass
from typing import Any

from exporter.sources.gpu.nvml.pace import (
    EVERY_POLL,
    FIVE_MINUTES,
    HOUR,
    MINUTE,
    QUARTER_MINUTE,
)

# Bounds of plausible values, far above those of any card.
MAX_PERCENT = 100
MAX_CELSIUS = 200
MAX_MILLIWATTS = 20_000_000
MAX_MILLIJOULES = 10**16  # 20 kW for 15 years
MAX_MEGAHERTZ = 100_000
MAX_EXACT_INTEGER = 2**53  # above it a float loses precision
MAX_NANOSECONDS = 10**18  # 30 years
MEGA = 1_000_000

Call = tuple[str, *tuple[object, ...]]
"""A pynvml function and its arguments after the handle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueSpec:
    """One value: its key and labels in a row, its bounds as the driver reports it, its unit.

    The exported value is the driver's multiplied by `factor`, or divided by `divisor`.
    """

    key: str
    labels: tuple[str, ...] = ()
    maximum: int = MAX_EXACT_INTEGER
    minimum: int = 0
    factor: int = 1
    divisor: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CallValue(ValueSpec):
    """A value of a call. extract: takes it from the call's result."""

    extract: Callable[[Any], Any] | None = None


@dataclass(frozen=True, slots=True)
class NvmlCall:
    """A question: the first of `calls` that the GPU supports, and the values of its result.

    results: of a question with one call and one value, the types of the numbers that the function
    of nvml.h writes, of which the first is the value; its arguments are the handle, those of the
    call, and pointers to the results. Empty: it is asked through pynvml.
    """

    calls: tuple[Call, ...]
    values: tuple[CallValue, ...]
    pace: float
    results: tuple[type[c_uint | c_ulonglong], ...] = ()


def _call(pace: float, key: str, function: str, *arguments: object, **spec: Any) -> NvmlCall:
    return NvmlCall(((function, *arguments),), (CallValue(key=key, **spec),), pace)


def _poll_call(
    key: str,
    function: str,
    *arguments: object,
    results: tuple[type[c_uint | c_ulonglong], ...] = (c_uint,),
    **spec: Any,
) -> NvmlCall:
    """Returns a question of every poll."""
    return NvmlCall(((function, *arguments),), (CallValue(key=key, **spec),), EVERY_POLL, results)


def _item(index: int) -> Callable[[Any], Any]:
    """Returns a function that takes one of the results of a call with several."""
    return lambda results: results[index]


def _engine_utilization(key: str, function: str) -> NvmlCall:
    """Returns the entry of an engine; its results are percent and the sample period in µs."""
    return _poll_call(key, function, results=(c_uint, c_uint), maximum=MAX_PERCENT, divisor=100)


# nvmlClockType_t
_CLOCKS = ("graphics", "sm", "memory", "video")
# nvmlTemperatureThresholds_t
_THRESHOLDS = ("shutdown", "slowdown", "memory_max", "gpu_max")
# nvmlMemoryErrorType_t, nvmlEccCounterType_t, nvmlMemoryLocation_t
_ECC_TYPES = ("corrected", "uncorrected")
_ECC_COUNTERS = ("volatile", "aggregate")
_ECC_LOCATIONS = {2: "dram", 7: "sram"}


def _power_limit(pace: float, limit: str, function: str) -> NvmlCall:
    return NvmlCall(((function,),), (_power_limit_value(limit),), pace)


def _power_limit_value(limit: str, extract: Callable[[Any], Any] | None = None) -> CallValue:
    return CallValue(
        key="power_limit",
        labels=(limit,),
        maximum=MAX_MILLIWATTS,
        divisor=1000,
        extract=extract,
    )


def _vgpu_license_state(features: Any) -> int:
    """Returns 1 if a licensable feature is licensed, 0 if none, NOT_AVAILABLE without vGPU."""
    if not features.isGridLicenseSupported:
        return 0xFFFFFFFF
    count = min(features.licensableFeaturesCount, 3)
    return int(any(feature.featureState for feature in features.gridLicensableFeatures[:count]))


CALLS: tuple[NvmlCall, ...] = (
    NvmlCall(
        (("nvmlDeviceGetTemperatureV", 0), ("nvmlDeviceGetTemperature", 0)),
        (CallValue(key="temperature", maximum=MAX_CELSIUS),),
        EVERY_POLL,
    ),
    _call(
        QUARTER_MINUTE,
        "temperature_margin",
        "nvmlDeviceGetMarginTemperature",
        minimum=-MAX_CELSIUS,
        maximum=MAX_CELSIUS,
    ),
    _poll_call("power", "nvmlDeviceGetPowerUsage", maximum=MAX_MILLIWATTS, divisor=1000),
    # The most expensive call, but also the counter that joins divide among containers.
    _poll_call(
        "energy",
        "nvmlDeviceGetTotalEnergyConsumption",
        results=(c_ulonglong,),
        maximum=MAX_MILLIJOULES,
        divisor=1000,
    ),
    *(
        _poll_call(
            "clock",
            "nvmlDeviceGetClockInfo",
            number,
            labels=(clock,),
            maximum=MAX_MEGAHERTZ,
            factor=MEGA,
        )
        for number, clock in enumerate(_CLOCKS)
    ),
    *(
        _call(
            HOUR,
            "clock_max",
            "nvmlDeviceGetMaxClockInfo",
            number,
            labels=(clock,),
            maximum=MAX_MEGAHERTZ,
            factor=MEGA,
        )
        for number, clock in enumerate(_CLOCKS)
    ),
    _engine_utilization("encoder_utilization", "nvmlDeviceGetEncoderUtilization"),
    _engine_utilization("decoder_utilization", "nvmlDeviceGetDecoderUtilization"),
    _engine_utilization("jpeg_utilization", "nvmlDeviceGetJpgUtilization"),
    _engine_utilization("ofa_utilization", "nvmlDeviceGetOfaUtilization"),
    _poll_call("performance_state", "nvmlDeviceGetPerformanceState", maximum=32),
    _power_limit(MINUTE, "enforced", "nvmlDeviceGetEnforcedPowerLimit"),
    _power_limit(FIVE_MINUTES, "set", "nvmlDeviceGetPowerManagementLimit"),
    _power_limit(HOUR, "default", "nvmlDeviceGetPowerManagementDefaultLimit"),
    NvmlCall(
        (("nvmlDeviceGetPowerManagementLimitConstraints",),),
        (_power_limit_value("min", _item(0)), _power_limit_value("max", _item(1))),
        HOUR,
    ),
    *(
        _call(
            FIVE_MINUTES,
            "temperature_limit",
            "nvmlDeviceGetTemperatureThreshold",
            number,
            labels=(threshold,),
            maximum=MAX_CELSIUS,
        )
        for number, threshold in enumerate(_THRESHOLDS)
    ),
    _call(MINUTE, "pcie_replays", "nvmlDeviceGetPcieReplayCounter"),
    _poll_call("pcie_generation", "nvmlDeviceGetCurrPcieLinkGeneration", maximum=64),
    _call(MINUTE, "pcie_width", "nvmlDeviceGetCurrPcieLinkWidth", maximum=64),
    _call(HOUR, "pcie_max_generation", "nvmlDeviceGetMaxPcieLinkGeneration", maximum=64),
    _call(HOUR, "pcie_max_width", "nvmlDeviceGetMaxPcieLinkWidth", maximum=64),
    _call(FIVE_MINUTES, "persistence_mode", "nvmlDeviceGetPersistenceMode", maximum=1),
    _call(FIVE_MINUTES, "compute_mode", "nvmlDeviceGetComputeMode", maximum=3),
    NvmlCall(
        (("nvmlDeviceGetEccMode",),),
        (
            CallValue(key="ecc_mode", maximum=1, extract=_item(0)),
            CallValue(key="ecc_mode_pending", maximum=1, extract=_item(1)),
        ),
        FIVE_MINUTES,
    ),
    *(
        _call(
            MINUTE,
            "ecc_location_errors",
            "nvmlDeviceGetMemoryErrorCounter",
            error_id,
            counter_id,
            location_id,
            labels=(error, counter, location),
        )
        for error_id, error in enumerate(_ECC_TYPES)
        for counter_id, counter in enumerate(_ECC_COUNTERS)
        for location_id, location in _ECC_LOCATIONS.items()
    ),
    NvmlCall(
        (("nvmlDeviceGetRepairStatus",),),
        (
            CallValue(key="repair_pending", labels=("channel",), maximum=1, extract=_item(0)),
            CallValue(key="repair_pending", labels=("tpc",), maximum=1, extract=_item(1)),
        ),
        FIVE_MINUTES,
    ),
    NvmlCall(
        (("nvmlDeviceGetDramEncryptionMode",),),
        (
            CallValue(key="dram_encryption_mode", maximum=1, extract=_item(0)),
            CallValue(key="dram_encryption_mode_pending", maximum=1, extract=_item(1)),
        ),
        FIVE_MINUTES,
    ),
    _call(
        FIVE_MINUTES,
        "unrepairable_memory",
        "nvmlDeviceGetUnrepairableMemoryFlag_v1",
        maximum=1,
    ),
    _call(
        FIVE_MINUTES,
        "vgpu_licensed",
        "nvmlDeviceGetGridLicensableFeatures_v4",
        maximum=1,
        extract=_vgpu_license_state,
    ),
)
