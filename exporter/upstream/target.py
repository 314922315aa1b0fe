"""One target of the upstream source: its page is requested, parsed and merged at every poll."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field

from exporter.errors import BadData, DeadlineExceeded, SourceError, TooMany
from exporter.http_client.client import HttpResponse
from exporter.model import Metric, Reading, Row, Up
from exporter.shared_pages import SharedPage, SharedPages
from exporter.upstream import triton
from exporter.upstream.family_rules import FamilyRules
from exporter.upstream.metrics import UP
from exporter.upstream.metrics_page import MetricsPage, PageFormat
from exporter.upstream.name_conflicts import Claimed, NameConflicts
from exporter.upstream.reading import UpstreamErrors, UpstreamRow
from exporter.upstream.retained import RetainedMemory
from exporter.upstream.settings import Settings
from exporter.upstream.tapped import TappedParser
from exporter.upstream.text_parser import PageLimits, ParsedPage, TextParser

# Of a page that is served at /upstream/NAME/metrics.
_SERVED_BYTES = 4 << 20
# Share of the timeout that the first read waits for those of configured upstreams.
_FIRST_READS_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class UpstreamContext:
    """Settings and services shared by all upstream targets.

    dialect_names: returns the families that a dialect exports in place of those of pages: on
    purpose, so that they are no conflict.
    """

    settings: Settings
    limits: PageLimits
    conflicts: NameConflicts
    retained: RetainedMemory
    count_upstreams: Callable[[], int]
    dialect_names: Callable[[], frozenset[str]] = frozenset
    shared_pages: SharedPages = field(default_factory=SharedPages)


class UpstreamTarget:
    """One metrics page. server: name of the Triton server, if the page is its own; else empty.

    precedence: rank among the upstreams that export the same name, see NameConflicts. after: the
    targets whose first reads come before its own, so that they claim their names first. shared: the
    page as another source may read it.
    """

    def __init__(
        self,
        name: str,
        page: MetricsPage,
        parser: TextParser,
        context: UpstreamContext,
        *,
        precedence: int,
        server: str = "",
        after: Collection[UpstreamTarget] = (),
        shared: SharedPage | None = None,
    ) -> None:
        self._name = name
        self.page = page
        self._parser = parser
        self._context = context
        self._precedence = precedence
        self._server = server
        self._after = after
        self.shared = shared
        self._attempted = asyncio.Event()
        self._errors: dict[str, int] = {}

    @property
    def name(self) -> str:
        return self._name

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
            await self._wait_for_first_reads()
            return await self._read()
        except asyncio.CancelledError:
            self._count("timeout")
            self._deliver(None, DeadlineExceeded("no complete page in time"))
            raise
        except SourceError as error:
            self._count(error.kind)
            self._deliver(None, error)
            raise
        finally:
            self._attempted.set()

    async def _wait_for_first_reads(self) -> None:
        """Waits until the targets that come before have been read, or a part of the timeout."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._context.settings.timeout * _FIRST_READS_SHARE):
                for target in self._after:
                    await target._attempted.wait()  # noqa: SLF001 - of the same class
        self._after = ()

    async def close(self) -> None:
        """Closes the connections; a source that reads the page has to request it from now on."""
        if self.shared is not None:
            self._context.shared_pages.remove(self.shared)
        await self.page.transport.close()

    async def fetch(self) -> HttpResponse:
        """Requests the page; returns the selected families without a label. Raises SourceError."""
        rules = FamilyRules(self._context.settings, self._name)
        parser = TextParser(
            "", rules.merges, self._context.limits, keep_created=rules.merges_created
        )
        body = await self.page.parse(parser, _SERVED_BYTES, _text_page)
        return HttpResponse(200, body, "text/plain; version=0.0.4; charset=utf-8")

    async def _read(self) -> Reading:
        loop = asyncio.get_running_loop()
        started = loop.time()
        max_bytes = self._context.settings.max_bytes
        shared = self.shared
        tapped = TappedParser(self._parser, shared) if shared and shared.begin else None
        parser: PageFormat[ParsedPage] = tapped or self._parser
        page, duration, claimed, problems = await self.page.parse(
            parser, max_bytes, lambda page: (page, loop.time() - started, *self._merge(page))
        )
        if tapped is not None:
            self._deliver(tapped.result, tapped.error)
        merged = claimed.merged
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
        return Reading(tuple(rows), problems, families=merged, withdrawn=claimed.withdrawn)

    def _deliver(self, result: object, error: SourceError | None) -> None:
        """Passes the page, or why it was not read, to the source that reads it, too."""
        if self.shared is not None and self.shared.begin is not None:
            self.shared.deliver(result, error)

    def _merge(self, page: ParsedPage) -> tuple[Claimed, tuple[SourceError, ...]]:
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
        claimed = context.conflicts.claim(self._name, self._precedence, fitting, now, expires)
        refused = [family.name for family in claimed.refused]
        replaced = context.dialect_names()
        problems = self._omissions(page, [name for name in refused if name not in replaced])
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
        return claimed, problems

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


def _text_page(page: ParsedPage) -> bytes:
    """Returns the families in text format."""
    parts: list[bytes] = []
    for family in page.families:
        if family.help is not None:
            parts.append(f"# HELP {family.name} {family.help}\n".encode())
        parts.append(f"# TYPE {family.name} {family.text_type}\n".encode())
        parts.append(family.lines)
    return b"".join(parts)
