"""On a machine with an NVIDIA GPU: what the source reads against what nvidia-smi prints."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own: this one may have the stand-in loaded.
PROGRAM = """
import asyncio, json
from tests.gpu.polling import make, poll, samples

async def main():
    source = make()
    found = {}
    for uuid, outcome in (await poll(source)).items():
        values = [[name, list(labels), value] for (name, labels), value in samples(outcome).items()]
        found[uuid] = values, [problem.message for problem in outcome.problems]
    print(json.dumps(found))
    await source.close()

asyncio.run(main())
"""
QUERY = (
    "uuid,name,pci.bus_id,driver_version,vbios_version,memory.total,memory.reserved,"
    "memory.used,temperature.gpu,clocks.current.sm,power.draw"
)


@pytest.mark.gpu
def test_against_nvidia_smi() -> None:
    smi = shutil.which("nvidia-smi")
    query = [smi or "", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    if smi is None or subprocess.run(query, capture_output=True, check=False).returncode != 0:
        pytest.skip("no NVIDIA GPU with its driver on this machine")
    lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = json.loads(done.stdout)
    assert len(found) == len(lines) > 0
    for line in lines:
        uuid, name, bus, driver, vbios, *numbers = line.split(", ")
        total, reserved, used, temperature, sm, power = (
            None if number in {"[N/A]", "N/A", ""} else float(number) for number in numbers
        )
        values, problems = found[uuid]
        assert not problems
        shown = {(name, *labels): value for name, labels, value in values}
        (info,) = (key[1:] for key in shown if key[0] == "gpu_info")
        assert info[0] == name
        assert info[1].lower() == bus.lower()
        assert info[2] == driver
        assert info[4] == vbios
        mib = 1024 * 1024
        for key, size, slack in (
            ("gpu_memory_total_bytes", total, 1),
            ("gpu_memory_reserved_bytes", reserved, 1),
            ("gpu_memory_used_bytes", used, 256),  # other programs come and go meanwhile
        ):
            if size is not None:
                assert shown[key,] == pytest.approx(size * mib, abs=slack * mib)
        if temperature is not None:
            assert shown["gpu_temperature_celsius",] == pytest.approx(temperature, abs=5)
        if sm is not None:
            assert 0 < shown["gpu_clock_hertz", "sm"] < 4e9
        if power is not None:
            assert shown["gpu_power_watts",] == pytest.approx(power, rel=0.5, abs=50)
