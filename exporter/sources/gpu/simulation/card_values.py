"""Values that real cards reported, idle and under load: hardware.csv as row values.

hardware.csv holds the fields of `nvidia-smi --query-gpu` (the public hardware captures of
nvidia_gpu_exporter 1.14); an empty field was not available on the card. Used for simulated GPUs,
and by the tests' NVML stand-in.
"""

from __future__ import annotations

import csv
from pathlib import Path

from exporter.model import Number
from exporter.sources.gpu.nvml.calls import MEGA, ValueSpec
from exporter.sources.gpu.nvml.structs import CLOCK_EVENTS
from exporter.sources.gpu.reading import GpuValues

_FILE = Path(__file__).with_name("hardware.csv")
_MIB = 1 << 20
_ENUM_VALUES = {"Disabled": 0, "Enabled": 1, "None": 0, "No": 0, "Yes": 1, "Default": 0}
_ENUM_VALUES |= {"Completed": 3, "Success": 1}  # NVLink fabric


def _value(key: str, *labels: str, factor: int = 1, divisor: int = 1) -> ValueSpec:
    return ValueSpec(key=key, labels=labels, factor=factor, divisor=divisor)


TABLE: dict[str, ValueSpec] = {
    "utilization.gpu": _value("utilization", divisor=100),
    "utilization.memory": _value("memory_utilization", divisor=100),
    "utilization.encoder": _value("encoder_utilization", divisor=100),
    "utilization.decoder": _value("decoder_utilization", divisor=100),
    "utilization.jpeg": _value("jpeg_utilization", divisor=100),
    "utilization.ofa": _value("ofa_utilization", divisor=100),
    "fan.speed": _value("fan_speed", "0", divisor=100),
    "memory.total": _value("memory_total", factor=_MIB),
    "memory.reserved": _value("memory_reserved", factor=_MIB),
    "memory.used": _value("memory_used", factor=_MIB),
    "memory.free": _value("memory_free", factor=_MIB),
    "power.draw": _value("power"),
    "power.draw.instant": _value("power_instant"),
    "enforced.power.limit": _value("power_limit", "enforced"),
    "power.limit": _value("power_limit", "set"),
    "power.default_limit": _value("power_limit", "default"),
    "power.min_limit": _value("power_limit", "min"),
    "power.max_limit": _value("power_limit", "max"),
    "clocks.current.graphics": _value("clock", "graphics", factor=MEGA),
    "clocks.current.sm": _value("clock", "sm", factor=MEGA),
    "clocks.current.memory": _value("clock", "memory", factor=MEGA),
    "clocks.current.video": _value("clock", "video", factor=MEGA),
    "clocks.max.graphics": _value("clock_max", "graphics", factor=MEGA),
    "clocks.max.sm": _value("clock_max", "sm", factor=MEGA),
    "clocks.max.memory": _value("clock_max", "memory", factor=MEGA),
    "clocks_event_reasons_counters.sw_power_cap": _value(
        "clock_event_seconds", "sw_power_cap", divisor=1_000_000
    ),
    "clocks_event_reasons_counters.sync_boost": _value(
        "clock_event_seconds", "sync_boost", divisor=1_000_000
    ),
    "clocks_event_reasons_counters.sw_thermal_slowdown": _value(
        "clock_event_seconds", "sw_thermal_slowdown", divisor=1_000_000
    ),
    "clocks_event_reasons_counters.hw_thermal_slowdown": _value(
        "clock_event_seconds", "hw_thermal_slowdown", divisor=1_000_000
    ),
    "clocks_event_reasons_counters.hw_power_brake_slowdown": _value(
        "clock_event_seconds", "hw_power_brake_slowdown", divisor=1_000_000
    ),
    "ecc.errors.corrected.volatile.total": _value("ecc_errors", "corrected", "volatile"),
    "ecc.errors.corrected.volatile.dram": _value(
        "ecc_location_errors", "corrected", "volatile", "dram"
    ),
    "ecc.errors.corrected.volatile.sram": _value(
        "ecc_location_errors", "corrected", "volatile", "sram"
    ),
    "ecc.errors.corrected.aggregate.total": _value("ecc_errors", "corrected", "aggregate"),
    "ecc.errors.corrected.aggregate.dram": _value(
        "ecc_location_errors", "corrected", "aggregate", "dram"
    ),
    "ecc.errors.corrected.aggregate.sram": _value(
        "ecc_location_errors", "corrected", "aggregate", "sram"
    ),
    "ecc.errors.uncorrected.volatile.total": _value("ecc_errors", "uncorrected", "volatile"),
    "ecc.errors.uncorrected.volatile.dram": _value(
        "ecc_location_errors", "uncorrected", "volatile", "dram"
    ),
    "ecc.errors.uncorrected.volatile.sram": _value(
        "ecc_location_errors", "uncorrected", "volatile", "sram"
    ),
    "ecc.errors.uncorrected.aggregate.total": _value("ecc_errors", "uncorrected", "aggregate"),
    "ecc.errors.uncorrected.aggregate.dram": _value(
        "ecc_location_errors", "uncorrected", "aggregate", "dram"
    ),
    "ecc.errors.uncorrected.aggregate.sram": _value(
        "ecc_location_errors", "uncorrected", "aggregate", "sram"
    ),
    "ecc.errors.uncorrected.volatile.sram.parity": _value("sram_errors", "volatile", "parity"),
    "ecc.errors.uncorrected.volatile.sram.secded": _value("sram_errors", "volatile", "secded"),
    "ecc.errors.uncorrected.aggregate.sram.parity": _value("sram_errors", "aggregate", "parity"),
    "ecc.errors.uncorrected.aggregate.sram.secded": _value("sram_errors", "aggregate", "secded"),
    "ecc.errors.uncorrected.aggregate.sram.l2": _value("sram_unit_errors", "l2"),
    "ecc.errors.uncorrected.aggregate.sram.sm": _value("sram_unit_errors", "sm"),
    "ecc.errors.uncorrected.aggregate.sram.pcie": _value("sram_unit_errors", "pcie"),
    "ecc.errors.uncorrected.aggregate.sram.mcu": _value("sram_unit_errors", "mcu"),
    "ecc.errors.uncorrected.aggregate.sram.other": _value("sram_unit_errors", "other"),
    "remapped_rows.correctable": _value("remapped_rows", "correctable"),
    "remapped_rows.correctable_inactive": _value("remapped_rows_inactive", "correctable"),
    "remapped_rows.uncorrectable": _value("remapped_rows", "uncorrectable"),
    "remapped_rows.uncorrectable_inactive": _value("remapped_rows_inactive", "uncorrectable"),
    "remapped_rows.histogram.max": _value("row_remapper_banks", "max"),
    "remapped_rows.histogram.high": _value("row_remapper_banks", "high"),
    "remapped_rows.histogram.partial": _value("row_remapper_banks", "partial"),
    "remapped_rows.histogram.low": _value("row_remapper_banks", "low"),
    "remapped_rows.histogram.none": _value("row_remapper_banks", "none"),
    "temperature.gpu": _value("temperature"),
    "temperature.memory": _value("memory_temperature"),
    "temperature.gpu.tlimit": _value("temperature_margin"),
    "pstate": _value("performance_state"),
    "pcie.link.gen.current": _value("pcie_generation"),
    "pcie.link.gen.max": _value("pcie_max_generation"),
    "pcie.link.width.current": _value("pcie_width"),
    "pcie.link.width.max": _value("pcie_max_width"),
    "persistence_mode": _value("persistence_mode"),
    "compute_mode": _value("compute_mode"),
    "encoder.stats.sessionCount": _value("encoder_sessions"),
    "ecc.mode.current": _value("ecc_mode"),
    "ecc.mode.pending": _value("ecc_mode_pending"),
    "mig.mode.current": _value("mig_mode"),
    "gpu_recovery_action": _value("recovery_action"),
    "remapped_rows.pending": _value("remapped_rows_pending"),
    "remapped_rows.failure": _value("row_remap_failure"),
    "ecc.errors.uncorrected.aggregate.sram.thresholdExceeded": _value("sram_threshold_exceeded"),
    "fabric.state": _value("fabric_state"),
    "fabric.status": _value("fabric_ok"),
    "c2c.mode": _value("c2c_links"),
}
"""By nvidia-smi field: key, labels and unit of its value."""

SESSIONS = {
    "encoder.stats.averageFps": _value("encoder_frames"),
    "encoder.stats.averageLatency": _value("encoder_latency", divisor=1_000_000),
}
"""The encoder's fields that are meaningless without sessions."""


def columns() -> dict[str, dict[str, str]]:
    """Returns the captured texts by column (card and state) and nvidia-smi field."""
    with _FILE.open(newline="", encoding="ascii") as stream:
        header, *lines = csv.reader(stream)
    return {
        column: {line[0]: line[number] for line in lines}
        for number, column in enumerate(header[1:], 1)
    }


def card_values(column: dict[str, str]) -> GpuValues:
    """Returns a column's values, without what was not available on the card."""
    values = GpuValues()
    has_sessions = column["encoder.stats.sessionCount"] not in {"", "0"}
    table = TABLE | SESSIONS if has_sessions else TABLE
    for name, spec in table.items():
        if (number := _number(column[name])) is not None:
            values.add(spec, number / spec.divisor if spec.divisor != 1 else number * spec.factor)
    active = int(column["clocks_event_reasons.active"], 16)
    values.labelled["clock_event"] = {
        (reason,): int(bool(active & bit)) for bit, reason in CLOCK_EVENTS.items()
    }
    return values


def _number(text: str) -> Number | None:
    """Parses a field without its unit: a number, `P8`, or an enum; None if not available."""
    if text in {"", "deprecated"}:
        return None
    if text in _ENUM_VALUES:
        return _ENUM_VALUES[text]
    number = float(text.partition(" ")[0].removeprefix("P"))
    return int(number) if number.is_integer() else number
