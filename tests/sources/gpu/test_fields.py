"""Field values: types, return codes of single fields, links, unsupported fields."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pynvml
import pytest

from exporter.errors import BadData, Forbidden, LeftOut, SourceError, Unreachable
from exporter.model import Reading
from exporter.sources.gpu.nvml import fields, query
from exporter.sources.gpu.nvml.pcie_bytes import PCIE_BYTES
from tests.fakes.nvml import standin
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import Driver
from tests.sources.gpu.expected_values import SECOND_POLL, expected
from tests.sources.gpu.polling import opened, poll, samples


def test_ids_are_those_of_pynvml() -> None:
    names = {
        "memory_temperature": "NVML_FI_DEV_MEMORY_TEMP",
        "power_instant": "NVML_FI_DEV_POWER_INSTANT",
        "remapped_rows_pending": "NVML_FI_DEV_REMAPPED_PENDING",
        "row_remap_failure": "NVML_FI_DEV_REMAPPED_FAILURE",
        "retired_pages_pending": "NVML_FI_DEV_RETIRED_PENDING",
        "recovery_action": "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION",
        "pcie_transmit_bytes": "NVML_FI_DEV_PCIE_COUNT_TX_BYTES",
        "pcie_receive_bytes": "NVML_FI_DEV_PCIE_COUNT_RX_BYTES",
        "nvlinks": "NVML_FI_DEV_NVLINK_LINK_COUNT",
        "nvlink_speed": "NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON",
        "nvlink_transmit_bytes": "NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX",
        "nvlink_receive_bytes": "NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX",
        "c2c_links": "NVML_FI_DEV_C2C_LINK_COUNT",
        "module_power": "NVML_FI_DEV_POWER_INSTANT",
    }
    compared = 0
    for field in (*fields.FIELDS, *fields.LINK_COUNTS, *PCIE_BYTES):
        if field.key in names and hasattr(pynvml, names[field.key]):
            assert field.id == getattr(pynvml, names[field.key]), field.key
            compared += 1
    assert compared >= 8  # old releases lack the newest


@pytest.mark.parametrize("gpus", [8])
def test_the_second_poll_adds_rates(driver: Driver, advance: Callable[[float], None]) -> None:
    async def main() -> None:
        async with opened(driver) as source:
            await poll(source)
            advance(1)
            outcomes = await poll(source)
            for index in range(8):
                shown = samples(outcomes[uuid(index)])
                assert shown == pytest.approx(expected(index) | SECOND_POLL, rel=1e-12)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("kind", "text", "exported"),
    [(0, "54.5", 54.5), (1, "54", 54), (2, "54", 54), (3, "54", 54), (4, "54", 54), (5, "54", 54)],
)
def test_every_type_of_value(driver: Driver, kind: int, text: str, exported: float) -> None:
    driver.gpu(0).set("nvmlDeviceGetFieldValues", **{"82": f"{kind} {text}"})

    async def main() -> None:
        async with opened(driver) as source:
            shown = samples((await poll(source))[uuid(0)])
            assert shown["gpu_memory_temperature_celsius", ()] == exported

    asyncio.run(main())


@pytest.mark.parametrize(
    ("number", "value", "missing", "kind"),
    [
        (82, "9 54", {("gpu_memory_temperature_celsius", ())}, BadData),  # no such type
        (82, "1 255", {("gpu_memory_temperature_celsius", ())}, LeftOut),  # above 200 C
        (82, "0 nan", {("gpu_memory_temperature_celsius", ())}, None),
        (186, "1 0xFFFFFFFF", {("gpu_power_instant_watts", ())}, None),  # not available
        (193, "5 -1000", {("gpu_temperature_margin_limit_celsius", ("shutdown",))}, LeftOut),
    ],
)
def test_invalid_values_are_left_out(
    driver: Driver,
    number: int,
    value: str,
    missing: set[tuple[str, tuple[str, ...]]],
    kind: type[SourceError] | None,
) -> None:
    driver.gpu(0).set("nvmlDeviceGetFieldValues", **{str(number): value})

    async def main() -> None:
        async with opened(driver) as source:
            outcome = (await poll(source))[uuid(0)]
            assert isinstance(outcome, Reading)
            assert expected(0).keys() - samples(outcome).keys() == missing
            assert [type(problem) for problem in outcome.problems] == ([kind] if kind else [])

    asyncio.run(main())


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (standin.NO_PERMISSION, Forbidden),
        (standin.UNKNOWN, Unreachable),
        (12345, BadData),
        (standin.NOT_SUPPORTED, None),
        (standin.INVALID_ARGUMENT, None),  # for a field unknown to an older driver
        (21, None),  # no data
    ],
)
def test_a_failed_field_does_not_affect_others(
    driver: Driver, code: int, kind: type[SourceError] | None
) -> None:
    driver.gpu(0).fail("nvmlDeviceGetFieldValues", code, key=144)

    async def main() -> None:
        async with opened(driver) as source:
            outcome = (await poll(source))[uuid(0)]
            assert isinstance(outcome, Reading)
            missing = expected(0).keys() - samples(outcome).keys()
            assert missing == {("gpu_remapped_rows_pending", ())}
            assert [type(problem) for problem in outcome.problems] == ([kind] if kind else [])

    asyncio.run(main())


def test_gpu_is_lost_in_a_field_fails_the_reading(driver: Driver) -> None:
    driver.gpu(0).fail("nvmlDeviceGetFieldValues", standin.GPU_IS_LOST, key=144)

    async def main() -> None:
        async with opened(driver) as source:
            assert isinstance((await poll(source))[uuid(0)], Unreachable)

    asyncio.run(main())


def test_an_unsupported_field_is_queried_again_after_an_hour(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = 0.0
    monkeypatch.setattr(query, "monotonic", lambda: time.monotonic() + late)
    driver.gpu(0).fail("nvmlDeviceGetFieldValues", standin.NOT_SUPPORTED, key=144)
    pending = ("gpu_remapped_rows_pending", ())

    async def main() -> None:
        nonlocal late
        async with opened(driver) as source:
            await poll(source)
            driver.gpu(0).heal()
            assert pending not in samples((await poll(source))[uuid(0)])
            late = 3000.0
            assert pending not in samples((await poll(source))[uuid(0)])
            late = 7300.0
            assert pending in samples((await poll(source))[uuid(0)])

    asyncio.run(main())


def test_a_sum_over_links_is_complete_or_missing(
    driver: Driver, advance: Callable[[float], None]
) -> None:
    """A sum without one link would decrease for one poll: a false counter reset."""
    replays = ("gpu_nvlink_link_errors_total", ("replay",))

    async def main() -> None:
        async with opened(driver) as source:
            await poll(source)
            assert samples((await poll(source))[uuid(0)])[replays] == 153
            driver.gpu(0).fail("nvmlDeviceGetFieldValues", standin.UNKNOWN, key="161.3")
            advance(15)
            assert replays not in samples((await poll(source))[uuid(0)])
            driver.gpu(0).heal()
            assert samples((await poll(source))[uuid(0)])[replays] == 153
            # A link that does not support the counter is not part of the sum.
            driver.gpu(0).fail("nvmlDeviceGetFieldValues", standin.NOT_SUPPORTED, key="161.17")
            advance(15)
            assert samples((await poll(source))[uuid(0)])[replays] == 136

    asyncio.run(main())


def test_an_implausible_link_count_is_rejected(driver: Driver) -> None:
    driver.gpu(0).set_field(91, 4_000_000_000, kind=1)

    async def main() -> None:
        async with opened(driver) as source:
            for _ in range(2):
                outcome = (await poll(source))[uuid(0)]
                assert isinstance(outcome, Reading)
                assert [type(problem) for problem in outcome.problems] == [LeftOut]
                assert not any("nvlink_state" in name for name, _ in samples(outcome))

    asyncio.run(main())


def test_a_driver_without_field_values(driver: Driver) -> None:
    driver.gpu(0).fail("nvmlDeviceGetFieldValues", standin.FUNCTION_NOT_FOUND)

    async def main() -> None:
        async with opened(driver) as source:
            for _ in range(3):
                outcome = (await poll(source))[uuid(0)]
                shown = samples(outcome)
                assert ("gpu_power_watts", ()) in shown
                assert ("gpu_memory_temperature_celsius", ()) not in shown
            assert driver.gpu(0).count("nvmlDeviceGetFieldValues").calls == 1

    asyncio.run(main())


def test_links_are_read_at_the_first_poll_and_when_their_count_changes(
    driver: Driver, advance: Callable[[float], None]
) -> None:
    def states(outcome: Reading | SourceError) -> set[str]:
        return {labels[0] for name, labels in samples(outcome) if name == "gpu_nvlink_state"}

    replays = ("gpu_nvlink_link_errors_total", ("replay",))

    async def main() -> None:
        async with opened(driver) as source:
            outcome = (await poll(source))[uuid(0)]
            assert len(states(outcome)) == 18
            driver.gpu(0).set_field(91, 4, kind=1)
            assert len(states((await poll(source))[uuid(0)])) == 18
            advance(60)
            outcome = (await poll(source))[uuid(0)]
            assert states(outcome) == {"0", "1", "2", "3"}
            assert samples(outcome)[replays] == 0 + 1 + 2 + 3

    asyncio.run(main())
