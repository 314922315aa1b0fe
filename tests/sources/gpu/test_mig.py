"""MIG devices: separate metrics, whole-GPU values once, configuration changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from exporter.errors import Forbidden
from exporter.model import Reading
from tests.fakes.nvml import standin
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import Driver
from tests.sources.gpu.polling import mig_samples, opened, poll, samples
from tests.waiting import until_result

MIB = 1024 * 1024


def labels(number: int, gpu: int = 0) -> tuple[str, ...]:
    return (str(gpu), uuid(gpu), str(7 + number), "0", "1g.10gb")


def test_each_mig_device_has_a_row(driver: Driver, advance: Callable[[float], None]) -> None:
    driver.gpu(0).set_mig_devices(2)
    driver.lines["0/1", "nvmlDeviceGetMemoryErrorCounter", "1,0,7"] = "3"
    driver.write()

    async def main() -> None:
        async with opened(driver) as source:
            await poll(source)
            advance(5)
            outcome = (await poll(source))[uuid(0)]
            devices = mig_samples(outcome)
            assert set(devices) == {labels(0), labels(1)}
            device = devices[labels(1)]
            info = ("gpu_mig_info", ("MIG-00000001-aaaa-bbbb-cccc-dddddddddddd",))
            assert device == pytest.approx(
                {
                    info: 1,
                    ("gpu_mig_memory_total_bytes", ()): 9984 * MIB,
                    ("gpu_mig_memory_used_bytes", ()): 1001 * MIB,
                    ("gpu_mig_memory_free_bytes", ()): 8968 * MIB,
                    ("gpu_mig_memory_reserved_bytes", ()): 15 * MIB,
                    ("gpu_mig_multiprocessors", ()): 16,
                    ("gpu_mig_sram_uncorrected_errors_total", ()): 3,
                    ("gpu_mig_graphics_engine_active_ratio", ()): 0.4925,
                    ("gpu_mig_sm_active_ratio", ()): 0.45625,
                    ("gpu_mig_sm_occupancy_ratio", ()): 0.2125,
                    ("gpu_mig_integer_active_ratio", ()): 0.0625,
                    ("gpu_mig_tensor_active_ratio", ()): 0.31875,
                    ("gpu_mig_dram_active_ratio", ()): 0.275,
                    ("gpu_mig_fp64_active_ratio", ()): 0.0,
                    ("gpu_mig_fp32_active_ratio", ()): 0.0375,
                    ("gpu_mig_fp16_active_ratio", ()): 0.01625,
                    # Five seconds of these ratios.
                    ("gpu_mig_busy_seconds_total", ()): 2.4625,
                    ("gpu_mig_graphics_engine_active_seconds_total", ()): 2.4625,
                    ("gpu_mig_sm_active_seconds_total", ()): 2.28125,
                    ("gpu_mig_sm_occupancy_seconds_total", ()): 1.0625,
                    ("gpu_mig_integer_active_seconds_total", ()): 0.3125,
                    ("gpu_mig_tensor_active_seconds_total", ()): 1.59375,
                    ("gpu_mig_tensor_kind_active_seconds_total", ("dfma",)): 0.03125,
                    ("gpu_mig_tensor_kind_active_seconds_total", ("hmma",)): 1.5,
                    ("gpu_mig_tensor_kind_active_seconds_total", ("imma",)): 0.0625,
                    ("gpu_mig_dram_active_seconds_total", ()): 1.375,
                    ("gpu_mig_fp64_active_seconds_total", ()): 0.0,
                    ("gpu_mig_fp32_active_seconds_total", ()): 0.1875,
                    ("gpu_mig_fp16_active_seconds_total", ()): 0.08125,
                }
            )
            whole = samples(outcome)
            assert whole["gpu_mig_mode", ()] == 1
            assert whole["gpu_memory_total_bytes", ()] == 81559 * MIB  # once, for the GPU
            assert not any(name.startswith("gpu_mig_memory") for name, _ in whole)
            assert isinstance(outcome, Reading)
            assert not outcome.problems
            assert not mig_samples((await poll(source))[uuid(1)])

    asyncio.run(main())


def test_a_mig_change_resets_what_is_unsupported(
    driver: Driver, advance: Callable[[float], None]
) -> None:
    """Without an event: noticed within a minute."""

    async def main() -> None:
        async with opened(driver) as source:
            utilization = ("gpu_utilization_ratio", ())
            assert utilization in samples((await poll(source))[uuid(0)])
            with driver.batch():
                driver.gpu(0).set_mig_devices(3)
                driver.gpu(0).unset("nvmlDeviceGetUtilizationRates")
            assert not mig_samples((await poll(source))[uuid(0)])
            advance(60)
            outcome = (await poll(source))[uuid(0)]
            assert set(mig_samples(outcome)) == {labels(0), labels(1), labels(2)}
            assert utilization not in samples(outcome)
            driver.gpu(0).set_mig_devices(1)
            assert set(mig_samples((await poll(source))[uuid(0)])) == {labels(0)}
            with driver.batch():
                driver.gpu(0).set_mig_devices(0)
                driver.gpu(0).set("nvmlDeviceGetUtilizationRates", gpu=42, memory=0)
            advance(60)
            outcome = (await poll(source))[uuid(0)]
            assert not mig_samples(outcome)
            assert samples(outcome)[utilization] == 0.42
            # The samples of removed GPU instances were freed, except those of the last.
            freed = driver.system.count("nvmlGpmSampleFree").calls
            assert freed == 4

    asyncio.run(main())


def test_a_mig_event_resets_what_is_unsupported(driver: Driver) -> None:
    """The mode stays on while the MIG devices change."""
    driver.gpu(0).set_mig_devices(2)
    driver.gpu(0).unset("nvmlDeviceGetUtilizationRates")
    utilization = ("gpu_utilization_ratio", ())

    async def main() -> None:
        async with opened(driver) as source:
            await poll(source)
            driver.gpu(0).set("nvmlDeviceGetUtilizationRates", gpu=42, memory=0)
            assert utilization not in samples((await poll(source))[uuid(0)])
            driver.emit_event(0, 0, standin.MIG_CONFIG_CHANGE)
            await until_result(
                lambda: poll(source), lambda outcomes: utilization in samples(outcomes[uuid(0)])
            )

    asyncio.run(main())


def test_a_failed_mig_device_does_not_affect_others(driver: Driver) -> None:
    driver.gpu(0).set_mig_devices(2)
    key = ("0/1", "nvmlDeviceGetMemoryInfo_v2", "return")
    driver.lines[key] = str(standin.NO_PERMISSION)
    driver.write()

    async def main() -> None:
        async with opened(driver) as source:
            outcome = (await poll(source))[uuid(0)]
            devices = mig_samples(outcome)
            assert ("gpu_mig_memory_used_bytes", ()) in devices[labels(0)]
            assert ("gpu_mig_memory_used_bytes", ()) not in devices[labels(1)]
            assert isinstance(outcome, Reading)
            assert [type(problem) for problem in outcome.problems] == [Forbidden]

    asyncio.run(main())


def test_two_compute_instances_of_one_gpu_instance(driver: Driver) -> None:
    driver.gpu(0).set_mig_devices(2)
    for name, value in (("nvmlDeviceGetGpuInstanceId", 7), ("nvmlDeviceGetComputeInstanceId", 1)):
        driver.lines["0/1", name, "value"] = str(value)
    driver.lines["0/1", "nvmlDeviceGetName", "value"] = "NVIDIA H100 80GB HBM3 MIG 1c.2g.20gb"
    driver.write()

    async def main() -> None:
        async with opened(driver) as source:
            devices = mig_samples((await poll(source))[uuid(0)])
            assert set(devices) == {labels(0), ("0", uuid(0), "7", "1", "1c.2g.20gb")}

    asyncio.run(main())


def test_the_profile_of_an_unnamed_mig_device_is_from_its_attributes(driver: Driver) -> None:
    driver.gpu(0).set_mig_devices(1)
    del driver.lines["0/0", "nvmlDeviceGetName", "value"]
    driver.write()

    async def main() -> None:
        async with opened(driver) as source:
            assert set(mig_samples((await poll(source))[uuid(0)])) == {labels(0)}

    asyncio.run(main())
