"""The GPU metrics, each with the key of its value.

Keys are produced in `nvml/` (calls.py, fields.py, structs.py, gpm.py, mig.py) and in `device.py`,
spelled out as there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, fields
from functools import lru_cache
from typing import Any, Protocol

from exporter.model import LabelValues, Metric, Number, counter, counters, gauge, gauges, info, up
from exporter.sources.gpu.reading import GpuEventsRow, GpuIdentity, GpuRow, MigRow

UP = up("gpu_up", "Whether the GPU could be read through NVML.", GpuRow.LABELS)


class _HasValues(Protocol):
    @property
    def values(self) -> Mapping[str, Number]: ...


class _HasLabelled(Protocol):
    @property
    def labelled(self) -> Mapping[str, Mapping[LabelValues, Number]]: ...


class _ScalarByKey:
    """Returns the value of a key from a row."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self, row: _HasValues) -> Number | None:
        return row.values.get(self.key)


class _LabelledByKey:
    """Returns the values of a key with their labels from a row."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self, row: _HasLabelled) -> Iterable[tuple[LabelValues, Number]]:
        by_labels = row.labelled.get(self.key)
        return by_labels.items() if by_labels is not None else ()


@lru_cache(maxsize=256)
def _texts(identity: GpuIdentity) -> tuple[str, ...]:
    """Returns the texts of an identity, which rarely changes; `astuple` copies each of them."""
    return astuple(identity)


def _gauge(name: str, key: str, help: str) -> Metric[GpuRow]:
    return gauge(name, help, GpuRow, _ScalarByKey(key))


def _counter(name: str, key: str, help: str) -> Metric[GpuRow]:
    return counter(name, help, GpuRow, _ScalarByKey(key))


def _gauges(name: str, key: str, labels: LabelValues, help: str) -> Metric[GpuRow]:
    return gauges(name, help, GpuRow, labels, _LabelledByKey(key))


def _counters(name: str, key: str, labels: LabelValues, help: str) -> Metric[GpuRow]:
    return counters(name, help, GpuRow, labels, _LabelledByKey(key))


def _mig(name: str, key: str, help: str) -> Metric[MigRow]:
    return gauge(name, help, MigRow, _ScalarByKey(key))


def _mig_counter(name: str, key: str, help: str) -> Metric[MigRow]:
    return counter(name, help, MigRow, _ScalarByKey(key))


METRICS: tuple[Metric[Any], ...] = (
    UP,
    info(
        "gpu_info",
        "Name, serial number of the board, PCI address, versions and module of the GPU, from "
        "nvmlDeviceGetName, GetPciInfo, GetVbiosVersion, GetBrand, GetSerial, "
        "GetCudaComputeCapability, GetInforomImageVersion, GetInforomVersion, GetModuleId and "
        "nvmlSystemGetDriverVersion, GetCudaDriverVersion, GetNVMLVersion.",
        GpuRow,
        tuple(field.name for field in fields(GpuIdentity)),
        lambda row: _texts(row.identity),
    ),
    _gauge(
        "gpu_suspended",
        "suspended",
        "Whether the GPU is suspended (runtime power management) and therefore not read, from "
        "power/runtime_status (suspended or suspending) of its PCI device in sysfs.",
    ),
    # -- utilization --
    _gauge(
        "gpu_utilization_ratio",
        "utilization",
        "Share of the last sample period (1/6 to 1 s) in which a kernel ran, from "
        "nvmlDeviceGetUtilizationRates.gpu.",
    ),
    _gauge(
        "gpu_memory_utilization_ratio",
        "memory_utilization",
        "Share of the last sample period (1/6 to 1 s) in which memory was read or written, from "
        "nvmlDeviceGetUtilizationRates.memory.",
    ),
    _counter(
        "gpu_busy_seconds_total",
        "busy_seconds",
        "Time in which the GPU was busy since the exporter started, without gaps between polls, "
        "from GPM 1 (NVML_GPM_METRIC_GRAPHICS_UTIL) on cards with GPM, else from the samples of "
        "nvmlDeviceGetSamples (NVML_GPU_UTILIZATION_SAMPLES); its rate is the mean utilization.",
    ),
    _counter(
        "gpu_memory_busy_seconds_total",
        "memory_busy_seconds",
        "Time in which memory was read or written since the exporter started, without gaps "
        "between polls, on cards without GPM, from the samples of nvmlDeviceGetSamples "
        "(NVML_MEMORY_UTILIZATION_SAMPLES).",
    ),
    _gauge(
        "gpu_encoder_utilization_ratio",
        "encoder_utilization",
        "Utilization of the video encoder, from nvmlDeviceGetEncoderUtilization.",
    ),
    _gauge(
        "gpu_decoder_utilization_ratio",
        "decoder_utilization",
        "Utilization of the video decoder, from nvmlDeviceGetDecoderUtilization.",
    ),
    _gauge(
        "gpu_jpeg_utilization_ratio",
        "jpeg_utilization",
        "Utilization of the JPEG engine, from nvmlDeviceGetJpgUtilization.",
    ),
    _gauge(
        "gpu_ofa_utilization_ratio",
        "ofa_utilization",
        "Utilization of the optical flow accelerator, from nvmlDeviceGetOfaUtilization.",
    ),
    _gauge(
        "gpu_encoder_sessions",
        "encoder_sessions",
        "Encoder sessions, from nvmlDeviceGetEncoderStats.",
    ),
    _gauge(
        "gpu_encoder_frames_per_second",
        "encoder_frames",
        "Mean frame rate of the encoder sessions, if any, from nvmlDeviceGetEncoderStats.",
    ),
    _gauge(
        "gpu_encoder_latency_seconds",
        "encoder_latency",
        "Mean time to encode a frame in the encoder sessions, if any, from "
        "nvmlDeviceGetEncoderStats.",
    ),
    # -- GPM (profiling), Hopper and newer --
    _gauge(
        "gpu_graphics_engine_active_ratio",
        "graphics_engine_active",
        "Share of time in which any graphics or compute work ran between the last two polls, from "
        "GPM 1 (NVML_GPM_METRIC_GRAPHICS_UTIL).",
    ),
    _gauge(
        "gpu_sm_active_ratio",
        "sm_active",
        "Share of SMs that were active between the last two polls, from GPM 2 "
        "(NVML_GPM_METRIC_SM_UTIL).",
    ),
    _gauge(
        "gpu_sm_occupancy_ratio",
        "sm_occupancy",
        "Resident warps as a share of the maximum between the last two polls, from GPM 3 "
        "(NVML_GPM_METRIC_SM_OCCUPANCY).",
    ),
    _gauge(
        "gpu_tensor_active_ratio",
        "tensor_active",
        "Share of time in which the SMs executed tensor operations of any kind between the last "
        "two polls, from GPM 5 (NVML_GPM_METRIC_ANY_TENSOR_UTIL).",
    ),
    _gauge(
        "gpu_integer_active_ratio",
        "integer_active",
        "Share of time in which the SMs executed integer operations between the last two polls, "
        "from GPM 4 (NVML_GPM_METRIC_INTEGER_UTIL).",
    ),
    _gauge(
        "gpu_fp64_active_ratio",
        "fp64_active",
        "Share of time in which the SMs executed FP64 operations, without tensor operations, "
        "between the last two polls, from GPM 11 (NVML_GPM_METRIC_FP64_UTIL).",
    ),
    _gauge(
        "gpu_fp32_active_ratio",
        "fp32_active",
        "Share of time in which the SMs executed FP32 operations, without tensor operations, "
        "between the last two polls, from GPM 12 (NVML_GPM_METRIC_FP32_UTIL).",
    ),
    _gauge(
        "gpu_fp16_active_ratio",
        "fp16_active",
        "Share of time in which the SMs executed FP16 operations, without tensor operations, "
        "between the last two polls, from GPM 13 (NVML_GPM_METRIC_FP16_UTIL).",
    ),
    _gauge(
        "gpu_dram_active_ratio",
        "dram_active",
        "Share of the memory bandwidth that was used between the last two polls, from GPM 10 "
        "(NVML_GPM_METRIC_DRAM_BW_UTIL).",
    ),
    _counter(
        "gpu_graphics_engine_active_seconds_total",
        "graphics_engine_active_seconds",
        "Time in which any graphics or compute work ran since the exporter started, without "
        "gaps between polls, the integral of GPM 1 (NVML_GPM_METRIC_GRAPHICS_UTIL).",
    ),
    _counter(
        "gpu_sm_active_seconds_total",
        "sm_active_seconds",
        "Time in which SMs were active, as a share of all SMs, since the exporter started, "
        "without gaps between polls, the integral of GPM 2 (NVML_GPM_METRIC_SM_UTIL).",
    ),
    _counter(
        "gpu_sm_occupancy_seconds_total",
        "sm_occupancy_seconds",
        "Resident warps as a share of the maximum, added up over time since the exporter "
        "started, without gaps between polls, the integral of GPM 3 "
        "(NVML_GPM_METRIC_SM_OCCUPANCY).",
    ),
    _counter(
        "gpu_tensor_active_seconds_total",
        "tensor_active_seconds",
        "Time in which the SMs executed tensor operations of any kind since the exporter "
        "started, without gaps between polls, the integral of GPM 5 "
        "(NVML_GPM_METRIC_ANY_TENSOR_UTIL).",
    ),
    _counters(
        "gpu_tensor_kind_active_seconds_total",
        "tensor_kind_active_seconds",
        ("kind",),
        "Time in which the SMs executed tensor operations of a kind (dfma: FP64, hmma: FP16 "
        "and other floating point, imma: integer) since the exporter started, without gaps "
        "between polls, on cards known to distinguish it, the integral of GPM 6, 7 and 9 "
        "(NVML_GPM_METRIC_…_TENSOR_UTIL).",
    ),
    _counter(
        "gpu_integer_active_seconds_total",
        "integer_active_seconds",
        "Time in which the SMs executed integer operations since the exporter started, "
        "without gaps between polls, the integral of GPM 4 (NVML_GPM_METRIC_INTEGER_UTIL).",
    ),
    _counter(
        "gpu_fp64_active_seconds_total",
        "fp64_active_seconds",
        "Time in which the SMs executed FP64 operations, without tensor operations, since the "
        "exporter started, without gaps between polls, the integral of GPM 11 "
        "(NVML_GPM_METRIC_FP64_UTIL).",
    ),
    _counter(
        "gpu_fp32_active_seconds_total",
        "fp32_active_seconds",
        "Time in which the SMs executed FP32 operations, without tensor operations, since the "
        "exporter started, without gaps between polls, the integral of GPM 12 "
        "(NVML_GPM_METRIC_FP32_UTIL).",
    ),
    _counter(
        "gpu_fp16_active_seconds_total",
        "fp16_active_seconds",
        "Time in which the SMs executed FP16 operations, without tensor operations, since the "
        "exporter started, without gaps between polls, the integral of GPM 13 "
        "(NVML_GPM_METRIC_FP16_UTIL).",
    ),
    _counter(
        "gpu_dram_active_seconds_total",
        "dram_active_seconds",
        "Used share of the memory bandwidth, added up over time since the exporter started, "
        "without gaps between polls, the integral of GPM 10 (NVML_GPM_METRIC_DRAM_BW_UTIL).",
    ),
    # -- memory --
    _gauge(
        "gpu_memory_total_bytes",
        "memory_total",
        "Memory of the GPU, from nvmlDeviceGetMemoryInfo_v2.total.",
    ),
    _gauge(
        "gpu_memory_used_bytes",
        "memory_used",
        "Memory in use, without reserved memory, from nvmlDeviceGetMemoryInfo_v2.used; drivers "
        "before R510 count reserved memory as used.",
    ),
    _gauge(
        "gpu_memory_free_bytes",
        "memory_free",
        "Free memory, from nvmlDeviceGetMemoryInfo_v2.free.",
    ),
    _gauge(
        "gpu_memory_reserved_bytes",
        "memory_reserved",
        "Memory reserved by driver and firmware, from nvmlDeviceGetMemoryInfo_v2.reserved.",
    ),
    _gauge(
        "gpu_system_memory_total_bytes",
        "system_memory_total",
        "Memory of the host, for a GPU that uses it and has none of its own (GB10; "
        "nvmlDeviceGetMemoryInfo is not supported, nvmlDeviceGetAddressingMode is ATS), from "
        "MemTotal in PROC/meminfo.",
    ),
    _gauge(
        "gpu_system_memory_available_bytes",
        "system_memory_available",
        "Memory of the host that is available, for a GPU that uses it and has none of its own, "
        "from MemAvailable in PROC/meminfo.",
    ),
    _gauge(
        "gpu_bar1_memory_total_bytes",
        "bar1_memory_total",
        "Size of BAR1, through which the host accesses GPU memory, read once a minute from "
        "nvmlDeviceGetBAR1MemoryInfo.bar1Total.",
    ),
    _gauge(
        "gpu_bar1_memory_used_bytes",
        "bar1_memory_used",
        "BAR1 in use, read once a minute from nvmlDeviceGetBAR1MemoryInfo.bar1Used.",
    ),
    _gauge(
        "gpu_bar1_memory_free_bytes",
        "bar1_memory_free",
        "Free BAR1, read once a minute from nvmlDeviceGetBAR1MemoryInfo.bar1Free.",
    ),
    # -- temperature, power, clocks --
    _gauge(
        "gpu_temperature_celsius",
        "temperature",
        "Temperature of the GPU die, from nvmlDeviceGetTemperatureV, else GetTemperature.",
    ),
    _gauge(
        "gpu_memory_temperature_celsius",
        "memory_temperature",
        "Temperature of the memory (HBM), from field 82 (NVML_FI_DEV_MEMORY_TEMP).",
    ),
    _gauge(
        "gpu_temperature_margin_celsius",
        "temperature_margin",
        "Degrees until the GPU slows down, read every 15 s from nvmlDeviceGetMarginTemperature.",
    ),
    _gauges(
        "gpu_temperature_limit_celsius",
        "temperature_limit",
        ("limit",),
        "Temperature threshold (shutdown, slowdown, memory_max, gpu_max), read every 5 minutes "
        "from nvmlDeviceGetTemperatureThreshold.",
    ),
    _gauges(
        "gpu_temperature_margin_limit_celsius",
        "temperature_margin_limit",
        ("limit",),
        "Threshold of the temperature margin (shutdown, slowdown, memory_max, gpu_max; Ada and "
        "newer), read every 5 minutes from fields 193-196 (NVML_FI_DEV_TEMPERATURE_…_TLIMIT).",
    ),
    _gauge(
        "gpu_power_watts",
        "power",
        "Power draw of the board, a one-second average on most cards since Ampere, from "
        "nvmlDeviceGetPowerUsage.",
    ),
    _gauge(
        "gpu_power_instant_watts",
        "power_instant",
        "Instantaneous power draw of the board, from field 186 (NVML_FI_DEV_POWER_INSTANT).",
    ),
    _gauge(
        "gpu_power_peak_watts",
        "power_peak",
        "Highest power draw of the board in a sample (20 ms) of the last 2.4 s before the poll, "
        "read every 15 s from nvmlDeviceGetSamples (NVML_TOTAL_POWER_SAMPLES); the driver keeps no "
        "more.",
    ),
    _gauge(
        "gpu_module_power_watts",
        "module_power",
        "Instantaneous power draw of the module (a Grace superchip), from field 186 "
        "(NVML_FI_DEV_POWER_INSTANT) with the scope of the module.",
    ),
    _gauges(
        "gpu_power_limit_watts",
        "power_limit",
        ("limit",),
        "Power limit (enforced, set, default, min, max), read once a minute (set every 5 minutes, "
        "the last three once an hour) from nvmlDeviceGetEnforcedPowerLimit, "
        "GetPowerManagementLimit, …DefaultLimit, …LimitConstraints.",
    ),
    _gauges(
        "gpu_power_profile_enforced",
        "power_profile",
        ("profile",),
        "Whether a workload power profile is in force; 0 if it is only requested, no series if "
        "neither, read once a minute from nvmlDeviceWorkloadPowerProfileGetCurrentProfiles.",
    ),
    _counter(
        "gpu_energy_joules_total",
        "energy",
        "Energy consumed since the driver was loaded, from nvmlDeviceGetTotalEnergyConsumption.",
    ),
    _gauges(
        "gpu_clock_hertz",
        "clock",
        ("clock",),
        "Current frequency of a clock (graphics, sm, memory, video), from nvmlDeviceGetClockInfo.",
    ),
    _gauges(
        "gpu_clock_max_hertz",
        "clock_max",
        ("clock",),
        "Maximum frequency of a clock, read once an hour from nvmlDeviceGetMaxClockInfo.",
    ),
    _gauge(
        "gpu_performance_state",
        "performance_state",
        "Performance state, 0 (highest) to 15, from nvmlDeviceGetPerformanceState.",
    ),
    _gauges(
        "gpu_fan_speed_ratio",
        "fan_speed",
        ("fan",),
        "Intended speed of a fan as a share of its maximum, read every 15 s from "
        "nvmlDeviceGetFanSpeed_v2.",
    ),
    _gauges(
        "gpu_clock_event_active",
        "clock_event",
        ("reason",),
        "Whether the reason currently limits the clocks (throttling), from "
        "nvmlDeviceGetCurrentClocksEventReasons, on older drivers …ThrottleReasons.",
    ),
    _counters(
        "gpu_clock_event_seconds_total",
        "clock_event_seconds",
        ("reason",),
        "Time during which the reason limited the clocks, from fields 74, 76 and 269-271 "
        "(NVML_FI_DEV_CLOCKS_EVENT_REASON_…); hw_thermal_slowdown and hw_power_brake_slowdown "
        "read once a minute, and at every poll during a slowdown.",
    ),
    _counters(
        "gpu_violation_seconds_total",
        "violation_seconds",
        ("policy",),
        "Time during which another policy limited the clocks, from fields 75 and 77-81 "
        "(NVML_FI_DEV_PERF_POLICY_…); thermal read once a minute, and at every poll during a "
        "slowdown.",
    ),
    # -- health --
    _counters(
        "gpu_ecc_errors_total",
        "ecc_errors",
        ("error", "counter"),
        "ECC errors (corrected, uncorrected) since the driver was loaded (volatile) and over the "
        "lifetime of the card (aggregate), from fields 3-6 (NVML_FI_DEV_ECC_…_TOTAL).",
    ),
    _counters(
        "gpu_ecc_location_errors_total",
        "ecc_location_errors",
        ("error", "counter", "location"),
        "ECC errors by location (dram, sram), read once a minute from "
        "nvmlDeviceGetMemoryErrorCounter.",
    ),
    _counters(
        "gpu_sram_uncorrected_errors_total",
        "sram_errors",
        ("counter", "kind"),
        "Uncorrected SRAM errors by kind (parity, secded), read once a minute from "
        "nvmlDeviceGetSramEccErrorStatus.",
    ),
    _counters(
        "gpu_sram_uncorrected_unit_errors_total",
        "sram_unit_errors",
        ("unit",),
        "Uncorrected SRAM errors over the lifetime of the card by unit (l2, sm, pcie, mcu, "
        "other), read once a minute from nvmlDeviceGetSramEccErrorStatus.aggregateUncBucket….",
    ),
    _gauges(
        "gpu_sram_uncorrected_error_locations",
        "sram_locations",
        ("kind",),
        "Distinct SRAM locations with uncorrected errors by kind (parity, secded), read once a "
        "minute from nvmlDeviceGetSramUniqueUncorrectedEccErrorCounts.",
    ),
    _gauge(
        "gpu_sram_threshold_exceeded",
        "sram_threshold_exceeded",
        "Whether uncorrected SRAM errors exceed the threshold, read once a minute from "
        "nvmlDeviceGetSramEccErrorStatus.bThresholdExceeded.",
    ),
    _gauges(
        "gpu_retired_pages",
        "retired_pages",
        ("cause",),
        "Retired memory pages by cause (single_bit, double_bit), read once a minute from fields "
        "29 and 30 (NVML_FI_DEV_RETIRED_…).",
    ),
    _gauge(
        "gpu_retired_pages_pending",
        "retired_pages_pending",
        "Whether the next reset retires pages, read once a minute from field 31 "
        "(NVML_FI_DEV_RETIRED_PENDING).",
    ),
    _counters(
        "gpu_remapped_rows_total",
        "remapped_rows",
        ("error",),
        "Remapped memory rows by error (correctable, uncorrectable; Ampere and newer), from "
        "fields 142 and 143 (NVML_FI_DEV_REMAPPED_…).",
    ),
    _gauges(
        "gpu_remapped_rows_inactive",
        "remapped_rows_inactive",
        ("error",),
        "Remapped memory rows that are not in use, by error (correctable, uncorrectable; drivers "
        "since R595), from fields 301 and 302 (NVML_FI_DEV_REMAPPED_ROWS_…_INACTIVE).",
    ),
    _gauge(
        "gpu_remapped_rows_pending",
        "remapped_rows_pending",
        "Whether the next reset remaps rows, from field 144 (NVML_FI_DEV_REMAPPED_PENDING).",
    ),
    _gauge(
        "gpu_row_remap_failure",
        "row_remap_failure",
        "Whether remapping a row has failed, from field 145 (NVML_FI_DEV_REMAPPED_FAILURE).",
    ),
    _gauges(
        "gpu_repair_pending",
        "repair_pending",
        ("part",),
        "Whether the next reset repairs a part (channel: a memory channel; tpc: a cluster of SMs), "
        "read every 5 minutes from nvmlDeviceGetRepairStatus.",
    ),
    _gauge(
        "gpu_unrepairable_memory",
        "unrepairable_memory",
        "Whether the memory has a defect that the GPU cannot repair, read every 5 minutes from "
        "nvmlDeviceGetUnrepairableMemoryFlag_v1.",
    ),
    _gauges(
        "gpu_row_remapper_banks",
        "row_remapper_banks",
        ("availability",),
        "Memory banks by remaining spare rows (max, high, partial, low, none), read every 5 "
        "minutes from nvmlDeviceGetRowRemapperHistogram.",
    ),
    _gauge(
        "gpu_recovery_action",
        "recovery_action",
        "Recovery action required by the driver: 0 none, 1 reset the GPU, 2 reboot, 3 drain "
        "peer-to-peer, 4 drain and reset, 5 recover the IMEX domain, 6 reset the bus, 7 reboot "
        "the system, from field 230 (NVML_FI_DEV_GET_GPU_RECOVERY_ACTION).",
    ),
    counters(
        "gpu_xid_errors_total",
        "XID errors since the exporter started, from the kernel's log (NVRM: Xid) where it is "
        "read, else from nvmlEventSetWait_v2 (nvmlEventTypeXidCriticalError); docs/xids.md lists "
        "them.",
        GpuEventsRow,
        ("xid",),
        lambda row: (((xid,), count) for xid, count in row.xids.items()),
    ),
    gauges(
        "gpu_xid_last_timestamp_seconds",
        "Unix time stamp of the last occurrence of an XID since the exporter started, from the "
        "source of gpu_xid_errors_total.",
        GpuEventsRow,
        ("xid",),
        lambda row: (((xid,), last) for xid, last in row.xid_times.items()),
    ),
    counters(
        "gpu_events_total",
        "Events that the driver reported since the exporter started, by kind (single_bit_ecc, "
        "double_bit_ecc, single_bit_ecc_storm, dram_retirement, dram_retirement_failure, "
        "non_fatal_poison, fatal_poison, gpu_unavailable, gpu_recovery_action, "
        "power_source_change, mig_config_change), of those that the GPU supports, from "
        "nvmlEventSetWait_v2 (nvmlEventType…).",
        GpuEventsRow,
        ("event",),
        lambda row: (((event,), count) for event, count in row.events.items()),
    ),
    # -- PCIe, NVLink, chip-to-chip --
    _counter(
        "gpu_pcie_replays_total",
        "pcie_replays",
        "PCIe packet retransmissions (replays), read once a minute from "
        "nvmlDeviceGetPcieReplayCounter.",
    ),
    _counters(
        "gpu_pcie_errors_total",
        "pcie_errors",
        ("error",),
        "PCIe errors by kind, read once a minute from fields 169 and 173-183 "
        "(NVML_FI_DEV_PCIE_COUNT_…).",
    ),
    _gauge(
        "gpu_pcie_link_generation",
        "pcie_generation",
        "Current generation of the PCIe link, from nvmlDeviceGetCurrPcieLinkGeneration; an idle "
        "card may lower it.",
    ),
    _gauge(
        "gpu_pcie_link_max_generation",
        "pcie_max_generation",
        "Highest PCIe generation that GPU and slot support, read once an hour from "
        "nvmlDeviceGetMaxPcieLinkGeneration.",
    ),
    _gauge(
        "gpu_pcie_link_width",
        "pcie_width",
        "Current lanes of the PCIe link, read once a minute from nvmlDeviceGetCurrPcieLinkWidth.",
    ),
    _gauge(
        "gpu_pcie_link_max_width",
        "pcie_max_width",
        "Maximum lanes that GPU and slot support, read once an hour from "
        "nvmlDeviceGetMaxPcieLinkWidth.",
    ),
    _counter(
        "gpu_pcie_transmit_bytes_total",
        "pcie_transmit_bytes",
        "Bytes transmitted over PCIe since the exporter started, the integral of GPM 20 "
        "(NVML_GPM_METRIC_PCIE_TX_PER_SEC); without GPM, on links too slow to wrap it twice "
        "between two polls, from field 197 (NVML_FI_DEV_PCIE_COUNT_TX_BYTES, 32 bits).",
    ),
    _counter(
        "gpu_pcie_receive_bytes_total",
        "pcie_receive_bytes",
        "Bytes received over PCIe since the exporter started, the integral of GPM 21 "
        "(NVML_GPM_METRIC_PCIE_RX_PER_SEC); without GPM, on links too slow to wrap it twice "
        "between two polls, from field 198 (NVML_FI_DEV_PCIE_COUNT_RX_BYTES, 32 bits).",
    ),
    _gauge(
        "gpu_pcie_transmit_bytes_per_second",
        "pcie_transmit_rate",
        "PCIe traffic from the GPU between the last two polls, from GPM 20 "
        "(NVML_GPM_METRIC_PCIE_TX_PER_SEC); without GPM, if enabled, from "
        "nvmlDeviceGetPcieThroughput (over 20 ms).",
    ),
    _gauge(
        "gpu_pcie_receive_bytes_per_second",
        "pcie_receive_rate",
        "PCIe traffic to the GPU between the last two polls, from GPM 21 "
        "(NVML_GPM_METRIC_PCIE_RX_PER_SEC); without GPM, if enabled, from "
        "nvmlDeviceGetPcieThroughput (over 20 ms).",
    ),
    _gauge(
        "gpu_nvlinks",
        "nvlinks",
        "NVLinks of the GPU, read once a minute from field 91 (NVML_FI_DEV_NVLINK_LINK_COUNT).",
    ),
    _gauges(
        "gpu_nvlink_state",
        "nvlink_state",
        ("link",),
        "State of an NVLink: 0 inactive, 1 active, 2 sleep, 3 no traffic allowed, read every 15 s "
        "from field 165 (NVML_FI_DEV_NVLINK_GET_STATE).",
    ),
    _gauge(
        "gpu_nvlink_speed_bytes_per_second",
        "nvlink_speed",
        "Speed of an active NVLink, read once a minute from field 90 "
        "(NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON).",
    ),
    _counter(
        "gpu_nvlink_transmit_bytes_total",
        "nvlink_transmit_bytes",
        "Bytes transmitted over all NVLinks, from field 138 "
        "(NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX), else the integral of GPM 61 since the exporter "
        "started.",
    ),
    _counter(
        "gpu_nvlink_receive_bytes_total",
        "nvlink_receive_bytes",
        "Bytes received over all NVLinks, from field 139 "
        "(NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX), else the integral of GPM 60 since the exporter "
        "started.",
    ),
    _counter(
        "gpu_nvlink_raw_transmit_bytes_total",
        "nvlink_raw_transmit_bytes",
        "Bytes transmitted over all NVLinks, including protocol overhead, from field 140 "
        "(NVML_FI_DEV_NVLINK_THROUGHPUT_RAW_TX).",
    ),
    _counter(
        "gpu_nvlink_raw_receive_bytes_total",
        "nvlink_raw_receive_bytes",
        "Bytes received over all NVLinks, including protocol overhead, from field 141 "
        "(NVML_FI_DEV_NVLINK_THROUGHPUT_RAW_RX).",
    ),
    _gauge(
        "gpu_nvlink_transmit_bytes_per_second",
        "nvlink_transmit_rate",
        "Traffic transmitted over all NVLinks between the last two polls, if one is active, from "
        "GPM 61 (NVML_GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC).",
    ),
    _gauge(
        "gpu_nvlink_receive_bytes_per_second",
        "nvlink_receive_rate",
        "Traffic received over all NVLinks between the last two polls, if one is active, from "
        "GPM 60 (NVML_GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC).",
    ),
    _counters(
        "gpu_nvlink_errors_total",
        "nvlink_errors",
        ("error",),
        "Errors of all NVLinks by kind (crc_flit, crc_data, replay, recovery), read every 15 s "
        "from fields 38, 45, 52 and 59 (NVML_FI_DEV_NVLINK_…_ERROR_COUNT_TOTAL).",
    ),
    _counters(
        "gpu_nvlink_link_errors_total",
        "nvlink_link_errors",
        ("error",),
        "Data link layer errors, summed over all NVLinks (replay, recovery, crc), read every 15 s "
        "from fields 161-163 (NVML_FI_DEV_NVLINK_ERROR_DL_…).",
    ),
    _counters(
        "gpu_nvlink5_packets_total",
        "nvlink5_packets",
        ("direction",),
        "Packets over all NVLinks (NVLink 5) by direction (transmit, receive), read once a minute "
        "from fields 201 and 203 (NVML_FI_DEV_NVLINK_COUNT_…_PACKETS).",
    ),
    _counters(
        "gpu_nvlink5_bytes_total",
        "nvlink5_bytes",
        ("direction",),
        "Bytes over all NVLinks (NVLink 5) by direction (transmit, receive), read once a minute "
        "from fields 202 and 204 (NVML_FI_DEV_NVLINK_COUNT_…_BYTES).",
    ),
    _counters(
        "gpu_nvlink5_errors_total",
        "nvlink5_errors",
        ("error",),
        "Errors of all NVLinks (NVLink 5) by kind (malformed_packet, buffer_overrun, receive, "
        "receive_remote, receive_general, local_link_integrity, transmit_discard, effective, "
        "symbol, raw_lane0, raw_lane1), read once a minute from fields 206-212, 219, 221, 289 and "
        "290 (NVML_FI_DEV_NVLINK_COUNT_…).",
    ),
    _counters(
        "gpu_nvlink5_recoveries_total",
        "nvlink5_recoveries",
        ("result",),
        "Recoveries of all NVLinks (NVLink 5) by result (successful, failed), read once a minute "
        "from fields 213 and 214 (NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_…_EVENTS).",
    ),
    _counters(
        "gpu_nvlink5_corrected_symbol_errors_total",
        "nvlink5_corrected",
        ("bin",),
        "Symbol errors of all NVLinks (NVLink 5) that forward error correction repaired, by bin (0 "
        "to 15), read once a minute from fields 235-250 "
        "(NVML_FI_DEV_NVLINK_COUNT_FEC_HISTORY_…).",
    ),
    _counters(
        "gpu_nvlink5_transmit_blocks_total",
        "nvlink5_blocks",
        ("result",),
        "Blocks of the physical layer sent over all NVLinks (NVLink 5): transmitted, and sent once "
        "more (retried), read once a minute from fields 294 and 295 "
        "(NVML_FI_DEV_NVLINK_PLR_XMIT_…BLOCKS).",
    ),
    _gauges(
        "gpu_nvlink5_bit_error_ratio",
        "nvlink5_bit_error_ratio",
        ("kind",),
        "Highest bit error ratio of an NVLink (NVLink 5) by kind (effective: after forward error "
        "correction; symbol; raw, raw_lane0, raw_lane1: before it), read once a minute from fields "
        "220, 222 and 291-293 (NVML_FI_DEV_NVLINK_COUNT_…_BER).",
    ),
    _gauge(
        "gpu_fabric_state",
        "fabric_state",
        "State of the NVLink fabric registration: 1 not started, 2 in progress, 3 completed, read "
        "once a minute from nvmlDeviceGetGpuFabricInfoV.state.",
    ),
    _gauge(
        "gpu_fabric_ok",
        "fabric_ok",
        "Whether the NVLink fabric registration succeeded, read once a minute from "
        "nvmlDeviceGetGpuFabricInfoV.status.",
    ),
    _gauge(
        "gpu_fabric_health",
        "fabric_health",
        "Health of the GPU in the NVLink fabric: 1 healthy, 2 unhealthy, 3 limited capacity, read "
        "once a minute from nvmlDeviceGetGpuFabricInfo_v4, else …InfoV (version 3): "
        "healthSummary.",
    ),
    _gauges(
        "gpu_fabric_condition_active",
        "fabric_condition",
        ("condition",),
        "Whether the NVLink fabric reports a condition of the GPU (degraded_bandwidth, "
        "route_recovery, route_unhealthy, access_timeout_recovery, partition_unassigned, "
        "manager_disconnected), for those that the driver reports, read once a minute from "
        "nvmlDeviceGetGpuFabricInfo_v4, else …InfoV: healthMask.",
    ),
    _gauge(
        "gpu_fabric_incorrect_configuration",
        "fabric_incorrect_configuration",
        "Problem of the GPU's NVLink fabric configuration: 0 none, 2 wrong system GUID, 3 wrong "
        "chassis serial number, 4 no partition, 5 too few NVLinks, 6 incompatible firmware, 7 "
        "wrong location, 8 invalid GPU state, read once a minute from "
        "nvmlDeviceGetGpuFabricInfo_v4, else …InfoV: healthMask.",
    ),
    _gauges(
        "gpu_fabric_clique_member",
        "fabric_clique",
        ("cluster", "type", "clique"),
        "1 for each NVLink fabric clique of the GPU, in a cluster: GPUs with the same labels can "
        "reach each other over NVLink; read once a minute from nvmlDeviceGetGpuFabricInfo_v4, "
        "else …InfoV (one clique without a type).",
    ),
    _gauge(
        "gpu_c2c_links",
        "c2c_links",
        "Chip-to-chip links (to a Grace CPU), read once a minute from field 170 "
        "(NVML_FI_DEV_C2C_LINK_COUNT).",
    ),
    _gauges(
        "gpu_c2c_link_active",
        "c2c_state",
        ("link",),
        "Whether a chip-to-chip link is active, read every 15 s from field 171 "
        "(NVML_FI_DEV_C2C_LINK_GET_STATUS).",
    ),
    _counters(
        "gpu_c2c_errors_total",
        "c2c_errors",
        ("error",),
        "Errors of all chip-to-chip links by kind (crc, replay, replay_back_to_back), read once a "
        "minute from fields 231-233 (NVML_FI_DEV_C2C_LINK_ERROR_…).",
    ),
    _gauges(
        "gpu_c2c_link_low_power",
        "c2c_low_power",
        ("link",),
        "Whether a chip-to-chip link is in its low power state, read once a minute from field 234 "
        "(NVML_FI_DEV_C2C_LINK_POWER_STATE).",
    ),
    # -- modes --
    _gauge(
        "gpu_persistence_mode",
        "persistence_mode",
        "Whether persistence mode is on (the driver stays loaded without clients), read every 5 "
        "minutes from nvmlDeviceGetPersistenceMode.",
    ),
    _gauge(
        "gpu_compute_mode",
        "compute_mode",
        "Compute mode: 0 default, 1 exclusive thread, 2 prohibited, 3 exclusive process, read "
        "every 5 minutes from nvmlDeviceGetComputeMode.",
    ),
    _gauge(
        "gpu_ecc_mode",
        "ecc_mode",
        "Whether ECC is on, read every 5 minutes from nvmlDeviceGetEccMode.",
    ),
    _gauge(
        "gpu_ecc_mode_pending",
        "ecc_mode_pending",
        "Whether ECC will be on after the next reboot, read every 5 minutes from "
        "nvmlDeviceGetEccMode.",
    ),
    _gauge(
        "gpu_dram_encryption_mode",
        "dram_encryption_mode",
        "Whether the memory is encrypted, read every 5 minutes from "
        "nvmlDeviceGetDramEncryptionMode.",
    ),
    _gauge(
        "gpu_dram_encryption_mode_pending",
        "dram_encryption_mode_pending",
        "Whether the memory will be encrypted after the next reset, read every 5 minutes from "
        "nvmlDeviceGetDramEncryptionMode.",
    ),
    _gauge(
        "gpu_mig_mode",
        "mig_mode",
        "Whether MIG is on, read once a minute, and at once after a MIG event, from "
        "nvmlDeviceGetMigMode.",
    ),
    _gauge(
        "gpu_confidential_compute_mode",
        "confidential_compute",
        "Whether confidential computing is on, read every 5 minutes from "
        "nvmlSystemGetConfComputeState.ccFeature.",
    ),
    _gauge(
        "gpu_vgpu_licensed",
        "vgpu_licensed",
        "Whether a vGPU or virtual workstation is licensed, read every 5 minutes from "
        "nvmlDeviceGetGridLicensableFeatures.",
    ),
    # -- processes --
    _gauge(
        "gpu_processes",
        "processes",
        "Processes that use the GPU, without duplicates, from "
        "nvmlDeviceGetComputeRunningProcesses, GetGraphicsRunningProcesses and "
        "GetMPSComputeRunningProcesses.",
    ),
    _gauge(
        "gpu_process_visibility",
        "process_visibility",
        "Whether all processes that use the GPU are visible: 0 outside of the initial PID "
        "namespace (run with --pid=host, hostPID or as a host service) or if the driver lists "
        "none.",
    ),
    # -- MIG devices: separate metrics, so that a sum never counts a value twice --
    info(
        "gpu_mig_info",
        "UUID of the MIG device, from nvmlDeviceGetMigDeviceHandleByIndex and nvmlDeviceGetUUID.",
        MigRow,
        ("mig_uuid",),
        lambda row: (row.mig_uuid,),
    ),
    _mig(
        "gpu_mig_memory_total_bytes",
        "memory_total",
        "Memory of the MIG device, from nvmlDeviceGetMemoryInfo_v2.total.",
    ),
    _mig(
        "gpu_mig_memory_used_bytes",
        "memory_used",
        "Memory of the MIG device in use, from nvmlDeviceGetMemoryInfo_v2.used.",
    ),
    _mig(
        "gpu_mig_memory_free_bytes",
        "memory_free",
        "Free memory of the MIG device, from nvmlDeviceGetMemoryInfo_v2.free.",
    ),
    _mig(
        "gpu_mig_memory_reserved_bytes",
        "memory_reserved",
        "Memory of the MIG device reserved by the driver, from "
        "nvmlDeviceGetMemoryInfo_v2.reserved.",
    ),
    _mig(
        "gpu_mig_multiprocessors",
        "multiprocessors",
        "SMs of the MIG device, from nvmlDeviceGetAttributes_v2.multiprocessorCount.",
    ),
    _mig_counter(
        "gpu_mig_sram_uncorrected_errors_total",
        "uncorrected_errors",
        "Uncorrected SRAM errors of the MIG device since the driver was loaded, read once a minute "
        "from nvmlDeviceGetMemoryErrorCounter.",
    ),
    _mig(
        "gpu_mig_graphics_engine_active_ratio",
        "graphics_engine_active",
        "Share of time in which any graphics or compute work ran in the MIG device's GPU instance "
        "between the last two polls, from GPM 1.",
    ),
    _mig(
        "gpu_mig_sm_active_ratio",
        "sm_active",
        "Share of SMs that were active in the MIG device's GPU instance between the last two "
        "polls, from GPM 2.",
    ),
    _mig(
        "gpu_mig_sm_occupancy_ratio",
        "sm_occupancy",
        "Resident warps as a share of the maximum in the MIG device's GPU instance between the "
        "last two polls, from GPM 3.",
    ),
    _mig(
        "gpu_mig_tensor_active_ratio",
        "tensor_active",
        "Share of time in which the SMs executed tensor operations of any kind in the MIG "
        "device's GPU instance between the last two polls, from GPM 5.",
    ),
    _mig(
        "gpu_mig_integer_active_ratio",
        "integer_active",
        "Share of time in which the SMs executed integer operations in the MIG device's GPU "
        "instance between the last two polls, from GPM 4.",
    ),
    _mig(
        "gpu_mig_dram_active_ratio",
        "dram_active",
        "Share of the memory bandwidth used in the MIG device's GPU instance between the last two "
        "polls, from GPM 10.",
    ),
    _mig(
        "gpu_mig_fp64_active_ratio",
        "fp64_active",
        "Share of time in which the SMs executed FP64 operations in the MIG device's GPU instance "
        "between the last two polls, from GPM 11.",
    ),
    _mig(
        "gpu_mig_fp32_active_ratio",
        "fp32_active",
        "Share of time in which the SMs executed FP32 operations in the MIG device's GPU instance "
        "between the last two polls, from GPM 12.",
    ),
    _mig(
        "gpu_mig_fp16_active_ratio",
        "fp16_active",
        "Share of time in which the SMs executed FP16 operations in the MIG device's GPU instance "
        "between the last two polls, from GPM 13.",
    ),
    _mig_counter(
        "gpu_mig_busy_seconds_total",
        "busy_seconds",
        "Time in which the MIG device's GPU instance was busy since the exporter started, "
        "without gaps between polls, from GPM 1.",
    ),
    _mig_counter(
        "gpu_mig_graphics_engine_active_seconds_total",
        "graphics_engine_active_seconds",
        "Time in which any graphics or compute work ran in the MIG device's GPU instance "
        "since the exporter started, without gaps between polls, the integral of GPM 1.",
    ),
    _mig_counter(
        "gpu_mig_sm_active_seconds_total",
        "sm_active_seconds",
        "Time in which SMs were active, as a share of all SMs in the MIG device's GPU "
        "instance since the exporter started, without gaps between polls, the integral of GPM "
        "2.",
    ),
    _mig_counter(
        "gpu_mig_sm_occupancy_seconds_total",
        "sm_occupancy_seconds",
        "Resident warps as a share of the maximum, added up over time in the MIG device's GPU "
        "instance since the exporter started, without gaps between polls, the integral of GPM "
        "3.",
    ),
    _mig_counter(
        "gpu_mig_tensor_active_seconds_total",
        "tensor_active_seconds",
        "Time in which the SMs executed tensor operations of any kind in the MIG device's GPU "
        "instance since the exporter started, without gaps between polls, the integral of GPM "
        "5.",
    ),
    counters(
        "gpu_mig_tensor_kind_active_seconds_total",
        "Time in which the SMs executed tensor operations of a kind (dfma, hmma, imma) in the "
        "MIG device's GPU instance since the exporter started, without gaps between polls, "
        "the integral of GPM 6, 7 and 9.",
        MigRow,
        ("kind",),
        _LabelledByKey("tensor_kind_active_seconds"),
    ),
    _mig_counter(
        "gpu_mig_integer_active_seconds_total",
        "integer_active_seconds",
        "Time in which the SMs executed integer operations in the MIG device's GPU instance "
        "since the exporter started, without gaps between polls, the integral of GPM 4.",
    ),
    _mig_counter(
        "gpu_mig_fp64_active_seconds_total",
        "fp64_active_seconds",
        "Time in which the SMs executed FP64 operations, without tensor operations in the MIG "
        "device's GPU instance since the exporter started, without gaps between polls, the "
        "integral of GPM 11.",
    ),
    _mig_counter(
        "gpu_mig_fp32_active_seconds_total",
        "fp32_active_seconds",
        "Time in which the SMs executed FP32 operations, without tensor operations in the MIG "
        "device's GPU instance since the exporter started, without gaps between polls, the "
        "integral of GPM 12.",
    ),
    _mig_counter(
        "gpu_mig_fp16_active_seconds_total",
        "fp16_active_seconds",
        "Time in which the SMs executed FP16 operations, without tensor operations in the MIG "
        "device's GPU instance since the exporter started, without gaps between polls, the "
        "integral of GPM 13.",
    ),
    _mig_counter(
        "gpu_mig_dram_active_seconds_total",
        "dram_active_seconds",
        "Used share of the memory bandwidth, added up over time in the MIG device's GPU "
        "instance since the exporter started, without gaps between polls, the integral of GPM "
        "10.",
    ),
)
