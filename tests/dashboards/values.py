"""Values of the synthetic history that tests check, by metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from tests.dashboards.hosts import (
    CHAT_SERVER,
    END,
    FAILING_SHARE,
    FAILING_SINCE,
    RELOADED_AT,
    START,
    THROTTLED_RANGE,
    UNREADY_RANGE,
    XID_AT,
    Host,
    Model,
    ValueAt,
    constant,
    counter_value,
    wave,
    wave_integral,
)

GIB = float(1 << 30)
NO_SERIES: Literal[False] = False
"""The host does not have the series."""

SeriesValue = ValueAt | Literal[False] | None
ValueFunction = Callable[[Mapping[str, str], Any, Host], SeriesValue]

GPU_MEMORY = 80 * GIB
POWER = 400.0
"""Mean watts of a GPU over a period."""
POWER_LIMITS = {"enforced": 700.0, "set": 700.0, "default": 700.0, "min": 200.0, "max": 700.0}
TEMPERATURE_LIMITS = {"slowdown": 87.0, "shutdown": 92.0, "gpu_max": 85.0}
QUOTA_CORES = {"triton": 4.0, "api": 0.5}
CPU_CORES = {"triton": 2.0, "api": 0.4, "cache": 0.1}
THROTTLED_SHARE = 0.3
MEMORY_LIMITS = {"triton": 16 * GIB, "api": GIB}
WORKING_SETS = {"triton": 6 * GIB, "api": 0.95 * GIB, "cache": 0.3 * GIB}
GPU_MEMORY_USED = {"triton": 30 * GIB, "api": 2 * GIB, "": GIB}
GPU_SHARES = {"triton": 0.6, "api": 0.1, "": 0.05}
ENERGY_SHARES = {"triton": 0.6, "api": 0.1, "": 0.3}
"""The empty name includes idle energy: the shares add up to 1."""


OF_TRITON = {
    f"model_server_{name}"
    for name in (
        "requests_total",
        "requests_waiting",
        "stage_duration_seconds_total",
        "latency_seconds",
        "success_ratio",
    )
}
"""The metrics of a model that are derived from a Triton."""
HISTOGRAM_UNITS = {
    "model_server_time_to_first_token_seconds": 0.1,
    "model_server_time_per_output_token_seconds": 0.01,
    "model_server_inter_token_latency_seconds": 0.01,
    "model_server_request_duration_seconds": 1.0,
    "model_server_queue_duration_seconds": 0.02,
    "model_server_prefill_duration_seconds": 0.05,
    "model_server_decode_duration_seconds": 0.9,
    "model_server_request_prompt_tokens": 45.0,
    "model_server_request_generated_tokens": 20.0,
}
"""Medians of histograms, as parts of 2."""
STAGES = {"time_to_first_token": 0.2, "queue": 0.04, "request": 2.0}
TRITON_STAGES = {"queue": 0.01, "request": 0.03}


def metric_value(name: str, labels: Mapping[str, str], entity: Any, host: Host) -> SeriesValue:
    """Returns the value at a time; NO_SERIES if absent; None if not defined in this module."""
    if _is_absent(name, entity, host):
        return NO_SERIES
    function = VALUE_FUNCTIONS.get(name)
    return function(labels, entity, host) if function else None


def _is_absent(name: str, entity: Any, host: Host) -> bool:
    """Whether a MIG GPU, a stopped container or a model without requests lacks the metric."""
    if isinstance(entity, Model) and name.startswith("model_server_"):
        return entity.server != CHAT_SERVER and name not in OF_TRITON
    if isinstance(entity, Model):
        return not entity.requests and name in ("triton_success_ratio", "triton_latency_seconds")
    if isinstance(entity, int):
        return host.mig and entity == 1 and name.startswith("gpu_") and "utilization" in name
    if entity == "migrate" and name.startswith("container_"):
        always = ("state", "info", "restarts_total")
        ended = ("oom_killed", "oom_events_total", "exit_code", "finish_time_seconds")
        return not name.endswith((*always, *ended))
    return name in ("container_exit_code", "container_finish_time_seconds")


def _constant(number: float) -> ValueFunction:
    return lambda _, __, ___: constant(number)


def _function(function: ValueAt) -> ValueFunction:
    return lambda _, __, ___: function


def _by_limit(table: Mapping[str, float]) -> ValueFunction:
    return lambda labels, _, __: constant(table[labels["limit"]])


def _by_container(table: Mapping[str, float]) -> ValueFunction:
    return lambda _, entity, __: constant(table[entity]) if entity in table else NO_SERIES


def _counter(rate: float) -> ValueFunction:
    return lambda _, __, host: counter_value(rate, None, host)


def _model_counter(rate: Callable[[Model], float]) -> ValueFunction:
    return lambda _, model, host: counter_value(rate(model), model, host)


def _quota_counter(rate: float) -> ValueFunction:
    return lambda _, entity, host: (
        counter_value(rate, None, host) if entity in QUOTA_CORES else NO_SERIES
    )


def _ready(_: Mapping[str, str], model: Model, host: Host) -> SeriesValue:
    out = host.number == 1 and model.labels[1:] == ("digits", "1")
    return lambda t: float(not (out and UNREADY_RANGE[0] <= t < UNREADY_RANGE[1]))


def _failures(_: Mapping[str, str], model: Model, host: Host) -> SeriesValue:
    if model.name.startswith("speech"):
        rate = model.requests * FAILING_SHARE
        return lambda t: rate * wave_integral(t, FAILING_SINCE) if t > FAILING_SINCE else 0.0
    return counter_value(model.requests * model.failed, model, host)


def _clock_event(labels: Mapping[str, str], gpu: int, host: Host) -> SeriesValue:
    hot = labels["reason"] != "gpu_idle" and host.number == 1 and gpu == 0
    return lambda t: float(hot and THROTTLED_RANGE[0] <= t < THROTTLED_RANGE[1])


def _xid(number: float) -> ValueFunction:
    def made(labels: Mapping[str, str], gpu: int, host: Host) -> SeriesValue:
        if (host.number, gpu, labels["xid"]) != (1, 1, "31"):
            # Watched XIDs have the value 0 from the start.
            return constant(0) if number == 1 and labels["xid"] == "79" else NO_SERIES
        return lambda t: number if t >= XID_AT else math.nan

    return made


def _state(labels: Mapping[str, str], entity: str, _: Host) -> SeriesValue:
    state = "exited" if entity == "migrate" else "running"
    return constant(1) if labels["state"] == state else NO_SERIES


def _last_success(_: Mapping[str, str], source: str, host: Host) -> SeriesValue:
    fails = source in host.failing
    return lambda t: START if fails else min(t, END) - 3


def _cpu(labels: Mapping[str, str], _: Any, host: Host) -> SeriesValue:
    share = {"user": 0.3, "system": 0.1, "iowait": 0.02, "steal": 0.0}.get(labels["mode"], 0.55)
    return counter_value(32 * share, None, host)


def _successful_requests(model: Model) -> float:
    return model.requests * (1 - model.failed)


def stage_shares(model: Model) -> dict[str, float]:
    """Returns the ratio of a request's time in each stage."""
    rest = 1 - model.queue
    return {
        "queue": model.queue,
        "compute_input": 0.1 * rest,
        "compute_infer": 0.8 * rest,
        "compute_output": 0.1 * rest,
    }


def _outcome_share(outcome: str, model: Model) -> float:
    if model.server != CHAT_SERVER:
        return {"ok": 1 - model.failed, "error": model.failed}.get(outcome, 0.0)
    return {"ok": 0.95, "error": 0.03, "rejected": 0.01}.get(outcome, 0.01)


def _stage_latency(labels: Mapping[str, str], model: Model) -> SeriesValue:
    stages = STAGES if model.server == CHAT_SERVER else TRITON_STAGES
    seconds = stages.get(labels["stage"])
    return NO_SERIES if seconds is None else lambda t: seconds * (1 + 0.2 * wave(t))


def _rising_once(count_before: float = 0.0) -> ValueFunction:
    """Returns a container counter that rises once, for one container."""
    return lambda _, entity, __: lambda t: (entity == "api") * (count_before + (t > RELOADED_AT))


VALUE_FUNCTIONS: dict[str, ValueFunction] = {
    # -- models --
    "triton_up": lambda _, __, host: constant(float("triton" not in host.failing)),
    "triton_resets_total": lambda _, __, host: (
        lambda t: float(host.number == 1 and t >= RELOADED_AT)
    ),
    "triton_requests_total": _model_counter(lambda model: model.requests),
    "triton_request_failures_total": _failures,
    "triton_inferences_total": _model_counter(_successful_requests),
    "triton_executions_total": _model_counter(lambda model: model.requests / model.batch),
    "triton_cache_hits_total": _model_counter(lambda model: 0.1 * _successful_requests(model)),
    "triton_cache_misses_total": _model_counter(lambda model: 0.9 * _successful_requests(model)),
    "triton_model_ready": _ready,
    "triton_success_ratio": lambda _, model, __: constant(1 - model.failed),
    "triton_latency_seconds": lambda labels, model, __: constant(
        model.mean * stage_shares(model).get(labels["stage"], 0.0)
    ),
    "triton_model_instances": _constant(1),
    "triton_pending_requests": _function(lambda t: 2 + wave(t)),
    "triton_request_failures_by_reason_total": lambda labels, model, host: counter_value(
        (labels["reason"] == "BACKEND") * model.requests * model.failed, model, host
    ),
    # -- model servers --
    "model_server_requests_total": lambda labels, model, host: counter_value(
        model.requests * _outcome_share(labels["outcome"], model), model, host
    ),
    "model_server_latency_seconds": lambda labels, model, __: _stage_latency(labels, model),
    "model_server_ready": _constant(1),
    "model_server_preemptions_total": _counter(0.02),
    "model_server_generated_tokens_total": _counter(400.0),
    "model_server_prompt_tokens_total": _counter(900.0),
    "model_server_requests_running": _function(lambda t: 6 + 2 * wave(t)),
    "model_server_requests_waiting": _function(lambda t: 3 + 3 * wave(t)),
    "model_server_success_ratio": lambda _, model, __: constant(1 - model.failed),
    "model_server_stalled": _constant(0),
    "model_server_gpu_memory_used_bytes": _constant(30 * GIB),
    "model_server_gpu_utilization_ratio": _constant(0.6),
    "model_server_gpu_processes": _constant(1),
    "model_server_energy_joules_total": _counter(0.6 * POWER),
    # -- GPUs --
    "gpu_up": lambda _, __, host: constant(float("gpu" not in host.failing)),
    "gpu_power_limit_watts": _by_limit(POWER_LIMITS),
    "gpu_temperature_limit_celsius": _by_limit(TEMPERATURE_LIMITS),
    "gpu_busy_seconds_total": _counter(0.6),
    "gpu_sm_active_seconds_total": _counter(0.5),
    "gpu_tensor_active_seconds_total": _counter(0.4),
    "gpu_dram_active_seconds_total": _counter(0.3),
    "gpu_sm_occupancy_seconds_total": _counter(0.2),
    "gpu_power_peak_watts": _function(lambda t: POWER * (1.2 + 0.3 * wave(t))),
    "gpu_power_watts": _function(lambda t: POWER * (1 + 0.3 * wave(t))),
    "gpu_energy_joules_total": _counter(POWER),
    "gpu_temperature_celsius": _function(lambda t: 65 + 10 * wave(t, -0.5)),
    # The GPU's own margin; it differs from the limit (87) minus the temperature.
    "gpu_temperature_margin_celsius": _function(lambda t: 21 - 10 * wave(t, -0.5)),
    "gpu_memory_total_bytes": _constant(GPU_MEMORY),
    "gpu_memory_used_bytes": _function(lambda t: 33 * GIB + (t > RELOADED_AT) * 2 * GIB),
    "gpu_memory_free_bytes": _function(lambda t: 46 * GIB - (t > RELOADED_AT) * 2 * GIB),
    "gpu_memory_reserved_bytes": _constant(GIB),
    "gpu_mig_memory_total_bytes": _constant(40 * GIB),
    "gpu_mig_memory_used_bytes": _constant(10 * GIB),
    "gpu_mig_multiprocessors": _constant(60),
    "gpu_recovery_action": _constant(0),
    "gpu_row_remap_failure": _constant(0),
    "gpu_remapped_rows_pending": _constant(0),
    "gpu_processes": _constant(3),
    "gpu_pcie_link_generation": _constant(5),
    "gpu_pcie_link_width": _constant(16),
    "gpu_clock_event_active": _clock_event,
    "gpu_health": lambda labels, gpu, host: constant(
        float(labels["verdict"] == ("degraded" if (host.number, gpu) == (1, 0) else "ok"))
    ),
    "gpu_health_reason": lambda labels, gpu, host: (
        constant(1)
        if (host.number, gpu, labels["reason"]) == (1, 0, "hw_thermal_slowdown")
        else NO_SERIES
    ),
    "gpu_xid_errors_total": _xid(1),
    "gpu_xid_last_timestamp_seconds": _xid(XID_AT),
    "gpu_ecc_errors_total": lambda labels, _, host: counter_value(
        0.001 * (labels["error"] == "corrected"), None, host
    ),
    "gpu_row_remapper_banks": lambda labels, _, __: constant(
        640.0 * (labels["availability"] == "max")
    ),
    # -- containers --
    "container_state": _state,
    "container_exit_code": _constant(0),
    "container_start_time_seconds": _constant(START - 86_400.0),
    "container_oom_killed": _constant(0),
    "container_oom_events_total": _rising_once(),
    "container_restarts_total": _rising_once(1.0),
    "container_cpu_usage_seconds_total": lambda _, entity, host: counter_value(
        CPU_CORES.get(entity, 0.05), None, host
    ),
    "container_memory_working_set_bytes": lambda _, entity, __: constant(
        WORKING_SETS.get(entity, 0.2 * GIB)
    ),
    "container_memory_rss": lambda _, entity, __: constant(WORKING_SETS.get(entity, 0.2 * GIB) / 2),
    "container_memory_cache": lambda _, entity, __: constant(
        WORKING_SETS.get(entity, 0.2 * GIB) / 2
    ),
    "container_spec_memory_limit_bytes": _by_container(MEMORY_LIMITS),
    "container_spec_cpu_period": _by_container(dict.fromkeys(QUOTA_CORES, 1e5)),
    "container_spec_cpu_quota": _by_container({k: 1e5 * v for k, v in QUOTA_CORES.items()}),
    "container_cpu_cfs_periods_total": _quota_counter(10),
    "container_cpu_cfs_throttled_periods_total": _quota_counter(10 * THROTTLED_SHARE),
    "container_cpu_cfs_throttled_seconds_total": _quota_counter(0.5),
    # -- GPUs of containers: (container, GPU) --
    "container_gpu_assigned": lambda _, entity, __: (
        constant(1) if entity[0] == "triton" else NO_SERIES
    ),
    "container_gpu_memory_used_bytes": lambda _, entity, __: constant(GPU_MEMORY_USED[entity[0]]),
    "container_gpu_utilization_ratio": lambda _, entity, __: constant(
        GPU_SHARES[entity[0]] / (entity[1] + 1)
    ),
    "container_gpu_processes": _constant(1),
    "container_gpu_energy_joules_total": lambda _, entity, host: counter_value(
        POWER * ENERGY_SHARES[entity[0]], None, host
    ),
    # -- the host and the exporter --
    "host_cpus": _constant(32),
    "host_cpu_seconds_total": _cpu,
    "host_load1": _function(lambda t: 12 + 4 * wave(t)),
    "host_load5": _constant(12),
    "host_load15": _constant(12),
    "host_memory_total_bytes": _constant(256 * GIB),
    "host_memory_available_bytes": _constant(96 * GIB),
    "host_swap_total_bytes": _constant(8 * GIB),
    "host_swap_used_bytes": _constant(GIB / 4),
    "host_filesystem_size_bytes": _constant(1000 * GIB),
    "host_filesystem_free_bytes": _constant(300 * GIB),
    "host_filesystem_available_bytes": _constant(250 * GIB),
    "host_filesystem_inodes": _constant(1e8),
    "host_filesystem_inodes_free": _constant(9e7),
    "host_filesystem_read_only": _constant(0),
    "host_filesystem_error": _constant(0),
    "host_file_descriptors": _constant(5000),
    "host_file_descriptors_max": _constant(1e6),
    "host_boot_time_seconds": _constant(START - 1e6),
    "process_resident_memory_bytes": _constant(80e6),
    "process_cpu_seconds_total": _counter(0.01),
    "process_start_time_seconds": _function(
        lambda t: START - 5000.0 if t < RELOADED_AT else RELOADED_AT
    ),
    "inference_exporter_series": _constant(2000),
    "inference_exporter_source_series": _constant(300),
    "inference_exporter_source_series_limit": _constant(20_000),
    "inference_exporter_source_shed_series": lambda _, source, host: constant(
        12.0 * (source == "containers" and host.number == 4)
    ),
    "inference_exporter_source_up": lambda _, source, host: constant(
        float(source not in host.failing)
    ),
    "inference_exporter_source_last_success_timestamp_seconds": _last_success,
}
