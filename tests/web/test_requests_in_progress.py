"""Requests beyond the limits of requests and bytes in progress, over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import cast

import pytest
from aiohttp import web

from exporter.web import response_limits
from exporter.web.request_handler import SLICE_BYTES, Route, text_response
from exporter.web.routes import RouteHandlers
from exporter.web.server import WebServer
from exporter.web.settings import WebSettings
from tests.waiting import until_async

PAGE = bytes(range(256)) * (4 * SLICE_BYTES // 256) + b"end"


class Handlers:
    """Routes: /slow responds when `finish` is set, /page with a new copy of PAGE."""

    lifecycle_enabled = False

    def __init__(self) -> None:
        self.finish = asyncio.Event()
        self.slow_requests = self.pages = 0

    def routes(self) -> dict[str, Route]:
        return {"/slow": Route(self.slow), "/page": Route(self.page)}

    async def slow(self, _: web.BaseRequest) -> web.Response:
        self.slow_requests += 1
        await self.finish.wait()
        return text_response(200, "slow")

    async def page(self, _: web.BaseRequest) -> web.Response:
        self.pages += 1
        return web.Response(body=bytes(bytearray(PAGE)), content_type="text/plain")


def serve(work: Callable[[Handlers, int, WebServer], Awaitable[None]], max_requests: int) -> None:
    async def main() -> None:
        handlers = Handlers()
        server = WebServer(cast(RouteHandlers, handlers))
        await server.start(WebSettings(("127.0.0.1:0",), max_requests=max_requests))
        try:
            ((_, port),) = server.addresses
            async with asyncio.timeout(20):
                await work(handlers, port, server)
        finally:
            handlers.finish.set()
            await server.close()

    asyncio.run(main())


async def get(port: int, path: str, method: str = "GET") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with closing(writer):
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return await reader.read()


def test_requests_beyond_max_requests_wait_and_then_get_503(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(response_limits, "MAX_WAIT", 0.1)

    async def work(handlers: Handlers, port: int, server: WebServer) -> None:
        slow = [asyncio.create_task(get(port, "/slow")) for _ in range(2)]
        await until_async(lambda: handlers.slow_requests == 2, "both in progress")
        reply = await get(port, "/page")
        assert reply.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in reply.lower()
        assert reply.endswith(b"too many requests in progress\n")
        assert dict(server.refusals.totals())["requests"] == 1
        monkeypatch.setattr(response_limits, "MAX_WAIT", 15)
        limiter = server._responses
        assert limiter is not None
        waiting = asyncio.create_task(get(port, "/page"))
        await until_async(lambda: len(limiter._waiting), "the request to wait")
        handlers.finish.set()
        assert (await waiting).endswith(PAGE), "a place became free in time"
        assert all(reply.endswith(b"slow\n") for reply in await asyncio.gather(*slow))

    serve(work, 2)


def test_a_page_of_several_slices_arrives_whole() -> None:
    async def work(_: Handlers, port: int, __: WebServer) -> None:
        head, body = (await get(port, "/page")).split(b"\r\n\r\n", 1)
        assert body == PAGE
        assert f"content-length: {len(PAGE)}".encode() in head.lower()
        reply = await get(port, "/page", "HEAD")
        assert sorted(reply.split(b"\r\n")) == sorted((*head.split(b"\r\n"), b"", b""))

    serve(work, 0)


def test_a_page_beyond_the_bytes_in_progress_gets_503_and_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(response_limits, "MAX_WAIT", 0.1)
    monkeypatch.setattr(response_limits, "STALLED_AFTER", 60)
    monkeypatch.setattr(response_limits, "MAX_BYTES_PER_CLIENT", len(PAGE))
    monkeypatch.setattr("exporter.web.connection.KERNEL_BUFFER_BYTES", 4096)

    async def work(handlers: Handlers, port: int, server: WebServer) -> None:
        limiter = server._responses
        assert limiter is not None
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        with closing(writer):
            writer.write(b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
            progress: list[object] = []
            unchanged = 0
            while unchanged < 10:  # turns of the loop: the kernel's buffers are full
                before = progress
                progress = [handlers.pages, *(each.progress for each in limiter._responses)]
                unchanged = unchanged + 1 if progress == before and limiter.bytes_held else 0
                await asyncio.sleep(0.02)
            pages = handlers.pages
            reply = await get(port, "/page")
            assert reply.endswith(b"too many bytes in progress\n")
            assert handlers.pages == pages + 1
            assert dict(server.refusals.totals())["response_bytes"] == 1
            assert limiter.bytes_held == len(PAGE)
        await until_async(lambda: not limiter.bytes_held, "the client's end")
        assert (await get(port, "/page")).endswith(PAGE)

    serve(work, 0)
