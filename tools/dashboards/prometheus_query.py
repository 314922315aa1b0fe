"""Ask a Prometheus what a dashboard's JSON asks it, with the choices filled in as Grafana does."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
Labels = Mapping[str, str]
ALL_VALUES = ("$__all",)

_LABEL_VALUES = re.compile(r"label_values\((?P<metric>.*), *(?P<label>\w+)\)\Z", re.DOTALL)
_QUERY_RESULT = re.compile(r"query_result\((?P<expr>.*)\)\Z", re.DOTALL)
_LEGEND = re.compile(r"\{\{\s*(.+?)\s*\}\}")
_REGEX_SPECIAL = re.compile(r"[\\^$*+?.()|\[\]{}]")


class BadQueryError(Exception):
    """Prometheus refuses the expression."""


@dataclass(frozen=True, slots=True)
class TimeRange:
    """The time range of a dashboard, in Unix seconds, and the step of its graphs.

    scrape: the scrape interval set in the data source, in seconds.
    """

    start: float
    end: float
    step: int = 60
    scrape: int = 15

    @property
    def range(self) -> int:
        return int(self.end - self.start)

    @property
    def rate_interval(self) -> int:
        return max(self.step + self.scrape, 4 * self.scrape)


@dataclass(frozen=True, slots=True)
class ResultSeries:
    """One series of an answer: its name in the legend, its labels, (time, value) pairs."""

    name: str
    labels: Labels
    points: tuple[tuple[float, float], ...]

    @property
    def last(self) -> float:
        return self.points[-1][1]


@dataclass(frozen=True, slots=True)
class TargetResult:
    """What one target of a panel gave. expr: as it was asked."""

    letter: str
    expr: str
    series: tuple[ResultSeries, ...]


@dataclass(frozen=True, slots=True)
class PrometheusApi:
    """A Prometheus server at a URL."""

    url: str

    def get(self, path: str, **arguments: str | float) -> Any:
        """The `data` of a reply. Raises BadQueryError for an expression it refuses."""
        body = urllib.parse.urlencode(arguments).encode() if arguments else None
        request = urllib.request.Request(f"{self.url}/api/v1/{path}", data=body)  # noqa: S310 - a server the caller names
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310 - as above
                return json.load(reply)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise BadQueryError(error.read().decode(errors="replace")) from None

    def instant(self, expr: str, time: float) -> tuple[ResultSeries, ...]:
        found = self.get("query", query=expr, time=time)
        if found["resultType"] == "scalar":
            return (ResultSeries("", {}, (_point(found["result"]),)),)
        return tuple(ResultSeries("", s["metric"], (_point(s["value"]),)) for s in found["result"])

    def range(self, expr: str, start: float, end: float, step: int) -> tuple[ResultSeries, ...]:
        start, end = (int(time) // step * step for time in (start, end))  # as Grafana aligns them
        found = self.get("query_range", query=expr, start=start, end=end, step=step)
        return tuple(
            ResultSeries("", s["metric"], tuple(map(_point, s["values"]))) for s in found["result"]
        )


def _point(pair: list[Any]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])


@dataclass
class DashboardQuerier:
    """Asks for a dashboard. chosen: by variable, the values picked, or ALL."""

    api: PrometheusApi
    dashboard: Json
    window: TimeRange
    chosen: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def fill(self, text: str) -> str:
        """The expression with every variable of Grafana's and of the dashboard's own filled in."""
        built_in = {
            "__rate_interval": f"{self.window.rate_interval}s",
            "__interval_ms": str(self.window.step * 1000),
            "__interval": f"{self.window.step}s",
            "__range_s": str(self.window.range),
            "__range_ms": str(self.window.range * 1000),
            "__range": f"{self.window.range}s",
        }
        known = {each["name"]: each for each in self.dashboard["templating"]["list"]}

        def value(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            if name in built_in:
                return built_in[name]
            return self._value(known[name]) if name in known else match[0]

        return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, text)

    def _value(self, variable: Json) -> str:
        values = self.chosen.get(variable["name"], ALL_VALUES)
        if variable["type"] == "custom":
            values = self.chosen.get(variable["name"], (variable["current"]["value"],))
            return values[0]
        if values == ALL_VALUES:
            return str(variable["allValue"])
        escaped = [_REGEX_SPECIAL.sub(r"\\\\\g<0>", value) for value in values]
        return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"

    def options(self, name: str) -> list[str]:
        """The values a variable of the dashboard has to choose from."""
        (variable,) = (v for v in self.dashboard["templating"]["list"] if v["name"] == name)
        if variable["type"] == "custom":
            return [option["value"] for option in variable["options"]]
        query = self.fill(variable["query"]["query"])
        if match := _LABEL_VALUES.match(query):
            found = self.api.get(
                "series",
                **{"match[]": match["metric"], "start": self.window.start, "end": self.window.end},
            )
            values = {series[match["label"]] for series in found if series.get(match["label"])}
            return sorted(values)
        matched = _QUERY_RESULT.match(query)
        if matched is None:
            raise ValueError(f"{name}: a query of no known kind: {query}")
        return _regex_values(variable["regex"], self.api.instant(matched["expr"], self.window.end))

    def panel(self, panel: Json) -> list[TargetResult]:
        """What all targets of a panel give."""
        answers = []
        for target in panel["targets"]:
            expr = self.fill(target["expr"])
            if target["instant"]:
                found = self.api.instant(expr, self.window.end)
            else:
                window = self.window
                found = self.api.range(expr, window.start, window.end, window.step)
            named = (
                ResultSeries(legend(target["legendFormat"], s.labels), s.labels, s.points)
                for s in found
            )
            answers.append(TargetResult(target["refId"], expr, tuple(named)))
        return answers

    def annotation(self, annotation: Json) -> tuple[ResultSeries, ...]:
        """The marks of an annotation query, one a point."""
        expr = self.fill(annotation["expr"])
        found = self.api.range(expr, self.window.start, self.window.end, 60)
        return tuple(
            ResultSeries(legend(annotation["titleFormat"], s.labels), s.labels, s.points)
            for s in found
        )


def legend(form: str, labels: Labels) -> str:
    """The name of a series in the legend."""
    if form == "__auto":
        return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    return " ".join(_LEGEND.sub(lambda match: labels.get(match[1], ""), form).split())


def _regex_values(regex: str, found: tuple[ResultSeries, ...]) -> list[str]:
    """Values picked by a variable's regular expression with groups `text` and `value`."""
    pattern = re.compile(regex.strip("/g").strip("/").replace("(?<", "(?P<"))
    values = []
    for series in found:
        line = "{" + ",".join(f'{key}="{value}"' for key, value in series.labels.items()) + "}"
        matches = [match.groupdict() for match in pattern.finditer(line)]
        values += [match["value"] for match in matches if match.get("value")]
    return values


def iter_panels(dashboard: Json) -> Iterator[Json]:
    """Every panel that asks something, those in collapsed rows too."""
    for panel in dashboard["panels"]:
        for each in (panel, *panel.get("panels", ())):
            if each["type"] != "row":
                yield each


def table_rows(panel: Json, answers: list[TargetResult]) -> list[dict[str, str | float]]:
    """A table's lines as Grafana's merge and organize make them: {title of the column: value}."""
    organize: Json = next(t["options"] for t in panel["transformations"] if t["id"] == "organize")
    frames = [answer for answer in answers if answer.series]
    if not frames:
        return []
    keys = set.intersection(*({*frame.series[0].labels} for frame in frames))
    merged: dict[tuple[str, ...], dict[str, str | float]] = {}
    for frame in frames:
        column = "Value" if len(panel["targets"]) == 1 else f"Value #{frame.letter}"
        for series in frame.series:
            key = tuple(series.labels.get(label, "") for label in sorted(keys))
            line = merged.setdefault(key, {})
            if column in line:  # a second value for the same line stands on a line of its own
                line = merged.setdefault((*key, *series.labels.values()), dict(series.labels))
            line |= {**series.labels, column: series.last}
    names, hidden = organize["renameByName"], organize["excludeByName"]
    order = sorted(names, key=lambda name: organize["indexByName"].get(name, 99))
    lines = []
    for line in merged.values():
        shown = [name for name in order if not hidden.get(name)]
        others = [name for name in line if name not in names and not hidden.get(name)]
        lines.append(
            {names.get(name, name): line[name] for name in (*shown, *others) if name in line}
        )
    return lines
