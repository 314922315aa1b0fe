"""Checks of the results of dashboard queries."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from typing import Any

from tests.paths import ROOT
from tools.dashboards.grafana import NO_RATE
from tools.dashboards.index import DASHBOARDS
from tools.dashboards.prometheus_query import ALL_VALUES, DashboardQuerier, TargetResult, table_rows
from tools.dashboards.promql import parse_promql

GRAFANA_FOLDER = ROOT / "grafana"
Json = dict[str, Any]
_PANELS = [panel for dashboard in DASHBOARDS for row in dashboard.rows for panel in row.panels]
# Queries with a valid empty result although their metrics exist, besides `is_text`.
MAY_BE_EMPTY = {
    query.expr for panel in _PANELS for query in panel.queries if query.empty_reason
} | {column.expr for panel in _PANELS for column in panel.columns if column.empty_reason}

# Valid values by unit, up to totals of a whole fleet.
BOUNDS = {
    "bytes": (0, 1e14),
    "Bps": (0, 1e13),
    "celsius": (-50, 150),
    "cps": (0, 1e7),
    "dateTimeAsIso": (1e12, 4e12),
    "dateTimeFromNow": (1e12, 4e12),
    "hertz": (0, 1e11),
    "joule": (0, 1e13),
    "pps": (0, 1e9),
    "reqps": (0, 1e7),
    "s": (0, 1e7),
    "watt": (0, 1e7),
}
EMPTY = {"name", "engine"}
"""Labels of legends that may be empty."""
RATIO_RANGE = (0.0, 1.0 + 1e-9)
# Ratios with other bounds than 0 to 1, by title.
RATIO_BOUNDS = {
    "CPU/quota": (0, 2),
    # The traces and the statistics are of slightly different times.
    "Coverage of traces": (0, 2),
    "Error budget left": (-1e4, 1),
    "Pwr/limit": (0, 1.5),
}


def load_dashboard(name: str) -> Json:
    """Returns the JSON of a dashboard in grafana/."""
    dashboard: Json = json.loads((GRAFANA_FOLDER / f"{name}.json").read_text())
    return dashboard


DASHBOARD_NAMES = tuple(sorted(path.stem for path in GRAFANA_FOLDER.glob("*.json")))


def value_bounds(panel: Json, column: str = "") -> tuple[float, float]:
    """Returns (lowest, highest) valid value of the panel, or of its column."""
    unit = panel["fieldConfig"]["defaults"]["unit"]
    title = panel["title"]
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"]["options"] == column:
            title = column
            unit = next((p["value"] for p in override["properties"] if p["id"] == "unit"), unit)
    if unit == "percentunit":
        return RATIO_BOUNDS.get(title, RATIO_RANGE)
    return BOUNDS.get(unit, (-math.inf, math.inf))


def check_results(panel: Json, results: list[TargetResult]) -> list[str]:
    """Returns the problems of a panel's results; an empty result is not a problem here."""
    problems = [
        *_values_out_of_bounds(panel, results),
        *_duplicate_legends(panel, results),
        *_missing_legend_labels(panel, results),
    ]
    if panel["type"] == "table":
        problems += _duplicate_rows(panel, results)
    return [f"{panel['title']}: {problem}" for problem in problems]


def is_text(target: Json) -> bool:
    """Whether a query only has a value where the panel's other query has none."""
    return bool(target["legendFormat"] == NO_RATE or target["expr"].startswith("vector("))


def text_row(panel: Json, results: list[TargetResult]) -> str:
    """Returns the text of a table without rows, which is a row with that text; else empty."""
    if panel["type"] != "table":
        return ""
    first = results[0].series
    if len(first) == 1 and math.isnan(first[0].last):
        return "".join(first[0].labels.values())
    return ""


def _values_out_of_bounds(panel: Json, results: list[TargetResult]) -> list[str]:
    problems = []
    if panel.get("transformations"):
        values = [
            (column, value)
            for row in table_rows(panel, results)
            for column, value in row.items()
            if isinstance(value, float)
        ]
    else:
        values = [
            ("", v)
            for target, r in zip(panel["targets"], results, strict=True)
            if not is_text(target)
            for series in r.series
            for _, v in series.points
        ]
    for column, value in values:
        if math.isnan(value) and (text_row(panel, results) or panel["type"] == "stat"):
            continue
        low, high = value_bounds(panel, column)
        if not low <= value <= high or not math.isfinite(value):
            problems.append(f"{column} {value} is not within {low} to {high}")
    return problems[:3]


def _duplicate_legends(panel: Json, results: list[TargetResult]) -> list[str]:
    if panel.get("transformations"):
        return []
    names = Counter(series.name for result in results for series in result.series)
    if panel["type"] == "stat" and panel["options"]["colorMode"] != "background":
        return [f"{len(names)} values in one stat"] if names.total() > 1 else []
    return [f"{name!r} names {count} series" for name, count in names.items() if count > 1]


def _missing_legend_labels(panel: Json, results: list[TargetResult]) -> list[str]:
    """Returns labels of the legend format that a series does not have."""
    problems = []
    for target, result in zip(panel["targets"], results, strict=True):
        if target["legendFormat"] == "__auto":
            continue
        labels = {part.split("}}")[0] for part in target["legendFormat"].split("{{")[1:]}
        for series in result.series:
            # Of processes outside any container, and of energy without a server's engine.
            missing = {label for label in labels - EMPTY if not series.labels.get(label)}
            if missing:
                problems.append(f"no {missing} for the legend of {result.expr}")
    return problems[:3]


def _duplicate_rows(panel: Json, results: list[TargetResult]) -> list[str]:
    """Returns table rows with the same labels."""
    keys = Counter(
        tuple(sorted((k, v) for k, v in row.items() if isinstance(v, str)))
        for row in table_rows(panel, results)
    )
    return [f"{key} occurs {count} times" for key, count in keys.items() if count > 1]


def empty_expressions(panel: Json, results: list[TargetResult]) -> list[str]:
    """Returns the panel's expressions with an empty result."""
    return [
        f"{panel['title']}: {result.expr}"
        for target, result in zip(panel["targets"], results, strict=True)
        if not is_text(target) and (not result.series or text_row(panel, results))
    ]


def has_all_metrics(querier: DashboardQuerier, expr: str) -> bool:
    """Whether each selector of an expression has series of its own in the time range."""
    time_range = querier.time_range
    for selector in parse_promql(expr).selectors:
        query = f"count(last_over_time({selector.text}[{time_range.seconds}s]))"
        if not querier.api.instant(query, time_range.end):
            return False
    return True


def query_repeated(querier: DashboardQuerier, panel: Json) -> list[list[TargetResult]]:
    """Returns the panel's results; for a repeated panel, those of each repetition."""
    if "repeat" not in panel:
        return [querier.query_panel(panel)]
    name = panel["repeat"]
    selected = querier.selected.get(name, ALL_VALUES)
    values = querier.options(name) if selected == ALL_VALUES else selected
    return [
        replace(querier, selected={**querier.selected, name: (value,)}).query_panel(panel)
        for value in values
    ]


def unexplained_empty(
    querier: DashboardQuerier, panel: Json, repetitions: list[list[TargetResult]]
) -> list[str]:
    """Returns expressions with an empty result although each of their metrics exists.

    repetitions: the results of each repetition of the panel; data in any of them is enough.
    """
    if not repetitions or any(not empty_expressions(panel, results) for results in repetitions):
        return []
    return [
        f"empty: {panel['title']}: {result.expr}"
        for target, result in zip(panel["targets"], repetitions[0], strict=True)
        if not result.series
        and not is_text(target)
        and target["expr"] not in MAY_BE_EMPTY
        and has_all_metrics(querier, result.expr)
    ]
