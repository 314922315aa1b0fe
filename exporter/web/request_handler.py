"""What every request passes: bounds, credentials, the route, headers; and plain errors.

Stands directly on aiohttp's low-level server: a handful of fixed paths needs no router, and so the
page costs no more than a bare handler.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from exporter.web.basic_auth import TooManyAtOnce
from exporter.web.config_reload import WebConfigReloader
from exporter.web.connection import SERVER, Connection
from exporter.web.connection_limits import ConnectionLimiter

RouteHandler = Callable[[web.BaseRequest], Awaitable[web.Response]]

READ_METHODS = frozenset(("GET", "HEAD"))
# No request here has a use for a body.
MAX_BODY_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Route:
    """What answers on a path.

    health: it may be told to answer without credentials, and answers however many are being served.
    """

    handler: RouteHandler
    methods: frozenset[str] = READ_METHODS
    health: bool = False


async def _not_found(_: web.BaseRequest) -> web.Response:
    return text_response(404, "not found")


NOT_FOUND = Route(_not_found)


class RequestDispatcher:
    """The one handler of the web server. It writes the reply itself, so that writing counts too."""

    def __init__(
        self,
        routes: Mapping[str, Route],
        protection: WebConfigReloader,
        hall: ConnectionLimiter,
        *,
        open_health: bool,
    ) -> None:
        """open_health: whether the health paths answer without credentials."""
        self._routes = routes
        self._protection = protection
        self._hall = hall
        self.open_health = open_health
        self.answering = 0

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer the request; gives the reply, which is written by then."""
        connection: Any = request.protocol
        assert isinstance(connection, Connection)  # noqa: S101 - no others are made
        connection.begin()
        self.answering += 1
        response: web.Response | None = None
        try:
            response = await self._answer(request)
            headers = response.headers
            headers["Server"] = SERVER
            headers["X-Content-Type-Options"] = "nosniff"
            if self._protection.headers:
                headers.update(self._protection.headers)
            if connection.ending:
                response.force_close()
            await response.prepare(request)
            await response.write_eof()
        except ConnectionError:
            if response is None:
                raise
            # The client has gone, which aiohttp finds out by itself.
        finally:
            self.answering -= 1
            connection.end(last=response is None or not response.keep_alive)
        return response

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if self._protection.due:
            await self._protection.look()
        # Most requests are for a path as it stands here: no URL to take apart.
        route = self._routes.get(request.raw_path) or self._route(request.path)
        refusal = self._too_much(health=route.health)
        if refusal is None and not (route.health and self.open_health):
            refusal = await self._unknown(request)
        if refusal is None:
            refusal = _bad_request(request, route)
        if refusal is not None:
            return refusal
        try:
            return await route.handler(request)
        except Exception as error:  # noqa: BLE001 - whatever it is, it costs this request alone
            self._hall.defect(error)
            return text_response(500, "internal error")

    def _route(self, path: str) -> Route:
        """That of the path; else that of the folder it is in, such as `/upstream/`."""
        folder = path[: path.find("/", 1) + 1]
        return self._routes.get(path) or self._routes.get(folder, NOT_FOUND)

    def _too_much(self, *, health: bool) -> web.Response | None:
        bucket = self._protection.bucket
        if bucket is not None and not bucket.take():
            return text_response(429, "too many requests", {"Retry-After": "1"})
        limit = self._hall.limits.requests
        if limit and self.answering > limit and not health:
            self._hall.refused("more requests at once than may be")
            return text_response(503, "too many requests at once", {"Retry-After": "1"})
        return None

    async def _unknown(self, request: web.BaseRequest) -> web.Response | None:
        """What somebody is told who is not let in."""
        users = self._protection.users
        if users is None:
            return None
        try:
            if await users.let_in(request.headers.get("Authorization", "")):
                return None
        except TooManyAtOnce:
            return text_response(503, "too many passwords to compare", {"Retry-After": "1"})
        challenge = f'Basic realm="{SERVER}", charset="UTF-8"'
        return text_response(401, "unauthorized", {"WWW-Authenticate": challenge})


def _bad_request(request: web.BaseRequest, route: Route) -> web.Response | None:
    """What somebody is told who asks for what there is not."""
    if route is not NOT_FOUND and request.method not in route.methods:
        return text_response(405, "method not allowed", {"Allow": ", ".join(sorted(route.methods))})
    if (request.content_length or 0) > MAX_BODY_BYTES:
        refusal = text_response(413, "no request here needs a body")
        refusal.force_close()
        return refusal
    return None


def text_response(status: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer in one line of plain text."""
    return web.Response(status=status, text=f"{text}\n", headers=headers)
