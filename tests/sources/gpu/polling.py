"""Polls the GPU source as the daemon does: with deadlines, all targets concurrently."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from exporter.context import Context
from exporter.errors import DeadlineExceeded, SourceError
from exporter.model import Metric, Number, Reading, Row, Target
from exporter.settings import Duration, Paths
from exporter.sources.gpu.device import GpuTarget
from exporter.sources.gpu.events_target import EventsTarget
from exporter.sources.gpu.metrics import METRICS, UP
from exporter.sources.gpu.reading import GpuEventsRow, GpuRow, MigRow
from exporter.sources.gpu.settings import Settings
from exporter.sources.gpu.source import GpuSource, build
from exporter.worker import HungWorkers
from tests.fakes.nvml import standin
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import Driver
from tests.waiting import until

# Seconds of a poll's deadline, long for a busy machine. In tests of hung calls it is over as soon
# as a call hangs: those set `hung_driver`, the control file of the stand-in.
DEADLINE = 10.0
hung_driver: Path | None = None
# The functions that a discovery calls.
_DISCOVERY = ("nvmlInitWithFlags", "nvmlDeviceGetCount_v2")
Samples = dict[tuple[str, tuple[str, ...]], Number | str]


def gpu_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("gpu-")]


def make_source(
    procfs: str = "/proc",
    sysfs: str = "/nowhere",
    hung_workers: HungWorkers | None = None,
    **settings: Any,
) -> GpuSource:
    settings.setdefault("kernel_log", "off")  # that of this machine
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
    """Returns the GPUs; raises DeadlineExceeded as the poller records it."""
    try:
        async with _deadline(standin.SYSTEM, _DISCOVERY):
            targets = await source.discover()
    except TimeoutError:
        raise DeadlineExceeded("no response") from None
    return [target for target in targets if not isinstance(target, EventsTarget)]


@asynccontextmanager
async def _deadline(gpu: int, functions: Sequence[str] = ()) -> AsyncIterator[None]:
    """Raises TimeoutError after DEADLINE seconds, or once a call of the GPU or of SYSTEM hangs.

    gpu: the stand-in's number. functions: those of SYSTEM that may hang.
    """
    async with asyncio.timeout(DEADLINE) as deadline:
        if (file := hung_driver) is None or (gpu == standin.SYSTEM and not functions):
            yield
            return

        async def watch() -> None:
            while not standin.hangs(file, gpu, functions):  # noqa: ASYNC110 - no event in C
                await asyncio.sleep(0.01)
            deadline.reschedule(asyncio.get_running_loop().time())

        watching = asyncio.create_task(watch())
        try:
            yield
        finally:
            watching.cancel()


async def read_events(source: GpuSource) -> Reading:
    """Reads the events of all GPUs, without a discovery."""
    outcome = await read(source._events_target)
    assert isinstance(outcome, Reading), outcome
    return outcome


async def read(target: Target) -> Reading | SourceError:
    try:
        async with _deadline(target.index if isinstance(target, GpuTarget) else standin.SYSTEM):
            return await target.read()
    except TimeoutError:
        return DeadlineExceeded("no response")
    except SourceError as error:
        return error


async def poll(source: GpuSource) -> dict[str, Reading | SourceError]:
    """Discovers the GPUs and reads each and its events once; returns outcomes by target name."""
    targets = await discover(source)
    outcomes = await asyncio.gather(*(read(target) for target in targets))
    return await with_events(source, targets, outcomes)


async def poll_some(
    source: GpuSource, numbers: Collection[int]
) -> dict[str, Reading | SourceError]:
    """Polls the GPUs with these numbers as `poll`, but one after the other, the first one last.

    Threads that read at the same time wait for Python's lock after each call of the driver, which
    takes twice the CPU time.
    """
    names = {uuid(number) for number in numbers}
    targets = [target for target in reversed(await discover(source)) if target.name in names]
    assert len(targets) == len(names), targets
    return await with_events(source, targets, [await read(target) for target in targets])


async def with_events(
    source: GpuSource, targets: Sequence[Target], outcomes: Sequence[Reading | SourceError]
) -> dict[str, Reading | SourceError]:
    """Reads the events and adds each GPU's row to its reading; returns outcomes by target name."""
    events = {row.labels: row for row in (await read_events(source)).rows}
    result: dict[str, Reading | SourceError] = {}
    for target, outcome in zip(targets, outcomes, strict=True):
        row = events.get(target.up_labels)
        if isinstance(outcome, Reading) and row is not None:
            outcome = replace(outcome, rows=(*outcome.rows, row))  # noqa: PLW2901 - with its events
        result[target.name] = outcome
    return result


def samples(outcome: Reading | SourceError) -> Samples:
    """Returns the samples of the GPU and its events, as row_samples."""
    assert isinstance(outcome, Reading), outcome
    (row,) = (row for row in outcome.rows if isinstance(row, GpuRow))
    result = row_samples(row)
    for events in (row for row in outcome.rows if isinstance(row, GpuEventsRow)):
        result |= row_samples(events)
    return result


def mig_samples(outcome: Reading | SourceError) -> dict[tuple[str, ...], Samples]:
    """Returns the samples of the GPU's MIG devices, by their labels."""
    assert isinstance(outcome, Reading), outcome
    return {row.labels: row_samples(row) for row in outcome.rows if isinstance(row, MigRow)}


@functools.cache
def _metrics_of(row: type[Row]) -> tuple[Metric[Any], ...]:
    return tuple(metric for metric in METRICS if metric is not UP and issubclass(row, metric.row))


def row_samples(row: Row) -> Samples:
    """Returns a row's samples: {(metric, values of its own labels): value}; infos are 1."""
    result: Samples = {}
    for metric in _metrics_of(type(row)):
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
