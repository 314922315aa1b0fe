"""Metrics of the upstream source, and two from Triton's own metrics page."""

from __future__ import annotations

from typing import Any

from exporter.model import Metric, counters, gauge, gauges, up
from exporter.upstream.reading import QueueRow, UpstreamErrors, UpstreamRow

REASONS = (
    "timeout",
    "unreachable",
    "forbidden",
    "unsupported",
    "bad_data",
    "malformed",
    "duplicate",
    "conflict",
    "too_many",
)

UP = up(
    "upstream_up",
    "1 if the upstream returned a valid metrics page within the timeout, else 0.",
    ("upstream",),
)

METRICS: tuple[Metric[Any], ...] = (
    UP,
    gauge(
        "upstream_scrape_duration_seconds",
        "Duration of the request for the upstream's page (own clock).",
        UpstreamRow,
        lambda row: row.duration,
    ),
    gauge(
        "upstream_page_bytes",
        "Length of the upstream's page (own count).",
        UpstreamRow,
        lambda row: row.bytes,
    ),
    gauges(
        "upstream_samples",
        "Samples on the upstream's page (state total), and of those the ones merged into this page "
        "(state merged; own count).",
        UpstreamRow,
        ("state",),
        lambda row: ((("total",), row.samples), (("merged",), row.merged)),
    ),
    counters(
        "upstream_errors_total",
        "Failed scrapes (timeout, unreachable, forbidden, unsupported, bad_data), and omissions: "
        "invalid lines (malformed), repeated series (duplicate), families whose name or type is "
        "taken (conflict) or that exceed the memory of all upstreams (too_many) (own count).",
        UpstreamErrors,
        ("reason",),
        lambda row: (((reason,), row.errors.get(reason, 0)) for reason in REASONS),
    ),
    gauge(
        "triton_pending_requests",
        "Requests waiting for execution by the model (nv_inference_pending_request_count).",
        QueueRow,
        lambda row: row.pending,
    ),
    counters(
        "triton_request_failures_by_reason_total",
        "Failed requests by the server's reason: REJECTED (timeout in the queue, or queue full), "
        "CANCELED, BACKEND, OTHER (nv_inference_request_failure).",
        QueueRow,
        ("reason",),
        lambda row: (((reason,), count) for reason, count in row.failures),
    ),
)
