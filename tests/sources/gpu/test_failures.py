"""Failures of the driver and of GPUs, and recovery from them, through the real source."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import pytest

from exporter.errors import (
    BadData,
    DeadlineExceeded,
    Forbidden,
    NotFound,
    SourceError,
    Unreachable,
)
from exporter.model import Reading
from exporter.sources.gpu import source as source_module
from exporter.sources.gpu.source import GpuSource
from tests.fakes.nvml import standin
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import Driver
from tests.sources.gpu.expected_values import expected
from tests.sources.gpu.polling import discover, make_source, opened, poll, read, samples
from tests.waiting import until_async, until_result

GPUS = 4


@pytest.fixture
def gpus() -> int:
    return GPUS


Outcomes = dict[str, Reading | SourceError]


def failed(outcomes: Outcomes) -> dict[str, type[SourceError]]:
    return {
        name: type(outcome)
        for name, outcome in outcomes.items()
        if isinstance(outcome, SourceError)
    }


async def recovered(source: GpuSource) -> Outcomes:
    """Polls until exactly all GPUs are listed and all are read."""

    async def outcomes() -> Outcomes:
        try:
            return await poll(source)
        except SourceError:  # until it recovers
            return {}

    return await until_result(
        outcomes,
        lambda found: list(found) == [uuid(i) for i in range(GPUS)] and not failed(found),
    )


# -- the driver as a whole --


@pytest.mark.parametrize(
    ("code", "kind", "texts"),
    [
        (standin.DRIVER_NOT_LOADED, NotFound, ("not loaded", "modprobe nvidia")),
        (standin.LIB_RM_VERSION_MISMATCH, Unreachable, ("different versions", "reboot")),
        (standin.NO_PERMISSION, Forbidden, ("no permission", "/dev/nvidia")),
        (standin.OPERATING_SYSTEM, Forbidden, ("blocks access", "daemon-reload")),
        (standin.UNKNOWN, Unreachable, ("unknown error", "daemon-reload")),
        (12345, BadData, ("unknown return code 12345", "")),
        (-7, BadData, ("unknown return code -7", "")),
    ],
)
@pytest.mark.parametrize("function", ["nvmlInitWithFlags", "nvmlDeviceGetCount_v2"])
def test_a_driver_failure_and_recovery(
    driver: Driver, function: str, code: int, kind: type[SourceError], texts: tuple[str, str]
) -> None:
    message, remedy = texts
    driver.system.fail(function, code)

    async def main() -> None:
        async with opened(driver) as source:
            with pytest.raises(SourceError, match=message) as caught:
                await discover(source)
            assert isinstance(caught.value, kind)
            assert remedy in caught.value.remedy
            driver.heal()
            await recovered(source)

    asyncio.run(main())


def test_an_implausible_gpu_count(driver: Driver) -> None:
    driver.system.set("nvmlDeviceGetCount_v2", 4_000_000_000)

    async def main() -> None:
        async with opened(driver) as source:
            with pytest.raises(BadData, match="4000000000 GPUs"):
                await discover(source)

    asyncio.run(main())


@pytest.mark.usefixtures("hung_calls_end")
def test_a_driver_that_hangs_in_nvmlinit(driver: Driver) -> None:
    driver.system.delay("nvmlInitWithFlags", 60)

    async def main() -> None:
        async with opened(driver) as source:
            for _ in range(3):
                with pytest.raises(DeadlineExceeded):
                    await discover(source)
            assert driver.system.count("nvmlInitWithFlags").calls == 1
            driver.heal()
            await recovered(source)
            assert driver.system.count("nvmlInitWithFlags").calls == 1

    asyncio.run(main())


@pytest.mark.usefixtures("counted_each_time", "hung_calls_end")
def test_known_gpus_are_read_while_discovery_hangs(driver: Driver) -> None:
    async def main() -> None:
        async with opened(driver) as source:
            targets = await discover(source)
            driver.system.delay("nvmlDeviceGetCount_v2", 60)
            for _ in range(2):
                with pytest.raises(DeadlineExceeded):
                    await discover(source)
                outcomes = await asyncio.gather(*(read(target) for target in targets))
                assert all(isinstance(outcome, Reading) for outcome in outcomes)
            driver.heal()
            await recovered(source)
            assert (await discover(source)) == targets  # identical objects

    asyncio.run(main())


def test_a_driver_that_is_uninitialized_again(driver: Driver) -> None:
    async def main() -> None:
        async with opened(driver) as source:
            targets = await discover(source)
            driver.uninitialise()
            for target in targets:
                assert isinstance(await read(target), Unreachable)
            await recovered(source)
            assert driver.system.count("nvmlInitWithFlags").calls == 2
            assert (await discover(source)) == targets

    asyncio.run(main())


# -- one GPU of eight --


@pytest.mark.usefixtures("hung_calls_end")
def test_a_hung_gpu_blocks_no_other(driver: Driver) -> None:
    async def main() -> None:
        async with opened(driver) as source:
            await poll(source)
            driver.gpu(3).delay("nvmlDeviceGetPowerUsage", 60)
            for _ in range(3):
                assert failed(await poll(source)) == {uuid(3): DeadlineExceeded}
            assert driver.gpu(3).count().max_in_flight == 1
            assert driver.gpu(3).count("nvmlDeviceGetPowerUsage").calls == 2
            driver.heal()
            await recovered(source)

    asyncio.run(main())


@pytest.mark.usefixtures("hung_calls_end")
def test_a_gpu_that_hangs_from_the_start(driver: Driver) -> None:
    """Its UUID is unknown: it is down under its index; the other seven are read."""
    driver.gpu(3).delay("nvmlDeviceGetHandleByIndex_v2", 60)

    async def main() -> None:
        async with opened(driver) as source:
            # A wait may end before the call.
            called = driver.gpu(3).count
            await until_result(lambda: poll(source), lambda _: called().in_flight)
            for _ in range(2):
                outcomes = await poll(source)
                assert failed(outcomes) == {"index 3": DeadlineExceeded}
                assert len(outcomes) == GPUS
            (unidentified,) = (t for t in await discover(source) if t.name == "index 3")
            assert unidentified.up_labels == ("3", "")
            assert driver.gpu(3).count().calls == 1
            driver.heal()
            await recovered(source)

    asyncio.run(main())


@pytest.mark.parametrize(
    "code", [standin.GPU_IS_LOST, standin.RESET_REQUIRED, standin.GPU_NOT_FOUND]
)
def test_a_lost_gpu_is_listed_and_returns(driver: Driver, code: int) -> None:
    async def main() -> None:
        async with opened(driver) as source:
            targets = await discover(source)
            await poll(source)
            driver.gpu(2).fail("*", code)
            calls = driver.gpu(2).count().calls
            for _ in range(3):
                assert failed(await poll(source)).keys() == {uuid(2)}
                assert await discover(source) == targets
            assert driver.gpu(2).count().calls - calls == 3  # one call per poll
            assert "XID" in getattr(await read(targets[2]), "remedy", "")
            driver.gpu(2).come_back()
            outcomes = await recovered(source)
            assert samples(outcomes[uuid(2)])["gpu_power_watts", ()] == 633.95
            assert driver.system.count("nvmlShutdown").calls == 0

    asyncio.run(main())


def test_a_gpu_lost_from_the_start_is_down_and_returns(driver: Driver) -> None:
    driver.gpu(3).lose()

    async def main() -> None:
        async with opened(driver) as source:
            assert failed(await poll(source)).keys() == {"index 3"}
            driver.heal()
            await recovered(source)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "code", "kind"),
    [
        ("PowerUsage", standin.UNKNOWN, Unreachable),
        ("PowerUsage", standin.NO_PERMISSION, Forbidden),
        ("PowerUsage", standin.TIMEOUT, DeadlineExceeded),
        ("PowerUsage", 12345, BadData),
    ],
)
def test_a_failed_value_does_not_affect_others(
    driver: Driver, name: str, code: int, kind: type[SourceError]
) -> None:
    driver.gpu(3).fail(f"nvmlDeviceGet{name}", code)

    async def main() -> None:
        async with opened(driver) as source:
            outcome = (await poll(source))[uuid(3)]
            shown = samples(outcome)
            assert ("gpu_power_watts", ()) not in shown
            assert len(shown) == len(expected(3)) - 1
            assert isinstance(outcome, Reading)
            assert [type(problem) for problem in outcome.problems] == [kind]
            driver.heal()
            assert ("gpu_power_watts", ()) in samples((await recovered(source))[uuid(3)])

    asyncio.run(main())


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (standin.UNKNOWN, Unreachable),
        (standin.NO_PERMISSION, Forbidden),
        (standin.INVALID_ARGUMENT, BadData),
        (12345, BadData),
    ],
)
def test_a_gpu_without_any_value_is_down(
    driver: Driver, code: int, kind: type[SourceError]
) -> None:
    async def main() -> None:
        async with opened(driver) as source:
            await poll(source)
            driver.gpu(3).fail("*", code)
            assert failed(await poll(source)) == {uuid(3): kind}
            driver.heal()
            await recovered(source)

    asyncio.run(main())


@pytest.mark.parametrize("text", ["", "\\xff\\xfe", uuid(0)])
def test_a_gpu_without_a_unique_uuid(driver: Driver, text: str) -> None:
    driver.gpu(1).set("nvmlDeviceGetUUID", text)

    async def main() -> None:
        async with opened(driver) as source:
            outcomes = await poll(source)
            assert len(outcomes) == GPUS
            assert failed(outcomes) == {"index 1": BadData}
            driver.gpu(1).set("nvmlDeviceGetUUID", uuid(1))
            driver.uninitialise()
            await recovered(source)

    asyncio.run(main())


# -- identity --


def test_a_gpu_keeps_its_target_when_its_index_changes(driver: Driver) -> None:
    async def main() -> None:
        async with opened(driver) as source:
            before = await discover(source)
            await poll(source)
            with driver.batch():
                driver.set_order(1, 0, 2, 3)
                driver.uninitialise()
            await until_found(source, {uuid(1): "0", uuid(0): "1", uuid(3): "3"})
            after = await discover(source)
            assert {id(target) for target in after} == {id(target) for target in before}
            outcome = await read(after[0])
            assert isinstance(outcome, Reading)
            assert outcome.rows[0].labels == ("0", uuid(1))
            assert samples(outcome)["gpu_power_watts", ()] == 632.95

    asyncio.run(main())


def test_a_removed_gpu_stays_listed_and_returns(driver: Driver) -> None:
    async def main() -> None:
        async with opened(driver) as source:
            await poll(source)
            with driver.batch():
                driver.set_order(0, 2, 3)
                driver.uninitialise()
            await until_found(source, {uuid(2): "1", uuid(3): "2"}, lost={uuid(1)})
            with driver.batch():
                driver.set_order(*range(GPUS))
                driver.uninitialise()
            await until_found(source, {uuid(i): str(i) for i in range(GPUS)})

    asyncio.run(main())


async def until_found(
    source: GpuSource, indexes: dict[str, str], lost: frozenset[str] | set[str] = frozenset()
) -> None:
    """Polls until exactly the lost GPUs fail and the others have the indexes."""
    seen: object = None
    for _ in range(20):
        with contextlib.suppress(Unreachable):  # until it is initialised again
            outcomes = await poll(source)
            placed = {target.name: target.up_labels[0] for target in await discover(source)}
            seen = failed(outcomes), placed
            if failed(outcomes).keys() == lost and placed.items() >= indexes.items():
                return
    raise AssertionError(f"last seen: {seen}")


# -- shutdown --


def test_the_library_is_initialised_again_when_no_gpu_responds(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = 0.0
    monkeypatch.setattr(source_module, "monotonic", lambda: time.monotonic() + late)

    async def main() -> None:
        nonlocal late
        async with opened(driver) as source:
            await poll(source)
            for gpu in range(GPUS - 1):
                driver.gpu(gpu).lose()
            for _ in range(2):
                await poll(source)
                late += 61
            assert driver.system.count("nvmlShutdown").calls == 0  # one is healthy
            driver.gpu(3).lose()
            await poll(source)  # the last GPU fails
            await poll(source)  # starts the restart delay
            assert driver.system.count("nvmlShutdown").calls == 0
            late += 61
            await poll(source)
            await poll(source)
            assert driver.system.count("nvmlShutdown").calls == 1
            late += 61  # the delay has doubled
            await poll(source)
            assert driver.system.count("nvmlShutdown").calls == 1
            late += 61
            await poll(source)
            assert driver.system.count("nvmlShutdown").calls == 2
            assert driver.system.count("nvmlInitWithFlags").calls == 3
            driver.heal()
            await recovered(source)

    asyncio.run(main())


@pytest.mark.usefixtures("hung_calls_end")
def test_close_does_not_wait_and_shuts_down_after_the_last_call(driver: Driver) -> None:
    async def main() -> None:
        async with opened(driver) as source:
            targets = await discover(source)
            driver.gpu(0).delay("nvmlDeviceGetPowerUsage", 60)
            assert isinstance(await read(targets[0]), DeadlineExceeded)
            started = asyncio.get_running_loop().time()
            await source.close()
            assert asyncio.get_running_loop().time() - started < 10, "the call takes a minute"
            assert isinstance(await read(targets[0]), DeadlineExceeded)
            assert driver.system.count("nvmlShutdown").calls == 0
            driver.heal()
            await until_async(lambda: driver.system.count("nvmlShutdown").calls == 1, "shutdown")

    asyncio.run(main())


def test_closing_a_source_does_not_affect_another(driver: Driver) -> None:
    """As in a reload of the settings."""

    async def main() -> None:
        async with opened(driver) as new:
            old = make_source()
            await poll(old)
            await poll(new)
            await old.close()
            await until_async(lambda: driver.system.count("nvmlShutdown").calls == 1, "shutdown")
            assert not failed(await poll(new))

    asyncio.run(main())


def test_an_unused_source_closes(tmp_path: Path) -> None:
    driver = Driver(tmp_path, gpus=GPUS)
    driver.load()

    async def main() -> None:
        async with opened(driver):
            pass

    asyncio.run(main())
    assert driver.counts() == {}
