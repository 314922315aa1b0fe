"""The dialect of Triton's metrics port: nv_inference_* in microseconds, and nv_gpu_*.

The labels are Triton's, and `upstream`, the server's name, as on the series merged from the
server's own page: a quotient of the two has an answer. Counts equal Triton's. Its port truncates
each request's times to whole microseconds; the statistics API, from which these come, does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from exporter.exposition.dialect_rules import FamilyRule, LabelMap, MappedSamples
from exporter.model import LabelPairs, Summary, Type

GAUGE, COUNTER = Type.GAUGE, Type.COUNTER


def _count(value: Summary) -> float:
    return value.count


def _microseconds(value: Summary) -> int:
    return round(value.sum * 1e6)


def _unchanged(value: Any) -> Any:
    return value


def _model_labels(labels: LabelMap, _: LabelMap) -> LabelPairs:
    return [
        ("model", labels["model"]),
        ("version", labels["version"]),
        ("upstream", labels["server"]),
    ]


def _failure_labels(labels: LabelMap, _: LabelMap) -> LabelPairs:
    """Returns the labels with `reason`, if it is known, where Triton has it."""
    model, *rest = _model_labels(labels, {})
    reason = [("reason", labels["reason"])] if labels["reason"] else []
    return [model, *reason, *rest]


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
     "triton_request_failures_by_known_reason_total", _unchanged),
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
        failures = name == "nv_inference_request_failure"
        map_labels = _failure_labels if failures else _model_labels
        yield FamilyRule(name, type_, help_, native, map_labels, convert)
    for name, type_, help_, native in _GPU_FAMILIES:
        gpu_labels = _set_limit_labels if name == "nv_gpu_power_limit" else _gpu_labels
        yield FamilyRule(name, type_, help_, native, gpu_labels, _unchanged)
    total = FamilyRule(
        "nv_cpu_memory_total_bytes",
        GAUGE,
        "CPU total memory (RAM), in bytes",
        "host_memory_total_bytes",
        lambda *_: (),
        _unchanged,
    )
    yield total
    yield replace(
        total,
        name="nv_cpu_memory_used_bytes",
        help="CPU used memory (RAM), in bytes",
        gather=lambda: _used,
        added_metrics=("host_memory_available_bytes",),
    )
    yield replace(
        total,
        name="nv_cpu_utilization",
        help="CPU utilization rate [0.0 - 1.0]",
        source_metric="host_cpu_seconds_total",
        map_labels=lambda labels, _: labels.items(),
        gather=lambda: CpuUtilization().gather,
    )


def _used(total: MappedSamples, available: MappedSamples) -> Iterator[tuple[LabelPairs, float]]:
    for (_, whole), (_, free) in zip(total, available, strict=False):
        yield (), whole - free


class CpuUtilization:
    """The share of the CPUs' time that was not idle, between two readings, as Triton has it."""

    def __init__(self) -> None:
        self._previous: dict[str, float] = {}

    def gather(self, samples: MappedSamples) -> Iterator[tuple[LabelPairs, float]]:
        """Yields the share since the last reading; nothing at the first."""
        seconds = {labels["mode"]: value for labels, value in samples}
        before, self._previous = self._previous, seconds
        spent = {mode: max(0.0, value - before.get(mode, value)) for mode, value in seconds.items()}
        if total := sum(spent.values()):
            yield (), 1 - (spent.get("idle", 0.0) + spent.get("iowait", 0.0)) / total


FAMILIES = tuple(_families())
