"""Lossless parser of the Prometheus text format. Pure.

Names, labels and values keep their spelling, escapes included; the label `upstream` is added, time
stamps are dropped. (prometheus_client's own parser would rename the counter `nv_inference_count` to
`…_total`, and costs thirty times as much.)

A parsed series is cached while it is on the page, so that a known page costs one dict lookup and
one regex match per sample.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from exporter.errors import BadData
from exporter.model import UpstreamFamily

_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LABEL = re.compile(
    r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\[\\"n])*)"[ \t]*(,|\Z)'
)
# A number as Go parses it, and an optional time stamp.
_NUMBER = re.compile(
    r"[ \t]*([+-]?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?"
    r"|[Ii][Nn][Ff](?:[Ii][Nn][Ii][Tt][Yy])?)|[Nn][Aa][Nn])"
    r"(?:[ \t]+-?[0-9.]+)?[ \t\r]*(?:# .*)?\Z"
)
# The common case: no braces or hashes in label values, a decimal number, no time stamp.
_PLAIN = re.compile(r"([^{}# \t]+(?:\{[^{}#]*\})?) ([+-]?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)\Z")
_HELP = re.compile(r"(?:[^\\]|\\[\\n])*\Z")
# Suffixes of the sample names of each type.
_SUFFIXES = {
    "counter": ("", "_total"),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("", "_sum", "_count"),
    "untyped": ("",),
}
_TYPES = {"unknown": "untyped", "": "untyped", **{known: known for known in _SUFFIXES}}
_MAX_HELP_LENGTH = 2048
_MAX_SERIES_LENGTH = 16384
_MAX_LABELS = 64
# A number of at most this length without an exponent cannot overflow.
_MAX_SAFE_LENGTH = 300

LabelTuple = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _ParsedSeries:
    """One series of an upstream's page, as written on our page.

    prefix: our line up to the value: name and labels, with `upstream`. labels: as on the upstream's
    page. label_set: the labels without `le` and `quantile`, as text; equal for all samples of one
    histogram or summary. canonical: whether OpenMetrics accepts the spelling of its bound.
    """

    name: str
    prefix: str
    labels: LabelTuple
    label_set: str
    canonical: bool


@dataclass(slots=True)
class _ParsedFamily:
    """A family and its sample lines.

    kept: whether it is merged. openmetrics: whether OpenMetrics accepts all samples so far.
    needs_check: whether that has to be checked for further samples. label_sets: those seen so far;
    OpenMetrics requires the samples of a label set in succession.
    """

    name: str
    type: str
    helps: dict[str, str]
    kept: bool = True
    needs_check: bool = False
    openmetrics: bool = True
    lines: list[str] = field(default_factory=list)
    last_label_set: str | None = None
    label_sets: set[str] = field(default_factory=set)

    def check(self, series: _ParsedSeries, value: str) -> None:
        """Clears `openmetrics` if OpenMetrics would not accept the sample for this type."""
        negative_or_nan = value[0] in "-nN"
        if self.type == "counter":
            valid = series.name.endswith("_total") and not negative_or_nan
        else:
            valid = series.canonical and not (negative_or_nan and series.name != self.name)
            if series.label_set != self.last_label_set:
                self.last_label_set = series.label_set
                valid = valid and series.label_set not in self.label_sets
                self.label_sets.add(series.label_set)
        self.openmetrics = self.needs_check = valid

    def upstream_family(self) -> UpstreamFamily:
        # OpenMetrics declares a counter without the `_total` of its samples.
        name = self.name
        if self.type == "counter" and self.openmetrics and not name.endswith("_total"):
            name = f"{name}_total"
        lines = "".join(self.lines).encode()
        help_text = self.helps.get(self.name)
        return UpstreamFamily(name, self.type, help_text, lines, len(self.lines), self.openmetrics)


@dataclass(frozen=True, slots=True)
class WantedSample:
    """A sample that the target also exports as a row. labels: as on the page, still escaped."""

    name: str
    labels: LabelTuple
    value: float


@dataclass(frozen=True, slots=True)
class ParsedPage:
    """Result of parsing a page.

    sample_count: samples on the page. dropped: omitted samples and families, by reason.
    """

    families: tuple[UpstreamFamily, ...]
    wanted_samples: tuple[WantedSample, ...]
    sample_count: int
    dropped: Counter[str]


class _PageState:
    """State while parsing one page."""

    def __init__(self, keep: Callable[[str], bool], wanted_names: frozenset[str]) -> None:
        self._keep = keep
        self._wanted_names = wanted_names
        self.families: dict[str, _ParsedFamily] = {}
        self._by_sample_name: dict[str, _ParsedFamily] = {}
        self._helps: dict[str, str] = {}
        self._refused: set[str] = set()
        self.prefixes: set[str] = set()
        self.dropped: Counter[str] = Counter()
        self.wanted_samples: list[tuple[_ParsedSeries, str]] = []

    def add(self, series: _ParsedSeries, value: str) -> None:
        """Adds a sample of a series that is new on this page."""
        self.prefixes.add(series.prefix)
        family = self._by_sample_name.get(series.name)
        if family is None:
            if series.name in self._refused:
                self.dropped["conflict"] += 1
                return
            family = self._family(series.name, "untyped")
        if series.name in self._wanted_names:
            self.wanted_samples.append((series, value))
        if family.kept:
            family.lines.append(f"{series.prefix}{value}\n")
            if family.needs_check:
                family.check(series, value)

    def comment(self, line: str) -> None:
        """Parses a TYPE or HELP line; the first of each name counts."""
        fields = line.rstrip("\r").split(" ", 3)
        if len(fields) < 3 or fields[0] != "#":
            return
        kind, name, rest = fields[1], fields[2], fields[3] if len(fields) > 3 else ""
        if kind == "HELP":
            if len(rest) <= _MAX_HELP_LENGTH and _HELP.match(rest) and _is_valid_text(rest):
                self._helps.setdefault(name, rest)
        elif kind == "TYPE" and _METRIC.match(name):
            known_type = _TYPES.get(rest.strip().lower())
            if known_type is not None:  # samples of other types stay untyped
                self._declare(name, known_type)

    def _declare(self, name: str, type: str) -> None:
        family = self.families.get(name)
        if family is not None:
            if family.type != type:
                self.dropped["conflict"] += 1
        elif any(f"{name}{suffix}" in self._by_sample_name for suffix in _SUFFIXES[type]):
            self.dropped["conflict"] += 1
            self._refused.add(name)
        else:
            self._family(name, type)

    def _family(self, name: str, type: str) -> _ParsedFamily:
        family = _ParsedFamily(name, type, self._helps, kept=self._keep(name))
        family.needs_check = type not in ("gauge", "untyped")
        self.families[name] = family
        for suffix in _SUFFIXES[type]:
            self._by_sample_name.setdefault(f"{name}{suffix}", family)
        return family


def family_names(name: str, type: str) -> set[str]:
    """Returns all names that a family uses on a page, in either format."""
    names = {name, *(f"{name}{suffix}" for suffix in _SUFFIXES[type])}
    if type in ("histogram", "summary", "counter"):
        names.add(f"{name.removesuffix('_total')}_created")
    if type == "counter":
        names.add(name.removesuffix("_total"))
    return names


class TextParser:
    """Parses the pages of one upstream.

    keep: decides by name whether a family is merged. wanted_names: of samples to return as well.
    """

    def __init__(
        self,
        upstream: str,
        keep: Callable[[str], bool],
        max_samples: int,
        wanted_names: frozenset[str] = frozenset(),
    ) -> None:
        self._upstream = upstream
        self._keep = keep
        self._max_samples = max_samples
        self._wanted_names = wanted_names
        # By name and labels as on the upstream's page.
        self._known: dict[str, _ParsedSeries] = {}

    def parse(self, body: bytes) -> ParsedPage:
        """Raises BadData if the page has more than max_samples samples."""
        lines = body.decode("utf-8", "surrogateescape").split("\n")
        known, self._known = self._known, {}
        page = _PageState(self._keep, self._wanted_names)
        sample_count = 0
        plain = _PLAIN.match
        for line in lines:
            match = plain(line)
            if match is not None:
                series_text, value = match.groups()
                if ("e" in value or len(value) > _MAX_SAFE_LENGTH) and math.isinf(float(value)):
                    value = ""  # Prometheus would reject the whole page
            elif not line or line == "\r":
                continue
            elif line[0] == "#":
                page.comment(line)
                continue
            else:
                series_text, value = _split_sample(line)
            sample_count += 1
            series = known.get(series_text) or self._parse_series(series_text)
            if series is None or not value:
                page.dropped["malformed"] += 1
            elif series.prefix in page.prefixes:
                page.dropped["duplicate"] += 1
            else:
                self._known[series_text] = series
                page.add(series, value)
        if sample_count > self._max_samples:
            self._known = {}
            raise BadData(
                f"{sample_count} samples, more than {self._max_samples}",
                "raise upstream.max_samples if this number is expected",
            )
        return ParsedPage(
            tuple(family.upstream_family() for family in page.families.values() if family.lines),
            tuple(
                WantedSample(series.name, series.labels, float(value))
                for series, value in page.wanted_samples
            ),
            sample_count,
            page.dropped,
        )

    def _parse_series(self, series_text: str) -> _ParsedSeries | None:
        """Parses name and labels; None if they are malformed."""
        if len(series_text) > _MAX_SERIES_LENGTH or not _is_valid_text(series_text):
            return None
        name, brace, inner = series_text.partition("{")
        name = name.strip(" \t")
        if not _METRIC.match(name):
            return None
        pairs = _parse_labels(inner[:-1]) if brace else []
        if pairs is None:
            return None
        return self._with_upstream(name, pairs)

    def _with_upstream(self, name: str, pairs: list[tuple[str, str]]) -> _ParsedSeries:
        taken = {label for label, _ in pairs}
        renamed = "exported_upstream"
        while renamed in taken:
            renamed = f"exported_{renamed}"
        labels = [(renamed if label == "upstream" else label, value) for label, value in pairs]
        labels.append(("upstream", self._upstream))
        labels.sort()
        inner = ",".join(f'{label}="{value}"' for label, value in labels)
        bound = next((value for label, value in pairs if label in ("le", "quantile")), None)
        label_set = ",".join(
            f'{label}="{value}"' for label, value in labels if label not in ("le", "quantile")
        )
        return _ParsedSeries(
            name, f"{name}{{{inner}}} ", tuple(pairs), label_set, bound is None or _canonical(bound)
        )


def _parse_labels(inner: str) -> list[tuple[str, str]] | None:
    """Parses the text between the braces; None if Prometheus would not accept it."""
    pairs: list[tuple[str, str]] = []
    position = 0
    while position < len(inner) and inner[position:].strip(" \t"):
        match = _LABEL.match(inner, position)
        if match is None:
            return None
        if match[1] == "__name__":
            return None
        pairs.append((match[1], match[2]))
        position = match.end()
        if len(pairs) > _MAX_LABELS:
            return None
    return pairs if len({label for label, _ in pairs}) == len(pairs) else None


def _split_sample(line: str) -> tuple[str, str]:
    """Splits a line into series and value; an empty value if it is malformed."""
    end = _series_end(line)
    match = _NUMBER.match(line, end)
    value = match[1] if match else ""
    if value and value[-1].isdigit() and math.isinf(float(value)):
        value = ""
    return line[:end], value


def _series_end(line: str) -> int:
    """Returns the index after name and labels."""
    brace = line.find("{")
    space = min((at for at in (line.find(" "), line.find("\t")) if at >= 0), default=len(line))
    if brace < 0 or space < brace:
        return space if brace < 0 or line[space:brace].strip(" \t") else _labels_end(line, brace)
    return _labels_end(line, brace)


def _labels_end(line: str, brace: int) -> int:
    """Returns the index after the closing brace, skipping braces within quotes."""
    quoted = False
    position = brace + 1
    while position < len(line):
        character = line[position]
        if quoted and character == "\\":
            position += 1
        elif character == '"':
            quoted = not quoted
        elif character == "}" and not quoted:
            return position + 1
        position += 1
    return position


def _canonical(bound: str) -> bool:
    """Returns whether a bound has OpenMetrics' spelling: 1.0, not 1."""
    return "." in bound or "e" in bound or bound == "+Inf"


def _is_valid_text(text: str) -> bool:
    """Returns whether the text was valid UTF-8, without carriage return or NUL."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\r" not in text and "\0" not in text
