"""The metrics of the Triton source. Counters and sums are the server's own values."""

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


def _seconds(timed: CumulativeDuration) -> Summary:
    return Summary(timed.ns / 1e9, timed.count)


def _executions(stage: str) -> Callable[[ModelRow], Summary | None]:
    """Seconds of one stage in whole executions, whatever the sizes of their batches."""

    def get(row: ModelRow) -> Summary | None:
        stages: list[CumulativeDuration] = [getattr(batch, stage) for batch in row.counts.batches]
        return Summary(sum(each.ns for each in stages) / 1e9, sum(each.count for each in stages))

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
    return tuple(
        ((outcome,), getattr(responses, outcome))
        for outcome in ("success", "fail", "empty", "cancel")
    )


UP = up(
    "triton_up",
    "1 while the server answers with its statistics within the deadline, else 0.",
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
        "1 where the server calls itself ready (GET /v2/health/ready); "
        "0 also if any one model failed to load.",
        ReadyRow,
        lambda row: int(row.ready),
    ),
    gauge(
        "triton_model_ready",
        "1 where the model's state is READY in the repository index, 0 in any other state; "
        "absent for a model that was never asked for.",
        ModelStateRow,
        lambda row: int(row.state == "READY"),
    ),
    gauges(
        "triton_model_state",
        "1 for the state the model is in (state in the repository index): LOADING, READY, "
        "UNLOADING, UNAVAILABLE (not loaded, or failed to load) or UNKNOWN; the others are "
        "absent.",
        ModelStateRow,
        ("state",),
        lambda row: (((row.state,), 1),),
    ),
    info(
        "triton_model_info",
        "The model's configuration (platform, backend, max_batch_size, "
        "model_transaction_policy.decoupled); kind is ensemble, or what the parameter "
        "inference-exporter.kind says (bls), else model. An ensemble's and a BLS model's numbers "
        "contain those of the models they call: never add them up.",
        ConfigRow,
        ("platform", "backend", "max_batch_size", "kind", "decoupled"),
        lambda row: (
            row.config.platform,
            row.config.backend,
            str(row.config.max_batch_size),
            row.config.kind,
            str(row.config.decoupled).lower(),
        ),
    ),
    counter(
        "triton_resets_total",
        "Times the statistics of a model were seen to begin anew (it was loaded again, or the "
        "server started again) since the exporter began: a number went back, or the model went "
        "away and came back.",
        ResetsRow,
        lambda row: row.resets,
    ),
    counter(
        "triton_requests_total",
        "Requests that ended, well or badly (success.count + fail.count); "
        "those turned away before the model (bad shape, bad JSON) are counted nowhere.",
        ModelRow,
        lambda row: row.counts.success.count + row.counts.fail.count,
    ),
    counter(
        "triton_request_failures_total",
        "Requests that failed (fail.count); "
        "those turned away before the model (bad shape, bad JSON) are counted nowhere.",
        ModelRow,
        lambda row: row.counts.fail.count,
    ),
    counter(
        "triton_request_failures_duration_seconds_total",
        "Time of requests that failed, from start to release (fail.ns).",
        ModelRow,
        lambda row: row.counts.fail.ns / 1e9,
    ),
    counter(
        "triton_inferences_total",
        "Items inferred, a batch of 8 being 8; without cache hits (inference_count).",
        ModelRow,
        lambda row: row.counts.inference_count,
    ),
    counter(
        "triton_executions_total",
        "Executions of the model, each of one batch, failed ones included (execution_count).",
        ModelRow,
        lambda row: row.counts.execution_count,
    ),
    counter(
        "triton_cache_hits_total",
        "Requests answered from the response cache (cache_hit.count).",
        ModelRow,
        lambda row: row.counts.cache_hit.count if row.counts.cache_hit else None,
    ),
    counter(
        "triton_cache_misses_total",
        "Requests that the response cache could not answer (cache_miss.count).",
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
        "Time to make inputs ready; every request of a batch counts the whole batch's "
        "(compute_input.ns, compute_input.count).",
        ModelRow,
        lambda row: _seconds(row.counts.compute_input),
    ),
    summary(
        "triton_compute_infer_duration_seconds",
        "Time to run the model; every request of a batch counts the whole batch's "
        "(compute_infer.ns, compute_infer.count).",
        ModelRow,
        lambda row: _seconds(row.counts.compute_infer),
    ),
    summary(
        "triton_compute_output_duration_seconds",
        "Time to take outputs; every request of a batch counts the whole batch's "
        "(compute_output.ns, compute_output.count).",
        ModelRow,
        lambda row: _seconds(row.counts.compute_output),
    ),
    summary(
        "triton_cache_hit_duration_seconds",
        "Time to look up requests that the response cache answered (cache_hit.ns, "
        "cache_hit.count).",
        ModelRow,
        lambda row: _seconds(row.counts.cache_hit) if row.counts.cache_hit else None,
    ),
    summary(
        "triton_cache_miss_duration_seconds",
        "Time to look up requests that the response cache could not answer, and to put their "
        "responses in (cache_miss.ns, cache_miss.count).",
        ModelRow,
        lambda row: _seconds(row.counts.cache_miss) if row.counts.cache_miss else None,
    ),
    histogram(
        "triton_batch_size",
        "Executions by the size of their batch, failed ones included; the bounds are powers of "
        "two up to the model's max_batch_size (batch_stats).",
        ModelRow,
        lambda row: batch_histogram(row.counts.batches, row.bounds),
    ),
    summary(
        "triton_execution_compute_input_duration_seconds",
        "Time that executions took to make inputs ready, each batch once: busy time "
        "(batch_stats compute_input).",
        ModelRow,
        _executions("compute_input"),
    ),
    summary(
        "triton_execution_compute_infer_duration_seconds",
        "Time that executions ran the model, each batch once: busy time "
        "(batch_stats compute_infer).",
        ModelRow,
        _executions("compute_infer"),
    ),
    summary(
        "triton_execution_compute_output_duration_seconds",
        "Time that executions took to take outputs, each batch once: busy time "
        "(batch_stats compute_output).",
        ModelRow,
        _executions("compute_output"),
    ),
    counters(
        "triton_responses_total",
        "Responses of a decoupled model by outcome, over all their places in the stream "
        "(response_stats success, fail, empty_response, cancel).",
        ModelRow,
        ("outcome",),
        _responses,
    ),
    summary(
        "triton_response_compute_infer_duration_seconds",
        "Time to run a decoupled model, by response (response_stats compute_infer).",
        ModelRow,
        _response("compute_infer"),
    ),
    summary(
        "triton_response_compute_output_duration_seconds",
        "Time to take the outputs of a decoupled model, by response "
        "(response_stats compute_output).",
        ModelRow,
        _response("compute_output"),
    ),
    gauge(
        "triton_last_inference_timestamp_seconds",
        "When the model last ran; cache hits leave it (last_inference).",
        ModelRow,
        lambda row: row.counts.last_inference / 1e3 if row.counts.last_inference else None,
    ),
    gauges(
        "triton_model_memory_bytes",
        "Memory the model holds by device, as its backend reckoned at loading; absent where the "
        "backend does not (memory_usage).",
        ModelRow,
        ("kind", "device"),
        lambda row: (((m.kind, str(m.device)), m.bytes) for m in row.counts.memory),
    ),
    gauges(
        "triton_latency_seconds",
        "Mean time of a successful request by stage over the last window; the stages add up to "
        "the whole request (differences of success, queue, compute_* and cache_* ns).",
        ModelRow,
        ("stage",),
        lambda row: (((stage,), seconds) for stage, seconds in (row.derived.latency or {}).items()),
    ),
    gauge(
        "triton_success_ratio",
        "Successful part of the requests that ended in the last window, an upper bound: bad "
        "requests are counted nowhere by the server (differences of success.count, fail.count).",
        ModelRow,
        lambda row: row.derived.success_ratio,
    ),
    gauge(
        "triton_mean_batch_size",
        "Mean items in an execution over the last window (differences of batch_stats).",
        ModelRow,
        lambda row: row.derived.mean_batch_size,
    ),
)
