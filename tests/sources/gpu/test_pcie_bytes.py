"""PCIe and NVLink bytes: integrals of GPM's rates, and 32-bit counters of slow links."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.nvml import cards, standin
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import Driver
from tests.sources.gpu.polling import Samples, opened, poll, samples

Advance = Callable[[float], None]

MIB = 1 << 20
SENT = ("gpu_pcie_transmit_bytes_total", ())
RECEIVED = ("gpu_pcie_receive_bytes_total", ())


def test_the_counters_are_the_integral_of_gpms_rates(driver: Driver, advance: Advance) -> None:
    """Above 4 GiB and at any interval; the 32-bit fields are not read."""

    def set_rates(sent: float, received: float) -> None:
        driver.gpu(0).set("nvmlGpmMetricsGet", **{"20": sent, "21": received})

    async def main() -> None:
        async with opened(driver) as source:
            shown = samples((await poll(source))[uuid(0)])
            assert (shown[SENT], shown[RECEIVED]) == (0, 0)
            expected = [0.0, 0.0]
            for seconds, sent, received in ((5, 100, 200), (60, 20_000.5, 0), (0.5, 0, 3)):
                set_rates(sent, received)
                advance(seconds)
                expected = [expected[0] + sent * seconds, expected[1] + received * seconds]
                shown = samples((await poll(source))[uuid(0)])
                assert [shown[SENT] / MIB, shown[RECEIVED] / MIB] == expected  # type: ignore[operator]  # numbers
            # Too early for another sample: nothing is counted twice.
            advance(0.01)
            again = samples((await poll(source))[uuid(0)])
            assert (again[SENT], again[RECEIVED]) == (shown[SENT], shown[RECEIVED])

    asyncio.run(main())


def test_nothing_is_counted_while_a_gpu_is_away(driver: Driver, advance: Advance) -> None:
    async def main() -> None:
        async with opened(driver) as source:
            await poll(source)
            advance(10)
            assert samples((await poll(source))[uuid(0)])[SENT] == 10 * 1536 * MIB
            driver.gpu(0).lose()
            await poll(source)
            advance(3600)
            driver.gpu(0).come_back()
            assert samples((await poll(source))[uuid(0)])[SENT] == 10 * 1536 * MIB
            advance(2)
            assert samples((await poll(source))[uuid(0)])[SENT] == 12 * 1536 * MIB

    asyncio.run(main())


def test_a_failed_sample_leaves_no_gap(driver: Driver, advance: Advance) -> None:
    """No counter at that poll; the next sample covers the time of both."""

    async def main() -> None:
        async with opened(driver) as source:
            await poll(source)
            advance(5)
            driver.gpu(0).fail("nvmlGpmSampleGet", standin.UNKNOWN)
            assert SENT not in samples((await poll(source))[uuid(0)])
            driver.gpu(0).heal()
            advance(5)
            assert samples((await poll(source))[uuid(0)])[SENT] == 10 * 1536 * MIB

    asyncio.run(main())


# -- NVLink --

LINK_RATE = ("gpu_nvlink_transmit_bytes_per_second", ())
LINK_BYTES = ("gpu_nvlink_transmit_bytes_total", ())


async def second_poll(driver: Driver, advance: Advance) -> Samples:
    async with opened(driver) as source:
        await poll(source)
        advance(10)
        return samples((await poll(source))[uuid(0)])


@pytest.mark.parametrize("state", [0, 1, 2])
def test_nvlink_rates_need_an_active_link(driver: Driver, advance: Advance, state: int) -> None:
    """GPM returns success and 0 for links that do not exist. A link may sleep (2)."""
    with driver.batch():
        for link in range(18):
            driver.gpu(0).set_field(165, 0 if link else state, kind=1, scope=link)
    shown = asyncio.run(second_poll(driver, advance))
    assert (LINK_RATE in shown) is (state != 0)
    assert ("gpu_nvlink_receive_bytes_per_second", ()) in shown or state == 0
    # The fields' own counter, which does not depend on GPM.
    assert shown[LINK_BYTES] == 138_000 * 1024


def test_without_link_states_a_rate_is_exported_once_it_is_not_0(
    driver: Driver, advance: Advance
) -> None:
    for link in range(18):
        driver.gpu(0).fail("nvmlDeviceGetFieldValues", standin.NOT_SUPPORTED, key=f"165.{link}")
    driver.gpu(0).set("nvmlGpmMetricsGet", **{"61": 0})

    async def main() -> None:
        async with opened(driver) as source:
            for rate, exported in ((0, None), (1, MIB), (0, 0)):
                driver.gpu(0).set("nvmlGpmMetricsGet", **{"61": rate})
                await poll(source)
                advance(5)
                assert samples((await poll(source))[uuid(0)]).get(LINK_RATE) == exported

    asyncio.run(main())


def test_nvlink_bytes_of_a_card_that_only_has_rates(driver: Driver, advance: Advance) -> None:
    for number in (138, 139):
        name = f"{number}.{0xFFFFFFFF}.return"
        driver.gpu(0).set("nvmlDeviceGetFieldValues", **{name: standin.NOT_SUPPORTED})
    shown = asyncio.run(second_poll(driver, advance))
    assert shown[LINK_BYTES] == 10 * 4095 * MIB
    assert shown["gpu_nvlink_receive_bytes_total", ()] == 10 * 4096 * MIB
    assert shown["gpu_nvlink_raw_transmit_bytes_total", ()] == 140_000 * 1024


# -- the 32-bit fields of cards without GPM --


def slow_link(folder: Path, generation: int, lanes: int) -> Driver:
    """Returns a card without GPM and its link."""
    driver = Driver(folder, gpus=1, card=cards.factory("l40s_load"))
    with driver.batch():
        driver.gpu(0).set("nvmlDeviceGetMaxPcieLinkGeneration", generation)
        driver.gpu(0).set("nvmlDeviceGetMaxPcieLinkWidth", lanes)
        driver.gpu(0).set("nvmlDeviceGetCurrPcieLinkGeneration", 1)  # idle
    driver.load()
    return driver


def set_bytes(driver: Driver, sent: int, received: int) -> None:
    with driver.batch():
        driver.gpu(0).set_field(197, sent % 2**32, kind=1)
        driver.gpu(0).set_field(198, received % 2**32, kind=1)


def test_a_slow_link_has_counters_that_do_not_wrap(tmp_path: Path, advance: Advance) -> None:
    """Generation 1, two lanes: 500 MB/s, so at most 2.5 GB in 5 s."""
    driver = slow_link(tmp_path, 1, 2)
    sent, received = 4_190_263_980, 7  # as on a real card, shortly before it wrapped

    async def main() -> None:
        nonlocal sent, received
        async with opened(driver) as source:
            set_bytes(driver, sent, received)
            assert SENT not in samples((await poll(source))[uuid(0)])
            advance(5)
            shown = samples((await poll(source))[uuid(0)])
            assert (shown[SENT], shown[RECEIVED]) == (0, 0)
            for number in range(1, 4):
                sent, received = sent + 2_400_000_000, received + 5
                set_bytes(driver, sent, received)
                advance(5)
                shown = samples((await poll(source))[uuid(0)])
                assert (shown[SENT], shown[RECEIVED]) == (2_400_000_000 * number, 5 * number)
            # 4 GiB may have passed in 9 s: the difference is ambiguous.
            advance(9)
            assert SENT not in samples((await poll(source))[uuid(0)])
            advance(5)
            assert samples((await poll(source))[uuid(0)])[SENT] == 0  # starts again

    asyncio.run(main())


@pytest.mark.parametrize(("generation", "lanes"), [(4, 16), (1, 4), (0, 16), (9, 1)])
def test_a_fast_or_unknown_link_has_no_counters(
    tmp_path: Path, advance: Advance, generation: int, lanes: int
) -> None:
    """Nor are the fields read: the costs of a call are those of its fields."""
    driver = slow_link(tmp_path, generation, lanes)
    set_bytes(driver, 1, 1)
    driver.set_costs({("nvmlDeviceGetFieldValues", f"{number}.cost"): 1 for number in (197, 198)})

    async def main() -> None:
        async with opened(driver) as source:
            for _ in range(3):
                assert SENT not in samples((await poll(source))[uuid(0)])
                advance(5)
            assert driver.gpu(0).count("nvmlDeviceGetFieldValues").cost == 0

    asyncio.run(main())


def test_a_field_that_fails_starts_its_counter_again(tmp_path: Path, advance: Advance) -> None:
    driver = slow_link(tmp_path, 1, 1)

    async def main() -> None:
        async with opened(driver) as source:
            for number, exported in ((0, None), (10, 0), (15, 5), (None, None), (30, 0), (31, 1)):
                if number is None:
                    driver.gpu(0).fail("nvmlDeviceGetFieldValues", standin.UNKNOWN, key=197)
                else:
                    driver.gpu(0).heal()
                    set_bytes(driver, number, 0)
                advance(5)
                assert samples((await poll(source))[uuid(0)]).get(SENT) == exported

    asyncio.run(main())
