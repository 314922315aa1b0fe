"""Pages as a real Prometheus takes them: whatever it stores, we have with the same value and type.

Generated lines and pages are scraped by Prometheus and parsed by us; our page of all that was read
is scraped, too. GRAMMAR_SECONDS: for how long to generate (`make grammar`: ten minutes).
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from exporter.errors import BadData
from exporter.exposition.families import Format
from exporter.exposition.upstream_families import render_families
from exporter.model import UpstreamFamily
from exporter.upstream.text_parser import PageLimits, TextParser
from tests.prometheus import DEBIANS, PROMETHEUS_3
from tests.upstream.generated_pages import Document, Generator
from tests.upstream.stored import OPENMETRICS, TEXT, Page, Series, Stored, stored

log = logging.getLogger(__name__)

# Seconds of generation; lines and pages of one Prometheus.
SECONDS = float(os.environ.get("GRAMMAR_SECONDS", "0"))
LINES, PAGES = (1200, 300) if SECONDS else (400, 100)
FIRST_SEED = int(os.environ.get("GRAMMAR_SEED", time.time() if SECONDS else 16))
BINARIES = [DEBIANS, PROMETHEUS_3]

OURS = "ours"
# What Prometheus takes since 3.0: names in quotes, commas at the end of labels in OpenMetrics, and
# exemplars of any sample.
SINCE_3 = re.compile(rb'[{,][ \t]*"|"[ \t]*"|,\}| # \{')
# Names of a family's samples, as far as a type other than untyped can show.
SUFFIXES = {
    "counter": ("", "_total"),
    "gauge": ("",),
    "histogram": ("", "_bucket", "_sum", "_count"),
    "gaugehistogram": ("", "_bucket", "_gsum", "_gcount"),
    "summary": ("", "_sum", "_count"),
    "info": ("", "_info"),
    "stateset": ("",),
    "unknown": ("",),
}
# Of a histogram's or summary's bounds: other bounds make our type untyped.
NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?(e[+-]?[0-9]{1,2})?|\+Inf")


def families_of(body: bytes, content_type: str = TEXT) -> tuple[UpstreamFamily, ...]:
    """Returns the families of a page that we read; none if we refuse it."""
    parser = TextParser(OURS, lambda _: True, PageLimits(10_000), keep_created=lambda _: True)
    try:
        return parser.parse(body, content_type).families
    except BadData:
        return ()


def legacy(series: Series) -> Series:
    """Returns the series with underscores for the characters that need quotes."""

    def name(text: str) -> str:
        replaced = re.sub(r"[^a-zA-Z0-9_:]", "_", text)
        return f"_{replaced[1:]}" if replaced[:1].isdigit() else replaced

    return frozenset(
        (label, name(value)) if label == "__name__" else (name(label).replace(":", "_"), value)
        for label, value in series
    )


def differences(theirs: dict[Series, str], ours: dict[Series, str]) -> list[str]:
    """Returns the series that we lack, have with another value, or should not have."""
    theirs = {legacy(series): value for series, value in theirs.items()}
    return [
        f"{dict(sorted(series))}: {theirs.get(series)} stored, {ours.get(series)} ours"
        for series in sorted({*theirs, *ours}, key=sorted)
        if theirs.get(series) != ours.get(series)
    ]


def refused_name(result: Stored) -> bool:
    """Whether 3.16 stored a name with the blanks before it, which 2.42 refuses."""
    return any(dict(series)["__name__"][:1] in " \t" for series in result.series)


@dataclass(slots=True)
class Ours:
    """Our page: the families as read, and the series as Prometheus stores them, by prefix."""

    families: dict[str, UpstreamFamily]
    series: dict[str, dict[Series, str]]

    @classmethod
    def of(cls, families: Sequence[UpstreamFamily], text: Stored, openmetrics: Stored) -> Ours:
        assert (text.error, openmetrics.error) == ("", ""), "our page was refused"
        assert text.series == openmetrics.series
        by_prefix: dict[str, dict[Series, str]] = {}
        for series, value in text.series.items():
            labels = dict(series)
            assert labels.pop("upstream") == OURS
            prefix = labels["__name__"].partition("_")[0]
            by_prefix.setdefault(prefix, {})[frozenset(labels.items())] = value
        for family in families:
            assert text.types[family.name] == {"untyped": "unknown"}.get(*[family.text_type] * 2)
        return cls({family.name: family for family in families}, by_prefix)

    def type(self, name: str) -> str:
        """Returns the type of a family, by its name on the original page."""
        aliases = (name, f"{name}_total", f"{name}_info")
        types = [self.families[alias].type for alias in aliases if alias in self.families]
        return next((found for found in types if found != "untyped"), "unknown")


@dataclass(slots=True)
class Batch:
    """Generated lines and pages, to be scraped by one Prometheus."""

    seed: int
    lines: list[bytes] = field(default_factory=list)
    pages: list[Document] = field(default_factory=list)

    def generate(self, lines: int, pages: int) -> None:
        generator = Generator(self.seed)
        self.lines = [generator.line(b"n%d_" % number) for number in range(lines)]
        self.pages = [generator.page(b"p%d_" % number) for number in range(pages)]

    def differences(self, folder: Path, binary: str) -> list[str]:
        """Returns what Prometheus stores and we do not, or the other way round."""
        raw: list[Page] = []
        families: list[UpstreamFamily] = []
        for line in self.lines:
            sent = line.rstrip(b"\r") + b"\n"  # Prometheus refuses CRLF
            raw += (Page(sent), Page(sent + b"# EOF\n", OPENMETRICS))
            families += families_of(line + b"\n")
        for page in self.pages:
            content_type = OPENMETRICS if page.openmetrics else TEXT
            base = page.without_strange_line()
            raw += (Page(page.body, content_type), Page(base.body, content_type))
            families += families_of(page.body, content_type)
        raw += (
            Page(render_families(families, Format.TEXT)),
            Page(render_families(families, Format.OPENMETRICS) + b"# EOF\n", OPENMETRICS),
        )
        results = stored(folder, raw, binary)
        ours = Ours.of(families, *results[-2:])
        found: list[str] = []
        for number, line in enumerate(self.lines):
            pair = results[2 * number : 2 * number + 2]
            found += self._line(line, ours.series.get(f"n{number}", {}), pair, binary)
        for number, page in enumerate(self.pages, len(self.lines)):
            prefix = f"p{number - len(self.lines)}"
            pair = results[2 * number : 2 * number + 2]
            found += self._page(page, prefix, ours, pair)
        return [f"seed {self.seed}: {difference}" for difference in found]

    def _line(
        self, line: bytes, ours: dict[Series, str], pair: Sequence[Stored], binary: str
    ) -> list[str]:
        taken = [result for result in pair if not result.error and not refused_name(result)]
        taken.sort(key=lambda result: not result.series)  # what one format calls a comment
        if not taken and binary == DEBIANS and SINCE_3.search(line):
            return []
        found = differences(taken[0].series if taken else {}, ours)
        errors = ", ".join(result.error for result in pair)
        return [f"line {line!r}: {difference} ({errors})" for difference in found]

    def _page(self, page: Document, prefix: str, ours: Ours, pair: Sequence[Stored]) -> list[str]:
        result, base = pair
        series = ours.series.get(prefix, {})
        if base.error:
            return [f"page {page.body!r}: refused without its strange line: {base.error}"]
        if result.error:
            expected = dict(base.series)
            if page.strange is not None:  # another format may take it
                strange = {
                    labels: value
                    for labels, value in series.items()
                    if "strange" in dict(labels)["__name__"]
                }
                expected |= strange
            found = differences(expected, series)
        else:
            found = differences(result.series, series)
            found += self._types(result, ours)
        return [f"page {page.body!r}: {difference} ({result.error})" for difference in found]

    def _types(self, result: Stored, ours: Ours) -> list[str]:
        """Compares the types of the families with samples whose bounds are numbers."""
        found = []
        for name, stored_type in result.types.items():
            samples = [
                dict(series)
                for series in result.series
                if dict(series)["__name__"] in {name + suffix for suffix in SUFFIXES[stored_type]}
            ]
            bound = {"summary": "quantile"}.get(stored_type, "le")
            numbers = all(NUMBER.fullmatch(labels.get(bound, "0")) for labels in samples)
            if samples and numbers and stored_type != ours.type(name):
                found.append(f"{name}: type {stored_type} stored, {ours.type(name)} ours")
        return found


@pytest.mark.real
@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.parametrize("binary", BINARIES, ids=["2.42", "3.16"])
def test_what_prometheus_stores_of_generated_pages_we_have(binary: str, tmp_path: Path) -> None:
    if binary == PROMETHEUS_3 and not Path(binary).exists():
        pytest.skip("no Prometheus 3.16 (make prometheus3)")
    end = time.monotonic() + SECONDS / len(BINARIES)
    found: list[str] = []
    seed = FIRST_SEED
    while not found:
        batch = Batch(seed)
        batch.generate(LINES, PAGES)
        found = batch.differences(tmp_path / str(seed), binary)
        seed += 1
        if time.monotonic() >= end:
            break
    count = seed - FIRST_SEED
    log.info("%d lines, %d pages, seeds from %d on", count * LINES, count * PAGES, FIRST_SEED)
    assert not found, "\n".join(found[:30])
