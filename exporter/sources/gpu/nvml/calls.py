"""What a GPU is asked by calls of one value each: the table. No driver is needed to read it.

A value with labels is one of several of its key, such as a clock; `reading.py` tells how the keys
reach a row, `metrics.py` which metric shows them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# The bounds of what is believed: no card is above these, by far.
PERCENT = 100
DEGREES = 200
MILLIWATTS = 20_000_000
MILLIJOULES = 10**16  # 20 kW for 15 years
MEGAHERTZ = 100_000
COUNT = 2**53  # beyond it a float is not exact
NANOSECONDS = 10**18  # 30 years
MEGA = 1_000_000

Call = tuple[str, *tuple[object, ...]]
"""A function of pynvml and its arguments after the handle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueSpec:
    """One value: its key and labels in a row, what is believed, and its unit.

    It is shown multiplied by `times`, divided by `per`.
    """

    key: str
    labels: tuple[str, ...] = ()
    highest: int = COUNT
    lowest: int = 0
    times: int = 1
    per: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmlCall(ValueSpec):
    """A value that is asked for by a call, the first of several that the GPU supports.

    pick: takes the value from the answer.
    """

    calls: tuple[Call, ...]
    pick: Callable[[Any], Any] | None = None


def _one(key: str, function: str, *arguments: object, **scale: Any) -> NvmlCall:
    return NvmlCall(key=key, calls=((function, *arguments),), **scale)


def _labelled(key: str, label: str, function: str, *arguments: object, **scale: Any) -> NvmlCall:
    return NvmlCall(key=key, labels=(label,), calls=((function, *arguments),), **scale)


# nvmlClockType_t
_CLOCKS = ("graphics", "sm", "memory", "video")
# nvmlTemperatureThresholds_t
_THRESHOLDS = ("shutdown", "slowdown", "memory_max", "gpu_max")
# nvmlMemoryErrorType_t, nvmlEccCounterType_t, nvmlMemoryLocation_t
_ECC_TYPES = ("corrected", "uncorrected")
_ECC_COUNTERS = ("volatile", "aggregate")
_ECC_LOCATIONS = {2: "dram", 7: "sram"}

EVERY_POLL: tuple[NvmlCall, ...] = (
    NvmlCall(
        key="temperature",
        calls=(("nvmlDeviceGetTemperatureV", 0), ("nvmlDeviceGetTemperature", 0)),
        highest=DEGREES,
    ),
    _one("temperature_margin", "nvmlDeviceGetMarginTemperature", lowest=-DEGREES, highest=DEGREES),
    _one("power", "nvmlDeviceGetPowerUsage", highest=MILLIWATTS, per=1000),
    _one("energy", "nvmlDeviceGetTotalEnergyConsumption", highest=MILLIJOULES, per=1000),
    *(
        _labelled("clock", clock, "nvmlDeviceGetClockInfo", number, highest=MEGAHERTZ, times=MEGA)
        for number, clock in enumerate(_CLOCKS)
    ),
    # [percent, sampling period in microseconds]
    *(
        _one(
            f"{engine.lower()}_utilization",
            f"nvmlDeviceGet{call}Utilization",
            highest=PERCENT,
            per=100,
            pick=lambda answer: answer[0],
        )
        for engine, call in (
            ("encoder", "Encoder"),
            ("decoder", "Decoder"),
            ("jpeg", "Jpg"),
            ("ofa", "Ofa"),
        )
    ),
    _one("performance_state", "nvmlDeviceGetPerformanceState", highest=32),
    _one("pcie_replays", "nvmlDeviceGetPcieReplayCounter"),
    _one("pcie_generation", "nvmlDeviceGetCurrPcieLinkGeneration", highest=64),
    _one("pcie_width", "nvmlDeviceGetCurrPcieLinkWidth", highest=64),
)

# Limits, modes and what else seldom changes, and counters of rare events.
EVERY_MINUTE: tuple[NvmlCall, ...] = (
    *(
        _labelled(
            "clock_max", clock, "nvmlDeviceGetMaxClockInfo", number, highest=MEGAHERTZ, times=MEGA
        )
        for number, clock in enumerate(_CLOCKS)
    ),
    _labelled(
        "power_limit", "enforced", "nvmlDeviceGetEnforcedPowerLimit", highest=MILLIWATTS, per=1000
    ),
    _labelled(
        "power_limit", "set", "nvmlDeviceGetPowerManagementLimit", highest=MILLIWATTS, per=1000
    ),
    _labelled(
        "power_limit",
        "default",
        "nvmlDeviceGetPowerManagementDefaultLimit",
        highest=MILLIWATTS,
        per=1000,
    ),
    *(
        _labelled(
            "power_limit",
            bound,
            "nvmlDeviceGetPowerManagementLimitConstraints",
            highest=MILLIWATTS,
            per=1000,
            pick=pick,
        )
        for bound, pick in (("min", lambda both: both[0]), ("max", lambda both: both[1]))
    ),
    *(
        _labelled(
            "temperature_limit",
            threshold,
            "nvmlDeviceGetTemperatureThreshold",
            number,
            highest=DEGREES,
        )
        for number, threshold in enumerate(_THRESHOLDS)
    ),
    _one("pcie_max_generation", "nvmlDeviceGetMaxPcieLinkGeneration", highest=64),
    _one("pcie_max_width", "nvmlDeviceGetMaxPcieLinkWidth", highest=64),
    _one("persistence_mode", "nvmlDeviceGetPersistenceMode", highest=1),
    _one("compute_mode", "nvmlDeviceGetComputeMode", highest=3),
    *(
        _one(key, "nvmlDeviceGetEccMode", highest=1, pick=pick)
        for key, pick in (
            ("ecc_mode", lambda both: both[0]),
            ("ecc_mode_pending", lambda both: both[1]),
        )
    ),
    *(
        NvmlCall(
            key="ecc_location_errors",
            labels=(error, counter, location),
            calls=(("nvmlDeviceGetMemoryErrorCounter", type_, kind, number),),
        )
        for type_, error in enumerate(_ECC_TYPES)
        for kind, counter in enumerate(_ECC_COUNTERS)
        for number, location in _ECC_LOCATIONS.items()
    ),
    NvmlCall(
        key="vgpu_licensed",
        calls=(("nvmlDeviceGetGridLicensableFeatures_v4",),),
        highest=1,
        pick=lambda answer: (
            int(
                any(
                    feature.featureState
                    for feature in answer.gridLicensableFeatures[
                        : min(answer.licensableFeaturesCount, 3)
                    ]
                )
            )
            if answer.isGridLicenseSupported
            else 0xFFFFFFFF
        ),  # not available
    ),
)
