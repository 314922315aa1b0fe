"""Converts a reading to samples by the metric declarations, without the renderer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from exporter.model import Metric, Reading, Row, Type

Samples = dict[tuple[str, ...], float]


def declared_values(
    metrics: tuple[Metric[Any], ...], reading: Reading
) -> Iterator[tuple[Metric[Any], tuple[str, ...], Any]]:
    """Yields (metric, label values in the order of `label_names`, value or None) of each row.

    A row's optional labels follow those of its type.
    """
    rows: dict[type[Row], list[Row]] = {}
    for metric in metrics:
        if metric.row not in rows:
            rows[metric.row] = [row for row in reading.rows if isinstance(row, metric.row)]
        for row in rows[metric.row]:
            if metric.type is Type.INFO:
                pairs = [(metric.get(row), 1)]
            elif metric.labels:
                pairs = list(metric.get(row))
            else:
                pairs = [((), metric.get(row))]
            for labels, value in pairs:
                yield metric, (*row.labels, *labels), value


def samples(metrics: tuple[Metric[Any], ...], reading: Reading) -> dict[str, Samples]:
    """Returns values by metric name and label values (in the order of `label_names`).

    Fails for a duplicate series and for a value that is not finite.
    """
    by_metric: dict[str, Samples] = {}
    for metric, labels, value in declared_values(metrics, reading):
        if value is None:
            continue
        series = by_metric.setdefault(metric.name, {})
        assert labels not in series, f"duplicate series {metric.name}{labels}"
        assert math.isfinite(value)
        assert all(label.encode() or metric.type is Type.INFO for label in labels)
        series[labels] = value
    return by_metric
