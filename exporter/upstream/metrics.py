"""The metrics of the merge, and the two of Triton's own port that every Triton should show."""

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
)

UP = up(
    "upstream_up",
    "1 while the upstream's page of metrics comes within the deadline and is one, else 0.",
    ("upstream",),
)

METRICS: tuple[Metric[Any], ...] = (
    UP,
    gauge(
        "upstream_scrape_duration_seconds",
        "Time the upstream's page took to come (own clock).",
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
        "Samples on the upstream's page (state total) and those of them merged into this page "
        "(state merged; own count).",
        UpstreamRow,
        ("state",),
        lambda row: ((("total",), row.samples), (("merged",), row.merged)),
    ),
    counters(
        "upstream_errors_total",
        "Failed fetches (timeout, unreachable, forbidden, unsupported, bad_data), and what was "
        "left out of pages that came: lines that are no samples (malformed), series that stand "
        "twice (duplicate), families whose name or type is taken (conflict) (own count).",
        UpstreamErrors,
        ("reason",),
        lambda row: (((reason,), row.errors.get(reason, 0)) for reason in REASONS),
    ),
    gauge(
        "triton_pending_requests",
        "Requests that wait for the model to execute them (nv_inference_pending_request_count).",
        QueueRow,
        lambda row: row.pending,
    ),
    counters(
        "triton_request_failures_by_reason_total",
        "Requests that failed, by what the server calls the reason: REJECTED (timed out in the "
        "queue, or it was full), CANCELED, BACKEND, OTHER (nv_inference_request_failure).",
        QueueRow,
        ("reason",),
        lambda row: (((reason,), count) for reason, count in row.failures),
    ),
)
