"""NVML events (XIDs, MIG changes): the listener thread ends when the library shuts down."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from exporter.errors import DeadlineExceeded, SourceError
from exporter.model import Reading
from exporter.sources.gpu.nvml import events as events_module
from exporter.sources.gpu.nvml.library import GpuHandle, Nvml
from exporter.sources.gpu.source import GpuSource
from tests.fakes.nvml import standin
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import Driver
from tests.sources.gpu.polling import gpu_threads, opened, poll, samples
from tests.waiting import until_async, until_result

TOTAL, LAST = "gpu_xid_errors_total", "gpu_xid_last_timestamp_seconds"


async def until_count(source: GpuSource, gpu: int, xid: int, count: int) -> None:
    """Polls until the XID has this count."""

    async def counted() -> object:
        return samples((await poll(source))[uuid(gpu)]).get((TOTAL, (str(xid),)))

    await until_result(counted, lambda found: found == count)


@pytest.mark.parametrize("gpus", [8])
def test_xids_are_counted_by_gpu_and_code(driver: Driver) -> None:
    driver.emit_event(0, 13)  # before the registration: never counted

    async def main() -> None:
        async with opened(driver) as source:
            shown = samples((await poll(source))[uuid(0)])
            assert (TOTAL, ("13",)) not in shown
            # Exported from 0, so that the first XID is an increase.
            assert shown[TOTAL, ("79",)] == 0
            assert (LAST, ("79",)) not in shown
            before = time.time()
            for gpu, xid in ((0, 79), (3, 31), (0, 79), (0, 13)):
                driver.emit_event(gpu, xid)
            await until_count(source, 0, 79, 2)
            await until_count(source, 0, 13, 1)
            await until_count(source, 3, 31, 1)
            outcomes = await poll(source)
            shown = samples(outcomes[uuid(0)])
            assert isinstance(shown[LAST, ("79",)], float)
            assert before <= float(shown["gpu_xid_last_timestamp_seconds", ("79",)]) <= time.time()
            assert (TOTAL, ("31",)) not in shown
            assert samples(outcomes[uuid(3)])[TOTAL, ("79",)] == 0
            assert "gpu-events" in gpu_threads()

    asyncio.run(main())


def test_invalid_and_many_xids_are_bounded(driver: Driver) -> None:
    async def main() -> None:
        async with opened(driver) as source:
            await poll(source)
            driver.emit_event(0, 1 << 60)
            with driver.batch():
                for xid in range(500, 800):
                    driver.emit_event(0, xid)
                driver.emit_event(0, 48)
            await until_count(source, 0, 48, 1)
            shown = samples((await poll(source))[uuid(0)])
            xids = [labels[0] for name, labels in shown if name == TOTAL]
            assert len(xids) == 128
            assert str(1 << 60) not in xids

    asyncio.run(main())


@pytest.mark.parametrize("gpus", [8])
def test_a_card_without_events_is_queried_once(driver: Driver) -> None:
    driver.gpu(0).set("nvmlDeviceGetSupportedEventTypes", 0)
    driver.gpu(1).unset("nvmlDeviceGetSupportedEventTypes")

    async def main() -> None:
        async with opened(driver) as source:
            for _ in range(3):
                outcomes = await poll(source)
            assert not any(name == TOTAL for name, _ in samples(outcomes[uuid(0)]))
            assert not any(name == TOTAL for name, _ in samples(outcomes[uuid(1)]))
            assert driver.gpu(0).count("nvmlDeviceGetSupportedEventTypes").calls == 1
            assert driver.gpu(1).count("nvmlDeviceGetSupportedEventTypes").calls == 1
            assert driver.gpu(2).count("nvmlDeviceRegisterEvents").calls == 1

    asyncio.run(main())


@pytest.mark.parametrize("gpus", [8])
def test_counts_survive_a_new_initialisation(driver: Driver) -> None:
    async def main() -> None:
        async with opened(driver) as source:
            await poll(source)
            driver.emit_event(2, 94)
            await until_count(source, 2, 94, 1)
            driver.uninitialise()
            await until_read(source)
            driver.emit_event(2, 94)
            await until_count(source, 2, 94, 2)

    asyncio.run(main())


async def until_read(source: GpuSource) -> None:
    """Polls until GPU 2 is read after a new initialisation of the library."""

    async def outcome() -> object:
        try:
            return (await poll(source)).get(uuid(2))
        except SourceError as error:
            return error

    await until_result(outcome, lambda found: isinstance(found, Reading))


def test_a_failed_wait_neither_spins_nor_ends_the_listener(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "WAIT_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(events_module, "RENEW_SECONDS", 0.2)

    async def main() -> None:
        async with opened(driver) as source:
            await poll(source)
            driver.system.fail("nvmlEventSetWait_v2", standin.GPU_IS_LOST)
            await until_async(
                lambda: driver.system.count("nvmlEventSetCreate").calls >= 1, "the set"
            )
            calls = driver.system.count("nvmlEventSetWait_v2").calls
            # A lost GPU breaks its event set: polls create the next.
            await until_result(
                lambda: poll(source),
                lambda _: driver.system.count("nvmlEventSetWait_v2").calls > calls + 2,
            )
            driver.heal()

            async def counted() -> object:
                driver.emit_event(1, 63)  # again: one between two sets is not delivered
                return samples((await poll(source))[uuid(1)]).get((TOTAL, ("63",)))

            await until_result(counted, bool)

    asyncio.run(main())


def test_the_listener_ends_before_the_library_shuts_down(driver: Driver) -> None:
    """The stand-in counts a shutdown during a wait; the fixture asserts that none happened."""

    async def main() -> None:
        async with opened(driver) as source:
            await poll(source)
            await until_async(
                lambda: driver.system.count("nvmlEventSetWait_v2").in_flight == 1, "the wait"
            )
            await source.close()
            await until_async(lambda: driver.system.count("nvmlShutdown").calls == 1, "shutdown")
            assert driver.system.count("nvmlEventSetFree").calls == 1
            assert driver.system.count("nvmlEventSetWait_v2").in_flight == 0

    asyncio.run(main())


def test_a_hung_wait_blocks_only_the_shutdown(driver: Driver) -> None:
    driver.system.delay("nvmlEventSetWait_v2", 60)

    async def main() -> None:
        async with opened(driver) as source:
            for _ in range(2):
                outcomes = await poll(source)
                assert all(isinstance(outcome, Reading) for outcome in outcomes.values())
            started = time.monotonic()
            await source.close()
            assert time.monotonic() - started < 10, "the wait takes a minute"
            assert driver.system.count("nvmlShutdown").calls == 0

    asyncio.run(main())


def test_a_hung_registration_blocks_no_other_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow, quick = (GpuHandle(ctypes.c_void_p(n), f"GPU-{n}", 1) for n in (1, 2))
    registering, proceed, freed = threading.Event(), threading.Event(), threading.Event()

    def call(function: str, *arguments: Any) -> Any:
        if function == "nvmlDeviceGetSupportedEventTypes":
            return events_module.XID_CRITICAL_ERROR
        if function == "nvmlDeviceRegisterEvents" and arguments[0] is slow.handle:
            registering.set()
            proceed.wait(60)
            assert not freed.is_set()
        if function == "nvmlEventSetWait_v2":
            time.sleep(0.01)
            raise DeadlineExceeded("no event")
        if function == "nvmlEventSetFree":
            freed.set()
        return None

    monkeypatch.setattr(events_module, "call", call)
    library = SimpleNamespace(
        listening=contextlib.nullcontext, shutdown_pending=False, generation=1
    )
    events = events_module.Events(cast("Nvml", library))
    hung = threading.Thread(target=events.register, args=(slow,), daemon=True)
    hung.start()
    assert registering.wait(10)
    other = threading.Thread(target=events.register, args=(quick,), daemon=True)
    other.start()
    other.join(10)
    assert not other.is_alive()
    assert events.xids("GPU-2")
    events.close()
    assert not freed.wait(0.1), "not during a registration"
    proceed.set()
    hung.join(10)
    assert freed.wait(10)
