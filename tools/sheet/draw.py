"""Draws panels as HTML and SVG."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from html import escape
from typing import Any

from tools.dashboards.prometheus_query import (
    BadQueryError,
    DashboardQuerier,
    ResultSeries,
    TargetResult,
    TimeRange,
    iter_panels,
    table_rows,
)
from tools.sheet.units import format_value

Json = dict[str, Any]
COLUMN, UNIT_HEIGHT, GAP = 66, 38, 6
PALETTE = (
    *("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9"),
    *("#8ab8ff", "#fa6400", "#37872d", "#e0b400", "#1f60c4"),
)
NAMED_COLOURS = {
    "green": "#73bf69",
    "orange": "#ff9830",
    "red": "#f2495c",
    "blue": "#5794f2",
    "text": "#d8d9da",
}
STYLE = """
body{background:#111217;color:#d8d9da;font:12px sans-serif;margin:8px;position:relative}
.p{position:absolute;background:#181b1f;border:1px solid #2c2f36;overflow:hidden}
.p{box-sizing:border-box}
.p h3{font-size:12px;margin:4px 8px;font-weight:500;white-space:nowrap}
.row{position:absolute;font-size:15px;font-weight:600}
.big{font-size:30px;text-align:center;margin-top:14px}
.blank{text-align:center;color:#8e8e8e;margin-top:28px;font-size:14px}
table{border-collapse:collapse;width:100%;font-size:11px}
td,th{text-align:left;padding:2px 6px;border-bottom:1px solid #24272c;white-space:nowrap}
th{color:#6e9fff}
.legend{padding:0 8px;font-size:10px;line-height:13px;max-height:39px;overflow:hidden}
.bad{color:#f2495c}
"""


def draw_dashboard(querier: DashboardQuerier) -> str:
    """Returns the whole dashboard as an HTML page."""
    dashboard = querier.dashboard
    parts = [f"<meta charset=utf-8><title>{escape(dashboard['title'])}</title>"]
    parts.append(f"<style>{STYLE}</style><h2>{escape(dashboard['title'])}</h2>")
    selected = {
        v["name"]: querier.selected.get(v["name"], "All") for v in dashboard["templating"]["list"]
    }
    parts.append(f"<div>{escape(str(selected))}</div>")
    bottom = 0
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            y = panel["gridPos"]["y"] * UNIT_HEIGHT + 90
            mark = "▸" if panel["collapsed"] else "▾"
            parts.append(f"<div class=row style='top:{y}px'>{mark} {escape(panel['title'])}</div>")
    for panel in iter_panels(dashboard):
        position = panel["gridPos"]
        x, y = position["x"] * COLUMN, position["y"] * UNIT_HEIGHT + 90
        width, height = position["w"] * COLUMN - GAP, position["h"] * UNIT_HEIGHT - GAP
        bottom = max(bottom, y + height)
        style = f"left:{x}px;top:{y}px;width:{width}px;height:{height}px"
        title = escape(querier.interpolate(panel["title"]))
        parts.append(
            f"<div class=p style='{style}' title='{escape(panel['description'], quote=True)}'>"
        )
        parts.append(f"<h3>{title}</h3>{_panel(querier, panel, width, height - 26)}</div>")
    parts.append(f"<div style='height:{bottom + 20}px'></div>")
    return "\n".join(parts)


def _panel(querier: DashboardQuerier, panel: Json, width: int, height: int) -> str:
    if "repeat" in panel:  # draw the first repetition
        name = panel["repeat"]
        value = querier.selected.get(name) or querier.options(name)
        querier = replace(querier, selected={**querier.selected, name: (value[0],)})
    try:
        results = querier.query_panel(panel)
    except BadQueryError as error:
        return f"<div class=bad>{escape(str(error))}</div>"
    if not any(result.series for result in results):
        no_value = str(panel["fieldConfig"]["defaults"]["noValue"])
        return f"<div class=blank>{escape(no_value)}</div>"
    series = [s for result in results for s in result.series]
    draw_functions: dict[str, Callable[[], str]] = {
        "stat": lambda: _stat(panel, results),
        "table": lambda: _table(panel, results),
        "barchart": lambda: _bars(panel, results, width, height),
        "state-timeline": lambda: _states(querier.time_range, panel, series, width, height),
        "timeseries": lambda: _lines(querier.time_range, panel, series, width, height),
    }
    return draw_functions[panel["type"]]()


def _colour(steps: list[Json], value: float) -> str:
    colour = str(steps[0]["color"])
    for step in steps:
        if step["value"] is not None and value >= step["value"]:
            colour = step["color"]
    return NAMED_COLOURS.get(colour, colour)


def _mapped(mappings: list[Json], value: float) -> tuple[str, str] | None:
    """Returns (text, colour) of the value's mapping; None without one."""
    for mapping in mappings:
        if mapping["type"] == "value":
            option = mapping["options"].get(f"{value:g}")
            if option:
                return option["text"], NAMED_COLOURS.get(option["color"], option["color"])
        elif math.isnan(value):
            return mapping["options"]["result"]["text"], NAMED_COLOURS["text"]
    return None


def _stat(panel: Json, results: list[TargetResult]) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    value = results[0].series[0].last
    text, colour = _mapped(defaults["mappings"], value) or (
        format_value(value, defaults["unit"], defaults.get("decimals")),
        _colour(defaults["thresholds"]["steps"], value),
    )
    return f"<div class=big style='color:{colour}'>{escape(text)}</div>"


def _column(panel: Json, title: str) -> Json:
    """Returns a column's field options: the panel's defaults with its overrides."""
    options: Json = dict(panel["fieldConfig"]["defaults"])
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"]["options"] == title:
            options |= {p["id"]: p["value"] for p in override["properties"]}
    return options


def _table(panel: Json, results: list[TargetResult]) -> str:
    rows = table_rows(panel, results)
    organize = panel["transformations"][-1]["options"]
    titles = [
        title
        for _, title in sorted(
            organize["renameByName"].items(), key=lambda pair: organize["indexByName"][pair[0]]
        )
    ]
    titles += sorted({title for row in rows for title in row} - set(titles))
    sort = next(iter(panel["options"].get("sortBy", [])), None)
    if sort:
        rows.sort(key=lambda row: -float(row.get(sort["displayName"], -math.inf)))
    parts = ["<table><tr>", *(f"<th>{escape(title)}</th>" for title in titles), "</tr>"]
    for row in rows:
        parts.append("<tr>")
        parts += [_cell(_column(panel, title), row.get(title)) for title in titles]
        parts.append("</tr>")
    return "".join([*parts, "</table>"])


def _cell(column: Json, value: str | float | None) -> str:
    if value is None:
        return f"<td style='color:#8e8e8e'>{escape(column['noValue'])}</td>"
    if isinstance(value, str):
        return f"<td>{escape(value)}</td>"
    mapped = _mapped(column.get("mappings", []), value)
    mode = column.get("custom.displayMode")
    colour = _colour(column["thresholds"]["steps"], value) if mode else NAMED_COLOURS["text"]
    text = format_value(value, column["unit"], column.get("decimals"))
    if mapped:
        text, colour = mapped
    if mode == "basic":
        style = f"width:{60 * min(max(value, 0), 1):.0f}px;background:{colour}"
        bar = f"<span style='display:inline-block;{style}'>&nbsp;</span>"
        return f"<td>{bar} {escape(text)}</td>"
    return f"<td style='color:{colour}'>{escape(text)}</td>"


def _bars(panel: Json, results: list[TargetResult], width: int, height: int) -> str:
    rows = table_rows(panel, results)
    label, *columns = (o["matcher"]["options"] for o in panel["fieldConfig"]["overrides"])
    totals = [sum(float(row.get(column, 0)) for column in columns) for row in rows]
    maximum = max(totals) or 1
    step = (height - 20) / max(len(rows), 1)
    parts = [f"<svg width={width} height={height}>"]
    unit = panel["fieldConfig"]["defaults"]["unit"]
    for index, (row, total) in enumerate(zip(rows, totals, strict=True)):
        x, y = 130.0, 4 + index * step
        parts.append(_text(4, y + step / 2, str(row[label])))
        for column, colour in zip(columns, PALETTE, strict=False):
            bar_width = float(row.get(column, 0)) / maximum * (width - 220)
            parts.append(_rect(x, y, bar_width, step * 0.7, colour))
            x += bar_width
        parts.append(_text(x + 4, y + step / 2, format_value(total, unit)))
    return "".join([*parts, "</svg>", _legend(list(zip(columns, PALETTE, strict=False)))])


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f"<rect x={x:.1f} y={y:.1f} width={width:.1f} height={height:.1f} fill='{colour}'/>"


def _text(x: float, y: float, text: str, colour: str = "#9fa1a4") -> str:
    return f"<text x={x:.1f} y={y:.1f} font-size=10 fill='{colour}'>{escape(text)}</text>"


def _legend(names: list[tuple[str, str]]) -> str:
    items = (f"<span style='color:{colour}'>▬</span> {escape(name)}" for name, colour in names)
    return f"<div class=legend>{' &nbsp; '.join(items)}</div>"


def _states(
    time_range: TimeRange, panel: Json, all_series: list[ResultSeries], width: int, height: int
) -> str:
    left, step = 230, min((height - 8) / max(len(all_series), 1), 30)
    mappings = panel["fieldConfig"]["defaults"]["mappings"]
    parts = [f"<svg width={width} height={height}>"]
    scale = (width - left - 10) / time_range.seconds
    for index, series in enumerate(all_series):
        y = 4 + index * step
        parts.append(_text(4, y + step / 2 + 4, series.name))
        for time, value in series.points:
            x = left + (time - time_range.start) * scale
            mapped = _mapped(mappings, value)
            colour = mapped[1] if mapped else PALETTE[int(value) % len(PALETTE)]
            parts.append(_rect(x, y, time_range.step * scale + 0.5, step * 0.8, colour))
    return "".join([*parts, "</svg>"])


def _lines(
    time_range: TimeRange, panel: Json, all_series: list[ResultSeries], width: int, height: int
) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    limit_patterns = [
        override["matcher"]["options"]
        for override in panel["fieldConfig"]["overrides"]
        if override["matcher"]["id"] == "byRegexp"
    ]
    limit_prefix = limit_patterns[0].split(".")[0] if limit_patterns else None
    height -= 44
    left = 58
    lines = _stacked(all_series, stack=defaults["custom"]["stacking"]["mode"] == "normal")
    finite = [v for points in lines for _, v in points if math.isfinite(v)] or [0.0]
    low, top = min(0.0, *finite), max(*finite, 0.0)
    top = top if top > low else low + 1
    parts = [f"<svg width={width} height={height}>"]
    for tick in range(5):
        level = low + (top - low) * tick / 4
        y = height - 6 - (height - 14) * tick / 4
        parts.append(f"<line x1={left} x2={width} y1={y:.1f} y2={y:.1f} stroke='#2c2f36'/>")
        parts.append(
            _text(2, y + 3, format_value(level, defaults["unit"], defaults.get("decimals")))
        )
    names = []
    for index, (series, points) in enumerate(zip(all_series, lines, strict=True)):
        is_limit = limit_prefix is not None and series.name.startswith(limit_prefix)
        colour = NAMED_COLOURS["red"] if is_limit else PALETTE[index % len(PALETTE)]
        names.append((series.name, colour))
        dash = " stroke-dasharray='8 6'" if is_limit else ""
        path = " ".join(
            f"{left + (time - time_range.start) / time_range.seconds * (width - left - 4):.1f},"
            f"{height - 6 - (v - low) / (top - low) * (height - 14):.1f}"
            for time, v in points
            if math.isfinite(v)
        )
        parts.append(f"<polyline fill=none stroke='{colour}'{dash} points='{path}'/>")
    return "".join([*parts, "</svg>", _legend(names)])


def _stacked(all_series: list[ResultSeries], *, stack: bool) -> list[list[tuple[float, float]]]:
    """Returns the points of each series, added up if `stack`."""
    base: dict[float, float] = {}
    lines = []
    for series in all_series:
        points = []
        for time, value in series.points:
            level = value + base.get(time, 0.0) if stack else value
            base[time] = level
            points.append((time, level))
        lines.append(points)
    return lines
