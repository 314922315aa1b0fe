"""Dispatches every request: limits, basic authentication, route, headers, plain-text errors.

Built directly on aiohttp's low-level server: a few fixed paths need no router, and a scrape costs
no more than with a bare handler.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from exporter.web.basic_auth import ComparisonQueueFull
from exporter.web.config_reload import WebConfigReloader
from exporter.web.connection import SERVER, Connection
from exporter.web.connection_limits import ConnectionLimiter

RouteHandler = Callable[[web.BaseRequest], Awaitable[web.Response]]

READ_METHODS = frozenset(("GET", "HEAD"))
# No route uses a request body.
MAX_BODY_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Route:
    """A path's handler and methods.

    health: a health path; no limit on requests in progress applies to it, and the settings may
    exempt it from basic authentication.
    """

    handler: RouteHandler
    methods: frozenset[str] = READ_METHODS
    health: bool = False


async def _not_found(_: web.BaseRequest) -> web.Response:
    return text_response(404, "not found")


NOT_FOUND_ROUTE = Route(_not_found)


class RequestDispatcher:
    """The web server's only handler.

    It writes the response itself, so that a response being written counts as in progress.
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        reloader: WebConfigReloader,
        limiter: ConnectionLimiter,
        *,
        health_without_credentials: bool,
    ) -> None:
        self._routes = routes
        self._reloader = reloader
        self._limiter = limiter
        self.health_without_credentials = health_without_credentials
        """Whether health paths need no basic authentication."""
        self.requests_in_progress = 0

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Handles the request; returns the response after it is written."""
        connection: Any = request.protocol
        assert isinstance(connection, Connection)  # noqa: S101 - the Listener makes no others
        connection.mark_busy()
        self.requests_in_progress += 1
        response: web.Response | None = None
        try:
            response = await self._respond(request)
            headers = response.headers
            headers["Server"] = SERVER
            headers["X-Content-Type-Options"] = "nosniff"
            if self._reloader.headers:
                headers.update(self._reloader.headers)
            if connection.no_more_requests:
                response.force_close()
            await response.prepare(request)
            await response.write_eof()
        except ConnectionError:
            if response is None:
                raise
            # The client disconnected; aiohttp notices that itself.
        finally:
            self.requests_in_progress -= 1
            connection.mark_idle(closing=response is None or not response.keep_alive)
        return response

    async def _respond(self, request: web.BaseRequest) -> web.Response:
        if self._reloader.due:
            await self._reloader.check()
        # Most requests are for exactly a route's path: no URL to parse.
        route = self._routes.get(request.raw_path) or self._find_route(request.path)
        refusal = self._check_limits(health=route.health)
        if refusal is None and not (route.health and self.health_without_credentials):
            refusal = await self._check_credentials(request)
        if refusal is None:
            refusal = _check_method_and_body(request, route)
        if refusal is not None:
            return refusal
        try:
            return await route.handler(request)
        except Exception as error:  # noqa: BLE001 - any error fails this request only
            self._limiter.log_error(error)
            return text_response(500, "internal error")

    def _find_route(self, path: str) -> Route:
        """Returns the route of the path, or of the prefix it is under, such as `/upstream/`."""
        prefix = path[: path.find("/", 1) + 1]
        return self._routes.get(path) or self._routes.get(prefix, NOT_FOUND_ROUTE)

    def _check_limits(self, *, health: bool) -> web.Response | None:
        """Returns the 429 or 503 response if a limit is exceeded."""
        rate_limiter = self._reloader.rate_limiter
        if rate_limiter is not None and not rate_limiter.take():
            return text_response(429, "too many requests", {"Retry-After": "1"})
        limit = self._limiter.limits.requests
        if limit and self.requests_in_progress > limit and not health:
            self._limiter.log_refusal("request limit reached (--web.max-requests)")
            return text_response(503, "too many requests in progress", {"Retry-After": "1"})
        return None

    async def _check_credentials(self, request: web.BaseRequest) -> web.Response | None:
        """Returns the 401 response without valid credentials; 503 if bcrypt is overloaded."""
        authenticator = self._reloader.authenticator
        if authenticator is None:
            return None
        try:
            if await authenticator.authenticate(request.headers.get("Authorization", "")):
                return None
        except ComparisonQueueFull:
            text = "too many password comparisons in progress"
            return text_response(503, text, {"Retry-After": "1"})
        challenge = f'Basic realm="{SERVER}", charset="UTF-8"'
        return text_response(401, "unauthorized", {"WWW-Authenticate": challenge})


def _check_method_and_body(request: web.BaseRequest, route: Route) -> web.Response | None:
    """Returns the 405 or 413 response if the request does not fit the route."""
    if route is not NOT_FOUND_ROUTE and request.method not in route.methods:
        return text_response(405, "method not allowed", {"Allow": ", ".join(sorted(route.methods))})
    if (request.content_length or 0) > MAX_BODY_BYTES:
        refusal = text_response(413, "request body too large: no path needs a body")
        refusal.force_close()
        return refusal
    return None


def text_response(status: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Returns a response with one line of plain text."""
    return web.Response(status=status, text=f"{text}\n", headers=headers)
