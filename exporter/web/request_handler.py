"""Dispatches every request: limits, basic authentication, route, headers, plain-text errors.

Built directly on aiohttp's low-level server: a few fixed paths need no router, and a scrape costs
no more than with a bare handler.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse

from exporter.errors import SourceError, Unreachable
from exporter.web.config_reload import WebConfigReloader
from exporter.web.connection import SERVER, Connection
from exporter.web.password_queue import ComparisonQueueFull
from exporter.web.refusals import Refusal, Refusals
from exporter.web.request_turns import RequestTurns
from exporter.web.response_limits import ResponseInProgress, ResponseLimiter

RouteHandler = Callable[[BaseRequest], Awaitable[Response]]

READ_METHODS = frozenset(("GET", "HEAD"))
# No route uses a request body.
MAX_BODY_BYTES = 1024
# Bytes of a response written at once. aiohttp waits for the client after more than 64 KiB.
SLICE_BYTES = 96 << 10


@dataclass(frozen=True, slots=True)
class Route:
    """A path's handler and methods.

    health: a health path; no limit on requests in progress applies to it, and the settings may
    exempt it from basic authentication. subtree: whether it is the handler of all paths below it.
    """

    handler: RouteHandler
    methods: frozenset[str] = READ_METHODS
    health: bool = False
    subtree: bool = False


async def _not_found(_: BaseRequest) -> Response:
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
        responses: ResponseLimiter,
        turns: RequestTurns,
        refusals: Refusals,
        *,
        health_without_credentials: bool,
    ) -> None:
        self._routes = routes
        self._subtrees = [(path, route) for path, route in routes.items() if route.subtree]
        self._reloader = reloader
        self._responses = responses
        self._turns = turns
        self._refusals = refusals
        self.health_without_credentials = health_without_credentials
        """Whether health paths need no basic authentication, and no rate limit applies to them."""

    async def __call__(self, request: BaseRequest) -> StreamResponse:
        """Handles the request; returns the response after it is written."""
        connection: Any = request.protocol
        assert isinstance(connection, Connection)  # noqa: S101 - the Listener makes no others
        connection.mark_busy()
        progress = ResponseInProgress(connection.client, connection)
        response: Response | None = None
        try:
            if not await self._turns.wait(connection):
                return Response()  # aiohttp notices that it cannot write it
            response = await self._respond(request, progress)
            headers = response.headers
            headers["Server"] = SERVER
            headers["X-Content-Type-Options"] = "nosniff"
            if self._reloader.headers:
                headers.update(self._reloader.headers)
            if connection.no_more_requests:
                response.force_close()
            await self._write(request, response, progress)
        except ConnectionError:
            if response is None:
                raise
            # The client disconnected; aiohttp notices that itself.
        finally:
            self._responses.leave(progress)
            connection.mark_idle(closing=response is None or not response.keep_alive)
        return response

    async def _write(
        self, request: BaseRequest, response: Response, progress: ResponseInProgress
    ) -> None:
        """Writes the response in slices, so that a slow client's unread rest stays one page."""
        self._responses.mark_progress(progress)
        await response.prepare(request)
        body = response.body
        if request.method == "HEAD" or not isinstance(body, bytes) or len(body) <= SLICE_BYTES:
            await response.write_eof()
            return
        for start in range(0, len(body), SLICE_BYTES):
            # Copies: a view in the transport's buffer would keep the whole page in memory.
            await response.write(body[start : start + SLICE_BYTES])
            self._responses.mark_progress(progress)
        await StreamResponse.write_eof(response)

    async def _respond(self, request: BaseRequest, progress: ResponseInProgress) -> Response:
        refusal = self._check_body(request)
        if refusal is not None:
            return refusal
        if self._reloader.due:
            await self._reloader.check()
        # Most requests are for exactly a route's path: no URL to parse.
        route = self._routes.get(request.raw_path) or self._find_route(request.path)
        if not (route.health and self.health_without_credentials):
            refusal = self._check_rate() or await self._check_credentials(request, progress.client)
        if refusal is None and not route.health and not await self._responses.enter(progress):
            refusal = text_response(503, "too many requests in progress", {"Retry-After": "1"})
        if refusal is None:
            refusal = _check_method(request, route)
        if refusal is None:
            return await self._limited_response(request, route, progress)
        return refusal

    async def _limited_response(
        self, request: BaseRequest, route: Route, progress: ResponseInProgress
    ) -> Response:
        """Returns the route's response, or 503 if its body does not fit with those in progress."""
        response = await self._handle(request, route)
        if self._holds(progress, response):
            return response
        size = len(response.body) if isinstance(response.body, bytes) else 0
        del response  # not kept while waiting
        if await self._responses.wait_for_room(progress, size):
            response = await self._handle(request, route)
            if self._holds(progress, response):
                return response
        return text_response(503, "too many bytes in progress", {"Retry-After": "1"})

    def _holds(self, progress: ResponseInProgress, response: Response) -> bool:
        """Returns whether the response's body fits with those in progress."""
        body = response.body
        return (
            not isinstance(body, bytes)
            or len(body) <= SLICE_BYTES
            or self._responses.hold(progress, body)
        )

    async def _handle(self, request: BaseRequest, route: Route) -> Response:
        try:
            return await route.handler(request)
        except Unreachable:  # the worker that renders is closed
            return text_response(503, "stopping")
        except SourceError as error:
            self._refusals.log_error(error)
            return text_response(503, error.message)
        except Exception as error:  # noqa: BLE001 - any error fails this request only
            self._refusals.log_error(error)
            return text_response(500, "internal error")

    def _find_route(self, path: str) -> Route:
        """Returns the route of the path, or of the subtree it is in, such as `/upstream/`."""
        if route := self._routes.get(path):
            return route
        subtrees = (item for item in self._subtrees if path.startswith(item[0]))
        return next((route for _, route in subtrees), NOT_FOUND_ROUTE)

    def _check_body(self, request: BaseRequest) -> Response | None:
        """Returns the 413 or 415 response if the request has a body that no path needs.

        Before anything else, by what the headers announce: a body of unknown size is too large.
        """
        length = request.content_length or 0
        chunked = "Transfer-Encoding" in request.headers
        if length > MAX_BODY_BYTES or chunked:
            refusal = text_response(413, "request body too large: no path needs a body")
        elif length and "Content-Encoding" in request.headers:
            refusal = text_response(415, "encoded request body: no path needs a body")
        else:
            return None
        self._refusals.count(Refusal.BODY)
        refusal.force_close()
        return refusal

    def _check_rate(self) -> Response | None:
        """Returns the 429 response if the rate limit is exceeded."""
        rate_limiter = self._reloader.rate_limiter
        if rate_limiter is None or rate_limiter.take():
            return None
        self._refusals.count(Refusal.RATE)
        return text_response(429, "too many requests", {"Retry-After": "1"})

    async def _check_credentials(self, request: BaseRequest, client: str) -> Response | None:
        """Returns the 401 response without valid credentials; 429 if the client guesses."""
        authenticator = self._reloader.authenticator
        if authenticator is None:
            return None
        try:
            if await authenticator.authenticate(request.headers.get("Authorization", ""), client):
                return None
        except ComparisonQueueFull:
            self._refusals.count(Refusal.GUESSES)
            return text_response(429, "too many passwords to compare", {"Retry-After": "1"})
        except SourceError as error:  # no thread to compare it
            self._refusals.log_error(error)
            return text_response(503, error.message)
        self._refusals.count(Refusal.CREDENTIALS)
        challenge = f'Basic realm="{SERVER}", charset="UTF-8"'
        return text_response(401, "unauthorized", {"WWW-Authenticate": challenge})


def _check_method(request: BaseRequest, route: Route) -> Response | None:
    """Returns the 405 response if the route does not have the request's method."""
    if route is not NOT_FOUND_ROUTE and request.method not in route.methods:
        return text_response(405, "method not allowed", {"Allow": ", ".join(sorted(route.methods))})
    return None


def text_response(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """Returns a response with one line of plain text."""
    return Response(status=status, text=f"{text}\n", headers=headers)
