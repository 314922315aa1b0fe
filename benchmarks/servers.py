"""The three servers that are compared; each is started as a process of its own.

`python -m benchmarks.servers ours|bare|client SAMPLES` prints its port, then serves until it is
ended. All serve the same families; `bare` the very bytes that `ours` serves, which it reads from
standard input.
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

from benchmarks.samples import METRICS, reading
from exporter.config import Web
from exporter.exposition.families import Format
from exporter.exposition.page import Pages
from exporter.exposition.renderer import Renderer
from exporter.model import Health, Reading, SourceStatus
from exporter.store import Store
from exporter.web.routes import RouteHandlers
from exporter.web.server import WebServer
from exporter.worker import Worker
from tests.exposition.collector import families

INTERVAL = 5.0


async def ours(samples: int) -> None:
    """Our store, pages and web server; a new reading is published every five seconds."""
    store = Store()
    store.set_source_status(SourceStatus("made", "on", wanted=True, health=Health()))
    pages = Pages(store, {"made": METRICS})
    store.on_publish = pages.refresh

    async def reload() -> None: ...

    site = RouteHandlers(pages, "/metrics", report=list, ready=lambda: True, reload=reload)
    site.begun.set()
    front = WebServer(site)
    await front.start(Web(listen_address=("127.0.0.1:0",)))
    print(front.addresses[0][1], flush=True)
    renderer, worker = Renderer(METRICS), Worker("render", shared=True)
    readings = [Reading(reading(samples, seed)) for seed in range(4)]
    turn = 0
    while True:
        now = readings[turn % len(readings)]
        rendered = await worker.run(partial(renderer.render, now.rows))
        store.publish("made", "one", now, rendered, expires=float("inf"))
        turn += 1
        await asyncio.sleep(INTERVAL)


async def bare(page: bytes) -> None:
    """A bare aiohttp handler."""

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


def client(samples: int) -> None:
    """prometheus_client's own exposition of families that are ready made."""
    made = list(families(METRICS, reading(samples, 0)))

    class Registry:
        def collect(self) -> Iterator[Any]:
            return iter(made)

    registry = CollectorRegistry()
    registry.register(Registry())
    server, _ = start_http_server(0, "127.0.0.1", registry)
    print(server.server_address[1], flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    if sys.argv[1] == "ours":
        asyncio.run(ours(int(sys.argv[2])))
    elif sys.argv[1] == "bare":
        asyncio.run(bare(sys.stdin.buffer.read()))
    else:
        client(int(sys.argv[2]))
