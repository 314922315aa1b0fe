"""What real cards reported, idle and under load: hardware.csv, as the values of a row.

The file holds the fields that nvidia-smi printed (the public hardware captures of
nvidia_gpu_exporter 1.14); an empty one was not available on the card. It is read for simulated
GPUs, and by the tests, whose stand-in for the driver answers with it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from exporter.model import Number
from exporter.sources.gpu.nvml.calls import ValueSpec
from exporter.sources.gpu.nvml.structs import CLOCK_EVENTS
from exporter.sources.gpu.reading import GpuValues

_FILE = Path(__file__).with_name("hardware.csv")
_MIB = 1 << 20
_WORDS = {"Disabled": 0, "Enabled": 1, "None": 0, "No": 0, "Yes": 1, "Default": 0}
_WORDS |= {"Completed": 3, "Success": 1}  # of the fabric


def _value(key: str, *labels: str, times: int = 1, per: int = 1) -> ValueSpec:
    return ValueSpec(key=key, labels=labels, times=times, per=per)


def _table() -> Iterator[tuple[str, ValueSpec]]:
    for name, key in (
        ("utilization.gpu", "utilization"),
        ("utilization.memory", "memory_utilization"),
        *((f"utilization.{one}", f"{one}_utilization") for one in _ENGINES),
    ):
        yield name, _value(key, per=100)
    yield "fan.speed", _value("fan", "0", per=100)
    for part in ("total", "reserved", "used", "free"):
        yield f"memory.{part}", _value(f"memory_{part}", times=_MIB)
    yield "power.draw", _value("power")
    yield "power.draw.instant", _value("power_instant")
    for name, limit in (
        ("enforced.power.limit", "enforced"),
        ("power.limit", "set"),
        ("power.default_limit", "default"),
        ("power.min_limit", "min"),
        ("power.max_limit", "max"),
    ):
        yield name, _value("power_limit", limit)
    for clock in ("graphics", "sm", "memory", "video"):
        yield f"clocks.current.{clock}", _value("clock", clock, times=1_000_000)
    for clock in ("graphics", "sm", "memory"):
        yield f"clocks.max.{clock}", _value("clock_max", clock, times=1_000_000)
    for reason in _COUNTED_EVENTS:
        name = f"clocks_event_reasons_counters.{reason}"
        yield name, _value("clock_event_seconds", reason, per=1_000_000)
    yield from _ecc()
    for rows in ("correctable", "uncorrectable"):
        yield f"remapped_rows.{rows}", _value("remapped_rows", rows)
        yield f"remapped_rows.{rows}_inactive", _value("remapped_rows_inactive", rows)
    for spare in ("max", "high", "partial", "low", "none"):
        yield f"remapped_rows.histogram.{spare}", _value("row_remapper_banks", spare)
    for name, key in _PLAIN.items():
        yield name, _value(key)


_ENGINES = ("encoder", "decoder", "jpeg", "ofa")
_COUNTED_EVENTS = (
    "sw_power_cap",
    "sync_boost",
    "sw_thermal_slowdown",
    "hw_thermal_slowdown",
    "hw_power_brake_slowdown",
)
_PLAIN = {
    "temperature.gpu": "temperature",
    "temperature.memory": "memory_temperature",
    "temperature.gpu.tlimit": "temperature_margin",
    "pstate": "performance_state",
    "pcie.link.gen.current": "pcie_generation",
    "pcie.link.gen.max": "pcie_max_generation",
    "pcie.link.width.current": "pcie_width",
    "pcie.link.width.max": "pcie_max_width",
    "persistence_mode": "persistence_mode",
    "compute_mode": "compute_mode",
    "encoder.stats.sessionCount": "encoder_sessions",
    "ecc.mode.current": "ecc_mode",
    "ecc.mode.pending": "ecc_mode_pending",
    "mig.mode.current": "mig_mode",
    "gpu_recovery_action": "recovery_action",
    "remapped_rows.pending": "remapped_rows_pending",
    "remapped_rows.failure": "row_remap_failure",
    "ecc.errors.uncorrected.aggregate.sram.thresholdExceeded": "sram_threshold_exceeded",
    "fabric.state": "fabric_state",
    "fabric.status": "fabric_ok",
    "c2c.mode": "c2c_links",
}
SESSIONS = {
    "encoder.stats.averageFps": _value("encoder_frames"),
    "encoder.stats.averageLatency": _value("encoder_latency", per=1_000_000),
}
"""Of the encoder, where it has sessions: what it says of none is no measurement."""


def _ecc() -> Iterator[tuple[str, ValueSpec]]:
    for error in ("corrected", "uncorrected"):
        for counter in ("volatile", "aggregate"):
            where = f"ecc.errors.{error}.{counter}"
            yield f"{where}.total", _value("ecc_errors", error, counter)
            for place in ("dram", "sram"):
                yield f"{where}.{place}", _value("ecc_location_errors", error, counter, place)
    for counter in ("volatile", "aggregate"):
        for kind in ("parity", "secded"):
            name = f"ecc.errors.uncorrected.{counter}.sram.{kind}"
            yield name, _value("sram_errors", counter, kind)
    for unit in ("l2", "sm", "pcie", "mcu", "other"):
        name = f"ecc.errors.uncorrected.aggregate.sram.{unit}"
        yield name, _value("sram_unit_errors", unit)


TABLE: dict[str, ValueSpec] = dict(_table())
"""nvidia-smi's field: which value of a row it is."""


def columns() -> dict[str, dict[str, str]]:
    """What was captured: by column (card and state), the text of each field."""
    with _FILE.open(newline="", encoding="ascii") as stream:
        first, *lines = csv.reader(stream)
    return {
        column: {line[0]: line[number] for line in lines}
        for number, column in enumerate(first[1:], 1)
    }


def card_values(said: dict[str, str]) -> GpuValues:
    """The values of a column; what the card had not is absent."""
    found = GpuValues()
    table = TABLE if said["encoder.stats.sessionCount"] in {"", "0"} else TABLE | SESSIONS
    for name, value in table.items():
        if (number := _number(said[name])) is not None:
            found.add(value, number / value.per if value.per != 1 else number * value.times)
    active = int(said["clocks_event_reasons.active"], 16)
    found.parts["clock_event"] = {
        (reason,): int(bool(active & bit)) for bit, reason in CLOCK_EVENTS.items()
    }
    return found


def _number(text: str) -> Number | None:
    """The number without its unit."""
    if text in {"", "deprecated"}:
        return None
    if text in _WORDS:
        return _WORDS[text]
    number = float(text.partition(" ")[0].removeprefix("P"))
    return int(number) if number.is_integer() else number
