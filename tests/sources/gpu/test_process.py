"""The GPU source in a separate process: missing and old libraries, and the exit."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from tests import clean_interpreter
from tests.clean_interpreter import REGISTRY
from tests.fakes.nvml.standin import LIBRARY, Driver

# Polls once as the daemon does and prints the outcome, a line for each GPU. Ends a read that hangs.
PROGRAM = """
import asyncio, os, sys
from pathlib import Path
from exporter.errors import SourceError
from exporter.model import Reading
from tests.sources.gpu import polling
from tests.sources.gpu.polling import make_source, poll

polling.DEADLINE = float(sys.argv[1])
if file := os.environ.get("NVML_STANDIN_FILE"):
    polling.hung_driver = Path(file)

async def main():
    source = make_source()
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


AFTER = (*REGISTRY, "import tests.sources.gpu.polling")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of the library in the folder of LD_LIBRARY_PATH."""
    return tmp_path_factory.mktemp("library") / LIBRARY


@pytest.fixture(autouse=True)
def no_library(library: Path) -> None:
    library.unlink(missing_ok=True)


def run(library: Path, driver: Driver | None = None, deadline: float = 20) -> list[str]:
    environment = dict(os.environ)
    if driver is not None:
        library.symlink_to(driver.library)
        environment = driver.environment()
    done = clean_interpreter.run(
        PROGRAM,
        str(deadline),
        after=AFTER,
        environment=environment,
        library_path=str(library.parent),
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.splitlines()


def test_a_host_without_the_library(library: Path) -> None:
    probe = f"import ctypes; ctypes.CDLL({LIBRARY!r})"
    if clean_interpreter.run(probe, library_path=str(library.parent)).returncode == 0:
        pytest.skip("this machine has the driver's library")
    output, imported = run(library)
    assert output.startswith("NotFound the NVIDIA driver's library cannot be loaded: ")
    assert f"{LIBRARY}: cannot open shared object file" in output
    assert "--gpus all" in output
    assert imported == "False"  # it would cost memory on a host without GPUs


def test_a_library_that_cannot_be_loaded(library: Path) -> None:
    library.write_bytes(b"")
    output, _ = run(library)
    assert output.startswith("NotFound the NVIDIA driver's library cannot be loaded: ")
    assert "file too short" in output


def test_a_driver_older_than_some_functions(tmp_path: Path, library: Path) -> None:
    driver = Driver(
        tmp_path, gpus=2, without=["nvmlDeviceGetTemperatureV", "nvmlDeviceGetMemoryInfo_v2"]
    )
    *output, _ = run(library, driver)
    assert [line.split()[1] for line in output] == ["Reading", "Reading"]
    assert driver.gpu(1).count("nvmlDeviceGetTemperatureV").calls == 0  # a missing symbol
    assert driver.gpu(1).count("nvmlDeviceGetTemperature").calls == 1
    assert driver.gpu(1).count("nvmlDeviceGetMemoryInfo").calls == 1


def test_a_driver_without_most_functions(tmp_path: Path, library: Path) -> None:
    """As R450, which lacks most functions: their values are missing, without problems."""
    missing_functions = [
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
    driver = Driver(tmp_path, gpus=2, without=missing_functions)
    driver.every_gpu.set("nvmlDeviceGetComputeRunningProcesses_v2", "")
    *output, _ = run(library, driver)
    assert [line.split()[1:] for line in output] == [["Reading", "0"], ["Reading", "0"]]
    assert driver.gpu(1).count("nvmlDeviceGetPowerUsage").calls == 1
    assert driver.gpu(1).count("nvmlDeviceGetComputeRunningProcesses_v2").calls == 1


def test_hung_calls_do_not_block_the_exit(tmp_path: Path, library: Path) -> None:
    driver = Driver(tmp_path, gpus=3)
    driver.gpu(0).delay("nvmlDeviceGetHandleByIndex_v2", 60)
    driver.gpu(1).delay("nvmlDeviceGetPowerUsage", 60)
    # Half of the deadline is for the UUIDs: more than a busy machine needs for that of GPU 2.
    started = time.monotonic()
    *output, _ = run(library, driver, deadline=5)
    assert time.monotonic() - started < 40, "the calls take a minute"
    outcomes = ["DeadlineExceeded", "DeadlineExceeded", "Reading"]
    assert sorted(re.findall(r"DeadlineExceeded|Reading", "\n".join(output))) == outcomes
    assert driver.gpu(0).count().in_flight == 1
    assert driver.gpu(1).count().in_flight == 1
