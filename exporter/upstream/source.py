"""Upstream source: one target per page given by `url`, and per Triton server's metrics page."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from exporter.context import Context
from exporter.errors import NotFound, NotYet
from exporter.http_client.address import Address, parse_page
from exporter.http_client.client import HttpClient, HttpResponse
from exporter.http_client.shared_memory import SharedMemory
from exporter.model import Target
from exporter.upstream import triton
from exporter.upstream.family_rules import FamilyRules
from exporter.upstream.metrics_page import MetricsPage
from exporter.upstream.name_conflicts import NameConflicts
from exporter.upstream.retained import RetainedMemory, retained_bytes
from exporter.upstream.settings import Settings
from exporter.upstream.target import UpstreamContext, UpstreamTarget
from exporter.upstream.text_parser import PageLimits, TextParser
from exporter.upstream.triton_pages import TritonPages
from exporter.worker import Worker

# Share of the poll's timeout for the request.
_REQUEST_SHARE = 0.9
# Seconds by which a poll that precedes a scrape may be later than its interval.
_MAX_DELAY = 15.0
# Memory of the pages that are being parsed, besides the largest: see SharedMemory.
_PARSING_BYTES = 16 << 20
# Memory of all merged pages with their caches. That of one page at its limits, if that is more: it
# is merged, though without a cache.
_RETAINED_BYTES = 28 << 20


class UpstreamSource:
    """Lists the pages to merge."""

    name = "upstream"

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings = settings
        limits = PageLimits(settings.max_samples, settings.max_sample_bytes)
        self._worker = Worker("upstream", shared=True)
        self._memory = SharedMemory(_PARSING_BYTES, "pages")
        self._upstream_context = UpstreamContext(
            settings,
            limits,
            NameConflicts(context.reserved_names),
            RetainedMemory(max(_RETAINED_BYTES, retained_bytes(limits))),
            lambda: len(self._targets),
            context.dialect_names,
            context.shared_pages,
        )
        self._configured = tuple(
            self._target(address.server, address, path, precedence, tritons=False)
            for precedence, (address, path) in enumerate(settings.pages)
        )
        self._triton_pages = TritonPages(context, self._tritons_target)
        self._fetches: dict[str, asyncio.Task[HttpResponse]] = {}
        self._listed = False

    @property
    def _targets(self) -> tuple[UpstreamTarget, ...]:
        return (*self._configured, *self._triton_pages.all)

    async def discover(self) -> Sequence[Target]:
        """Returns all targets. Raises NotFound while no page is known."""
        if self._settings.triton:
            await self._triton_pages.update(self._configured)
        listed = (*self._configured, *self._triton_pages.confirmed)
        if not listed and not self._listed:
            raise NotYet("no page to merge is configured", "set upstream.url")
        self._listed = True  # from now on an empty list is valid: it removes the old targets
        return listed

    async def fetch(self, name: str) -> HttpResponse:
        """Returns an upstream's page, requested now; one request for all that wait for it.

        Raises SourceError; NotFound for an unknown name, and for all unless `serve_pages` is set.
        """
        target = next((target for target in self._targets if target.name == name), None)
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
        self._worker.close()
        for target in self._targets:
            await target.close()

    def _tritons_target(self, server: str, url: str, *, configured: bool) -> UpstreamTarget:
        """Returns the target of a Triton server's page. Raises ValueError for an invalid URL."""
        precedence = len(self._configured) + (0 if configured else 1)
        return self._target(server, *parse_page(url), precedence, tritons=True)

    def _target(
        self, name: str, address: Address, path: str, precedence: int, *, tritons: bool
    ) -> UpstreamTarget:
        settings = self._settings
        credentials = settings.credentials(name, trusted=not tritons)
        transport = HttpClient(
            address, settings.max_bytes, credentials, server_kind="a metrics endpoint"
        )
        page = MetricsPage(
            transport, path, settings.timeout * _REQUEST_SHARE, self._worker, self._memory
        )
        rules = FamilyRules(settings, name, triton.BETTER_ELSEWHERE if tritons else "")
        parser = TextParser(
            name,
            rules.merges,
            self._upstream_context.limits,
            triton.WANTED if tritons else frozenset(),
            rules.merges_created,
        )
        return UpstreamTarget(
            name,
            page,
            parser,
            self._upstream_context,
            precedence=precedence,
            server=name if tritons else "",
            after=self._configured if tritons else (),
            shared=self._upstream_context.shared_pages.add(
                address.socket or address.host, address.port, path, settings.expiry + _MAX_DELAY
            ),
        )


def build(settings: Settings, context: Context) -> UpstreamSource:
    """Creates the source; sends no request yet."""
    return UpstreamSource(settings, context)
