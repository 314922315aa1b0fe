"""Runs a dashboard's queries against a Prometheus, with variables interpolated as in Grafana."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Json = dict[str, Any]
Labels = Mapping[str, str]
ALL_VALUES = ("$__all",)

_LABEL_VALUES = re.compile(r"label_values\((?P<metric>.*), *(?P<label>\w+)\)\Z", re.DOTALL)
_QUERY_RESULT = re.compile(r"query_result\((?P<expr>.*)\)\Z", re.DOTALL)
_LEGEND = re.compile(r"\{\{\s*(.+?)\s*\}\}")
_REGEX_SPECIAL = re.compile(r"[\\^$*+?.()|\[\]{}]")


class BadQueryError(Exception):
    """Prometheus rejects the expression."""


@dataclass(frozen=True, slots=True)
class TimeRange:
    """The time range of a dashboard, in Unix seconds, and the step of its graphs in seconds.

    scrape_interval: seconds, as set in the data source. A query's own minimum step replaces it.
    """

    start: float
    end: float
    step: int = 60
    scrape_interval: int = 15

    @property
    def seconds(self) -> int:
        return int(self.end - self.start)

    @property
    def rate_interval(self) -> int:
        """Seconds of `$__rate_interval`."""
        return max(self.step + self.scrape_interval, 4 * self.scrape_interval)

    def with_minimum_step(self, seconds: int) -> TimeRange:
        """Returns the range as a query with this minimum step uses it."""
        return replace(self, step=max(self.step, seconds), scrape_interval=seconds)


@dataclass(frozen=True, slots=True)
class ResultSeries:
    """A series of a result: its name in the legend, its labels, (Unix seconds, value) points."""

    name: str
    labels: Labels
    points: tuple[tuple[float, float], ...]

    @property
    def last(self) -> float:
        return self.points[-1][1]


@dataclass(frozen=True, slots=True)
class TargetResult:
    """The result of a panel's target. expr: with variables interpolated."""

    ref_id: str
    expr: str
    series: tuple[ResultSeries, ...]


@dataclass(frozen=True, slots=True)
class PrometheusApi:
    """The HTTP API of a Prometheus server at a URL."""

    url: str

    def get(self, path: str, **arguments: str | float) -> Any:
        """Returns the `data` of a response. Raises BadQueryError for an HTTP error."""
        body = urllib.parse.urlencode(arguments).encode() if arguments else None
        request = urllib.request.Request(f"{self.url}/api/v1/{path}", data=body)  # noqa: S310 - a server the caller names
        try:
            with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310 - as above
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise BadQueryError(error.read().decode(errors="replace")) from None

    def instant(self, expr: str, time: float) -> tuple[ResultSeries, ...]:
        data = self.get("query", query=expr, time=time)
        if data["resultType"] == "scalar":
            return (ResultSeries("", {}, (_point(data["result"]),)),)
        return tuple(ResultSeries("", s["metric"], (_point(s["value"]),)) for s in data["result"])

    def range(self, expr: str, start: float, end: float, step: int) -> tuple[ResultSeries, ...]:
        start, end = (int(time) // step * step for time in (start, end))  # as Grafana aligns them
        data = self.get("query_range", query=expr, start=start, end=end, step=step)
        return tuple(
            ResultSeries("", s["metric"], tuple(map(_point, s["values"]))) for s in data["result"]
        )


def _point(pair: list[Any]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])


@dataclass
class DashboardQuerier:
    """Runs the queries of a dashboard. selected: the values of each variable, or ALL_VALUES.

    loaded: the options of variables by query and time range. Each is queried once, as Grafana does
    when it loads a dashboard.
    """

    api: PrometheusApi
    dashboard: Json
    time_range: TimeRange
    selected: dict[str, tuple[str, ...]] = field(default_factory=dict)
    loaded: dict[tuple[str, float, float], list[str]] = field(default_factory=dict, repr=False)

    def interpolate(self, text: str) -> str:
        """Returns the text with Grafana's built-in and the dashboard's variables replaced."""
        built_in = {
            "__rate_interval": f"{self.time_range.rate_interval}s",
            "__interval_ms": str(self.time_range.step * 1000),
            "__interval": f"{self.time_range.step}s",
            "__range_s": str(self.time_range.seconds),
            "__range_ms": str(self.time_range.seconds * 1000),
            "__range": f"{self.time_range.seconds}s",
        }
        variables = {variable["name"]: variable for variable in self._variables()}

        def value(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            if name in built_in:
                return built_in[name]
            return self._value(variables[name]) if name in variables else match[0]

        return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, text)

    def _variables(self) -> list[Json]:
        variables: list[Json] = self.dashboard["templating"]["list"]
        return variables

    def _value(self, variable: Json) -> str:
        values = self.selected.get(variable["name"], ALL_VALUES)
        if variable["type"] == "custom":
            values = self.selected.get(variable["name"], (variable["current"]["value"],))
            return values[0]
        if not variable["multi"]:  # Grafana does not escape the value of a single selection
            return (
                values[0]
                if values != ALL_VALUES
                else next(iter(self.options(variable["name"])), "")
            )
        if values == ALL_VALUES:
            return str(variable["allValue"])
        escaped = [_REGEX_SPECIAL.sub(r"\\\\\g<0>", value) for value in values]
        return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"

    def options(self, name: str) -> list[str]:
        """Returns the values that a variable of the dashboard offers."""
        (variable,) = (v for v in self._variables() if v["name"] == name)
        if variable["type"] == "custom":
            return [option["value"] for option in variable["options"]]
        query = self.interpolate(variable["query"]["query"])
        key = (query, self.time_range.start, self.time_range.end)
        if key not in self.loaded:
            self.loaded[key] = self._queried_options(variable, query)
        return self.loaded[key]

    def _queried_options(self, variable: Json, query: str) -> list[str]:
        start, end = self.time_range.start, self.time_range.end
        if match := _LABEL_VALUES.match(query):
            label_sets = self.api.get(
                "series", **{"match[]": match["metric"], "start": start, "end": end}
            )
            label = match["label"]
            return sorted({labels[label] for labels in label_sets if labels.get(label)})
        match = _QUERY_RESULT.match(query)
        if match is None:
            raise ValueError(f"{variable['name']}: unknown kind of variable query: {query}")
        return _regex_values(variable["regex"], self.api.instant(match["expr"], end))

    def query_panel(self, panel: Json) -> list[TargetResult]:
        """Returns the results of all targets of a panel."""
        results = []
        for target in panel["targets"]:
            querier = self
            if minimum := target.get("interval"):
                seconds = int(minimum.removesuffix("s"))
                querier = replace(self, time_range=self.time_range.with_minimum_step(seconds))
            expr = querier.interpolate(target["expr"])
            if target["instant"]:
                series = self.api.instant(expr, self.time_range.end)
            else:
                series = self._range(expr, querier.time_range.step)
            series = _named(series, target["legendFormat"])
            results.append(TargetResult(target["refId"], expr, series))
        return results

    def query_annotation(self, annotation: Json) -> tuple[ResultSeries, ...]:
        """Returns the series of an annotation query; each point is an annotation."""
        series = self._range(self.interpolate(annotation["expr"]), 60)
        return _named(series, annotation["titleFormat"])

    def _range(self, expr: str, step: int) -> tuple[ResultSeries, ...]:
        return self.api.range(expr, self.time_range.start, self.time_range.end, step)


def _named(series: tuple[ResultSeries, ...], legend_format: str) -> tuple[ResultSeries, ...]:
    return tuple(ResultSeries(legend(legend_format, s.labels), s.labels, s.points) for s in series)


def legend(legend_format: str, labels: Labels) -> str:
    """Returns the name of a series in the legend."""
    if legend_format == "__auto":
        return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    name = _LEGEND.sub(lambda match: labels.get(match[1], ""), legend_format)
    return " ".join(name.split())


def _regex_values(regex: str, result: tuple[ResultSeries, ...]) -> list[str]:
    """Returns the `value` groups of a variable's regular expression."""
    pattern = re.compile(regex.strip("/g").strip("/").replace("(?<", "(?P<"))
    values = []
    for series in result:
        line = "{" + ",".join(f'{key}="{value}"' for key, value in series.labels.items()) + "}"
        matches = [match.groupdict() for match in pattern.finditer(line)]
        values += [match["value"] for match in matches if match.get("value")]
    return values


def iter_panels(dashboard: Json) -> Iterator[Json]:
    """Yields every panel with queries, including those in collapsed rows."""
    for panel in dashboard["panels"]:
        for nested in (panel, *panel.get("panels", ())):
            if nested["type"] != "row":
                yield nested


def table_rows(panel: Json, results: list[TargetResult]) -> list[dict[str, str | float]]:
    """Returns a table's rows, {column title: value}, after Grafana's merge and organize."""
    organize: Json = next(t["options"] for t in panel["transformations"] if t["id"] == "organize")
    frames = [result for result in results if result.series]
    if not frames:
        return []
    keys = set.intersection(*({*frame.series[0].labels} for frame in frames))
    merged: dict[tuple[str, ...], dict[str, str | float]] = {}
    for frame in frames:
        column = "Value" if len(panel["targets"]) == 1 else f"Value #{frame.ref_id}"
        for series in frame.series:
            key = tuple(series.labels.get(label, "") for label in sorted(keys))
            row = merged.setdefault(key, {})
            if column in row:  # a second value for the same key is a row of its own
                row = merged.setdefault((*key, *series.labels.values()), dict(series.labels))
            row |= {**series.labels, column: series.last}
    titles, hidden = organize["renameByName"], organize["excludeByName"]
    order = sorted(titles, key=lambda field: organize["indexByName"].get(field, 99))
    rows = []
    for row in merged.values():
        fields = [field for field in order if not hidden.get(field)]
        fields += [field for field in row if field not in titles and not hidden.get(field)]
        rows.append({titles.get(field, field): row[field] for field in fields if field in row})
    return rows
