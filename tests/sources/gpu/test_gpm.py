"""GPM: two samples for each GPU and GPU instance, kept and freed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from exporter.model import Reading
from tests.fakes.nvml import standin
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import Driver
from tests.sources.gpu.polling import opened, poll, samples
from tests.waiting import until_async

BUSY = ("gpu_sm_active_ratio", ())


@pytest.fixture
def gpus() -> int:
    return 8


def test_a_value_covers_the_time_between_two_polls(
    driver: Driver, advance: Callable[[float], None]
) -> None:
    async def main() -> None:
        async with opened(driver) as source:
            assert BUSY not in samples((await poll(source))[uuid(0)])
            for percent in (12.5, 80.0):
                driver.gpu(0).set("nvmlGpmMetricsGet", **{"2": percent})
                advance(5)
                assert samples((await poll(source))[uuid(0)])[BUSY] == percent / 100
            assert driver.system.count("nvmlGpmSampleAlloc").calls == 16  # two for each GPU
            assert driver.gpu(0).count("nvmlGpmSampleGet").calls == 3
            # Too early after the last sample: the driver requires 100 ms between two.
            assert samples((await poll(source))[uuid(0)])[BUSY] == 0.8
            assert driver.gpu(0).count("nvmlGpmSampleGet").calls == 3

    asyncio.run(main())


@pytest.mark.parametrize("value", ["nan", "inf", "-3", "250"])
def test_invalid_values_are_left_out(
    driver: Driver, advance: Callable[[float], None], value: str
) -> None:
    driver.gpu(0).set("nvmlGpmMetricsGet", **{"2": value})

    async def main() -> None:
        async with opened(driver) as source:
            await poll(source)
            advance(5)
            shown = samples((await poll(source))[uuid(0)])
            assert BUSY not in shown
            assert shown["gpu_sm_occupancy_ratio", ()] == 0.425

    asyncio.run(main())


def test_an_id_that_is_not_documented_needs_a_value(
    driver: Driver, advance: Callable[[float], None]
) -> None:
    """A card returns success and 0 for ids that it does not know. Here its architecture is unknown.

    Once an id had another value, its 0 is one, too.
    """
    gpu = driver.gpu(0)
    gpu.unset("nvmlDeviceGetCudaComputeCapability")

    async def main() -> None:
        async with opened(driver) as source:
            await poll(source)
            for percent, exported in ((0.0, None), (40.0, 0.4), (0.0, 0.0)):
                gpu.set("nvmlGpmMetricsGet", **{"2": percent})
                advance(5)
                assert samples((await poll(source))[uuid(0)]).get(BUSY) == exported

    asyncio.run(main())


def test_a_card_without_gpm_is_queried_once(
    driver: Driver, advance: Callable[[float], None]
) -> None:
    driver.gpu(0).set("nvmlGpmQueryDeviceSupport", isSupportedDevice=0)
    driver.gpu(1).unset("nvmlGpmQueryDeviceSupport")
    driver.gpu(2).fail("nvmlGpmSampleGet", standin.NOT_SUPPORTED)

    async def main() -> None:
        async with opened(driver) as source:
            for _ in range(4):
                outcomes = await poll(source)
                advance(5)
            for index in range(3):
                outcome = outcomes[uuid(index)]
                assert isinstance(outcome, Reading)
                assert not outcome.problems
                assert BUSY not in samples(outcome)
            assert BUSY in samples(outcomes[uuid(3)])
            assert driver.gpu(0).count("nvmlGpmQueryDeviceSupport").calls == 1
            assert driver.gpu(1).count("nvmlGpmQueryDeviceSupport").calls == 1
            assert driver.gpu(0).count("nvmlGpmSampleGet").calls == 0
            assert driver.gpu(2).count("nvmlGpmSampleGet").calls == 1

    asyncio.run(main())


def test_samples_are_freed_before_the_shutdown(driver: Driver) -> None:
    """The fixture asserts that no sample is left at nvmlShutdown."""

    async def main() -> None:
        async with opened(driver) as source:
            await poll(source)
            await source.close()
            await until_async(lambda: driver.system.count("nvmlShutdown").calls == 1, "shutdown")
            assert driver.system.count("nvmlGpmSampleFree").calls == 16

    asyncio.run(main())


def test_samples_are_freed_when_a_gpu_fails_and_returns(driver: Driver) -> None:
    async def main() -> None:
        async with opened(driver) as source:
            for _ in range(3):
                await poll(source)
                driver.gpu(0).lose()
                await poll(source)
                driver.gpu(0).come_back()
            await poll(source)
            allocated = driver.system.count("nvmlGpmSampleAlloc").calls
            assert allocated > 16
            assert allocated - driver.system.count("nvmlGpmSampleFree").calls == 16

    asyncio.run(main())


def test_the_first_sample_is_freed_if_allocating_the_second_fails(
    driver: Driver, advance: Callable[[float], None]
) -> None:
    driver.set_order(0)
    driver.system.set("nvmlGpmSampleAlloc", max_samples=1)

    async def main() -> None:
        async with opened(driver) as source:
            for polls in range(1, 4):
                outcome = (await poll(source))[uuid(0)]
                assert isinstance(outcome, Reading)
                assert "not enough memory" in outcome.problems[0].message
                assert BUSY not in samples(outcome)
                assert ("gpu_power_watts", ()) in samples(outcome)
                assert driver.system.count("nvmlGpmSampleAlloc").calls == 2 * polls
                assert driver.system.count("nvmlGpmSampleFree").calls == polls
            driver.system.set("nvmlGpmSampleAlloc", max_samples=2)
            await poll(source)
            advance(5)
            assert BUSY in samples((await poll(source))[uuid(0)])

    asyncio.run(main())


def test_pcie_throughput_is_measured_only_if_enabled(driver: Driver) -> None:
    driver.every_gpu.set("nvmlDeviceGetPcieThroughput", **{"0": 1000, "1": 2000})
    for index in range(8):
        driver.gpu(index).unset("nvmlGpmQueryDeviceSupport")
    sent, received = (
        f"gpu_pcie_{direction}_bytes_per_second" for direction in ("transmit", "receive")
    )

    async def main() -> None:
        async with opened(driver) as source:
            assert (sent, ()) not in samples((await poll(source))[uuid(0)])
            assert driver.gpu(0).count("nvmlDeviceGetPcieThroughput").calls == 0
        async with opened(driver, pcie_throughput=True) as source:
            shown = samples((await poll(source))[uuid(0)])
            assert (shown[sent, ()], shown[received, ()]) == (1_024_000, 2_048_000)

    driver.load()
    asyncio.run(main())
