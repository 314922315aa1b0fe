"""The fields of dcgm-exporter: the names up to 4.8 and since 4.9, and the native metric of each.

The fields of its default list come first, in its order. DCGM 4.7 has the new names of the fields
(4.9 exports these), and new fields in base units: hertz, bytes, joules, seconds, ratios.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from exporter.model import Type

GAUGE, COUNTER = Type.GAUGE, Type.COUNTER
MEGA, MEBI, GIGA = 1_000_000, 1 << 20, 1_000_000_000

_UNITS = {
    "CELSIUS": "in C",
    "HERTZ": "in Hz",
    "WATTS": "in W",
    "JOULES_TOTAL": "in J",
    "SECONDS_TOTAL": "in s",
    "BYTES": "in bytes",
    "PER_SECOND": "in bytes per second, both directions",
    "RATIO": "0 to 1",
}


@dataclass(frozen=True, slots=True)
class Field:
    """A field. name: up to 4.8; renamed: since 4.9, if it differs.

    native: the metric; label_filter: native labels and values whose samples form the family, empty
    for all. factor: by which the native value, which is in base units, is multiplied; the renamed
    field has base units.
    """

    name: str
    type: Type
    help: str
    native: str
    label_filter: dict[str, str] = field(default_factory=dict)
    factor: float = 1
    renamed: str = ""

    @property
    def renamed_help(self) -> str:
        """The help of the renamed field: with its unit in place of the old one."""
        text = re.sub(r" \((in [^)]*)\)\.?$|\.$", "", self.help)
        unit = next((unit for suffix, unit in _UNITS.items() if self.renamed.endswith(suffix)), "")
        return f"{text} ({unit})." if unit else f"{text}."


DCGM_FIELDS = (
    Field("DCGM_FI_DEV_SM_CLOCK", GAUGE, "SM clock frequency (in MHz).",
          "gpu_clock_hertz", {"clock": "sm"}, 1 / MEGA, "DCGM_FI_DEV_SM_CLOCK_HERTZ"),
    Field("DCGM_FI_DEV_MEM_CLOCK", GAUGE, "Memory clock frequency (in MHz).",
          "gpu_clock_hertz", {"clock": "memory"}, 1 / MEGA, "DCGM_FI_DEV_MEMORY_CLOCK_HERTZ"),
    Field("DCGM_FI_DEV_MEMORY_TEMP", GAUGE, "Memory temperature (in C).",
          "gpu_memory_temperature_celsius", {}, 1, "DCGM_FI_DEV_MEMORY_TEMP_CELSIUS"),
    Field("DCGM_FI_DEV_GPU_TEMP", GAUGE, "GPU temperature (in C).",
          "gpu_temperature_celsius", {}, 1, "DCGM_FI_DEV_GPU_TEMP_CELSIUS"),
    Field("DCGM_FI_DEV_POWER_USAGE", GAUGE, "Power draw (in W).",
          "gpu_power_watts", {}, 1, "DCGM_FI_DEV_BOARD_POWER_WATTS"),
    Field("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", COUNTER,
          "Total energy consumption since boot (in mJ).",
          "gpu_energy_joules_total", {}, 1000, "DCGM_FI_DEV_GPU_ENERGY_JOULES_TOTAL"),
    Field("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", COUNTER, "Total number of PCIe retries.",
          "gpu_pcie_replays_total", {}, 1, "DCGM_FI_DEV_PCIE_REPLAY_TOTAL"),
    Field("DCGM_FI_DEV_GPU_UTIL", GAUGE, "GPU utilization (in %).",
          "gpu_utilization_ratio", {}, 100, "DCGM_FI_DEV_GPU_UTIL_RATIO"),
    Field("DCGM_FI_DEV_MEM_COPY_UTIL", GAUGE, "Memory utilization (in %).",
          "gpu_memory_utilization_ratio", {}, 100, "DCGM_FI_DEV_MEMORY_UTIL_RATIO"),
    Field("DCGM_FI_DEV_ENC_UTIL", GAUGE, "Encoder utilization (in %).",
          "gpu_encoder_utilization_ratio", {}, 100, "DCGM_FI_DEV_ENC_UTIL_RATIO"),
    Field("DCGM_FI_DEV_DEC_UTIL", GAUGE, "Decoder utilization (in %).",
          "gpu_decoder_utilization_ratio", {}, 100, "DCGM_FI_DEV_DEC_UTIL_RATIO"),
    Field("DCGM_FI_DEV_XID_ERRORS", GAUGE, "Value of the last XID error encountered.",
          "gpu_xid_errors_total", renamed="DCGM_FI_DEV_XID_ERROR"),
    Field("DCGM_FI_DEV_FB_FREE", GAUGE, "Frame buffer memory free (in MB).",
          "gpu_memory_free_bytes", {}, 1 / MEBI, "DCGM_FI_DEV_FB_FREE_BYTES"),
    Field("DCGM_FI_DEV_FB_USED", GAUGE, "Frame buffer memory used (in MB).",
          "gpu_memory_used_bytes", {}, 1 / MEBI, "DCGM_FI_DEV_FB_USED_BYTES"),
    Field("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", COUNTER,
          "Number of remapped rows for uncorrectable errors",
          "gpu_remapped_rows_total", {"error": "uncorrectable"}, 1,
          "DCGM_FI_DEV_ROW_REMAP_UNCORRECTABLE_TOTAL"),
    Field("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", COUNTER,
          "Number of remapped rows for correctable errors",
          "gpu_remapped_rows_total", {"error": "correctable"}, 1,
          "DCGM_FI_DEV_ROW_REMAP_CORRECTABLE_TOTAL"),
    Field("DCGM_FI_DEV_ROW_REMAP_FAILURE", GAUGE, "Whether remapping of rows has failed",
          "gpu_row_remap_failure", {}, 1, "DCGM_FI_DEV_ROW_REMAP_FAILED"),
    # NVML counts KiB; DCGM takes 1000 of them for a MB here, and 1024 bytes for each when renamed.
    Field("DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", COUNTER,
          "Total number of NVLink bandwidth counters for all lanes",
          "gpu_nvlink_transmit_bytes_total", {}, 1 / (1000 * 1024),
          "DCGM_FI_DEV_NVLINK_THROUGHPUT_BYTES_PER_SECOND"),
    Field("DCGM_FI_DEV_VGPU_LICENSE_STATUS", GAUGE, "vGPU License status",
          "gpu_vgpu_licensed"),
    Field("DCGM_FI_PROF_PCIE_TX_BYTES", GAUGE,
          "Rate of data transmitted over the PCIe bus, headers and payloads, in bytes per second.",
          "gpu_pcie_transmit_bytes_per_second", {}, 1, ""),
    Field("DCGM_FI_PROF_PCIE_RX_BYTES", GAUGE,
          "Rate of data received over the PCIe bus, headers and payloads, in bytes per second.",
          "gpu_pcie_receive_bytes_per_second", {}, 1, ""),
    # Fields that are optional in its lists, and others that dashboards use.
    Field("DCGM_FI_DEV_POWER_VIOLATION", COUNTER,
          "Throttling duration due to power constraints (in ns).",
          "gpu_clock_event_seconds_total", {"reason": "sw_power_cap"}, GIGA,
          "DCGM_FI_DEV_GPU_POWER_THROTTLE_SECONDS_TOTAL"),
    Field("DCGM_FI_DEV_THERMAL_VIOLATION", COUNTER,
          "Throttling duration due to thermal constraints (in ns).",
          "gpu_violation_seconds_total", {"policy": "thermal"}, GIGA,
          "DCGM_FI_DEV_GPU_THERMAL_THROTTLE_SECONDS_TOTAL"),
    Field("DCGM_FI_DEV_SYNC_BOOST_VIOLATION", COUNTER,
          "Throttling duration due to sync-boost constraints (in ns).",
          "gpu_clock_event_seconds_total", {"reason": "sync_boost"}, GIGA,
          "DCGM_FI_DEV_GPU_SYNC_BOOST_THROTTLE_SECONDS_TOTAL"),
    Field("DCGM_FI_DEV_BOARD_LIMIT_VIOLATION", COUNTER,
          "Throttling duration due to board limit constraints (in ns).",
          "gpu_violation_seconds_total", {"policy": "board_limit"}, GIGA,
          "DCGM_FI_DEV_GPU_LIMIT_THROTTLE_SECONDS_TOTAL"),
    Field("DCGM_FI_DEV_LOW_UTIL_VIOLATION", COUNTER,
          "Throttling duration due to low utilization (in ns).",
          "gpu_violation_seconds_total", {"policy": "low_utilization"}, GIGA,
          "DCGM_FI_DEV_GPU_LOW_UTIL_THROTTLE_SECONDS_TOTAL"),
    Field("DCGM_FI_DEV_RELIABILITY_VIOLATION", COUNTER,
          "Throttling duration due to reliability constraints (in ns).",
          "gpu_violation_seconds_total", {"policy": "reliability"}, GIGA,
          "DCGM_FI_DEV_GPU_RELIABILITY_THROTTLE_SECONDS_TOTAL"),
    Field("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", COUNTER,
          "Total number of single-bit volatile ECC errors.",
          "gpu_ecc_errors_total", {"error": "corrected", "counter": "volatile"}, 1, ""),
    Field("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", COUNTER,
          "Total number of double-bit volatile ECC errors.",
          "gpu_ecc_errors_total", {"error": "uncorrected", "counter": "volatile"}, 1, ""),
    Field("DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", COUNTER,
          "Total number of single-bit persistent ECC errors.",
          "gpu_ecc_errors_total", {"error": "corrected", "counter": "aggregate"}, 1, ""),
    Field("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", COUNTER,
          "Total number of double-bit persistent ECC errors.",
          "gpu_ecc_errors_total", {"error": "uncorrected", "counter": "aggregate"}, 1, ""),
    Field("DCGM_FI_DEV_RETIRED_SBE", COUNTER,
          "Total number of retired pages due to single-bit errors.",
          "gpu_retired_pages", {"cause": "single_bit"}, 1, "DCGM_FI_DEV_PAGE_RETIRED_SBE_TOTAL"),
    Field("DCGM_FI_DEV_RETIRED_DBE", COUNTER,
          "Total number of retired pages due to double-bit errors.",
          "gpu_retired_pages", {"cause": "double_bit"}, 1, "DCGM_FI_DEV_PAGE_RETIRED_DBE_TOTAL"),
    Field("DCGM_FI_DEV_RETIRED_PENDING", COUNTER, "Total number of pages pending retirement.",
          "gpu_retired_pages_pending", {}, 1, "DCGM_FI_DEV_PAGE_RETIRED_PENDING"),
    Field("DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", COUNTER,
          "Total number of NVLink flow-control CRC errors.",
          "gpu_nvlink_errors_total", {"error": "crc_flit"}, 1,
          "DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_TOTAL"),
    Field("DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL", COUNTER,
          "Total number of NVLink data CRC errors.",
          "gpu_nvlink_errors_total", {"error": "crc_data"}, 1,
          "DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_TOTAL"),
    Field("DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", COUNTER,
          "Total number of NVLink retries.",
          "gpu_nvlink_errors_total", {"error": "replay"}, 1,
          "DCGM_FI_DEV_NVLINK_REPLAY_ERROR_TOTAL"),
    Field("DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", COUNTER,
          "Total number of NVLink recovery errors.",
          "gpu_nvlink_errors_total", {"error": "recovery"}, 1,
          "DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_TOTAL"),
    Field("DCGM_FI_DEV_NVLINK_ERROR_DL_CRC", COUNTER,
          "Total number of NVLink data link CRC errors.",
          "gpu_nvlink_link_errors_total", {"error": "crc"}, 1,
          "DCGM_FI_DEV_NVLINK_CRC_ERROR_TOTAL"),
    Field("DCGM_FI_DEV_NVLINK_ERROR_DL_REPLAY", COUNTER,
          "Total number of NVLink data link retries.",
          "gpu_nvlink_link_errors_total", {"error": "replay"}, 1,
          "DCGM_FI_DEV_NVLINK_REPLAY_TOTAL"),
    Field("DCGM_FI_DEV_NVLINK_ERROR_DL_RECOVERY", COUNTER,
          "Total number of NVLink data link recoveries.",
          "gpu_nvlink_link_errors_total", {"error": "recovery"}, 1,
          "DCGM_FI_DEV_NVLINK_RECOVERY_TOTAL"),
    Field("DCGM_FI_DEV_PSTATE", GAUGE, "Performance state (P-State) 0-15. 0=highest",
          "gpu_performance_state", {}, 1, "DCGM_FI_DEV_GPU_PSTATE"),
    Field("DCGM_FI_DEV_FAN_SPEED", GAUGE, "Fan speed for the device in percent 0-100",
          "gpu_fan_speed_ratio", {"fan": "0"}, 100, "DCGM_FI_DEV_FAN_SPEED_RATIO"),
    Field("DCGM_FI_DEV_POWER_MGMT_LIMIT", GAUGE, "Current Power limit for the device (in W).",
          "gpu_power_limit_watts", {"limit": "set"}, 1,
          "DCGM_FI_DEV_BOARD_POWER_LIMIT_REQUESTED_WATTS"),
    Field("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", GAUGE,
          "Effective power limit that the driver enforces after taking into account all limiters",
          "gpu_power_limit_watts", {"limit": "enforced"}, 1,
          "DCGM_FI_DEV_BOARD_POWER_LIMIT_ENFORCED_WATTS"),
    Field("DCGM_FI_DEV_FB_TOTAL", GAUGE, "Total Frame Buffer of the GPU in MB.",
          "gpu_memory_total_bytes", {}, 1 / MEBI, "DCGM_FI_DEV_FB_CAPACITY_BYTES"),
    Field("DCGM_FI_DEV_FB_RESERVED", GAUGE, "Frame buffer memory reserved (in MB).",
          "gpu_memory_reserved_bytes", {}, 1 / MEBI, "DCGM_FI_DEV_FB_RESERVED_BYTES"),
    Field("DCGM_FI_PROF_GR_ENGINE_ACTIVE", GAUGE, "Ratio of time the graphics engine is active.",
          "gpu_graphics_engine_active_ratio", {}, 1, "DCGM_FI_PROF_GR_ENGINE_UTIL_RATIO"),
    Field("DCGM_FI_PROF_SM_ACTIVE", GAUGE,
          "The ratio of cycles an SM has at least 1 warp assigned.",
          "gpu_sm_active_ratio", {}, 1, "DCGM_FI_PROF_SM_UTIL_RATIO"),
    Field("DCGM_FI_PROF_SM_OCCUPANCY", GAUGE, "The ratio of number of warps resident on an SM.",
          "gpu_sm_occupancy_ratio", {}, 1, "DCGM_FI_PROF_SM_OCCUPANCY_RATIO"),
    Field("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", GAUGE,
          "Ratio of cycles the tensor (HMMA) pipe is active.",
          "gpu_tensor_active_ratio", {}, 1, "DCGM_FI_PROF_TENSOR_UTIL_RATIO"),
    Field("DCGM_FI_PROF_PIPE_FP64_ACTIVE", GAUGE, "Ratio of cycles the fp64 pipes are active.",
          "gpu_fp64_active_ratio", {}, 1, "DCGM_FI_PROF_FP64_UTIL_RATIO"),
    Field("DCGM_FI_PROF_PIPE_FP32_ACTIVE", GAUGE, "Ratio of cycles the fp32 pipes are active.",
          "gpu_fp32_active_ratio", {}, 1, "DCGM_FI_PROF_FP32_UTIL_RATIO"),
    Field("DCGM_FI_PROF_PIPE_FP16_ACTIVE", GAUGE, "Ratio of cycles the fp16 pipes are active.",
          "gpu_fp16_active_ratio", {}, 1, "DCGM_FI_PROF_FP16_UTIL_RATIO"),
    Field("DCGM_FI_PROF_DRAM_ACTIVE", GAUGE,
          "Ratio of cycles the device memory interface is active sending or receiving data.",
          "gpu_dram_active_ratio", {}, 1, "DCGM_FI_PROF_DRAM_UTIL_RATIO"),
    Field("DCGM_FI_PROF_NVLINK_TX_BYTES", GAUGE,
          "The rate of data transmitted over NVLink in bytes per second.",
          "gpu_nvlink_transmit_bytes_per_second", {}, 1, ""),
    Field("DCGM_FI_PROF_NVLINK_RX_BYTES", GAUGE,
          "The rate of data received over NVLink in bytes per second.",
          "gpu_nvlink_receive_bytes_per_second", {}, 1, ""),
)  # fmt: skip
