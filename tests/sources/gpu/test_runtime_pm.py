"""Runtime power management: a suspended GPU is not woken, and has no stale values."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from exporter.errors import SourceError
from exporter.model import Reading
from exporter.sources.gpu import source as source_module
from exporter.sources.gpu.nvml import query
from exporter.sources.gpu.reading import GpuRow
from exporter.sources.gpu.runtime_pm import RuntimePm, pci_device_path
from exporter.sources.gpu.source import GpuSource
from tests.daemon import QUICK, find, off, running
from tests.fakes.nvml import standin
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import Driver
from tests.sources.gpu.polling import Samples, opened, poll, read, samples
from tests.waiting import until, until_async, until_result

# The counters of its events remain.
EVENTS = {"gpu_xid_errors_total", "gpu_events_total"}
SUSPENDED = ("gpu_suspended", ())
BUSY = ("gpu_sm_active_ratio", ())
# GPU N of the stand-in is at 00000000:00:(9 + N).0.
ADDRESSES = [f"0000:00:{9 + number:02x}.0" for number in range(6)]


@pytest.fixture
def gpus() -> int:
    return 6


class Sys:
    """A /sys with the PCI devices of eight GPUs, all active."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for gpu in range(6):
            self.file(gpu).parent.mkdir(parents=True)
            self.set(gpu, "active")

    def file(self, gpu: int) -> Path:
        device = self.folder / "bus" / "pci" / "devices" / ADDRESSES[gpu]
        return device / "power" / "runtime_status"

    def set(self, gpu: int, status: str) -> None:
        self.file(gpu).write_text(f"{status}\n")


@pytest.fixture
def sysfs(tmp_path: Path) -> Sys:
    return Sys(tmp_path / "sys")


def samples_of(outcome: object) -> Samples:
    assert isinstance(outcome, Reading), outcome
    assert not outcome.problems
    return samples(outcome)


async def poll_times(source: GpuSource, count: int = 3) -> None:
    for _ in range(count):
        await poll(source)


@pytest.mark.parametrize("status", ["suspended", "suspending"])
def test_a_suspended_gpu_gets_no_call(driver: Driver, sysfs: Sys, status: str) -> None:
    async def main() -> None:
        async with opened(driver, sysfs=str(sysfs.folder)) as source:
            active = samples_of((await poll(source))[uuid(3)])
            assert active[SUSPENDED] == 0
            sysfs.set(3, status)
            before = {gpu: driver.gpu(gpu).count().calls for gpu in (3, 4)}
            for _ in range(3):
                outcomes = await poll(source)
                shown = samples_of(outcomes[uuid(3)])
                assert {name for name, _ in shown} == {"gpu_info", "gpu_suspended"} | EVENTS
                assert shown[SUSPENDED] == 1
                info = [key for key in active if key[0] == "gpu_info"]
                assert [key for key in shown if key[0] == "gpu_info"] == info
                assert samples_of(outcomes[uuid(4)])[SUSPENDED] == 0
            assert driver.gpu(3).count().calls == before[3]
            assert driver.gpu(4).count().calls > before[4]
            sysfs.set(3, "active")
            again = samples_of((await poll(source))[uuid(3)])
            assert again[SUSPENDED] == 0
            assert again["gpu_power_watts", ()] == 634.95
            assert again.keys() == active.keys()

    asyncio.run(main())


def test_after_a_suspension_gpm_restarts_and_cached_values_are_read(
    driver: Driver, sysfs: Sys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPM value must not average over a suspension."""
    late = 0.0
    monkeypatch.setattr(query, "monotonic", lambda: time.monotonic() + late)
    limit = ("gpu_power_limit_watts", ("set",))

    async def main() -> None:
        nonlocal late
        async with opened(driver, sysfs=str(sysfs.folder)) as source:
            await poll(source)
            late += 5
            assert BUSY in samples_of((await poll(source))[uuid(0)])
            sysfs.set(0, "suspended")
            late += 5
            await poll(source)
            driver.gpu(0).set("nvmlDeviceGetPowerManagementLimit", 500_000)
            sysfs.set(0, "active")
            late += 5
            shown = samples_of((await poll(source))[uuid(0)])
            assert BUSY not in shown
            assert shown[limit] == 500
            late += 5
            assert samples_of((await poll(source))[uuid(0)])[BUSY] == 0.9125
            # Two samples each for six GPUs: those from before the suspension were freed.
            allocated = driver.system.count("nvmlGpmSampleAlloc").calls
            assert allocated - driver.system.count("nvmlGpmSampleFree").calls == 12

    asyncio.run(main())


@pytest.mark.usefixtures("counted_each_time")
def test_it_stays_suspended_in_a_new_initialisation(driver: Driver, sysfs: Sys) -> None:
    async def main() -> None:
        async with opened(driver, sysfs=str(sysfs.folder)) as source:
            targets = {target.name: target for target in await source.discover()}
            await poll_times(source, 1)
            sysfs.set(0, "suspended")
            before = driver.gpu(0).count().calls
            driver.uninitialise()  # requires a new initialisation
            with pytest.raises(SourceError):
                await poll(source)
            await poll_times(source)
            assert isinstance(await read(targets[uuid(0)]), Reading)
            assert driver.gpu(0).count().calls == before
            assert driver.system.count("nvmlInitWithFlags").calls == 2
            sysfs.set(0, "active")
            assert len(samples_of((await poll(source))[uuid(0)])) > 100

    asyncio.run(main())


def test_events_of_other_gpus_do_not_wake_it(driver: Driver, sysfs: Sys) -> None:
    """The event listener continues, and creates a new set, without a call for it."""

    async def main() -> None:
        async with opened(driver, sysfs=str(sysfs.folder)) as source:
            await poll_times(source, 1)
            sysfs.set(0, "suspended")
            await poll_times(source, 1)
            before = driver.gpu(0).count().calls
            waits = driver.system.count("nvmlEventSetWait_v2").calls
            driver.emit_event(1, 79)
            xid = ("gpu_xid_errors_total", ("79",))
            await until_result(
                lambda: poll(source), lambda outcomes: samples_of(outcomes[uuid(1)])[xid] == 1
            )
            await until_async(
                lambda: driver.system.count("nvmlEventSetWait_v2").calls > waits + 3, "waits"
            )
            assert driver.gpu(0).count().calls == before
            driver.emit_event(0, 48)  # while it is suspended: exported once it is active
            sysfs.set(0, "active")
            other = ("gpu_xid_errors_total", ("48",))
            await until_result(
                lambda: poll(source), lambda outcomes: samples_of(outcomes[uuid(0)])[other] == 1
            )

    asyncio.run(main())


def test_a_failed_gpu_is_not_woken_while_suspended(driver: Driver, sysfs: Sys) -> None:
    async def main() -> None:
        async with opened(driver, sysfs=str(sysfs.folder)) as source:
            await poll_times(source, 1)
            driver.gpu(2).fail("*", standin.UNKNOWN)
            await poll_times(source, 1)
            sysfs.set(2, "suspended")
            before = driver.gpu(2).count().calls
            await poll_times(source)
            assert driver.gpu(2).count().calls == before
            assert samples_of((await poll(source))[uuid(2)])[SUSPENDED] == 1

    asyncio.run(main())


def test_gpus_lost_after_a_suspension_are_initialised_again(
    driver: Driver, sysfs: Sys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost, suspended, lost again: the earlier suspension does not prevent the restart."""
    late = 0.0
    monkeypatch.setattr(source_module, "monotonic", lambda: time.monotonic() + late)

    async def main() -> None:
        nonlocal late
        async with opened(driver, sysfs=str(sysfs.folder)) as source:
            await poll_times(source, 1)
            for status in ("active", "suspended", "active"):
                for gpu in range(6):
                    driver.gpu(gpu).fail("*", standin.GPU_IS_LOST)
                    sysfs.set(gpu, status)
                await poll_times(source, 1)
            await poll_times(source, 1)
            before = driver.system.count("nvmlInitWithFlags").calls
            late += source_module.RESTART_DELAY + 1
            await poll_times(source, 1)
            assert driver.system.count("nvmlInitWithFlags").calls == before + 1

    asyncio.run(main())


def test_an_idle_active_gpu_has_all_samples(driver: Driver, sysfs: Sys) -> None:
    driver.gpu(0).set("nvmlDeviceGetUtilizationRates", gpu=0, memory=0)
    driver.gpu(0).set("nvmlDeviceGetPerformanceState", 8)

    async def main() -> None:
        async with opened(driver, sysfs=str(sysfs.folder)) as source:
            outcomes = await poll(source)
            idle, loaded = samples_of(outcomes[uuid(0)]), samples_of(outcomes[uuid(1)])
            assert {name for name, _ in idle} == {name for name, _ in loaded}
            assert idle["gpu_memory_used_bytes", ()] == 19818 << 20

    asyncio.run(main())


@pytest.mark.parametrize("status", ["active", "resuming", "unsupported"])
def test_other_statuses_are_active(driver: Driver, sysfs: Sys, status: str) -> None:
    sysfs.set(0, status)

    async def main() -> None:
        async with opened(driver, sysfs=str(sysfs.folder)) as source:
            for _ in range(2):
                shown = samples_of((await poll(source))[uuid(0)])
                assert shown[SUSPENDED] == 0
                assert ("gpu_power_watts", ()) in shown

    asyncio.run(main())


def test_an_unknown_status_is_left_out(driver: Driver, sysfs: Sys) -> None:
    sysfs.file(0).unlink()
    sysfs.set(1, "")
    sysfs.set(2, "\xff suspended" * 50)
    driver.gpu(3).set("nvmlDeviceGetPciInfo_v3", busId="../../etc")
    driver.gpu(4).unset("nvmlDeviceGetPciInfo_v3")

    async def main() -> None:
        async with opened(driver, sysfs=str(sysfs.folder)) as source:
            for _ in range(2):
                outcomes = await poll(source)
                for gpu in range(5):
                    shown = samples_of(outcomes[uuid(gpu)])
                    assert SUSPENDED not in shown
                    assert ("gpu_power_watts", ()) in shown
                assert samples_of(outcomes[uuid(5)])[SUSPENDED] == 0

    asyncio.run(main())


@pytest.mark.parametrize(
    ("nvml", "path"),
    [
        ("00000000:0C:00.0", "bus/pci/devices/0000:0c:00.0"),
        ("0000:0C:00.0", "bus/pci/devices/0000:0c:00.0"),
        ("00010000:AF:1F.7", "bus/pci/devices/10000:af:1f.7"),  # a domain beyond four digits
        ("", None),
        ("00000000:0C:00.0/..", None),
        ("00000000:0C:00", None),
    ],
)
def test_the_pci_address_in_sysfs(nvml: str, path: str | None) -> None:
    assert pci_device_path(nvml) == path


def test_the_row_of_a_suspended_gpu_has_no_processes(driver: Driver, sysfs: Sys) -> None:
    driver.gpu(0).processes("Compute", (2001, 1 << 20))

    async def main() -> None:
        async with opened(driver, sysfs=str(sysfs.folder)) as source:
            await poll(source)
            sysfs.set(0, "suspended")
            outcome = (await poll(source))[uuid(0)]
            assert isinstance(outcome, Reading)
            (row,) = (row for row in outcome.rows if isinstance(row, GpuRow))
            assert row.processes is None

    asyncio.run(main())


def test_the_daemon_exports_a_suspended_gpu_as_up(
    driver: Driver, sysfs: Sys, tmp_path: Path
) -> None:
    flags = (*QUICK, *off("containers", "triton", "host"), f"--path.sysfs={sysfs.folder}")
    with running(tmp_path, *flags, environment=driver.environment()) as daemon:
        until(lambda: daemon.value("gpu_suspended", gpu="0") == 0, "an active GPU")
        sysfs.set(0, "suspended")
        until(lambda: daemon.value("gpu_suspended", gpu="0") == 1, "a suspended GPU")

        def alone() -> bool:
            """Whether it is up without any other metric, and another GPU has its values."""
            page = daemon.samples()
            names = {name for name, labels in page if ("gpu", "0") in labels}
            return (
                names == {"gpu_up", "gpu_info", "gpu_suspended"} | EVENTS
                and find(page, "gpu_up", gpu="0") == 1
                and find(page, "gpu_power_watts", gpu="1") == 632.95
            )

        # The metrics by container follow at the join's next poll.
        until(alone, "no other metric of it")
        sysfs.set(0, "active")
        until(lambda: daemon.value("gpu_power_watts", gpu="0") == 631.95, "its values")


def test_without_a_pci_address_the_status_is_unknown(tmp_path: Path) -> None:
    runtime_pm = RuntimePm(str(tmp_path))
    assert runtime_pm.suspended() is None
    assert runtime_pm.set_pci_bus_id("00000000:0C:00.0")
    assert not runtime_pm.set_pci_bus_id("00000000:0C:00.0")
    assert runtime_pm.suspended() is None  # no such file
