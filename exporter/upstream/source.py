"""The merge: one target for each page given by `url`, and for each Triton server's own metrics."""

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
from exporter.http_client.client import HttpClient, HttpReply
from exporter.http_client.credentials import credentials_for
from exporter.model import Metric, Reading, Row, Target, Up
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

# Part of the poll's deadline that the upstream may use up.
_SHARE = 0.9
_HEADERS = {"Accept": "text/plain;version=0.0.4,text/plain;q=0.5,*/*;q=0.1", MERGE_HEADER: "1"}


class UpstreamTarget:
    """One page. server: the Triton server whose page it is, or empty."""

    def __init__(
        self,
        name: str,
        page: tuple[HttpClient, str],
        reader: TextParser,
        house: _UpstreamContext,
        server: str,
    ) -> None:
        """page: its server, and its path there."""
        self._name = name
        self.transport, path = page
        self._path = path.removeprefix("/")
        self._reader = reader
        self._house = house
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
        """What went wrong so far; shown while it goes wrong, too."""
        return (UpstreamErrors((self._name,), dict(self._errors)),)

    async def read(self) -> Reading:
        """Fetch the page once, and take it apart. Raises SourceError."""
        try:
            return await self._read()
        except asyncio.CancelledError:
            self._count("timeout")
            raise
        except SourceError as error:
            self._count(error.kind)
            raise

    async def fetch(self) -> HttpReply:
        """The page as it is, whatever its status. Raises SourceError."""
        try:
            async with asyncio.timeout(self._house.settings.timeout * _SHARE):
                return await self.transport.request("GET", self._path, headers=_HEADERS)
        except TimeoutError:
            raise DeadlineExceeded("no whole page in time") from None

    async def _read(self) -> Reading:
        loop = asyncio.get_running_loop()
        started = loop.time()
        reply = await self.fetch()
        _check(reply)
        duration = loop.time() - started
        if is_exporter_page(reply.body):  # before any rule could leave the line out
            raise BadData(
                "it is an inference-exporter's, and could hold this one's",
                "let Prometheus scrape it",
            )
        page = await self._house.worker.run(lambda: self._reader.read(reply.body))
        until = loop.time() + self._house.settings.expiry
        shown, refused = self._house.claims.settle(self._name, page.families, loop.time(), until)
        problems = self._left_out(page, [family.name for family in refused])
        rows: list[Row] = [
            UpstreamRow(
                (self._name,),
                duration,
                len(reply.body),
                page.samples,
                sum(family.series for family in shown),
            )
        ]
        if self._server:
            rows += triton.rows(self._server, page.wanted)
        return Reading(tuple(rows), problems, families=shown)

    def _left_out(self, page: ParsedPage, refused: list[str]) -> tuple[SourceError, ...]:
        dropped = page.dropped.copy()
        dropped["conflict"] += len(refused)
        for reason, count in dropped.items():
            if count:
                self._count(reason, count)
        if not dropped.total():
            return ()
        words = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
        names = f" ({', '.join(refused[:5])})" if refused else ""
        return (BadData(f"left out of the page: {words}{names}"),)

    def _count(self, reason: str, count: int = 1) -> None:
        self._errors[reason] = self._errors.get(reason, 0) + count


@dataclass(frozen=True, slots=True)
class _UpstreamContext:
    """What all upstreams have in common."""

    settings: Settings
    worker: Worker
    claims: NameConflicts


class UpstreamSource:
    """Lists the pages there are to merge."""

    name = "upstream"

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._house = _UpstreamContext(
            settings, Worker("upstream", shared=True), NameConflicts(context.reserved_names)
        )
        self._given = {
            address.server: self._target(address.server, address, path, trusted=True)
            for address, path in settings.pages
        }
        self._tritons: dict[tuple[str, str], UpstreamTarget] = {}
        self._confirmed: set[tuple[str, str]] = set()
        self._listed = False

    async def discover(self) -> Sequence[Target]:
        """Raises NotFound where there is nothing to merge."""
        await self._update_tritons()
        listed = [
            *self._given.values(),
            *(target for key, target in self._tritons.items() if key in self._confirmed),
        ]
        if not listed and not self._listed:
            raise NotYet("no page to merge is given", "set upstream.url")
        self._listed = True  # from now on none is an answer: what was listed is to be let go of
        return tuple(listed)

    async def fetch(self, name: str) -> HttpReply:
        """The page of an upstream as it is, now. Raises NotFound where there is none such."""
        for target in (*self._given.values(), *self._tritons.values()):
            if target.name == name:
                return await target.fetch()
        raise NotFound(f"no upstream {name}")

    async def close(self) -> None:
        self._house.worker.close()
        for target in (*self._given.values(), *self._tritons.values()):
            await target.transport.close()

    async def _update_tritons(self) -> None:
        places = [
            row
            for reading in self._context.readings("triton").values()
            for row in reading.rows
            if isinstance(row, ServerAddressRow) and row.metrics_url
        ]
        if not places and not self._tritons:
            return
        given = {target.url for target in self._given.values()}
        wanted = {
            (place.labels[0], place.metrics_url): place
            for place in places
            if self._settings.triton
            and place.labels[0] not in self._given
            and place.metrics_url not in given
        }
        # A server that does not answer now is a server still, as long as its source lists it.
        servers = {
            target.name
            for status in self._context.statuses()
            if status.name == "triton"
            for target in status.targets
        } - {place.labels[0] for place in places}
        for key in [key for key in self._tritons if key not in wanted and key[0] not in servers]:
            self._confirmed.discard(key)
            await self._tritons.pop(key).transport.close()
        for key, place in wanted.items():
            if key not in self._tritons:
                try:
                    address, path = parse_page(place.metrics_url)
                except ValueError as error:
                    log.debug("no page of metrics: %s", error)
                    continue
                server = place.labels[0]
                self._tritons[key] = self._target(server, address, path, server=server)
            if place.metrics_told:
                self._confirmed.add(key)
        unsure = [key for key in self._tritons if key not in self._confirmed]
        await asyncio.gather(*(self._confirm(key) for key in unsure))

    async def _confirm(self, key: tuple[str, str]) -> None:
        """Show a page that nobody spoke of once it is there, and a Triton server's."""
        with suppress(SourceError):  # metrics may well be switched off
            reply = await self._tritons[key].fetch()
            if reply.status == 200 and re.search(rb"^nv_", reply.body, re.MULTILINE):
                self._confirmed.add(key)

    def _target(
        self, name: str, address: Address, path: str, *, trusted: bool = False, server: str = ""
    ) -> UpstreamTarget:
        settings = self._settings
        shown = credentials_for(settings.headers, settings.ca_file, name, trusted=trusted)
        transport = HttpClient(address, settings.max_bytes, shown, what="a page of metrics")
        keep = _rule(
            settings.keeps(name),
            (*settings.drops(name), *([triton.BETTER_ELSEWHERE] if server else [])),
        )
        wanted = triton.WANTED if server else frozenset()
        reader = TextParser(name, keep, settings.max_samples, wanted)
        return UpstreamTarget(name, (transport, path), reader, self._house, server)


def _rule(
    keeps: Sequence[re.Pattern[str]], drops: Sequence[re.Pattern[str]]
) -> Callable[[str], bool]:
    def keep(name: str) -> bool:
        if name.endswith("_created") or any(drop.fullmatch(name) for drop in drops):
            return False
        return not keeps or any(each.fullmatch(name) for each in keeps)

    return keep


def _check(reply: HttpReply) -> None:
    """Raises SourceError for an answer that is no page."""
    status = reply.status
    if status in (401, 403):
        raise Forbidden(f"HTTP {status}", "set upstream.header or upstream.basic_auth")
    if status >= 500:
        raise Unreachable(f"HTTP {status}")
    if status != 200:
        raise Unsupported(f"HTTP {status}", "is this the address of a page of metrics?")
    if reply.content_type.partition(";")[0].strip() == "text/html":
        raise BadData("a web page, not one of metrics")


def build(settings: Settings, context: Context) -> UpstreamSource:
    """Make the source; nothing is fetched yet."""
    return UpstreamSource(settings, context)
