"""The metrics of all sources, in the order of the page, checked for name conflicts."""

from __future__ import annotations

from typing import Any

from exporter.model import Metric, Type
from exporter.registry import SOURCES


def catalog() -> tuple[Metric[Any], ...]:
    """Returns all declarations. Raises ValueError if two of them share a sample or family name."""
    metrics = tuple(metric for source in SOURCES for metric in source.metrics)
    used: dict[str, str] = {}
    for metric in metrics:
        for name in _names(metric):
            if name in used:
                raise ValueError(f"{metric.name}: the name {name} is already used by {used[name]}")
        used.update(dict.fromkeys(_names(metric), metric.name))
    return metrics


def _names(metric: Metric[Any]) -> set[str]:
    """Returns the family name and its sample names."""
    names = {metric.family, metric.name}
    if metric.type in (Type.SUMMARY, Type.HISTOGRAM):
        names |= {f"{metric.name}_sum", f"{metric.name}_count"}
    if metric.type is Type.HISTOGRAM:
        names.add(f"{metric.name}_bucket")
    return names
