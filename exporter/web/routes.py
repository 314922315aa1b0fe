"""What answers on each path. Nothing here touches a source: pages are ready when asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from exporter.exposition.negotiate import format_for, wants_gzip
from exporter.exposition.page import Pages
from exporter.report import Line
from exporter.web.landing import landing_page


@dataclass(slots=True)
class Site:
    """What the handlers need, and what they count.

    report: how the sources fare, in words. ready: whether every source was looked for once.
    begun: set when scrapes may be answered, a moment after the start.
    """

    pages: Pages
    telemetry_path: str
    report: Callable[[], list[Line]]
    ready: Callable[[], bool]
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    scrapes: int = 0


SITE = web.AppKey("site", Site)


async def metrics(request: web.Request) -> web.Response:
    """The page, in the format and encoding the client asks for."""
    site = request.app[SITE]
    site.scrapes += 1
    await site.begun.wait()
    chosen = format_for(",".join(request.headers.getall("Accept", [])))
    gzip = wants_gzip(",".join(request.headers.getall("Accept-Encoding", [])))
    body = await site.pages.get(chosen, gzip=gzip)
    headers = {"Content-Type": chosen.value, "Vary": "Accept, Accept-Encoding"}
    if gzip:
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=body, headers=headers)


async def landing(request: web.Request) -> web.Response:
    """The page for people: every source and what to do about what is missing."""
    site = request.app[SITE]
    text = landing_page(site.report(), site.telemetry_path)
    return web.Response(
        text=text,
        content_type="text/html",
        headers={
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        },
    )


async def healthy(_: web.Request) -> web.Response:
    """The process lives and its loop turns."""
    return web.Response(text="OK\n")


async def ready(request: web.Request) -> web.Response:
    """Every source was looked for and read once. A GPU that is lost later changes nothing here."""
    if request.app[SITE].ready():
        return web.Response(text="OK\n")
    return web.Response(text="the first poll is under way\n", status=503)


async def _name_server(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "inference-exporter"


def application(site: Site) -> web.Application:
    """The web application of the daemon."""
    app = web.Application(client_max_size=1024)
    app[SITE] = site
    app.router.add_get(site.telemetry_path, metrics)
    app.router.add_get("/", landing)
    app.router.add_get("/-/healthy", healthy)
    app.router.add_get("/-/ready", ready)
    app.on_response_prepare.append(_name_server)
    return app
