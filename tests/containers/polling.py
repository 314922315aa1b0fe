"""Polling the containers source in tests, as the daemon's pollers do it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from exporter.errors import SourceError
from exporter.model import Reading, Target
from exporter.settings import Duration, Paths
from exporter.sources.containers.reading import Container
from exporter.sources.containers.settings import Settings
from exporter.sources.containers.source import ContainersSource


@dataclass(frozen=True, slots=True)
class Polled:
    """A source with its targets."""

    source: ContainersSource
    engine: Target
    resources: Target

    async def both(self) -> dict[str, Container]:
        """Read the list, then the containers: rows by name."""
        await self.engine.read()
        return await self.rows()

    async def rows(self) -> dict[str, Container]:
        """Read the containers alone."""
        return by_name(await self.resources.read())

    async def until(
        self, condition: Callable[[dict[str, Container]], object], seconds: float = 10
    ) -> dict[str, Container]:
        """Poll until the rows fulfil a condition; fail where they do not in time."""
        end = time.monotonic() + seconds
        while not condition(rows := await self.rows()):
            assert time.monotonic() < end, f"not within {seconds} s: {rows}"
            await asyncio.sleep(0.05)
        return rows

    async def engine_answers(self, seconds: float = 10) -> None:
        """Poll the engine until it answers; fail where it does not in time."""
        end = time.monotonic() + seconds
        while True:
            try:
                await self.engine.read()
            except SourceError:
                assert time.monotonic() < end
                await asyncio.sleep(0.05)
            else:
                return


def by_name(reading: Reading) -> dict[str, Container]:
    rows = [row for row in reading.rows if isinstance(row, Container)]
    found = {row.labels[0]: row for row in rows}
    assert len(found) == len(rows) == len(reading.rows)
    return found


@contextlib.asynccontextmanager
async def polled(
    url: str, paths: Paths | None = None, deadline: float = 3.0
) -> AsyncIterator[Polled]:
    """A source for the engine at the address; closed afterwards."""
    settings = Settings(docker_host=url, timeout=Duration(deadline))
    source = ContainersSource(settings, paths or Paths())
    try:
        engine, resources = await source.discover()
        yield Polled(source, engine, resources)
    finally:
        await source.close()
