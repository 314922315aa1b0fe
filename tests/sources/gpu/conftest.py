"""The `driver` fixture: the NVML stand-in with some H100, used by pynvml in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporter.sources.gpu import source
from exporter.sources.gpu.nvml import events, query
from tests.fakes.nvml.standin import Driver
from tests.sources.gpu import polling
from tests.sources.gpu.polling import gpu_threads
from tests.waiting import until


@pytest.fixture(autouse=True)
def _short_event_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens nvmlEventSetWait calls: a test ends after the last of them."""
    monkeypatch.setattr(events, "WAIT_MILLISECONDS", 20)


@pytest.fixture
def counted_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every discovery count the GPUs."""
    monkeypatch.setattr(source, "COUNT_PACE", 0.0)


@pytest.fixture
def hung_calls_end(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends the deadline of a poll once a call hangs. The wait for the UUID of GPU 3 is short.

    Its wait may end before the call: the next poll repeats it.
    """
    monkeypatch.setattr(polling, "hung_driver", driver.file)
    identify = source.UnidentifiedGpu.identify

    async def of_gpu_3_short(gpu: source.UnidentifiedGpu, deadline: float) -> str | None:
        return await identify(gpu, 0.5 if gpu.index == 3 else deadline)

    monkeypatch.setattr(source.UnidentifiedGpu, "identify", of_gpu_3_short)


@pytest.fixture
def advance(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Stops the source's clock; advances it by seconds."""
    now = time.monotonic()
    monkeypatch.setattr(query, "monotonic", lambda: now)

    def advance(seconds: float) -> None:
        nonlocal now
        now += seconds

    return advance


@pytest.fixture
def gpus() -> int:
    """Number of the driver's GPUs. A first poll takes 5 ms of CPU time for each."""
    return 2


@pytest.fixture
def driver(tmp_path: Path, gpus: int) -> Iterator[Driver]:
    # A thread of an earlier test would call this driver, too.
    until(lambda: not gpu_threads(), "the end of earlier tests' threads")
    driver = Driver(tmp_path, gpus=gpus)
    driver.load()
    yield driver
    driver.heal()
    assert not driver.count("!shutdown-during-call").calls
    assert not driver.count("!shutdown-with-samples").calls
