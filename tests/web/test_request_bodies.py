"""Connections with request bodies: nothing is unpacked, and pipelined bodies wait in the kernel.

The server's own handler refuses bodies by their headers; this is about the connection below it.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import zlib

import pytest
from aiohttp import web

from exporter.web.connection import Connection
from exporter.web.connection_limits import ClientLimits, ConnectionLimiter
from exporter.web.refusals import Refusals
from exporter.web.upload_connection import UploadConnection
from tests.waiting import until_async

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


def test_pipelined_bodies_wait_in_the_kernel_for_the_response() -> None:
    bodies, respond = 0, asyncio.Event()
    connections: list[UploadConnection] = []

    async def handle(request: web.BaseRequest) -> web.Response:
        nonlocal bodies
        connection = request.protocol
        assert isinstance(connection, UploadConnection)
        connection.mark_busy()
        bodies += len(await request.read()) == 1000
        await respond.wait()
        connection.mark_idle(closing=False)
        return web.Response()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        limits = ClientLimits(connections=9, header=30, idle=30, reply=30)
        limiter, server = ConnectionLimiter(loop, limits, Refusals()), web.Server(handle)

        def connection() -> UploadConnection:
            connections.append(UploadConnection(server, "", limiter, lambda _: True))
            return connections[-1]

        listening = await loop.create_server(connection, "127.0.0.1", 0)
        post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + b"a" * 1000
        with socket.create_connection(listening.sockets[0].getsockname()) as sender:
            sender.setblocking(False)
            sending = asyncio.create_task(loop.sock_sendall(sender, post * 20_000))
            await until_async(lambda: connections, "the connection")
            transport = connections[0].transport
            assert transport is not None
            await until_async(lambda: bodies and not transport.is_reading(), "the pause")
            assert not sending.done()
            assert bodies == 1
            respond.set()
            await until_async(lambda: bodies > 500, "more than one read from the socket")
            sending.cancel()
        listening.close()
        await server.shutdown()

    asyncio.run(main())
