"""Upstream source: one target per page given by `url`, and per Triton server's metrics page."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from exporter.context import Context
from exporter.errors import (
    BadData,
    DeadlineExceeded,
    Forbidden,
    NotFound,
    NotYet,
    SourceError,
    Unreachable,
    Unsupported,
)
from exporter.http_client.address import Address, parse_page
from exporter.http_client.client import HttpClient, HttpResponse
from exporter.http_client.credentials import credentials_for
from exporter.model import Metric, Reading, Row, Target, Up
from exporter.patterns import Pattern
from exporter.self_scrape import MERGE_HEADER, is_exporter_page
from exporter.sources.triton.reading import ServerAddressRow
from exporter.upstream import triton
from exporter.upstream.metrics import UP
from exporter.upstream.name_conflicts import NameConflicts
from exporter.upstream.reading import UpstreamErrors, UpstreamRow
from exporter.upstream.settings import Settings
from exporter.upstream.text_parser import ParsedPage, TextParser
from exporter.worker import Worker

log = logging.getLogger("exporter.upstream")

# Share of the poll's timeout for the request.
_REQUEST_SHARE = 0.9
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

    async def fetch(self) -> HttpResponse:
        """Returns the page unparsed, whatever its status. Raises SourceError."""
        try:
            async with asyncio.timeout(self._context.settings.timeout * _REQUEST_SHARE):
                return await self.transport.request("GET", self._path, headers=_HEADERS)
        except TimeoutError:
            raise DeadlineExceeded("no complete page in time") from None

    async def _read(self) -> Reading:
        loop = asyncio.get_running_loop()
        started = loop.time()
        response = await self.fetch()
        _check_response(response)
        duration = loop.time() - started
        if is_exporter_page(response.body):  # before drop rules can remove the line
            raise BadData(
                "the page is an inference-exporter's, and could contain this page",
                "configure it as a target of Prometheus instead",
            )
        page = await self._context.worker.run(lambda: self._parser.parse(response.body))
        expires = loop.time() + self._context.settings.expiry
        merged, refused = self._context.conflicts.claim(
            self._name, page.families, loop.time(), expires
        )
        problems = self._omissions(page, [family.name for family in refused])
        rows: list[Row] = [
            UpstreamRow(
                (self._name,),
                duration,
                len(response.body),
                page.sample_count,
                sum(family.series for family in merged),
            )
        ]
        if self._server:
            rows += triton.rows(self._server, page.wanted_samples)
        return Reading(tuple(rows), problems, families=merged)

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


class UpstreamSource:
    """Lists the pages to merge."""

    name = "upstream"

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._upstream_context = _UpstreamContext(
            settings, Worker("upstream", shared=True), NameConflicts(context.reserved_names)
        )
        self._configured = {
            address.server: self._target(address.server, address, path, trusted=True)
            for address, path in settings.pages
        }
        self._triton_targets: dict[tuple[str, str], UpstreamTarget] = {}
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
        """Returns an upstream's page unparsed. Raises SourceError, for an unknown name NotFound."""
        for target in (*self._configured.values(), *self._triton_targets.values()):
            if target.name == name:
                return await target.fetch()
        raise NotFound(f"no upstream {name}")

    async def close(self) -> None:
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
            response = await self._triton_targets[key].fetch()
            if response.status == 200 and re.search(rb"^nv_", response.body, re.MULTILINE):
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
        parser = TextParser(name, keep, settings.max_samples, wanted_names)
        return UpstreamTarget(name, (transport, path), parser, self._upstream_context, server)


def family_filter(
    keep_patterns: Sequence[Pattern], drop_patterns: Sequence[Pattern]
) -> Callable[[str], bool]:
    """Returns a function that decides by name whether to merge a family."""

    def keep(name: str) -> bool:
        if name.endswith("_created") or any(drop.fullmatch(name) for drop in drop_patterns):
            return False
        return not keep_patterns or any(pattern.fullmatch(name) for pattern in keep_patterns)

    return keep


def _check_response(response: HttpResponse) -> None:
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
