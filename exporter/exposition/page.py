"""Assembles and caches the exposition served to a scrape, in every format and encoding.

A page consists of sections, one per source: the rendered blocks of its targets, merged by metric,
under the metrics' comment lines. A section is assembled and encoded at most once per change, format
and encoding; a page joins ready sections. Both happen in a thread; later requests get the cached
bytes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from exporter.exposition.families import Family, Format, comments
from exporter.exposition.gzip_parts import Part, deflate, gzip_member
from exporter.exposition.selection import EVERYTHING, SelectedFamilies, Selection, Selector
from exporter.exposition.upstream_families import render_families
from exporter.model import UpstreamFamily
from exporter.scrape_schedule import ScrapeSchedule
from exporter.worker import Worker

Blocks = Sequence[Mapping[str, bytes]]
"""Sample lines by metric name, of each target."""

SectionGeneration = tuple[int, ...]
"""The generations of a source, and of the others that add series to its families."""

# Cached partial pages: many different selections must not fill the memory.
MAX_PARTIAL_PAGES = 16
MAX_PARTIAL_BYTES = 4 << 20
# Seconds before a predicted scrape at which its page is rendered.
LEAD_TIME = 0.1
# Seconds from a change to the rendering of a page under continuous scrapes, so that changes close
# together cause a single rendering.
REFRESH_DELAY = 0.1

_END = b"# EOF\n"


class PublishedReadings(Protocol):
    """The part of the store that pages use."""

    def generations(self) -> Mapping[str, int]:
        """Returns a number by source that changes when the source's blocks change."""

    def blocks(self, source: str, *, exemplars: bool = False) -> Blocks:
        """Returns the blocks of every current target of a source."""

    def families(self, source: str) -> Sequence[UpstreamFamily]:
        """Returns the families that a source merges from upstream pages."""


def assemble(comment_lines: Mapping[str, bytes], blocks: Blocks) -> bytes:
    """Returns the families in the order of `comment_lines`, which are by metric name."""
    by_family: dict[str, list[bytes]] = {}
    for block in blocks:  # most blocks have few of the families
        for name, lines in block.items():
            if lines:
                by_family.setdefault(name, []).append(lines)
    parts: list[bytes] = []
    for name, comments_of_family in comment_lines.items():
        if family_lines := by_family.get(name):
            parts.append(comments_of_family)
            parts += family_lines
    return b"".join(parts)


def encode(plain: bytes, *, gzip: bool) -> Part:
    """Returns a part of a page."""
    return deflate(plain) if gzip else Part(plain, 0, len(plain))


@dataclass(frozen=True, slots=True)
class DialectPages:
    """The series and names that dialects add to sources.

    extending: by source, the others whose blocks have series of its families. shared_names: by
    dialect, the native metrics that have its names.
    """

    extending: Mapping[str, Sequence[str]] = field(default_factory=dict)
    shared_names: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _SourceSection:
    """A source in one format. parts: by whether they are compressed; those that pages needed.

    Most scrapers request gzip: the plain bytes, 1 MB for 10,000 samples, are not kept for them.
    """

    generation: SectionGeneration
    parts: dict[bool, Part] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _CachedPage:
    """A page and the generation of each source in it."""

    generations: tuple[tuple[str, SectionGeneration], ...]
    body: bytes


class PageKey(NamedTuple):
    """Identifies a page in the cache."""

    selection: Selection
    format: Format
    gzip: bool


class Pages:
    """Renders and caches pages; used from the event loop only.

    families: by source, in the order of the page. scrapes: where the scrapes are recorded.
    dialects: what they add to sources.
    """

    def __init__(
        self,
        store: PublishedReadings,
        families: Mapping[str, Sequence[Family]],
        scrapes: ScrapeSchedule[PageKey] | None = None,
        dialects: DialectPages | None = None,
    ) -> None:
        self._store = store
        self._scrapes: ScrapeSchedule[PageKey] = ScrapeSchedule() if scrapes is None else scrapes
        self._families = families
        self._dialects = dialects or DialectPages()
        self._selector = Selector(families, self._dialects.shared_names)
        self._comment_lines = _comment_lines(families)
        self._worker = Worker("pages", shared=True)
        self._lock = asyncio.Lock()
        self._sections: dict[tuple[str, Format], _SourceSection] = {}
        self._full_pages: dict[PageKey, _CachedPage] = {}
        # Of selections; least recently rendered first.
        self._partial_pages: OrderedDict[PageKey, _CachedPage] = OrderedDict()
        self._refresh_task: asyncio.Task[None] | None = None

    def set_families(
        self,
        families: Mapping[str, Sequence[Family]],
        dialects: DialectPages | None = None,
    ) -> None:
        """Replaces the families and clears the cache."""
        self._families = families
        self._dialects = dialects or DialectPages()
        self._selector = Selector(families, self._dialects.shared_names)
        self._comment_lines = _comment_lines(families)
        for cache in (self._sections, self._full_pages, self._partial_pages):
            cache.clear()

    def select(
        self, collect: Iterable[str], exclude: Iterable[str], names: Iterable[str]
    ) -> Selection:
        """Returns the selection of these query parameters. Raises BadSelection."""
        return self._selector.select(collect, exclude, names)

    async def get(
        self,
        format: Format,
        *,
        gzip: bool,
        selection: Selection = EVERYTHING,
        client: str = "",
    ) -> bytes:
        """Returns the current page, from the cache if no source has changed since.

        client: the address of the scraper, to predict its next scrape.
        """
        key = PageKey(selection, format, gzip)
        self._scrapes.record(client, key, asyncio.get_running_loop().time())
        if (body := self._cached(key)) is not None:
            return body
        async with self._lock:
            return await self._render(key)

    def refresh(self) -> None:
        """Schedules the rendering of the page of the next predicted scrape: a reading changed."""
        if self._scrapes and self._refresh_task is None:
            self._refresh_task = asyncio.create_task(self._refresh(), name="pages")

    def close(self) -> None:
        if self._refresh_task is not None:
            self._refresh_task.cancel()
        self._worker.close()

    async def _refresh(self) -> None:
        """Waits until shortly before the next predicted scrape and renders its page."""
        clock = asyncio.get_running_loop().time
        try:
            now = clock()
            scraped: set[PageKey] = set()
            due: list[tuple[float, PageKey]] = []
            for key, predictor in self._scrapes.streams(now):
                scraped.add(key)
                if key.selection != EVERYTHING:
                    continue
                if predictor.continuous(now):
                    due.append((now + REFRESH_DELAY, key))
                elif (scrape := predictor.next_scrape(now)) is not None:
                    due.append((max(now, scrape - LEAD_TIME), key))
            for key in self._full_pages.keys() - scraped:
                del self._full_pages[key]
            # The first only: the next published reading schedules the others.
            for when, key in sorted(due, key=lambda item: item[0])[:1]:
                await asyncio.sleep(when - clock())
                if self._cached(key) is None:
                    async with self._lock:
                        await self._render(key)
        finally:
            self._refresh_task = None

    def _cached(self, key: PageKey) -> bytes | None:
        """Returns the cached page if no source has changed since it was rendered."""
        page = self._full_pages.get(key) or self._partial_pages.get(key)
        if page is None or page.generations != self._generations(key.selection):
            return None
        return page.body

    def _generations(self, selection: Selection) -> tuple[tuple[str, SectionGeneration], ...]:
        current = self._store.generations()
        selected: Iterable[str] = self._families
        if selection != EVERYTHING:
            selected = self._selector.families_of(selection)
        return tuple(
            (source, tuple(current.get(name, 0) for name in names))
            for source in selected
            for names in (self._block_sources(source),)
            if any(name in current for name in names)
        )

    def _block_sources(self, source: str) -> tuple[str, ...]:
        """Returns the sources whose blocks have series of the source's families."""
        return (source, *self._dialects.extending.get(source, ()))

    async def _render(self, key: PageKey) -> bytes:
        if (body := self._cached(key)) is not None:
            return body  # rendered for another request while this one waited for the lock
        selection, format, gzip = key  # noqa: A001 - the field's name
        generations = self._generations(selection)
        families: Mapping[str, SelectedFamilies] = {}
        if selection != EVERYTHING:
            families = self._selector.families_of(selection)
        sections = [
            self._section(source, key, generation, families.get(source))
            for source, generation in generations
        ]
        body = await self._worker.run(lambda: _join(sections, format, gzip=gzip))
        self._cache(key, _CachedPage(generations, body))
        return body

    def _section(
        self,
        source: str,
        key: PageKey,
        generation: SectionGeneration,
        families: SelectedFamilies | None,
    ) -> Callable[[], Part]:
        """Returns a function for the thread that returns the section, cached or assembled.

        It uses the source's blocks of this moment. families: None for all.
        """
        _, format, gzip = key  # noqa: A001 - the field's name
        section = self._sections.get((source, format))
        if families is not None or section is None or section.generation != generation:
            section = _SourceSection(generation)
        if (part := section.parts.get(gzip)) is not None:
            return lambda: part
        exemplars = format is Format.OPENMETRICS
        blocks = [
            block
            for name in self._block_sources(source)
            for block in self._store.blocks(name, exemplars=exemplars)
        ]
        comment_lines: Mapping[str, bytes] = self._comment_lines[format][source]
        upstream_families = self._store.families(source)
        if families is None:
            self._sections[source, format] = section
        else:
            names = families.names
            comment_lines = {name: lines for name, lines in comment_lines.items() if name in names}
            upstream_families = [
                family for family in upstream_families if families.has_merged(family.name)
            ]

        def assemble_section() -> Part:
            plain = assemble(comment_lines, blocks) + render_families(upstream_families, format)
            section.parts[gzip] = part = encode(plain, gzip=gzip)
            return part

        return assemble_section

    def _cache(self, key: PageKey, page: _CachedPage) -> None:
        if key.selection == EVERYTHING:
            self._full_pages[key] = page
            return
        self._partial_pages[key] = page
        self._partial_pages.move_to_end(key)
        size = sum(len(partial.body) for partial in self._partial_pages.values())
        while len(self._partial_pages) > MAX_PARTIAL_PAGES or (
            size > MAX_PARTIAL_BYTES and len(self._partial_pages) > 1
        ):
            _, evicted = self._partial_pages.popitem(last=False)
            size -= len(evicted.body)


def _join(sections: Iterable[Callable[[], Part]], format: Format, *, gzip: bool) -> bytes:
    """Returns the page of these sections. Runs in the thread."""
    parts = [section() for section in sections]
    if format is Format.OPENMETRICS:
        parts.append(encode(_END, gzip=gzip))
    return gzip_member(parts) if gzip else b"".join(part.body for part in parts)


def _comment_lines(
    families: Mapping[str, Sequence[Family]],
) -> dict[Format, dict[str, dict[str, bytes]]]:
    """Returns the HELP, TYPE and UNIT lines by format, source and metric name, in page order."""
    return {
        format_: {
            source: {family.name: comments(family, format_) for family in source_families}
            for source, source_families in families.items()
        }
        for format_ in Format
    }
