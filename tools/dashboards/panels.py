"""The kinds of panels: what is asked, how it is shown. Nothing here knows Grafana's JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

ThresholdSteps = tuple[tuple[str, float | None], ...]
"""Colours of values: (colour, from which value on); the first one has None."""

NEUTRAL: ThresholdSteps = (("text", None),)
RED_ABOVE_0: ThresholdSteps = (("green", None), ("red", 0.5))
ORANGE_ABOVE_0: ThresholdSteps = (("green", None), ("orange", 0.5))


def rising(orange: float, red: float) -> ThresholdSteps:
    """Green, then orange, then red as the value rises."""
    return (("green", None), ("orange", orange), ("red", red))


def falling(red_below: float, orange_below: float) -> ThresholdSteps:
    """Red, then orange, then green as the value rises."""
    return (("red", None), ("orange", red_below), ("green", orange_below))


class PanelType(StrEnum):
    """Grafana's own panels; no other plug-in is used."""

    BARS = "barchart"
    LINES = "timeseries"
    STAT = "stat"
    STATES = "state-timeline"
    TABLE = "table"


@dataclass(frozen=True, slots=True)
class Query:
    """One question. legend: the name of each series, `{{label}}` standing for its value.

    empty: why it may give nothing although its metrics are there; empty text: it may not.
    """

    expr: str
    legend: str = ""
    empty: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table, from a query of its own; or of a label, where `label` names one.

    link: where a click leads. mapping: (value, text, colour) of values that mean something.
    missing: what stands where there is no value.
    """

    title: str
    expr: str = ""
    unit: str = "short"
    label: str = ""
    steps: ThresholdSteps = ()
    gauge: bool = False
    decimals: int | None = None
    link: str = ""
    mapping: tuple[tuple[str, str, str], ...] = ()
    missing: str = "-"
    width: int | None = None
    empty: str = ""
    hidden: bool = False
    """The value is not shown: the query is there for its labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A panel. shows, do: the first and the last part of its description.

    blank: what it says where there is no data. nan: what it says for a value that is not a number.
    limits: a pattern of the names of series that are limits, drawn as dashed lines.
    repeat: a variable for each of whose values the panel is drawn once.
    hidden_labels: labels by which a table's rows differ but that are not shown.
    """

    kind: PanelType
    title: str
    shows: str
    do: str
    queries: tuple[Query, ...] = ()
    columns: tuple[Column, ...] = ()
    unit: str = ""
    width: int = 8
    height: int = 8
    blank: str = "No data"
    nan: str = "No traffic"
    steps: ThresholdSteps = NEUTRAL
    decimals: int | None = None
    minimum: float | None = None
    maximum: float | None = None
    stack: bool = False
    limits: str = ""
    mapping: tuple[tuple[str, str, str], ...] = ()
    link: tuple[str, str] = ("", "")
    repeat: str = ""
    hidden_labels: tuple[str, ...] = ("job",)
    sort: str = ""
    text: bool = False
    """Whether a stat shows the name of the series in place of its value."""

    def expressions(self) -> list[str]:
        """Everything it asks."""
        return [q.expr for q in self.queries] + [c.expr for c in self.columns if c.expr]


@dataclass(frozen=True, slots=True)
class PanelRow:
    """A line of panels under a heading."""

    title: str
    panels: tuple[Panel, ...]
    collapsed: bool = False


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of a dashboard. query: as Grafana's Prometheus data source takes it."""

    name: str
    label: str
    query: str = ""
    regex: str = ""
    all_value: str = ".+"
    values: tuple[str, ...] = ()
    chosen: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Annotation:
    """Marks on the time axis. at_value: the value of the series is the time, in milliseconds."""

    name: str
    expr: str
    title: str
    colour: str
    at_value: bool = False
    shown: bool = True


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A dashboard; it is kept as grafana/<file>.json."""

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


def stat(title: str, expr: str, shows: str, do: str, **more: Any) -> Panel:
    """One big number."""
    query = Query(expr, empty=str(more.pop("empty", "")))
    given = {"width": 4, "height": 4, **more}
    return Panel(kind=PanelType.STAT, title=title, queries=(query,), shows=shows, do=do, **given)


def time_series(
    title: str, queries: Query | tuple[Query, ...], shows: str, do: str, **more: Any
) -> Panel:
    """Values over time."""
    several = (queries,) if isinstance(queries, Query) else queries
    return Panel(kind=PanelType.LINES, title=title, queries=several, shows=shows, do=do, **more)


def state_timeline(title: str, query: Query, shows: str, do: str, **more: Any) -> Panel:
    """What was the case when."""
    return Panel(kind=PanelType.STATES, title=title, queries=(query,), shows=shows, do=do, **more)


def table(title: str, columns: tuple[Column, ...], shows: str, do: str, **more: Any) -> Panel:
    """One line for each thing, as it is now."""
    given = {"width": 24, **more}
    return Panel(kind=PanelType.TABLE, title=title, columns=columns, shows=shows, do=do, **given)


def bar_chart(title: str, columns: tuple[Column, ...], shows: str, do: str, **more: Any) -> Panel:
    """Stacked bars, one for each thing, as it is now."""
    return Panel(kind=PanelType.BARS, title=title, columns=columns, shows=shows, do=do, **more)
