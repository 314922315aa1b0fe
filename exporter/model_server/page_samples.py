"""Reads the wanted samples of a metrics page, fed piece by piece. Pure.

A server's page consists mostly of families that no mapping uses. Every line of the previous page is
known, up to its last blank: one dict lookup, and a line that is not wanted is done. New lines are
split by the merge's tokenizer, `exporter.upstream.grammar`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from exporter.errors import BadData
from exporter.self_scrape import is_exporter_page
from exporter.upstream.grammar import MAX_LINE_LENGTH, parse_series, split_sample
from exporter.upstream.quoting import is_utf8

# Text of the known lines of one server, and of a line that is remembered, in bytes.
_KNOWN_BYTES = 2 << 20
_KNOWN_LENGTH = 2048
# A count of 2^63 or more is an underflow.
_TOO_LARGE = 2.0**63
_NAME = re.compile(rb"[a-zA-Z_:][a-zA-Z0-9_:]*+")
_UNDERSCORE = ord("_")
_TYPE_LINE = b"# TYPE "
_UNWANTED = -1


@dataclass(frozen=True, slots=True)
class PageSeries:
    """A wanted series of a page. labels: unescaped."""

    name: str
    labels: dict[str, str]


@dataclass(frozen=True, slots=True)
class PageSamples:
    """The wanted samples of one page.

    series: all that were seen so far; the list grows, and is replaced when it is too long. values:
    by the series' index; None if the page lacks it. omissions: number of samples left out, by
    reason. length: bytes of the page. declared: wanted names with a # TYPE line; before its first
    request a server may have no samples of them.
    """

    series: list[PageSeries]
    values: list[float | None]
    omissions: Counter[str]
    length: int
    declared: frozenset[str]


@dataclass(eq=False, slots=True)
class _Known:
    """Lines of earlier pages without their values, each with the index of its series.

    The # TYPE line of declared[n] has the index -2 - n.
    """

    names: frozenset[bytes]
    lines: dict[bytes, int] = field(default_factory=dict)
    bytes: int = 0
    series: list[PageSeries] = field(default_factory=list)
    declared: list[str] = field(default_factory=list)


class SampleReader:
    """Reads the pages of one server, one after the other; `want` may be called meanwhile."""

    def __init__(self, names: Collection[str], max_lines: int) -> None:
        """names: of samples, such as a_total or b_bucket."""
        self._max_lines = max_lines
        self.want(names)

    def want(self, names: Collection[str]) -> None:
        """Replaces the wanted names, for the pages that begin later."""
        self._known = _Known(frozenset(name.encode() for name in names))

    def begin(self, content_type: str = "") -> SamplePage:
        """Begins a page."""
        known = self._known
        if len(known.series) > self._max_lines or known.bytes > _KNOWN_BYTES:
            known = self._known = _Known(known.names)
        return SamplePage(known, self._max_lines, content_type)


class SamplePage:
    """One page that is being read."""

    def __init__(self, known: _Known, max_lines: int, content_type: str) -> None:
        self._known = known
        self._max_lines = max_lines
        self._html = content_type.partition(";")[0].strip().lower() == "text/html"
        self._rest = b""
        self._in_long_line = False
        self._lines = 0
        self._length = 0
        self._values: list[float | None] = [None] * len(known.series)
        self._omissions: Counter[str] = Counter()
        self._declared: set[str] = set()

    @property
    def cost(self) -> int:
        """Estimated memory of the page so far, in bytes."""
        return 64 * len(self._values) + len(self._rest)

    def cost_after(self, piece: bytes) -> int:
        """Returns the largest `cost` that this piece may lead to."""
        return self.cost + 3 * len(piece) + 600 * (piece.count(b"\n") + 1)

    def feed(self, piece: bytes) -> None:
        """Reads the lines that this piece completes. Raises BadData."""
        self._length += len(piece)
        if self._in_long_line:
            start = piece.find(b"\n") + 1
            if not start:
                return
            self._in_long_line = False
            piece = piece[start:]
        end = piece.rfind(b"\n") + 1
        if end:
            block = self._rest + piece[:end] if self._rest else piece[:end]
            self._rest = piece[end:]
            self._read(block)
        else:
            self._rest += piece
        if len(self._rest) > MAX_LINE_LENGTH:
            self._rest = b""
            self._in_long_line = True
            self._omissions["malformed"] += 1

    def finish(self) -> PageSamples:
        """Returns the samples after the last piece. Raises BadData."""
        rest, self._rest = self._rest, b""
        if rest:
            self._read(rest + b"\n")
        return PageSamples(
            self._known.series,
            self._values,
            self._omissions,
            self._length,
            frozenset(self._declared),
        )

    def _read(self, block: bytes) -> None:
        """Reads complete lines."""
        if is_exporter_page(block):
            raise BadData(
                "the page is an inference-exporter's",
                "set model_server.url to the address of the model server itself",
            )
        lines = block.split(b"\n")
        del lines[-1]
        self._lines += len(lines)
        if self._lines > self._max_lines:
            raise BadData(
                f"more than {self._max_lines} lines",
                "raise model_server.max_lines if this number is expected",
            )
        known, values = self._known.lines, self._values
        for line in lines:
            series_text, _, value = line.rpartition(b" ")
            index = known.get(series_text)
            if index is None:
                index, value = self._new(line, series_text, value)
            if index < 0:
                if index != _UNWANTED:
                    self._declared.add(self._known.declared[-2 - index])
                continue
            if values[index] is not None:
                self._omissions["duplicate"] += 1
                continue
            try:
                number = float(value)
            except ValueError:
                self._omissions["malformed"] += 1
                continue
            if 0.0 <= number < _TOO_LARGE and _UNDERSCORE not in value:
                values[index] = number
            else:
                self._omissions["invalid"] += 1

    def _new(self, line: bytes, text: bytes, value: bytes) -> tuple[int, bytes]:
        """Returns the index of the series of a line that is not known, and the value.

        The index is negative if the line is not wanted.
        """
        known = self._known
        name = _NAME.match(line)
        if name is None or name[0] not in known.names:
            if self._html and line.lstrip().startswith(b"<"):
                raise BadData("an HTML page, not a metrics page")
            declaration = self._declaration(line)
            self._remember(text, declaration)
            return declaration, value
        series_text, value = split_sample(line)
        parsed = parse_series(series_text) if value and is_utf8(series_text) else None
        if parsed is None:
            self._omissions["malformed"] += 1
            return _UNWANTED, value
        index = known.lines.get(series_text)
        if index is None:
            pairs = {label.decode(): _unescape(text) for label, text in parsed[1]}
            index = len(known.series)
            known.series.append(PageSeries(parsed[0].decode(), pairs))
            self._values.append(None)
            self._remember(series_text, index)
        return index, value

    def _declaration(self, line: bytes) -> int:
        """Returns the index of a # TYPE line of a wanted name; _UNWANTED for any other line."""
        if not line.startswith(_TYPE_LINE):
            return _UNWANTED
        name = line.removeprefix(_TYPE_LINE).partition(b" ")[0]
        known = self._known
        if name not in known.names or len(known.declared) >= len(known.names):
            return _UNWANTED
        known.declared.append(name.decode())
        return -1 - len(known.declared)

    def _remember(self, text: bytes, index: int) -> None:
        known = self._known
        if len(text) <= _KNOWN_LENGTH or index >= 0:
            known.lines[text] = index
            known.bytes += len(text)


def _unescape(text: bytes) -> str:
    """Returns a label value without the text format's escapes."""
    value = text.decode()
    if "\\" not in value:
        return value
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], value)
