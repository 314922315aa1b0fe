"""Upstream source: one target per page given by `url`, and per Triton server's metrics page."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from exporter.context import Context
from exporter.errors import (
    BadData,
    DeadlineExceeded,
    Forbidden,
    NotFound,
    NotYet,
    SourceError,
    TooMany,
    Unreachable,
    Unsupported,
)
from exporter.http_client.address import Address, parse_page
from exporter.http_client.client import HttpClient, HttpResponse, OpenResponse
from exporter.http_client.credentials import credentials_for
from exporter.http_client.shared_memory import SharedMemory
from exporter.model import Metric, Reading, Row, Target, Up, UpstreamFamily
from exporter.patterns import Pattern
from exporter.self_scrape import MERGE_HEADER
from exporter.sources.triton.reading import ServerAddressRow
from exporter.upstream import triton
from exporter.upstream.metrics import UP
from exporter.upstream.name_conflicts import NameConflicts
from exporter.upstream.reading import UpstreamErrors, UpstreamRow
from exporter.upstream.retained import RetainedMemory, retained_bytes
from exporter.upstream.settings import Settings
from exporter.upstream.text_parser import PageLimits, ParsedPage, TextParser
from exporter.worker import Worker

log = logging.getLogger("exporter.upstream")

T = TypeVar("T")

# Share of the poll's timeout for the request.
_REQUEST_SHARE = 0.9
# Bytes of a page that the worker parses at a time: the pages of several upstreams take turns.
_SLICE_BYTES = 32 << 10
# Memory of all pages that are being parsed, and of all merged ones with their caches.
# That of one page at its limits, if that is more: it is merged, though without a cache.
_PARSING_BYTES = 32 << 20
_RETAINED_BYTES = 28 << 20
# Of a page that is served at /upstream/NAME/metrics.
_SERVED_BYTES = 4 << 20
# A Triton server's metrics are within the first bytes of its page.
_CONFIRM_BYTES = 1 << 20
_TRITON_SAMPLE = re.compile(rb"(?:\A|\n)nv_")
_HEADERS = {"Accept": "text/plain;version=0.0.4,text/plain;q=0.5,*/*;q=0.1", MERGE_HEADER: "1"}


class UpstreamTarget:
    """One metrics page. server: name of the Triton server, if the page is its own; else empty."""

    def __init__(
        self,
        name: str,
        page: tuple[HttpClient, str],
        parser: TextParser,
        context: _UpstreamContext,
        server: str,
    ) -> None:
        """page: client of its server, and its path."""
        self._name = name
        self.transport, path = page
        self._path = path.removeprefix("/")
        self._parser = parser
        self._context = context
        self._server = server
        self._errors: dict[str, int] = {}

    @property
    def name(self) -> str:
        return self._name

    @property
    def url(self) -> str:
        return f"{self.transport.address.base}/{self._path}"

    @property
    def up(self) -> Metric[Up]:
        return UP

    @property
    def up_labels(self) -> tuple[str, ...]:
        return (self._name,)

    def counts(self) -> tuple[Row, ...]:
        """Returns the error counts, also exported while the scrapes fail."""
        return (UpstreamErrors((self._name,), dict(self._errors)),)

    async def read(self) -> Reading:
        """Requests the page once and parses it. Raises SourceError."""
        try:
            return await self._read()
        except asyncio.CancelledError:
            self._count("timeout")
            raise
        except SourceError as error:
            self._count(error.kind)
            raise

    async def request(
        self, parser: TextParser, max_bytes: int, complete: Callable[[ParsedPage], T]
    ) -> T:
        """Requests the page and parses it while it arrives. Raises SourceError.

        Returns what `complete` returns for the page. It runs in the worker, together with the last
        slice: a short page waits once for the slices of others.
        """
        worker = self._context.worker
        page = parser.begin()

        def parse(piece: bytes) -> None:
            page.feed(piece)
            share.resize(page.cost)

        def finish(piece: bytes) -> T:
            parse(piece)
            return complete(page.finish())

        async with self._open() as response:
            with self._context.parsing.share(page.discard) as share:
                last = b""
                async for piece in _slices(response.pieces, max_bytes):
                    if last:
                        await worker.run(partial(parse, last))
                    last = piece
                return await worker.run(partial(finish, last))

    async def fetch(self) -> HttpResponse:
        """Requests the page; returns the selected families without a label. Raises SourceError."""
        settings = self._context.settings
        keep = family_filter(settings.keep_patterns(self._name), settings.drop_patterns(self._name))
        parser = TextParser("", keep, _limits(settings))
        body = await self.request(parser, _SERVED_BYTES, _text_page)
        return HttpResponse(200, body, "text/plain; version=0.0.4; charset=utf-8")

    async def is_tritons(self) -> bool:
        """Returns whether the page has a Triton server's metrics. Raises SourceError."""
        async with self._open() as response:
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

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[OpenResponse]:
        """Requests the page; yields the response if it can be a metrics page."""
        try:
            async with (
                asyncio.timeout(self._context.settings.timeout * _REQUEST_SHARE),
                self.transport.open("GET", self._path, headers=_HEADERS) as response,
            ):
                _check_response(response)
                yield response
        except TimeoutError:
            raise DeadlineExceeded("no complete page in time") from None

    async def _read(self) -> Reading:
        loop = asyncio.get_running_loop()
        started = loop.time()
        max_bytes = self._context.settings.max_bytes
        page, duration, merged, problems = await self.request(
            self._parser, max_bytes, lambda page: (page, loop.time() - started, *self._merge(page))
        )
        rows: list[Row] = [
            UpstreamRow(
                (self._name,),
                duration,
                page.length,
                page.sample_count,
                sum(family.series for family in merged),
            )
        ]
        if self._server:
            rows += triton.rows(self._server, page.wanted_samples)
        return Reading(tuple(rows), problems, families=merged)

    def _merge(
        self, page: ParsedPage
    ) -> tuple[tuple[UpstreamFamily, ...], tuple[SourceError, ...]]:
        """Returns the families to merge, and problems. Runs in the worker."""
        context, now = self._context, time.monotonic()
        expires = now + context.settings.expiry
        fitting, too_many, room = context.retained.fit(
            self._name, page.families, now, expires, context.count_upstreams()
        )
        if (cached_bytes := self._parser.cached_bytes) > room:
            self._parser.known = {}
        else:
            context.retained.add(self._name, cached_bytes)
        merged, refused = context.conflicts.claim(self._name, fitting, now, expires)
        problems = self._omissions(page, [family.name for family in refused])
        if too_many:
            self._count("too_many", len(too_many))
            names = ", ".join(family.name for family in too_many[:5])
            problems += (
                TooMany(
                    f"{len(too_many)} families are left out, as the pages of all upstreams together"
                    f" need too much memory: {names}",
                    "keep fewer families of the upstreams",
                ),
            )
        return merged, problems

    def _omissions(self, page: ParsedPage, refused: list[str]) -> tuple[SourceError, ...]:
        """Counts the omitted samples and families; returns them as a problem."""
        dropped = page.dropped.copy()
        dropped["conflict"] += len(refused)
        for reason, count in dropped.items():
            if count:
                self._count(reason, count)
        if not dropped.total():
            return ()
        omitted = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
        names = f" ({', '.join(refused[:5])})" if refused else ""
        return (BadData(f"omitted from the page: {omitted}{names}"),)

    def _count(self, reason: str, count: int = 1) -> None:
        self._errors[reason] = self._errors.get(reason, 0) + count


@dataclass(frozen=True, slots=True)
class _UpstreamContext:
    """Settings and services shared by all upstream targets."""

    settings: Settings
    worker: Worker
    conflicts: NameConflicts
    parsing: SharedMemory
    retained: RetainedMemory
    count_upstreams: Callable[[], int]


class UpstreamSource:
    """Lists the pages to merge."""

    name = "upstream"

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings = settings
        self._context = context
        limits = _limits(settings)
        self._upstream_context = _UpstreamContext(
            settings,
            Worker("upstream", shared=True),
            NameConflicts(context.reserved_names),
            SharedMemory(max(_PARSING_BYTES, limits.parsing_bytes), "pages"),
            RetainedMemory(max(_RETAINED_BYTES, retained_bytes(limits))),
            lambda: len(self._configured) + len(self._triton_targets),
        )
        self._configured = {
            address.server: self._target(address.server, address, path, trusted=True)
            for address, path in settings.pages
        }
        self._triton_targets: dict[tuple[str, str], UpstreamTarget] = {}
        self._fetches: dict[str, asyncio.Task[HttpResponse]] = {}
        self._confirmed: set[tuple[str, str]] = set()
        self._listed = False

    async def discover(self) -> Sequence[Target]:
        """Returns all targets. Raises NotFound while no page is known."""
        await self._update_triton_targets()
        listed = [
            *self._configured.values(),
            *(target for key, target in self._triton_targets.items() if key in self._confirmed),
        ]
        if not listed and not self._listed:
            raise NotYet("no page to merge is configured", "set upstream.url")
        self._listed = True  # from now on an empty list is valid: it removes the old targets
        return tuple(listed)

    async def fetch(self, name: str) -> HttpResponse:
        """Returns an upstream's page, requested now; one request for all that wait for it.

        Raises SourceError; NotFound for an unknown name, and for all unless `serve_pages` is set.
        """
        targets = (*self._configured.values(), *self._triton_targets.values())
        target = next((target for target in targets if target.name == name), None)
        if target is None or not self._settings.serve_pages:
            raise NotFound(f"no upstream {name}, or upstream.serve_pages is off")
        fetch = self._fetches.get(name)
        if fetch is None:
            fetch = self._fetches[name] = asyncio.create_task(target.fetch(), name=f"fetch {name}")
            fetch.add_done_callback(partial(self._fetched, name))
        return await asyncio.shield(fetch)

    def _fetched(self, name: str, fetch: asyncio.Task[HttpResponse]) -> None:
        self._fetches.pop(name, None)
        if not fetch.cancelled():
            fetch.exception()  # without a waiting request, asyncio would log it

    async def close(self) -> None:
        for fetch in self._fetches.values():
            fetch.cancel()
        self._upstream_context.worker.close()
        for target in (*self._configured.values(), *self._triton_targets.values()):
            await target.transport.close()

    async def _update_triton_targets(self) -> None:
        address_rows = [
            row
            for reading in self._context.readings("triton").values()
            for row in reading.rows
            if isinstance(row, ServerAddressRow) and row.metrics_url
        ]
        if not address_rows and not self._triton_targets:
            return
        configured_urls = {target.url for target in self._configured.values()}
        expected = {
            (row.labels[0], row.metrics_url): row
            for row in address_rows
            if self._settings.triton
            and row.labels[0] not in self._configured
            and row.metrics_url not in configured_urls
        }
        # A server that does not respond keeps its target while the Triton source lists it.
        unread_servers = {
            target.name
            for status in self._context.statuses()
            if status.name == "triton"
            for target in status.targets
        } - {row.labels[0] for row in address_rows}
        removed = [
            key
            for key in self._triton_targets
            if key not in expected and key[0] not in unread_servers
        ]
        for key in removed:
            self._confirmed.discard(key)
            await self._triton_targets.pop(key).transport.close()
        for key, row in expected.items():
            if key not in self._triton_targets:
                try:
                    address, path = parse_page(row.metrics_url)
                except ValueError as error:
                    log.debug("invalid metrics URL: %s", error)
                    continue
                server = row.labels[0]
                self._triton_targets[key] = self._target(server, address, path, server=server)
            if row.metrics_url_configured:
                self._confirmed.add(key)
        unconfirmed = [key for key in self._triton_targets if key not in self._confirmed]
        await asyncio.gather(*(self._confirm(key) for key in unconfirmed))

    async def _confirm(self, key: tuple[str, str]) -> None:
        """Confirms a guessed URL if it returns a Triton server's metrics page."""
        with suppress(SourceError):  # the server's metrics may be disabled
            if await self._triton_targets[key].is_tritons():
                self._confirmed.add(key)

    def _target(
        self, name: str, address: Address, path: str, *, trusted: bool = False, server: str = ""
    ) -> UpstreamTarget:
        settings = self._settings
        credentials = credentials_for(settings.headers, settings.ca_file, name, trusted=trusted)
        transport = HttpClient(
            address, settings.max_bytes, credentials, server_kind="a metrics endpoint"
        )
        keep = family_filter(
            settings.keep_patterns(name),
            (
                *settings.drop_patterns(name),
                *([Pattern(triton.BETTER_ELSEWHERE)] if server else []),
            ),
        )
        wanted_names = triton.WANTED if server else frozenset()
        parser = TextParser(name, keep, _limits(settings), wanted_names)
        return UpstreamTarget(name, (transport, path), parser, self._upstream_context, server)


def _limits(settings: Settings) -> PageLimits:
    return PageLimits(settings.max_samples, settings.max_sample_bytes)


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


def _text_page(page: ParsedPage) -> bytes:
    """Returns the families in text format."""
    parts: list[bytes] = []
    for family in page.families:
        if family.help is not None:
            parts.append(f"# HELP {family.name} {family.help}\n".encode())
        parts.append(f"# TYPE {family.name} {family.type}\n".encode())
        parts.append(family.lines)
    return b"".join(parts)


def family_filter(
    keep_patterns: Sequence[Pattern], drop_patterns: Sequence[Pattern]
) -> Callable[[str], bool]:
    """Returns a function that decides by name whether to merge a family."""

    def keep(name: str) -> bool:
        if name.endswith("_created") or any(drop.fullmatch(name) for drop in drop_patterns):
            return False
        return not keep_patterns or any(pattern.fullmatch(name) for pattern in keep_patterns)

    return keep


def _check_response(response: OpenResponse) -> None:
    """Raises SourceError unless the response can be a metrics page."""
    status = response.status
    if status in (401, 403):
        raise Forbidden(f"HTTP {status}", "set upstream.header or upstream.basic_auth")
    if status >= 500:
        raise Unreachable(f"HTTP {status}")
    if status != 200:
        raise Unsupported(f"HTTP {status}", "is this the URL of a metrics page?")
    if response.content_type.partition(";")[0].strip() == "text/html":
        raise BadData("an HTML page, not a metrics page")


def build(settings: Settings, context: Context) -> UpstreamSource:
    """Creates the source; sends no request yet."""
    return UpstreamSource(settings, context)
