"""Slices (MIG): metrics of their own, whole-GPU values once, cutting anew noticed."""

from __future__ import annotations

import asyncio
import time

import pytest

from exporter.errors import Forbidden
from exporter.model import Reading
from exporter.sources.gpu.nvml import query
from tests.fakes.nvml import standin
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import Driver
from tests.sources.gpu.polling import opened, poll, samples, slices

MIB = 1024 * 1024


def labels(number: int, gpu: int = 0) -> tuple[str, ...]:
    return (str(gpu), uuid(gpu), str(7 + number), "0", "1g.10gb")


def test_each_slice_is_a_row_of_its_own(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    late = 0.0
    monkeypatch.setattr(query, "monotonic", lambda: time.monotonic() + late)
    driver.gpu(0).cut(2)

    async def main() -> None:
        nonlocal late
        async with opened(driver) as source:
            await poll(source)
            late = 5.0
            outcome = (await poll(source))[uuid(0)]
            found = slices(outcome)
            assert set(found) == {labels(0), labels(1)}
            one = found[labels(1)]
            info = ("gpu_mig_info", ("MIG-00000001-aaaa-bbbb-cccc-dddddddddddd",))
            assert one == pytest.approx(
                {
                    info: 1,
                    ("gpu_mig_memory_total_bytes", ()): 9984 * MIB,
                    ("gpu_mig_memory_used_bytes", ()): 1001 * MIB,
                    ("gpu_mig_memory_free_bytes", ()): 8968 * MIB,
                    ("gpu_mig_memory_reserved_bytes", ()): 15 * MIB,
                    ("gpu_mig_multiprocessors", ()): 16,
                    ("gpu_mig_graphics_engine_active_ratio", ()): 0.4925,
                    ("gpu_mig_sm_active_ratio", ()): 0.45625,
                    ("gpu_mig_sm_occupancy_ratio", ()): 0.2125,
                    ("gpu_mig_integer_active_ratio", ()): 0.0625,
                    ("gpu_mig_tensor_active_ratio", ()): 0.31875,
                    ("gpu_mig_dram_active_ratio", ()): 0.275,
                    ("gpu_mig_fp64_active_ratio", ()): 0.0,
                    ("gpu_mig_fp32_active_ratio", ()): 0.0375,
                    ("gpu_mig_fp16_active_ratio", ()): 0.01625,
                }
            )
            whole = samples(outcome)
            assert whole["gpu_mig_mode", ()] == 1
            assert whole["gpu_memory_total_bytes", ()] == 81559 * MIB  # once, for the GPU
            assert not any(name.startswith("gpu_mig_memory") for name, _ in whole)
            assert isinstance(outcome, Reading)
            assert not outcome.problems
            assert not slices((await poll(source))[uuid(1)])

    asyncio.run(main())


def test_cutting_anew_is_noticed_and_what_was_unsupported_is_asked_again(driver: Driver) -> None:
    def pull(gpu: int) -> None:
        driver.gpu(gpu).unset("nvmlDeviceGetUtilizationRates")

    async def main() -> None:
        async with opened(driver) as source:
            used = ("gpu_utilization_ratio", ())
            assert used in samples((await poll(source))[uuid(0)])
            with driver.batch():
                driver.gpu(0).cut(3)
                pull(0)
            outcome = (await poll(source))[uuid(0)]
            assert set(slices(outcome)) == {labels(0), labels(1), labels(2)}
            assert used not in samples(outcome)
            driver.gpu(0).cut(1)
            assert set(slices((await poll(source))[uuid(0)])) == {labels(0)}
            with driver.batch():
                driver.gpu(0).cut(0)
                driver.gpu(0).set("nvmlDeviceGetUtilizationRates", gpu=42, memory=0)
            outcome = (await poll(source))[uuid(0)]
            assert not slices(outcome)
            assert samples(outcome)[used] == 0.42
            # The samples of slices that are gone were given back, but for those of the last one.
            freed = driver.system.count("nvmlGpmSampleFree").calls
            assert freed == 4

    asyncio.run(main())


def test_a_change_that_the_driver_tells_of_makes_all_new(driver: Driver) -> None:
    """The mode stays on while the slices are cut otherwise."""
    driver.gpu(0).cut(2)
    driver.gpu(0).unset("nvmlDeviceGetUtilizationRates")
    used = ("gpu_utilization_ratio", ())

    async def main() -> None:
        async with opened(driver) as source:
            await poll(source)
            driver.gpu(0).set("nvmlDeviceGetUtilizationRates", gpu=42, memory=0)
            assert used not in samples((await poll(source))[uuid(0)])
            driver.happen(0, 0, standin.MIG_CHANGED)
            for _ in range(200):
                if used in samples((await poll(source))[uuid(0)]):
                    return
                await asyncio.sleep(0.01)
            raise AssertionError("it was not asked again")

    asyncio.run(main())


def test_a_slice_that_fails_does_not_end_the_others(driver: Driver) -> None:
    driver.gpu(0).cut(2)
    key = ("0/1", "nvmlDeviceGetMemoryInfo_v2", "return")
    driver.lines[key] = str(standin.NO_PERMISSION)
    driver.write()

    async def main() -> None:
        async with opened(driver) as source:
            outcome = (await poll(source))[uuid(0)]
            found = slices(outcome)
            assert ("gpu_mig_memory_used_bytes", ()) in found[labels(0)]
            assert ("gpu_mig_memory_used_bytes", ()) not in found[labels(1)]
            assert isinstance(outcome, Reading)
            assert [type(problem) for problem in outcome.problems] == [Forbidden]

    asyncio.run(main())


def test_two_compute_instances_of_one_gpu_instance(driver: Driver) -> None:
    driver.gpu(0).cut(2)
    for name, value in (("nvmlDeviceGetGpuInstanceId", 7), ("nvmlDeviceGetComputeInstanceId", 1)):
        driver.lines["0/1", name, "value"] = str(value)
    driver.lines["0/1", "nvmlDeviceGetName", "value"] = "NVIDIA H100 80GB HBM3 MIG 1c.2g.20gb"
    driver.write()

    async def main() -> None:
        async with opened(driver) as source:
            found = slices((await poll(source))[uuid(0)])
            assert set(found) == {labels(0), ("0", uuid(0), "7", "1", "1c.2g.20gb")}

    asyncio.run(main())


def test_a_slice_without_a_name_has_its_profile_from_its_attributes(driver: Driver) -> None:
    driver.gpu(0).cut(1)
    del driver.lines["0/0", "nvmlDeviceGetName", "value"]
    driver.write()

    async def main() -> None:
        async with opened(driver) as source:
            assert set(slices((await poll(source))[uuid(0)])) == {labels(0)}

    asyncio.run(main())
