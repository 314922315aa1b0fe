"""Injects every return code into every call of one GPU: no other GPU is affected; it recovers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from exporter.model import Reading
from exporter.sources.gpu.nvml import query
from exporter.sources.gpu.source import GpuSource
from tests.fakes.nvml import standin
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import SYSTEM, Driver
from tests.sources.gpu.polling import discover, opened, poll, poll_some, samples

NOT_FOUND, NO_DATA = 6, 21
CODES = {
    "uninitialized": standin.UNINITIALIZED,
    "invalid argument": standin.INVALID_ARGUMENT,
    "not supported": standin.NOT_SUPPORTED,
    "no permission": standin.NO_PERMISSION,
    "not found": NOT_FOUND,
    "insufficient size": 7,
    "driver not loaded": standin.DRIVER_NOT_LOADED,
    "timeout": standin.TIMEOUT,
    "function not found": standin.FUNCTION_NOT_FOUND,
    "gpu is lost": standin.GPU_IS_LOST,
    "reset required": standin.RESET_REQUIRED,
    "version mismatch": standin.LIB_RM_VERSION_MISMATCH,
    "no data": NO_DATA,
    "argument version mismatch": standin.ARGUMENT_VERSION_MISMATCH,
    "gpu not found": standin.GPU_NOT_FOUND,
    "unknown": standin.UNKNOWN,
    "undefined": 4711,
}


# GPU 0 is healthy. Each of the others fails in another function at the same time: one poll of the
# healthy GPU serves them all.
GPUS = 8
FAILING = range(1, GPUS)
# Seconds until an unsupported call is tried again, and until every other call is due: a question
# with the pace of an hour is due a tenth of that early.
RETRIED, DUE = 3600, 3500
# Seconds until the next call after these codes; after the others, the next poll repeats it.
PAUSES = {
    standin.NOT_SUPPORTED: RETRIED,
    standin.FUNCTION_NOT_FOUND: RETRIED,
    standin.ARGUMENT_VERSION_MISMATCH: RETRIED,
    NOT_FOUND: DUE,
    NO_DATA: DUE,
}


class Injections:
    """A code that calls of the failing GPUs return, one function in each GPU.

    late: seconds by which the clock is ahead: no poll uses the answers of an earlier one.
    """

    def __init__(self, driver: Driver, code: int) -> None:
        self.late = 0.0
        self._driver, self._code = driver, code
        self._count = 0
        """Samples of a healthy GPU."""

    def clock(self) -> float:
        return time.monotonic() + self.late

    async def run(self, source: GpuSource) -> None:
        await discover(source)
        await poll_some(source, range(GPUS))
        self.late += 1  # for the second sample of GPM
        await poll_some(source, (1,))
        before = self._calls(1)
        self.late += DUE
        outcomes = await poll_some(source, (0, 1))
        self._count = len(samples(outcomes[uuid(1)]))
        calls = self._calls(1)
        repeated = [function for function in calls if calls[function] > before.get(function, 0)]
        once = [function for function in calls if function not in repeated]
        assert (len(repeated), len(once)) >= (40, 20), (repeated, once)
        for first in range(0, len(repeated), len(FAILING)):
            await self._fail(source, repeated[first:], at_once=first == 0)
        for first in range(0, len(once), len(FAILING)):
            await self._fail_again(source, once[first:])

    def _calls(self, number: int) -> dict[str, int]:
        """Returns the calls of a GPU so far, by function."""
        counts = self._driver.counts().items()
        return {name: count.calls for (name, gpu), count in counts if gpu == number and name != "*"}

    async def _fail(
        self, source: GpuSource, functions: Sequence[str], *, at_once: bool = False
    ) -> None:
        """Lets the first functions fail in one poll, and waits for the recovery.

        at_once: in a poll that reads all GPUs at the same time.
        """
        failing = dict(zip(FAILING, functions, strict=False))
        await self._poll_failing(source, failing, at_once=at_once)
        self._driver.heal()
        await self._recover(source, failing)

    async def _fail_again(self, source: GpuSource, functions: Sequence[str]) -> None:
        """As `_fail`, with functions that are called once for each handle, and as GPUs return.

        These read the identity, or are not supported. An identity that is no valid text stays so
        until the GPU gets a new handle.
        """
        failing = dict(zip(FAILING, functions, strict=False))
        await self._lose(source, failing)
        await self._poll_failing(source, failing)
        await self._lose(source, failing)
        self._driver.heal()
        await self._recover(source, failing)

    async def _poll_failing(
        self, source: GpuSource, failing: dict[int, str], *, at_once: bool = False
    ) -> None:
        """Polls while each of these GPUs fails in its function: the healthy GPU has all samples."""
        self.late += DUE
        with self._driver.batch():
            self._driver.heal()
            for number, function in failing.items():
                self._driver.gpu(number).fail(function, self._code)
        before = [self._driver.count(function, number) for number, function in failing.items()]
        outcomes = await (poll(source) if at_once else poll_some(source, (0, *failing)))
        assert len(samples(outcomes[uuid(0)])) == self._count, failing
        for (number, function), count in zip(failing.items(), before, strict=True):
            assert self._driver.count(function, number).calls > count.calls, function
        await discover(source)  # while they still fail

    async def _lose(self, source: GpuSource, numbers: Collection[int]) -> None:
        with self._driver.batch():
            for number in numbers:
                self._driver.gpu(number).lose()
        await poll_some(source, numbers)

    async def _recover(self, source: GpuSource, numbers: Collection[int]) -> None:
        """Polls these GPUs, as soon as they repeat the calls, until each has all samples."""
        self.late += PAUSES.get(self._code, 0)
        lengths: dict[int, int | None] = dict.fromkeys(numbers)
        for _ in range(50):
            self.late += 1  # for another sample of GPM
            incomplete = [number for number in numbers if lengths[number] != self._count]
            if not incomplete:
                return
            outcomes = await poll_some(source, incomplete)
            for number in incomplete:
                outcome = outcomes[uuid(number)]
                lengths[number] = len(samples(outcome)) if isinstance(outcome, Reading) else None
        raise AssertionError(f"incomplete: {lengths}, not {self._count}")


@pytest.mark.parametrize("code", CODES.values(), ids=CODES.keys())
def test_every_call_of_a_gpu_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    driver = Driver(tmp_path, gpus=GPUS)
    driver.every_gpu.processes("Compute", (2001, 1 << 20))
    driver.load()
    injections = Injections(driver, code)
    monkeypatch.setattr(query, "monotonic", injections.clock)

    async def main() -> None:
        async with opened(driver) as source:
            await injections.run(source)
            for number in FAILING:
                assert driver.count("*", number).max_in_flight == 1
            assert driver.count("nvmlShutdown", SYSTEM).calls == 0

    asyncio.run(main())
    assert not driver.count("!shutdown-during-call").calls
    assert not driver.count("!shutdown-with-samples").calls
