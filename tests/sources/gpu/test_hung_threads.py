"""Restarts of the source while a GPU hangs: neither threads nor calls pile up."""

from __future__ import annotations

import asyncio

import pytest

from exporter.errors import DeadlineExceeded, SourceError
from exporter.model import Reading
from exporter.sources.gpu.source import GpuSource
from exporter.worker import HungWorkers
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import Driver
from tests.sources.gpu.polling import gpu_threads, make_source, poll
from tests.waiting import until, until_async, until_result

RESTARTS = 3


@pytest.fixture
def gpus() -> int:
    return 8


pytestmark = pytest.mark.usefixtures("hung_calls_end")


async def try_poll(source: GpuSource) -> dict[str, Reading | SourceError]:
    """Polls; returns an empty dict if discovery fails."""
    try:
        return await poll(source)
    except DeadlineExceeded:
        return {}


def thread_count(name: str) -> int:
    return gpu_threads().count(name)


async def recovered(driver: Driver, source: GpuSource) -> None:
    driver.heal()
    await until_result(
        lambda: try_poll(source),
        lambda outcomes: (
            list(outcomes) == [uuid(i) for i in range(8)]
            and all(isinstance(outcome, Reading) for outcome in outcomes.values())
        ),
    )


@pytest.mark.parametrize("function", ["nvmlDeviceGetPowerUsage", "nvmlDeviceGetHandleByIndex_v2"])
def test_one_thread_waits_for_a_hung_gpu(driver: Driver, function: str) -> None:
    """If the GPU's UUID was known, it is down under its UUID."""
    known = function == "nvmlDeviceGetPowerUsage"
    name = uuid(3) if known else "index 3"
    driver.gpu(3).delay(function, 60)

    async def main() -> None:
        left = HungWorkers()
        source = make_source(hung_workers=left)
        try:
            for _ in range(RESTARTS):
                # The wait for its UUID may end before the call.
                outcomes = await until_result(
                    lambda source=source: try_poll(source),  # type: ignore[misc]  # a default binds
                    lambda _: driver.gpu(3).count().in_flight,
                )
                assert isinstance(outcomes[name], DeadlineExceeded)
                assert isinstance(outcomes[uuid(4)], Reading)
                assert driver.gpu(3).count().in_flight == 1
                await source.close()
                # The other threads end; one waits for the hung GPU.
                await until_async(lambda: not thread_count("gpu-4"), "the others to end")
                assert thread_count("gpu-3") == 1
                source = make_source(hung_workers=left)
            await recovered(driver, source)
            assert driver.gpu(3).count(function).max_in_flight == 1
        finally:
            await source.close()
            driver.heal()
            until(lambda: not gpu_threads(), "the end of every thread")

    asyncio.run(main())


@pytest.mark.usefixtures("counted_each_time")
def test_one_thread_waits_for_a_hung_driver(driver: Driver) -> None:
    async def main() -> None:
        left = HungWorkers()
        source = make_source(hung_workers=left)
        try:
            await poll(source)
            driver.system.delay("nvmlDeviceGetCount_v2", 60)
            for _ in range(RESTARTS):
                assert not await try_poll(source)
                await source.close()
                source = make_source(hung_workers=left)
                assert thread_count("gpu-discovery") == 1
            assert driver.system.count("nvmlDeviceGetCount_v2").in_flight == 1
            await recovered(driver, source)
        finally:
            await source.close()
            driver.heal()
            until(lambda: not gpu_threads(), "the end of every thread")

    asyncio.run(main())


@pytest.mark.usefixtures("driver")
def test_no_thread_is_left_without_a_hung_call() -> None:
    async def main() -> None:
        left = HungWorkers()
        for _ in range(RESTARTS):
            source = make_source(hung_workers=left)
            outcomes = await poll(source)
            assert all(isinstance(outcome, Reading) for outcome in outcomes.values())
            await source.close()
        until(lambda: not gpu_threads(), "the end of every thread")

    asyncio.run(main())
