"""Reads a real server through the model server source."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

from exporter.context import Context
from exporter.errors import NotYet
from exporter.model import Reading, Target
from exporter.model_server.metrics import METRICS
from exporter.model_server.settings import Settings
from exporter.model_server.source import ModelServerSource, build
from exporter.settings import Duration, Paths
from exporter.sources.gpu.reading import GpuIdentity, GpuProcess, GpuRow
from tests.model_server.servers.process import Process
from tests.sources.samples import declared_values

T = TypeVar("T")
Page = dict[str, dict[tuple[str, ...], Any]]
"""Values by metric name and label values; a histogram is one value."""
AMPLE = Duration(30)
"""A timeout that a busy machine does not reach."""
NO_CONTEXT = Context(Paths(), tuple, lambda: 0)


@contextlib.asynccontextmanager
async def source(
    settings: Settings, context: Context = NO_CONTEXT
) -> AsyncIterator[ModelServerSource]:
    """Yields a source and closes it."""
    servers = build(settings, context)
    try:
        yield servers
    finally:
        await servers.close()


def with_target(process: Process, scenario: Callable[[Target], Awaitable[T]]) -> T:
    """Returns the result of a scenario with the target of a source for this server's page."""

    async def run() -> T:
        settings = Settings(
            url=(f"here={process.metrics_address}",),
            api_url=(process.address,),
            timeout=AMPLE,
            triton=False,
        )
        async with source(settings) as servers:
            (target,) = await servers.discover()
            return await scenario(target)

    return asyncio.run(run())


def discovered(pids: Iterable[int], ports: tuple[int, ...]) -> tuple[list[str], Page]:
    """Returns the targets found by processes that NVML would list, and the page of the first."""
    processes = tuple(map(GpuProcess, pids))
    gpu = Reading((GpuRow(("0", "GPU-0"), GpuIdentity(), {}, {}, processes),))
    readings = {"gpu": {"0": gpu}}
    context = Context(Paths(), tuple, lambda: 0, lambda name: readings.get(name, {}))
    settings = Settings(ports=ports, timeout=AMPLE, triton=False)

    async def scenario() -> tuple[list[str], Page]:
        async with source(settings, context) as servers:
            with contextlib.suppress(NotYet):  # each sends one request: KServe's is the second
                await servers.discover()
            targets = await servers.discover()
            return [target.name for target in targets], await read(targets[0])

    return asyncio.run(scenario())


async def read(target: Target) -> Page:
    """Reads the target; fails if it reports a problem."""
    reading = await target.read()
    assert not reading.problems
    page: Page = {}
    for metric, labels, value in declared_values(METRICS, reading):
        series = page.setdefault(metric.name, {})
        assert labels not in series, f"duplicate series {metric.name}{labels}"
        if value is not None:
            series[labels] = value
    return page


def requests(page: Page) -> dict[tuple[str, str], float]:
    """Returns model_server_requests_total by model and outcome."""
    series = page.get("model_server_requests_total", {})
    return {(model, outcome): count for (_, _, model, outcome), count in series.items()}
