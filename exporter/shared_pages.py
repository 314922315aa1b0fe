"""Metrics pages that one source requests and another reads, too: one request serves both.

The upstream source registers the pages that it merges. A source that reads one of them sets a
reader: it receives the same bytes, in the thread that parses them for the merge.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from exporter.errors import SourceError


class PieceReader(Protocol):
    """A page that is being read, piece by piece."""

    def feed(self, piece: bytes) -> None:
        """Reads a piece. Raises SourceError."""

    def finish(self) -> Any:
        """Returns the result after the last piece. Raises SourceError."""


@dataclass(eq=False, slots=True)
class SharedPage:
    """A page that is requested by its owner. Used from the event loop, except the readers.

    max_age: seconds for which a result is valid. begin: begins a page for the reader, with the
    content type; None without a reader.
    """

    max_age: float
    begin: Callable[[str], PieceReader] | None = None
    result: Any = None
    error: SourceError | None = None
    received: float = float("-inf")
    """When the latest request ended, in monotonic seconds."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def deliver(self, result: Any, error: SourceError | None = None) -> None:
        """Called by the owner after each request."""
        self.result, self.error, self.received = result, error, time.monotonic()
        self._changed.set()

    async def first(self) -> None:
        """Waits until the owner has requested the page once."""
        await self._changed.wait()


class SharedPages:
    """The registered pages, and the readers that claim pages, whichever comes first."""

    def __init__(self) -> None:
        self._pages: dict[_Key, list[SharedPage]] = {}
        self._readers: dict[_Key, Callable[[str], PieceReader]] = {}

    def add(self, host: str, port: int, path: str, max_age: float) -> SharedPage:
        """Registers a page of the caller."""
        key = _key(host, port, path)
        page = SharedPage(max_age, self._readers.get(key))
        self._pages.setdefault(key, []).append(page)
        return page

    def remove(self, page: SharedPage) -> None:
        """Removes a page; its reader has to request it."""
        self._pages = {
            key: left
            for key, pages in self._pages.items()
            if (left := [other for other in pages if other is not page])
        }

    def claim(
        self, host: str, port: int, path: str, begin: Callable[[str], PieceReader]
    ) -> SharedPage | None:
        """Sets the reader of the page at an address; returns it if it is registered."""
        key = _key(host, port, path)
        self._readers[key] = begin
        for page in self._pages.get(key, ())[:1]:
            page.begin = begin
            return page
        return None

    def release(self, host: str, port: int, path: str) -> None:
        """Removes the reader of the page at an address."""
        key = _key(host, port, path)
        self._readers.pop(key, None)
        for page in self._pages.get(key, ()):
            page.begin = None


_Key = tuple[str, int, str]


def _key(host: str, port: int, path: str) -> _Key:
    return ("127.0.0.1" if host in ("localhost", "::1") else host, port, path)
