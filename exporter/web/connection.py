"""One connection: aiohttp's handler, with a bound on every time it may take and byte it may send.

aiohttp bounds the length of each header, and how long a kept connection idles. It does not bound
how long a client may take over its headers or over reading a reply, nor what all headers amount to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from exporter.web.connection_limits import ConnectionLimiter

SERVER = "inference-exporter"

# Bytes a client may send from one request's start to the next: headers, and what it pipelines
# behind a request that is being answered.
MAX_HEADER_BYTES = 65536
# Seconds a half-closed connection is kept for the request that came before its end.
HALF_CLOSED_TIMEOUT = 1.0
# Seconds a reply that ends the connection is given to reach the client.
CONNECTION_CLOSE_TIMEOUT = 5.0
# How long bodies are read that nobody wants; then the connection is closed.
LINGER_TIMEOUT = 1.0
# What one header and the request line may be long, and how many headers there may be.
MAX_LINE_BYTES = 8190
MAX_HEADERS = 64

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"Connection: close\r\nContent-Length: 0\r\n\r\n"
)


class ConnectionState(Enum):
    """What a connection is waiting for."""

    ARRIVING = "arriving"  # the end of its TLS handshake
    READING = "reading"  # the rest of a request
    BUSY = "busy"  # us, or the client that takes the reply
    IDLE = "idle"  # the next request


class Connection(web.RequestHandler):
    """aiohttp's handler with bounds. The hall sweeps away what has passed its deadline."""

    __slots__ = (
        "_admit",
        "_half_closed",
        "_hall",
        "_raw",
        "deadline",
        "handed_over",
        "received",
        "state",
    )

    def __init__(
        self,
        server: web.Server,
        hall: ConnectionLimiter,
        admit: Callable[[asyncio.BaseTransport], bool],
    ) -> None:
        """admit: whether a connection whose handshake is over may stay."""
        super().__init__(
            server,
            loop=hall.loop,
            access_log=None,  # type: ignore[arg-type]  # None is how aiohttp itself turns it off
            keepalive_timeout=2 * hall.limits.idle,  # ours comes first
            lingering_time=LINGER_TIMEOUT,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            max_headers=MAX_HEADERS,
        )
        self._hall = hall
        self._admit = admit
        self._raw: asyncio.Transport | None = None
        self._half_closed = False
        self.handed_over = False
        """Whether the socket is asyncio's to close."""
        self.state = ConnectionState.ARRIVING
        self.received = 0
        self.deadline = hall.now() + hall.limits.header

    @property
    def ending(self) -> bool:
        """Whether the client has ended its side and this reply is the last it asked for."""
        return self._half_closed and not self._messages

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open; with TLS, its handshake is done."""
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - only streams are listened on
        self._raw = transport
        self.state = ConnectionState.READING
        if not self._admit(transport):
            transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is gone."""
        self._hall.leave(self)
        self._raw = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        self.received += len(data)
        if self.received > MAX_HEADER_BYTES:
            self._hall.refused("more bytes than a request may have")
            if self._raw is not None:
                if self.state is not ConnectionState.BUSY:
                    self._raw.write(_TOO_LARGE)
                self.hang_up()
            return
        if self.state is ConnectionState.IDLE:
            self.state = ConnectionState.READING
            self.deadline = self._hall.now() + self._hall.limits.header
        super().data_received(data)

    def eof_received(self) -> bool | None:  # type: ignore[override]  # aiohttp always closes
        """The client will send no more. What it asked before is answered first, then it is over."""
        if self._raw is None or self._raw.get_extra_info("sslcontext") is not None:
            return None  # TLS knows no half-closed connection
        if self.state is ConnectionState.BUSY or (
            self.state is ConnectionState.READING and self.received
        ):
            self._half_closed = True
            if self.state is ConnectionState.READING:
                self.deadline = min(self.deadline, self._hall.now() + HALF_CLOSED_TIMEOUT)
            return True
        return None

    def begin(self) -> None:
        """A request has come in whole; its answer begins."""
        self.state = ConnectionState.BUSY
        self.received = 0
        self.deadline = self._hall.now() + self._hall.limits.reply
        self._hall.busy(self)

    def end(self, *, last: bool) -> None:
        """The answer is written. last: the connection ends with it."""
        self.state = ConnectionState.IDLE
        self.deadline = self._hall.now() + (
            CONNECTION_CLOSE_TIMEOUT if last else self._hall.limits.idle
        )
        self._hall.waiting(self)

    def hang_up(self) -> None:
        """Close it once what is written is sent, and at its deadline in any case."""
        self.deadline = min(self.deadline, self._hall.now() + CONNECTION_CLOSE_TIMEOUT)
        self.force_close()

    def abort(self) -> None:
        """Close it now."""
        if self._raw is not None:
            self._raw.abort()

    def log_exception(self, *args: Any, exc_info: Any = None, **_: Any) -> None:
        """What aiohttp has to say of a request that broke in its hands."""
        self._hall.defect(exc_info if isinstance(exc_info, BaseException) else None)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is not HTTP, or to a defect of ours: never what the client sent."""
        if status >= 500:
            self._hall.defect(exc)
        else:
            self._hall.refused("not HTTP as it should be")
        if isinstance(exc, LineTooLong):
            status = 431
        texts = {400: "bad request", 431: "request header fields too large"}
        response = web.Response(
            status=status,
            text=f"{texts.get(status, 'internal error')}\n",
            headers={"Server": SERVER, "X-Content-Type-Options": "nosniff"},
        )
        response.force_close()
        self.deadline = self._hall.now() + CONNECTION_CLOSE_TIMEOUT
        return response
