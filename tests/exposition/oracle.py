"""Converts readings to prometheus_client families: the oracle for the rendering.

prometheus_client's `generate_latest` of these families must equal the Renderer's output.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import prometheus_client.core as client

from exporter.exposition.formatting import format_number
from exporter.model import Histogram, Metric, Row, Summary, Type


def client_families(metrics: Iterable[Metric[Any]], rows: Iterable[Row]) -> Iterator[client.Metric]:
    """Yields the prometheus_client family of each metric that has a value in the rows."""
    rows = tuple(rows)
    for metric in metrics:
        family = client.Metric(metric.family, metric.help, metric.type.value, metric.unit)
        for row in rows:
            if type(row) is metric.row:
                _add(family, metric, row)
        if family.samples:
            yield family


def _add(family: client.Metric, metric: Metric[Any], row: Row) -> None:
    value_or_pairs = metric.get(row)
    if metric.type is Type.INFO:
        pairs = [] if value_or_pairs is None else [(value_or_pairs, 1)]
    elif metric.labels:
        pairs = list(value_or_pairs)
    else:
        pairs = [] if value_or_pairs is None else [((), value_or_pairs)]
    for own_labels, value in pairs:
        names = metric.row_labels
        if len(row.labels) > len(names):
            names += metric.optional_labels
        labels = {
            name: value
            for name, value in zip(names, row.labels, strict=True)
            if value or name not in metric.optional_labels
        } | dict(zip(metric.labels, own_labels, strict=True))
        if (extra := metric.extra) is not None:
            labels = {**dict(extra(row)), **labels}
        if isinstance(value, Histogram):
            bounds = (*value.bounds, float("inf"))
            exemplars = value.exemplars or (None,) * len(bounds)
            counts = (*value.buckets, value.count)
            for bound, count, exemplar in zip(bounds, counts, exemplars, strict=True):
                family.add_sample(
                    f"{metric.name}_bucket",
                    {**labels, "le": format_number(bound)},
                    count,
                    exemplar=exemplar
                    and client.Exemplar(
                        {"trace_id": exemplar.trace_id}, exemplar.value, exemplar.timestamp
                    ),
                )
        if isinstance(value, (Summary, Histogram)):
            family.add_sample(f"{metric.name}_count", labels, value.count)
            family.add_sample(f"{metric.name}_sum", labels, value.sum)
        else:
            family.add_sample(metric.name, labels, value)
