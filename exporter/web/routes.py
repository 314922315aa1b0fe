"""What answers on each path. Nothing here touches a source: pages are ready when asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

from exporter.errors import ConfigError, SourceError
from exporter.exposition.negotiate import format_for, wants_gzip
from exporter.exposition.page import Pages
from exporter.exposition.selection import EVERYTHING, BadSelection
from exporter.status_report import Line
from exporter.web.landing import landing_page
from exporter.web.request_handler import Route, plain

# On requests of exporters that merge pages.
MARK = "X-Inference-Exporter-Merge"
_METRICS = ("text/plain", "application/openmetrics-text")

# For the landing page: it needs its own style and nothing else, from nowhere else.
HTML_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "deny",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Passed:
    """Another server's answer, as it came."""

    status: int
    body: bytes
    content_type: str


async def _no_upstream(_: str) -> Passed | None:
    return None


@dataclass(slots=True)
class Site:
    """What the handlers need, and what they count.

    report: how the sources fare, in words. ready: whether every source was looked for once.
    reload: loads the settings again; raises ConfigError. lifecycle: whether a request may ask for
    that. pass_on: fetches the page of an upstream by its name; None where there is none such,
    raises SourceError. begun: set when scrapes may be answered, a moment after the start.
    """

    pages: Pages
    telemetry_path: str
    report: Callable[[], list[Line]]
    ready: Callable[[], bool]
    reload: Callable[[], Awaitable[None]]
    pass_on: Callable[[str], Awaitable[Passed | None]] = _no_upstream
    lifecycle: bool = False
    scrapes: int = 0
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    def routes(self) -> dict[str, Route]:
        """Every path there is."""
        return {
            self.telemetry_path: Route(self.metrics),
            "/": Route(self.landing),
            "/-/healthy": Route(self.healthy, health=True),
            "/-/ready": Route(self.answer_ready, health=True),
            "/-/reload": Route(self.answer_reload, frozenset(("POST", "PUT"))),
            "/upstream/": Route(self.upstream),
        }

    async def metrics(self, request: web.BaseRequest) -> web.Response:
        """The page or the part of it asked for, in the format and encoding the client wants."""
        selection = EVERYTHING
        if "?" in request.raw_path:
            parts = (request.query.getall(key, ()) for key in ("collect[]", "exclude[]", "name[]"))
            try:
                selection = self.pages.select(*parts)
            except BadSelection as error:
                return plain(400, str(error))
        self.scrapes += 1
        await self.begun.wait()
        chosen = format_for(",".join(request.headers.getall("Accept", [])))
        gzip = wants_gzip(",".join(request.headers.getall("Accept-Encoding", [])))
        body = await self.pages.get(chosen, gzip=gzip, selection=selection)
        headers = {"Content-Type": chosen.value, "Vary": "Accept, Accept-Encoding"}
        if gzip:
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=body, headers=headers)

    async def upstream(self, request: web.BaseRequest) -> web.Response:
        """/upstream/NAME/metrics: the page of an upstream itself, fetched now; 502 where it fails.

        For whoever wants Prometheus' own `up` for it. One exporter asking another, or itself,
        would go on for ever: that is refused.
        """
        name, slash, rest = request.path.removeprefix("/upstream/").rpartition("/")
        if rest != "metrics" or not slash or not name:
            return plain(404, "not found")
        if MARK in request.headers:
            return plain(508, "an exporter asks an exporter")
        try:
            passed = await self.pass_on(name)
        except SourceError as error:
            return plain(502, str(error))
        if passed is None:
            return plain(404, "no such upstream")
        if passed.status != 200:
            return plain(502, f"HTTP {passed.status}")
        # Never as what a browser would run, whatever the upstream says it is.
        kind = passed.content_type if passed.content_type.startswith(_METRICS) else "text/plain"
        return web.Response(body=passed.body, headers={"Content-Type": kind})

    async def landing(self, _: web.BaseRequest) -> web.Response:
        """The page for people: every source and what to do about what is missing."""
        text = landing_page(self.report(), self.telemetry_path)
        return web.Response(text=text, content_type="text/html", headers=HTML_HEADERS)

    async def healthy(self, _: web.BaseRequest) -> web.Response:
        """The process lives and its loop turns."""
        return plain(200, "OK")

    async def answer_ready(self, _: web.BaseRequest) -> web.Response:
        """Every source was looked for and read once. A GPU lost later changes nothing here."""
        if self.ready():
            return plain(200, "OK")
        return plain(503, "the first poll is under way")

    async def answer_reload(self, _: web.BaseRequest) -> web.Response:
        """Load the settings again, where that is allowed."""
        if not self.lifecycle:
            return plain(403, "switched off; --web.enable-lifecycle switches it on")
        try:
            await self.reload()
        except ConfigError as error:
            return plain(500, f"settings refused, the old ones stay: {error}")
        return plain(200, "OK")
