"""Reads a real server through the source until it counts as stalled, or not any more."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from exporter.errors import SourceError
from exporter.model_server.metrics import METRICS
from exporter.model_server.settings import Settings
from exporter.model_server.source import ModelServerSource
from exporter.model_server.target import ModelServerTarget
from exporter.settings import Duration
from tests.model_server.servers.reading import source
from tests.sources.samples import declared_values
from tests.waiting import until_result

# More than a busy machine keeps a server that works from its CPU.
STALL_SECONDS = 3.0
# Between two polls: a server without a GPU that does nothing but answer polls uses CPU time, too.
PACE = 0.25
STALLED = "model_server_stalled"
RUNNING = "model_server_requests_running"


@dataclass(eq=False)
class StallWatch:
    """running: requests on the last page that arrived."""

    servers: ModelServerSource
    running: float = 0

    async def reason(self) -> str | None:
        """Reads page, health and processes once; returns the reason, None without the series."""
        for target in await self.servers.discover():
            if isinstance(target, ModelServerTarget):
                with contextlib.suppress(SourceError):
                    page: dict[str, list[Any]] = {}
                    for metric, _, value in declared_values(METRICS, await target.read()):
                        page.setdefault(metric.name, []).append(value)
                    self.running = sum(page[RUNNING])
        *_, watch = await self.servers.discover()
        values = declared_values(METRICS, await watch.read())
        reasons = {labels[2]: value for metric, labels, value in values if metric.name == STALLED}
        assert sum(reasons.values()) <= 1
        return next((name for name, value in reasons.items() if value), "" if reasons else None)

    async def becomes(self, *reasons: str | None, seconds: float = 60) -> None:
        async def paced() -> str | None:
            await asyncio.sleep(PACE)
            return await self.reason()

        await until_result(paced, lambda found: found in reasons, seconds=seconds)

    async def until_running(self, requests: int = 1) -> None:
        async def running() -> float:
            assert not await self.reason()
            return self.running

        await until_result(running, lambda found: found >= requests, seconds=60)

    async def stays_well(self, seconds: float) -> int:
        """Fails if the server counts as stalled within some seconds; returns the reads."""
        reads, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            assert await self.reason() == ""
            reads += 1
            await asyncio.sleep(PACE)
        return reads


@contextlib.asynccontextmanager
async def watching(address: str) -> AsyncIterator[StallWatch]:
    """Yields a watch of the server with the page at this address."""
    settings = Settings(
        url=(f"here={address}",),
        discover="off",
        triton=False,
        timeout=Duration(3),
        stall_after=Duration(STALL_SECONDS),
    )
    async with source(settings) as servers:
        yield StallWatch(servers)
