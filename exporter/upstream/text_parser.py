"""A page in the text format, taken apart without touching a value. Pure.

Lossless: names, labels and values stay as they were written, escapes included; only `upstream` is
added to the labels and time stamps are left out. (prometheus_client's own parser would make
`nv_inference_count` a counter named `…_total`, and costs thirty times as much.)

What a series is called is worked out once and kept while the series is there, so that a page that
has been seen before costs a look-up and a number's check for each sample.
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
# A number as Go reads it, and perhaps a time stamp.
_NUMBER = re.compile(
    r"[ \t]*([+-]?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?"
    r"|[Ii][Nn][Ff](?:[Ii][Nn][Ii][Tt][Yy])?)|[Nn][Aa][Nn])"
    r"(?:[ \t]+-?[0-9.]+)?[ \t\r]*(?:# .*)?\Z"
)
# A line as nearly all are: no braces or hashes in label values, a plain number, no time stamp.
_PLAIN = re.compile(r"([^{}# \t]+(?:\{[^{}#]*\})?) ([+-]?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)\Z")
_HELP = re.compile(r"(?:[^\\]|\\[\\n])*\Z")
_PARTS = {
    "counter": ("", "_total"),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("", "_sum", "_count"),
    "untyped": ("",),
}
_TYPES = {"unknown": "untyped", "": "untyped", **{known: known for known in _PARTS}}
_LONGEST_HELP = 2048
_LONGEST_SERIES = 16384
_MOST_LABELS = 64
# A number with fewer characters and no exponent is none that overflows.
_LONG_NUMBER = 300

LabelTuple = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _ParsedSeries:
    """One series as it is written on our page.

    group: prefix without `le` and `quantile`, which the samples of one histogram share.
    canonical: whether its bound is written as OpenMetrics wants it.
    """

    name: str
    prefix: str
    labels: LabelTuple
    group: str
    canonical: bool


@dataclass(slots=True)
class _ParsedFamily:
    """checked: whether its samples are still looked at for what OpenMetrics would not take."""

    name: str
    type: str
    helps: dict[str, str]
    kept: bool = True
    checked: bool = False
    openmetrics: bool = True
    lines: list[str] = field(default_factory=list)
    last_group: str | None = None
    groups: set[str] = field(default_factory=set)

    def check(self, series: _ParsedSeries, value: str) -> None:
        """Note where OpenMetrics would not take the sample as one of its type."""
        odd = value[0] in "-nN"
        if self.type == "counter":
            fine = series.name.endswith("_total") and not odd
        else:
            fine = series.canonical and not (odd and series.name != self.name)
            if series.group != self.last_group:
                self.last_group = series.group
                fine = fine and series.group not in self.groups
                self.groups.add(series.group)
        self.openmetrics = self.checked = fine

    def foreign(self) -> UpstreamFamily:
        # A page in OpenMetrics declares a counter without the `_total` of its samples.
        name = self.name
        if self.type == "counter" and self.openmetrics and not name.endswith("_total"):
            name = f"{name}_total"
        lines = "".join(self.lines).encode()
        words = self.helps.get(self.name)
        return UpstreamFamily(name, self.type, words, lines, len(self.lines), self.openmetrics)


@dataclass(frozen=True, slots=True)
class WantedSample:
    """A sample of a family that is wanted for itself, too. labels: without `upstream`."""

    name: str
    labels: LabelTuple
    value: float


@dataclass(frozen=True, slots=True)
class ParsedPage:
    """What a page holds. dropped: samples and families left out, by reason. samples: as it came."""

    families: tuple[UpstreamFamily, ...]
    wanted: tuple[WantedSample, ...]
    samples: int
    dropped: Counter[str]


class _PageState:
    """What has been read of one page so far."""

    def __init__(self, keep: Callable[[str], bool], wanted: frozenset[str]) -> None:
        self._keep = keep
        self._wanted = wanted
        self.families: dict[str, _ParsedFamily] = {}
        self._owners: dict[str, _ParsedFamily] = {}
        self._helps: dict[str, str] = {}
        self._refused: set[str] = set()
        self.prefixes: set[str] = set()
        self.dropped: Counter[str] = Counter()
        self.samples: list[tuple[_ParsedSeries, str]] = []

    def add(self, series: _ParsedSeries, value: str) -> None:
        """Take a sample, whose series is new on this page."""
        self.prefixes.add(series.prefix)
        family = self._owners.get(series.name)
        if family is None:
            if series.name in self._refused:
                self.dropped["conflict"] += 1
                return
            family = self._family(series.name, "untyped")
        if series.name in self._wanted:
            self.samples.append((series, value))
        if family.kept:
            family.lines.append(f"{series.prefix}{value}\n")
            if family.checked:
                family.check(series, value)

    def comment(self, line: str) -> None:
        """Take note of a TYPE or HELP, the first of each name."""
        words = line.rstrip("\r").split(" ", 3)
        if len(words) < 3 or words[0] != "#":
            return
        kind, name, rest = words[1], words[2], words[3] if len(words) > 3 else ""
        if kind == "HELP":
            if len(rest) <= _LONGEST_HELP and _HELP.match(rest) and _unicode(rest):
                self._helps.setdefault(name, rest)
        elif kind == "TYPE" and _METRIC.match(name):
            known = _TYPES.get(rest.strip().lower())
            if known is not None:  # else the text format has none such: its samples are untyped
                self._declare(name, known)

    def _declare(self, name: str, type: str) -> None:
        family = self.families.get(name)
        if family is not None:
            if family.type != type:
                self.dropped["conflict"] += 1
        elif any(f"{name}{part}" in self._owners for part in _PARTS[type]):
            self.dropped["conflict"] += 1
            self._refused.add(name)
        else:
            self._family(name, type)

    def _family(self, name: str, type: str) -> _ParsedFamily:
        family = _ParsedFamily(name, type, self._helps, kept=self._keep(name))
        family.checked = type not in ("gauge", "untyped")
        self.families[name] = family
        for part in _PARTS[type]:
            self._owners.setdefault(f"{name}{part}", family)
        return family


def names_of(name: str, type: str) -> set[str]:
    """Every name that a family takes up on a page, in either format."""
    names = {name, *(f"{name}{part}" for part in _PARTS[type])}
    if type in ("histogram", "summary", "counter"):
        names.add(f"{name.removesuffix('_total')}_created")
    if type == "counter":
        names.add(name.removesuffix("_total"))
    return names


class TextParser:
    """Takes the pages of one upstream apart. keep: by the name of a family, whether it is shown.

    wanted: names of samples that are handed out as well.
    """

    def __init__(
        self,
        upstream: str,
        keep: Callable[[str], bool],
        max_samples: int,
        wanted: frozenset[str] = frozenset(),
    ) -> None:
        self._upstream = upstream
        self._keep = keep
        self._max_samples = max_samples
        self._wanted = wanted
        self._known: dict[str, _ParsedSeries] = {}

    def read(self, body: bytes) -> ParsedPage:
        """Take a page apart. Raises BadData where there are more samples than may be."""
        lines = body.decode("utf-8", "surrogateescape").split("\n")
        known, self._known = self._known, {}
        page = _PageState(self._keep, self._wanted)
        samples = 0
        plain = _PLAIN.match
        for line in lines:
            match = plain(line)
            if match is not None:
                head, value = match.groups()
                if ("e" in value or len(value) > _LONG_NUMBER) and math.isinf(float(value)):
                    value = ""  # Prometheus would refuse the whole page
            elif not line or line == "\r":
                continue
            elif line[0] == "#":
                page.comment(line)
                continue
            else:
                head, value = _apart(line)
            samples += 1
            series = known.get(head) or self._series(head)
            if series is None or not value:
                page.dropped["malformed"] += 1
            elif series.prefix in page.prefixes:
                page.dropped["duplicate"] += 1
            else:
                self._known[head] = series
                page.add(series, value)
        if samples > self._max_samples:
            self._known = {}
            raise BadData(
                f"{samples} samples, more than {self._max_samples}",
                "raise upstream.max_samples, if they are worth it",
            )
        return ParsedPage(
            tuple(family.foreign() for family in page.families.values() if family.lines),
            tuple(
                WantedSample(series.name, series.labels, float(value))
                for series, value in page.samples
            ),
            samples,
            page.dropped,
        )

    def _series(self, head: str) -> _ParsedSeries | None:
        """A series seen for the first time; None where it is not written as one."""
        name, brace, inner = head.partition("{")
        name = name.strip(" \t")
        if not _METRIC.match(name) or len(head) > _LONGEST_SERIES or not _unicode(head):
            return None
        pairs = _pairs(inner[:-1]) if brace else []
        if pairs is None:
            return None
        return self._written(name, pairs)

    def _written(self, name: str, pairs: list[tuple[str, str]]) -> _ParsedSeries:
        taken = {label for label, _ in pairs}
        renamed = "exported_upstream"
        while renamed in taken:
            renamed = f"exported_{renamed}"
        ours = [(renamed if label == "upstream" else label, value) for label, value in pairs]
        ours.append(("upstream", self._upstream))
        ours.sort()
        inner = ",".join(f'{label}="{value}"' for label, value in ours)
        bound = next((value for label, value in pairs if label in ("le", "quantile")), None)
        group = ",".join(
            f'{label}="{value}"' for label, value in ours if label not in ("le", "quantile")
        )
        return _ParsedSeries(
            name, f"{name}{{{inner}}} ", tuple(pairs), group, bound is None or _canonical(bound)
        )


def _pairs(inner: str) -> list[tuple[str, str]] | None:
    """What stands between the braces; None where that is not labels that Prometheus takes."""
    pairs: list[tuple[str, str]] = []
    place = 0
    while place < len(inner) and inner[place:].strip(" \t"):
        match = _LABEL.match(inner, place)
        if match is None:
            return None
        if match[1] == "__name__":
            return None
        pairs.append((match[1], match[2]))
        place = match.end()
        if len(pairs) > _MOST_LABELS:
            return None
    return pairs if len({label for label, _ in pairs}) == len(pairs) else None


def _apart(line: str) -> tuple[str, str]:
    """The series and the value of a line that is not plain; no value where there is none."""
    end = _end(line)
    match = _NUMBER.match(line, end)
    value = match[1] if match else ""
    if value and value[-1].isdigit() and math.isinf(float(value)):
        value = ""
    return line[:end], value


def _end(line: str) -> int:
    """Where name and labels end, on a line that has no braces or several."""
    brace = line.find("{")
    space = min((at for at in (line.find(" "), line.find("\t")) if at >= 0), default=len(line))
    if brace < 0 or space < brace:
        return space if brace < 0 or line[space:brace].strip(" \t") else _closing(line, brace)
    return _closing(line, brace)


def _closing(line: str, place: int) -> int:
    """Behind the brace that closes the labels, however many stand within quotes."""
    quoted = False
    place += 1
    while place < len(line):
        character = line[place]
        if quoted and character == "\\":
            place += 1
        elif character == '"':
            quoted = not quoted
        elif character == "}" and not quoted:
            return place + 1
        place += 1
    return place


def _canonical(bound: str) -> bool:
    """Whether a bound is written as OpenMetrics wants it: 1.0, not 1."""
    return "." in bound or "e" in bound or bound == "+Inf"


def _unicode(text: str) -> bool:
    """Whether it came as UTF-8, without characters that break lines elsewhere."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\r" not in text and "\0" not in text
