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


# Bursts of a matrix product; prints the share of the time in which the GPU was busy. Needs PyTorch.
BURSTS = """
import time, torch
a = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)
(a @ a).sum().item()
print("ready", flush=True)
started, busy = time.monotonic(), 0.0
while time.monotonic() - started < 20:
    burst = time.monotonic()
    while time.monotonic() - burst < 0.3:
        for _ in range(20):
            a @ a
        torch.cuda.synchronize()
    busy += time.monotonic() - burst
    time.sleep(1.2)
print(busy, flush=True)
"""
# Reads the source at irregular moments until standard input ends; prints each counter's increase.
COUNTERS = """
import asyncio, json, sys
from tests.sources.gpu.polling import make_source, poll, samples

async def main():
    source = make_source()
    async def read():
        (outcome,) = (await poll(source)).values()
        return {name: value for (name, labels), value in samples(outcome).items() if not labels}
    await read()
    await asyncio.sleep(1)
    first = await read()
    print("ready", flush=True)
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for number in range(60):
        if ended.done():
            break
        await asyncio.sleep((0.4, 2.1, 4.5)[number % 3])
        last = await read()
    last = await read()
    print(json.dumps({name: last[name] - first[name] for name in last if name in first}))
    await source.close()

asyncio.run(main())
"""


def _with_torch() -> str:
    """Returns a Python interpreter that has PyTorch; skips the test without one."""
    for program in filter(None, (sys.executable, shutil.which("python3"))):
        if (
            subprocess.run(
                [program, "-c", "import torch"], capture_output=True, check=False
            ).returncode
            == 0
        ):
            return program
    pytest.skip("no PyTorch to put load on the GPU")


@pytest.mark.gpu
def test_busy_seconds_of_bursts() -> None:
    """The counters have the true duty, at irregular polls of up to 4.5 s."""
    if len(nvidia_smi("uuid")) != 1:
        pytest.skip("needs a machine with one GPU")
    counters = subprocess.Popen(
        [sys.executable, "-c", COUNTERS],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    load = subprocess.Popen([_with_torch(), "-c", BURSTS], stdout=subprocess.PIPE, text=True)
    try:
        assert counters.stdout is not None
        assert load.stdout is not None
        assert load.stdout.readline() == "ready\n"
        assert counters.stdout.readline() == "ready\n"
        output, _ = load.communicate(timeout=60)
        busy = float(output)
        output, _ = counters.communicate(timeout=60)
        increase = json.loads(output)
    finally:
        for process in (load, counters):
            process.kill()
            process.wait()
    assert increase["gpu_busy_seconds_total"] == pytest.approx(busy, rel=0.15), increase


@pytest.mark.gpu
def test_events_are_registered() -> None:
    """The XIDs that need action, and the events of the card, are exported from 0."""
    nvidia_smi("uuid")
    for uuid, (shown, problems) in read_source().items():
        assert not problems
        assert ("gpu_xid_errors_total", "79") in shown, uuid
        assert any(name == "gpu_events_total" for name, *_ in shown), uuid
