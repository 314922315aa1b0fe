"""Handlers of each path. None of them reads a source: they serve the last readings."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response

from exporter.errors import ConfigError, SourceError
from exporter.exposition.negotiate import accepts_gzip, negotiate_format
from exporter.exposition.page import Pages
from exporter.exposition.selection import EVERYTHING, BadSelection
from exporter.self_scrape import MERGE_HEADER
from exporter.status_report import StatusLine
from exporter.web.fair_queue import FairLock
from exporter.web.landing import landing_page
from exporter.web.request_handler import Route, text_response

# Requests for upstreams' pages in progress: a small part of --web.max-requests.
MAX_UPSTREAM_REQUESTS = 4
_EXPOSITION_TYPES = ("text/plain", "application/openmetrics-text")

# Of the landing page, which loads nothing but its inline style.
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
    """An upstream's response, unchanged."""

    status: int
    body: bytes
    content_type: str


async def _no_upstream(_: str) -> UpstreamReply | None:
    return None


async def _redirect(status: int, path: str, _: BaseRequest) -> Response:
    location = quote(path)
    return text_response(status, f"see {location}", {"Location": location})


@dataclass(slots=True)
class RouteHandlers:
    """The handlers, and the callbacks they use.

    report: returns the status of every source. ready: returns whether every source was polled
    once. reload: reloads the settings; raises ConfigError. fetch_upstream: fetches the page of an
    upstream by name; returns None if no upstream has the name, raises SourceError.
    prefix: of all paths. link_prefix: of the landing page's links.
    lifecycle_enabled: whether POST /-/reload is allowed. scrapes: number of scrapes so far.
    upstream_requests: for upstreams' pages, in progress.
    first_polls_done: set a moment after the start; scrapes wait for it.
    selections: held while a part of the page is rendered.
    """

    pages: Pages
    telemetry_path: str
    report: Callable[[], list[StatusLine]]
    ready: Callable[[], bool]
    reload: Callable[[], Awaitable[None]]
    fetch_upstream: Callable[[str], Awaitable[UpstreamReply | None]] = _no_upstream
    prefix: str = ""
    link_prefix: str = "."
    lifecycle_enabled: bool = False
    scrapes: int = 0
    upstream_requests: int = 0
    first_polls_done: asyncio.Event = field(default_factory=asyncio.Event)
    selections: FairLock = field(default_factory=FairLock)

    def routes(self) -> dict[str, Route]:
        """Returns the routes by path."""
        routes = {
            self.telemetry_path: Route(self.get_metrics),
            "/": Route(self.get_landing_page),
            "/-/healthy": Route(self.get_healthy, health=True),
            "/-/ready": Route(self.get_ready, health=True),
            "/-/reload": Route(self.post_reload, frozenset(("POST", "PUT"))),
            "/upstream/": Route(self.get_upstream, subtree=True),
        }
        if not self.prefix:
            return routes
        # As in Prometheus.
        return {
            "/": Route(partial(_redirect, HTTPStatus.FOUND, self.prefix)),
            self.prefix: Route(partial(_redirect, HTTPStatus.MOVED_PERMANENTLY, f"{self.prefix}/")),
            **{f"{self.prefix}{path}": route for path, route in routes.items()},
        }

    async def get_metrics(self, request: BaseRequest) -> Response:
        """Returns the exposition, or the selected part, in the negotiated format and encoding."""
        selection = EVERYTHING
        if "?" in request.raw_path:
            parts = (request.query.getall(key, ()) for key in ("collect[]", "exclude[]", "name[]"))
            try:
                selection = self.pages.select(*parts)
            except BadSelection as error:
                return text_response(400, str(error))
        self.scrapes += 1
        await self.first_polls_done.wait()
        accept = ",".join(request.headers.getall("Accept", []))
        format = negotiate_format(accept)  # noqa: A001 - the field's name
        gzip = accepts_gzip(",".join(request.headers.getall("Accept-Encoding", [])))
        connection: Any = request.protocol  # a Connection
        client: str = connection.client
        # Of any number of selections only one is rendered at a time: the whole page waits for one.
        whole = selection == EVERYTHING
        async with contextlib.nullcontext() if whole else self.selections.held(client):
            body = await self.pages.get(format, gzip=gzip, selection=selection, client=client)
        headers = {"Content-Type": format.value, "Vary": "Accept, Accept-Encoding"}
        if gzip:
            headers["Content-Encoding"] = "gzip"
        return Response(body=body, headers=headers)

    async def get_upstream(self, request: BaseRequest) -> Response:
        """Returns /upstream/NAME/metrics: an upstream's page, requested now; 502 if that fails.

        A Prometheus job on this path has an `up` of the upstream itself. A request from an
        exporter (or from this one) is refused with 508: it would recurse without end. A request
        counts until its response is written; beyond MAX_UPSTREAM_REQUESTS the response is 503.
        """
        path = request.path.removeprefix(f"{self.prefix}/upstream/")
        name, slash, rest = path.rpartition("/")
        if rest != "metrics" or not slash or not name:
            return text_response(404, "not found")
        if MERGE_HEADER in request.headers:
            return text_response(508, "loop: an exporter requests this page to merge it")
        task = asyncio.current_task()
        if task is None or self.upstream_requests >= MAX_UPSTREAM_REQUESTS:
            return text_response(503, "too many requests for upstreams", {"Retry-After": "1"})
        self.upstream_requests += 1
        task.add_done_callback(self._upstream_request_done)
        return await self._upstream_page(name)

    async def _upstream_page(self, name: str) -> Response:
        try:
            reply = await self.fetch_upstream(name)
        except SourceError as error:
            return text_response(502, str(error))
        if reply is None:
            return text_response(404, "no such upstream, or --upstream.serve-pages is off")
        if reply.status != 200:
            return text_response(502, f"HTTP {reply.status}")
        # Never a type that a browser would render, whatever the upstream sends.
        exposition = reply.content_type.startswith(_EXPOSITION_TYPES)
        content_type = reply.content_type if exposition else "text/plain"
        return Response(body=reply.body, headers={"Content-Type": content_type})

    def _upstream_request_done(self, _: asyncio.Task[object]) -> None:
        self.upstream_requests -= 1

    async def get_landing_page(self, _: BaseRequest) -> Response:
        """Returns the landing page: the status of every source, with remedies."""
        text = landing_page(self.report(), self.telemetry_path, self.prefix, self.link_prefix)
        return Response(text=text, content_type="text/html", headers=HTML_HEADERS)

    async def get_healthy(self, _: BaseRequest) -> Response:
        """Returns 200: the process lives and its event loop runs."""
        return text_response(200, "OK")

    async def get_ready(self, _: BaseRequest) -> Response:
        """Returns 200 once every source was polled; a GPU lost later changes nothing."""
        if self.ready():
            return text_response(200, "OK")
        return text_response(503, "first poll in progress")

    async def post_reload(self, _: BaseRequest) -> Response:
        """Reloads the settings, as SIGHUP does; 403 unless --web.enable-lifecycle is set."""
        if not self.lifecycle_enabled:
            return text_response(403, "disabled; --web.enable-lifecycle enables it")
        try:
            await self.reload()
        except ConfigError as error:
            return text_response(500, f"settings refused, the old ones stay: {error}")
        return text_response(200, "OK")
