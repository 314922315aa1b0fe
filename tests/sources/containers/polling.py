"""Polling of the containers source in tests, as the daemon's pollers do it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from exporter.errors import SourceError
from exporter.model import Reading, Target
from exporter.settings import Duration, Paths
from exporter.sources.containers.engine.target import EngineTarget
from exporter.sources.containers.reading import Container, ContainerUsage
from exporter.sources.containers.resources_target import ResourcesTarget
from exporter.sources.containers.settings import Settings
from exporter.sources.containers.source import ContainersSource
from tests.sources.containers.engine import TIMEOUT_FACTOR
from tests.waiting import until_result

# The setting `timeout` where no call is to hang: a busy machine is not a defect.
AMPLE = Duration(30 * TIMEOUT_FACTOR)


@dataclass(slots=True)
class PolledSource:
    """A source with its targets. note: of the last reading of `resources`."""

    source: ContainersSource
    engine: Target
    resources: Target
    note: str = ""

    @property
    def engine_target(self) -> EngineTarget:
        assert isinstance(self.engine, EngineTarget)
        return self.engine

    @property
    def has_events(self) -> bool:
        """Whether the event stream is connected."""
        return self.engine_target.has_events

    @property
    def usage_source(self) -> str:
        """`cgroup` or `stats`, by the note of the last reading; empty before the first."""
        if self.note.startswith("values from cgroup files below "):
            return "cgroup"
        return "stats" if self.note.startswith("values from the engine's stats calls; ") else ""

    async def poll(self) -> dict[str, ContainerRows]:
        """Reads the engine, then the containers: rows by name."""
        await self.engine.read()
        return await self.read_resources()

    async def read_resources(self) -> dict[str, ContainerRows]:
        """Reads the containers alone."""
        return by_name(await self.read_reading())

    async def read_reading(self) -> Reading:
        """As `read_resources`, with the whole reading."""
        reading = await self.resources.read()
        self.note = reading.note
        return reading

    async def until(
        self, condition: Callable[[dict[str, ContainerRows]], object], seconds: float = 30
    ) -> dict[str, ContainerRows]:
        """Reads the containers until the rows meet a condition. Raises AssertionError."""
        return await until_result(self.read_resources, condition, seconds * TIMEOUT_FACTOR)

    async def until_listed(
        self, condition: Callable[[dict[str, ContainerRows]], object], seconds: float = 30
    ) -> dict[str, ContainerRows]:
        """As `until`, reading the engine each time, too."""
        return await until_result(self.poll, condition, seconds * TIMEOUT_FACTOR)

    @contextlib.contextmanager
    def timeout(self, seconds: float) -> Iterator[None]:
        """Changes the setting `timeout` for a while, in which calls are to hang."""
        assert isinstance(self.resources, ResourcesTarget)
        lister: Any = self.engine_target._lister
        stats = self.resources._stats
        settings = lister._settings

        def change(changed: Settings) -> None:
            lister._settings = changed
            if stats is not None:
                stats._settings = changed
                stats.close_client()  # it has the timeout of its first call

        change(msgspec.structs.replace(settings, timeout=Duration(seconds)))
        try:
            yield
        finally:
            change(settings)

    async def until_engine_responds(self, seconds: float = 30) -> None:
        """Reads the engine until it responds. Raises AssertionError."""
        deadline = time.monotonic() + seconds * TIMEOUT_FACTOR
        while True:
            try:
                await self.engine.read()
            except SourceError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            else:
                return


@dataclass(frozen=True, slots=True)
class ContainerRows:
    """The rows of one container: its state, and its resource usage if it is running."""

    row: Container
    usage: ContainerUsage

    @property
    def memory_limit(self) -> int | None:
        return self.usage.spec.memory if self.usage.spec else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.row, name) if hasattr(self.row, name) else getattr(self.usage, name)


def by_name(reading: Reading) -> dict[str, ContainerRows]:
    rows = {row.labels[0]: row for row in reading.rows if isinstance(row, Container)}
    usages = {row.labels[0]: row for row in reading.rows if isinstance(row, ContainerUsage)}
    assert len(rows) + len(usages) == len(reading.rows)
    assert usages.keys() <= rows.keys()
    return {
        name: ContainerRows(row, usages.get(name, ContainerUsage(row.labels)))
        for name, row in rows.items()
    }


@contextlib.asynccontextmanager
async def polled(
    url: str, paths: Paths | None = None, deadline: float | None = None, **more: Any
) -> AsyncIterator[PolledSource]:
    """A source for the engine at the address; closed afterwards.

    deadline: the timeout setting in seconds, ample by default. more: settings.
    """
    timeout = AMPLE if deadline is None else Duration(deadline)
    source = ContainersSource(Settings(docker_host=url, timeout=timeout, **more), paths or Paths())
    try:
        engine, resources, *_ = await source.discover()
        yield PolledSource(source, engine, resources)
    finally:
        await source.close()
