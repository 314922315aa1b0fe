"""A client connection whose requests have bodies, for the OTLP listener."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import StreamReader
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_server import Server

from exporter.web.connection import PARSED_BYTES, Connection, ConnectionState
from exporter.web.connection_limits import ConnectionLimiter


class UploadConnection(Connection):
    """A Connection that passes the rest of a request's body on while its handler reads it.

    The handler limits the body; aiohttp stops reading from the socket while it is not read. While
    a request waits for its response, further ones wait in the kernel.
    """

    __slots__ = ("_upload",)

    def __init__(
        self,
        server: Server,
        client: str,
        limiter: ConnectionLimiter,
        authorize: Callable[[asyncio.BaseTransport], bool],
    ) -> None:
        super().__init__(server, client, limiter, authorize)
        self._upload: StreamReader | None = None

    def data_received(self, data: bytes) -> None:
        """asyncio: part of a request. What belongs to a body is no part of the headers' limit."""
        if self._closing:
            return
        if data:
            self._mark_reading()
            self._unparsed += data
            self._parse()
        else:  # aiohttp itself, which continues with what it has not parsed
            self._pass_on(data)

    def eof_received(self) -> bool | None:  # type: ignore[override]  # as in Connection
        """asyncio: the client half-closed the connection. The rest of a body will not come."""
        keep_open = super().eof_received()
        if keep_open:
            self._end_upload()
        return keep_open

    def mark_busy(self) -> None:
        """Starts the response timeout: complete headers have arrived."""
        super().mark_busy()
        self.received = 0

    @property
    def _uploading(self) -> bool:
        """Whether the end of the last request's body is still to come."""
        return self._upload is not None and not self._upload.is_eof()

    def _parse(self) -> None:
        """Parses until there is a request to respond to whose body has arrived."""
        while self._unparsed and self._stream is not None:
            size = len(self._unparsed)
            if not self._uploading:
                if self._messages or self.state is ConnectionState.BUSY:
                    self._stream.pause_reading()
                    return
                size = min(size, PARSED_BYTES)
                if not self._count_header_bytes(size):
                    return
            data, self._unparsed = self._unparsed[:size], self._unparsed[size:]
            self._pass_on(data)
        if self._half_closed:
            self._end_upload()
        elif self._stream is not None and not (self._reading_paused or self._buffer_paused):
            self._stream.resume_reading()

    def _pass_on(self, data: bytes) -> None:
        """Passes data to aiohttp's parser."""
        RequestHandler.data_received(self, data)
        if self._messages:
            self._upload = self._messages[-1][1]

    def _end_upload(self) -> None:
        """Ends the request whose body is cut off, after the responses to those before it."""
        if self._upload is not None and self._uploading and not self._unparsed:
            self._upload.set_exception(ConnectionResetError("the body is incomplete"))
