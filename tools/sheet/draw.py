"""Draws a dashboard as one SVG image: its panels in Grafana's layout, with their data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from tools.dashboards.prometheus_query import BadQueryError, DashboardQuerier
from tools.sheet import panels
from tools.sheet.shapes import GREY, TEXT, rectangle, text

Json = dict[str, Any]
ROW_HEIGHT, GAP = 38, 8
"""Pixels of a grid unit's height, and of the gap between panels."""
MARGIN = 16
HEADER = 64
TITLE_HEIGHT = 32


@dataclass(frozen=True, slots=True)
class Placed:
    """A panel at a place, with the values of the variables it repeats for."""

    panel: Json
    querier: DashboardQuerier
    x: float
    y: float
    width: float
    height: float


def draw_dashboard(
    querier: DashboardQuerier, *, width: int = 1280, all_rows: bool = False, rows: int = 1000
) -> str:
    """Returns the dashboard as an SVG image.

    width: of the window in pixels. all_rows: opens the collapsed rows. rows: at most so many.
    """
    parts: list[str] = []
    unit = (width - 2 * MARGIN + GAP) / 24
    y = float(HEADER)
    for heading, row_panels in list(_rows(querier.dashboard))[:rows]:
        is_open = all_rows or not heading["collapsed"]
        mark = "▾" if is_open else "▸"
        parts.append(text(MARGIN, y + 20, f"{mark} {heading['title']}", size=15, bold=True))
        y += ROW_HEIGHT
        if not is_open:
            continue
        placed = list(_placed(querier, row_panels, y, unit))
        parts += [_panel(place) for place in placed]
        y = max((place.y + place.height + GAP for place in placed), default=y)
    header = [
        rectangle(0, 0, width, y + MARGIN, "#111217"),
        text(MARGIN, 24, querier.dashboard["title"], size=17, bold=True),
        text(MARGIN, 48, _variables(querier), colour=GREY),
    ]
    size = f"width='{width}' height='{y + MARGIN:.0f}'"
    font = "font-family='DejaVu Sans, sans-serif' font-size='12'"
    return "\n".join(
        [f"<svg xmlns='http://www.w3.org/2000/svg' {size} {font}>", *header, *parts, "</svg>\n"]
    )


def _variables(querier: DashboardQuerier) -> str:
    texts = []
    for variable in querier.dashboard["templating"]["list"]:
        values = querier.selected.get(variable["name"], ())
        default = variable["current"].get("value") or "first"
        value = ", ".join(values) or (default if isinstance(default, str) else "All")
        texts.append(f"{variable['label']}: {value}")
    return "    ".join(texts)


def _rows(dashboard: Json) -> Iterator[tuple[Json, list[Json]]]:
    """Yields (heading, panels) of each row."""
    heading: Json = {}
    row_panels: list[Json] = []
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            row_panels.append(panel)
            continue
        if heading:
            yield heading, row_panels
        heading, row_panels = panel, list(panel["panels"])
    yield heading, row_panels


def _placed(
    querier: DashboardQuerier, row_panels: list[Json], y: float, unit: float
) -> Iterator[Placed]:
    """Yields the panels of a row, with every repetition."""
    top = min((panel["gridPos"]["y"] for panel in row_panels), default=0)
    for panel in row_panels:
        position = panel["gridPos"]
        height = position["h"] * ROW_HEIGHT - GAP
        if "repeat" not in panel:
            panel_y = y + (position["y"] - top) * ROW_HEIGHT
            panel_width = position["w"] * unit - GAP
            place = MARGIN + position["x"] * unit, panel_y, panel_width, height
            yield Placed(panel, querier, *place)
            continue
        name = panel["repeat"]
        values = querier.selected.get(name) or querier.options(name)
        per_line = min(panel["maxPerRow"], max(len(values), 1))
        width = 24 / per_line * unit - GAP
        for number, value in enumerate(values):
            of_value = replace(querier, selected={**querier.selected, name: (value,)})
            line, column = divmod(number, per_line)
            x = MARGIN + column * (width + GAP)
            yield Placed(panel, of_value, x, y + line * (height + GAP), width, height)


def _panel(place: Placed) -> str:
    panel = place.panel
    width, height = place.width, place.height - TITLE_HEIGHT
    title = place.querier.interpolate(panel["title"])
    size = f"width='{width:.1f}' height='{place.height:.1f}'"
    content = _content(place.querier, panel, width - 16, height - 8)
    return "\n".join(
        [
            f"<svg x='{place.x:.1f}' y='{place.y:.1f}' {size}>",
            rectangle(0, 0, width, place.height, "#181b1f", border="#2c2f36"),
            text(8, 20, title, colour=TEXT, limit=width - 16),
            f"<svg x='8' y='{TITLE_HEIGHT}' width='{width - 16:.1f}' height='{height - 8:.1f}'>",
            content,
            "</svg></svg>",
        ]
    )


def _content(querier: DashboardQuerier, panel: Json, width: float, height: float) -> str:
    try:
        results = querier.query_panel(panel)
    except BadQueryError as error:
        return text(0, 14, escape(str(error)), colour="#f2495c")
    if not any(result.series for result in results):
        no_value = str(panel["fieldConfig"]["defaults"]["noValue"])
        if panel["type"] == "stat":
            return panels.big_text(no_value, GREY, width, height)
        return text(width / 2, height / 2, no_value, colour=GREY, anchor="middle")
    series = [s for result in results for s in result.series]
    functions: dict[str, Callable[[], str]] = {
        "stat": lambda: panels.stat(panel, series, width, height),
        "table": lambda: panels.table(panel, results, width, height, querier.time_range.end),
        "barchart": lambda: panels.bars(panel, results, width, height),
        "state-timeline": lambda: panels.states(querier.time_range, panel, results, width, height),
        "timeseries": lambda: panels.lines(querier.time_range, panel, series, width, height),
    }
    return functions[panel["type"]]()
