"""Units and descriptions from the metric declarations."""

from __future__ import annotations

import functools
from typing import Any

from exporter.catalog import catalog
from exporter.model import Metric, Type
from tools.dashboards.promql import parse_promql
from tools.dashboards.recorded import RECORDED

# Unit suffix of a metric name -> Grafana's unit.
GRAFANA_UNITS = {
    "bytes": "bytes",
    "seconds": "s",
    "ratio": "percentunit",
    "celsius": "celsius",
    "watts": "watt",
    "joules": "joule",
    "hertz": "hertz",
}

# Metrics that Prometheus itself adds for every target and alert.
PROMETHEUS_METRICS = {
    "up": "Whether the last scrape succeeded, from Prometheus.",
    "scrape_duration_seconds": "Seconds the scrape took, from Prometheus.",
    "scrape_samples_scraped": "Samples on the page, from Prometheus.",
    "ALERTS_FOR_STATE": "Time since which an alert's condition is true, from Prometheus' rules.",
    "inference:slo_minimum_requests:count": "A series of the project's rules, whatever fires.",
    "model:model_server_limit:ratio": "How full a limit of a model is, from the project's rules.",
    "model:model_server_headroom:ratio": "1 less the fullest limit, from the project's rules.",
    "server:model_server_cost_per_million_tokens:currency": "By the prices in the project's rules.",
    "gpu:model_server_idle_cost_per_hour:currency": "By the prices in the project's rules.",
    "ALERTS": "Pending and firing alerts, from Prometheus' rules.",
}


# Labels that alerts of the project's rules have from the series of their expressions.
_ALERT_LABELS = ("model", "version", "gpu", "uuid", "xid", "name", "source", "server", "mountpoint")


@functools.cache
def samples() -> dict[str, tuple[Metric[Any], Type]]:
    """Returns every sample name of the exposition: its metric and the type of its values."""
    result: dict[str, tuple[Metric[Any], Type]] = {}
    for metric in catalog():
        if metric.type not in (Type.SUMMARY, Type.HISTOGRAM):
            result[metric.name] = (metric, metric.type)
            continue
        result[f"{metric.name}_sum"] = result[f"{metric.name}_count"] = (metric, Type.COUNTER)
        if metric.type is Type.HISTOGRAM:
            result[f"{metric.name}_bucket"] = (metric, Type.COUNTER)
    return result


def label_names(sample: str) -> frozenset[str]:
    """Returns the labels of a stored sample. Raises KeyError for an undeclared sample."""
    if sample in PROMETHEUS_METRICS:
        own: tuple[str, ...] = ()
        if sample.startswith("ALERTS"):
            own = ("alertname", "alertstate", "severity", *_ALERT_LABELS)
        return frozenset(("job", "instance", *own))
    if sample in RECORDED:
        return frozenset(RECORDED[sample].labels)
    metric, _ = samples()[sample]
    le = ("le",) if sample.endswith("_bucket") and metric.type is Type.HISTOGRAM else ()
    return frozenset(("job", "instance", *metric.label_names_with_optional, *le))


def unit(expression: str) -> str:
    """Returns Grafana's unit of a plain metric or its rate; empty for other expressions."""
    used = parse_promql(expression)
    if len(used.selectors) != 1 or any(sign in expression for sign in "/*"):
        return ""
    selector = used.selectors[0]
    if selector.metric not in samples():
        return RECORDED[selector.metric].unit if selector.metric in RECORDED else ""
    metric, type_ = samples()[selector.metric]
    if selector.metric.endswith("_per_second"):
        return "Bps"
    if metric.type in (Type.SUMMARY, Type.HISTOGRAM) and not selector.metric.endswith("_sum"):
        return ""
    if "rate(" in expression and type_ is Type.COUNTER:
        return {"bytes": "Bps", "joules": "watt", "seconds": "percentunit"}.get(metric.unit, "")
    return GRAFANA_UNITS.get(metric.unit, "")


def panel_description(description: str, action: str, expressions: list[str]) -> str:
    """Returns Grafana's description of a panel: its content, its metrics with help, the action."""
    names = list(dict.fromkeys(name for expr in expressions for name in parse_promql(expr).metrics))
    lines: list[str] = []
    listed: set[str] = set()
    for name in names:
        if name in PROMETHEUS_METRICS:
            lines.append(f"- `{name}`: {PROMETHEUS_METRICS[name]}")
            continue
        if name in RECORDED:
            lines.append(f"- `{name}`: {RECORDED[name].help} Recorded by prometheus/rules.")
            continue
        metric, _ = samples()[name]
        if metric.name not in listed:
            lines.append(f"- `{metric.name}`: {metric.help}" if len(names) <= 4 else metric.name)
        listed.add(metric.name)
    if len(names) > 4:
        lines = ["From " + ", ".join(f"`{line}`" for line in lines if line[0] != "-") + "."]
        lines += [
            f"- `{name}`: {PROMETHEUS_METRICS[name]}"
            for name in names
            if name in PROMETHEUS_METRICS
        ]
    parts = [description, "\n".join(lines), f"**What to do:** {action}" if action else ""]
    return "\n\n".join(part for part in parts if part)
