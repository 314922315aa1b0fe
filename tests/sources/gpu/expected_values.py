"""The expected samples of the H100s of cards.py, computed by hand from the stand-in's values."""

from __future__ import annotations

import pynvml

from exporter.sources.gpu.process_containers import in_initial_pid_namespace
from tests.sources.gpu.polling import Samples

_LOCATIONS = [
    (error, counter, location)
    for error in ("corrected", "uncorrected")
    for counter in ("volatile", "aggregate")
    for location in ("dram", "sram")
]
_PCIE_ERRORS = {
    "l0_to_recovery": 0,
    "correctable": 4,
    "nak_received": 5,
    "receiver": 6,
    "bad_tlp": 7,
    "nak_sent": 8,
    "bad_dllp": 9,
    "non_fatal": 10,
    "fatal": 11,
    "unsupported_request": 12,
    "lcrc": 13,
    "lane": 14,
}
_REASONS = (
    "gpu_idle",
    "applications_clocks_setting",
    "sw_power_cap",
    "hw_slowdown",
    "sync_boost",
    "sw_thermal_slowdown",
    "hw_thermal_slowdown",
    "hw_power_brake_slowdown",
    "display_clock_setting",
)
_GPM_SECONDS = (
    "busy",
    "graphics_engine_active",
    "sm_active",
    "sm_occupancy",
    "integer_active",
    "tensor_active",
    "dram_active",
    "fp64_active",
    "fp32_active",
    "fp16_active",
)
_POLICIES = {
    "thermal": 75,
    "board_limit": 77,
    "low_utilization": 78,
    "reliability": 79,
    "application_clocks": 80,
    "base_clocks": 81,
}

# Equal for all of them, at the first poll.
COMMON: Samples = {
    **{
        (f"gpu_{engine}_utilization_ratio", ()): 0.0
        for engine in ("encoder", "decoder", "jpeg", "ofa")
    },
    ("gpu_encoder_sessions", ()): 0,
    ("gpu_bar1_memory_total_bytes", ()): 137_438_953_472,
    ("gpu_bar1_memory_used_bytes", ()): 1_048_576,
    ("gpu_bar1_memory_free_bytes", ()): 137_437_904_896,
    ("gpu_memory_temperature_celsius", ()): 54,
    ("gpu_temperature_margin_celsius", ()): 26,
    ("gpu_temperature_margin_limit_celsius", ("shutdown",)): -7,
    ("gpu_temperature_margin_limit_celsius", ("slowdown",)): -2,
    ("gpu_temperature_margin_limit_celsius", ("memory_max",)): 0,
    ("gpu_temperature_margin_limit_celsius", ("gpu_max",)): 0,
    ("gpu_power_instant_watts", ()): 625.68,
    ("gpu_power_limit_watts", ("enforced",)): 700.0,
    ("gpu_power_limit_watts", ("set",)): 700.0,
    ("gpu_power_limit_watts", ("default",)): 700.0,
    ("gpu_power_limit_watts", ("min",)): 200.0,
    ("gpu_power_limit_watts", ("max",)): 700.0,
    ("gpu_clock_max_hertz", ("graphics",)): 1_980_000_000,
    ("gpu_clock_max_hertz", ("sm",)): 1_980_000_000,
    ("gpu_clock_max_hertz", ("memory",)): 2_619_000_000,
    ("gpu_performance_state", ()): 0,
    **{("gpu_clock_event_active", (reason,)): 0 for reason in _REASONS},
    **{
        ("gpu_clock_event_seconds_total", (reason,)): 0.0
        for reason in _REASONS
        if reason in {"sw_power_cap", "sync_boost"} or reason.startswith(("hw_", "sw_thermal"))
        if reason != "hw_slowdown"
    },
    **{("gpu_violation_seconds_total", (policy,)): value for policy, value in _POLICIES.items()},
    **{("gpu_ecc_errors_total", labels[:2]): 0 for labels in _LOCATIONS},
    **{("gpu_ecc_location_errors_total", labels): 0 for labels in _LOCATIONS},
    ("gpu_sram_uncorrected_errors_total", ("volatile", "parity")): 0,
    ("gpu_sram_uncorrected_errors_total", ("volatile", "secded")): 0,
    ("gpu_sram_uncorrected_errors_total", ("aggregate", "parity")): 0,
    ("gpu_sram_uncorrected_errors_total", ("aggregate", "secded")): 0,
    **{
        ("gpu_sram_uncorrected_unit_errors_total", (unit,)): 0
        for unit in ("l2", "sm", "pcie", "mcu", "other")
    },
    ("gpu_sram_threshold_exceeded", ()): 0,
    ("gpu_remapped_rows_total", ("correctable",)): 0,
    ("gpu_remapped_rows_total", ("uncorrectable",)): 0,
    ("gpu_remapped_rows_pending", ()): 0,
    ("gpu_row_remap_failure", ()): 0,
    ("gpu_row_remapper_banks", ("max",)): 2560,
    **{
        ("gpu_row_remapper_banks", (availability,)): 0
        for availability in ("high", "partial", "low", "none")
    },
    ("gpu_recovery_action", ()): 0,
    **{
        ("gpu_xid_errors_total", (str(xid),)): 0
        for xid in (48, 63, 64, 74, 79, 92, 94, 95, 119, 120)
    },
    **{("gpu_events_total", (event,)): 0 for event in ("non_fatal_poison", "mig_config_change")},
    ("gpu_pcie_replays_total", ()): 0,
    **{("gpu_pcie_errors_total", (error,)): count for error, count in _PCIE_ERRORS.items()},
    ("gpu_pcie_link_generation", ()): 5,
    ("gpu_pcie_link_max_generation", ()): 5,
    ("gpu_pcie_link_width", ()): 16,
    ("gpu_pcie_link_max_width", ()): 16,
    ("gpu_pcie_transmit_bytes_total", ()): 0,
    ("gpu_pcie_receive_bytes_total", ()): 0,
    **{(f"gpu_{name}_seconds_total", ()): 0 for name in _GPM_SECONDS},
    **{("gpu_tensor_kind_active_seconds_total", (kind,)): 0 for kind in ("dfma", "hmma", "imma")},
    ("gpu_power_peak_watts", ()): 625.68,
    ("gpu_nvlinks", ()): 18,
    **{("gpu_nvlink_state", (str(link),)): 1 for link in range(18)},
    ("gpu_nvlink_link_errors_total", ("replay",)): 153,
    ("gpu_nvlink_link_errors_total", ("recovery",)): 171,
    ("gpu_nvlink_link_errors_total", ("crc",)): 189,
    ("gpu_nvlink_speed_bytes_per_second", ()): 26_562_000_000,
    ("gpu_nvlink_transmit_bytes_total", ()): 141_312_000,
    ("gpu_nvlink_receive_bytes_total", ()): 142_336_000,
    ("gpu_nvlink_raw_transmit_bytes_total", ()): 143_360_000,
    ("gpu_nvlink_raw_receive_bytes_total", ()): 144_384_000,
    ("gpu_fabric_state", ()): 3,
    ("gpu_fabric_ok", ()): 1,
    ("gpu_c2c_links", ()): 0,
    ("gpu_persistence_mode", ()): 1,
    ("gpu_compute_mode", ()): 0,
    ("gpu_ecc_mode", ()): 1,
    ("gpu_ecc_mode_pending", ()): 1,
    ("gpu_mig_mode", ()): 0,
    ("gpu_confidential_compute_mode", ()): 0,
    ("gpu_processes", ()): 0,
    ("gpu_process_visibility", ()): int(in_initial_pid_namespace()),
}
# Older releases of pynvml lack these functions and structures.
for symbol, missing_metrics in (
    ("nvmlDeviceGetMarginTemperature", ("gpu_temperature_margin_celsius",)),
    ("c_nvmlGpuFabricInfo_v2_t", ("gpu_fabric_state", "gpu_fabric_ok")),
):
    if not hasattr(pynvml, symbol):
        for name in missing_metrics:
            del COMMON[name, ()]

# Added by the second poll, a second later, which has two GPM samples.
SECOND_POLL: Samples = {
    ("gpu_graphics_engine_active_ratio", ()): 0.985,
    ("gpu_sm_active_ratio", ()): 0.9125,
    ("gpu_sm_occupancy_ratio", ()): 0.425,
    ("gpu_integer_active_ratio", ()): 0.125,
    ("gpu_tensor_active_ratio", ()): 0.6375,
    ("gpu_dram_active_ratio", ()): 0.55,
    ("gpu_fp64_active_ratio", ()): 0.0,
    ("gpu_fp32_active_ratio", ()): 0.075,
    ("gpu_fp16_active_ratio", ()): 0.0325,
    ("gpu_busy_seconds_total", ()): 0.985,
    ("gpu_graphics_engine_active_seconds_total", ()): 0.985,
    ("gpu_sm_active_seconds_total", ()): 0.9125,
    ("gpu_sm_occupancy_seconds_total", ()): 0.425,
    ("gpu_integer_active_seconds_total", ()): 0.125,
    ("gpu_tensor_active_seconds_total", ()): 0.6375,
    ("gpu_tensor_kind_active_seconds_total", ("dfma",)): 0.0125,
    ("gpu_tensor_kind_active_seconds_total", ("hmma",)): 0.6,
    ("gpu_tensor_kind_active_seconds_total", ("imma",)): 0.025,
    ("gpu_dram_active_seconds_total", ()): 0.55,
    ("gpu_fp64_active_seconds_total", ()): 0.0,
    ("gpu_fp32_active_seconds_total", ()): 0.075,
    ("gpu_fp16_active_seconds_total", ()): 0.0325,
    ("gpu_pcie_transmit_bytes_per_second", ()): 1_610_612_736,
    ("gpu_pcie_receive_bytes_per_second", ()): 2_148_007_936,
    ("gpu_pcie_transmit_bytes_total", ()): 1_610_612_736,
    ("gpu_pcie_receive_bytes_total", ()): 2_148_007_936,
    ("gpu_nvlink_receive_bytes_per_second", ()): 4_294_967_296,
    ("gpu_nvlink_transmit_bytes_per_second", ()): 4_293_918_720,
}


def expected(index: int) -> Samples:
    """Returns the samples of the H100 at an index after the first poll."""
    return COMMON | {
        (
            "gpu_info",
            (
                "NVIDIA H100 80GB HBM3",
                f"00000000:00:{9 + index:02X}.0",
                "590.48.01",
                "13.1",
                "96.00.A5.00.01",
                "13.590.48.01",
                "NVIDIA",
                f"165{index:010d}",
                "9.0",
                "G520.0200.00.05",
                "2.1",
                "7.16",
                "",
                str(1 + index),
            ),
        ): 1,
        ("gpu_utilization_ratio", ()): (100 - index) / 100,
        ("gpu_memory_utilization_ratio", ()): (11 + index) / 100,
        ("gpu_memory_total_bytes", ()): 85_520_809_984,
        ("gpu_memory_used_bytes", ()): 20_780_679_168 + index * 104_857_600,
        ("gpu_memory_free_bytes", ()): 64_237_862_912 - index * 104_857_600,
        ("gpu_memory_reserved_bytes", ()): 502_267_904,
        ("gpu_temperature_celsius", ()): 59 + index,
        ("gpu_power_watts", ()): 631.95 + index,
        ("gpu_energy_joules_total", ()): 123_456_789.012 + 1000 * index,
        ("gpu_clock_hertz", ("graphics",)): (1980 - index) * 1_000_000,
        ("gpu_clock_hertz", ("sm",)): (1975 - index) * 1_000_000,
        ("gpu_clock_hertz", ("memory",)): (2619 + index) * 1_000_000,
        ("gpu_clock_hertz", ("video",)): (1545 - index) * 1_000_000,
    }
