"""Metrics of the source of traces."""

from __future__ import annotations

from typing import Any

from exporter.model import Metric, counter, counters, gauge, histogram
from exporter.traces.reading import LatencyRow, ListenerRow, TracedModelRow, TracedServerRow

METRICS: tuple[Metric[Any], ...] = (
    histogram(
        "triton_request_latency_seconds",
        "Latency of requests by stage, from the sampled traces, each weighted by the model's trace "
        "rate: request (REQUEST_START to REQUEST_END), queue (QUEUE_START to COMPUTE_START), "
        "compute_input, compute_infer, compute_output (COMPUTE_* events), and first_response of "
        "decoupled models (REQUEST_START to the first INFER_RESPONSE_COMPLETE); includes failed "
        "requests, as spans carry no status.",
        LatencyRow,
        lambda row: row.histogram,
    ),
    counter(
        "triton_traces_total",
        "Traced requests of the model, those of an ensemble's or BLS model's steps included, each "
        "counted once (model spans with REQUEST_START and REQUEST_END).",
        TracedModelRow,
        lambda row: row.traces,
    ),
    counter(
        "triton_traces_forced_total",
        "Of these, requests that Triton traced because the client sent a traceparent, whatever the "
        "trace rate; they weigh 1 (roots with a parentSpanId).",
        TracedModelRow,
        lambda row: row.forced,
    ),
    gauge(
        "triton_trace_rate",
        "One of so many requests of the model is traced (trace_rate of GET "
        "/v2/models/MODEL/trace/setting).",
        TracedModelRow,
        lambda row: row.rate,
    ),
    gauge(
        "triton_trace_coverage_ratio",
        "Weights of the model's traces over its requests (success.count + fail.count) in the "
        "window: about 1 if no trace is lost; scattered where few requests are traced.",
        TracedModelRow,
        lambda row: row.coverage,
    ),
    counter(
        "triton_traces_lost_total",
        "Traces of the server that did not arrive: gaps in triton.trace_id of its model spans, as "
        "of 10 s ago.",
        TracedServerRow,
        lambda row: row.lost,
    ),
    counter(
        "triton_trace_posts_total",
        "POSTs whose spans were read (own count).",
        ListenerRow,
        lambda row: row.posts,
    ),
    counters(
        "triton_trace_posts_shed_total",
        "POSTs whose spans were dropped, by reason: rate and memory (the exporter's limits, "
        "answered 200), body_size, content_type, credentials, incomplete (own count).",
        ListenerRow,
        ("reason",),
        lambda row: (((reason,), count) for reason, count in row.shed),
    ),
    counter(
        "triton_trace_spans_total",
        "Spans received (own count).",
        ListenerRow,
        lambda row: row.spans,
    ),
    counters(
        "triton_trace_spans_left_out_total",
        "Spans left out, by reason: duration (of less than 0 or more than a day), foreign (not "
        "Triton's), invalid, models (more than max_models), rate (more than max_spans), time (of "
        "the future, or old), unmatched (of no known server or model, or without its root or "
        "parent) (own count).",
        ListenerRow,
        ("reason",),
        lambda row: (((reason,), count) for reason, count in row.left_out),
    ),
)
