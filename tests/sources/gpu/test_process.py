"""The GPU source in a process of its own: other libraries, and the exit."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fakes.nvml.standin import LIBRARY, Driver
from tests.paths import ROOT

# Polls once as the daemon does and says what came of it, a line for each GPU.
PROGRAM = """
import asyncio, sys
from exporter.errors import SourceError
from exporter.model import Reading
from tests.sources.gpu import polling
from tests.sources.gpu.polling import make, poll

polling.DEADLINE = polling.SHORT

async def main():
    source = make()
    try:
        for name, outcome in (await poll(source)).items():
            problems = len(outcome.problems) if isinstance(outcome, Reading) else ""
            print(name, type(outcome).__name__, problems)
    except SourceError as error:
        print(type(error).__name__, error.message, "|", error.remedy)
    await source.close()

asyncio.run(main())
print("pynvml" in sys.modules)
"""


def run(environment: dict[str, str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.splitlines()


def test_a_host_without_the_library() -> None:
    probe = [sys.executable, "-c", f"import ctypes; ctypes.CDLL({LIBRARY!r})"]
    if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
        pytest.skip("this machine has the driver's library")
    said, imported = run(dict(os.environ))
    assert said.startswith("NotFound the NVIDIA driver's library cannot be loaded: ")
    assert f"{LIBRARY}: cannot open shared object file" in said
    assert "--gpus all" in said
    assert imported == "False"  # which costs memory on a host that has no GPU


def test_a_library_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / LIBRARY).write_bytes(b"")
    said, _ = run({**os.environ, "LD_LIBRARY_PATH": str(tmp_path)})
    assert said.startswith("NotFound the NVIDIA driver's library cannot be loaded: ")
    assert "file too short" in said


def test_a_driver_older_than_some_functions(tmp_path: Path) -> None:
    driver = Driver(
        tmp_path, gpus=2, without=["nvmlDeviceGetTemperatureV", "nvmlDeviceGetMemoryInfo_v2"]
    )
    *said, _ = run(driver.environment())
    assert [line.split()[1] for line in said] == ["Reading", "Reading"]
    assert driver.gpu(1).count("nvmlDeviceGetTemperatureV").calls == 0  # it is not there
    assert driver.gpu(1).count("nvmlDeviceGetTemperature").calls == 1
    assert driver.gpu(1).count("nvmlDeviceGetMemoryInfo").calls == 1


def test_a_driver_that_knows_hardly_anything(tmp_path: Path) -> None:
    """As of R450, before most of what is asked: all that is missing is left out, and no more."""
    newer = [
        "nvmlDeviceGetTemperatureV",
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetMarginTemperature",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetSramEccErrorStatus",
        "nvmlDeviceGetGpuFabricInfoV",
        "nvmlDeviceGetRowRemapperHistogram",
        "nvmlDeviceGetNumFans",
        "nvmlDeviceGetJpgUtilization",
        "nvmlDeviceGetOfaUtilization",
        "nvmlDeviceGetGridLicensableFeatures_v4",
        "nvmlDeviceGetProcessesUtilizationInfo",
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetGraphicsRunningProcesses_v3",
        "nvmlDeviceGetMPSComputeRunningProcesses_v3",
        "nvmlDeviceGetAttributes_v2",
        "nvmlSystemGetConfComputeState",
        "nvmlGpmQueryDeviceSupport",
        "nvmlGpmSampleAlloc",
        "nvmlGpmSampleGet",
        "nvmlGpmMigSampleGet",
        "nvmlGpmMetricsGet",
        "nvmlEventSetWait_v2",
        "nvmlDeviceGetFieldValues",
    ]
    driver = Driver(tmp_path, gpus=2, without=newer)
    driver.every_gpu.set("nvmlDeviceGetComputeRunningProcesses_v2", "")
    *said, _ = run(driver.environment())
    assert [line.split()[1:] for line in said] == [["Reading", "0"], ["Reading", "0"]]
    assert driver.gpu(1).count("nvmlDeviceGetPowerUsage").calls == 1
    assert driver.gpu(1).count("nvmlDeviceGetComputeRunningProcesses_v2").calls == 1


def test_calls_that_hang_do_not_hold_up_the_exit(tmp_path: Path) -> None:
    driver = Driver(tmp_path, gpus=3)
    driver.gpu(0).delay("nvmlDeviceGetHandleByIndex_v2", 60)
    driver.gpu(1).delay("nvmlDeviceGetPowerUsage", 60)
    started = time.monotonic()
    *said, _ = run(driver.environment())
    assert time.monotonic() - started < 10
    outcomes = ["DeadlineExceeded", "DeadlineExceeded", "Reading"]
    assert sorted(re.findall(r"DeadlineExceeded|Reading", "\n".join(said))) == outcomes
    assert driver.gpu(0).count().in_flight == 1
    assert driver.gpu(1).count().in_flight == 1
