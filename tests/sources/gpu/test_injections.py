"""Injects every return code into every call of one GPU: no other GPU is affected; it recovers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from exporter.model import Reading
from exporter.sources.gpu.nvml import field_group, query, questions
from exporter.sources.gpu.source import GpuSource
from tests.fakes.nvml import standin
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import SYSTEM, Driver
from tests.sources.gpu.polling import opened, poll, samples

CODES = {
    "uninitialized": standin.UNINITIALIZED,
    "invalid argument": standin.INVALID_ARGUMENT,
    "not supported": standin.NOT_SUPPORTED,
    "no permission": standin.NO_PERMISSION,
    "not found": 6,
    "insufficient size": 7,
    "driver not loaded": standin.DRIVER_NOT_LOADED,
    "timeout": standin.TIMEOUT,
    "function not found": standin.FUNCTION_NOT_FOUND,
    "gpu is lost": standin.GPU_IS_LOST,
    "reset required": standin.RESET_REQUIRED,
    "version mismatch": standin.LIB_RM_VERSION_MISMATCH,
    "no data": 21,
    "argument version mismatch": standin.ARGUMENT_VERSION_MISMATCH,
    "gpu not found": standin.GPU_NOT_FOUND,
    "unknown": standin.UNKNOWN,
    "undefined": 4711,
}


# GPU 0 is healthy. Each of the others fails in another function at the same time: one poll of the
# healthy GPU serves them all.
GPUS = 8
FAILING = range(1, GPUS)


async def until_complete(source: GpuSource, count: int) -> None:
    """Polls until every GPU has all samples."""
    seen: object = None
    complete = {uuid(number): count for number in range(GPUS)}
    for _ in range(50):
        outcomes = await poll(source)
        seen = {
            name: len(samples(outcome)) if isinstance(outcome, Reading) else outcome
            for name, outcome in outcomes.items()
        }
        if seen == complete:
            return
    raise AssertionError(f"incomplete: {seen}, not {count}")


@pytest.mark.parametrize("code", CODES.values(), ids=CODES.keys())
def test_every_call_of_a_gpu_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    # Nothing is cached: every poll makes every call.
    for module in (query, field_group):
        monkeypatch.setattr(module, "RETRY_UNSUPPORTED_AFTER", 0.0)
    monkeypatch.setattr(questions, "_EARLY", 1.0)
    monkeypatch.setattr("exporter.sources.gpu.nvml.gpm.MIN_SAMPLE_DISTANCE", 0.0)
    driver = Driver(tmp_path, gpus=GPUS)
    driver.every_gpu.processes("Compute", (2001, 1 << 20))
    driver.load()

    async def main() -> None:
        async with opened(driver) as source:
            for _ in range(3):
                outcomes = await poll(source)
            count = len(samples(outcomes[uuid(1)]))
            functions = sorted({name for name, number in driver.counts() if number == 1} - {"*"})
            assert len(functions) > 40
            for first in range(0, len(functions), len(FAILING)):
                failing = dict(zip(FAILING, functions[first:], strict=False))
                with driver.batch():
                    for number, function in failing.items():
                        driver.gpu(number).fail(function, code)
                for _ in range(2):
                    outcomes = await poll(source)
                    assert len(samples(outcomes[uuid(0)])) == count, failing
                driver.heal()
                await until_complete(source, count)
            for number in FAILING:
                assert driver.count("*", number).max_in_flight == 1
            assert driver.count("nvmlShutdown", SYSTEM).calls == 0

    asyncio.run(main())
    assert not driver.count("!shutdown-during-call").calls
    assert not driver.count("!shutdown-with-samples").calls
