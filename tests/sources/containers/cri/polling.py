"""Polling of a CRI runtime in tests, and the samples of its page."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, ParamSpec

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from exporter.exposition.renderer import Renderer
from exporter.model import Reading
from exporter.settings import Duration, Paths
from exporter.sources.containers.engine.target import EngineTarget
from exporter.sources.containers.metrics import METRICS
from exporter.sources.containers.reading import Container
from exporter.sources.containers.resources_target import ResourcesTarget
from exporter.sources.containers.settings import Settings
from exporter.sources.containers.source import ContainersSource
from tests.fakes.cri import CriServer
from tests.sources.containers.polling import AMPLE

P = ParamSpec("P")
_NOTHING = Reading(())
Page = dict[tuple[str, frozenset[tuple[str, str]]], float]


def async_test(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Runs a coroutine as a test."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@dataclass(slots=True)
class PolledRuntime:
    """A source with its targets, and the last reading of each."""

    source: ContainersSource
    engine: EngineTarget
    resources: ResourcesTarget
    engine_reading: Reading = _NOTHING
    reading: Reading = _NOTHING

    async def poll(self) -> PolledRuntime:
        """Reads both targets. Raises SourceError."""
        self.engine_reading = await self.engine.read()
        self.reading = await self.resources.read()
        return self

    @contextlib.contextmanager
    def timeout(self, seconds: float) -> Iterator[None]:
        """Changes the setting `timeout` for a while, in which calls are to hang."""
        lister: Any = self.engine._lister
        settings = lister._settings
        lister._settings = msgspec.structs.replace(settings, timeout=Duration(seconds))
        try:
            yield
        finally:
            lister._settings = settings

    @property
    def containers(self) -> list[Container]:
        """The rows of the containers."""
        return [row for row in self.reading.rows if isinstance(row, Container)]

    @property
    def page(self) -> Page:
        """The samples of both readings by name and labels."""
        samples: Page = {}
        for reading in (self.engine_reading, self.reading):
            rendered = Renderer(METRICS).render(reading.rows)
            assert not rendered.problems, rendered.problems
            text = b"".join(rendered.lines.values()).decode()
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    samples[sample.name, frozenset(sample.labels.items())] = sample.value
        return samples

    def values(self, metric: str, **labels: str) -> dict[str, float]:
        """Returns the values of the series with these labels by their `name`."""
        wanted = set(labels.items())
        return {
            dict(found).get("name", ""): value
            for (name, found), value in self.page.items()
            if name == metric and wanted <= found
        }

    def labels(self, metric: str, name: str) -> dict[str, str]:
        """Returns the labels of the only series of a container."""
        (found,) = [
            dict(labels)
            for sample, labels in self.page
            if sample == metric and ("name", name) in labels
        ]
        return found

    @property
    def problems(self) -> str:
        """The problems of both readings as a text."""
        problems = (*self.engine_reading.problems, *self.reading.problems)
        return "\n".join(f"{problem.kind}: {problem}" for problem in problems)


def has_stream(runtime: PolledRuntime, server: CriServer) -> bool:
    """Returns whether the event stream is connected, and the server sends events from now on."""
    return runtime.engine.has_events and server.calls["GetContainerEvents"] > 0


@contextlib.asynccontextmanager
async def polled_runtime(
    endpoint: str, paths: Paths | None = None, deadline: float = AMPLE, **more: Any
) -> AsyncIterator[PolledRuntime]:
    """A source for the runtime at the endpoint; closed afterwards. more: settings."""
    settings = Settings(cri_endpoint=endpoint, timeout=Duration(deadline), **more)
    source = ContainersSource(settings, paths or Paths())
    try:
        engine, resources = await source.discover()
        assert isinstance(engine, EngineTarget)
        assert isinstance(resources, ResourcesTarget)
        yield PolledRuntime(source, engine, resources)
    finally:
        await source.close()
