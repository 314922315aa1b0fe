"""Reads the wanted samples of a metrics page, fed piece by piece. Pure.

A server's page consists mostly of families that no mapping uses, and is the same from poll to poll
but for its numbers. Lines that begin as on the previous page, up to their last blank, are compared
all at once, and only the numbers of the wanted ones are read. Of other pages every line of earlier
ones is known: one dict lookup, and a line that is not wanted is done. New lines are split by the
merge's tokenizer, `exporter.upstream.grammar`.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from exporter.errors import BadData
from exporter.self_scrape import is_exporter_page
from exporter.upstream.grammar import parse_series, split_sample
from exporter.upstream.page_lines import PageLines
from exporter.upstream.quoting import is_utf8

# Text of the known lines of one server, and of a line that is remembered, in bytes.
_KNOWN_BYTES = 2 << 20
_KNOWN_LENGTH = 2048
# Length of a name or label value, such as the bound of a bucket, that servers share in memory.
_SHARED_LENGTH = 128
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


class _KnownLine(NamedTuple):
    """A line without its number. text: up to and including its last blank.

    sample: index of its series; -2 - n for the # TYPE line of declared[n]; _UNWANTED for any other.
    """

    text: bytes
    sample: int


class _Layout(NamedTuple):
    """The lines of a page. wanted: numbers of the lines that are not _UNWANTED, ascending."""

    texts: list[bytes]
    wanted: list[int]
    samples: list[int]


@dataclass(eq=False, slots=True)
class _Known:
    """The lines of earlier pages by text, and the layout of the latest page, if all are known."""

    names: frozenset[bytes]
    lines: dict[bytes, _KnownLine] = field(default_factory=dict)
    bytes: int = 0
    series: list[PageSeries] = field(default_factory=list)
    declared: list[str] = field(default_factory=list)
    layout: _Layout | None = None


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
        self._page_lines = PageLines()
        self._lines = 0
        self._layout = known.layout
        """Layout of the page, as long as all lines begin as on the latest page."""
        self._seen: list[_KnownLine | None] = []
        """The lines of the page, if it has another layout; None for one that is not remembered."""
        self._values: list[float | None] = [None] * len(known.series)
        self._omissions: Counter[str] = Counter()
        self._declared: set[str] = set()

    @property
    def cost(self) -> int:
        """Estimated memory of the page so far, in bytes."""
        return 64 * len(self._values) + 8 * len(self._seen) + self._page_lines.held_bytes

    def cost_after(self, piece: bytes) -> int:
        """Returns the largest `cost` that this piece may lead to."""
        return self.cost + 3 * len(piece) + 600 * (piece.count(b"\n") + 1)

    def feed(self, piece: bytes) -> None:
        """Reads the lines that this piece completes. Raises BadData."""
        before = self._page_lines.too_long
        if block := self._page_lines.feed(piece):
            self._read(block)
        if too_long := self._page_lines.too_long - before:
            self._omissions["malformed"] += too_long

    def finish(self) -> PageSamples:
        """Returns the samples after the last piece. Raises BadData."""
        if block := self._page_lines.finish():
            self._read(block)
        if self._layout is None:
            self._known.layout = self._new_layout()
        return PageSamples(
            self._known.series,
            self._values,
            self._omissions,
            self._page_lines.length,
            frozenset(self._declared),
        )

    def _read(self, block: bytes) -> None:
        """Reads complete lines."""
        if is_exporter_page(block):
            raise BadData(
                "the page is an inference-exporter's",
                "set model_server.url to the address of the model server itself",
            )
        # Another page, whose request was cancelled, may have added series since the last block.
        self._values += [None] * (len(self._known.series) - len(self._values))
        lines = block.split(b"\n")
        del lines[-1]
        first = self._lines
        self._lines += len(lines)
        if self._lines > self._max_lines:
            raise BadData(
                f"more than {self._max_lines} lines",
                "raise model_server.max_lines if this number is expected",
            )
        layout = self._layout
        if layout is not None:
            texts = layout.texts
            if first or len(texts) != len(lines):
                texts = texts[first : first + len(lines)]
            if len(texts) == len(lines) and all(map(bytes.startswith, lines, texts)):
                self._read_known(lines, first, layout)
                return
            known = self._known.lines
            self._seen = [known.get(text) for text in layout.texts[:first]]
            self._layout = None
        self._read_any(lines)

    def _read_known(self, lines: list[bytes], first: int, layout: _Layout) -> None:
        """Reads lines that begin as those of the layout from its line `first` on."""
        texts, values = layout.texts, self._values
        part = slice(
            bisect_left(layout.wanted, first), bisect_left(layout.wanted, first + len(lines))
        )
        for number, sample in zip(layout.wanted[part], layout.samples[part], strict=True):
            if sample < 0:
                self._declared.add(self._known.declared[-2 - sample])
                continue
            line = lines[number - first]
            value = line[len(texts[number]) :]
            try:
                parsed = float(value)
            except ValueError:  # a time stamp, or malformed
                self._set(*self._new(line))
                continue
            if 0.0 <= parsed < _TOO_LARGE and _UNDERSCORE not in value and values[sample] is None:
                values[sample] = parsed
            else:
                self._set(sample, value)

    def _read_any(self, lines: list[bytes]) -> None:
        known, seen = self._known.lines, self._seen
        for line in lines:
            text = line[: line.rfind(b" ") + 1]
            entry = known.get(text)
            if entry is None:
                sample, value = self._new(line)
                seen.append(known.get(text))
            else:
                sample, value = entry.sample, line[len(text) :]
                seen.append(entry)
            if sample >= 0:
                self._set(sample, value)
            elif sample != _UNWANTED:
                self._declared.add(self._known.declared[-2 - sample])

    def _set(self, sample: int, value: bytes) -> None:
        """Sets the value of a series; counts one that is no valid number."""
        if sample < 0:
            return
        if self._values[sample] is not None:
            self._omissions["duplicate"] += 1
            return
        try:
            number = float(value)
        except ValueError:
            self._omissions["malformed"] += 1
            return
        if 0.0 <= number < _TOO_LARGE and _UNDERSCORE not in value:
            self._values[sample] = number
        else:
            self._omissions["malformed" if _UNDERSCORE in value else "invalid"] += 1

    def _new_layout(self) -> _Layout | None:
        """Returns the layout of the page; None if a line is not remembered."""
        texts: list[bytes] = []
        wanted: list[int] = []
        samples: list[int] = []
        for number, line in enumerate(self._seen):
            if line is None:
                return None
            texts.append(line.text)
            if line.sample != _UNWANTED:
                wanted.append(number)
                samples.append(line.sample)
        return _Layout(texts, wanted, samples)

    def _new(self, line: bytes) -> tuple[int, bytes]:
        """Returns the index of the series of a line that is not known, and the value.

        The index is negative if the line is not wanted.
        """
        known = self._known
        name = _NAME.match(line)
        if name is None or name[0] not in known.names:
            if self._html and line.lstrip().startswith(b"<"):
                raise BadData("an HTML page, not a metrics page")
            text = line[: line.rfind(b" ") + 1]
            declaration = self._declaration(line)
            self._remember(text, declaration)
            return declaration, line[len(text) :]
        series_text, value = split_sample(line)
        parsed = parse_series(series_text) if value and is_utf8(series_text) else None
        if parsed is None:
            self._omissions["malformed"] += 1
            return _UNWANTED, value
        # Blanks before the number are no part of the series.
        text = series_text.rstrip(b" \t") + b" "
        entry = known.lines.get(text)
        if entry is not None:
            return entry.sample, value
        labels = {_text(label): _unescape(quoted) for label, quoted in parsed[1]}
        index = len(known.series)
        known.series.append(PageSeries(_text(parsed[0]), labels))
        self._values.append(None)
        self._remember(text, index)
        return index, value

    def _declaration(self, line: bytes) -> int:
        """Returns the index of a # TYPE line of a wanted name; _UNWANTED for any other line."""
        if not line.startswith(_TYPE_LINE):
            return _UNWANTED
        name, blank, _ = line.removeprefix(_TYPE_LINE).partition(b" ")
        known = self._known
        if not blank or name not in known.names:
            return _UNWANTED
        text = name.decode()
        if text not in known.declared:
            known.declared.append(text)
        return -2 - known.declared.index(text)

    def _remember(self, text: bytes, sample: int) -> None:
        known = self._known
        if _decides(text) and (len(text) <= _KNOWN_LENGTH or sample >= 0):
            known.lines[text] = _KnownLine(text, sample)
            known.bytes += len(text)


def _decides(text: bytes) -> bool:
    """Returns whether all lines with this text before a blank are of the same name and labels."""
    blanks = text.count(b" ")
    return blanks >= 3 if text[:1] == b"#" else blanks > 0  # as "# TYPE name "


def _text(text: bytes) -> str:
    """Returns the text; the same object for series that share a name or value, if it is short."""
    return _short_text(text) if len(text) <= _SHARED_LENGTH else text.decode()


@lru_cache(maxsize=4096)
def _short_text(text: bytes) -> str:
    return text.decode()


def _unescape(text: bytes) -> str:
    """Returns a label value without the text format's escapes."""
    value = _text(text)
    if "\\" not in value:
        return value
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], value)
