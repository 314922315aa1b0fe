"""One client connection: aiohttp's handler with a limit on every time and every size.

aiohttp limits the length of each header line, and how long a kept-alive connection idles. It does
not limit the time a client takes to send headers or to read a response, nor the headers' total
size.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from enum import Enum
from typing import Any

from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse
from aiohttp.web_server import Server

from exporter.web.connection_limits import ConnectionLimiter
from exporter.web.refusals import Refusal

SERVER = "inference-exporter"

# Bytes a client may send from the start of one request to the start of the next: its headers, and
# requests pipelined behind a request in progress.
MAX_HEADER_BYTES = 65536
# Bytes parsed at once, so that few requests are parsed before the first of them has its response.
PARSED_BYTES = 512
# Seconds a half-closed connection stays open for the rest of its last request.
HALF_CLOSED_TIMEOUT = 1.0
# Seconds for the last response of a connection to reach the client.
CONNECTION_CLOSE_TIMEOUT = 5.0
# Seconds for which unread request bodies are read and dropped before the connection is closed.
LINGER_TIMEOUT = 1.0
# Bytes of a response that wait in this process, and in the kernel before they are sent.
WRITE_BUFFER_BYTES = 32768
KERNEL_BUFFER_BYTES = 131072
# Length of the request line and of a header line, and the number of headers.
MAX_LINE_BYTES = 8190
MAX_HEADERS = 64

_RESPONSE_431 = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"Connection: close\r\nContent-Length: 0\r\n\r\n"
)


class ConnectionState(Enum):
    """The event a connection waits for."""

    OPENING = "opening"  # the end of the TLS handshake
    READING = "reading"  # the rest of a request
    BUSY = "busy"  # the response, or the client to read it
    IDLE = "idle"  # the next request


class Connection(RequestHandler):
    """aiohttp's handler with limits. ConnectionLimiter closes it after `deadline`."""

    __slots__ = (
        "_authorize",
        "_closing",
        "_half_closed",
        "_limiter",
        "_responses",
        "_stream",
        "_unparsed",
        "client",
        "deadline",
        "owned_by_asyncio",
        "received",
        "state",
    )

    def __init__(
        self,
        server: Server,
        client: str,
        limiter: ConnectionLimiter,
        authorize: Callable[[asyncio.BaseTransport], bool],
    ) -> None:
        """client: its address (client_of).

        authorize: called after the handshake; returns whether the connection may stay open.
        """
        super().__init__(
            server,
            loop=limiter.loop,
            access_log=None,  # type: ignore[arg-type]  # None is how aiohttp itself turns it off
            keepalive_timeout=2 * limiter.limits.idle,  # `deadline` comes first
            lingering_time=LINGER_TIMEOUT,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            max_headers=MAX_HEADERS,
            auto_decompress=False,  # otherwise bodies are unpacked before they are asked for
        )
        self.client = client
        """The client's address, as `client_of` returns it."""
        self._limiter = limiter
        self._authorize = authorize
        self._stream: asyncio.Transport | None = None
        self._half_closed = False
        self._responses = 0
        self._unparsed = b""
        self._closing = (
            False  # the last response is written: what the client still sends is dropped
        )
        self.owned_by_asyncio = False
        """Whether asyncio closes the socket."""
        self.state = ConnectionState.OPENING
        self.received = 0
        """Bytes received since the last complete request."""
        self.deadline = limiter.now() + limiter.limits.header
        """Time on the event loop's clock."""

    @property
    def is_open(self) -> bool:
        """Whether the client is still connected."""
        return self._stream is not None

    @property
    def no_more_requests(self) -> bool:
        """Whether the client has half-closed the connection, and no further request is queued."""
        return self._half_closed and not self._messages and not self._unparsed

    @property
    def _response_due(self) -> bool:
        """Whether a request that was received has no response yet."""
        return bool(self._unparsed) or self._request_count > self._responses

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection is open; with TLS, its handshake is done."""
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - only stream sockets listen
        self._stream = transport
        transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        sock = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, KERNEL_BUFFER_BYTES)
        self.state = ConnectionState.READING
        if not self._authorize(transport):
            transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """asyncio: the connection is closed."""
        self._limiter.remove(self)
        self._stream = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """asyncio: part of a request. Responds 431 beyond MAX_HEADER_BYTES."""
        if not self._count_header_bytes(len(data)) or self._closing:
            return
        self._mark_reading()
        if data:
            self._unparsed += data
            self._parse()
        else:  # aiohttp itself, which has parsed more requests than it queues
            super().data_received(data)

    def _count_header_bytes(self, length: int) -> bool:
        """Returns whether the bytes are within MAX_HEADER_BYTES; if not, responds 431."""
        self.received += length
        if self.received <= MAX_HEADER_BYTES:
            return True
        self._limiter.refusals.count(Refusal.REQUEST_SIZE)
        if self._stream is not None:
            if self.state is not ConnectionState.BUSY:
                self._stream.write(_RESPONSE_431)
            self.close_soon()
        return False

    def _mark_reading(self) -> None:
        """Starts the timeout of the headers, if the connection was idle."""
        if self.state is ConnectionState.IDLE:
            self.state = ConnectionState.READING
            self.deadline = self._limiter.now() + self._limiter.limits.header

    def _parse(self) -> None:
        """Parses until there is a request to respond to.

        A parsed body or header takes many times its length in memory, so the rest stays bytes.
        """
        while self._unparsed and not self._messages and self.state is not ConnectionState.BUSY:
            if self._stream is None:
                return
            data, self._unparsed = self._unparsed[:PARSED_BYTES], self._unparsed[PARSED_BYTES:]
            super().data_received(data)

    def _parse_rest(self) -> None:
        """Continues after a response with what the client sent meanwhile."""
        if self._unparsed and self.state is ConnectionState.IDLE:
            self.state = ConnectionState.READING
            timeout = HALF_CLOSED_TIMEOUT if self._half_closed else self._limiter.limits.header
            self.deadline = self._limiter.now() + timeout
            self._parse()

    def eof_received(self) -> bool | None:  # type: ignore[override]  # aiohttp always closes
        """asyncio: the client half-closed the connection. Requests received before get responses.

        Returns True to keep the connection open.
        """
        if self._stream is None or self._stream.get_extra_info("sslcontext") is not None:
            return None  # a TLS connection cannot be half-closed
        if self._response_due or (self.state is ConnectionState.READING and self.received):
            self._half_closed = True
            if self.state is ConnectionState.READING:
                self.deadline = min(self.deadline, self._limiter.now() + HALF_CLOSED_TIMEOUT)
            return True
        return None

    def mark_busy(self) -> None:
        """Starts the response timeout: a complete request has arrived."""
        self.state = ConnectionState.BUSY
        self.received = len(self._unparsed)
        self.deadline = self._limiter.now() + self._limiter.limits.reply
        self._limiter.mark_busy(self)

    def mark_idle(self, *, closing: bool) -> None:
        """Starts the idle timeout: the response is written. closing: it ends the connection."""
        self._responses += 1
        closing = closing or self.no_more_requests
        self.state = ConnectionState.IDLE
        self.deadline = self._limiter.now() + (
            CONNECTION_CLOSE_TIMEOUT if closing else self._limiter.limits.idle
        )
        self._limiter.mark_idle(self)
        self._closing = closing
        if closing:
            self._unparsed = b""
            if self._half_closed:
                self.close_soon()
        elif self._unparsed:
            self._limiter.loop.call_soon(self._parse_rest)

    def close_soon(self) -> None:
        """Closes the connection after its write buffer is sent, at the deadline at the latest."""
        self.deadline = min(self.deadline, self._limiter.now() + CONNECTION_CLOSE_TIMEOUT)
        self.force_close()

    def abort(self) -> None:
        """Closes the connection at once."""
        if self._stream is not None:
            self._stream.abort()

    def log_exception(self, *args: Any, exc_info: Any = None, **_: Any) -> None:
        """aiohttp: a request failed in aiohttp's own code."""
        if isinstance(exc_info, asyncio.InvalidStateError):
            return  # a request that ended after the server had stopped waiting for it
        self._limiter.refusals.log_error(exc_info if isinstance(exc_info, BaseException) else None)

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> StreamResponse:
        """aiohttp: the request is not HTTP, or the handler raised.

        The response never repeats what the client sent.
        """
        if _is_too_large(exc):
            status = 431
            self._limiter.refusals.count(Refusal.REQUEST_SIZE)
        elif status >= 500:
            self._limiter.refusals.log_error(exc)
        else:
            self._limiter.refusals.count(Refusal.MALFORMED)
        texts = {400: "bad request", 431: "request header fields too large"}
        response = Response(
            status=status,
            text=f"{texts.get(status, 'internal error')}\n",
            headers={"Server": SERVER, "X-Content-Type-Options": "nosniff"},
        )
        response.force_close()
        self.deadline = self._limiter.now() + CONNECTION_CLOSE_TIMEOUT
        return response


def _is_too_large(error: BaseException | None) -> bool:
    """Returns whether the parser refuses a request for a long line, or for too many headers."""
    too_many = isinstance(error, BadHttpMessage) and error.message.startswith("Too many headers")
    return isinstance(error, LineTooLong) or too_many
