"""The dialect of dcgm-exporter: DCGM_FI_* in DCGM's units, with dcgm-exporter's labels.

With MIG on, memory and profiling values are exported per MIG device, with GPU_I_PROFILE and
GPU_I_ID, and not for the whole GPU, as in dcgm-exporter: a sum never counts memory twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from exporter.exposition.dialect_rules import FamilyRule, LabelMap
from exporter.model import LabelPairs, Type

GAUGE, COUNTER = Type.GAUGE, Type.COUNTER
MEGA, MEBI, GIGA = 1_000_000, 1 << 20, 1_000_000_000

# Native labels and values whose samples form the family; empty for all samples.
LabelFilter = dict[str, str]

# Foreign name, type, dcgm-exporter's help, native metric, label filter, factor.
_TABLE: tuple[tuple[str, Type, str, str, LabelFilter, float], ...] = (
    ("DCGM_FI_DEV_SM_CLOCK", GAUGE, "SM clock frequency (in MHz).",
     "gpu_clock_hertz", {"clock": "sm"}, 1 / MEGA),
    ("DCGM_FI_DEV_MEM_CLOCK", GAUGE, "Memory clock frequency (in MHz).",
     "gpu_clock_hertz", {"clock": "memory"}, 1 / MEGA),
    ("DCGM_FI_DEV_MEMORY_TEMP", GAUGE, "Memory temperature (in C).",
     "gpu_memory_temperature_celsius", {}, 1),
    ("DCGM_FI_DEV_GPU_TEMP", GAUGE, "GPU temperature (in C).",
     "gpu_temperature_celsius", {}, 1),
    ("DCGM_FI_DEV_POWER_USAGE", GAUGE, "Power draw (in W).",
     "gpu_power_watts", {}, 1),
    ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", COUNTER,
     "Total energy consumption since boot (in mJ).",
     "gpu_energy_joules_total", {}, 1000),
    ("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", COUNTER, "Total number of PCIe retries.",
     "gpu_pcie_replays_total", {}, 1),
    ("DCGM_FI_DEV_GPU_UTIL", GAUGE, "GPU utilization (in %).",
     "gpu_utilization_ratio", {}, 100),
    ("DCGM_FI_DEV_MEM_COPY_UTIL", GAUGE, "Memory utilization (in %).",
     "gpu_memory_utilization_ratio", {}, 100),
    ("DCGM_FI_DEV_ENC_UTIL", GAUGE, "Encoder utilization (in %).",
     "gpu_encoder_utilization_ratio", {}, 100),
    ("DCGM_FI_DEV_DEC_UTIL", GAUGE, "Decoder utilization (in %).",
     "gpu_decoder_utilization_ratio", {}, 100),
    ("DCGM_FI_DEV_POWER_VIOLATION", COUNTER,
     "Throttling duration due to power constraints (in ns).",
     "gpu_clock_event_seconds_total", {"reason": "sw_power_cap"}, GIGA),
    ("DCGM_FI_DEV_THERMAL_VIOLATION", COUNTER,
     "Throttling duration due to thermal constraints (in ns).",
     "gpu_violation_seconds_total", {"policy": "thermal"}, GIGA),
    ("DCGM_FI_DEV_SYNC_BOOST_VIOLATION", COUNTER,
     "Throttling duration due to sync-boost constraints (in ns).",
     "gpu_clock_event_seconds_total", {"reason": "sync_boost"}, GIGA),
    ("DCGM_FI_DEV_BOARD_LIMIT_VIOLATION", COUNTER,
     "Throttling duration due to board limit constraints (in ns).",
     "gpu_violation_seconds_total", {"policy": "board_limit"}, GIGA),
    ("DCGM_FI_DEV_LOW_UTIL_VIOLATION", COUNTER,
     "Throttling duration due to low utilization (in ns).",
     "gpu_violation_seconds_total", {"policy": "low_utilization"}, GIGA),
    ("DCGM_FI_DEV_RELIABILITY_VIOLATION", COUNTER,
     "Throttling duration due to reliability constraints (in ns).",
     "gpu_violation_seconds_total", {"policy": "reliability"}, GIGA),
    ("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", COUNTER, "Total number of single-bit volatile ECC errors.",
     "gpu_ecc_errors_total", {"error": "corrected", "counter": "volatile"}, 1),
    ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", COUNTER, "Total number of double-bit volatile ECC errors.",
     "gpu_ecc_errors_total", {"error": "uncorrected", "counter": "volatile"}, 1),
    ("DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", COUNTER, "Total number of single-bit persistent ECC errors.",
     "gpu_ecc_errors_total", {"error": "corrected", "counter": "aggregate"}, 1),
    ("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", COUNTER, "Total number of double-bit persistent ECC errors.",
     "gpu_ecc_errors_total", {"error": "uncorrected", "counter": "aggregate"}, 1),
    ("DCGM_FI_DEV_RETIRED_SBE", COUNTER, "Total number of retired pages due to single-bit errors.",
     "gpu_retired_pages", {"cause": "single_bit"}, 1),
    ("DCGM_FI_DEV_RETIRED_DBE", COUNTER, "Total number of retired pages due to double-bit errors.",
     "gpu_retired_pages", {"cause": "double_bit"}, 1),
    ("DCGM_FI_DEV_RETIRED_PENDING", COUNTER, "Total number of pages pending retirement.",
     "gpu_retired_pages_pending", {}, 1),
    ("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", COUNTER,
     "Number of remapped rows for uncorrectable errors",
     "gpu_remapped_rows_total", {"error": "uncorrectable"}, 1),
    ("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", COUNTER,
     "Number of remapped rows for correctable errors",
     "gpu_remapped_rows_total", {"error": "correctable"}, 1),
    ("DCGM_FI_DEV_ROW_REMAP_FAILURE", GAUGE, "Whether remapping of rows has failed",
     "gpu_row_remap_failure", {}, 1),
    ("DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", COUNTER,
     "Total number of NVLink flow-control CRC errors.",
     "gpu_nvlink_errors_total", {"error": "crc_flit"}, 1),
    ("DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL", COUNTER,
     "Total number of NVLink data CRC errors.",
     "gpu_nvlink_errors_total", {"error": "crc_data"}, 1),
    ("DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", COUNTER, "Total number of NVLink retries.",
     "gpu_nvlink_errors_total", {"error": "replay"}, 1),
    ("DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", COUNTER,
     "Total number of NVLink recovery errors.",
     "gpu_nvlink_errors_total", {"error": "recovery"}, 1),
    ("DCGM_FI_DEV_VGPU_LICENSE_STATUS", GAUGE, "vGPU License status",
     "gpu_vgpu_licensed", {}, 1),
    ("DCGM_FI_DEV_PSTATE", GAUGE, "Performance state (P-State) 0-15. 0=highest",
     "gpu_performance_state", {}, 1),
    ("DCGM_FI_DEV_FAN_SPEED", GAUGE, "Fan speed for the device in percent 0-100",
     "gpu_fan_speed_ratio", {"fan": "0"}, 100),
    ("DCGM_FI_DEV_POWER_MGMT_LIMIT", GAUGE, "Current Power limit for the device (in W).",
     "gpu_power_limit_watts", {"limit": "set"}, 1),
    ("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", GAUGE,
     "Effective power limit that the driver enforces after taking into account all limiters",
     "gpu_power_limit_watts", {"limit": "enforced"}, 1),
    ("DCGM_FI_DEV_FB_TOTAL", GAUGE, "Total Frame Buffer of the GPU in MB.",
     "gpu_memory_total_bytes", {}, 1 / MEBI),
    ("DCGM_FI_DEV_FB_FREE", GAUGE, "Frame buffer memory free (in MB).",
     "gpu_memory_free_bytes", {}, 1 / MEBI),
    ("DCGM_FI_DEV_FB_USED", GAUGE, "Frame buffer memory used (in MB).",
     "gpu_memory_used_bytes", {}, 1 / MEBI),
    ("DCGM_FI_DEV_FB_RESERVED", GAUGE, "Frame buffer memory reserved (in MB).",
     "gpu_memory_reserved_bytes", {}, 1 / MEBI),
    ("DCGM_FI_PROF_GR_ENGINE_ACTIVE", GAUGE, "Ratio of time the graphics engine is active.",
     "gpu_graphics_engine_active_ratio", {}, 1),
    ("DCGM_FI_PROF_SM_ACTIVE", GAUGE, "The ratio of cycles an SM has at least 1 warp assigned.",
     "gpu_sm_active_ratio", {}, 1),
    ("DCGM_FI_PROF_SM_OCCUPANCY", GAUGE, "The ratio of number of warps resident on an SM.",
     "gpu_sm_occupancy_ratio", {}, 1),
    ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", GAUGE, "Ratio of cycles the tensor (HMMA) pipe is active.",
     "gpu_tensor_active_ratio", {}, 1),
    ("DCGM_FI_PROF_PIPE_FP64_ACTIVE", GAUGE, "Ratio of cycles the fp64 pipes are active.",
     "gpu_fp64_active_ratio", {}, 1),
    ("DCGM_FI_PROF_PIPE_FP32_ACTIVE", GAUGE, "Ratio of cycles the fp32 pipes are active.",
     "gpu_fp32_active_ratio", {}, 1),
    ("DCGM_FI_PROF_PIPE_FP16_ACTIVE", GAUGE, "Ratio of cycles the fp16 pipes are active.",
     "gpu_fp16_active_ratio", {}, 1),
    ("DCGM_FI_PROF_DRAM_ACTIVE", GAUGE,
     "Ratio of cycles the device memory interface is active sending or receiving data.",
     "gpu_dram_active_ratio", {}, 1),
    ("DCGM_FI_PROF_PCIE_TX_BYTES", GAUGE,
     "Rate of data transmitted over the PCIe bus, headers and payloads, in bytes per second.",
     "gpu_pcie_transmit_bytes_per_second", {}, 1),
    ("DCGM_FI_PROF_PCIE_RX_BYTES", GAUGE,
     "Rate of data received over the PCIe bus, headers and payloads, in bytes per second.",
     "gpu_pcie_receive_bytes_per_second", {}, 1),
    ("DCGM_FI_PROF_NVLINK_TX_BYTES", GAUGE,
     "The rate of data transmitted over NVLink in bytes per second.",
     "gpu_nvlink_transmit_bytes_per_second", {}, 1),
    ("DCGM_FI_PROF_NVLINK_RX_BYTES", GAUGE,
     "The rate of data received over NVLink in bytes per second.",
     "gpu_nvlink_receive_bytes_per_second", {}, 1),
)  # fmt: skip

# Native metrics of MIG devices, by those of the whole GPU.
_MIG_METRICS = {
    "gpu_memory_total_bytes": "gpu_mig_memory_total_bytes",
    "gpu_memory_free_bytes": "gpu_mig_memory_free_bytes",
    "gpu_memory_used_bytes": "gpu_mig_memory_used_bytes",
    "gpu_memory_reserved_bytes": "gpu_mig_memory_reserved_bytes",
    "gpu_graphics_engine_active_ratio": "gpu_mig_graphics_engine_active_ratio",
    "gpu_sm_active_ratio": "gpu_mig_sm_active_ratio",
    "gpu_sm_occupancy_ratio": "gpu_mig_sm_occupancy_ratio",
    "gpu_tensor_active_ratio": "gpu_mig_tensor_active_ratio",
    "gpu_fp64_active_ratio": "gpu_mig_fp64_active_ratio",
    "gpu_fp32_active_ratio": "gpu_mig_fp32_active_ratio",
    "gpu_fp16_active_ratio": "gpu_mig_fp16_active_ratio",
    "gpu_dram_active_ratio": "gpu_mig_dram_active_ratio",
    "gpu_xid_last_timestamp_seconds": "gpu_mig_xid_last_timestamp_seconds",
}


def families(host_label: str, host: str) -> tuple[FamilyRule, ...]:
    """Returns the rules. host_label: `Hostname`, `hostname` after 4.8.2; empty for none."""
    host_pairs = ((host_label, host),) if host_label else ()
    return tuple(_families(host_pairs))


def _families(host: tuple[tuple[str, str], ...]) -> Iterator[FamilyRule]:
    for name, type_, help_, native, label_filter, factor in _TABLE:
        rule = FamilyRule(
            name,
            type_,
            help_,
            native,
            _map_labels(host, label_filter),
            _multiply(factor),
            info_metric="gpu_info",
            join_labels=("gpu", "uuid"),
        )
        if native not in _MIG_METRICS:
            yield rule
            continue
        yield replace(rule, unless_info_metric="gpu_mig_info")
        yield replace(rule, source_metric=_MIG_METRICS[native])
    yield FamilyRule(
        "DCGM_FI_DEV_XID_ERRORS",
        GAUGE,
        "Value of the last XID error encountered.",
        "gpu_xid_last_timestamp_seconds",
        _map_labels(host, {}, ("xid",)),
        lambda value: value,
        info_metric="gpu_info",
        join_labels=("gpu", "uuid"),
        gather=_last_xid,
    )


def _map_labels(
    host: tuple[tuple[str, str], ...], label_filter: LabelFilter, kept: tuple[str, ...] = ()
) -> Callable[[LabelMap, LabelMap], LabelPairs | None]:
    """Returns a `map_labels` with dcgm-exporter's labels in its order.

    kept: native labels kept for `gather`.
    """

    def map_labels(labels: LabelMap, info: LabelMap) -> list[tuple[str, str]] | None:
        if any(labels[name] != value for name, value in label_filter.items()):
            return None
        # DCGM reports GPU instances; the compute instances of a GPU instance share its memory.
        if labels.get("compute_instance", "0") != "0":
            return None
        pairs = [
            ("gpu", labels["gpu"]),
            ("UUID", labels["uuid"]),
            ("pci_bus_id", info.get("pci_bus_id", "")),
            ("device", f"nvidia{labels['gpu']}"),
            ("modelName", info.get("name", "")),
        ]
        if "gpu_instance" in labels:
            pairs.append(("GPU_I_PROFILE", labels["profile"]))
            pairs.append(("GPU_I_ID", labels["gpu_instance"]))
        pairs += host
        pairs.append(("DCGM_FI_DRIVER_VERSION", info.get("driver_version", "")))
        return pairs + [(name, labels[name]) for name in kept]

    return map_labels


def _multiply(factor: float) -> Callable[[Any], Any]:
    """Returns a `convert` that multiplies; a factor below 1 divides, which is more exact."""
    if factor == 1:
        return lambda value: value
    if factor > 1:
        return lambda value: round(value * factor, 6)
    divisor = round(1 / factor)
    return lambda value: value / divisor


def _last_xid(samples: Iterable[tuple[dict[str, str], Any]]) -> Iterator[tuple[LabelPairs, Any]]:
    """Yields each GPU's last XID. samples: labels, and the time the XID was last reported."""
    last: dict[str, tuple[dict[str, str], Any]] = {}
    for labels, timestamp in samples:
        gpu = labels["UUID"]
        if gpu not in last or timestamp >= last[gpu][1]:
            last[gpu] = (labels, timestamp)
    for labels, _ in last.values():
        code = labels.pop("xid")
        yield (*labels.items(), ("err_code", code)), int(code)
