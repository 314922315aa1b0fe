"""Helpers that poll a Triton source in tests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from exporter.context import Context
from exporter.model import Histogram, Metric, Reading, Summary, Target
from exporter.settings import Duration, Paths
from exporter.sources.triton.metrics import METRICS
from exporter.sources.triton.settings import Settings
from exporter.sources.triton.source import TritonSource, build
from exporter.sources.triton.target import ServerTarget

Samples = dict[str, dict[tuple[str, ...], Any]]
AMPLE = Duration(30)
"""Timeout of polls and discoveries that a busy machine does not reach."""


@contextlib.asynccontextmanager
async def source(context: Context | None = None, **settings: Any) -> AsyncIterator[TritonSource]:
    """Yields a source with these settings, by default with the timeout AMPLE, and closes it."""
    settings.setdefault("timeout", AMPLE)
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


@contextlib.contextmanager
def timeout_of(target: Target, seconds: float) -> Iterator[None]:
    """Sets the timeout of a target's reads in the block, of a read that hangs."""
    assert isinstance(target, ServerTarget)
    ample, target._timeout = target._timeout, seconds
    try:
        yield
    finally:
        target._timeout = ample
