"""Pages: the finished bytes a scrape is handed, in every format and encoding.

A page is made of sections, one a source: the rendered blocks of its targets, gathered by metric,
under the metrics' comment lines. A section is put together, and deflated, at most once per change
and format; a page joins what is ready. That happens in a thread; a page is then only handed out.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from exporter.exposition.families import Family, Format, comments
from exporter.exposition.scrape_predictor import ScrapePredictor
from exporter.exposition.selection import EVERYTHING, Selection, select
from exporter.exposition.upstream_families import render_families
from exporter.model import UpstreamFamily
from exporter.worker import Worker

Blocks = Sequence[Mapping[str, bytes]]

# Pages of a part that are kept: whoever asks for ever new combinations gains nothing by it.
MAX_PARTIAL_PAGES = 16
MAX_PARTIAL_BYTES = 4 << 20
# Seconds before a page is expected to be asked for at which it is made ready.
LEAD_TIME = 0.1
# Seconds from a change to the making of a page that is asked for all the time, so that changes
# close together count once.
REFRESH_DELAY = 0.1

_END = b"# EOF\n"


class PublishedReadings(Protocol):
    """What the pages are made of: the store."""

    def generations(self) -> Mapping[str, int]:
        """By source: changes whenever its blocks do."""

    def blocks(self, source: str) -> Blocks:
        """The sample lines of every target of a source that is current, by metric name."""

    def families(self, source: str) -> Sequence[UpstreamFamily]:
        """The families of other servers' pages that a source shows."""


def assemble(headers: Mapping[str, bytes], blocks: Blocks) -> bytes:
    """The families in the order of the headers, which are their comment lines by name."""
    parts: list[bytes] = []
    for name, header in headers.items():
        found = [lines for block in blocks if (lines := block.get(name))]
        if found:
            parts.append(header)
            parts += found
    return b"".join(parts)


def deflate(plain: bytes) -> bytes:
    """A part of a gzip member, which any other part may follow.

    At level 1: a third of the size of a page for a fifth of level 9's time.
    """
    compressor = zlib.compressobj(level=1, wbits=-zlib.MAX_WBITS)
    return compressor.compress(plain) + compressor.flush(zlib.Z_FULL_FLUSH)


def gzip_member(parts: Iterable[tuple[bytes, bytes]]) -> bytes:
    """One gzip member of parts, each plain and deflated (RFC 1952)."""
    out = [b"\x1f\x8b\x08\0\0\0\0\0\x04\xff"]  # deflate, no name, no time, fastest, no system
    checksum = size = 0
    for plain, packed in parts:
        checksum = zlib.crc32(plain, checksum)
        size += len(plain)
        out.append(packed)
    out.append(b"\x03\0")  # an empty last block
    out.append(checksum.to_bytes(4, "little") + (size & 0xFFFFFFFF).to_bytes(4, "little"))
    return b"".join(out)


@dataclass(slots=True)
class _SourceSection:
    """One source in one format. packed: None until somebody wants it."""

    generation: int
    plain: bytes
    packed: bytes | None = None

    def pack(self) -> tuple[bytes, bytes]:
        if self.packed is None:
            self.packed = deflate(self.plain)
        return self.plain, self.packed


@dataclass(frozen=True, slots=True)
class _CachedPage:
    """A page and the generations of the sources it was made of."""

    of: tuple[tuple[str, int], ...]
    page: bytes


PageKey = tuple[Selection, Format, bool]


class Pages:
    """Hands out pages; used from the event loop only. families: by source, as on the page."""

    def __init__(self, store: PublishedReadings, families: Mapping[str, Sequence[Family]]) -> None:
        self._store = store
        self._families = families
        self._headers = _headers(families)
        self._worker = Worker("pages", shared=True)
        self._lock = asyncio.Lock()
        self._sections: dict[tuple[str, Format], _SourceSection] = {}
        self._whole: dict[PageKey, _CachedPage] = {}
        self._parts: OrderedDict[PageKey, _CachedPage] = OrderedDict()
        self._asked: dict[PageKey, ScrapePredictor] = {}
        self._refreshing: asyncio.Task[None] | None = None

    def change(self, families: Mapping[str, Sequence[Family]]) -> None:
        """Go over to other families."""
        self._families = families
        self._headers = _headers(families)
        for kept in (self._sections, self._whole, self._parts):
            kept.clear()

    def select(
        self, collect: Iterable[str], exclude: Iterable[str], names: Iterable[str]
    ) -> Selection:
        """What these query parameters ask for. Raises BadSelection."""
        return select(self._families, collect, exclude, names)

    async def get(self, format: Format, *, gzip: bool, selection: Selection = EVERYTHING) -> bytes:
        """The page of this moment; at once if nothing changed since it was last made."""
        kind = (selection, format, gzip)
        if selection == EVERYTHING:
            now = asyncio.get_running_loop().time()
            self._asked.setdefault(kind, ScrapePredictor()).note(now)
        if (made := self._current(kind)) is not None:
            return made
        async with self._lock:
            return await self._make(kind)

    def refresh(self) -> None:
        """Something was published: what is about to be asked for is made ready."""
        if self._asked and self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh(), name="pages")

    def close(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
        self._worker.close()

    async def _refresh(self) -> None:
        """Wait until a page is due, and make it; then the next publication begins anew."""
        clock = asyncio.get_running_loop().time
        try:
            due: list[tuple[float, PageKey]] = []
            for kind, rhythm in list(self._asked.items()):
                now = clock()
                if rhythm.gone(now):
                    del self._asked[kind]
                    self._whole.pop(kind, None)
                elif rhythm.constant(now):
                    due.append((now + REFRESH_DELAY, kind))
                elif (expected := rhythm.next(now)) is not None:
                    due.append((max(now, expected - LEAD_TIME), kind))
            # Only the next one: what is due after it is looked at again with the next publication.
            for when, kind in sorted(due, key=lambda each: each[0])[:1]:
                await asyncio.sleep(when - clock())
                if self._current(kind) is None:
                    async with self._lock:
                        await self._make(kind)
        finally:
            self._refreshing = None

    def _current(self, kind: PageKey) -> bytes | None:
        """The page, if it is made and nothing changed since."""
        made = self._whole.get(kind) or self._parts.get(kind)
        if made is None or made.of != self._generations(kind[0]):
            return None
        return made.page

    def _generations(self, selection: Selection) -> tuple[tuple[str, int], ...]:
        now = self._store.generations()
        return tuple(
            (source, now[source])
            for source in self._families
            if source in now and (selection.sources is None or source in selection.sources)
        )

    async def _make(self, kind: PageKey) -> bytes:
        if (made := self._current(kind)) is not None:
            return made  # somebody else waited for the same
        selection, chosen, gzip = kind
        of = self._generations(selection)
        sections = [self._section(source, chosen, now, selection.names) for source, now in of]
        page = await self._worker.run(lambda: _finish(sections, chosen, gzip=gzip))
        self._keep(kind, _CachedPage(of, page))
        return page

    def _section(
        self, source: str, format: Format, generation: int, names: Container[str] | None
    ) -> Callable[[], _SourceSection]:
        """What gives the section, in the thread: ready, or put together from what is shown now."""
        section = self._sections.get((source, format))
        if names is None and section is not None and section.generation == generation:
            return lambda: section
        blocks = self._store.blocks(source)
        headers = self._headers[format][source]
        if names is not None:
            chosen = {name: header for name, header in headers.items() if name in names}
            return lambda: _SourceSection(generation, assemble(chosen, blocks))

        foreign = self._store.families(source)

        def put_together() -> _SourceSection:
            plain = assemble(headers, blocks) + render_families(foreign, format)
            made = _SourceSection(generation, plain)
            self._sections[source, format] = made
            return made

        return put_together

    def _keep(self, kind: PageKey, made: _CachedPage) -> None:
        if kind[0] == EVERYTHING:
            self._whole[kind] = made
            return
        self._parts[kind] = made
        self._parts.move_to_end(kind)
        size = sum(len(each.page) for each in self._parts.values())
        while len(self._parts) > MAX_PARTIAL_PAGES or (
            size > MAX_PARTIAL_BYTES and len(self._parts) > 1
        ):
            _, dropped = self._parts.popitem(last=False)
            size -= len(dropped.page)


def _finish(
    sections: Iterable[Callable[[], _SourceSection]], format: Format, *, gzip: bool
) -> bytes:
    """The page of these sections; in the thread."""
    ready = [section() for section in sections]
    end = _SourceSection(0, _END if format is Format.OPENMETRICS else b"")
    if gzip:
        return gzip_member(section.pack() for section in (*ready, end))
    return b"".join(section.plain for section in (*ready, end))


def _headers(
    families: Mapping[str, Sequence[Family]],
) -> dict[Format, dict[str, dict[str, bytes]]]:
    """By format and source: the comment lines by metric name, in the order of the page."""
    return {
        each: {
            source: {family.name: comments(family, each) for family in own}
            for source, own in families.items()
        }
        for each in Format
    }
