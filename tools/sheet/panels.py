"""Draws the content of each type of panel as Grafana does, as SVG."""

from __future__ import annotations

import math
import re
import textwrap
from typing import Any

from tools.dashboards.prometheus_query import (
    ResultSeries,
    TargetResult,
    TimeRange,
    table_rows,
)
from tools.sheet.shapes import CHARACTER, GREY, TEXT, colour, palette, rectangle, text
from tools.sheet.units import format_value, from_now

Json = dict[str, Any]
TABLE_ROW = 36
LEGEND_LINE = 16
AXIS = 58
LEGEND_CHARACTER = 0.68
"""Width of a character of a legend as a ratio of the font size: nothing may overlap."""


def threshold_colour(steps: list[Json], value: float) -> str:
    """Returns the colour of the highest step at or below the value; NaN is below all."""
    name = str(steps[0]["color"])
    for step in steps:
        if step["value"] is not None and value >= step["value"]:
            name = step["color"]
    return colour(name)


def mapped(mappings: list[Json], value: float) -> tuple[str, str] | None:
    """Returns (text, colour) of the value's mapping; None without one."""
    for mapping in mappings:
        if mapping["type"] == "value":
            option = mapping["options"].get(f"{value:g}")
            if option:
                return option["text"], colour(option["color"])
        elif math.isnan(value):
            return mapping["options"]["result"]["text"], GREY
    return None


def big_text(value: str, fill: str, width: float, height: float) -> str:
    size = min(height * 0.5, width / max(len(value), 1) / CHARACTER, 60)
    return text(width / 2, height / 2 + size / 3, value, colour=fill, size=size, anchor="middle")


def _shown(defaults: Json, value: float) -> tuple[str, str]:
    """Returns (text, colour) of a value."""
    return mapped(defaults["mappings"], value) or (
        format_value(value, defaults["unit"], defaults.get("decimals")),
        threshold_colour(defaults["thresholds"]["steps"], value),
    )


def stat(panel: Json, series: list[ResultSeries], width: float, height: float) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    if panel["options"]["colorMode"] != "background":
        return big_text(*_shown(defaults, series[0].last), width, height)
    # The number of columns that makes the cells as large as possible, as Grafana's "auto".
    columns = max(
        range(1, len(series) + 1),
        key=lambda n: min(width / n / 3, height / math.ceil(len(series) / n)),
    )
    cell_width, cell_height = width / columns, height / math.ceil(len(series) / columns)
    parts = []
    for number, one in enumerate(series):
        row, column = divmod(number, columns)
        value, fill = _shown(defaults, one.last)
        x, y = column * cell_width, row * cell_height
        parts.append(rectangle(x, y, cell_width - 3, cell_height - 3, fill))
        size = min(14, cell_height / 2.6)
        middle = y + cell_height / 2
        name = {"colour": "#111217", "size": size, "limit": cell_width - 8}
        if cell_height >= 22:
            parts.append(text(x + 4, middle - size * 0.2, one.name, **name))  # type: ignore[arg-type]
            parts.append(text(x + 4, middle + size, value, **name))  # type: ignore[arg-type]
        else:
            parts.append(text(x + 4, middle + size / 3, one.name, **name))  # type: ignore[arg-type]
    return "".join(parts)


def _column(panel: Json, title: str) -> Json:
    """Returns a column's field options: the panel's defaults with its overrides."""
    options: Json = dict(panel["fieldConfig"]["defaults"])
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"]["options"] == title:
            options |= {p["id"]: p["value"] for p in override["properties"]}
    return options


def table(panel: Json, results: list[TargetResult], width: float, height: float, now: float) -> str:
    """Returns a table with Grafana's column widths; what does not fit is cut.

    now: the end of the time range, in Unix seconds.
    """
    rows = table_rows(panel, results)
    organize = panel["transformations"][-1]["options"]
    places = organize["indexByName"]
    titles = [
        title for _, title in sorted(organize["renameByName"].items(), key=lambda p: places[p[0]])
    ]
    titles += sorted({title for row in rows for title in row} - set(titles))
    columns = [(title, _column(panel, title)) for title in titles]
    columns = [(title, options) for title, options in columns if not options.get("custom.hidden")]
    widths = _column_widths([options for _, options in columns], width)
    sort = next(iter(panel["options"].get("sortBy", [])), None)
    if sort:
        rows.sort(key=lambda row: _sort_key(row.get(sort["displayName"])), reverse=True)
    parts, x = [], 0.0
    for (title, options), column_width in zip(columns, widths, strict=True):
        parts.append(text(x + 6, 22, title, colour="#6e9fff", limit=column_width - 6))
        for number, row in enumerate(rows):
            y = TABLE_ROW * (number + 1)
            if y < height:
                value = row.get(title)
                if options["unit"] == "dateTimeFromNow" and isinstance(value, float):
                    value = value if math.isnan(value) else from_now(now - value / 1000)
                parts.append(_cell(options, value, x, y, column_width))
        x += column_width
    return "".join(parts)


def _sort_key(value: str | float | None) -> float:
    return value if isinstance(value, float) and not math.isnan(value) else -math.inf


def _column_widths(columns: list[Json], width: float) -> list[float]:
    """Returns the widths: fixed ones as they are; the others share the rest equally, but have
    their minimum.
    """
    widths = [float(column.get("custom.width") or 0) for column in columns]
    smallest = [
        float(c.get("custom.minWidth") or c["custom"].get("minWidth", 150)) for c in columns
    ]
    while flexible := [index for index, fixed in enumerate(widths) if not fixed]:
        share = (width - sum(widths)) / len(flexible)
        too_small = [index for index in flexible if smallest[index] > share]
        for index in too_small or flexible:
            widths[index] = smallest[index] if too_small else share
    return widths


def _cell(options: Json, value: str | float | None, x: float, y: float, width: float) -> str:
    base = y + 22
    if value is None:
        return text(x + 6, base, options["noValue"], colour=GREY, limit=width - 6)
    if isinstance(value, str):
        fill = "#6e9fff" if options.get("links") else TEXT
        return _wrapped(options, value, (x, y, width), fill)
    mode = options.get("custom.displayMode")
    found = mapped(options.get("mappings", []), value)
    fill = threshold_colour(options["thresholds"]["steps"], value) if mode else TEXT
    shown = format_value(value, options["unit"], options.get("decimals"))
    if found:
        shown, fill = found
    if mode == "basic" and not math.isnan(value):
        bar = max(width - 60, 8) * min(max(value, 0), 1)
        return rectangle(x + 6, y + 9, bar, 18, fill) + text(
            x + width - 50, base, shown, colour=fill
        )
    return text(x + 6, base, shown, colour=fill, limit=width - 6)


def _wrapped(options: Json, value: str, at: tuple[float, float, float], fill: str) -> str:
    """Returns a text, on two lines if the column wraps. at: x, y, width."""
    x, y, width = at
    characters = max(int((width - 6) / (CHARACTER * 12)), 1)
    if len(value) <= characters or not options.get("custom.cellOptions", {}).get("wrapText"):
        return text(x + 6, y + 22, value, colour=fill, limit=width - 6)
    lines = textwrap.wrap(value, characters)[:2]
    return "".join(
        text(x + 6, y + 15 + 15 * number, line, colour=fill) for number, line in enumerate(lines)
    )


def bars(panel: Json, results: list[TargetResult], width: float, height: float) -> str:
    rows = table_rows(panel, results)
    label, *columns = (o["matcher"]["options"] for o in panel["fieldConfig"]["overrides"])
    totals = [sum(float(row.get(column, 0)) for column in columns) for row in rows]
    maximum = max(totals) or 1
    step = (height - LEGEND_LINE) / max(len(rows), 1)
    parts = []
    unit = panel["fieldConfig"]["defaults"]["unit"]
    for index, (row, total) in enumerate(zip(rows, totals, strict=True)):
        x, y = 110.0, index * step
        parts.append(text(0, y + step / 2, str(row[label]), limit=105, size=11))
        for number, column in enumerate(columns):
            bar_width = float(row.get(column, 0)) / maximum * (width - 190)
            parts.append(rectangle(x, y, bar_width, step * 0.7, palette(number)))
            x += bar_width
        parts.append(text(x + 4, y + step / 2, format_value(total, unit), size=11))
    names = [(column, palette(number)) for number, column in enumerate(columns)]
    return "".join([*parts, _legend(names, 0, height - 4, width)])


def _legend(names: list[tuple[str, str]], x: float, y: float, width: float) -> str:
    """Returns a legend in one line, as far as it fits."""
    parts = []
    for name, fill in names:
        needed = 24 + len(name) * 11 * LEGEND_CHARACTER
        if x + needed > width - 16:
            parts.append(text(width - 12, y, "…", colour=GREY))
            break
        parts.append(rectangle(x, y - 5, 10, 3, fill) + text(x + 13, y, name, size=11))
        x += needed
    return "".join(parts)


def states(
    time_range: TimeRange, panel: Json, results: list[TargetResult], width: float, height: float
) -> str:
    """Returns the first page of a state timeline."""
    all_series = [s for result in results for s in result.series][: panel["options"]["perPage"]]
    left, step = width * 0.25, min((height - 8) / max(len(all_series), 1), 36)
    mappings = panel["fieldConfig"]["defaults"]["mappings"]
    scale = (width - left) / time_range.seconds
    parts = []
    for index, series in enumerate(all_series):
        y = index * step
        parts.append(text(0, y + step / 2 + 3, series.name, limit=left - 4, size=11))
        start = 0
        points = series.points
        for end in range(1, len(points) + 1):
            if end < len(points) and points[end][1] == points[start][1]:
                continue
            x = left + (points[start][0] - time_range.start) * scale
            length = (points[end - 1][0] - points[start][0] + time_range.step) * scale
            name, fill = mapped(mappings, points[start][1]) or (f"{points[start][1]:g}", GREY)
            parts.append(rectangle(x, y, length, step * 0.8, fill))
            if length > 40:
                parts.append(text(x + 4, y + step / 2 + 2, name, colour="#111217", size=11))
            start = end
    return "".join(parts)


def lines(
    time_range: TimeRange, panel: Json, all_series: list[ResultSeries], width: float, height: float
) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    styles = [_style(panel, series.name) for series in all_series]
    points = _stacked(all_series, styles, stack=defaults["custom"]["stacking"]["mode"] == "normal")
    low, top = _axis(defaults, points)
    legend = panel["options"]["legend"]
    beside = legend["displayMode"] == "table"
    graph_width = width - (legend.get("width", 300) if beside else 0)
    graph_height = height - (0 if beside else LEGEND_LINE)
    parts = []
    for tick in range(5):
        # Rounded, so that the zero of a mirrored axis is one.
        level = (top - low) * round(low / (top - low) + tick / 4, 6)
        y = graph_height - 6 - (graph_height - 14) * tick / 4
        parts.append(rectangle(AXIS, y, graph_width - AXIS, 0.5, "#2c2f36"))
        shown = format_value(level, defaults["unit"], defaults.get("decimals"))
        parts.append(text(0, y + 3, shown, colour=GREY, size=10))
    names, below = [], list[str]()
    for index, (series, line, style) in enumerate(zip(all_series, points, styles, strict=True)):
        stroke = colour("red") if "custom.lineStyle" in style else palette(index)
        names.append((series.name, stroke))
        dash = " stroke-dasharray='8 6'" if "custom.lineStyle" in style else ""
        path = " ".join(
            f"{AXIS + (t - time_range.start) / time_range.seconds * (graph_width - AXIS - 4):.0f},"
            f"{graph_height - 6 - (v - low) / (top - low) * (graph_height - 14):.0f}"
            for t, v in line[:: max(len(line) // 120, 1)]
            if math.isfinite(v)
        )
        if defaults["custom"]["fillOpacity"] and path:
            below.append(_area(path, stroke, graph_height - 6))
        parts.append(f"<polyline fill='none' stroke='{stroke}'{dash} points='{path}'/>")
        if path and " " not in path:  # as Grafana, a point without neighbours
            x, _, y_point = path.partition(",")
            parts.append(f"<circle cx='{x}' cy='{y_point}' r='2' fill='{stroke}'/>")
    if not beside:
        return "".join([*reversed(below), *parts, _legend(names, 0, height - 3, width)])
    return "".join(
        [
            *reversed(below),
            *parts,
            _legend_table(defaults, all_series, names, graph_width + 8, height),
        ]
    )


def _area(path: str, fill: str, bottom: float) -> str:
    """Returns the area below a line; those of a stack are drawn from the highest on."""
    points = path.split(" ")
    first, last = (point.partition(",")[0] for point in (points[0], points[-1]))
    return f"<polygon fill='{fill}' points='{first},{bottom:.0f} {path} {last},{bottom:.0f}'/>"


def _style(panel: Json, name: str) -> Json:
    """Returns the override properties of a series."""
    for override in panel["fieldConfig"]["overrides"]:
        matcher = override["matcher"]
        if matcher["id"] == "byRegexp" and re.match(matcher["options"], name):
            return {p["id"]: p["value"] for p in override["properties"]}
    return {}


def _axis(defaults: Json, lines_: list[list[tuple[float, float]]]) -> tuple[float, float]:
    """Returns the ends of the axis: the soft limits, the values, and hard limits."""
    custom = defaults["custom"]
    values = [value for line in lines_ for _, value in line if math.isfinite(value)]
    low = min(custom.get("axisSoftMin", 0), *values, 0)
    top = max(custom.get("axisSoftMax", 0), *values, 0)
    top = defaults.get("max", top)
    return low, top if top > low else low + 1


def _legend_table(
    defaults: Json,
    all_series: list[ResultSeries],
    names: list[tuple[str, str]],
    x: float,
    height: float,
) -> str:
    parts = [
        text(x + 150 + 68 * i, 12, n, colour="#6e9fff")
        for i, n in enumerate(("Last", "Mean", "Max"))
    ]
    for number, (series, (name, fill)) in enumerate(zip(all_series, names, strict=True)):
        y = 30 + number * 18
        if y > height:
            break
        values = [v for _, v in series.points if math.isfinite(v)]
        parts.append(rectangle(x, y - 5, 10, 3, fill) + text(x + 13, y, name, size=11, limit=135))
        if values:
            for i, value in enumerate((values[-1], sum(values) / len(values), max(values))):
                shown = format_value(value, defaults["unit"], defaults.get("decimals"))
                parts.append(text(x + 150 + 68 * i, y, shown, size=11))
    return "".join(parts)


def _stacked(
    all_series: list[ResultSeries], styles: list[Json], *, stack: bool
) -> list[list[tuple[float, float]]]:
    """Returns the points of each series, added up if `stack`, mirrored if it is drawn below."""
    base: dict[float, float] = {}
    result = []
    for series, style in zip(all_series, styles, strict=True):
        sign = -1 if style.get("custom.transform") == "negative-Y" else 1
        points = []
        for time, value in series.points:
            level = value + base.get(time, 0.0) if stack else sign * value
            base[time] = level
            points.append((time, level))
        result.append(points)
    return result
