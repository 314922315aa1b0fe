"""Every source's metrics as one table, in the order of the page, and what must hold of it."""

from __future__ import annotations

from typing import Any

from exporter.model import Metric, Type
from exporter.registry import SOURCES


def catalog() -> tuple[Metric[Any], ...]:
    """All declarations. Raises ValueError where two of them would clash on one page."""
    metrics = tuple(metric for source in SOURCES for metric in source.metrics)
    taken: dict[str, str] = {}
    for metric in metrics:
        for name in _names(metric):
            if name in taken:
                raise ValueError(f"{metric.name}: the name {name} is taken by {taken[name]}")
        taken.update(dict.fromkeys(_names(metric), metric.name))
    return metrics


def _names(metric: Metric[Any]) -> set[str]:
    """The family's name and the names of its samples."""
    names = {metric.family, metric.name}
    if metric.type in (Type.SUMMARY, Type.HISTOGRAM):
        names |= {f"{metric.name}_sum", f"{metric.name}_count"}
    if metric.type is Type.HISTOGRAM:
        names.add(f"{metric.name}_bucket")
    return names
