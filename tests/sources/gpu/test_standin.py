"""The NVML stand-in: structure layouts, return codes and its control file."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
import time
from pathlib import Path

import pynvml
import pytest

from tests.fakes.nvml import cards, measured, standin
from tests.fakes.nvml.standin import Count, Driver
from tests.waiting import until


@pytest.fixture
def gpus() -> int:
    return 8


@pytest.mark.parametrize("name", sorted(standin.layouts()))
def test_layouts_are_those_of_pynvml(name: str) -> None:
    size, fields = standin.layouts()[name]
    struct = getattr(pynvml, name, None)
    if struct is None:
        pytest.skip("this release of pynvml is older than the structure")
    assert size == ctypes.sizeof(struct)
    assert fields == {
        field: (getattr(struct, field).offset, getattr(struct, field).size)
        for field, _ in struct._fields_
    }


def test_versions_are_those_of_pynvml() -> None:
    assert pynvml.nvmlMemory_v2 == 0x02000028
    assert getattr(pynvml, "nvmlTemperature_v1", 0x0100000C) == 0x0100000C  # not in old releases


def test_codes_are_those_of_pynvml() -> None:
    for name, code in vars(standin).items():
        if hasattr(pynvml, f"NVML_ERROR_{name}"):
            assert getattr(pynvml, f"NVML_ERROR_{name}") == code
    assert pynvml.NVML_ERROR_GPU_IS_LOST == standin.GPU_IS_LOST  # the loop compares some


def test_the_control_file_sets_results(driver: Driver) -> None:
    pynvml.nvmlInit()
    assert pynvml.nvmlDeviceGetCount() == 8
    handle = pynvml.nvmlDeviceGetHandleByIndex(3)
    assert pynvml.nvmlDeviceGetPowerUsage(handle) == 634_950
    assert pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM) == 2622
    driver.gpu(3).set("nvmlDeviceGetPowerUsage", 250_000)
    driver.gpu(3).set("nvmlDeviceGetName", "caf\\xc3\\xa9")
    assert pynvml.nvmlDeviceGetPowerUsage(handle) == 250_000
    assert pynvml.nvmlDeviceGetName(handle) == "café"
    driver.gpu(3).fail("nvmlDeviceGetPowerUsage", standin.UNKNOWN)
    with pytest.raises(pynvml.NVMLError_Unknown):
        pynvml.nvmlDeviceGetPowerUsage(handle)
    driver.gpu(3).unset("nvmlDeviceGetPowerUsage")
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetPowerUsage(handle)
    driver.gpu(3).lose()
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        pynvml.nvmlDeviceGetHandleByIndex(3)
    assert driver.gpu(3).count("nvmlDeviceGetPowerUsage") == Count(4, 0, 1)


def test_a_return_code_for_one_key_only(driver: Driver) -> None:
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    driver.gpu(0).fail("nvmlDeviceGetClockInfo", standin.NOT_SUPPORTED, key=3)
    assert pynvml.nvmlDeviceGetClockInfo(handle, 1) == 1975
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetClockInfo(handle, 3)


def test_calls_and_fields_take_the_cpu_time_of_the_real_card(tmp_path: Path) -> None:
    driver = Driver(tmp_path, gpus=2, card=cards.factory("h100vm_load"))
    driver.load()
    driver.set_costs(measured.costs("h100vm_load"))
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(1)
    started = time.thread_time()
    pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    assert time.thread_time() - started >= 5.44e-3
    pynvml.nvmlDeviceGetFieldValues(handle, [75, 197, 3, 4])  # 75 and 197 are expensive
    pynvml.nvmlDeviceGetMaxClockInfo(handle, 2)
    pynvml.nvmlDeviceGetPowerUsage(handle)  # as the other cheap calls
    for function, nanoseconds in (
        ("nvmlDeviceGetTotalEnergyConsumption", 5_440_000),
        ("nvmlDeviceGetFieldValues", 535_000 + 134_000 + 2 * 4_000),
        ("nvmlDeviceGetMaxClockInfo", 1_454_000),
        ("nvmlDeviceGetPowerUsage", 15_800),
    ):
        count = driver.gpu(1).count(function)
        assert count.cost == nanoseconds
        assert count.spent >= nanoseconds
    assert driver.gpu(0).count("nvmlDeviceGetPowerUsage").cost == 0


def test_a_delayed_call_ends_when_the_delay_is_removed(driver: Driver) -> None:
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    driver.gpu(0).delay("nvmlDeviceGetPowerUsage", 60)
    results: list[int] = []
    thread = threading.Thread(
        target=lambda: results.append(pynvml.nvmlDeviceGetPowerUsage(handle)), daemon=True
    )
    thread.start()
    until(lambda: driver.gpu(0).count().in_flight, "the call")
    assert pynvml.nvmlDeviceGetName(handle)  # other calls continue
    assert driver.gpu(0).count().max_in_flight == 2
    driver.gpu(0).heal()
    thread.join(10)
    assert results == [631_950], "long before the delay has passed"


def test_handles_of_an_earlier_initialisation_are_invalid(driver: Driver) -> None:
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    driver.uninitialise()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetName(handle)
    pynvml.nvmlInit()
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetName(handle)
    assert pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))


def test_another_process_loads_it_without_a_symbol(tmp_path: Path) -> None:
    driver = Driver(tmp_path, gpus=2, without=["nvmlDeviceGetMemoryInfo_v2"])
    program = """if True:
        import pynvml
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(1)
        print(pynvml.nvmlDeviceGetCount(), pynvml.nvmlDeviceGetTemperature(handle, 0))
        try:
            pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2)
        except pynvml.NVMLError_FunctionNotFound as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=driver.environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout == "2 60\nFunction Not Found\n", done.stderr
    assert driver.gpu(1).count("nvmlDeviceGetTemperature").calls == 1
