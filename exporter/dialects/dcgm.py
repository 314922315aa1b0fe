"""The dialect of dcgm-exporter: DCGM_FI_* in its units, under its labels.

With MIG on, memory and profiling values are those of the slices, under GPU_I_PROFILE and GPU_I_ID,
and not those of the whole GPU, as dcgm-exporter has it: a sum never counts twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from exporter.exposition.dialect_rules import FamilyRule, LabelMap
from exporter.model import LabelPairs, Type

GAUGE, COUNTER = Type.GAUGE, Type.COUNTER
MEGA, MEBI, GIGA = 1_000_000, 1 << 20, 1_000_000_000

# Native labels and values that stand for one family, none where the metric has a single value.
Only = dict[str, str]

# Foreign name, type, help as dcgm-exporter has it, native metric, its labels, factor.
_TABLE: tuple[tuple[str, Type, str, str, Only, float], ...] = (
    ("SM_CLOCK", GAUGE, "SM clock frequency (in MHz).",
     "gpu_clock_hertz", {"clock": "sm"}, 1 / MEGA),
    ("MEM_CLOCK", GAUGE, "Memory clock frequency (in MHz).",
     "gpu_clock_hertz", {"clock": "memory"}, 1 / MEGA),
    ("MEMORY_TEMP", GAUGE, "Memory temperature (in C).", "gpu_memory_temperature_celsius", {}, 1),
    ("GPU_TEMP", GAUGE, "GPU temperature (in C).", "gpu_temperature_celsius", {}, 1),
    ("POWER_USAGE", GAUGE, "Power draw (in W).", "gpu_power_watts", {}, 1),
    ("TOTAL_ENERGY_CONSUMPTION", COUNTER, "Total energy consumption since boot (in mJ).",
     "gpu_energy_joules_total", {}, 1000),
    ("PCIE_REPLAY_COUNTER", COUNTER, "Total number of PCIe retries.",
     "gpu_pcie_replays_total", {}, 1),
    ("GPU_UTIL", GAUGE, "GPU utilization (in %).", "gpu_utilization_ratio", {}, 100),
    ("MEM_COPY_UTIL", GAUGE, "Memory utilization (in %).",
     "gpu_memory_utilization_ratio", {}, 100),
    ("ENC_UTIL", GAUGE, "Encoder utilization (in %).", "gpu_encoder_utilization_ratio", {}, 100),
    ("DEC_UTIL", GAUGE, "Decoder utilization (in %).", "gpu_decoder_utilization_ratio", {}, 100),
    ("POWER_VIOLATION", COUNTER, "Throttling duration due to power constraints (in ns).",
     "gpu_clock_event_seconds_total", {"reason": "sw_power_cap"}, GIGA),
    ("THERMAL_VIOLATION", COUNTER, "Throttling duration due to thermal constraints (in ns).",
     "gpu_violation_seconds_total", {"policy": "thermal"}, GIGA),
    ("SYNC_BOOST_VIOLATION", COUNTER,
     "Throttling duration due to sync-boost constraints (in ns).",
     "gpu_clock_event_seconds_total", {"reason": "sync_boost"}, GIGA),
    ("BOARD_LIMIT_VIOLATION", COUNTER,
     "Throttling duration due to board limit constraints (in ns).",
     "gpu_violation_seconds_total", {"policy": "board_limit"}, GIGA),
    ("LOW_UTIL_VIOLATION", COUNTER, "Throttling duration due to low utilization (in ns).",
     "gpu_violation_seconds_total", {"policy": "low_utilization"}, GIGA),
    ("RELIABILITY_VIOLATION", COUNTER,
     "Throttling duration due to reliability constraints (in ns).",
     "gpu_violation_seconds_total", {"policy": "reliability"}, GIGA),
    ("ECC_SBE_VOL_TOTAL", COUNTER, "Total number of single-bit volatile ECC errors.",
     "gpu_ecc_errors_total", {"error": "corrected", "counter": "volatile"}, 1),
    ("ECC_DBE_VOL_TOTAL", COUNTER, "Total number of double-bit volatile ECC errors.",
     "gpu_ecc_errors_total", {"error": "uncorrected", "counter": "volatile"}, 1),
    ("ECC_SBE_AGG_TOTAL", COUNTER, "Total number of single-bit persistent ECC errors.",
     "gpu_ecc_errors_total", {"error": "corrected", "counter": "aggregate"}, 1),
    ("ECC_DBE_AGG_TOTAL", COUNTER, "Total number of double-bit persistent ECC errors.",
     "gpu_ecc_errors_total", {"error": "uncorrected", "counter": "aggregate"}, 1),
    ("RETIRED_SBE", COUNTER, "Total number of retired pages due to single-bit errors.",
     "gpu_retired_pages", {"cause": "single_bit"}, 1),
    ("RETIRED_DBE", COUNTER, "Total number of retired pages due to double-bit errors.",
     "gpu_retired_pages", {"cause": "double_bit"}, 1),
    ("RETIRED_PENDING", COUNTER, "Total number of pages pending retirement.",
     "gpu_retired_pages_pending", {}, 1),
    ("UNCORRECTABLE_REMAPPED_ROWS", COUNTER,
     "Number of remapped rows for uncorrectable errors",
     "gpu_remapped_rows_total", {"error": "uncorrectable"}, 1),
    ("CORRECTABLE_REMAPPED_ROWS", COUNTER, "Number of remapped rows for correctable errors",
     "gpu_remapped_rows_total", {"error": "correctable"}, 1),
    ("ROW_REMAP_FAILURE", GAUGE, "Whether remapping of rows has failed",
     "gpu_row_remap_failure", {}, 1),
    ("NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", COUNTER,
     "Total number of NVLink flow-control CRC errors.",
     "gpu_nvlink_errors_total", {"error": "crc_flit"}, 1),
    ("NVLINK_CRC_DATA_ERROR_COUNT_TOTAL", COUNTER, "Total number of NVLink data CRC errors.",
     "gpu_nvlink_errors_total", {"error": "crc_data"}, 1),
    ("NVLINK_REPLAY_ERROR_COUNT_TOTAL", COUNTER, "Total number of NVLink retries.",
     "gpu_nvlink_errors_total", {"error": "replay"}, 1),
    ("NVLINK_RECOVERY_ERROR_COUNT_TOTAL", COUNTER,
     "Total number of NVLink recovery errors.",
     "gpu_nvlink_errors_total", {"error": "recovery"}, 1),
    ("VGPU_LICENSE_STATUS", GAUGE, "vGPU License status", "gpu_vgpu_licensed", {}, 1),
    ("PSTATE", GAUGE, "Performance state (P-State) 0-15. 0=highest",
     "gpu_performance_state", {}, 1),
    ("FAN_SPEED", GAUGE, "Fan speed for the device in percent 0-100",
     "gpu_fan_speed_ratio", {"fan": "0"}, 100),
    ("POWER_MGMT_LIMIT", GAUGE, "Current Power limit for the device (in W).",
     "gpu_power_limit_watts", {"limit": "set"}, 1),
    ("ENFORCED_POWER_LIMIT", GAUGE,
     "Effective power limit that the driver enforces after taking into account all limiters",
     "gpu_power_limit_watts", {"limit": "enforced"}, 1),
    ("FB_TOTAL", GAUGE, "Total Frame Buffer of the GPU in MB.", "gpu_memory_total_bytes", {},
     1 / MEBI),
    ("FB_FREE", GAUGE, "Frame buffer memory free (in MB).", "gpu_memory_free_bytes", {}, 1 / MEBI),
    ("FB_USED", GAUGE, "Frame buffer memory used (in MB).", "gpu_memory_used_bytes", {}, 1 / MEBI),
    ("FB_RESERVED", GAUGE, "Frame buffer memory reserved (in MB).",
     "gpu_memory_reserved_bytes", {}, 1 / MEBI),
)  # fmt: skip

_PROFILING: tuple[tuple[str, Type, str, str, Only, float], ...] = (
    ("GR_ENGINE_ACTIVE", GAUGE, "Ratio of time the graphics engine is active.",
     "gpu_graphics_engine_active_ratio", {}, 1),
    ("SM_ACTIVE", GAUGE, "The ratio of cycles an SM has at least 1 warp assigned.",
     "gpu_sm_active_ratio", {}, 1),
    ("SM_OCCUPANCY", GAUGE, "The ratio of number of warps resident on an SM.",
     "gpu_sm_occupancy_ratio", {}, 1),
    ("PIPE_TENSOR_ACTIVE", GAUGE, "Ratio of cycles the tensor (HMMA) pipe is active.",
     "gpu_tensor_active_ratio", {}, 1),
    ("PIPE_FP64_ACTIVE", GAUGE, "Ratio of cycles the fp64 pipes are active.",
     "gpu_fp64_active_ratio", {}, 1),
    ("PIPE_FP32_ACTIVE", GAUGE, "Ratio of cycles the fp32 pipes are active.",
     "gpu_fp32_active_ratio", {}, 1),
    ("PIPE_FP16_ACTIVE", GAUGE, "Ratio of cycles the fp16 pipes are active.",
     "gpu_fp16_active_ratio", {}, 1),
    ("DRAM_ACTIVE", GAUGE,
     "Ratio of cycles the device memory interface is active sending or receiving data.",
     "gpu_dram_active_ratio", {}, 1),
    ("PCIE_TX_BYTES", GAUGE,
     "Rate of data transmitted over the PCIe bus, headers and payloads, in bytes per second.",
     "gpu_pcie_transmit_bytes_per_second", {}, 1),
    ("PCIE_RX_BYTES", GAUGE,
     "Rate of data received over the PCIe bus, headers and payloads, in bytes per second.",
     "gpu_pcie_receive_bytes_per_second", {}, 1),
    ("NVLINK_TX_BYTES", GAUGE, "The rate of data transmitted over NVLink in bytes per second.",
     "gpu_nvlink_transmit_bytes_per_second", {}, 1),
    ("NVLINK_RX_BYTES", GAUGE, "The rate of data received over NVLink in bytes per second.",
     "gpu_nvlink_receive_bytes_per_second", {}, 1),
)  # fmt: skip

# Of a slice: the part of the native name behind gpu_mig_, for what stands behind gpu_.
_SLICED = frozenset(
    (
        "gpu_memory_total_bytes",
        "gpu_memory_free_bytes",
        "gpu_memory_used_bytes",
        "gpu_memory_reserved_bytes",
        "gpu_graphics_engine_active_ratio",
        "gpu_sm_active_ratio",
        "gpu_sm_occupancy_ratio",
        "gpu_tensor_active_ratio",
        "gpu_fp64_active_ratio",
        "gpu_fp32_active_ratio",
        "gpu_fp16_active_ratio",
        "gpu_dram_active_ratio",
    )
)


def families(host_label: str, host: str) -> tuple[FamilyRule, ...]:
    """The table. host_label: `Hostname`, since 4.8.2 `hostname`; empty for none."""
    host_pairs = ((host_label, host),) if host_label else ()
    return tuple(_families(host_pairs))


def _families(host: tuple[tuple[str, str], ...]) -> Iterator[FamilyRule]:
    for prefix, table in (("DCGM_FI_DEV_", _TABLE), ("DCGM_FI_PROF_", _PROFILING)):
        for name, type_, help_, native, only, factor in table:
            whole = FamilyRule(
                f"{prefix}{name}",
                type_,
                help_,
                native,
                _labels(host, only),
                _times(factor),
                about="gpu_info",
                on=("gpu", "uuid"),
            )
            if native not in _SLICED:
                yield whole
                continue
            yield replace(whole, unless="gpu_mig_info")
            yield replace(whole, of=native.replace("gpu_", "gpu_mig_", 1))
    yield FamilyRule(
        "DCGM_FI_DEV_XID_ERRORS",
        GAUGE,
        "Value of the last XID error encountered.",
        "gpu_xid_last_timestamp_seconds",
        _labels(host, {}, ("xid",)),
        lambda value: value,
        about="gpu_info",
        on=("gpu", "uuid"),
        gather=_last_xid,
    )


def _labels(
    host: tuple[tuple[str, str], ...], only: Only, own: tuple[str, ...] = ()
) -> Callable[[LabelMap, LabelMap], LabelPairs | None]:
    """dcgm-exporter's labels in its order; of a native metric, only those samples.

    own: native labels that are kept for `gather`.
    """

    def describe(labels: LabelMap, about: LabelMap) -> list[tuple[str, str]] | None:
        if any(labels[name] != value for name, value in only.items()):
            return None
        # An instance of the GPU is what DCGM knows; what computes within it shares its memory.
        if labels.get("compute_instance", "0") != "0":
            return None
        pairs = [
            ("gpu", labels["gpu"]),
            ("UUID", labels["uuid"]),
            ("pci_bus_id", about.get("pci_bus_id", "")),
            ("device", f"nvidia{labels['gpu']}"),
            ("modelName", about.get("name", "")),
        ]
        if "gpu_instance" in labels:
            pairs.append(("GPU_I_PROFILE", labels["profile"]))
            pairs.append(("GPU_I_ID", labels["gpu_instance"]))
        pairs += host
        pairs.append(("DCGM_FI_DRIVER_VERSION", about.get("driver_version", "")))
        return pairs + [(name, labels[name]) for name in own]

    return describe


def _times(factor: float) -> Callable[[Any], Any]:
    """Scaled. A divisor is a whole number, so that whole numbers stay whole."""
    if factor == 1:
        return lambda value: value
    if factor > 1:
        return lambda value: round(value * factor, 6)
    divisor = round(1 / factor)
    return lambda value: value / divisor


def _last_xid(samples: Iterable[tuple[dict[str, str], Any]]) -> Iterator[tuple[LabelPairs, Any]]:
    """The last code of each GPU, of those with the time each was last told."""
    last: dict[str, tuple[dict[str, str], Any]] = {}
    for labels, when in samples:
        gpu = labels["UUID"]
        if gpu not in last or when >= last[gpu][1]:
            last[gpu] = (labels, when)
    for labels, _ in last.values():
        code = labels.pop("xid")
        yield (*labels.items(), ("err_code", code)), int(code)
