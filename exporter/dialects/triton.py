"""The dialect of Triton's metrics port: nv_inference_* in microseconds, and nv_gpu_*.

The labels are Triton's, and `server`, as a host may run several. Counts equal Triton's. Its port
truncates each request's times to whole microseconds; the statistics API, from which these come,
does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from exporter.exposition.dialect_rules import FamilyRule, LabelMap
from exporter.model import LabelPairs, Summary, Type

GAUGE, COUNTER = Type.GAUGE, Type.COUNTER


def _count(value: Summary) -> float:
    return value.count


def _microseconds(value: Summary) -> int:
    return round(value.sum * 1e6)


def _unchanged(value: Any) -> Any:
    return value


def _model_labels(labels: LabelMap, _: LabelMap) -> LabelPairs:
    return [(name, labels[name]) for name in ("model", "version", "server")]


def _gpu_labels(labels: LabelMap, _: LabelMap) -> LabelPairs:
    return [("gpu_uuid", labels["uuid"])]


def _set_limit_labels(labels: LabelMap, info: LabelMap) -> LabelPairs | None:
    return _gpu_labels(labels, info) if labels["limit"] == "set" else None


# Foreign name, type, Triton's help, native metric, conversion.
_MODEL_FAMILIES: tuple[tuple[str, Type, str, str, Callable[[Any], Any]], ...] = (
    ("nv_inference_request_success", COUNTER,
     "Number of successful inference requests, all batch sizes",
     "triton_request_duration_seconds", _count),
    ("nv_inference_request_failure", COUNTER,
     "Number of failed inference requests, all batch sizes",
     "triton_request_failures_total", _unchanged),
    ("nv_inference_count", COUNTER,
     "Number of inferences performed (does not include cached requests)",
     "triton_inferences_total", _unchanged),
    ("nv_inference_exec_count", COUNTER,
     "Number of model executions performed (does not include cached requests)",
     "triton_executions_total", _unchanged),
    ("nv_inference_request_duration_us", COUNTER,
     "Cumulative inference request duration in microseconds (includes cached requests)",
     "triton_request_duration_seconds", _microseconds),
    ("nv_inference_queue_duration_us", COUNTER,
     "Cumulative inference queuing duration in microseconds (includes cached requests)",
     "triton_queue_duration_seconds", _microseconds),
    ("nv_inference_compute_input_duration_us", COUNTER,
     "Cumulative compute input duration in microseconds (does not include cached requests)",
     "triton_compute_input_duration_seconds", _microseconds),
    ("nv_inference_compute_infer_duration_us", COUNTER,
     "Cumulative compute inference duration in microseconds (does not include cached requests)",
     "triton_compute_infer_duration_seconds", _microseconds),
    ("nv_inference_compute_output_duration_us", COUNTER,
     "Cumulative compute output duration in microseconds (does not include cached requests)",
     "triton_compute_output_duration_seconds", _microseconds),
    ("nv_inference_pending_request_count", GAUGE,
     "Instantaneous number of pending requests awaiting execution per-model.",
     "triton_pending_requests", _unchanged),
    ("nv_cache_num_hits_per_model", COUNTER, "Number of cache hits per model",
     "triton_cache_hits_total", _unchanged),
    ("nv_cache_num_misses_per_model", COUNTER, "Number of cache misses per model",
     "triton_cache_misses_total", _unchanged),
    ("nv_cache_hit_duration_per_model", COUNTER,
     "Total cache hit duration per model, in microseconds",
     "triton_cache_hit_duration_seconds", _microseconds),
    ("nv_cache_miss_duration_per_model", COUNTER,
     "Total cache miss duration per model, in microseconds",
     "triton_cache_miss_duration_seconds", _microseconds),
)  # fmt: skip

# Foreign name, type, Triton's help, native metric.
_GPU_FAMILIES: tuple[tuple[str, Type, str, str], ...] = (
    ("nv_gpu_utilization", GAUGE, "GPU utilization rate [0.0 - 1.0)", "gpu_utilization_ratio"),
    ("nv_gpu_memory_total_bytes", GAUGE, "GPU total memory, in bytes", "gpu_memory_total_bytes"),
    ("nv_gpu_memory_used_bytes", GAUGE, "GPU used memory, in bytes", "gpu_memory_used_bytes"),
    ("nv_gpu_power_usage", GAUGE, "GPU power usage in watts", "gpu_power_watts"),
    ("nv_energy_consumption", COUNTER,
     "GPU energy consumption in joules since the Triton Server started",
     "gpu_energy_joules_total"),
    ("nv_gpu_power_limit", GAUGE, "GPU power management limit in watts", "gpu_power_limit_watts"),
)  # fmt: skip


def _families() -> Iterator[FamilyRule]:
    for name, type_, help_, native, convert in _MODEL_FAMILIES:
        yield FamilyRule(name, type_, help_, native, _model_labels, convert)
    for name, type_, help_, native in _GPU_FAMILIES:
        map_labels = _set_limit_labels if name == "nv_gpu_power_limit" else _gpu_labels
        yield FamilyRule(name, type_, help_, native, map_labels, _unchanged)
    yield FamilyRule(
        "nv_cpu_memory_total_bytes",
        GAUGE,
        "CPU total memory (RAM), in bytes",
        "host_memory_total_bytes",
        lambda *_: (),
        _unchanged,
    )


FAMILIES = tuple(_families())
