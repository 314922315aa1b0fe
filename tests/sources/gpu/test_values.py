"""Every value of every GPU, compared with the stand-in's values."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from exporter.errors import LeftOut, Unreachable
from exporter.model import Reading
from exporter.sources.gpu.nvml import query
from tests.fakes.nvml import standin
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import Driver
from tests.sources.gpu.expected_values import expected
from tests.sources.gpu.polling import (
    Samples,
    discover,
    opened,
    poll,
    poll_some,
    read,
    samples,
    with_events,
)

MIB = 1024 * 1024
# Releases of pynvml without TemperatureV use Temperature.
TEMPERATURE = next(
    name
    for name in ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature")
    if hasattr(pynvml, name)
)


# The calls of one poll of an H100 right after the first (test_paces.py: over a minute); older
# releases of pynvml lack some.
CALLS = {
    "nvmlDeviceGetUtilizationRates": 1,
    "nvmlDeviceGetMemoryInfo_v2": 1,
    TEMPERATURE: 1,
    "nvmlDeviceGetPowerUsage": 1,
    "nvmlDeviceGetTotalEnergyConsumption": 1,
    "nvmlDeviceGetClockInfo": 4,
    "nvmlDeviceGetPerformanceState": 1,
    "nvmlDeviceGetEncoderUtilization": 1,
    "nvmlDeviceGetDecoderUtilization": 1,
    "nvmlDeviceGetJpgUtilization": 1,
    "nvmlDeviceGetOfaUtilization": 1,
    "nvmlDeviceGetEncoderStats": 1,
    "nvmlDeviceGetCurrPcieLinkGeneration": 1,
    "nvmlDeviceGetCurrentClocksEventReasons": 1,
    "nvmlDeviceGetFieldValues": 1,
    "nvmlDeviceGetComputeRunningProcesses_v3": 1,
    "nvmlDeviceGetGraphicsRunningProcesses_v3": 1,
    "nvmlDeviceGetMPSComputeRunningProcesses_v3": 1,
}
CALLS = {
    name: calls
    for name, calls in CALLS.items()
    if hasattr(pynvml, name.removesuffix("_v2")) or name == "nvmlDeviceGetMemoryInfo_v2"
}


@pytest.fixture
def gpus() -> int:
    return 3


@pytest.mark.parametrize("gpus", [8])
def test_eight_gpus_exactly(driver: Driver) -> None:
    async def main() -> None:
        async with opened(driver) as source:
            targets = await discover(source)
            assert [target.name for target in targets] == [uuid(index) for index in range(8)]
            readings = [await read(target) for target in targets]
            outcomes = (await with_events(source, targets, readings)).values()
            for index, (target, reading) in enumerate(zip(targets, outcomes, strict=True)):
                assert samples(reading) == pytest.approx(expected(index), rel=1e-12)
                assert isinstance(reading, Reading)
                assert not reading.problems
                assert reading.rows[0].labels == target.up_labels == (str(index), uuid(index))
                assert target.up is not None
                assert target.up.name == "gpu_up"

    asyncio.run(main())


@pytest.mark.usefixtures("advance", "counted_each_time")
def test_one_call_in_flight_per_gpu_and_no_superfluous_call(driver: Driver) -> None:
    async def main() -> None:
        async with opened(driver) as source:
            await poll(source)
            before = driver.counts()
            await poll(source)
            after = driver.counts()
        for gpu in range(3):
            made = {
                function: after[function, gpu].calls - before[function, gpu].calls
                for function, number in after
                if number == gpu
            }
            assert made.pop("*") == len(CALLS) + 3  # four clocks
            assert {name: calls for name, calls in made.items() if calls} == CALLS
            assert after["*", gpu].max_in_flight == 1
        assert after["nvmlInitWithFlags", standin.SYSTEM].calls == 1
        system_calls = {
            function: after[function, number].calls - before[function, number].calls
            for function, number in after
            if number == standin.SYSTEM and function not in {"*", "nvmlEventSetWait_v2"}
        }
        assert {name: calls for name, calls in system_calls.items() if calls} == {
            "nvmlDeviceGetCount_v2": 1
        }

    asyncio.run(main())


def test_values_change(driver: Driver) -> None:
    async def main() -> None:
        async with opened(driver) as source:
            await poll(source)
            driver.gpu(0).set("nvmlDeviceGetPowerUsage", 69_850)
            driver.gpu(0).set("nvmlDeviceGetUtilizationRates", gpu=0, memory=0)
            shown = samples((await poll(source))[uuid(0)])
            assert shown["gpu_power_watts", ()] == 69.85
            assert shown["gpu_utilization_ratio", ()] == 0

    asyncio.run(main())


def test_one_gpu(tmp_path: Path) -> None:
    driver = Driver(tmp_path, gpus=1)
    driver.load()

    async def main() -> None:
        async with opened(driver) as source:
            outcomes = await poll(source)
            assert list(outcomes) == [uuid(0)]
            assert samples(outcomes[uuid(0)]) == pytest.approx(expected(0), rel=1e-12)

    asyncio.run(main())


def test_sixteen_gpus(tmp_path: Path) -> None:
    driver = Driver(tmp_path, gpus=16)
    driver.load()

    async def main() -> None:
        async with opened(driver) as source:
            outcomes = await poll(source)
            assert len(outcomes) == 16
            for index in range(16):
                shown = samples(outcomes[uuid(index)])
                assert shown["gpu_temperature_celsius", ()] == 59 + index
                assert shown.keys() == expected(index).keys()
                assert driver.gpu(index).count().max_in_flight == 1

    asyncio.run(main())


def test_a_driver_without_gpus_fails(tmp_path: Path) -> None:
    driver = Driver(tmp_path, gpus=0)
    driver.load()

    async def main() -> None:
        async with opened(driver) as source:
            with pytest.raises(Unreachable, match="the driver works but has no GPU") as caught:
                await source.discover()
            assert caught.value.remedy

    asyncio.run(main())


def test_an_old_driver_has_fewer_values(driver: Driver) -> None:
    """Before R510, MemoryInfo has no version 2; TemperatureV is newer still."""
    driver.every_gpu.fail("nvmlDeviceGetMemoryInfo_v2", standin.FUNCTION_NOT_FOUND)
    driver.every_gpu.fail("nvmlDeviceGetTemperatureV", standin.FUNCTION_NOT_FOUND)

    async def main() -> None:
        async with opened(driver) as source:
            outcome = (await poll(source))[uuid(2)]
            shown = samples(outcome)
            assert ("gpu_memory_reserved_bytes", ()) not in shown
            assert shown["gpu_memory_used_bytes", ()] == (20018 + 479) * MIB
            assert shown["gpu_temperature_celsius", ()] == 61
            assert isinstance(outcome, Reading)
            assert not outcome.problems

    asyncio.run(main())


def test_an_unsupported_call_is_queried_again_after_an_hour(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with MIG on (no utilization), and on a GeForce before Volta (no energy counter)."""
    driver.gpu(0).unset("nvmlDeviceGetUtilizationRates")
    driver.gpu(0).unset("nvmlDeviceGetTotalEnergyConsumption")
    driver.gpu(0).fail("nvmlDeviceGetClockInfo", standin.NOT_SUPPORTED, key=3)

    async def main() -> None:
        async with opened(driver) as source:
            first = (await poll(source))[uuid(0)]
            missing = expected(0).keys() - samples(first).keys()
            assert missing == {
                ("gpu_utilization_ratio", ()),
                ("gpu_memory_utilization_ratio", ()),
                ("gpu_energy_joules_total", ()),
                ("gpu_clock_hertz", ("video",)),
            }
            assert isinstance(first, Reading)
            assert not first.problems
            for _ in range(3):
                await poll(source)
            assert driver.gpu(0).count("nvmlDeviceGetUtilizationRates").calls == 1
            assert driver.gpu(0).count("nvmlDeviceGetTotalEnergyConsumption").calls == 1
            assert driver.gpu(0).count("nvmlDeviceGetClockInfo").calls == 4 + 3 * 3
            assert driver.gpu(1).count("nvmlDeviceGetUtilizationRates").calls == 4
            # Supported an hour later.
            driver.gpu(0).set("nvmlDeviceGetUtilizationRates", gpu=42, memory=1)
            monkeypatch.setattr(query, "monotonic", lambda: time.monotonic() + 3601)
            shown = samples((await poll(source))[uuid(0)])
            assert shown["gpu_utilization_ratio", ()] == 0.42

    asyncio.run(main())


def test_values_that_are_missing_or_0_on_an_h100(driver: Driver) -> None:
    """Each value differs, so that an exchanged field, key or label is noticed."""
    gpu = driver.gpu(0)
    with driver.batch():
        for number, (engine, percent) in enumerate(
            (("Encoder", 10), ("Decoder", 20), ("Jpg", 30), ("Ofa", 40))
        ):
            gpu.set(f"nvmlDeviceGet{engine}Utilization", value=percent, period=number)
        gpu.set("nvmlDeviceGetEncoderStats", sessions=2, frames=60, latency=1500)
        gpu.set("nvmlDeviceGetTemperatureThreshold", **{"0": 92, "1": 89, "2": 95, "3": 85})
        gpu.set("nvmlDeviceGetNumFans", 2)
        gpu.set("nvmlDeviceGetFanSpeed_v2", **{"0": 38, "1": 41})
        gpu.set("nvmlDeviceGetMemoryErrorCounter", **dict(_ecc_locations()))
        gpu.set(
            "nvmlDeviceGetSramEccErrorStatus",
            volatileUncParity=1,
            volatileUncSecDed=2,
            aggregateUncParity=3,
            aggregateUncSecDed=4,
            aggregateUncBucketL2=5,
            aggregateUncBucketSm=6,
            aggregateUncBucketPcie=7,
            aggregateUncBucketMcu=8,
            aggregateUncBucketOther=9,
            bThresholdExceeded=1,
        )
        gpu.set("nvmlDeviceGetGridLicensableFeatures_v4", 1)
        for number, count in FIELD_COUNTS.items():
            gpu.set_field(number, count)
        gpu.set_field(186, 1_500_250, scope=1)
        gpu.set_field(170, 2)
        gpu.set_field(171, 1, scope=0)
        gpu.set_field(171, 0, scope=1)

    async def main() -> None:
        async with opened(driver) as source:
            outcome = (await poll(source))[uuid(0)]
            assert isinstance(outcome, Reading)
            assert not outcome.problems
            shown = samples(outcome)
            changed = {key: value for key, value in shown.items() if key in CHANGED}
            assert changed == pytest.approx(CHANGED, rel=1e-12)

    asyncio.run(main())


def _ecc_locations() -> Iterator[tuple[str, int]]:
    """Yields the selectors of MemoryErrorCounter, each with another count."""
    for error in (0, 1):
        for counter in (0, 1):
            for location in (2, 7):
                yield f"{error},{counter},{location}", 100 * error + 10 * counter + location


# By field of nvml.h (NVML_FI_…).
FIELD_COUNTS = {
    3: 13,
    4: 14,
    5: 15,
    6: 16,  # ECC errors
    29: 11,
    30: 12,
    31: 1,  # retired pages
    142: 21,
    143: 22,
    144: 1,
    145: 1,
    301: 31,
    302: 32,  # remapped rows
    230: 5,
    74: 1_500_000_000,
    76: 2_500_000_000,
    269: 3_500_000_000,
    270: 4_500_000_000,
    271: 5_500_000_000,  # clock events
    38: 41,
    45: 42,
    52: 43,
    59: 44,  # NVLink errors
}
CHANGED: Samples = {
    ("gpu_encoder_utilization_ratio", ()): 0.1,
    ("gpu_decoder_utilization_ratio", ()): 0.2,
    ("gpu_jpeg_utilization_ratio", ()): 0.3,
    ("gpu_ofa_utilization_ratio", ()): 0.4,
    ("gpu_encoder_sessions", ()): 2,
    ("gpu_encoder_frames_per_second", ()): 60,
    ("gpu_encoder_latency_seconds", ()): 0.0015,
    ("gpu_temperature_limit_celsius", ("shutdown",)): 92,
    ("gpu_temperature_limit_celsius", ("slowdown",)): 89,
    ("gpu_temperature_limit_celsius", ("memory_max",)): 95,
    ("gpu_temperature_limit_celsius", ("gpu_max",)): 85,
    ("gpu_fan_speed_ratio", ("0",)): 0.38,
    ("gpu_fan_speed_ratio", ("1",)): 0.41,
    ("gpu_module_power_watts", ()): 1500.25,
    ("gpu_clock_event_seconds_total", ("sw_power_cap",)): 1.5,
    ("gpu_clock_event_seconds_total", ("sync_boost",)): 2.5,
    ("gpu_clock_event_seconds_total", ("sw_thermal_slowdown",)): 3.5,
    ("gpu_clock_event_seconds_total", ("hw_thermal_slowdown",)): 4.5,
    ("gpu_clock_event_seconds_total", ("hw_power_brake_slowdown",)): 5.5,
    ("gpu_ecc_errors_total", ("corrected", "volatile")): 13,
    ("gpu_ecc_errors_total", ("uncorrected", "volatile")): 14,
    ("gpu_ecc_errors_total", ("corrected", "aggregate")): 15,
    ("gpu_ecc_errors_total", ("uncorrected", "aggregate")): 16,
    ("gpu_ecc_location_errors_total", ("corrected", "volatile", "dram")): 2,
    ("gpu_ecc_location_errors_total", ("corrected", "volatile", "sram")): 7,
    ("gpu_ecc_location_errors_total", ("corrected", "aggregate", "dram")): 12,
    ("gpu_ecc_location_errors_total", ("corrected", "aggregate", "sram")): 17,
    ("gpu_ecc_location_errors_total", ("uncorrected", "volatile", "dram")): 102,
    ("gpu_ecc_location_errors_total", ("uncorrected", "volatile", "sram")): 107,
    ("gpu_ecc_location_errors_total", ("uncorrected", "aggregate", "dram")): 112,
    ("gpu_ecc_location_errors_total", ("uncorrected", "aggregate", "sram")): 117,
    ("gpu_sram_uncorrected_errors_total", ("volatile", "parity")): 1,
    ("gpu_sram_uncorrected_errors_total", ("volatile", "secded")): 2,
    ("gpu_sram_uncorrected_errors_total", ("aggregate", "parity")): 3,
    ("gpu_sram_uncorrected_errors_total", ("aggregate", "secded")): 4,
    ("gpu_sram_uncorrected_unit_errors_total", ("l2",)): 5,
    ("gpu_sram_uncorrected_unit_errors_total", ("sm",)): 6,
    ("gpu_sram_uncorrected_unit_errors_total", ("pcie",)): 7,
    ("gpu_sram_uncorrected_unit_errors_total", ("mcu",)): 8,
    ("gpu_sram_uncorrected_unit_errors_total", ("other",)): 9,
    ("gpu_sram_threshold_exceeded", ()): 1,
    ("gpu_retired_pages", ("single_bit",)): 11,
    ("gpu_retired_pages", ("double_bit",)): 12,
    ("gpu_retired_pages_pending", ()): 1,
    ("gpu_remapped_rows_total", ("correctable",)): 21,
    ("gpu_remapped_rows_total", ("uncorrectable",)): 22,
    ("gpu_remapped_rows_inactive", ("correctable",)): 31,
    ("gpu_remapped_rows_inactive", ("uncorrectable",)): 32,
    ("gpu_remapped_rows_pending", ()): 1,
    ("gpu_row_remap_failure", ()): 1,
    ("gpu_recovery_action", ()): 5,
    ("gpu_nvlink_errors_total", ("crc_flit",)): 41,
    ("gpu_nvlink_errors_total", ("crc_data",)): 42,
    ("gpu_nvlink_errors_total", ("replay",)): 43,
    ("gpu_nvlink_errors_total", ("recovery",)): 44,
    ("gpu_c2c_links", ()): 2,
    ("gpu_c2c_link_active", ("0",)): 1,
    ("gpu_c2c_link_active", ("1",)): 0,
    ("gpu_vgpu_licensed", ()): 1,
}


NOT_AVAILABLE = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("function", "values", "metrics", "problem"),
    [
        ("PowerUsage", {"value": NOT_AVAILABLE}, ["power_watts"], False),
        ("PowerUsage", {"value": 4_000_000_000}, ["power_watts"], True),
        ("UtilizationRates", {"gpu": 101}, ["utilization_ratio"], True),
        ("UtilizationRates", {"memory": NOT_AVAILABLE}, ["memory_utilization_ratio"], False),
        ("UtilizationRates", {"memory": 4294967000}, ["memory_utilization_ratio"], True),
        ("TotalEnergyConsumption", {"value": -1}, ["energy_joules_total"], False),
        ("TotalEnergyConsumption", {"value": 2**63}, ["energy_joules_total"], True),
        ("Temperature", {"0": -1}, ["temperature_celsius"], False),
        ("Temperature", {"0": -40}, ["temperature_celsius"], True),
        ("Temperature", {"0": 255}, ["temperature_celsius"], True),
        ("MemoryInfo_v2", {"used": 81560 * MIB}, ["memory_used_bytes"], True),
        ("MemoryInfo_v2", {"free": 2**60}, ["memory_free_bytes"], True),
        ("MemoryInfo_v2", {"total": 2**60}, ["memory_total_bytes"], True),
        ("MemoryInfo_v2", {"used": -1}, ["memory_used_bytes"], False),
        ("MemoryInfo_v2", {"total": 0, "used": 0, "free": 0, "reserved": 0}, ["memory_*"], False),
        ("ClockInfo", {"1": NOT_AVAILABLE}, ["clock_hertz sm"], False),
        ("ClockInfo", {"1": 4_000_000_000}, ["clock_hertz sm"], True),
    ],
)
def test_invalid_values_are_left_out(
    driver: Driver, function: str, values: dict[str, int], metrics: list[str], problem: bool
) -> None:
    driver.gpu(1).set(f"nvmlDeviceGet{function}", **values)
    if function == "Temperature":
        driver.gpu(1).set("nvmlDeviceGetTemperatureV", temperature=values["0"])
    if metrics == ["memory_*"]:
        metrics = [f"memory_{size}_bytes" for size in ("total", "used", "free", "reserved")]

    async def main() -> None:
        async with opened(driver) as source:
            outcome = (await poll_some(source, range(3)))[uuid(1)]
            missing = expected(1).keys() - samples(outcome).keys()
            absent = {" ".join((name.removeprefix("gpu_"), *labels)) for name, labels in missing}
            assert absent == set(metrics)
            assert isinstance(outcome, Reading)
            assert [type(error) for error in outcome.problems] == [LeftOut] * problem

    asyncio.run(main())


def test_an_invalid_name_is_left_out_and_reported_once(driver: Driver) -> None:
    driver.gpu(1).set("nvmlDeviceGetName", "NVIDIA \\xff\\xfe")
    driver.gpu(1).set("nvmlDeviceGetPciInfo_v3", busId="\\xff")
    driver.gpu(2).set("nvmlDeviceGetName", 'a "quoted" \\x0a \\x5c name')
    driver.system.set("nvmlSystemGetCudaDriverVersion", -5)

    async def main() -> None:
        async with opened(driver) as source:
            outcome = (await poll(source))[uuid(1)]
            assert isinstance(outcome, Reading)
            assert len(outcome.problems) == 3
            info = ("", "", "590.48.01", "", "96.00.A5.00.01", "13.590.48.01", "NVIDIA")
            assert any(labels[:7] == info for _, labels in samples(outcome))
            again = await poll(source)
            outcome = again[uuid(1)]
            assert isinstance(outcome, Reading)
            assert not outcome.problems
            assert any(labels[:7] == info for _, labels in samples(outcome))
            assert any(
                labels and labels[0] == 'a "quoted" \n \\ name'
                for _, labels in samples(again[uuid(2)])
            )

    asyncio.run(main())
