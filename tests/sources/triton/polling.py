"""Helpers that poll a Triton source in tests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from exporter.context import Context
from exporter.model import Histogram, Metric, Reading, Summary
from exporter.settings import Paths
from exporter.sources.triton.metrics import METRICS
from exporter.sources.triton.settings import Settings
from exporter.sources.triton.source import TritonSource, build

Samples = dict[str, dict[tuple[str, ...], Any]]


@contextlib.asynccontextmanager
async def source(context: Context | None = None, **settings: Any) -> AsyncIterator[TritonSource]:
    """Yields a source with these settings and closes it."""
    triton = build(Settings(**settings), context or Context(Paths(), tuple, lambda: 0))
    try:
        yield triton
    finally:
        await triton.close()


def samples(reading: Reading, more: tuple[Metric[Any], ...] = ()) -> Samples:
    """Returns values by metric and label values, in the order of label_names."""
    by_metric: Samples = {}
    for metric in (*METRICS, *more):
        for row in reading.rows:
            if not isinstance(row, metric.row):
                continue
            value = metric.get(row)
            if metric.type == "info":
                pairs = [(tuple(value), 1)]
            elif metric.labels:
                pairs = list(value)
            else:
                pairs = [] if value is None else [((), value)]
            for own, sample in pairs:
                labels = (*row.labels, *own)
                series = by_metric.setdefault(metric.name, {})
                assert labels not in series, f"{metric.name}{labels} twice"
                assert (sample.sum if isinstance(sample, (Summary, Histogram)) else sample) >= 0
                series[labels] = sample
    return by_metric
