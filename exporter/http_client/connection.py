"""Connection to a server: bounds the bytes besides a body, and closes on data without a request.

aiohttp reads kept connections while they are idle, and queues every message that it receives.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

from aiohttp import ClientPayloadError
from aiohttp.client_proto import ResponseHandler

# Informational responses (1xx) before a response.
MAX_INFORMATIONAL = 8
# Bytes besides the body (head, chunk headers, trailers, and two reads that are not parsed yet):
# this many, and a quarter of the body's, which allows chunks of 20 bytes.
_FREE_BYTES = 256 << 10
_BODY_SHARE = 4
# Reads from the socket: this many, and one per so many bytes.
_MAX_READ_BYTES = 64 << 10
_FREE_READS = 4096
_MIN_READ_BYTES = 16

# Values are read again after HTTP 401; the latest ones are kept.
_MAX_MARKED = 64

MarkedValues = dict[bytes, bytes]
"""Header values that are not UTF-8, by the mark that aiohttp gets in place of them."""


def mark_value(value: bytes, marked: MarkedValues) -> str:
    """Returns a header value for aiohttp, which sends text as UTF-8 and can send no other bytes."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        mark = next((mark for mark, other in marked.items() if other == value), b"")
        if not mark:
            mark = secrets.token_hex(16).encode()
            marked[mark] = value
            if len(marked) > _MAX_MARKED:
                del marked[next(iter(marked))]
        return mark.decode()


class ServerConnection(ResponseHandler):
    """aiohttp's protocol of a client connection, with the bounds of the module.

    connected: called when the connection is open.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        marked: MarkedValues | None = None,
        connected: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(loop)
        self._connected = connected
        self._marked = marked if marked is not None else {}
        self._restoring = False
        self._requested = False
        self._body: Any = None  # of the response; aiohttp's StreamReader
        self._informational = self._bytes = self._reads = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called when the connection is open."""
        # The most that asyncio reads at a time, in its socket transports; others ignore it.
        transport.max_size = _MAX_READ_BYTES  # type: ignore[attr-defined]
        super().connection_made(transport)
        self._connected()

    def set_response_params(self, **parameters: Any) -> None:
        """Called by aiohttp before each request."""
        if self._marked and not self._restoring and self.transport is not None:
            self._restoring = True
            write = self.transport.write
            transport: Any = self.transport
            transport.write = lambda data: write(self._restore(data))
            transport.writelines = lambda parts: write(self._restore(b"".join(parts)))
        self._requested = True
        self._body = None
        self._informational = self._bytes = self._reads = 0
        super().set_response_params(**parameters)

    def _restore(self, data: Any) -> bytes:
        """Returns the bytes to send: each mark replaced by the value it stands for."""
        restored = bytes(data)
        for mark, value in self._marked.items():
            restored = restored.replace(mark, value)
        return restored

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Called by aiohttp's parser with each message: its head and the reader of its body."""
        message, body = data
        if 100 <= message.code < 200 and message.code != 101:
            self._informational += 1
            if self._informational > MAX_INFORMATIONAL:
                self._refuse("too many informational responses")
                return
        elif self._body is not None:
            self._refuse("more than one response")
            return
        else:
            self._body = body
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        """Called with bytes from the socket, and by aiohttp itself with none."""
        if data and (reason := self._objection(len(data))):
            self._refuse(reason)
            return
        super().data_received(data)

    def _objection(self, size: int) -> str:
        """Counts a read; returns the reason to refuse it, or an empty string."""
        body = self._body
        if not self._requested or (body is not None and body.is_eof()):
            return "data without a request"
        body_bytes = getattr(body, "total_bytes", 0)
        if self._bytes - body_bytes > _FREE_BYTES + body_bytes // _BODY_SHARE:
            return "too many bytes besides the body, or too small chunks"
        self._bytes += size
        self._reads += 1
        if self._reads > _FREE_READS + self._bytes // _MIN_READ_BYTES:
            return "too small packets"
        return ""

    def _refuse(self, reason: str) -> None:
        """Closes the connection at once; a request in progress fails with the reason."""
        if self.transport is None or self.transport.is_closing():
            return
        self.transport.abort()
        error = ClientPayloadError(reason)
        self.set_exception(error)
        if self._body is not None and not self._body.is_eof():
            self._body.set_exception(error)
