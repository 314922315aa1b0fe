"""The OTLP/HTTP listener: POST /v1/traces, on an address and with connections of its own.

A POST gets 200 as soon as its body has arrived, whatever is in it: Triton's exporter neither
retries nor waits well, and fills its log if the collector fails. Above the limits the body is
dropped, counted, and answered 200 as well.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiohttp.http_exceptions import BadHttpMessage, PayloadEncodingError
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse

from exporter.trace_posts import PostLimits, TracePost
from exporter.web.config_reload import NO_WEB_CONFIG, WebConfigReloader
from exporter.web.connection import SERVER
from exporter.web.connection_limits import ClientLimits, ConnectionLimiter
from exporter.web.listener import Listener
from exporter.web.rate_limit import SharedRateLimiter
from exporter.web.refusals import Refusals
from exporter.web.request_handler import text_response
from exporter.web.request_turns import RequestTurns
from exporter.web.upload_connection import UploadConnection

PATH = "/v1/traces"
# Connections of senders: Triton opens one, a Collector a few.
MAX_CONNECTIONS = 64
# Seconds for the headers, between two POSTs, and from the headers to the end of the response. An
# exporter gives up after 10 s.
_LIMITS = ClientLimits(connections=MAX_CONNECTIONS, header=5, idle=120, reply=10)
# Bytes of bodies that arrive, or wait to be read; further ones are shed.
MAX_HELD_BYTES = 20 << 20
# Of them, those of one sender that wait to be read: they are not dropped for another.
MAX_WAITING_BYTES = 16 << 20
_CLOSE_TIMEOUT = 0.3

_JSON, _PROTOBUF = "application/json", "application/x-protobuf"
SHED_REASONS = (*("body_size", "content_type", "credentials", "incomplete", "memory", "rate"),)
"""Why a body was dropped: 413, 415, 401, the sender stopped halfway, and the two limits."""


@dataclass(slots=True, eq=False)
class _Body:
    """A body that arrives. reason: why it is dropped; empty if it is not."""

    client: str
    reason: str
    held: int = 0
    received: bytearray = field(default_factory=bytearray)


class OtlpEndpoint:
    """An open listener. Used from the event loop only."""

    def __init__(
        self,
        limits: PostLimits,
        token: bytes | None,
        take: Callable[[TracePost], None],
        *,
        protobuf: bool,
    ) -> None:
        """take: gets the bodies. protobuf: whether it can read protobuf."""
        self.token = token
        self.received = 0
        self.shed: Mapping[str, int] = dict.fromkeys(SHED_REASONS, 0)
        self.held = 0
        """Bytes of bodies that arrive, or wait to be read."""
        # Bodies that arrive, the oldest first.
        self._arriving: dict[_Body, None] = {}
        self._waiting: Counter[str] = Counter()
        """Bytes of complete bodies that wait to be read, by client."""
        self._limits = limits
        self._take = take
        self._protobuf = protobuf
        self._rate = SharedRateLimiter(limits.per_second)
        loop = asyncio.get_running_loop()
        self._turns = RequestTurns(loop)
        refusals = Refusals("traces")
        self._reloader = WebConfigReloader(NO_WEB_CONFIG, "")
        self._listener = Listener(
            self._dispatch,
            self._reloader,
            ConnectionLimiter(loop, _LIMITS, refusals),
            _CLOSE_TIMEOUT,
            UploadConnection,
        )

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """(host, port) of each socket."""
        return self._listener.addresses

    async def listen(self, address: str) -> None:
        """Opens the sockets. Raises ConfigError."""
        await self._listener.listen_on((address,), 0o600, systemd=False)

    async def close(self) -> None:
        """Stops listening and closes every connection."""
        await self._listener.close()
        self._reloader.close()

    async def _dispatch(self, request: BaseRequest) -> StreamResponse:
        connection: Any = request.protocol
        assert isinstance(connection, UploadConnection)  # noqa: S101 - the Listener makes no others
        connection.mark_busy()
        response: Response | None = None
        try:
            if not await self._turns.wait(connection):
                return Response()  # aiohttp notices that it cannot write it
            response = await self._respond(request, connection.client)
            response.headers["Server"] = SERVER
            if connection.no_more_requests:
                response.force_close()
            await response.prepare(request)
            await response.write_eof()
        except ConnectionError:  # the sender disconnected
            return response or Response()  # aiohttp notices that it cannot write it
        finally:
            connection.mark_idle(closing=response is None or not response.keep_alive)
        return response

    async def _respond(self, request: BaseRequest, client: str) -> Response:
        if request.path != PATH:
            return _refusal(404, f"not found: spans are sent to POST {PATH}")
        if request.method != "POST":
            return _refusal(405, "method not allowed", {"Allow": "POST"})
        if not self._authorized(request.headers.get("Authorization", "")):
            self._count("credentials")
            return _refusal(401, "unauthorized", {"WWW-Authenticate": "Bearer"})
        protobuf = request.content_type == _PROTOBUF
        coding = request.headers.get("Content-Encoding", "identity").strip().lower()
        if request.content_type not in (
            (_JSON, _PROTOBUF) if self._protobuf else (_JSON,)
        ) or coding not in ("identity", "gzip"):
            self._count("content_type")
            return _refusal(415, self._accepted)
        dropped = "" if self._rate.take(client) else "rate"
        return await self._receive(
            request, _Body(client, dropped), protobuf=protobuf, gzip=coding == "gzip"
        )

    @property
    def _accepted(self) -> str:
        protobuf = f" or {_PROTOBUF}" if self._protobuf else ""
        return f"unsupported media type: send {_JSON}{protobuf}, plain or gzip"

    def _authorized(self, header: str) -> bool:
        if self.token is None:
            return True
        scheme, _, sent = header.partition(" ")
        given = sent.strip().encode("utf-8", "surrogateescape")
        matches = hmac.compare_digest(given, self.token)
        return scheme.lower() == "bearer" and matches and bool(self.token)

    async def _receive(
        self, request: BaseRequest, body: _Body, *, protobuf: bool, gzip: bool
    ) -> Response:
        self._arriving[body] = None
        try:
            await self._read_body(request, body)
            if not body.reason and self._waiting[body.client] + body.held > MAX_WAITING_BYTES:
                self._drop(body)  # others of the sender became complete meanwhile
        except (BadHttpMessage, PayloadEncodingError):
            body.reason = "incomplete"
            return _refusal(400, "bad request body")
        except BaseException:  # the sender disconnects, or the time is over
            body.reason = "incomplete"
            raise
        finally:
            del self._arriving[body]
            if body.reason:
                self._release(body.held)
                self._count(body.reason)
        if body.reason == "body_size":
            return _refusal(413, f"body longer than {self._limits.body_bytes} bytes")
        if not body.reason:
            self.received += 1
            self._waiting[body.client] += body.held
            done = partial(self._release_read, body.client, body.held)
            self._take(TracePost(bytes(body.received), protobuf, gzip, done))
        # An empty ExportTraceServiceResponse.
        reply, kind = (b"", _PROTOBUF) if protobuf else (b"{}", _JSON)
        return Response(body=reply, content_type=kind)

    async def _read_body(self, request: BaseRequest, body: _Body) -> None:
        """Reads to the end, also what is dropped: the sender's connection stays usable."""
        length = request.content_length or 0
        if length > self._limits.body_bytes:
            body.reason = "body_size"
            return
        if request.headers.get("Expect", "").lower() == "100-continue":
            await _continue(request)
        if request.transport is None:
            # Lost before the task of this request began: aiohttp ends the body of no such request.
            raise ConnectionResetError
        length = 0
        async for piece in request.content.iter_any():
            length += len(piece)
            if length > self._limits.body_bytes:
                body.reason = "body_size"
                return
            if not body.reason and not self._make_room(body, len(piece)):
                self._drop(body)
            if not body.reason:
                self.held += len(piece)
                body.held += len(piece)
                body.received += piece

    def _make_room(self, body: _Body, size: int) -> bool:
        """Returns whether so many further bytes of a body fit.

        At the limit, the oldest bodies of the client of which most bytes have arrived are dropped,
        so that half bodies of one sender do not drop those of others.
        """
        if self._waiting[body.client] + body.held + size > MAX_WAITING_BYTES:
            return False
        while self.held + size > MAX_HELD_BYTES:
            held = Counter({body.client: size})
            for other in self._arriving:
                held[other.client] += other.held
            largest = max(held, key=held.__getitem__)
            if held[largest] <= held[body.client]:
                return False
            others = (other for other in self._arriving if other.client == largest and other.held)
            self._drop(next(others))
        return True

    def _drop(self, body: _Body) -> None:
        """Releases a body for which there is no memory; the rest of it is read and dropped."""
        self._release(body.held)
        body.reason, body.held = "memory", 0
        body.received = bytearray()

    def _release(self, size: int) -> None:
        self.held -= size

    def _release_read(self, client: str, size: int) -> None:
        self._release(size)
        self._waiting[client] -= size
        if not self._waiting[client]:
            del self._waiting[client]

    def _count(self, reason: str) -> None:
        self.shed = {**self.shed, reason: self.shed[reason] + 1}


async def _continue(request: BaseRequest) -> None:
    """Permits a sender that waits to send the body."""
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # no part of the response


def _refusal(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """Returns a response that closes the connection: an unread body may follow."""
    response = text_response(status, text, headers)
    response.force_close()
    return response


async def open_endpoint(
    address: str,
    limits: PostLimits,
    token: bytes | None,
    protobuf: bool,
    take: Callable[[TracePost], None],
) -> OtlpEndpoint:
    """Opens a listener; see OpenTraceListener. Raises ConfigError."""
    endpoint = OtlpEndpoint(limits, token, take, protobuf=protobuf)
    try:
        await endpoint.listen(address)
    except BaseException:
        await endpoint.close()
        raise
    return endpoint
