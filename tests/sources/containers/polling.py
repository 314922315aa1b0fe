"""Polling the containers source in tests, as the daemon's pollers do it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from exporter.errors import SourceError
from exporter.model import Reading, Target
from exporter.settings import Duration, Paths
from exporter.sources.containers.reading import Container, ContainerUsage
from exporter.sources.containers.settings import Settings
from exporter.sources.containers.source import ContainersSource
from tests.sources.containers.engine import PATIENCE
from tests.waiting import until_result


@dataclass(frozen=True, slots=True)
class Polled:
    """A source with its targets."""

    source: ContainersSource
    engine: Target
    resources: Target

    @property
    def hears(self) -> bool:
        """Whether the stream of events is open."""
        engine = self.source._engine
        return engine is not None and engine.hears

    async def both(self) -> dict[str, Shown]:
        """Read the list, then the containers: rows by name."""
        await self.engine.read()
        return await self.rows()

    async def rows(self) -> dict[str, Shown]:
        """Read the containers alone."""
        return by_name(await self.resources.read())

    async def until(
        self, condition: Callable[[dict[str, Shown]], object], seconds: float = 10
    ) -> dict[str, Shown]:
        """Poll until the rows fulfil a condition; fail where they do not in time."""
        return await until_result(self.rows, condition, seconds * PATIENCE)

    async def until_listed(
        self, condition: Callable[[dict[str, Shown]], object], seconds: float = 10
    ) -> dict[str, Shown]:
        """As `until`, with the list read again each time."""
        return await until_result(self.both, condition, seconds * PATIENCE)

    async def engine_answers(self, seconds: float = 10) -> None:
        """Poll the engine until it answers; fail where it does not in time."""
        end = time.monotonic() + seconds * PATIENCE
        while True:
            try:
                await self.engine.read()
            except SourceError:
                assert time.monotonic() < end
                await asyncio.sleep(0.05)
            else:
                return


@dataclass(frozen=True, slots=True)
class Shown:
    """What a reading says of one container: its row, and what it uses if it runs."""

    row: Container
    usage: ContainerUsage

    @property
    def memory_limit(self) -> int | None:
        return self.usage.spec.memory if self.usage.spec else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.row, name) if hasattr(self.row, name) else getattr(self.usage, name)


def by_name(reading: Reading) -> dict[str, Shown]:
    rows = {row.labels[0]: row for row in reading.rows if isinstance(row, Container)}
    usages = {row.labels[0]: row for row in reading.rows if isinstance(row, ContainerUsage)}
    assert len(rows) + len(usages) == len(reading.rows)
    assert usages.keys() <= rows.keys()
    return {
        name: Shown(row, usages.get(name, ContainerUsage(row.labels))) for name, row in rows.items()
    }


@contextlib.asynccontextmanager
async def polled(
    url: str, paths: Paths | None = None, deadline: float | None = None, **more: Any
) -> AsyncIterator[Polled]:
    """A source for the engine at the address; closed afterwards.

    deadline: seconds; by default what is ample. more: settings.
    """
    settings = Settings(docker_host=url, timeout=Duration(deadline or 3 * PATIENCE), **more)
    source = ContainersSource(settings, paths or Paths())
    try:
        engine, resources, *_ = await source.discover()
        yield Polled(source, engine, resources)
    finally:
        await source.close()
