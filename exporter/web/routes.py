"""What answers on each path. Nothing here touches a source: pages are ready when asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

from exporter.errors import ConfigError
from exporter.exposition.negotiate import format_for, wants_gzip
from exporter.exposition.page import Pages
from exporter.exposition.selection import BadSelection
from exporter.report import Line
from exporter.web.guard import Route, plain
from exporter.web.landing import landing_page

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


@dataclass(slots=True)
class Site:
    """What the handlers need, and what they count.

    report: how the sources fare, in words. ready: whether every source was looked for once.
    reload: loads the settings again; raises ConfigError. lifecycle: whether a request may ask for
    that. begun: set when scrapes may be answered, a moment after the start.
    """

    pages: Pages
    telemetry_path: str
    report: Callable[[], list[Line]]
    ready: Callable[[], bool]
    reload: Callable[[], Awaitable[None]]
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
        }

    async def metrics(self, request: web.BaseRequest) -> web.Response:
        """The page or the part of it asked for, in the format and encoding the client wants."""
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
