"""Request bodies are not unpacked, not even for a handler that reads them.

The server's own handler refuses bodies by their headers; this is about the connection below it.
"""

from __future__ import annotations

import asyncio
import gzip
import zlib

import pytest
from aiohttp import web

from exporter.web.connection import Connection
from exporter.web.connection_limits import ClientLimits, ConnectionLimiter
from exporter.web.refusals import Refusals

BODY = b"0123456789" * 100


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [("gzip", gzip.compress(BODY)), ("deflate", zlib.compress(BODY)), ("br", b"not unpacked")],
    ids=["gzip", "deflate", "br"],
)
def test_a_handler_reads_the_body_as_it_was_sent(encoding: str, packed: bytes) -> None:
    received: list[bytes] = []

    async def handle(request: web.BaseRequest) -> web.Response:
        received.append(await request.read())
        return web.Response(text="read\n")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        limiter = ConnectionLimiter(
            loop, ClientLimits(connections=9, header=30, idle=30, reply=30), Refusals()
        )
        server = web.Server(handle)
        listening = await loop.create_server(
            lambda: Connection(server, "", limiter, lambda _: True), "127.0.0.1", 0
        )
        port = listening.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"Host: a\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(packed)}\r\n"
        writer.write(f"GET / HTTP/1.1\r\n{head}Connection: close\r\n\r\n".encode() + packed)
        async with asyncio.timeout(20):
            assert (await reader.read()).endswith(b"read\n")
        writer.close()
        listening.close()
        await server.shutdown()

    asyncio.run(main())
    assert received == [packed]
