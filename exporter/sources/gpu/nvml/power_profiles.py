"""The workload power profiles that are requested of a GPU, and those in force."""

from __future__ import annotations

from typing import Any

from exporter.sources.gpu.nvml.library import pynvml_symbol
from exporter.sources.gpu.nvml.query import NvmlQuery
from exporter.sources.gpu.reading import GpuValues

# nvmlPowerProfileType_t, by number.
_NAMES = (
    "max_p",
    "max_q",
    "compute",
    "memory_bound",
    "network",
    "balanced",
    "llm_inference",
    "llm_training",
    "rbm",
    "dcpcie",
    "hmma_sparse",
    "hmma_dense",
    "sync_balanced",
    "hpc",
    "mig",
    "max_q_1",
    "network_bound",
    "high_throughput_inference",
    "medium_throughput_inference",
    "low_latency_inference",
    "training",
    "inference",
    "max_q_2",
    "max_q_3",
    "low_priority_background",
)
_WORD = 32


def read_power_profiles(query: NvmlQuery, handle: Any, values: GpuValues) -> None:
    """Reads 1 for each profile in force, 0 for one that is only requested."""
    struct = pynvml_symbol("c_nvmlWorkloadPowerProfileCurrentProfiles_v1_t")
    if struct is None:
        return
    current = struct()
    if not query.fill("nvmlDeviceWorkloadPowerProfileGetCurrentProfiles", handle, current):
        return
    enforced = _numbers(current.enforcedProfilesMask)
    shown = sorted(enforced | _numbers(current.requestedProfilesMask))
    if shown:
        values.labelled["power_profile"] = {
            (_NAMES[number] if number < len(_NAMES) else str(number),): int(number in enforced)
            for number in shown
        }


def _numbers(mask: Any) -> set[int]:
    return {
        number
        for number in range(len(mask.mask) * _WORD)
        if mask.mask[number // _WORD] >> number % _WORD & 1
    }
