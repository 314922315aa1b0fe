"""On a machine with an NVIDIA GPU: compares the source's values with nvidia-smi's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from tests.paths import ROOT

# A separate process: this one may have the stand-in loaded.
PROGRAM = """
import asyncio, json
from tests.sources.gpu.polling import make_source, poll, samples

async def main():
    source = make_source()
    readings = {}
    await poll(source)
    await asyncio.sleep(1)  # between two GPM samples
    for uuid, outcome in (await poll(source)).items():
        values = [[name, list(labels), value] for (name, labels), value in samples(outcome).items()]
        readings[uuid] = values, [problem.message for problem in outcome.problems]
    print(json.dumps(readings))
    await source.close()

asyncio.run(main())
"""
QUERY = (
    "uuid,name,pci.bus_id,driver_version,vbios_version,memory.total,memory.reserved,"
    "memory.used,temperature.gpu,clocks.current.sm,power.draw"
)
# Constant values: nvidia-smi's field, the sample, factor.
STEADY: tuple[tuple[str, tuple[str, ...], float], ...] = (
    ("power.limit", ("gpu_power_limit_watts", "set"), 1),
    ("enforced.power.limit", ("gpu_power_limit_watts", "enforced"), 1),
    ("power.default_limit", ("gpu_power_limit_watts", "default"), 1),
    ("power.min_limit", ("gpu_power_limit_watts", "min"), 1),
    ("power.max_limit", ("gpu_power_limit_watts", "max"), 1),
    ("clocks.max.sm", ("gpu_clock_max_hertz", "sm"), 1e6),
    ("clocks.max.memory", ("gpu_clock_max_hertz", "memory"), 1e6),
    ("pcie.link.gen.max", ("gpu_pcie_link_max_generation",), 1),
    ("pcie.link.width.max", ("gpu_pcie_link_max_width",), 1),
    ("ecc.errors.corrected.volatile.total", ("gpu_ecc_errors_total", "corrected", "volatile"), 1),
    (
        "ecc.errors.uncorrected.aggregate.total",
        ("gpu_ecc_errors_total", "uncorrected", "aggregate"),
        1,
    ),
    ("remapped_rows.correctable", ("gpu_remapped_rows_total", "correctable"), 1),
    ("remapped_rows.uncorrectable", ("gpu_remapped_rows_total", "uncorrectable"), 1),
)


def nvidia_smi(fields: str) -> list[list[str]]:
    """Returns nvidia-smi's output, a line for each GPU; skips the test without a GPU."""
    smi = shutil.which("nvidia-smi")
    query = [smi or "", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    if smi is None or subprocess.run(query, capture_output=True, check=False).returncode != 0:
        pytest.skip("no NVIDIA GPU with its driver on this machine")
    done = subprocess.run(query, capture_output=True, text=True, check=True)
    return [line.split(", ") for line in done.stdout.splitlines()]


def read_source() -> dict[str, tuple[dict[tuple[str, ...], float], list[str]]]:
    """Returns samples and problems by UUID."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return {
        uuid: ({(name, *labels): value for name, labels, value in values}, problems)
        for uuid, (values, problems) in json.loads(done.stdout).items()
    }


@pytest.mark.gpu
def test_constant_values_are_those_of_nvidia_smi() -> None:
    """Every value that nvidia-smi has is exported and equal."""
    fields = ["uuid", *(field for field, _, _ in STEADY)]
    lines = nvidia_smi(",".join(fields))
    readings = read_source()
    for uuid, *texts in lines:
        shown, problems = readings[uuid]
        assert not problems
        for text, (field, key, factor) in zip(texts, STEADY, strict=True):
            if text not in {"[N/A]", "N/A", "[Deprecated]", ""}:
                assert shown[key] == pytest.approx(float(text) * factor, abs=0.01 * factor), field


@pytest.mark.gpu
def test_metrics_of_every_card_of_an_architecture() -> None:
    """Processes everywhere; GPM within its bounds on Hopper and newer."""
    for uuid, capability in nvidia_smi("uuid,compute_cap"):
        shown, problems = read_source()[uuid]
        assert not problems
        assert ("gpu_processes",) in shown
        if float(capability) >= 9:
            assert 0 <= shown["gpu_sm_active_ratio",] <= 1
            assert 0 <= shown["gpu_dram_active_ratio",] <= 1


@pytest.mark.gpu
def test_against_nvidia_smi() -> None:
    lines = nvidia_smi(QUERY)
    readings = read_source()
    assert len(readings) == len(lines) > 0
    for line in lines:
        uuid, name, bus, driver, vbios, *numbers = line
        total, reserved, used, temperature, sm, power = (
            None if number in {"[N/A]", "N/A", ""} else float(number) for number in numbers
        )
        shown, problems = readings[uuid]
        assert not problems
        (info,) = (key[1:] for key in shown if key[0] == "gpu_info")
        assert info[0] == name
        assert info[1].lower() == bus.lower()
        assert info[2] == driver
        assert info[4] == vbios
        mib = 1024 * 1024
        for key, size, slack in (
            ("gpu_memory_total_bytes", total, 1),
            ("gpu_memory_reserved_bytes", reserved, 1),
            ("gpu_memory_used_bytes", used, 256),  # other processes start and end meanwhile
        ):
            if size is not None:
                assert shown[key,] == pytest.approx(size * mib, abs=slack * mib)
        if temperature is not None:
            assert shown["gpu_temperature_celsius",] == pytest.approx(temperature, abs=5)
        if sm is not None:
            assert 0 < shown["gpu_clock_hertz", "sm"] < 4e9
        if power is not None:
            assert shown["gpu_power_watts",] == pytest.approx(power, rel=0.5, abs=50)
