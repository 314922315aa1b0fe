"""Panels, queries, rows, variables, annotations: a dashboard without Grafana's JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

ThresholdSteps = tuple[tuple[str, float | None], ...]
"""Threshold steps: (colour, lowest value with that colour); the first step has None."""

# Grafana gives the first step's colour to a missing value: it is grey in every list of steps.
LOWEST = -1e9
"""Below every value of a panel."""
NEUTRAL: ThresholdSteps = (("text", None),)
BLUE: ThresholdSteps = (("text", None), ("blue", LOWEST))
RED_ABOVE_0: ThresholdSteps = (("text", None), ("green", LOWEST), ("red", 0.5))
ORANGE_ABOVE_0: ThresholdSteps = (("text", None), ("green", LOWEST), ("orange", 0.5))


TABLE_HEIGHT = 12
"""Grid units of ten rows and a header."""


def rising(orange: float, red: float) -> ThresholdSteps:
    """Returns steps from green over orange to red as the value rises."""
    return (("text", None), ("green", LOWEST), ("orange", orange), ("red", red))


def falling(red_below: float, orange_below: float) -> ThresholdSteps:
    """Returns steps from red over orange to green as the value rises."""
    return (("text", None), ("red", LOWEST), ("orange", red_below), ("green", orange_below))


MINIMUM_COLUMN_WIDTH = 60
"""Pixels."""


class PanelType(StrEnum):
    """Grafana's built-in panels; no other plug-in is used."""

    BAR_CHART = "barchart"
    HEATMAP = "heatmap"
    STAT = "stat"
    STATE_TIMELINE = "state-timeline"
    TABLE = "table"
    TIME_SERIES = "timeseries"


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL query of a panel.

    legend: the name of each series, with `{{label}}` for a label's value. empty_reason: why the
    result may be empty although the metrics exist; without it an empty result is an error.
    exemplars: whether the traces of single requests are drawn as points.
    """

    expr: str
    legend: str = ""
    empty_reason: str = ""
    exemplars: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """A table column: the value of its own query, or the label `label`.

    link: URL opened by a click on a cell. mapping: value mappings as (value, text, colour).
    no_value: text of a cell without a value.
    """

    title: str
    expr: str = ""
    unit: str = "short"
    label: str = ""
    thresholds: ThresholdSteps = ()
    gauge: bool = False
    decimals: int | None = None
    link: str = ""
    mapping: tuple[tuple[str, str, str], ...] = ()
    no_value: str = "-"
    width: int | None = None
    empty_reason: str = ""
    wrap: bool = False
    """Whether long values wrap: for names."""
    for_links: bool = False
    """Whether the column is invisible, and only the links of other columns use its values."""
    hidden: bool = False
    """Whether the value is hidden: the query only adds its labels to the table."""

    @property
    def minimum_width(self) -> int:
        """Pixels that the column needs at least: its title fits."""
        if self.hidden or self.for_links:
            return 0
        return self.width or max(MINIMUM_COLUMN_WIDTH, 7 * len(self.title) + 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A panel. description, action: the first and the last paragraph of Grafana's description.

    no_value: text without data. nan_text: text of NaN. limit_pattern: regular expression for the
    series that are limits, drawn as dashed lines. mirror_pattern: for the series below zero.
    repeat: variable for whose values Grafana repeats the panel, which has a row of its own.
    hidden_labels: labels that distinguish table rows and are not displayed. width: in 24ths of
    the dashboard; the renderer widens the panels of a line that they do not fill. soft_maximum:
    the axis reaches at least this value; the default depends on the unit.
    """

    type: PanelType
    title: str
    description: str
    action: str
    queries: tuple[Query, ...] = ()
    columns: tuple[Column, ...] = ()
    unit: str = ""
    width: int = 8
    height: int = 8
    no_value: str = "No data"
    nan_text: str = "No rate yet"
    thresholds: ThresholdSteps = NEUTRAL
    decimals: int | None = None
    minimum: float | None = None
    maximum: float | None = None
    stack: bool = False
    limit_pattern: str = ""
    mirror_pattern: str = ""
    soft_maximum: float | None = None
    cells: bool = False
    """Whether a stat has a coloured cell for each series, with the name of the series."""
    mapping: tuple[tuple[str, str, str], ...] = ()
    link: tuple[str, str] = ("", "")
    repeat: str = ""
    hidden_labels: tuple[str, ...] = ("job", "instance")
    sort_by: str = ""
    show_name: bool = False
    """Whether a stat displays the name of the series instead of its value."""

    def expressions(self) -> list[str]:
        """Returns the PromQL of all queries and columns."""
        return [q.expr for q in self.queries] + [c.expr for c in self.columns if c.expr]


@dataclass(frozen=True, slots=True)
class PanelRow:
    """A row: a heading, as a question, and its panels. The renderer collapses all but the first."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A dashboard variable. query: in the syntax of Grafana's Prometheus data source."""

    name: str
    label: str
    query: str = ""
    regex: str = ""
    all_value: str = ".+"
    values: tuple[str, ...] = ()
    default: str = ""
    description: str = ""
    single: bool = False
    """Whether one value is selected, the first by default, and neither several nor all."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """An annotation query. use_value_for_time: the value is the time, in milliseconds."""

    name: str
    expr: str
    title: str
    colour: str
    use_value_for_time: bool = False
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A dashboard, written to grafana/<file>.json."""

    file: str
    uid: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    annotations: tuple[Annotation, ...]
    rows: tuple[PanelRow, ...]
    time_from: str = "now-3h"
    refresh: str = "30s"
    tags: tuple[str, ...] = field(default=("inference-exporter",))


def stat(title: str, expr: str, description: str, action: str, **options: Any) -> Panel:
    """Returns a stat panel: one number."""
    query = Query(expr, empty_reason=str(options.pop("empty_reason", "")))
    return Panel(
        type=PanelType.STAT,
        title=title,
        queries=(query,),
        description=description,
        action=action,
        **{"width": 4, "height": 4, **options},
    )


def time_series(
    title: str,
    queries: Query | tuple[Query, ...],
    description: str,
    action: str,
    **options: Any,
) -> Panel:
    """Returns a time series panel."""
    return Panel(
        type=PanelType.TIME_SERIES,
        title=title,
        queries=(queries,) if isinstance(queries, Query) else queries,
        description=description,
        action=action,
        **options,
    )


def cells(title: str, query: Query, description: str, action: str, **options: Any) -> Panel:
    """Returns coloured cells: one for each series, with its name and state."""
    return Panel(
        type=PanelType.STAT,
        title=title,
        queries=(query,),
        description=description,
        action=action,
        cells=True,
        **options,
    )


def heatmap(title: str, query: Query, description: str, action: str, **options: Any) -> Panel:
    """Returns a heatmap of a histogram: cumulative series by `le`, which is the legend."""
    return Panel(
        type=PanelType.HEATMAP,
        title=title,
        queries=(query,),
        description=description,
        action=action,
        **options,
    )


def state_timeline(
    title: str, query: Query, description: str, action: str, **options: Any
) -> Panel:
    """Returns a state timeline panel."""
    return Panel(
        type=PanelType.STATE_TIMELINE,
        title=title,
        queries=(query,),
        description=description,
        action=action,
        **options,
    )


def table(
    title: str, columns: tuple[Column, ...], description: str, action: str, **options: Any
) -> Panel:
    """Returns a table of current values."""
    return Panel(
        type=PanelType.TABLE,
        title=title,
        columns=columns,
        description=description,
        action=action,
        **{"width": 24, "height": TABLE_HEIGHT, **options},
    )


def bar_chart(
    title: str, columns: tuple[Column, ...], description: str, action: str, **options: Any
) -> Panel:
    """Returns a stacked bar chart of current values."""
    return Panel(
        type=PanelType.BAR_CHART,
        title=title,
        columns=columns,
        description=description,
        action=action,
        **options,
    )
