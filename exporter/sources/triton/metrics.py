"""The metrics of the Triton source. Counters and sums are the server's own values."""

from __future__ import annotations

from typing import Any

from exporter.model import Metric, Summary, counter, gauge, gauges, info, summary, up
from exporter.sources.triton.reading import ModelRow, ModelStateRow, ReadyRow, ServerRow, Timed


def _seconds(timed: Timed) -> Summary:
    return Summary(timed.ns / 1e9, timed.count)


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
        lambda row: int(row.ready),
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
