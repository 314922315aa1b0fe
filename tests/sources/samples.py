"""What a reading's rows mean to Prometheus, found by the declarations alone."""

from __future__ import annotations

import math
from typing import Any

from exporter.model import Metric, Reading, Type

Samples = dict[tuple[str, ...], float]


def samples(metrics: tuple[Metric[Any], ...], reading: Reading) -> dict[str, Samples]:
    """By metric name and label values (in the order of `label_names`), the value.

    Checks on the way what must hold of every reading: no series twice, numbers finite.
    """
    found: dict[str, Samples] = {}
    for metric in metrics:
        for row in reading.rows:
            if not isinstance(row, metric.row):
                continue
            if metric.type is Type.INFO:
                pairs = [(metric.get(row), 1)]
            elif metric.labels:
                pairs = list(metric.get(row))
            else:
                pairs = [((), metric.get(row))]
            for own, value in pairs:
                if value is None:
                    continue
                labels = (*row.labels, *own)
                series = found.setdefault(metric.name, {})
                assert labels not in series, f"{metric.name}{labels} twice"
                assert math.isfinite(value)
                assert all(label.encode() or metric.type is Type.INFO for label in labels)
                series[labels] = value
    return found
