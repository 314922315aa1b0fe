"""The three servers that benchmarks.page compares; each runs in a separate process.

`python -m benchmarks.servers exporter|aiohttp|prometheus_client SAMPLES` prints its port, then
serves until it is killed. All serve the same families; `aiohttp` serves the bytes of `exporter`'s
page, which it reads from standard input.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, start_http_server

from benchmarks.samples import METRICS, synthetic_rows
from exporter.exposition.families import Format
from exporter.exposition.page import Pages
from exporter.exposition.renderer import Renderer
from exporter.model import Health, Reading, SourceStatus
from exporter.store import Store
from exporter.web.routes import RouteHandlers
from exporter.web.server import WebServer
from exporter.web.settings import WebSettings
from exporter.worker import Worker
from tests.exposition.oracle import client_families

INTERVAL = 5.0


async def serve_exporter(samples: int) -> None:
    """Serves with the exporter's store, pages and web server; publishes a reading every 5 s."""
    store = Store()
    store.set_source_status(SourceStatus("synthetic", "on", wanted=True, health=Health()))
    pages = Pages(store, {"synthetic": METRICS})
    store.on_publish = pages.refresh

    async def reload() -> None: ...

    handlers = RouteHandlers(pages, "/metrics", report=list, ready=lambda: True, reload=reload)
    handlers.first_polls_done.set()
    server = WebServer(handlers)
    await server.start(WebSettings(listen_address=("127.0.0.1:0",)))
    print(server.addresses[0][1], flush=True)
    renderer, worker = Renderer(METRICS), Worker("render", shared=True)
    readings = [Reading(synthetic_rows(samples, seed)) for seed in range(4)]
    turn = 0
    while True:
        reading = readings[turn % len(readings)]
        rendered = await worker.run(partial(renderer.render, reading.rows))
        store.publish("synthetic", "target", reading, rendered, expires=float("inf"))
        turn += 1
        await asyncio.sleep(INTERVAL)


async def serve_aiohttp(page: bytes) -> None:
    """Serves the page with a plain aiohttp handler."""

    async def handler(_: web.Request) -> web.Response:
        headers = {"Content-Type": Format.TEXT.value, "Content-Encoding": "gzip"}
        return web.Response(body=page, headers=headers)

    app = web.Application()
    app.router.add_get("/metrics", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


def serve_prometheus_client(samples: int) -> None:
    """Serves constant families with prometheus_client's own HTTP server."""
    families = list(client_families(METRICS, synthetic_rows(samples, 0)))

    class Registry:
        def collect(self) -> Iterator[Any]:
            return iter(families)

    registry = CollectorRegistry()
    registry.register(Registry())
    server, _ = start_http_server(0, "127.0.0.1", registry)
    print(server.server_address[1], flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    if sys.argv[1] == "exporter":
        asyncio.run(serve_exporter(int(sys.argv[2])))
    elif sys.argv[1] == "aiohttp":
        asyncio.run(serve_aiohttp(sys.stdin.buffer.read()))
    else:
        serve_prometheus_client(int(sys.argv[2]))
