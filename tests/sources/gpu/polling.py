"""Polling the GPU source as the daemon does: with deadlines, many targets at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from exporter.context import Context
from exporter.errors import DeadlineExceeded, SourceError
from exporter.model import Number, Reading, Row, Target
from exporter.settings import Duration, Paths
from exporter.sources.gpu.metrics import METRICS, UP
from exporter.sources.gpu.reading import GpuRow, MigRow
from exporter.sources.gpu.settings import Settings
from exporter.sources.gpu.source import GpuSource, build
from exporter.worker import HungWorkers
from tests.fakes.nvml.standin import Driver
from tests.waiting import until

# Seconds; short in tests of what hangs, long for a busy machine in all others.
DEADLINE = 10.0
SHORT = 1.0
Samples = dict[tuple[str, tuple[str, ...]], Number | str]


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("gpu-")]


def make(
    procfs: str = "/proc",
    sysfs: str = "/nowhere",
    hung_workers: HungWorkers | None = None,
    **settings: Any,
) -> GpuSource:
    paths = Paths(procfs=procfs, sysfs=sysfs)
    left = hung_workers or HungWorkers()
    context = Context(paths, lambda: (), lambda: 0, hung_workers=left)
    source = build(Settings(timeout=Duration(DEADLINE), **settings), context)
    assert isinstance(source, GpuSource)
    return source


@asynccontextmanager
async def opened(
    driver: Driver, procfs: str = "/proc", sysfs: str = "/nowhere", **settings: Any
) -> AsyncIterator[GpuSource]:
    """A source; afterwards whatever hangs in the driver is let go, and every thread must end."""
    source = make(procfs, sysfs, **settings)
    try:
        yield source
    finally:
        await source.close()
        driver.heal()
        # Not in the loop: a thread hands its result to the loop, which need not turn for that.
        until(lambda: not our_threads(), "the end of every thread")


async def discover(source: GpuSource) -> list[Target]:
    """Raises DeadlineExceeded as the poller would note it."""
    try:
        async with asyncio.timeout(DEADLINE):
            return list(await source.discover())
    except TimeoutError:
        raise DeadlineExceeded("no answer") from None


async def read(target: Target) -> Reading | SourceError:
    try:
        async with asyncio.timeout(DEADLINE):
            return await target.read()
    except TimeoutError:
        return DeadlineExceeded("no answer")
    except SourceError as error:
        return error


async def poll(source: GpuSource) -> dict[str, Reading | SourceError]:
    """Find the targets and read each once: outcomes by the target's name."""
    targets = await discover(source)
    outcomes = await asyncio.gather(*(read(target) for target in targets))
    return {target.name: outcome for target, outcome in zip(targets, outcomes, strict=True)}


def samples(outcome: Reading | SourceError) -> Samples:
    """What a reading shows of the GPU: {(metric, values of its own labels): value}; infos are 1."""
    assert isinstance(outcome, Reading), outcome
    (row,) = (row for row in outcome.rows if isinstance(row, GpuRow))
    return _shown(row)


def slices(outcome: Reading | SourceError) -> dict[tuple[str, ...], Samples]:
    """What a reading shows of the GPU's slices, by their labels."""
    assert isinstance(outcome, Reading), outcome
    return {row.labels: _shown(row) for row in outcome.rows if isinstance(row, MigRow)}


def _shown(row: Row) -> Samples:
    found: Samples = {}
    for metric in METRICS:
        if metric is UP or not isinstance(row, metric.row):
            continue
        value = metric.get(row)
        if metric.name.endswith("_info"):
            found[metric.name, value] = 1
        elif metric.labels:
            for labels, number in value:
                assert (metric.name, labels) not in found
                found[metric.name, labels] = number
        elif value is not None:
            found[metric.name, ()] = value
    return found
