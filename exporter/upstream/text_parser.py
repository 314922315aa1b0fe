"""Lossless parser of the Prometheus text format, fed with a page piece by piece. Pure.

Names, labels and values keep their spelling, escapes included; the label `upstream` is added, time
stamps are dropped. (prometheus_client's own parser would rename the counter `nv_inference_count` to
`…_total`, and costs thirty times as much.)

Everything is bounded while the page is read: a page over a limit is refused at the line that
exceeds it, and a line over MAX_PAGE_LINE_BYTES is skipped without being stored. Text stays bytes: a
single wide character would quadruple the size of a str.

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
from exporter.self_scrape import is_exporter_page

_METRIC = re.compile(rb"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LABEL = re.compile(
    rb'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\[\\"n])*)"[ \t]*(,|\Z)'
)
_NUMBER_TEXT = (
    rb"[+-]?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?"
    rb"|[Ii][Nn][Ff](?:[Ii][Nn][Ii][Tt][Yy])?)|[Nn][Aa][Nn]"
)
# A number as Go parses it, and an optional time stamp.
_NUMBER = re.compile(rb"[ \t]*(" + _NUMBER_TEXT + rb")(?:[ \t]+-?[0-9.]+)?[ \t\r]*(?:# .*)?\Z")
# A bound: the value of `le` or `quantile`.
_BOUND = re.compile(_NUMBER_TEXT)
# The common case: no braces or hashes in label values, a decimal number, no time stamp.
_PLAIN = re.compile(rb"([^{}# \t]+(?:\{[^{}#]*\})?) ([+-]?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)\Z")
_HELP = re.compile(rb"(?:[^\\]|\\[\\n])*\Z")
# Suffixes of the sample names of each type.
_SUFFIXES = {
    "counter": ("", "_total"),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("", "_sum", "_count"),
    "untyped": ("",),
}
_SUFFIX_BYTES = {
    known: tuple(suffix.encode() for suffix in suffixes) for known, suffixes in _SUFFIXES.items()
}
_TYPES = {"unknown": "untyped", "": "untyped", **{known: known for known in _SUFFIXES}}
_BOUND_LABELS = {"histogram": b"le", "summary": b"quantile"}
MAX_PAGE_LINE_BYTES = 64 << 10
_HASH = ord("#")
_MAX_HELP_LENGTH = 2048
_MAX_SERIES_LENGTH = 16384
_MAX_LABELS = 64
# A longer value is malformed. At most this length without an exponent cannot overflow.
_MAX_VALUE_LENGTH = 300
# A longer series is not cached: each page parses it again.
_MAX_CACHED_LENGTH = 1024
# Of one page: declared families (and refused declarations), lines that are no samples, and bytes of
# HELP texts; later texts are left out.
MAX_FAMILIES = 10_000
MAX_OTHER_LINES = 60_000
_MAX_HELP_BYTES = 1 << 20
# Estimated memory of a sample and of a family besides their text, in bytes; of a text, in copies.
_SAMPLE_COST = 400
_FAMILY_COST = 1000
_TEXT_COPIES = 3

LabelTuple = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class PageLimits:
    """Limits of one page. sample_bytes: of all samples together."""

    samples: int
    sample_bytes: int = 6 << 20

    @property
    def parsing_bytes(self) -> int:
        """Estimated memory of the parsing of a page at all limits."""
        return (
            self.samples * _SAMPLE_COST
            + MAX_FAMILIES * _FAMILY_COST
            + self.sample_bytes * _TEXT_COPIES
            + _MAX_HELP_BYTES
            + 2 * MAX_PAGE_LINE_BYTES
        )


@dataclass(frozen=True, slots=True)
class _ParsedSeries:
    """One series of an upstream's page, as written on our page.

    prefix: our line up to the value: name and labels, with `upstream`. labels: as on the upstream's
    page, if the series is wanted. bounds: of those, `le` and `quantile`. label_set: hash of the
    others; equal for all samples of one histogram or summary. special: has bounds or is wanted.
    """

    name: bytes
    prefix: bytes
    labels: LabelTuple
    bounds: LabelTuple
    label_set: int
    wanted: bool
    special: bool

    @property
    def canonical(self) -> bool:
        """Whether OpenMetrics accepts the spelling of the bounds: 1.0, not 1."""
        return all(b"." in v or b"e" in v or v == b"+Inf" for _, v in self.bounds)


@dataclass(slots=True)
class _ParsedFamily:
    """A family and its sample lines.

    kept: whether it is merged. openmetrics: whether OpenMetrics accepts all samples so far.
    needs_check: whether that has to be checked for further samples. bound_label: the label whose
    values must be numbers. label_sets: those seen so far; OpenMetrics requires the samples of a
    label set in succession.
    """

    name: bytes
    type: str
    kept: bool
    needs_check: bool
    bound_label: bytes | None
    openmetrics: bool = True
    lines: list[bytes] = field(default_factory=list)
    last_label_set: int | None = None
    label_sets: set[int] | None = None

    def add(self, series: _ParsedSeries, value: bytes) -> None:
        """Adds a sample, if the family is merged."""
        if self.kept:
            self.lines.append(series.prefix + value)
            if self.needs_check:
                self.check(series, value)

    def check(self, series: _ParsedSeries, value: bytes) -> None:
        """Clears `openmetrics` if OpenMetrics would not accept the sample for this type."""
        negative_or_nan = value[0] in b"-nN"
        if self.type == "counter":
            valid = series.name.endswith(b"_total") and not negative_or_nan
        else:
            valid = series.canonical and not (negative_or_nan and series.name != self.name)
            if series.label_set != self.last_label_set:
                self.last_label_set = series.label_set
                if self.label_sets is None:
                    self.label_sets = set()
                valid = valid and series.label_set not in self.label_sets
                self.label_sets.add(series.label_set)
        self.openmetrics = self.needs_check = valid

    def upstream_family(self, help_text: bytes | None) -> UpstreamFamily:
        # OpenMetrics declares a counter without the `_total` of its samples.
        name = self.name.decode()
        if self.type == "counter" and self.openmetrics and not name.endswith("_total"):
            name = f"{name}_total"
        return UpstreamFamily(
            name,
            self.type,
            help_text.decode() if help_text is not None else None,
            b"\n".join((*self.lines, b"")),
            len(self.lines),
            self.openmetrics,
        )


@dataclass(frozen=True, slots=True)
class WantedSample:
    """A sample that the target also exports as a row. labels: as on the page, still escaped."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


@dataclass(frozen=True, slots=True)
class ParsedPage:
    """Result of parsing a page.

    length: bytes of the page. sample_count: samples on the page. dropped: omitted samples and
    families, by reason.
    """

    families: tuple[UpstreamFamily, ...]
    wanted_samples: tuple[WantedSample, ...]
    length: int
    sample_count: int
    dropped: Counter[str]


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

    upstream: value of the label to add; empty for none. keep: decides by name whether a family is
    merged. wanted_names: of samples to return as well.
    """

    def __init__(
        self,
        upstream: str,
        keep: Callable[[str], bool],
        limits: PageLimits,
        wanted_names: frozenset[str] = frozenset(),
    ) -> None:
        self.upstream = upstream.encode()
        self.keep = keep
        self.limits = limits
        self.wanted_names = frozenset(name.encode() for name in wanted_names)
        self.known: dict[bytes, _ParsedSeries] = {}
        """The series of the latest complete page, by name and labels as on that page."""

    @property
    def cached_bytes(self) -> int:
        """Estimated memory of the cache."""
        return sum(map(len, self.known)) * 2 + len(self.known) * _SAMPLE_COST

    def begin(self) -> PageParser:
        """Begins a page. The cache is replaced when it is complete."""
        return PageParser(self)

    def parse(self, body: bytes) -> ParsedPage:
        """Parses a whole page. Raises BadData."""
        page = self.begin()
        for start in range(0, len(body), MAX_PAGE_LINE_BYTES):
            page.feed(body[start : start + MAX_PAGE_LINE_BYTES])
        return page.finish()


class PageParser:
    """One page that is being read."""

    def __init__(self, parser: TextParser) -> None:
        self._parser = parser
        self._upstream = parser.upstream
        self._known = parser.known
        self._still_known: dict[bytes, _ParsedSeries] = {}
        self._rest = b""
        self._in_long_line = False
        self._length = 0
        self._sample_count = 0
        self._other_lines = 0
        self._sample_bytes = 0
        self._help_bytes = 0
        self._families: dict[bytes, _ParsedFamily] = {}
        self._by_sample_name: dict[bytes, _ParsedFamily] = {}
        self._helps: dict[bytes, bytes] = {}
        self._refused: set[bytes] = set()
        self._prefixes: set[bytes] = set()
        self._dropped: Counter[str] = Counter()
        self._wanted_samples: list[tuple[_ParsedSeries, bytes]] = []

    @property
    def cost(self) -> int:
        """Estimated memory of the page so far, in bytes."""
        return (
            self._sample_count * _SAMPLE_COST
            + (len(self._families) + len(self._refused)) * _FAMILY_COST
            + self._sample_bytes * _TEXT_COPIES
            + self._help_bytes
            + len(self._rest)
        )

    def cost_after(self, piece: bytes) -> int:
        """Returns the largest `cost` that this piece may lead to."""
        lines = piece.count(b"\n") + 1
        return self.cost + lines * (_SAMPLE_COST + _FAMILY_COST) + len(piece) * _TEXT_COPIES

    def feed(self, piece: bytes) -> None:
        """Parses the lines that this piece completes. Raises BadData at the line over a limit."""
        self._length += len(piece)
        if self._in_long_line:
            start = piece.find(b"\n") + 1
            if not start:
                return
            self._in_long_line = False
            piece = piece[start:]
        end = piece.rfind(b"\n") + 1
        lines, rest = piece[:end], piece[end:]
        if end:
            lines = self._rest + lines if self._rest else lines
            self._rest = rest
            self._parse_lines(lines)
        else:
            self._rest += rest
        if len(self._rest) > MAX_PAGE_LINE_BYTES:
            self._rest = b""
            self._in_long_line = True
            self._sample_count += 1
            self._dropped["malformed"] += 1

    def finish(self) -> ParsedPage:
        """Returns the page after its last piece. Raises BadData."""
        rest, self._rest = self._rest, b""
        if rest:
            self._parse_lines(rest + b"\n")
        self._parser.known = self._still_known
        page = ParsedPage(
            tuple(
                family.upstream_family(self._helps.get(family.name))
                for family in self._families.values()
                if family.lines
            ),
            tuple(
                WantedSample(
                    series.name.decode(),
                    tuple((label.decode(), text.decode()) for label, text in series.labels),
                    float(value),
                )
                for series, value in self._wanted_samples
            ),
            self._length,
            self._sample_count,
            self._dropped,
        )
        self._discard()
        return page

    def _discard(self) -> None:
        """Releases the memory of the page."""
        for container in (
            self._families,
            self._by_sample_name,
            self._helps,
            self._refused,
            self._prefixes,
            self._wanted_samples,
        ):
            container.clear()
        self._still_known = {}
        self._rest = b""

    def _parse_lines(self, block: bytes) -> None:
        """Parses complete lines, each with its line feed."""
        if is_exporter_page(block):  # before drop rules can remove the line
            raise BadData(
                "the page is an inference-exporter's, and could contain this page",
                "configure it as a target of Prometheus instead",
            )
        known, prefixes = self._known, self._prefixes
        still_known, families = self._still_known, self._by_sample_name
        other_bytes = 0
        room = self._parser.limits.samples - self._sample_count
        lines = block.split(b"\n")
        del lines[-1]
        for line in lines:
            series_text, _, value = line.rpartition(b" ")
            if not (series_text in known and value.isdigit() and len(value) <= _MAX_VALUE_LENGTH):
                if not line or line[0] == _HASH or line == b"\r":
                    other_bytes += len(line)
                    self._comment(line)
                    continue
                series_text, value = _split_sample(line)
            room -= 1
            if room < 0:
                raise _too_many_samples(self._parser.limits.samples)
            series = known.get(series_text) or self._parse_series(series_text)
            if series is None or not value:
                self._dropped["malformed"] += 1
                continue
            prefix = series.prefix
            if prefix in prefixes:
                self._dropped["duplicate"] += 1
                continue
            prefixes.add(prefix)
            if len(prefix) <= _MAX_CACHED_LENGTH:
                still_known[series_text] = series
            family = families.get(series.name)
            if family is None or series.special:
                self._add(series, value, family)
            else:
                family.add(series, value)
        self._sample_count = self._parser.limits.samples - room
        self._count_bytes(len(block) - other_bytes)

    def _count_bytes(self, count: int) -> None:
        """Raises BadData."""
        self._sample_bytes += count
        limit = self._parser.limits.sample_bytes
        if self._sample_bytes > limit:
            raise BadData(
                f"samples of more than {limit} bytes",
                "raise upstream.max_sample_bytes if this length is expected",
            )

    def _add(self, series: _ParsedSeries, value: bytes, family: _ParsedFamily | None) -> None:
        """Adds a sample of a new family, with a bound, or that is wanted."""
        if family is None:
            if series.name in self._refused:
                self._dropped["conflict"] += 1
                return
            family = self._family(series.name, "untyped")
        if series.bounds and not _valid_bounds(family, series.bounds):
            self._dropped["malformed"] += 1
            return
        if series.wanted:
            self._wanted_samples.append((series, value))
        family.add(series, value)

    def _comment(self, line: bytes) -> None:
        """Parses a line that is no sample. Of TYPE and HELP lines, the first of a name counts."""
        self._other_lines += 1
        if self._other_lines > MAX_OTHER_LINES:
            raise BadData(f"more than {MAX_OTHER_LINES} lines that are no samples")
        if len(line) > MAX_PAGE_LINE_BYTES:
            return
        fields = line.rstrip(b"\r").split(b" ", 3)
        if len(fields) < 3 or fields[0] != b"#":
            return
        kind, name, rest = fields[1], fields[2], fields[3] if len(fields) > 3 else b""
        if len(name) > _MAX_SERIES_LENGTH or not _METRIC.match(name):
            return
        if kind == b"HELP":
            size = len(name) + len(rest)
            if (
                len(rest) <= _MAX_HELP_LENGTH
                and self._help_bytes + size <= _MAX_HELP_BYTES
                and name not in self._helps
                and _HELP.match(rest)
                and _is_valid_text(rest)
            ):
                self._help_bytes += size
                self._helps[name] = rest
        elif kind == b"TYPE":
            known_type = _TYPES.get(rest.strip().lower().decode(errors="replace"))
            if known_type is not None:  # samples of other types stay untyped
                self._declare(name, known_type)

    def _declare(self, name: bytes, type: str) -> None:
        family = self._families.get(name)
        if family is not None:
            if family.type != type:
                self._dropped["conflict"] += 1
        elif any(name + suffix in self._by_sample_name for suffix in _SUFFIX_BYTES[type]):
            self._dropped["conflict"] += 1
            self._refused.add(name)
            self._check_families(len(name))
        else:
            self._family(name, type)

    def _family(self, name: bytes, type: str) -> _ParsedFamily:
        family = _ParsedFamily(
            name,
            type,
            kept=self._parser.keep(name.decode()),
            needs_check=type not in ("gauge", "untyped"),
            bound_label=_BOUND_LABELS.get(type),
        )
        self._families[name] = family
        for suffix in _SUFFIX_BYTES[type]:
            self._by_sample_name.setdefault(name + suffix, family)
        self._check_families(len(name) * len(_SUFFIX_BYTES[type]))
        return family

    def _check_families(self, name_bytes: int) -> None:
        """Counts a family whose names have this length together. Raises BadData."""
        self._count_bytes(name_bytes)
        if len(self._families) + len(self._refused) > MAX_FAMILIES:
            raise BadData(f"more than {MAX_FAMILIES} families")

    def _parse_series(self, series_text: bytes) -> _ParsedSeries | None:
        """Parses name and labels; None if they are malformed."""
        if len(series_text) > _MAX_SERIES_LENGTH or not _is_valid_text(series_text):
            return None
        name, brace, inner = series_text.partition(b"{")
        name = name.strip(b" \t")
        if not _METRIC.match(name):
            return None
        pairs = _parse_labels(inner[:-1]) if brace else []
        if pairs is None:
            return None
        wanted = name in self._parser.wanted_names
        labels = tuple(pairs) if wanted else ()
        bounds = tuple(pair for pair in pairs if pair[0] in (b"le", b"quantile"))
        if self._upstream:
            pairs = _with_upstream(pairs, self._upstream)
        inner = b",".join(b'%b="%b"' % pair for pair in pairs)
        label_set = hash(tuple(pair for pair in pairs if pair[0] not in (b"le", b"quantile")))
        braces = b"{%b}" % inner if inner else b""
        return _ParsedSeries(
            name,
            b"%b%b " % (name, braces),
            labels,
            bounds,
            label_set,
            wanted,
            special=wanted or bool(bounds),
        )


def _too_many_samples(limit: int) -> BadData:
    return BadData(
        f"more than {limit} samples", "raise upstream.max_samples if this number is expected"
    )


def _with_upstream(pairs: list[tuple[bytes, bytes]], upstream: bytes) -> list[tuple[bytes, bytes]]:
    """Returns the labels with `upstream`, sorted."""
    taken = {label for label, _ in pairs}
    renamed = b"exported_upstream"
    while renamed in taken:
        renamed = b"exported_" + renamed
    labels = [(renamed if label == b"upstream" else label, value) for label, value in pairs]
    labels.append((b"upstream", upstream))
    labels.sort()
    return labels


def _valid_bounds(family: _ParsedFamily, bounds: LabelTuple) -> bool:
    """Returns whether the bound of a histogram's or summary's sample is a number."""
    return all(
        label != family.bound_label
        or (_BOUND.fullmatch(value) is not None and not _overflows(value))
        for label, value in bounds
    )


def _overflows(number: bytes) -> bool:
    """Returns whether a number written in digits is infinite."""
    return number[-1:].isdigit() and math.isinf(float(number))


def _parse_labels(inner: bytes) -> list[tuple[bytes, bytes]] | None:
    """Parses the text between the braces; None if Prometheus would not accept it."""
    pairs: list[tuple[bytes, bytes]] = []
    position = 0
    while position < len(inner) and inner[position:].strip(b" \t"):
        match = _LABEL.match(inner, position)
        if match is None:
            return None
        if match[1] == b"__name__":
            return None
        pairs.append((match[1], match[2]))
        position = match.end()
        if len(pairs) > _MAX_LABELS:
            return None
    return pairs if len({label for label, _ in pairs}) == len(pairs) else None


def _split_sample(line: bytes) -> tuple[bytes, bytes]:
    """Splits a line into series and value; an empty value if it is malformed."""
    plain = _PLAIN.match(line)
    if plain is not None:
        series_text, value = plain.groups()
    elif len(line) > MAX_PAGE_LINE_BYTES:
        return b"", b""
    else:
        end = _series_end(line)
        match = _NUMBER.match(line, end)
        series_text, value = line[:end], match[1] if match else b""
    if len(value) > _MAX_VALUE_LENGTH or (b"e" in value.lower() and _overflows(value)):
        value = b""  # Prometheus would reject the whole page
    return series_text, value


def _series_end(line: bytes) -> int:
    """Returns the index after name and labels."""
    brace = line.find(b"{")
    space = min((at for at in (line.find(b" "), line.find(b"\t")) if at >= 0), default=len(line))
    if brace < 0 or space < brace:
        return space if brace < 0 or line[space:brace].strip(b" \t") else _labels_end(line, brace)
    return _labels_end(line, brace)


def _labels_end(line: bytes, brace: int) -> int:
    """Returns the index after the closing brace, skipping braces within quotes."""
    quoted = False
    position = brace + 1
    while position < len(line):
        character = line[position]
        if quoted and character == 92:  # a backslash
            position += 1
        elif character == 34:  # a quote
            quoted = not quoted
        elif character == 125 and not quoted:  # the closing brace
            return position + 1
        position += 1
    return position


def _is_valid_text(text: bytes) -> bool:
    """Returns whether the text is valid UTF-8, without carriage return or NUL."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return b"\r" not in text and b"\0" not in text
