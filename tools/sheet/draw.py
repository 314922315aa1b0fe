"""Panels as HTML and SVG."""

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


def draw_dashboard(asker: DashboardQuerier) -> str:
    """The whole dashboard as a page of HTML."""
    dashboard = asker.dashboard
    parts = [f"<meta charset=utf-8><title>{escape(dashboard['title'])}</title>"]
    parts.append(f"<style>{STYLE}</style><h2>{escape(dashboard['title'])}</h2>")
    chosen = {
        v["name"]: asker.chosen.get(v["name"], "All") for v in dashboard["templating"]["list"]
    }
    parts.append(f"<div>{escape(str(chosen))}</div>")
    bottom = 0
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            y = panel["gridPos"]["y"] * UNIT_HEIGHT + 90
            mark = "▸" if panel["collapsed"] else "▾"
            parts.append(f"<div class=row style='top:{y}px'>{mark} {escape(panel['title'])}</div>")
    for panel in iter_panels(dashboard):
        place = panel["gridPos"]
        x, y = place["x"] * COLUMN, place["y"] * UNIT_HEIGHT + 90
        wide, high = place["w"] * COLUMN - GAP, place["h"] * UNIT_HEIGHT - GAP
        bottom = max(bottom, y + high)
        style = f"left:{x}px;top:{y}px;width:{wide}px;height:{high}px"
        title = escape(asker.fill(panel["title"]))
        parts.append(
            f"<div class=p style='{style}' title='{escape(panel['description'], quote=True)}'>"
        )
        parts.append(f"<h3>{title}</h3>{_panel(asker, panel, wide, high - 26)}</div>")
    parts.append(f"<div style='height:{bottom + 20}px'></div>")
    return "\n".join(parts)


def _panel(asker: DashboardQuerier, panel: Json, wide: int, high: int) -> str:
    if "repeat" in panel:  # the first of its repetitions
        name = panel["repeat"]
        value = asker.chosen.get(name) or asker.options(name)
        asker = replace(asker, chosen={**asker.chosen, name: (value[0],)})
    try:
        answers = asker.panel(panel)
    except BadQueryError as error:
        return f"<div class=bad>{escape(str(error))}</div>"
    if not any(answer.series for answer in answers):
        said = str(panel["fieldConfig"]["defaults"]["noValue"])
        return f"<div class=blank>{escape(said)}</div>"
    series = [each for answer in answers for each in answer.series]
    drawn: dict[str, Callable[[], str]] = {
        "stat": lambda: _stat(panel, answers),
        "table": lambda: _table(panel, answers),
        "barchart": lambda: _bars(panel, answers, wide, high),
        "state-timeline": lambda: _states(asker, panel, series, wide, high),
        "timeseries": lambda: _lines(asker, panel, series, wide, high),
    }
    return drawn[panel["type"]]()


def _colour(steps: list[Json], value: float) -> str:
    colour = str(steps[0]["color"])
    for step in steps:
        if step["value"] is not None and value >= step["value"]:
            colour = step["color"]
    return NAMED_COLOURS.get(colour, colour)


def _mapped(mappings: list[Json], value: float) -> tuple[str, str] | None:
    """(text, colour) of a value that means something."""
    for mapping in mappings:
        if mapping["type"] == "value":
            found = mapping["options"].get(f"{value:g}")
            if found:
                return found["text"], NAMED_COLOURS.get(found["color"], found["color"])
        elif math.isnan(value):
            return mapping["options"]["result"]["text"], NAMED_COLOURS["text"]
    return None


def _stat(panel: Json, answers: list[TargetResult]) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    value = answers[0].series[0].last
    text, colour = _mapped(defaults["mappings"], value) or (
        format_value(value, defaults["unit"], defaults.get("decimals")),
        _colour(defaults["thresholds"]["steps"], value),
    )
    return f"<div class=big style='color:{colour}'>{escape(text)}</div>"


def _column(panel: Json, title: str) -> Json:
    """What holds for a column: the panel's defaults, and its own."""
    held: Json = dict(panel["fieldConfig"]["defaults"])
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"]["options"] == title:
            held |= {each["id"]: each["value"] for each in override["properties"]}
    return held


def _table(panel: Json, answers: list[TargetResult]) -> str:
    lines = table_rows(panel, answers)
    organize = panel["transformations"][-1]["options"]
    titles = [
        name
        for key, name in sorted(
            organize["renameByName"].items(), key=lambda pair: organize["indexByName"][pair[0]]
        )
    ]
    titles += sorted({key for line in lines for key in line} - set(titles))
    sort = next(iter(panel["options"].get("sortBy", [])), None)
    if sort:
        lines.sort(key=lambda line: -float(line.get(sort["displayName"], -math.inf)))
    parts = ["<table><tr>", *(f"<th>{escape(title)}</th>" for title in titles), "</tr>"]
    for line in lines:
        parts.append("<tr>")
        parts += [_cell(_column(panel, title), line.get(title)) for title in titles]
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


def _bars(panel: Json, answers: list[TargetResult], wide: int, high: int) -> str:
    lines = table_rows(panel, answers)
    titles = [o["matcher"]["options"] for o in panel["fieldConfig"]["overrides"]]
    label, *numbers = titles
    most = max(sum(float(line.get(n, 0)) for n in numbers) for line in lines) or 1
    step = (high - 20) / max(len(lines), 1)
    parts = [f"<svg width={wide} height={high}>"]
    unit = panel["fieldConfig"]["defaults"]["unit"]
    for place, line in enumerate(lines):
        x, y = 130.0, 4 + place * step
        parts.append(_text(4, y + step / 2, str(line[label])))
        for number, colour in zip(numbers, PALETTE, strict=False):
            width = float(line.get(number, 0)) / most * (wide - 220)
            parts.append(_rect(x, y, width, step * 0.7, colour))
            x += width
        whole = sum(float(line.get(n, 0)) for n in numbers)
        parts.append(_text(x + 4, y + step / 2, format_value(whole, unit)))
    return "".join([*parts, "</svg>", _legend(list(zip(numbers, PALETTE, strict=False)))])


def _rect(x: float, y: float, wide: float, high: float, colour: str) -> str:
    return f"<rect x={x:.1f} y={y:.1f} width={wide:.1f} height={high:.1f} fill='{colour}'/>"


def _text(x: float, y: float, text: str, colour: str = "#9fa1a4") -> str:
    return f"<text x={x:.1f} y={y:.1f} font-size=10 fill='{colour}'>{escape(text)}</text>"


def _legend(names: list[tuple[str, str]]) -> str:
    items = (f"<span style='color:{colour}'>▬</span> {escape(name)}" for name, colour in names)
    return f"<div class=legend>{' &nbsp; '.join(items)}</div>"


def _states(
    asker: DashboardQuerier, panel: Json, series: list[ResultSeries], wide: int, high: int
) -> str:
    window = asker.window
    left, step = 230, min((high - 8) / max(len(series), 1), 30)
    mappings = panel["fieldConfig"]["defaults"]["mappings"]
    parts = [f"<svg width={wide} height={high}>"]
    scale = (wide - left - 10) / window.range
    for place, each in enumerate(series):
        y = 4 + place * step
        parts.append(_text(4, y + step / 2 + 4, each.name))
        for at, value in each.points:
            x = left + (at - window.start) * scale
            text = _mapped(mappings, value)
            colour = text[1] if text else PALETTE[int(value) % len(PALETTE)]
            parts.append(_rect(x, y, window.step * scale + 0.5, step * 0.8, colour))
    return "".join([*parts, "</svg>"])


def _lines(
    asker: DashboardQuerier, panel: Json, series: list[ResultSeries], wide: int, high: int
) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    stacked = defaults["custom"]["stacking"]["mode"] == "normal"
    limits = [
        override["matcher"]["options"]
        for override in panel["fieldConfig"]["overrides"]
        if override["matcher"]["id"] == "byRegexp"
    ]
    prefix = limits[0].split(".")[0] if limits else None
    high -= 44
    window, left = asker.window, 58
    base: dict[float, float] = {}
    drawn: list[tuple[ResultSeries, list[tuple[float, float]]]] = []
    for each in series:
        points = []
        for at, value in each.points:
            level = value + base.get(at, 0.0) if stacked else value
            base[at] = level
            points.append((at, level))
        drawn.append((each, points))
    finite = [v for _, points in drawn for _, v in points if math.isfinite(v)] or [0.0]
    low, top = min(0.0, *finite), max(*finite, 0.0)
    top = top if top > low else low + 1
    parts = [f"<svg width={wide} height={high}>"]
    for part in range(5):
        level = low + (top - low) * part / 4
        y = high - 6 - (high - 14) * part / 4
        parts.append(f"<line x1={left} x2={wide} y1={y:.1f} y2={y:.1f} stroke='#2c2f36'/>")
        parts.append(
            _text(2, y + 3, format_value(level, defaults["unit"], defaults.get("decimals")))
        )
    names = []
    for place, (each, points) in enumerate(drawn):
        limit = prefix is not None and each.name.startswith(prefix)
        colour = NAMED_COLOURS["red"] if limit else PALETTE[place % len(PALETTE)]
        names.append((each.name, colour))
        dash = " stroke-dasharray='8 6'" if limit else ""
        path = " ".join(
            f"{left + (at - window.start) / window.range * (wide - left - 4):.1f},"
            f"{high - 6 - (v - low) / (top - low) * (high - 14):.1f}"
            for at, v in points
            if math.isfinite(v)
        )
        parts.append(f"<polyline fill=none stroke='{colour}'{dash} points='{path}'/>")
    return "".join([*parts, "</svg>", _legend(names)])
