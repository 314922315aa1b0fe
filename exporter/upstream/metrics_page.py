"""Requests of one metrics page, parsed in slices while it arrives."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol, TypeVar

from exporter.errors import BadData, DeadlineExceeded, Forbidden, Unreachable, Unsupported
from exporter.http_client.client import REDIRECT_REMEDY, HttpClient, OpenResponse
from exporter.http_client.shared_memory import Reader, SharedMemory
from exporter.self_scrape import MERGE_HEADER
from exporter.worker import Worker

T = TypeVar("T")
Parsed = TypeVar("Parsed")
P_co = TypeVar("P_co", covariant=True)

# Bytes of a page that the worker parses at a time: the pages of several upstreams take turns.
_SLICE_BYTES = 64 << 10
# A Triton server's metrics are within the first bytes of its page.
_CONFIRM_BYTES = 1 << 20
_TRITON_SAMPLE = re.compile(rb"(?:\A|\n)nv_")
_HEADERS = {"Accept": "text/plain;version=0.0.4,text/plain;q=0.5,*/*;q=0.1", MERGE_HEADER: "1"}


class PageInProgress(Protocol[P_co]):
    """A page that is being parsed, piece by piece. cost: its estimated memory in bytes."""

    @property
    def cost(self) -> int: ...

    def cost_after(self, piece: bytes) -> int: ...

    def feed(self, piece: bytes) -> None: ...

    def finish(self) -> P_co: ...


class PageFormat(Protocol[P_co]):
    """Begins pages, such as TextParser."""

    def begin(self, content_type: str = "") -> PageInProgress[P_co]: ...


class MetricsPage:
    """A page of another server. seconds: timeout of a request. memory: of all pages in progress.

    section: of the settings, for error remedies.
    """

    def __init__(
        self,
        transport: HttpClient,
        path: str,
        seconds: float,
        worker: Worker,
        memory: SharedMemory,
        *,
        section: str = "upstream",
    ) -> None:
        self._reader = Reader()
        self.transport = transport
        self._path = path.removeprefix("/")
        self._seconds = seconds
        self._worker = worker
        self._memory = memory
        self._section = section

    @property
    def url(self) -> str:
        return f"{self.transport.address.base}/{self._path}"

    async def parse(
        self, parser: PageFormat[Parsed], max_bytes: int, complete: Callable[[Parsed], T]
    ) -> T:
        """Requests the page and parses it while it arrives. Raises SourceError.

        Returns what `complete` returns for the page. It runs in the worker, together with the last
        slice: a short page waits once for the slices of others.
        """
        deadline = self._deadline()
        async with (
            self._open(deadline) as response,
            self._memory.share(self._reader, deadline) as share,
        ):
            page = parser.begin(response.content_type)

            def finish(piece: bytes) -> T:
                page.feed(piece)
                return complete(page.finish())

            last = b""
            async for piece in _slices(response.pieces, max_bytes):
                if last:
                    await share.grow(page.cost_after(last))
                    await self._worker.run(partial(page.feed, last))
                    share.shrink(page.cost)
                last = piece
            await share.grow(page.cost_after(last))
            return await self._worker.run(partial(finish, last))

    async def is_tritons(self) -> bool:
        """Returns whether the page has a Triton server's metrics. Raises SourceError."""
        async with self._open(self._deadline()) as response:
            end = b""
            length = 0
            async for piece in response.pieces:
                if _TRITON_SAMPLE.search(end + piece):
                    return True
                end = (end + piece)[-3:] if length else piece[-3:]
                length += len(piece)
                if length > _CONFIRM_BYTES:
                    break
        return False

    def _deadline(self) -> float:
        """Returns the event loop time by which a request that begins now has to end."""
        return asyncio.get_running_loop().time() + self._seconds

    @asynccontextmanager
    async def _open(self, deadline: float) -> AsyncIterator[OpenResponse]:
        """Requests the page; yields the response if it can be a metrics page."""
        try:
            async with (
                asyncio.timeout_at(deadline),
                self.transport.open("GET", self._path, headers=_HEADERS) as response,
            ):
                _check_response(response, self._section)
                yield response
        except TimeoutError:
            raise DeadlineExceeded("no complete page in time") from None


async def _slices(pieces: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[bytes]:
    """Yields a body in slices of about _SLICE_BYTES, however small its pieces are."""
    buffer = bytearray()
    length = 0
    async for piece in pieces:
        length += len(piece)
        if length > max_bytes:
            raise BadData(f"page longer than {max_bytes} bytes")
        buffer += piece
        if len(buffer) >= _SLICE_BYTES:
            for start in range(0, len(buffer), _SLICE_BYTES):
                yield bytes(buffer[start : start + _SLICE_BYTES])
            buffer.clear()
    if buffer:
        yield bytes(buffer)


def _check_response(response: OpenResponse, section: str) -> None:
    """Raises SourceError unless the response can be a metrics page."""
    status = response.status
    if status in (401, 403):
        raise Forbidden(f"HTTP {status}", f"set {section}.header or {section}.basic_auth")
    if status >= 500:
        raise Unreachable(f"HTTP {status}")
    if 300 <= status < 400 and response.location:
        raise Unsupported(response.status_text, REDIRECT_REMEDY)
    if status != 200:
        raise Unsupported(f"HTTP {status}", "is this the URL of a metrics page?")
