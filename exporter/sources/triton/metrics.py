"""Metrics of the Triton source. Counters and sums are the server's own values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from exporter.model import (
    Metric,
    Summary,
    counter,
    counters,
    gauge,
    gauges,
    histogram,
    info,
    summary,
    up,
)
from exporter.sources.triton.batches import histogram as batch_histogram
from exporter.sources.triton.reading import (
    ConfigRow,
    CumulativeDuration,
    ModelRow,
    ModelStateRow,
    ReadyRow,
    ResetsRow,
    ServerRow,
)


def _seconds(duration: CumulativeDuration | None) -> Summary | None:
    if duration is None or duration.ns is None or duration.count is None:
        return None
    return Summary(duration.ns / 1e9, duration.count)


def _requests(row: ModelRow) -> int | None:
    success, fail = row.counts.success.count, row.counts.fail.count
    return None if success is None or fail is None else success + fail


def _executions(stage: str) -> Callable[[ModelRow], Summary | None]:
    """Returns a getter for the seconds of one stage of executions, over all batch sizes."""

    def get(row: ModelRow) -> Summary | None:
        if row.counts.batches is None:
            return None
        nanoseconds = count = 0
        for batch in row.counts.batches:
            duration: CumulativeDuration = getattr(batch, stage)
            if duration.ns is None or duration.count is None:
                return None
            nanoseconds += duration.ns
            count += duration.count
        return Summary(nanoseconds / 1e9, count)

    return get


def _response(stage: str) -> Callable[[ModelRow], Summary | None]:
    def get(row: ModelRow) -> Summary | None:
        responses = row.counts.responses
        return None if responses is None else _seconds(getattr(responses, stage))

    return get


def _responses(row: ModelRow) -> tuple[tuple[tuple[str], int], ...]:
    responses = row.counts.responses
    if responses is None:
        return ()
    outcomes = ((outcome, getattr(responses, outcome)) for outcome in _OUTCOMES)
    return tuple(((outcome,), count) for outcome, count in outcomes if count is not None)


_OUTCOMES = ("success", "fail", "empty", "cancel")

UP = up(
    "triton_up",
    "1 if the server returned its statistics or readiness within the deadline, else 0.",
    ("server",),
)

METRICS: tuple[Metric[Any], ...] = (
    UP,
    info(
        "triton_server_info",
        "The server's name and version (GET /v2).",
        ServerRow,
        ("name", "version"),
        lambda row: (row.name, row.version),
    ),
    gauge(
        "triton_server_ready",
        "1 if the server reports that it is ready (GET /v2/health/ready), else 0; "
        "a single model that failed to load makes it 0.",
        ReadyRow,
        lambda row: int(row.ready),
    ),
    gauge(
        "triton_model_ready",
        "1 if the model's state is READY in the repository index, 0 in any other state; "
        "absent for a model whose load was never requested.",
        ModelStateRow,
        lambda row: int(row.state == "READY"),
    ),
    gauges(
        "triton_model_state",
        "1 for the current state of the model (state in the repository index): LOADING, READY, "
        "UNLOADING, UNAVAILABLE (not loaded, or failed to load) or UNKNOWN; other states are "
        "absent.",
        ModelStateRow,
        ("state",),
        lambda row: (((row.state,), 1),),
    ),
    info(
        "triton_model_info",
        "The model's configuration (platform, backend, max_batch_size, "
        "model_transaction_policy.decoupled); kind is ensemble, or the value of the parameter "
        "inference-exporter.kind (bls), else model. The statistics of an ensemble or BLS model "
        "include those of the models it calls: never add them up.",
        ConfigRow,
        ("platform", "backend", "max_batch_size", "kind", "decoupled"),
        lambda row: (
            row.config.platform,
            row.config.backend,
            "" if row.config.max_batch_size is None else str(row.config.max_batch_size),
            row.config.kind,
            "" if row.config.decoupled is None else str(row.config.decoupled).lower(),
        ),
    ),
    counter(
        "triton_resets_total",
        "Resets of a model's statistics (model or server restarted) noticed since the exporter "
        "started: a value decreased, or the model disappeared and returned.",
        ResetsRow,
        lambda row: row.resets,
    ),
    counter(
        "triton_requests_total",
        "Completed requests, successful or failed (success.count + fail.count); "
        "Triton does not count requests rejected before the model (bad shape, bad JSON).",
        ModelRow,
        _requests,
    ),
    counter(
        "triton_request_failures_total",
        "Failed requests (fail.count); "
        "Triton does not count requests rejected before the model (bad shape, bad JSON).",
        ModelRow,
        lambda row: row.counts.fail.count,
    ),
    counter(
        "triton_request_failures_duration_seconds_total",
        "Time of failed requests, from start to release (fail.ns).",
        ModelRow,
        lambda row: None if row.counts.fail.ns is None else row.counts.fail.ns / 1e9,
    ),
    counter(
        "triton_inferences_total",
        "Inferred items, 8 for a batch of 8; excludes cache hits (inference_count).",
        ModelRow,
        lambda row: row.counts.inference_count,
    ),
    counter(
        "triton_executions_total",
        "Batches executed by the model, including failed ones (execution_count).",
        ModelRow,
        lambda row: row.counts.execution_count,
    ),
    counter(
        "triton_cache_hits_total",
        "Requests served from the response cache (cache_hit.count).",
        ModelRow,
        lambda row: row.counts.cache_hit.count if row.counts.cache_hit else None,
    ),
    counter(
        "triton_cache_misses_total",
        "Requests not found in the response cache (cache_miss.count).",
        ModelRow,
        lambda row: row.counts.cache_miss.count if row.counts.cache_miss else None,
    ),
    summary(
        "triton_request_duration_seconds",
        "Time of successful requests, from start to release (success.ns, success.count).",
        ModelRow,
        lambda row: _seconds(row.counts.success),
    ),
    summary(
        "triton_queue_duration_seconds",
        "Time of successful requests in the scheduler's queue (queue.ns, queue.count).",
        ModelRow,
        lambda row: _seconds(row.counts.queue),
    ),
    summary(
        "triton_compute_input_duration_seconds",
        "Time to prepare inputs; every request of a batch counts the whole batch's time "
        "(compute_input.ns, compute_input.count).",
        ModelRow,
        lambda row: _seconds(row.counts.compute_input),
    ),
    summary(
        "triton_compute_infer_duration_seconds",
        "Time to run the model; every request of a batch counts the whole batch's time "
        "(compute_infer.ns, compute_infer.count).",
        ModelRow,
        lambda row: _seconds(row.counts.compute_infer),
    ),
    summary(
        "triton_compute_output_duration_seconds",
        "Time to extract outputs; every request of a batch counts the whole batch's time "
        "(compute_output.ns, compute_output.count).",
        ModelRow,
        lambda row: _seconds(row.counts.compute_output),
    ),
    summary(
        "triton_cache_hit_duration_seconds",
        "Time to look up requests served from the response cache (cache_hit.ns, cache_hit.count).",
        ModelRow,
        lambda row: _seconds(row.counts.cache_hit),
    ),
    summary(
        "triton_cache_miss_duration_seconds",
        "Time to look up requests not found in the response cache, and to insert their "
        "responses (cache_miss.ns, cache_miss.count).",
        ModelRow,
        lambda row: _seconds(row.counts.cache_miss),
    ),
    histogram(
        "triton_batch_size",
        "Executions by batch size, including failed ones; the bounds are powers of two up to the "
        "model's max_batch_size (batch_stats).",
        ModelRow,
        lambda row: batch_histogram(row.counts.batches, row.bounds),
    ),
    summary(
        "triton_execution_compute_input_duration_seconds",
        "Time of executions to prepare inputs, once per batch: busy time "
        "(batch_stats compute_input).",
        ModelRow,
        _executions("compute_input"),
    ),
    summary(
        "triton_execution_compute_infer_duration_seconds",
        "Time of executions to run the model, once per batch: busy time "
        "(batch_stats compute_infer).",
        ModelRow,
        _executions("compute_infer"),
    ),
    summary(
        "triton_execution_compute_output_duration_seconds",
        "Time of executions to extract outputs, once per batch: busy time "
        "(batch_stats compute_output).",
        ModelRow,
        _executions("compute_output"),
    ),
    counters(
        "triton_responses_total",
        "Responses of a decoupled model by outcome, over all positions in the stream "
        "(response_stats success, fail, empty_response, cancel).",
        ModelRow,
        ("outcome",),
        _responses,
    ),
    summary(
        "triton_response_compute_infer_duration_seconds",
        "Time to run a decoupled model, per response (response_stats compute_infer).",
        ModelRow,
        _response("compute_infer"),
    ),
    summary(
        "triton_response_compute_output_duration_seconds",
        "Time to extract the outputs of a decoupled model, per response "
        "(response_stats compute_output).",
        ModelRow,
        _response("compute_output"),
    ),
    gauge(
        "triton_last_inference_timestamp_seconds",
        "Time of the model's last inference; cache hits do not update it (last_inference).",
        ModelRow,
        lambda row: row.counts.last_inference / 1e3 if row.counts.last_inference else None,
    ),
    gauges(
        "triton_model_memory_bytes",
        "Memory of the model by device, as its backend computed at load; absent if the backend "
        "does not report it (memory_usage).",
        ModelRow,
        ("kind", "device"),
        lambda row: (
            ((memory.kind, str(memory.device)), memory.bytes) for memory in row.counts.memory
        ),
    ),
    gauges(
        "triton_latency_seconds",
        "Mean time of a successful request by stage over the sample window; the stages add up to "
        "the whole request (differences of success, queue, compute_* and cache_* ns).",
        ModelRow,
        ("stage",),
        lambda row: (
            ((stage,), seconds) for stage, seconds in (row.window_statistics.latency or {}).items()
        ),
    ),
    gauge(
        "triton_success_ratio",
        "Share of successful requests in the sample window, an upper bound: the server does not "
        "count rejected requests, and counts error responses of Python models as successes "
        "(differences of success.count, fail.count).",
        ModelRow,
        lambda row: row.window_statistics.success_ratio,
    ),
    gauge(
        "triton_mean_batch_size",
        "Mean items per execution over the sample window (differences of batch_stats).",
        ModelRow,
        lambda row: row.window_statistics.mean_batch_size,
    ),
)

# Not exported: what only dialects export.
DIALECT_METRICS: tuple[Metric[Any], ...] = (
    counters(
        "triton_request_failures_by_known_reason_total",
        "Failed requests, by the reason on the server's own page if that is merged.",
        ModelRow,
        ("reason",),
        lambda row: [((reason,), count) for reason, count in row.failures],
    ),
)
