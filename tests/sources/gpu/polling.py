"""Polls the GPU source as the daemon does: with deadlines, all targets concurrently."""

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

# Seconds of a poll's deadline: SHORT in tests of hung calls, long for a busy machine in others.
DEADLINE = 10.0
SHORT = 1.0
Samples = dict[tuple[str, tuple[str, ...]], Number | str]


def gpu_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("gpu-")]


def make_source(
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
    """Yields a source; at the end, hung calls are released and every thread must end."""
    source = make_source(procfs, sysfs, **settings)
    try:
        yield source
    finally:
        await source.close()
        driver.heal()
        # Blocks the loop on purpose: a thread must end without the loop's help.
        until(lambda: not gpu_threads(), "the end of every thread")


async def discover(source: GpuSource) -> list[Target]:
    """Returns the targets; raises DeadlineExceeded as the poller records it."""
    try:
        async with asyncio.timeout(DEADLINE):
            return list(await source.discover())
    except TimeoutError:
        raise DeadlineExceeded("no response") from None


async def read(target: Target) -> Reading | SourceError:
    try:
        async with asyncio.timeout(DEADLINE):
            return await target.read()
    except TimeoutError:
        return DeadlineExceeded("no response")
    except SourceError as error:
        return error


async def poll(source: GpuSource) -> dict[str, Reading | SourceError]:
    """Discovers the targets and reads each once; returns outcomes by target name."""
    targets = await discover(source)
    outcomes = await asyncio.gather(*(read(target) for target in targets))
    return {target.name: outcome for target, outcome in zip(targets, outcomes, strict=True)}


def samples(outcome: Reading | SourceError) -> Samples:
    """Returns the GPU's samples: {(metric, values of its own labels): value}; infos are 1."""
    assert isinstance(outcome, Reading), outcome
    (row,) = (row for row in outcome.rows if isinstance(row, GpuRow))
    return _row_samples(row)


def mig_samples(outcome: Reading | SourceError) -> dict[tuple[str, ...], Samples]:
    """Returns the samples of the GPU's MIG devices, by their labels."""
    assert isinstance(outcome, Reading), outcome
    return {row.labels: _row_samples(row) for row in outcome.rows if isinstance(row, MigRow)}


def _row_samples(row: Row) -> Samples:
    result: Samples = {}
    for metric in METRICS:
        if metric is UP or not isinstance(row, metric.row):
            continue
        value = metric.get(row)
        if metric.name.endswith("_info"):
            result[metric.name, value] = 1
        elif metric.labels:
            for labels, number in value:
                assert (metric.name, labels) not in result
                result[metric.name, labels] = number
        elif value is not None:
            result[metric.name, ()] = value
    return result
