"""Lossless parser of metrics pages, fed with a page piece by piece. Pure.

The grammar is Prometheus' own, one line at a time: a line that Prometheus would refuse, and the
page with it, is omitted. Names and values keep their spelling; the label `upstream` is added, time
stamps and exemplars are dropped. (prometheus_client's own parser would rename the counter
`nv_inference_count` to `…_total`, and costs thirty times as much.)

Everything is bounded while the page is read: a page over a limit is refused at the line that
exceeds it, and a line over MAX_LINE_LENGTH is skipped without being stored. Text stays bytes: a
single wide character would quadruple the size of a str.

A parsed series is cached while it is on the page, so that a known page costs one dict lookup and
one regex match per sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import length_hint

from exporter.errors import BadData
from exporter.model import UpstreamFamily
from exporter.self_scrape import is_exporter_page
from exporter.upstream.families import Families, ParsedFamily, ParsedSeries, type_of
from exporter.upstream.grammar import (
    MAX_LINE_LENGTH,
    MAX_SERIES_LENGTH,
    MAX_VALUE_LENGTH,
    continued,
    parse_comment,
    parse_series,
    split_sample,
)
from exporter.upstream.page_lines import PageLines
from exporter.upstream.quoting import escaped_help, is_utf8

_HASH, _BLANK = b"# "
_MAX_LABELS = 64
_MAX_HELP_LENGTH = 2048
# A longer series is not cached: each page parses it again.
_MAX_CACHED_LENGTH = 1024
# Of one page: declared families, lines that are no samples, and bytes of HELP texts; later texts
# are left out.
MAX_FAMILIES = 10_000
MAX_OTHER_LINES = 60_000
_MAX_HELP_BYTES = 1 << 20
# Estimated memory of a sample and of a family besides their text, in bytes; of a text, in copies.
_SAMPLE_COST = 400
_FAMILY_COST = 1000
_TEXT_COPIES = 3


@dataclass(frozen=True, slots=True)
class PageLimits:
    """Limits of one page. sample_bytes: of all samples together."""

    samples: int
    sample_bytes: int = 6 << 20


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


class TextParser:
    """Parses the pages of one upstream.

    upstream: value of the label to add; empty for none. keep: decides by name whether a family is
    merged. wanted_names: of samples to return as well. keep_created: decides it for families of the
    times of creation of others.
    """

    def __init__(
        self,
        upstream: str,
        keep: Callable[[str], bool],
        limits: PageLimits,
        wanted_names: frozenset[str] = frozenset(),
        keep_created: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self.upstream = upstream.encode()
        self.keep = keep
        self.keep_created = keep_created
        self.limits = limits
        self.wanted_names = frozenset(name.encode() for name in wanted_names)
        self.known: dict[bytes, ParsedSeries] = {}
        """The series of the latest complete page, by name and labels as on that page."""

    @property
    def cached_bytes(self) -> int:
        """Estimated memory of the cache."""
        return sum(map(len, self.known)) * 2 + len(self.known) * _SAMPLE_COST

    def begin(self, content_type: str = "") -> PageParser:
        """Begins a page. The cache is replaced when it is complete."""
        return PageParser(self, content_type)

    def parse(self, body: bytes, content_type: str = "") -> ParsedPage:
        """Parses a whole page. Raises BadData."""
        page = self.begin(content_type)
        for start in range(0, len(body), MAX_LINE_LENGTH):
            page.feed(body[start : start + MAX_LINE_LENGTH])
        return page.finish()


class PageParser:
    """One page that is being read."""

    def __init__(self, parser: TextParser, content_type: str) -> None:
        self._parser = parser
        self._upstream = parser.upstream
        self._known = parser.known
        media_type = content_type.partition(";")[0].strip().lower()
        self._openmetrics = media_type == "application/openmetrics-text"
        self._html = media_type == "text/html"
        self._still_known: dict[bytes, ParsedSeries] = {}
        self._lines = PageLines()
        self._held = b""
        """Complete lines from the start of a label value that may end in the next piece."""
        self._sample_count = 0
        self._other_lines = 0
        self._sample_bytes = 0
        self._help_bytes = 0
        self._metadata_lines = 0
        self._families = Families(parser.keep, parser.keep_created)
        self._helps: dict[bytes, bytes] = {}
        self._prefixes: set[bytes] = set()
        self._dropped: Counter[str] = Counter()
        self._wanted_samples: list[tuple[ParsedSeries, bytes]] = []

    @property
    def cost(self) -> int:
        """Estimated memory of the page so far, in bytes."""
        return (
            self._sample_count * _SAMPLE_COST
            + len(self._families) * _FAMILY_COST
            + self._sample_bytes * _TEXT_COPIES
            + self._help_bytes
            + self._lines.held_bytes
            + len(self._held)
        )

    def cost_after(self, piece: bytes) -> int:
        """Returns the largest `cost` that this piece may lead to."""
        lines = piece.count(b"\n") + 1
        return self.cost + lines * (_SAMPLE_COST + _FAMILY_COST) + len(piece) * _TEXT_COPIES

    def feed(self, piece: bytes) -> None:
        """Parses the lines that this piece completes. Raises BadData at the line over a limit."""
        before = self._lines.too_long
        if lines := self._lines.feed(piece):
            held, self._held = self._held, b""
            self._parse_lines(held + lines)
        if too_long := self._lines.too_long - before:
            self._sample_count += too_long
            self._dropped["malformed"] += too_long

    def finish(self) -> ParsedPage:
        """Returns the page after its last piece. Raises BadData."""
        lines = self._held + self._lines.finish()
        self._held = b""
        if lines:
            self._parse_lines(lines, last=True)
        self._check_page()
        self._parser.known = self._still_known
        page = ParsedPage(
            tuple(
                family.upstream_family(self._helps.get(family.name))
                for family in self._families.finish(_series_of_line)
            ),
            tuple(
                WantedSample(
                    series.name.decode(),
                    tuple((label.decode(), text.decode()) for label, text in series.labels),
                    float(value),
                )
                for series, value in self._wanted_samples
            ),
            self._lines.length,
            self._sample_count,
            self._dropped,
        )
        self._discard()
        return page

    def _discard(self) -> None:
        """Releases the memory of the page."""
        self._families.clear()
        for container in (self._helps, self._prefixes, self._wanted_samples):
            container.clear()
        self._still_known = {}
        self._held = b""
        self._lines.finish()

    def _check_page(self) -> None:
        """Raises BadData if no line of the page can be read; an empty page is valid."""
        malformed = self._dropped["malformed"]
        if malformed and malformed == self._sample_count and not self._metadata_lines:
            raise BadData("no line of the page is a metric", "is this the URL of a metrics page?")

    def _parse_lines(self, block: bytes, *, last: bool = False) -> None:
        """Parses complete lines, each with its line feed. last: whether the page ends here."""
        _check_origin(block)  # before drop rules can remove the line
        known, prefixes = self._known, self._prefixes
        still_known, families = self._still_known, self._families.by_sample_name
        other_bytes = 0
        room = self._parser.limits.samples - self._sample_count
        lines = block.split(b"\n")
        del lines[-1]
        remaining = iter(lines)
        for line in remaining:
            series_text, _, value = line.rpartition(b" ")
            if not (series_text in known and value.isdigit() and len(value) <= MAX_VALUE_LENGTH):
                if not line or line[0] == _HASH or (line[0] <= _BLANK and _is_comment(line)):
                    other_bytes += len(line)
                    self._comment(line)
                    continue
                series_text, value = split_sample(line)
                if not value and b'"' in line:
                    series_text, value = self._split_lines(lines, remaining, last=last)
                    if self._held:
                        break
            room -= 1
            if room < 0:
                raise _too_many_samples(self._parser.limits.samples)
            series = known.get(series_text) or self._parse_series(series_text)
            if series is None or not value or (prefix := series.prefix) in prefixes:
                self._omit(line, "duplicate" if series is not None and value else "malformed")
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
        self._count_bytes(len(block) - other_bytes - len(self._held))

    def _split_lines(
        self, lines: list[bytes], remaining: Iterator[bytes], *, last: bool
    ) -> tuple[bytes, bytes]:
        """Splits a sample of several lines, from the latest of `lines` on, as `split_sample` does.

        Takes its lines from `remaining`; holds them back if the sample may end in the next piece.
        """
        start = len(lines) - length_hint(remaining) - 1
        sample = continued(lines, start)
        if sample:
            for _ in range(sample.count(b"\n")):
                next(remaining)
            return split_sample(sample)
        if sample is not None and not last:
            self._held = b"\n".join((*lines[start:], b""))
        return b"", b""

    def _omit(self, line: bytes, reason: str) -> None:
        """Counts an omitted line. Raises BadData if it is HTML, by the page's type as well.

        Pages of metrics are sent as text/html, too: it is the default of some web frameworks.
        """
        if self._html and line.lstrip().startswith(b"<"):
            raise BadData("an HTML page, not a metrics page")
        self._dropped[reason] += 1

    def _count_bytes(self, count: int) -> None:
        """Raises BadData."""
        self._sample_bytes += count
        limit = self._parser.limits.sample_bytes
        if self._sample_bytes > limit:
            raise BadData(
                f"samples of more than {limit} bytes",
                "raise upstream.max_sample_bytes if this length is expected",
            )

    def _add(self, series: ParsedSeries, value: bytes, family: ParsedFamily | None) -> None:
        """Adds a sample of a new family, with a bound that is no number, or that is wanted."""
        if family is None:
            self._count_family(self._families.add_untyped(series.name))
            family = self._families.by_sample_name[series.name]
        if series.wanted:
            self._wanted_samples.append((series, value))
        family.add_special(series, value)

    def _comment(self, line: bytes) -> None:
        """Parses a line that is no sample. Of HELP lines, the first of a name counts."""
        self._other_lines += 1
        if self._other_lines > MAX_OTHER_LINES:
            raise BadData(f"more than {MAX_OTHER_LINES} lines that are no samples")
        comment = parse_comment(line) if line else None
        if comment is None:
            return
        kind, name, text = comment
        self._metadata_lines += 1
        if kind == b"TYPE":
            known_type = type_of(text)
            if known_type is not None:  # samples of other types stay untyped
                self._count_family(self._families.declare(name, known_type))
            return
        size = len(name) + len(text)
        if (
            len(text) <= _MAX_HELP_LENGTH
            and self._help_bytes + size <= _MAX_HELP_BYTES
            and name not in self._helps
            and is_utf8(text)
        ):
            self._help_bytes += size
            self._helps[name] = escaped_help(text, openmetrics=self._openmetrics)

    def _count_family(self, name_bytes: int) -> None:
        """Counts a family whose names have this length together. Raises BadData."""
        self._count_bytes(name_bytes)
        if len(self._families) > MAX_FAMILIES:
            raise BadData(f"more than {MAX_FAMILIES} families")

    def _parse_series(self, series_text: bytes) -> ParsedSeries | None:
        """Parses name and labels; None if they are malformed."""
        if len(series_text) > MAX_SERIES_LENGTH or not is_utf8(series_text):
            return None
        parsed = parse_series(series_text)
        if parsed is None or len(parsed[1]) > _MAX_LABELS:
            return None
        name, pairs = parsed
        wanted = name in self._parser.wanted_names
        return ParsedSeries.of(name, pairs, self._upstream, wanted=wanted)


def _check_origin(lines: bytes) -> None:
    """Raises BadData if they are of an exporter's own page."""
    if is_exporter_page(lines):
        raise BadData(
            "the page is an inference-exporter's, and could contain this page",
            "configure it as a target of Prometheus instead",
        )


def _is_comment(line: bytes) -> bool:
    """Returns whether the line is a comment or empty."""
    return line.lstrip(b" \t\r")[:1] in (b"", b"#")


def _series_of_line(series_text: bytes) -> ParsedSeries | None:
    """Returns the series of a line of our page."""
    parsed = parse_series(series_text)
    return ParsedSeries.of(*parsed, b"", wanted=False) if parsed is not None else None


def _too_many_samples(limit: int) -> BadData:
    return BadData(
        f"more than {limit} samples", "raise upstream.max_samples if this number is expected"
    )
