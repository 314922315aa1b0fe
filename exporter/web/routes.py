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
from exporter.self_scrape import MERGE_HEADER
from exporter.status_report import StatusLine
from exporter.web.landing import landing_page
from exporter.web.request_handler import Route, text_response

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
class UpstreamReply:
    """Another server's answer, as it came."""

    status: int
    body: bytes
    content_type: str


async def _no_upstream(_: str) -> UpstreamReply | None:
    return None


@dataclass(slots=True)
class RouteHandlers:
    """What the handlers need, and what they count.

    report: how the sources fare, in words. ready: whether every source was looked for once.
    reload: loads the settings again; raises ConfigError. lifecycle: whether a request may ask for
    that. pass_on: fetches the page of an upstream by its name; None where there is none such,
    raises SourceError. begun: set when scrapes may be answered, a moment after the start.
    """

    pages: Pages
    telemetry_path: str
    report: Callable[[], list[StatusLine]]
    ready: Callable[[], bool]
    reload: Callable[[], Awaitable[None]]
    pass_on: Callable[[str], Awaitable[UpstreamReply | None]] = _no_upstream
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
                return text_response(400, str(error))
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
            return text_response(404, "not found")
        if MERGE_HEADER in request.headers:
            return text_response(508, "an exporter asks an exporter")
        try:
            passed = await self.pass_on(name)
        except SourceError as error:
            return text_response(502, str(error))
        if passed is None:
            return text_response(404, "no such upstream")
        if passed.status != 200:
            return text_response(502, f"HTTP {passed.status}")
        # Never as what a browser would run, whatever the upstream says it is.
        kind = passed.content_type if passed.content_type.startswith(_METRICS) else "text/plain"
        return web.Response(body=passed.body, headers={"Content-Type": kind})

    async def landing(self, _: web.BaseRequest) -> web.Response:
        """The page for people: every source and what to do about what is missing."""
        text = landing_page(self.report(), self.telemetry_path)
        return web.Response(text=text, content_type="text/html", headers=HTML_HEADERS)

    async def healthy(self, _: web.BaseRequest) -> web.Response:
        """The process lives and its loop turns."""
        return text_response(200, "OK")

    async def answer_ready(self, _: web.BaseRequest) -> web.Response:
        """Every source was looked for and read once. A GPU lost later changes nothing here."""
        if self.ready():
            return text_response(200, "OK")
        return text_response(503, "the first poll is under way")

    async def answer_reload(self, _: web.BaseRequest) -> web.Response:
        """Load the settings again, where that is allowed."""
        if not self.lifecycle:
            return text_response(403, "switched off; --web.enable-lifecycle switches it on")
        try:
            await self.reload()
        except ConfigError as error:
            return text_response(500, f"settings refused, the old ones stay: {error}")
        return text_response(200, "OK")
