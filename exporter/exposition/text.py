"""Rows to sample lines, once per reading.

Sample lines of text 0.0.4 and OpenMetrics 1.0 are the same bytes; only the comment lines differ
(`page.py`). What precedes the number, `name{labels} `, is made once and kept while the series
lives: that is what makes rendering cheap. prometheus_client's `generate_latest` is the oracle: the
same families give the same bytes, labels in alphabetical order and Go's number format included.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from exporter.errors import BadData, Internal, SourceError
from exporter.model import Histogram, Metric, Rendered, Row, Summary, Type

Labels = tuple[str, ...]


def number(value: float) -> str:
    """A float as Go prints it, as prometheus_client does. Raises OverflowError above 1e308."""
    value = float(value)
    text = repr(value)
    dot = text.find(".")
    if dot > 6 and value > 0:
        mantissa = f"{text[0]}.{text[1:dot]}{text[dot + 1 :]}".rstrip("0.")
        return f"{mantissa}e+{dot - 1:02d}"
    if dot < 0:  # nan, inf, 1e+16
        return {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}.get(text, text)
    return text


def escape(value: str) -> str:
    """A label value as the formats want it. What is no valid Unicode becomes question marks."""
    if not value.isprintable() or "\\" in value or '"' in value:
        value = value.encode("utf-8", "replace").decode("utf-8")
        value = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return value


class _Column:
    """One metric of one target: its series' prefixes, kept from reading to reading."""

    def __init__(self, metric: Metric[Any]) -> None:
        self.metric = metric
        order = sorted(range(len(metric.label_names)), key=metric.label_names.__getitem__)
        self._order = tuple((metric.label_names[i], i) for i in order)
        parts = metric.type in (Type.SUMMARY, Type.HISTOGRAM)
        self._suffixes = ("_count", "_sum") if parts else ("",)
        self._prefixes: dict[Labels, tuple[str, ...]] = {}

    def render(self, rows: Sequence[Row]) -> tuple[list[str], int]:
        """Sample lines, and how many values were left out as a second of the same labels."""
        known, self._prefixes = self._prefixes, {}
        fresh = self._prefixes
        lines: list[str] = []
        twice = 0
        for labels, value in self._values(rows):
            if labels in fresh:
                twice += 1
                continue
            prefixes = known.get(labels)
            if prefixes is None:
                prefixes = self._prefix(labels)
            if isinstance(value, Histogram):
                lines += _buckets(prefixes[2:], value)
            if isinstance(value, (Summary, Histogram)):
                lines.append(f"{prefixes[0]}{number(value.count)}\n")
                lines.append(f"{prefixes[1]}{number(value.sum)}\n")
            else:
                lines.append(f"{prefixes[0]}{number(value)}\n")
            fresh[labels] = prefixes
        return lines, twice

    def _values(self, rows: Sequence[Row]) -> Iterable[tuple[Labels, Any]]:
        get = self.metric.get
        if self.metric.type is Type.INFO:
            for row in rows:
                if (texts := get(row)) is not None:
                    yield row.labels + tuple(texts), 1
        elif self.metric.labels:
            for row in rows:
                for labels, value in get(row):
                    yield row.labels + labels, value
        else:
            for row in rows:
                if (value := get(row)) is not None:
                    yield row.labels, value

    def _prefix(self, labels: Labels) -> tuple[str, ...]:
        if len(labels) != len(self._order):
            raise ValueError(f"{len(labels)} label values for {self.metric.label_names}")
        name = self.metric.name
        pairs = [f'{label}="{escape(labels[i])}"' for label, i in self._order]
        braces = f"{{{','.join(pairs)}}}" if pairs else ""
        prefixes = tuple(f"{name}{suffix}{braces} " for suffix in self._suffixes)
        if self.metric.type is Type.HISTOGRAM:  # and what stands around the bound of a bucket
            place = sum(label < "le" for label, _ in self._order)
            before, after = ",".join([*pairs[:place], 'le="']), ",".join(['"', *pairs[place:]])
            prefixes += (f"{name}_bucket{{{before}", f"{after}}} ")
        return prefixes


def _buckets(around: Labels, value: Histogram) -> Iterable[str]:
    """The lines of a histogram's buckets, the last of which is that of +Inf."""
    before, after = around
    for bound, count in zip(value.bounds, value.buckets, strict=True):
        yield f"{before}{number(bound)}{after}{number(count)}\n"
    yield f"{before}+Inf{after}{number(value.count)}\n"


class Renderer:
    """Renders the readings of one target. Not shared between threads: one reading at a time."""

    def __init__(self, metrics: Iterable[Metric[Any]]) -> None:
        self._columns = tuple(_Column(metric) for metric in metrics)

    def render(self, rows: Iterable[Row]) -> Rendered:
        """All sample lines of a reading. What cannot be rendered is a problem, not an exception."""
        by_type: dict[type, list[Row]] = {}
        for row in rows:
            by_type.setdefault(type(row), []).append(row)
        lines: dict[str, bytes] = {}
        problems: list[SourceError] = []
        series = 0
        for column in self._columns:
            metric = column.metric
            try:
                rendered, twice = column.render(by_type.get(metric.row, ()))
            except Exception as error:  # noqa: BLE001 - one metric must not take the others with it
                problems.append(Internal(f"{metric.name} cannot be rendered: {error!r}"))
                continue
            if twice:
                problems.append(BadData(f"{metric.name}: {twice} values with labels seen before"))
            if rendered:
                lines[metric.name] = "".join(rendered).encode()
                series += len(rendered)
        return Rendered(lines, series, tuple(problems))
