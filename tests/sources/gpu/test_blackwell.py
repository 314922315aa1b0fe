"""Values of Blackwell: a GPU of a GB200 with NVLink 5 and chip-to-chip links, and a GB10."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest

from exporter.model import Reading
from exporter.sources.gpu.nvml.nvlink5 import bit_error_ratio, nvlink5_fields
from tests.fakes.nvml import cards, standin
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import Driver
from tests.sources.gpu.polling import Samples, opened, poll, samples

pytestmark = pytest.mark.skipif(
    not hasattr(pynvml, "nvmlDeviceGetRepairStatus"), reason="an old release of pynvml"
)

# The stand-in's count of field N and link L is 1000 N + L: over 18 links 18,000 N + 153.
ERRORS = {
    "malformed_packet": 206,
    "buffer_overrun": 207,
    "receive": 208,
    "receive_remote": 209,
    "receive_general": 210,
    "local_link_integrity": 211,
    "transmit_discard": 212,
    "effective": 219,
    "symbol": 221,
    "raw_lane0": 289,
    "raw_lane1": 290,
}


def total(field: int) -> int:
    return 18_000 * field + 153


NVLINK5: Samples = {
    ("gpu_nvlink5_packets_total", ("transmit",)): 3_618_153,
    ("gpu_nvlink5_packets_total", ("receive",)): 3_654_153,
    ("gpu_nvlink5_bytes_total", ("transmit",)): 3_636_153,
    ("gpu_nvlink5_bytes_total", ("receive",)): 3_672_153,
    ("gpu_nvlink5_recoveries_total", ("successful",)): 3_834_153,
    ("gpu_nvlink5_recoveries_total", ("failed",)): 3_852_153,
    ("gpu_nvlink5_transmit_blocks_total", ("transmitted",)): 5_292_153,
    ("gpu_nvlink5_transmit_blocks_total", ("retried",)): 5_310_153,
    **{("gpu_nvlink5_errors_total", (error,)): total(field) for error, field in ERRORS.items()},
    **{
        ("gpu_nvlink5_corrected_symbol_errors_total", (str(number),)): total(235 + number)
        for number in range(16)
    },
    ("gpu_nvlink5_bit_error_ratio", ("effective",)): 6e-12,
    ("gpu_nvlink5_bit_error_ratio", ("symbol",)): 4e-15,
    ("gpu_nvlink5_bit_error_ratio", ("raw",)): 2e-6,
    ("gpu_nvlink5_bit_error_ratio", ("raw_lane0",)): 1e-7,
    ("gpu_nvlink5_bit_error_ratio", ("raw_lane1",)): 2e-7,
}
OTHERS: Samples = {
    ("gpu_c2c_errors_total", ("crc",)): 3,
    ("gpu_c2c_errors_total", ("replay",)): 5,
    ("gpu_c2c_errors_total", ("replay_back_to_back",)): 7,
    ("gpu_c2c_link_low_power", ("0",)): 0,
    ("gpu_c2c_link_low_power", ("1",)): 1,
    ("gpu_repair_pending", ("channel",)): 0,
    ("gpu_repair_pending", ("tpc",)): 1,
    ("gpu_dram_encryption_mode", ()): 1,
    ("gpu_dram_encryption_mode_pending", ()): 0,
    ("gpu_sram_uncorrected_error_locations", ("parity",)): 1,
    ("gpu_sram_uncorrected_error_locations", ("secded",)): 2,
    ("gpu_power_profile_enforced", ("llm_inference",)): 1,
    ("gpu_power_profile_enforced", ("sync_balanced",)): 0,
}
FIELD_VALUES = "nvmlDeviceGetFieldValues"


@pytest.fixture
def gb200(tmp_path: Path) -> Driver:
    driver = Driver(tmp_path, gpus=1, card=cards.factory("gb200"))
    driver.load()
    return driver


async def first_poll(driver: Driver, procfs: str = "/proc") -> Reading:
    async with opened(driver, procfs=procfs) as source:
        outcome = (await poll(source))[uuid(0)]
    assert isinstance(outcome, Reading)
    return outcome


def shown(driver: Driver, procfs: str = "/proc") -> Samples:
    reading = asyncio.run(first_poll(driver, procfs))
    assert not reading.problems
    return samples(reading)


def of(values: Samples, *expected: Samples) -> Samples:
    """Returns the samples of the metrics that the expected samples have."""
    names = {name for each in expected for name, _ in each}
    return {key: value for key, value in values.items() if key[0] in names}


def test_a_gb200(gb200: Driver) -> None:
    values = shown(gb200)
    assert of(values, NVLINK5, OTHERS) == pytest.approx(NVLINK5 | OTHERS)
    (labels,) = (labels for name, labels in values if name == "gpu_info")
    assert labels[-1] == "3", "the module"


def test_ids_are_those_of_pynvml() -> None:
    names = {
        201: "COUNT_XMIT_PACKETS",
        204: "COUNT_RCV_BYTES",
        206: "COUNT_MALFORMED_PACKET_ERRORS",
        208: "COUNT_RCV_ERRORS",
        209: "COUNT_RCV_REMOTE_ERRORS",
        210: "COUNT_RCV_GENERAL_ERRORS",
        211: "COUNT_LOCAL_LINK_INTEGRITY_ERRORS",
        212: "COUNT_XMIT_DISCARDS",
        213: "COUNT_LINK_RECOVERY_SUCCESSFUL_EVENTS",
        214: "COUNT_LINK_RECOVERY_FAILED_EVENTS",
        219: "COUNT_EFFECTIVE_ERRORS",
        220: "COUNT_EFFECTIVE_BER",
        221: "COUNT_SYMBOL_ERRORS",
        222: "COUNT_SYMBOL_BER",
        235: "COUNT_FEC_HISTORY_0",
        250: "COUNT_FEC_HISTORY_15",
        289: "COUNT_RAW_ERRORS_LANE0",
        293: "COUNT_RAW_BER_V2",
        294: "PLR_XMIT_BLOCKS",
        295: "PLR_XMIT_RETRY_BLOCKS",
    }
    for number, name in names.items():
        assert getattr(pynvml, f"NVML_FI_DEV_NVLINK_{name}") == number
    assert {field.id for field in nvlink5_fields(0)} >= names.keys()


@pytest.mark.parametrize(
    ("encoded", "ratio"),
    [(0, 0.0), (0x10F, 1e-15), (0xF00, 15.0), (0x5FF, 5e-255), (0xFFFF1206, 2e-6)],
)
def test_bit_error_ratios(encoded: int, ratio: float) -> None:
    assert bit_error_ratio(encoded) == pytest.approx(ratio, rel=1e-12)


def test_a_sum_without_one_of_the_links_is_absent(gb200: Driver) -> None:
    gb200.gpu(0).fail(FIELD_VALUES, standin.UNKNOWN, key="221.7")
    gb200.gpu(0).fail(FIELD_VALUES, standin.UNKNOWN, key="232.1")
    values = samples(asyncio.run(first_poll(gb200)))
    assert ("gpu_nvlink5_errors_total", ("symbol",)) not in values
    assert values["gpu_nvlink5_errors_total", ("effective",)] == total(219)
    assert ("gpu_c2c_errors_total", ("replay",)) not in values
    assert values["gpu_c2c_link_low_power", ("1",)] == 1


def test_what_the_first_link_does_not_support_is_not_asked_of_the_others(
    tmp_path: Path, advance: Callable[[float], None]
) -> None:
    driver = Driver(tmp_path, gpus=1)  # an H100
    driver.load()
    requested = 0

    def calls() -> int:
        return driver.gpu(0).count(FIELD_VALUES).calls

    async def main() -> None:
        nonlocal requested
        async with opened(driver) as source:
            await poll(source)
            advance(60)
            before = calls()
            await poll(source)
            requested = calls() - before

    asyncio.run(main())
    # Every poll, a minute, the throttle times, the thermal ones, link counts, links: no others.
    assert requested <= 6


def test_no_profile_and_no_location(gb200: Driver) -> None:
    gb200.gpu(0).set("nvmlDeviceWorkloadPowerProfileGetCurrentProfiles", requested="", enforced="")
    gb200.gpu(0).set("nvmlDeviceGetSramUniqueUncorrectedEccErrorCounts", "")
    values = shown(gb200)
    assert not any(name == "gpu_power_profile_enforced" for name, _ in values)
    assert values["gpu_sram_uncorrected_error_locations", ("secded",)] == 0


def test_an_unknown_profile_has_its_number(gb200: Driver) -> None:
    gb200.gpu(0).set("nvmlDeviceWorkloadPowerProfileGetCurrentProfiles", enforced="0 200")
    values = shown(gb200)
    assert values["gpu_power_profile_enforced", ("max_p",)] == 1
    assert values["gpu_power_profile_enforced", ("200",)] == 1


def test_too_many_locations(gb200: Driver) -> None:
    gb200.gpu(0).set("nvmlDeviceGetSramUniqueUncorrectedEccErrorCounts", "0:1 " * 5000)
    reading = asyncio.run(first_poll(gb200))
    assert not any(name == "gpu_sram_uncorrected_error_locations" for name, _ in samples(reading))
    assert [problem.message for problem in reading.problems] == ["sram_locations: 5000 entries"]


@pytest.fixture
def gb10(tmp_path: Path) -> Driver:
    driver = Driver(tmp_path, gpus=1, card=cards.factory("gb10"))
    driver.load()
    (tmp_path / "meminfo").write_text(
        "MemTotal:       127600748 kB\nMemFree:  1 kB\nMemAvailable:   118566368 kB\n"
    )
    return driver


def memory(values: Samples) -> Samples:
    return {key: value for key, value in values.items() if "_memory_" in key[0]}


def test_a_gpu_with_the_memory_of_the_host(gb10: Driver, tmp_path: Path) -> None:
    values = memory(shown(gb10, str(tmp_path)))
    assert values["gpu_system_memory_total_bytes", ()] == 130_663_165_952
    assert values["gpu_system_memory_available_bytes", ()] == 121_411_960_832
    assert ("gpu_memory_total_bytes", ()) not in values
    assert ("gpu_memory_used_bytes", ()) not in values


def test_the_hosts_memory_is_shown_of_no_other_gpu(gb10: Driver, tmp_path: Path) -> None:
    gpu = gb10.gpu(0)
    system = ("gpu_system_memory_total_bytes", ())
    gpu.set("nvmlDeviceGetAddressingMode", 0)
    assert system not in shown(gb10, str(tmp_path))
    gpu.unset("nvmlDeviceGetAddressingMode")
    assert system not in shown(gb10, str(tmp_path))
    gpu.set("nvmlDeviceGetAddressingMode", 2)
    gpu.fail("nvmlDeviceGetMemoryInfo_v2", standin.UNKNOWN)
    assert system not in samples(asyncio.run(first_poll(gb10, str(tmp_path))))
    gpu.heal()
    gpu.set("nvmlDeviceGetMemoryInfo_v2", total=1000, reserved=0, used=10, free=990)
    values = shown(gb10, str(tmp_path))  # as a GH200
    assert system not in values
    assert values["gpu_memory_total_bytes", ()] == 1000


def test_without_the_hosts_memory(gb10: Driver, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable: 200 kB\n")
    assert ("gpu_system_memory_available_bytes", ()) not in shown(gb10, str(tmp_path))
    (tmp_path / "meminfo").write_text("MemTotal: -1 kB\nMemAvailable: many\n")
    assert ("gpu_system_memory_total_bytes", ()) not in shown(gb10, str(tmp_path))
    (tmp_path / "meminfo").unlink()
    assert ("gpu_system_memory_total_bytes", ()) not in shown(gb10, str(tmp_path))
