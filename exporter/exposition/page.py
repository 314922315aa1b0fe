"""Pages: the finished bytes a scrape is handed, in every format and encoding.

A page is the rendered blocks of all targets, gathered by metric, under the metric's comment lines.
It is put together at most once per change, format and encoding, in a thread, and then only handed
out.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Protocol

from exporter.model import Metric, Type
from exporter.worker import Worker

Blocks = Sequence[Mapping[str, bytes]]


class Format(Enum):
    """An exposition format and its Content-Type."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Published(Protocol):
    """What the pages are made of: the store."""

    @property
    def generation(self) -> int:
        """Changes whenever the blocks do."""

    def blocks(self) -> Blocks:
        """The sample lines of every target that is current, by metric name."""


def comments(metric: Metric[Any], format: Format) -> bytes:
    """The HELP, TYPE and (OpenMetrics) UNIT lines, as prometheus_client writes them."""
    text = metric.help.replace("\\", r"\\").replace("\n", r"\n")
    if format is Format.TEXT:
        type_ = "gauge" if metric.type is Type.INFO else metric.type
        return f"# HELP {metric.name} {text}\n# TYPE {metric.name} {type_}\n".encode()
    text = text.replace('"', r"\"")
    family = metric.family
    unit = f"# UNIT {family} {metric.unit}\n" if metric.unit else ""
    return f"# HELP {family} {text}\n# TYPE {family} {metric.type}\n{unit}".encode()


def assemble(headers: Mapping[str, bytes], blocks: Blocks, format: Format) -> bytes:
    """One page. headers: the comment lines by metric name, in the order of the page."""
    parts: list[bytes] = []
    for name, header in headers.items():
        found = [lines for block in blocks if (lines := block.get(name))]
        if found:
            parts.append(header)
            parts += found
    if format is Format.OPENMETRICS:
        parts.append(b"# EOF\n")
    return b"".join(parts)


def compress(page: bytes) -> bytes:
    """Gzip at level 1: a third of the size of a page for a fifth of level 9's time."""
    return zlib.compress(page, level=1, wbits=31)


class Pages:
    """Hands out pages; used from the event loop only."""

    def __init__(self, store: Published, metrics: Sequence[Metric[Any]]) -> None:
        self._store = store
        self._headers = {
            each: {metric.name: comments(metric, each) for metric in metrics} for each in Format
        }
        self._worker = Worker("pages", shared=True)
        self._lock = asyncio.Lock()
        self._made: dict[tuple[Format, bool], tuple[int, bytes]] = {}

    async def get(self, format: Format, *, gzip: bool) -> bytes:
        """The page of this moment; at once if nothing changed since it was last asked for."""
        made = self._made.get((format, gzip))
        if made is not None and made[0] == self._store.generation:
            return made[1]
        async with self._lock:
            return await self._make(format, gzip=gzip)

    async def _make(self, format: Format, *, gzip: bool) -> bytes:
        generation = self._store.generation
        made = self._made.get((format, gzip))
        if made is not None and made[0] == generation:
            return made[1]
        if gzip:
            plain = await self._make(format, gzip=False)
            page = await self._worker.run(lambda: compress(plain))
            generation = self._made[format, False][0]
        else:
            blocks = self._store.blocks()
            headers = self._headers[format]
            page = await self._worker.run(lambda: assemble(headers, blocks, format))
        self._made[format, gzip] = (generation, page)
        return page

    def close(self) -> None:
        self._worker.close()
