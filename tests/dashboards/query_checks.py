"""What must hold of whatever a panel, a variable or an annotation gives."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from typing import Any

from tests.paths import ROOT
from tools.dashboards.index import DASHBOARDS
from tools.dashboards.prometheus_query import ALL_VALUES, DashboardQuerier, TargetResult, table_rows
from tools.dashboards.promql import parse_promql

GRAFANA_FOLDER = ROOT / "grafana"
Json = dict[str, Any]
_PANELS = [panel for dashboard in DASHBOARDS for row in dashboard.rows for panel in row.panels]
# Queries that may give nothing although their metrics are there.
MAY_BE_EMPTY = {query.expr for panel in _PANELS for query in panel.queries if query.empty} | {
    column.expr for panel in _PANELS for column in panel.columns if column.empty
}

# What values of a unit can be; whole hosts and fleets included.
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
RATIO_RANGE = (0.0, 1.0 + 1e-9)
# Shares that may be more than the whole, or less than nothing.
RATIO_BOUNDS = {
    "CPU of quota": (0, 2),
    "Error budget left": (-1e4, 1),
    "Power of limit": (0, 1.5),
}


def load_dashboard(name: str) -> Json:
    """A dashboard of the repository."""
    dashboard: Json = json.loads((GRAFANA_FOLDER / f"{name}.json").read_text())
    return dashboard


DASHBOARD_NAMES = tuple(sorted(path.stem for path in GRAFANA_FOLDER.glob("*.json")))


def value_bounds(panel: Json, column: str = "") -> tuple[float, float]:
    """Between which values the panel's, or its column's, must lie."""
    unit = panel["fieldConfig"]["defaults"]["unit"]
    title = panel["title"]
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"]["options"] == column:
            title = column
            unit = next((p["value"] for p in override["properties"] if p["id"] == "unit"), unit)
    if unit == "percentunit":
        return RATIO_BOUNDS.get(title, RATIO_RANGE)
    return BOUNDS.get(unit, (-math.inf, math.inf))


def check_results(panel: Json, answers: list[TargetResult]) -> list[str]:
    """What is wrong with a panel's answers, empty ones aside."""
    wrong = [
        *_values_out_of_bounds(panel, answers),
        *_duplicate_legends(panel, answers),
        *_missing_legend_labels(panel, answers),
    ]
    if panel["type"] == "table":
        wrong += _duplicate_rows(panel, answers)
    return [f"{panel['title']}: {what}" for what in wrong]


def _values_out_of_bounds(panel: Json, answers: list[TargetResult]) -> list[str]:
    wrong = []
    if panel.get("transformations"):
        numbers = [
            (column, value)
            for line in table_rows(panel, answers)
            for column, value in line.items()
            if isinstance(value, float)
        ]
    else:
        numbers = [("", v) for a in answers for series in a.series for _, v in series.points]
    for column, value in numbers:
        low, high = value_bounds(panel, column)
        if not low <= value <= high or not math.isfinite(value):
            wrong.append(f"{column} {value} is not within {low} to {high}")
    return wrong[:3]


def _duplicate_legends(panel: Json, answers: list[TargetResult]) -> list[str]:
    if panel.get("transformations"):
        return []
    names = Counter(series.name for answer in answers for series in answer.series)
    if panel["type"] == "stat":
        return [f"{len(names)} values in one stat"] if names.total() > 1 else []
    return [f"{name!r} names {count} series" for name, count in names.items() if count > 1]


def _missing_legend_labels(panel: Json, answers: list[TargetResult]) -> list[str]:
    """Labels that a legend asks for and a series has not."""
    wrong = []
    for target, answer in zip(panel["targets"], answers, strict=True):
        if target["legendFormat"] == "__auto":
            continue
        wanted = {part.split("}}")[0] for part in target["legendFormat"].split("{{")[1:]}
        for series in answer.series:
            # Processes outside of any container have an empty name.
            lacking = {label for label in wanted - {"name"} if not series.labels.get(label)}
            if lacking:
                wrong.append(f"no {lacking} for the legend of {answer.expr}")
    return wrong[:3]


def _duplicate_rows(panel: Json, answers: list[TargetResult]) -> list[str]:
    """Lines of a table that say the same thing of the same thing."""
    lines = table_rows(panel, answers)
    keys = Counter(
        tuple(sorted((k, v) for k, v in line.items() if isinstance(v, str))) for line in lines
    )
    return [f"{key} stands {count} times" for key, count in keys.items() if count > 1]


def empty_expressions(panel: Json, answers: list[TargetResult]) -> list[str]:
    """The expressions of a panel that gave nothing."""
    return [f"{panel['title']}: {answer.expr}" for answer in answers if not answer.series]


def has_all_metrics(asker: DashboardQuerier, expr: str) -> bool:
    """Whether each selector of an expression has series on its own, now."""
    window = asker.window
    for selector in parse_promql(expr).selectors:
        ago = f"[{window.range}s]"
        if not asker.api.instant(f"count(last_over_time({selector.text}{ago}))", window.end):
            return False
    return True


def query_repeated(asker: DashboardQuerier, panel: Json) -> list[list[TargetResult]]:
    """The panel's answers; of a panel that is repeated, those of each repetition."""
    if "repeat" not in panel:
        return [asker.panel(panel)]
    name = panel["repeat"]
    chosen = asker.chosen.get(name, ALL_VALUES)
    values = asker.options(name) if chosen == ALL_VALUES else chosen
    each = (replace(asker, chosen={**asker.chosen, name: (value,)}) for value in values)
    return [one.panel(panel) for one in each]


def unexplained_empty(
    asker: DashboardQuerier, panel: Json, several: list[list[TargetResult]]
) -> list[str]:
    """Expressions of a panel that gave nothing although each of their metrics is there.

    several: the answers of each of its repetitions, of which one must show something.
    """
    if not several or any(not empty_expressions(panel, answers) for answers in several):
        return []
    return [
        f"empty: {panel['title']}: {answer.expr}"
        for target, answer in zip(panel["targets"], several[0], strict=True)
        if not answer.series
        and target["expr"] not in MAY_BE_EMPTY
        and has_all_metrics(asker, answer.expr)
    ]
