"""Units and descriptions from the declarations of the metrics."""

from __future__ import annotations

import functools
from typing import Any

from exporter.catalog import catalog
from exporter.model import Metric, Type
from tools.dashboards.promql import parse_promql

# Grafana's names of the units that metrics end in.
GRAFANA_UNITS = {
    "bytes": "bytes",
    "seconds": "s",
    "ratio": "percentunit",
    "celsius": "celsius",
    "watts": "watt",
    "joules": "joule",
    "hertz": "hertz",
}

# What Prometheus makes of every target and alert.
PROMETHEUS_METRICS = {
    "up": "Whether the last scrape succeeded, by Prometheus itself.",
    "scrape_duration_seconds": "How long the scrape took, by Prometheus itself.",
    "scrape_samples_scraped": "Samples on the page, by Prometheus itself.",
    "ALERTS": "Alerts that are pending or firing, by Prometheus' own rules.",
}


@functools.cache
def samples() -> dict[str, tuple[Metric[Any], Type]]:
    """Every sample name that a page may carry: its declaration and what its values are."""
    found: dict[str, tuple[Metric[Any], Type]] = {}
    for metric in catalog():
        if metric.type not in (Type.SUMMARY, Type.HISTOGRAM):
            found[metric.name] = (metric, metric.type)
            continue
        found[f"{metric.name}_sum"] = found[f"{metric.name}_count"] = (metric, Type.COUNTER)
        if metric.type is Type.HISTOGRAM:
            found[f"{metric.name}_bucket"] = (metric, Type.COUNTER)
    return found


def label_names(sample: str) -> frozenset[str]:
    """The labels of a sample as Prometheus stores it. Raises KeyError where it is not declared."""
    if sample in PROMETHEUS_METRICS:
        own: tuple[str, ...] = ()
        if sample == "ALERTS":
            own = ("alertname", "alertstate", "severity")
        return frozenset(("job", "instance", *own))
    metric, _ = samples()[sample]
    le = ("le",) if sample.endswith("_bucket") and metric.type is Type.HISTOGRAM else ()
    return frozenset(("job", "instance", *metric.label_names, *le))


def unit(expression: str) -> str:
    """The unit of an expression that is a metric as it stands, or its rate; else nothing."""
    used = parse_promql(expression)
    if len(used.selectors) != 1 or any(sign in expression for sign in "/*"):
        return ""
    selector = used.selectors[0]
    if selector.metric not in samples():
        return ""
    metric, type_ = samples()[selector.metric]
    if selector.metric.endswith("_per_second"):
        return "Bps"
    if metric.type in (Type.SUMMARY, Type.HISTOGRAM) and not selector.metric.endswith("_sum"):
        return ""
    if "rate(" in expression and type_ is Type.COUNTER:
        return {"bytes": "Bps", "joules": "watt", "seconds": "percentunit"}.get(metric.unit, "")
    return GRAFANA_UNITS.get(metric.unit, "")


def description(shows: str, do: str, expressions: list[str]) -> str:
    """What a panel shows, which metrics say so (with their help), what to do."""
    names = list(dict.fromkeys(name for each in expressions for name in parse_promql(each).metrics))
    lines: list[str] = []
    told: set[str] = set()
    for name in names:
        if name in PROMETHEUS_METRICS:
            lines.append(f"- `{name}`: {PROMETHEUS_METRICS[name]}")
            continue
        metric, _ = samples()[name]
        if metric.name not in told:
            lines.append(f"- `{metric.name}`: {metric.help}" if len(names) <= 4 else metric.name)
        told.add(metric.name)
    if len(names) > 4:
        lines = ["From " + ", ".join(f"`{line}`" for line in lines if line[0] != "-") + "."]
        lines += [
            f"- `{name}`: {PROMETHEUS_METRICS[name]}"
            for name in names
            if name in PROMETHEUS_METRICS
        ]
    parts = [shows, "\n".join(lines), f"**What to do:** {do}" if do else ""]
    return "\n\n".join(part for part in parts if part)
