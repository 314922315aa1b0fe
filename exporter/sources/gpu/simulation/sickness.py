"""The faults of a simulated sick GPU, by the seconds since the first reading. Pure.

Every five minutes it is too hot for a while and slows down. Fifteen seconds after the start, and
then every ten minutes, a memory error ends a process: XID 94, and XID 63 as the row is to be
remapped at the next reset.
"""

from __future__ import annotations

from collections.abc import Iterator

from exporter.model import Number
from exporter.sources.gpu.reading import GpuValues

FIRST_ERROR_SECONDS, ERROR_PERIOD_SECONDS = 15.0, 600.0
ERROR_XIDS = (94, 63)
_HOT_SECONDS, _HOT_PERIOD_SECONDS = 90.0, 300.0
_SLOWDOWN_REASONS = ("hw_slowdown", "hw_thermal_slowdown", "sw_thermal_slowdown")
_SLOWDOWN_COUNTERS = ("hw_thermal_slowdown", "sw_thermal_slowdown")
_SLOWDOWN_CLOCKS = ("graphics", "sm", "video")
_RESET_THE_GPU = 1


def is_hot(age: float) -> bool:
    """Returns whether it slows down. age: seconds since the first reading."""
    return age % _HOT_PERIOD_SECONDS < _HOT_SECONDS


def hot_seconds(age: float) -> float:
    """Returns the time of all slowdowns so far."""
    periods, rest = divmod(age, _HOT_PERIOD_SECONDS)
    return periods * _HOT_SECONDS + min(rest, _HOT_SECONDS)


def error_times(age: float) -> Iterator[float]:
    """Yields the ages at which a memory error occurred so far."""
    time = FIRST_ERROR_SECONDS
    while time <= age:
        yield time
        time += ERROR_PERIOD_SECONDS


def add_faults(values: GpuValues, age: float) -> None:
    """Changes the values of a healthy GPU with ECC into those of the sick one."""
    scalars, labelled = values.scalars, values.labelled
    errors = sum(1 for _ in error_times(age))
    for counter in ("volatile", "aggregate"):
        _set(labelled, "ecc_errors", ("uncorrected", counter), errors)
        _set(labelled, "ecc_errors", ("corrected", counter), int(age / 30))
        _set(labelled, "ecc_location_errors", ("uncorrected", counter, "dram"), errors)
        _set(labelled, "ecc_location_errors", ("corrected", counter, "dram"), int(age / 30))
    scalars["remapped_rows_pending"] = int(errors > 0)
    scalars["recovery_action"] = _RESET_THE_GPU if errors else 0
    scalars["pcie_replays"] = int(age / 60)
    for reason in _SLOWDOWN_COUNTERS:
        _set(labelled, "clock_event_seconds", (reason,), round(hot_seconds(age), 3))
    if not is_hot(age):
        return
    for reason in _SLOWDOWN_REASONS:
        _set(labelled, "clock_event", (reason,), 1)
    for clock in _SLOWDOWN_CLOCKS:
        if (hertz := labelled.get("clock", {}).get((clock,))) is not None:
            labelled["clock"][clock,] = hertz // 2
    if "temperature_margin" in scalars:
        margin = scalars["temperature_margin"]
        scalars["temperature"] += margin
        scalars["temperature_margin"] = 0


def _set(
    labelled: dict[str, dict[tuple[str, ...], Number]],
    key: str,
    labels: tuple[str, ...],
    number: Number,
) -> None:
    """Sets a value that the card has; others stay absent."""
    if labels in labelled.get(key, {}):
        labelled[key][labels] = number
