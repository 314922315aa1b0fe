"""A source that is begun anew while a GPU hangs: no more threads wait for it, nor more calls."""

from __future__ import annotations

import asyncio

import pytest

from exporter.errors import DeadlineExceeded, SourceError
from exporter.model import Reading
from exporter.sources.gpu.source import GpuSource
from exporter.worker import HungWorkers
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import Driver
from tests.sources.gpu import polling
from tests.sources.gpu.polling import make, our_threads, poll
from tests.waiting import until, until_async

RESTARTS = 3


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "DEADLINE", polling.SHORT)


async def attempt(source: GpuSource) -> dict[str, Reading | SourceError]:
    """A poll; empty where there is not even a list of GPUs."""
    try:
        return await poll(source)
    except DeadlineExceeded:
        return {}


def hung(name: str) -> int:
    return our_threads().count(name)


async def healed(driver: Driver, source: GpuSource) -> None:
    driver.heal()
    for _ in range(100):
        outcomes = await attempt(source)
        if list(outcomes) == [uuid(i) for i in range(8)] and all(
            isinstance(one, Reading) for one in outcomes.values()
        ):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("did not heal")


@pytest.mark.parametrize("function", ["nvmlDeviceGetPowerUsage", "nvmlDeviceGetHandleByIndex_v2"])
def test_one_thread_waits_for_a_gpu_that_hangs(driver: Driver, function: str) -> None:
    """And the GPU, if it was known, is down under its own name."""
    known = function == "nvmlDeviceGetPowerUsage"
    name = uuid(3) if known else "index 3"
    driver.gpu(3).delay(function, 60)

    async def main() -> None:
        left = HungWorkers()
        source = make(hung_workers=left)
        try:
            for _ in range(RESTARTS):
                outcomes = await attempt(source)
                assert isinstance(outcomes[name], DeadlineExceeded)
                assert isinstance(outcomes[uuid(4)], Reading)
                assert driver.gpu(3).count().in_flight == 1
                await source.close()
                # The others' threads end; one waits for the GPU that hangs.
                await until_async(lambda: not hung("gpu-4"), "the others to end")
                assert hung("gpu-3") == 1
                source = make(hung_workers=left)
            await healed(driver, source)
            assert driver.gpu(3).count(function).most_in_flight == 1
        finally:
            await source.close()
            driver.heal()
            until(lambda: not our_threads(), "the end of every thread")

    asyncio.run(main())


def test_one_thread_waits_for_a_driver_that_hangs(driver: Driver) -> None:
    async def main() -> None:
        left = HungWorkers()
        source = make(hung_workers=left)
        try:
            await poll(source)
            driver.system.delay("nvmlDeviceGetCount_v2", 60)
            for _ in range(RESTARTS):
                assert not await attempt(source)
                await source.close()
                source = make(hung_workers=left)
                assert hung("gpu-discovery") == 1
            assert driver.system.count("nvmlDeviceGetCount_v2").in_flight == 1
            await healed(driver, source)
        finally:
            await source.close()
            driver.heal()
            until(lambda: not our_threads(), "the end of every thread")

    asyncio.run(main())


@pytest.mark.usefixtures("driver")
def test_nothing_is_left_behind_where_nothing_hangs() -> None:
    async def main() -> None:
        left = HungWorkers()
        for _ in range(RESTARTS):
            source = make(hung_workers=left)
            outcomes = await poll(source)
            assert all(isinstance(one, Reading) for one in outcomes.values())
            await source.close()
        until(lambda: not our_threads(), "the end of every thread")

    asyncio.run(main())
