"""Tables of NVML calls that return one value each. Reading them needs no driver.

A value's key leads to its metric (`metrics.py`); its labels select one of several values of the
key, such as a clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
class NvmlCall(ValueSpec):
    """A value read by the first of `calls` that the GPU supports.

    extract: takes the value from the call's result.
    """

    calls: tuple[Call, ...]
    extract: Callable[[Any], Any] | None = None


def _call(key: str, function: str, *arguments: object, **spec: Any) -> NvmlCall:
    return NvmlCall(key=key, calls=((function, *arguments),), **spec)


def _labelled_call(
    key: str, label: str, function: str, *arguments: object, **spec: Any
) -> NvmlCall:
    return NvmlCall(key=key, labels=(label,), calls=((function, *arguments),), **spec)


def _engine_utilization(key: str, function: str) -> NvmlCall:
    """Returns the entry of an engine; its call returns [percent, sample period in µs]."""
    return _call(key, function, maximum=MAX_PERCENT, divisor=100, extract=lambda pair: pair[0])


# nvmlClockType_t
_CLOCKS = ("graphics", "sm", "memory", "video")
# nvmlTemperatureThresholds_t
_THRESHOLDS = ("shutdown", "slowdown", "memory_max", "gpu_max")
# nvmlMemoryErrorType_t, nvmlEccCounterType_t, nvmlMemoryLocation_t
_ECC_TYPES = ("corrected", "uncorrected")
_ECC_COUNTERS = ("volatile", "aggregate")
_ECC_LOCATIONS = {2: "dram", 7: "sram"}

POLL_CALLS: tuple[NvmlCall, ...] = (
    NvmlCall(
        key="temperature",
        calls=(("nvmlDeviceGetTemperatureV", 0), ("nvmlDeviceGetTemperature", 0)),
        maximum=MAX_CELSIUS,
    ),
    _call(
        "temperature_margin",
        "nvmlDeviceGetMarginTemperature",
        minimum=-MAX_CELSIUS,
        maximum=MAX_CELSIUS,
    ),
    _call("power", "nvmlDeviceGetPowerUsage", maximum=MAX_MILLIWATTS, divisor=1000),
    _call("energy", "nvmlDeviceGetTotalEnergyConsumption", maximum=MAX_MILLIJOULES, divisor=1000),
    *(
        _labelled_call(
            "clock", clock, "nvmlDeviceGetClockInfo", number, maximum=MAX_MEGAHERTZ, factor=MEGA
        )
        for number, clock in enumerate(_CLOCKS)
    ),
    _engine_utilization("encoder_utilization", "nvmlDeviceGetEncoderUtilization"),
    _engine_utilization("decoder_utilization", "nvmlDeviceGetDecoderUtilization"),
    _engine_utilization("jpeg_utilization", "nvmlDeviceGetJpgUtilization"),
    _engine_utilization("ofa_utilization", "nvmlDeviceGetOfaUtilization"),
    _call("performance_state", "nvmlDeviceGetPerformanceState", maximum=32),
    _call("pcie_replays", "nvmlDeviceGetPcieReplayCounter"),
    _call("pcie_generation", "nvmlDeviceGetCurrPcieLinkGeneration", maximum=64),
    _call("pcie_width", "nvmlDeviceGetCurrPcieLinkWidth", maximum=64),
)
"""Called at every poll."""


def _power_limit(limit: str, function: str, **spec: Any) -> NvmlCall:
    return _labelled_call(
        "power_limit", limit, function, maximum=MAX_MILLIWATTS, divisor=1000, **spec
    )


def _vgpu_license_state(features: Any) -> int:
    """Returns 1 if a licensable feature is licensed, 0 if none, NOT_AVAILABLE without vGPU."""
    if not features.isGridLicenseSupported:
        return 0xFFFFFFFF
    count = min(features.licensableFeaturesCount, 3)
    return int(any(feature.featureState for feature in features.gridLicensableFeatures[:count]))


MINUTE_CALLS: tuple[NvmlCall, ...] = (
    *(
        _labelled_call(
            "clock_max",
            clock,
            "nvmlDeviceGetMaxClockInfo",
            number,
            maximum=MAX_MEGAHERTZ,
            factor=MEGA,
        )
        for number, clock in enumerate(_CLOCKS)
    ),
    _power_limit("enforced", "nvmlDeviceGetEnforcedPowerLimit"),
    _power_limit("set", "nvmlDeviceGetPowerManagementLimit"),
    _power_limit("default", "nvmlDeviceGetPowerManagementDefaultLimit"),
    _power_limit(
        "min", "nvmlDeviceGetPowerManagementLimitConstraints", extract=lambda limits: limits[0]
    ),
    _power_limit(
        "max", "nvmlDeviceGetPowerManagementLimitConstraints", extract=lambda limits: limits[1]
    ),
    *(
        _labelled_call(
            "temperature_limit",
            threshold,
            "nvmlDeviceGetTemperatureThreshold",
            number,
            maximum=MAX_CELSIUS,
        )
        for number, threshold in enumerate(_THRESHOLDS)
    ),
    _call("pcie_max_generation", "nvmlDeviceGetMaxPcieLinkGeneration", maximum=64),
    _call("pcie_max_width", "nvmlDeviceGetMaxPcieLinkWidth", maximum=64),
    _call("persistence_mode", "nvmlDeviceGetPersistenceMode", maximum=1),
    _call("compute_mode", "nvmlDeviceGetComputeMode", maximum=3),
    _call("ecc_mode", "nvmlDeviceGetEccMode", maximum=1, extract=lambda modes: modes[0]),
    _call("ecc_mode_pending", "nvmlDeviceGetEccMode", maximum=1, extract=lambda modes: modes[1]),
    *(
        NvmlCall(
            key="ecc_location_errors",
            labels=(error, counter, location),
            calls=(("nvmlDeviceGetMemoryErrorCounter", error_id, counter_id, location_id),),
        )
        for error_id, error in enumerate(_ECC_TYPES)
        for counter_id, counter in enumerate(_ECC_COUNTERS)
        for location_id, location in _ECC_LOCATIONS.items()
    ),
    _call(
        "vgpu_licensed",
        "nvmlDeviceGetGridLicensableFeatures_v4",
        maximum=1,
        extract=_vgpu_license_state,
    ),
)
"""Called once a minute: limits, modes, and counters of rare events."""
