"""A client connection whose requests have bodies, for the OTLP listener."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import StreamReader
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_server import Server

from exporter.web.connection import Connection
from exporter.web.connection_limits import ConnectionLimiter

# Bytes of a request that are parsed before the rest is known to be its body.
_HEAD_BYTES = 4096


class UploadConnection(Connection):
    """A Connection that passes the rest of a request's body on while its handler reads it.

    The handler limits the body; aiohttp stops reading from the socket while it is not read.
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
        if not data:
            super().data_received(data)
        start = 0
        while start < len(data):
            if self._uploading:
                RequestHandler.data_received(self, data[start:])
                return
            super().data_received(data[start : start + _HEAD_BYTES])
            start += _HEAD_BYTES

    def eof_received(self) -> bool | None:  # type: ignore[override]  # as in Connection
        """asyncio: the client half-closed the connection: the rest of a body will not come."""
        return None if self._uploading else super().eof_received()

    @property
    def _uploading(self) -> bool:
        """Whether the end of the last request's body is still to come."""
        return self._upload is not None and not self._upload.is_eof()

    def _parse(self) -> None:
        super()._parse()
        if self._messages:
            self._upload = self._messages[-1][1]
        if self._unparsed and self._uploading:
            rest, self._unparsed = self._unparsed, b""
            RequestHandler.data_received(self, rest)
